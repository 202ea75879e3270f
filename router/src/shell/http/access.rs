//! What those share who decide whether a request may pass.

use std::{hint::black_box, net::IpAddr};

use hyper::{HeaderMap, header::HeaderName};

/// The value of a header that must stand once; none if it stands twice, or is no text.
pub fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() { None } else { value.to_str().ok() }
}

/// Whether a host, as `Host` has it without its port, is `localhost` or an address in numbers. No page can
/// let such a name resolve to this machine (DNS rebinding).
pub fn cannot_be_rebound(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>().is_ok() || host.eq_ignore_ascii_case("localhost")
}

/// Compares in a time that depends on the lengths only.
pub fn is_secret(given: &[u8], secret: &[u8]) -> bool {
    given.len() == secret.len()
        && given.iter().zip(secret).fold(0, |diff, (a, b)| black_box(diff | (a ^ b))) == 0
}
