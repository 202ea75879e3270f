//! Who may use the API: whoever has the token; without one, whoever is on this machine and no web page.
//!
//! A page in a browser on this machine can send requests to loopback. It cannot leave out `Origin` where it
//! posts to another origin, and a name that it lets resolve to this address (DNS rebinding) stands in `Host`.

use hyper::{
    HeaderMap,
    header::{AUTHORIZATION, HOST, ORIGIN},
    http::uri::Authority,
};

use super::answer::Refusal;
use crate::shell::http::access::{cannot_be_rebound, is_secret, single};

/// Decides on every request.
#[derive(Clone)]
pub(super) struct Guard {
    token: Option<Vec<u8>>,
}

impl Guard {
    pub(super) fn new(token: Option<Vec<u8>>) -> Self {
        Self { token }
    }

    /// Whether a request with these headers may pass.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(token) = &self.token else { return no_page(headers) };
        let given = single(headers, &AUTHORIZATION).and_then(|value| value.split_once(' '));
        match given {
            Some((scheme, given)) if scheme.eq_ignore_ascii_case("bearer") => {
                if is_secret(given.trim().as_bytes(), token) {
                    Ok(())
                } else {
                    Err(Refusal::UNAUTHORIZED.because("wrong token"))
                }
            }
            _ => Err(Refusal::UNAUTHORIZED.because("no token: send `Authorization: Bearer TOKEN`")),
        }
    }
}

fn no_page(headers: &HeaderMap) -> Result<(), Refusal> {
    if headers.contains_key(ORIGIN) {
        return Err(Refusal::FORBIDDEN.because("a web page may not, unless the worker has --api-token-file"));
    }
    let host = single(headers, &HOST).and_then(|host| host.parse::<Authority>().ok());
    if host.is_some_and(|host| cannot_be_rebound(host.host())) {
        Ok(())
    } else {
        Err(Refusal::FORBIDDEN
            .because("without --api-token-file, Host is localhost or an address in numbers"))
    }
}

#[cfg(test)]
mod tests {
    use hyper::{HeaderMap, header::HeaderValue};

    use super::Guard;

    fn status(token: Option<&str>, headers: &[(&'static str, &str)]) -> u16 {
        let mut map = HeaderMap::new();
        for &(name, value) in headers {
            map.append(name, HeaderValue::from_str(value).unwrap());
        }
        let guard = Guard::new(token.map(|token| token.as_bytes().to_vec()));
        guard.admit(&map).map_or_else(|refusal| refusal.status(), |()| 200)
    }

    #[test]
    fn the_token_and_nothing_else_passes() {
        let token = Some("0123456789abcdef");
        for (value, expected) in [
            ("Bearer 0123456789abcdef", 200),
            ("bearer 0123456789abcdef", 200),
            ("Bearer 0123456789abcdeg", 401),
            ("Bearer 0123456789abcde", 401),
            ("Bearer ", 401),
            ("Basic 0123456789abcdef", 401),
            ("0123456789abcdef", 401),
        ] {
            assert_eq!(status(token, &[("authorization", value)]), expected, "{value}");
        }
        assert_eq!(status(token, &[]), 401);
        let good = ("authorization", "Bearer 0123456789abcdef");
        assert_eq!(status(token, &[good, good]), 401, "it stands once");
        assert_eq!(status(token, &[good, ("origin", "http://page.example")]), 200, "a page cannot know it");
    }

    #[test]
    fn without_a_token_no_page_passes() {
        for (host, expected) in [
            ("127.0.0.1:8090", 200),
            ("[::1]:8090", 200),
            ("LOCALHOST", 200),
            ("page.example:8090", 403),
            ("", 403),
        ] {
            assert_eq!(status(None, &[("host", host)]), expected, "{host}");
        }
        assert_eq!(status(None, &[]), 403);
        assert_eq!(status(None, &[("host", "localhost"), ("origin", "null")]), 403);
    }
}
