//! Who may use `/api/`: whoever has the token, and no web page of another origin on behalf of an
//! operator's browser.
//!
//! The name in `Host` is checked because a page may let its own name resolve to this address (DNS
//! rebinding) and would then be of the same origin; an address in numbers cannot be rebound.

use hyper::{
    HeaderMap, StatusCode,
    header::{AUTHORIZATION, HOST, ORIGIN},
    http::uri::Authority,
};
use roost_router::shell::http::access::{cannot_be_rebound, is_secret, single};

/// Decides on requests to `/api/`.
#[derive(Debug)]
pub struct Guard {
    token: Option<Vec<u8>>,
    hosts: Vec<String>,
}

/// Why a request is refused: the status and the reason in words.
pub type Refusal = (StatusCode, &'static str);

impl Guard {
    /// Without a token everything is refused. `hosts` are names that `Host` may have besides
    /// localhost and addresses in numbers.
    pub fn new(token: Option<Vec<u8>>, hosts: Vec<String>) -> Self {
        Self { token, hosts }
    }

    /// Whether a request with these headers may pass.
    ///
    /// # Errors
    /// 403 for a foreign name or origin, or when `/api/` is off; 401 for a wrong or absent token.
    pub fn admit(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let forbidden = |reason| Err((StatusCode::FORBIDDEN, reason));
        let Some(token) = &self.token else {
            return forbidden("/api/ is off: set admin_token_file");
        };
        let Some(host) = single(headers, &HOST).and_then(|host| host.parse::<Authority>().ok()) else {
            return forbidden("no usable Host");
        };
        if !self.is_own(host.host()) {
            return forbidden("foreign Host: add the name to admin_hosts if it is ours");
        }
        if headers.contains_key(ORIGIN) && !single(headers, &ORIGIN).is_some_and(|origin| same(origin, &host))
        {
            return forbidden("foreign Origin");
        }
        let given = single(headers, &AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
        match given {
            Some(given) if is_secret(given.trim().as_bytes(), token) => Ok(()),
            Some(_) => Err((StatusCode::UNAUTHORIZED, "wrong token")),
            None => Err((StatusCode::UNAUTHORIZED, "no token: send Authorization: Bearer TOKEN")),
        }
    }

    fn is_own(&self, host: &str) -> bool {
        cannot_be_rebound(host) || self.hosts.iter().any(|own| host.eq_ignore_ascii_case(own))
    }
}

/// Whether `origin` is the origin of the page that this very host served (RFC 6454). Behind a
/// terminator the scheme is https here and plain there, so only the authority is compared.
fn same(origin: &str, host: &Authority) -> bool {
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host.as_str()))
}

#[cfg(test)]
mod tests {
    use hyper::{HeaderMap, StatusCode, header::HeaderValue};

    use super::Guard;

    const TOKEN: &str = "0123456789abcdef";

    fn admit(guard: &Guard, headers: &[(&'static str, &str)]) -> Result<(), (StatusCode, &'static str)> {
        let mut map = HeaderMap::new();
        for &(name, value) in headers {
            map.append(name, HeaderValue::from_str(value).unwrap());
        }
        guard.admit(&map)
    }

    fn guard() -> Guard {
        Guard::new(Some(TOKEN.as_bytes().to_vec()), vec!["roost.internal".to_owned()])
    }

    const GOOD: (&str, &str) = ("authorization", "Bearer 0123456789abcdef");

    #[test]
    fn own_names_and_origins_pass_with_the_token() {
        for host in
            ["127.0.0.1:7401", "[::1]:7401", "localhost:7401", "LOCALHOST", "roost.internal", "10.1.2.3"]
        {
            assert_eq!(admit(&guard(), &[("host", host), GOOD]), Ok(()), "{host}");
            for scheme in ["http", "https"] {
                let origin = format!("{scheme}://{host}");
                assert_eq!(admit(&guard(), &[("host", host), ("origin", &origin), GOOD]), Ok(()), "{origin}");
            }
        }
    }

    #[test]
    fn foreign_names_and_origins_do_not_pass_even_with_the_token() {
        for headers in [
            &[GOOD][..],
            &[("host", "evil.example"), GOOD],
            &[("host", "127.0.0.1.evil.example:7401"), GOOD],
            &[("host", "localhost:7401"), ("host", "evil.example"), GOOD],
            &[("host", "localhost:7401"), ("origin", "http://evil.example"), GOOD],
            &[("host", "localhost:7401"), ("origin", "null"), GOOD],
            &[("host", "localhost:7401"), ("origin", "http://localhost"), GOOD],
            &[("host", "localhost:7401"), ("origin", "http://localhost:7402"), GOOD],
            &[("host", "a b"), GOOD],
        ] {
            assert_eq!(admit(&guard(), headers).unwrap_err().0, StatusCode::FORBIDDEN, "{headers:?}");
        }
    }

    #[test]
    fn without_the_exact_token_nobody_passes() {
        let host = ("host", "127.0.0.1:7401");
        for header in [
            ("authorization", "Bearer 0123456789abcdeg"),
            ("authorization", "Bearer 0123456789abcde"),
            ("authorization", "Bearer "),
            ("authorization", "Basic 0123456789abcdef"),
            ("x-token", "0123456789abcdef"),
        ] {
            assert_eq!(
                admit(&guard(), &[host, header]).unwrap_err().0,
                StatusCode::UNAUTHORIZED,
                "{header:?}"
            );
        }
        assert_eq!(admit(&guard(), &[host, GOOD, GOOD]).unwrap_err().0, StatusCode::UNAUTHORIZED);
        let off = Guard::new(None, Vec::new());
        assert_eq!(admit(&off, &[host, GOOD]).unwrap_err().0, StatusCode::FORBIDDEN);
    }
}
