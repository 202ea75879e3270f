//! What is asked: the route, the key in its path, and the message in its body.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hyper::{
    HeaderMap, Method,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};
use roost_protocol::{Reason, edge::KEY_BYTES_MAX};
use serde_json::Value;

use super::answer::Refusal;

/// What a route does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Send,
    Look,
    Close,
    Broadcast,
}

/// A path, with `{key}` where a key stands, what Allow says there, and what each method does.
pub(super) type Route = (&'static str, &'static str, &'static [(Method, Action)]);

/// Every path.
pub(super) const ROUTES: &[Route] = &[
    ("/v1/users/{key}/messages", "POST", &[(Method::POST, Action::Send)]),
    ("/v1/users/{key}", "GET, DELETE", &[(Method::GET, Action::Look), (Method::DELETE, Action::Close)]),
    ("/v1/broadcast", "POST", &[(Method::POST, Action::Broadcast)]),
];

/// The action of a request, and the key in its path; empty where it has none.
pub(super) fn route(method: &Method, path: &str) -> Result<(Action, Vec<u8>), Refusal> {
    let found = ROUTES.iter().find_map(|&(template, allow, actions)| {
        key_in(path, template).map(|encoded| (encoded, allow, actions))
    });
    let Some((encoded, allow, actions)) = found else {
        return Err(Refusal::NOT_FOUND.because("no such path: see docs/worker-http.md"));
    };
    match actions.iter().find(|(allowed, _)| allowed == method) {
        Some((_, action)) => Ok((*action, key(encoded)?)),
        None => Err(Refusal::method_not_allowed(allow)),
    }
}

/// The encoded key in `path`, if it has the form of `template`; empty where the template has no key.
fn key_in<'a>(path: &'a str, template: &str) -> Option<&'a str> {
    let (mut given, mut wanted, mut key) = (path.split('/'), template.split('/'), "");
    loop {
        match (given.next(), wanted.next()) {
            (None, None) => return Some(key),
            (Some(given), Some("{key}")) if !given.is_empty() => key = given,
            (Some(given), Some(wanted)) if given == wanted => {}
            _ => return None,
        }
    }
}

fn key(encoded: &str) -> Result<Vec<u8>, Refusal> {
    let bad = Refusal::BAD_REQUEST;
    let Some(key) = percent_decoded(encoded) else {
        return Err(bad.because("the key has a % without two hexadecimal digits"));
    };
    if key.len() > KEY_BYTES_MAX {
        return Err(bad.because("the key has more than 256 bytes"));
    }
    Ok(key)
}

/// RFC 3986, section 2.1; `+` is itself.
fn percent_decoded(text: &str) -> Option<Vec<u8>> {
    let (mut decoded, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let (&[high, low], behind) = rest.split_first_chunk()?;
        let digit = |byte: u8| char::from(byte).to_digit(16);
        decoded.push(u8::try_from(digit(high)? << 4 | digit(low)?).ok()?);
        rest = behind;
    }
    Some(decoded)
}

/// The message in a body: the body itself, or what its JSON says.
pub(super) fn message(headers: &HeaderMap, body: Bytes) -> Result<Bytes, Refusal> {
    if headers.contains_key(CONTENT_ENCODING) {
        return Err(Refusal::MEDIA_TYPE.because("Content-Encoding is not supported: send the body as it is"));
    }
    let content_type = headers.get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
    let content_type = String::from_utf8_lossy(content_type).to_ascii_lowercase();
    let (media_type, parameters) = content_type.split_once(';').unwrap_or((&content_type, ""));
    if media_type.trim() != "application/json" {
        return Ok(body);
    }
    let charset = parameters.split(';').find_map(|parameter| parameter.trim().strip_prefix("charset="));
    if charset.is_some_and(|charset| charset.trim_matches('"') != "utf-8") {
        return Err(Refusal::MEDIA_TYPE.because("JSON is UTF-8"));
    }
    let bad = |message| Err(Refusal::BAD_REQUEST.because(message));
    let Ok(Value::Object(object)) = serde_json::from_slice(&body) else {
        return bad(r#"the body is not {"data": "...", "encoding": "utf8" or "base64"}"#);
    };
    if object.keys().any(|name| !matches!(name.as_str(), "data" | "encoding")) {
        return bad(r#"the body has members beside "data" and "encoding""#);
    }
    let Some(data) = object.get("data").and_then(Value::as_str) else {
        return bad(r#""data" is not a string"#);
    };
    match object.get("encoding").map_or(Some("utf8"), Value::as_str) {
        Some("utf8") => Ok(Bytes::copy_from_slice(data.as_bytes())),
        Some("base64") => match STANDARD.decode(data) {
            Ok(data) => Ok(data.into()),
            Err(_) => bad(r#""data" is not base64 (RFC 4648, section 4, with padding)"#),
        },
        _ => bad(r#""encoding" is neither "utf8" nor "base64""#),
    }
}

/// The reason and the pause that a DELETE asks for: `reason` (a label, `worker_closed` by default) and
/// `retry_after_ms` (0 by default).
pub(super) fn closing(query: Option<&str>) -> Result<(Reason, u32), Refusal> {
    let (mut reason, mut retry_after_ms) = (Reason::WorkerClosed, 0);
    let bad = |message| Err(Refusal::BAD_REQUEST.because(message));
    for pair in query.unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("reason", label)) => {
                let named =
                    Reason::ALL.iter().find(|reason| reason.label() == label && reason.may_be_stated());
                let Some(named) = named else { return bad("no reason that a worker may state") };
                reason = *named;
            }
            Some(("retry_after_ms", number)) => {
                let Ok(number) = number.parse() else { return bad("retry_after_ms is no number below 2^32") };
                retry_after_ms = number;
            }
            _ => return bad("the query knows reason and retry_after_ms"),
        }
    }
    Ok((reason, retry_after_ms))
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn routes_are_found_and_keys_decoded() {
        let found = |method: Method, path: &str| route(&method, path).map_err(|refusal| refusal.status());
        assert_eq!(
            found(Method::POST, "/v1/users/al%2Fice%00/messages"),
            Ok((Action::Send, b"al/ice\0".to_vec()))
        );
        assert_eq!(found(Method::GET, "/v1/users/a+b"), Ok((Action::Look, b"a+b".to_vec())));
        assert_eq!(found(Method::POST, "/v1/broadcast"), Ok((Action::Broadcast, vec![])));
        for path in
            ["/", "/v1", "/v1/users", "/v1/users/", "/v1/users//messages", "/v1/broadcast/", "/v1/users/a/b"]
        {
            assert_eq!(found(Method::POST, path), Err(404), "{path}");
        }
        for path in ["/v1/users/%", "/v1/users/%4", "/v1/users/%4g", "/v1/users/%+1"] {
            assert_eq!(found(Method::GET, path), Err(400), "{path}");
        }
        assert_eq!(
            found(Method::GET, &format!("/v1/users/{}", "a".repeat(256))).map(|found| found.1.len()),
            Ok(256)
        );
        assert_eq!(found(Method::GET, &format!("/v1/users/{}", "a".repeat(257))), Err(400));
        for (path, allow, actions) in ROUTES {
            let methods: Vec<&str> = actions.iter().map(|(method, _)| method.as_str()).collect();
            assert_eq!(methods.join(", "), *allow);
            let refused = route(&Method::PUT, path).unwrap_err();
            assert_eq!(
                (refused.status(), &refused.response().headers()["allow"].to_str().unwrap()),
                (405, allow)
            );
        }
    }

    #[test]
    fn a_message_is_the_body_or_what_its_json_says() {
        let message = |content_type: &'static str, body: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            message(&headers, Bytes::from_static(body.as_bytes())).map_err(|refusal| refusal.status())
        };
        let json = "application/json";
        for (content_type, body, expected) in [
            ("text/plain", "{}", Ok("{}")),
            ("application/jsonp", "{", Ok("{")),
            (json, r#"{"data": "h\u00e9"}"#, Ok("h\u{e9}")),
            ("Application/JSON; charset=UTF-8", r#"{"data": "", "encoding": "utf8"}"#, Ok("")),
            (json, r#"{"data": "aGk=", "encoding": "base64"}"#, Ok("hi")),
            (json, r#"{"data": "aGk", "encoding": "base64"}"#, Err(400)),
            (json, r#"{"data": "a", "encoding": "hex"}"#, Err(400)),
            (json, r#"{"data": "a", "encoding": 1}"#, Err(400)),
            (json, r#"{"data": 1}"#, Err(400)),
            (json, r#"{"data": "a", "more": 1}"#, Err(400)),
            (json, r#"["data"]"#, Err(400)),
            (json, "", Err(400)),
            ("application/json; charset=latin1", r#"{"data": "a"}"#, Err(415)),
        ] {
            assert_eq!(
                message(content_type, body),
                expected.map(|text: &str| Bytes::from_static(text.as_bytes())),
                "{content_type} {body}"
            );
        }
    }

    #[test]
    fn a_reason_is_one_that_a_worker_may_state() {
        let closing = |query| closing(query).map_err(|refusal| refusal.status());
        assert_eq!(closing(None), Ok((Reason::WorkerClosed, 0)));
        assert_eq!(closing(Some("reason=drain&retry_after_ms=4294967295")), Ok((Reason::Drain, u32::MAX)));
        for query in [
            "reason=moved",
            "reason=bored",
            "reason",
            "retry_after_ms=-1",
            "retry_after_ms=4294967296",
            "x=1",
        ] {
            assert_eq!(closing(Some(query)), Err(400), "{query}");
        }
    }

    proptest! {
        #[test]
        fn every_key_has_an_encoding(key in proptest::collection::vec(any::<u8>(), 0..64)) {
            let encoded: String = key.iter().map(|byte| format!("%{byte:02x}")).collect();
            prop_assert_eq!(percent_decoded(&encoded), Some(key));
        }

        #[test]
        fn no_path_panics(path in ".*") {
            let _ = route(&Method::POST, &format!("/v1/users/{path}/messages"));
        }
    }
}
