//! GOAWAY, and what an application may tell a client by it.

use std::ops::RangeInclusive;

use super::{ALTERNATIVE_BYTES_MAX, FrameError, FrameType, Header};
use crate::{Reason, wire::Reader};

/// The longest text in GOAWAY, in bytes of UTF-8: with the six bytes before it in REJECT and CLOSE it fits a
/// WebSocket's close frame (RFC 6455, 5.5).
pub const CLOSE_TEXT_BYTES_MAX: usize = 117;
/// The close codes that an application may state: those that RFC 6455, 7.4.2 leaves to it.
pub const CLOSE_CODES: RangeInclusive<u16> = 4000..=4999;

/// GOAWAY: the gateway ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goaway<'a> {
    /// Why.
    pub reason: Reason,
    /// When the client may come back, in milliseconds from now, already jittered; 0: no advice.
    pub retry_after_ms: u32,
    /// The application's close code, within [`CLOSE_CODES`]; 0: none.
    pub code: u16,
    /// Another address to go to (UTF-8, `host:port`), or empty.
    pub alternative: &'a [u8],
    /// The application's text; at most [`CLOSE_TEXT_BYTES_MAX`] bytes.
    pub text: &'a str,
}

impl<'a> Goaway<'a> {
    /// The longest payload: with the longest alternative and the longest text.
    pub const PAYLOAD_BYTES_MAX: usize = Self::PAYLOAD_BYTES + ALTERNATIVE_BYTES_MAX + CLOSE_TEXT_BYTES_MAX;
    /// Bytes of the payload without what is counted.
    const PAYLOAD_BYTES: usize = 1 + 1 + 4 + 2 + 2 + 2;

    /// A GOAWAY with nothing but this reason and advice.
    pub const fn new(reason: Reason, retry_after_ms: u32) -> Self {
        Self { reason, retry_after_ms, code: 0, alternative: &[], text: "" }
    }

    /// Appends the whole frame. Panics if the alternative is over [`ALTERNATIVE_BYTES_MAX`], or
    /// code or text are not what an application may state.
    pub fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.alternative.len() <= ALTERNATIVE_BYTES_MAX);
        let text = self.text.as_bytes();
        assert_eq!(check_close(self.code, text), Ok(self.text));
        let payload_bytes = (Self::PAYLOAD_BYTES + self.alternative.len() + text.len()) as u32;
        out.extend(Header { frame_type: FrameType::Goaway, payload_bytes }.encode());
        out.extend([self.reason.code(), 0]);
        out.extend(self.retry_after_ms.to_be_bytes());
        out.extend(self.code.to_be_bytes());
        for field in [self.alternative, text] {
            out.extend((field.len() as u16).to_be_bytes());
            out.extend(field);
        }
    }

    /// Decodes the payload. A reason code that this version does not know is [`Reason::Internal`].
    pub fn decode(payload: &'a [u8]) -> Result<Self, FrameError> {
        let mut reader = Reader::new(payload);
        let reason = Reason::from_code(reader.u8()?).unwrap_or(Reason::Internal);
        if reader.u8()? != 0 {
            return Err(FrameError::ReservedBits);
        }
        let (retry_after_ms, code) = (reader.u32()?, reader.u16()?);
        let (alternative, text) = (reader.counted()?, reader.counted()?);
        if !reader.is_empty() || alternative.len() > ALTERNATIVE_BYTES_MAX {
            return Err(FrameError::Malformed);
        }
        let text = check_close(code, text).map_err(|NotForClients| FrameError::Malformed)?;
        Ok(Self { reason, retry_after_ms, code, alternative, text })
    }
}

/// A close code or text that no client can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotForClients;

/// The text, if an application may end a connection with this code and this text: a code of 0 or within
/// [`CLOSE_CODES`], and at most [`CLOSE_TEXT_BYTES_MAX`] bytes of UTF-8.
pub(crate) fn check_close(code: u16, text: &[u8]) -> Result<&str, NotForClients> {
    if (code != 0 && !CLOSE_CODES.contains(&code)) || text.len() > CLOSE_TEXT_BYTES_MAX {
        return Err(NotForClients);
    }
    str::from_utf8(text).map_err(|_| NotForClients)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_texts_have_their_limits() {
        let longest = "\u{e9}".repeat(58) + "e";
        assert_eq!(longest.len(), CLOSE_TEXT_BYTES_MAX);
        for code in [0, 4000, 4999] {
            assert_eq!(check_close(code, longest.as_bytes()), Ok(longest.as_str()));
        }
        for code in [1, 1000, 3999, 5000, u16::MAX] {
            assert_eq!(check_close(code, b""), Err(NotForClients), "{code}");
        }
        assert_eq!(check_close(0, (longest + "e").as_bytes()), Err(NotForClients));
        assert_eq!(check_close(0, b"\xc3"), Err(NotForClients), "half a letter");
    }
}
