//! Any edge frame as one typed value.

use super::{FrameError, FrameType, Goaway, HEADER_BYTES, Hello, Welcome, encode_frame};

/// A whole edge frame, decoded. Convenient for clients, tools and tests; a gateway that forwards
/// frames verbatim has no need of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// See [`Hello`].
    Hello(Hello<'a>),
    /// See [`Welcome`].
    Welcome(Welcome),
    /// The opaque payload.
    Message(&'a [u8]),
    /// The payload that PONG must repeat.
    Ping(&'a [u8]),
    /// The payload of the PING it answers.
    Pong(&'a [u8]),
    /// See [`Goaway`].
    Goaway(Goaway<'a>),
    /// Nothing, or a byte that the application may use.
    Close(Option<u8>),
}

impl<'a> Frame<'a> {
    /// Decodes the payload of a frame whose header has been checked, as by
    /// [`split`](super::split) or [`Decoder`](super::Decoder).
    pub fn decode(frame_type: FrameType, payload: &'a [u8]) -> Result<Self, FrameError> {
        Ok(match frame_type {
            FrameType::Hello => Self::Hello(Hello::decode(payload)?),
            FrameType::Welcome => Self::Welcome(Welcome::decode(payload)?),
            FrameType::Message => Self::Message(payload),
            FrameType::Ping => Self::Ping(payload),
            FrameType::Pong => Self::Pong(payload),
            FrameType::Goaway => Self::Goaway(Goaway::decode(payload)?),
            FrameType::Close => match payload {
                [] => Self::Close(None),
                &[code] => Self::Close(Some(code)),
                _ => return Err(FrameError::Malformed),
            },
        })
    }

    /// Decodes a whole frame, header included, such as [`Decoder::feed`](super::Decoder::feed) hands out.
    ///
    /// Panics if `frame` is shorter than a header.
    pub fn decode_whole(frame_type: FrameType, frame: &'a [u8]) -> Result<Self, FrameError> {
        Self::decode(frame_type, &frame[HEADER_BYTES..])
    }

    /// Appends the whole frame. Panics where a field is over its limit.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Hello(hello) => hello.encode(out),
            Self::Welcome(welcome) => out.extend(welcome.encode()),
            Self::Message(payload) => encode_frame(FrameType::Message, payload, out),
            Self::Ping(payload) => encode_frame(FrameType::Ping, payload, out),
            Self::Pong(payload) => encode_frame(FrameType::Pong, payload, out),
            Self::Goaway(goaway) => goaway.encode(out),
            Self::Close(code) => encode_frame(FrameType::Close, code.as_slice(), out),
        }
    }
}
