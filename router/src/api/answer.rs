//! What is answered: JSON, always.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONNECTION, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE},
};
use serde_json::{Value, json};

use crate::{core::SendError, server::PushError, shell::http};

/// An error: its status, the code that programs look at, and words for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: &'static str,
    /// The header Allow, of 405.
    allow: Option<&'static str>,
}

impl Refusal {
    pub(super) const BAD_REQUEST: Self = Self::new(StatusCode::BAD_REQUEST, "bad_request");
    pub(super) const UNAUTHORIZED: Self = Self::new(StatusCode::UNAUTHORIZED, "unauthorized");
    pub(super) const FORBIDDEN: Self = Self::new(StatusCode::FORBIDDEN, "forbidden");
    pub(super) const NOT_FOUND: Self = Self::new(StatusCode::NOT_FOUND, "not_found");
    pub(super) const NOT_HERE: Self = Self::new(StatusCode::NOT_FOUND, "not_here")
        .because("the user has no open connection that this worker serves");
    pub(super) const TIMEOUT: Self = Self::new(StatusCode::REQUEST_TIMEOUT, "timeout");
    pub(super) const TOO_LONG: Self = Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_long");
    pub(super) const MEDIA_TYPE: Self =
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type");
    pub(super) const FULL: Self = Self::new(StatusCode::SERVICE_UNAVAILABLE, "full");
    pub(super) const NO_LINK: Self = Self::new(StatusCode::SERVICE_UNAVAILABLE, "no_link")
        .because("no gateway has a link to this worker: nothing was sent");
    pub(super) const CLOSED: Self =
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "closed").because("the worker has ended");

    const fn new(status: StatusCode, code: &'static str) -> Self {
        Self { status, code, message: "", allow: None }
    }

    pub(super) const fn because(self, message: &'static str) -> Self {
        Self { message, ..self }
    }

    pub(super) fn method_not_allowed(allow: &'static str) -> Self {
        let refusal = Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed");
        Self { message: "see the header Allow", allow: Some(allow), ..refusal }
    }

    #[cfg(test)]
    pub(super) fn status(&self) -> u16 {
        self.status.as_u16()
    }

    pub(super) fn response(&self) -> Response<Full<Bytes>> {
        let mut response = json(self.status, &json!({ "error": self.code, "message": self.message }));
        let headers = response.headers_mut();
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        match self.status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            // The rest of the body is still on its way.
            StatusCode::REQUEST_TIMEOUT => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            _ => {}
        }
        response
    }
}

impl From<PushError> for Refusal {
    fn from(error: PushError) -> Self {
        match error {
            PushError::Full => Self::FULL.because("too much waits for the worker: nothing was sent"),
            PushError::Closed => Self::CLOSED,
        }
    }
}

impl From<SendError> for Refusal {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Closed => Self::NOT_HERE,
            SendError::Full(_) => {
                Self::FULL.because("the user's gateway takes no more, being away or behind: nothing was sent")
            }
            SendError::TooLong => {
                Self::TOO_LONG.because("the message is longer than the gateway's frame_bytes_max")
            }
        }
    }
}

impl From<http::BodyError> for Refusal {
    fn from(error: http::BodyError) -> Self {
        match error {
            http::BodyError::TooLong => Self::TOO_LONG.because("the body is longer than 1 MiB"),
            http::BodyError::Late => Self::TIMEOUT.because("the body did not come within 4 seconds"),
            http::BodyError::Broken => Self::BAD_REQUEST.because("the body is broken"),
        }
    }
}

/// An answer with this value, in one line.
pub(super) fn json(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    let mut response =
        http::respond(status, HeaderValue::from_static("application/json"), format!("{value}\n"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
