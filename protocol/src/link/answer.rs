//! What a worker says about a connection besides its data: ACCEPT, and how REJECT and CLOSE end one.

use super::LinkError;
use crate::{
    SessionRef,
    edge::{CLOSE_TEXT_BYTES_MAX, NotForClients, check_close},
    wire::Reader,
};

/// The longest subprotocol in ACCEPT, in bytes.
pub const SUBPROTOCOL_BYTES_MAX: usize = 64;

/// ACCEPT: the session is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accept<'a> {
    /// The worker's reference of this session.
    pub session: SessionRef,
    /// The routing hash that the connection has from now on; none: that of its OPEN.
    pub routing_hash: Option<u64>,
    /// The subprotocol that the worker has chosen: a token (RFC 9110, 5.6.2) of 1 to
    /// [`SUBPROTOCOL_BYTES_MAX`] bytes. It needs a routing hash; that of OPEN will do. The gateway
    /// ignores it where the framing has no subprotocols.
    pub subprotocol: Option<&'a str>,
}

impl<'a> Accept<'a> {
    /// An ACCEPT with nothing but the session's reference.
    pub const fn new(session: SessionRef) -> Self {
        Self { session, routing_hash: None, subprotocol: None }
    }

    /// Appends the payload: reference u64, perhaps hash u64, perhaps the subprotocol behind a u16 length.
    ///
    /// Panics if there is a subprotocol that is no token, is too long, or has no routing hash before it.
    pub fn encode_payload(&self, out: &mut Vec<u8>) {
        out.extend(self.session.0.to_be_bytes());
        if let Some(routing_hash) = self.routing_hash {
            out.extend(routing_hash.to_be_bytes());
        }
        if let Some(subprotocol) = self.subprotocol {
            assert!(self.routing_hash.is_some() && is_subprotocol(subprotocol.as_bytes()));
            out.extend((subprotocol.len() as u16).to_be_bytes());
            out.extend(subprotocol.as_bytes());
        }
    }

    /// Decodes the payload.
    pub fn decode(payload: &'a [u8]) -> Result<Self, LinkError> {
        let mut reader = Reader::new(payload);
        let mut accept = Self::new(SessionRef(reader.u64()?));
        if !reader.is_empty() {
            accept.routing_hash = Some(reader.u64()?);
        }
        if !reader.is_empty() {
            let subprotocol = reader.counted()?;
            if !is_subprotocol(subprotocol) || !reader.is_empty() {
                return Err(LinkError::Malformed);
            }
            accept.subprotocol = Some(str::from_utf8(subprotocol).map_err(|_| LinkError::Malformed)?);
        }
        Ok(accept)
    }
}

fn is_subprotocol(bytes: &[u8]) -> bool {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    (1..=SUBPROTOCOL_BYTES_MAX).contains(&bytes.len()) && bytes.iter().all(is_token)
}

/// What REJECT and CLOSE have for the client, beside the reason in aux.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ending<'a> {
    /// When the client may come back, in milliseconds from now, already jittered; 0: no advice.
    pub retry_after_ms: u32,
    /// The application's close code, within [`CLOSE_CODES`](crate::edge::CLOSE_CODES); 0: none.
    pub code: u16,
    /// The application's text, at most [`CLOSE_TEXT_BYTES_MAX`] bytes.
    pub text: &'a str,
}

impl<'a> Ending<'a> {
    /// The longest payload: with the longest text.
    pub const PAYLOAD_BYTES_MAX: usize = 4 + 2 + CLOSE_TEXT_BYTES_MAX;

    /// An ending with nothing but a retry-after, in milliseconds.
    pub const fn after_ms(retry_after_ms: u32) -> Self {
        Self { retry_after_ms, code: 0, text: "" }
    }

    /// Appends the payload: retry-after u32, and, unless both are empty, code u16 and text.
    ///
    /// Panics if code or text are not what an application may state.
    pub fn encode_payload(&self, out: &mut Vec<u8>) {
        assert_eq!(check_close(self.code, self.text.as_bytes()), Ok(self.text));
        out.extend(self.retry_after_ms.to_be_bytes());
        if self.code != 0 || !self.text.is_empty() {
            out.extend(self.code.to_be_bytes());
            out.extend(self.text.as_bytes());
        }
    }

    /// Decodes the payload. Whatever is left out is 0 or empty.
    pub fn decode(payload: &'a [u8]) -> Result<Self, LinkError> {
        let mut ending = Self::default();
        let mut reader = Reader::new(payload);
        if !reader.is_empty() {
            ending.retry_after_ms = reader.u32()?;
        }
        if !reader.is_empty() {
            ending.code = reader.u16()?;
            let text = reader.rest();
            ending.text = check_close(ending.code, text).map_err(|NotForClients| LinkError::Malformed)?;
        }
        Ok(ending)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_left_out_of_an_ending_is_empty() {
        let bytes = b"\0\0\x07\xd0\x0f\xa0bye";
        let ending = |text, code| Ending { retry_after_ms: 2_000, code, text };
        assert_eq!(Ending::decode(b""), Ok(Ending::default()));
        assert_eq!(Ending::decode(&bytes[..4]), Ok(ending("", 0)));
        assert_eq!(Ending::decode(&bytes[..6]), Ok(ending("", 4000)));
        assert_eq!(Ending::decode(bytes), Ok(ending("bye", 4000)));
        for cut in [1, 3, 5] {
            assert_eq!(Ending::decode(&bytes[..cut]), Err(LinkError::Malformed), "{cut}");
        }
    }

    #[test]
    fn a_subprotocol_is_a_token() {
        for good in ["a", "v2.chat+json", "!#$%&'*+-.^_`|~"] {
            assert!(is_subprotocol(good.as_bytes()), "{good}");
        }
        for bad in ["", "a b", "a,b", "a/b", "\u{e9}", &"a".repeat(65)] {
            assert!(!is_subprotocol(bad.as_bytes()), "{bad}");
        }
    }
}
