//! The edge protocol: what a client speaks with the gateway (SPEC.md, part 1).
//!
//! Every frame is a 4-byte header (type u8, payload length u24, big-endian) and its payload.
//! [`split`] works on whatever bytes have arrived and says how many it needs; [`Decoder`] keeps
//! the incomplete rest for callers that have no buffer of their own.

mod frame;
mod goaway;

use crate::{
    Reason, SessionRef,
    wire::{Reader, Short},
};

pub use frame::Frame;
pub use goaway::{CLOSE_CODES, CLOSE_TEXT_BYTES_MAX, Goaway};
pub(crate) use goaway::{NotForClients, check_close};

/// The protocol version of this crate, in HELLO and WELCOME.
pub const VERSION: u8 = 1;
/// Bytes of a frame header.
pub const HEADER_BYTES: usize = 4;
/// Default of the limit of a MESSAGE's payload, in bytes.
pub const FRAME_BYTES_MAX_DEFAULT: u32 = 64 * 1024;
/// The largest payload that the u24 length can state, in bytes.
pub const FRAME_BYTES_LIMIT: u32 = (1 << 24) - 1;
/// The longest routing key, in bytes.
pub const KEY_BYTES_MAX: usize = 256;
/// The longest auth token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 4096;
/// The longest payload of PING and PONG, in bytes.
pub const PING_BYTES_MAX: usize = 8;
/// The longest alternative address in GOAWAY, in bytes.
pub const ALTERNATIVE_BYTES_MAX: usize = 256;
/// Bits of the type byte that must be zero.
const TYPE_RESERVED: u8 = 0xe0;

/// The type byte of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameType {
    /// First frame of a client.
    Hello = 1,
    /// The gateway's answer to HELLO: the session is open.
    Welcome = 2,
    /// Opaque payload, both directions.
    Message = 3,
    /// Answered by the receiver with PONG and the same payload.
    Ping = 4,
    /// The answer to PING; unsolicited (empty) from a gateway that holds back a blocked client.
    Pong = 5,
    /// The gateway ends the connection.
    Goaway = 6,
    /// The client ends the connection.
    Close = 7,
}

impl FrameType {
    const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Hello,
            2 => Self::Welcome,
            3 => Self::Message,
            4 => Self::Ping,
            5 => Self::Pong,
            6 => Self::Goaway,
            7 => Self::Close,
            _ => return None,
        })
    }

    /// The longest payload of this type, given the limit of MESSAGE.
    const fn payload_bytes_max(self, frame_bytes_max: u32) -> u32 {
        match self {
            Self::Message => frame_bytes_max,
            Self::Hello => (2 + 2 + KEY_BYTES_MAX + 2 + TOKEN_BYTES_MAX) as u32,
            Self::Welcome => Welcome::PAYLOAD_BYTES as u32,
            Self::Ping | Self::Pong => PING_BYTES_MAX as u32,
            Self::Goaway => Goaway::PAYLOAD_BYTES_MAX as u32,
            Self::Close => 1,
        }
    }
}

/// What is wrong with a frame; [`FrameError::reason`] is what goes on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A reserved bit of the type byte or of a flags byte is set.
    #[error("reserved bits are set")]
    ReservedBits,
    /// The type is not defined.
    #[error("unknown frame type {0}")]
    UnknownType(u8),
    /// The payload is longer than its type allows.
    #[error("payload of {payload_bytes} bytes is over the limit of {payload_bytes_max}")]
    Oversize {
        /// The length that the header states.
        payload_bytes: u32,
        /// What the type allows.
        payload_bytes_max: u32,
    },
    /// The payload does not follow its type's layout.
    #[error("malformed payload")]
    Malformed,
    /// HELLO asks for a version that is not spoken here.
    #[error("protocol version {0} is not spoken here")]
    Version(u8),
}

impl FrameError {
    /// The close reason of this error.
    pub const fn reason(self) -> Reason {
        match self {
            Self::ReservedBits => Reason::ReservedBits,
            Self::UnknownType(_) => Reason::UnknownType,
            Self::Oversize { .. } => Reason::Oversize,
            Self::Malformed => Reason::Malformed,
            Self::Version(_) => Reason::Version,
        }
    }
}

impl From<Short> for FrameError {
    fn from(_: Short) -> Self {
        Self::Malformed
    }
}

/// A decoded frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub frame_type: FrameType,
    /// Bytes that follow the header.
    pub payload_bytes: u32,
}

impl Header {
    /// The header's bytes. Panics if the length does not fit 24 bits.
    #[inline]
    pub const fn encode(self) -> [u8; HEADER_BYTES] {
        assert!(self.payload_bytes <= FRAME_BYTES_LIMIT);
        let [_, a, b, c] = self.payload_bytes.to_be_bytes();
        [self.frame_type as u8, a, b, c]
    }

    /// Decodes a header and checks type, reserved bits and length.
    #[inline]
    pub const fn decode(bytes: [u8; HEADER_BYTES], frame_bytes_max: u32) -> Result<Self, FrameError> {
        let [code, a, b, c] = bytes;
        if code & TYPE_RESERVED != 0 {
            return Err(FrameError::ReservedBits);
        }
        let Some(frame_type) = FrameType::from_code(code) else {
            return Err(FrameError::UnknownType(code));
        };
        let payload_bytes = u32::from_be_bytes([0, a, b, c]);
        let payload_bytes_max = frame_type.payload_bytes_max(frame_bytes_max);
        if payload_bytes > payload_bytes_max {
            return Err(FrameError::Oversize { payload_bytes, payload_bytes_max });
        }
        Ok(Self { frame_type, payload_bytes })
    }

    /// Bytes of header and payload together.
    #[inline]
    pub const fn frame_bytes(self) -> usize {
        HEADER_BYTES + self.payload_bytes as usize
    }
}

/// What [`split`] found at the front of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split<'a> {
    /// A whole frame.
    Frame {
        /// Its type.
        frame_type: FrameType,
        /// Header and payload, verbatim.
        frame: &'a [u8],
    },
    /// Not enough: this many bytes in all, from the same front, allow the next step.
    Need {
        /// Bytes needed, header included; more than were given.
        total_bytes: usize,
    },
}

/// Splits the first frame off the front of `bytes`; an error is found as early as the header.
#[inline]
pub fn split(bytes: &[u8], frame_bytes_max: u32) -> Result<Split<'_>, FrameError> {
    // The type byte alone can condemn a frame: do not wait for a length that will not matter.
    let Some(&header) = bytes.first_chunk::<HEADER_BYTES>() else {
        if let Some(&code) = bytes.first() {
            Header::decode([code, 0, 0, 0], frame_bytes_max)?;
        }
        return Ok(Split::Need { total_bytes: HEADER_BYTES });
    };
    let header = Header::decode(header, frame_bytes_max)?;
    let total_bytes = header.frame_bytes();
    match bytes.get(..total_bytes) {
        Some(frame) => Ok(Split::Frame { frame_type: header.frame_type, frame }),
        None => Ok(Split::Need { total_bytes }),
    }
}

/// HELLO: the first frame of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// Decides which worker gets the connection; at most [`KEY_BYTES_MAX`] bytes.
    pub key: &'a [u8],
    /// Passed to the worker unread; at most [`TOKEN_BYTES_MAX`] bytes.
    pub token: &'a [u8],
}

impl<'a> Hello<'a> {
    /// Appends the whole frame. Panics if key or token is over its limit.
    pub fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.key.len() <= KEY_BYTES_MAX && self.token.len() <= TOKEN_BYTES_MAX);
        let payload_bytes = (2 + 2 + self.key.len() + 2 + self.token.len()) as u32;
        out.extend(Header { frame_type: FrameType::Hello, payload_bytes }.encode());
        out.extend([VERSION, 0]);
        for field in [self.key, self.token] {
            out.extend((field.len() as u16).to_be_bytes());
            out.extend(field);
        }
    }

    /// Decodes the payload.
    pub fn decode(payload: &'a [u8]) -> Result<Self, FrameError> {
        let mut reader = Reader::new(payload);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        if reader.u8()? != 0 {
            return Err(FrameError::ReservedBits);
        }
        let key = reader.counted()?;
        let token = reader.counted()?;
        if !reader.is_empty() || key.len() > KEY_BYTES_MAX || token.len() > TOKEN_BYTES_MAX {
            return Err(FrameError::Malformed);
        }
        Ok(Self { key, token })
    }
}

/// WELCOME: the session is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// How often a client must be heard, in milliseconds; 0: it need not.
    pub heartbeat_interval_ms: u32,
    /// Silence after which the gateway closes a client, in milliseconds; 0: never.
    pub idle_timeout_ms: u32,
    /// The longest MESSAGE payload in bytes, both directions.
    pub frame_bytes_max: u32,
    /// Messages per second that a client may send; 0: no limit.
    pub messages_per_s_max: u32,
    /// The worker's reference of this session.
    pub session: SessionRef,
}

impl Welcome {
    /// Bytes of the payload.
    pub const PAYLOAD_BYTES: usize = 2 + 4 + 4 + 4 + 4 + 8;

    /// The whole frame.
    pub fn encode(&self) -> [u8; HEADER_BYTES + Self::PAYLOAD_BYTES] {
        let mut out = [0; HEADER_BYTES + Self::PAYLOAD_BYTES];
        let header = Header { frame_type: FrameType::Welcome, payload_bytes: Self::PAYLOAD_BYTES as u32 };
        out[..4].copy_from_slice(&header.encode());
        out[4] = VERSION;
        out[6..10].copy_from_slice(&self.heartbeat_interval_ms.to_be_bytes());
        out[10..14].copy_from_slice(&self.idle_timeout_ms.to_be_bytes());
        out[14..18].copy_from_slice(&self.frame_bytes_max.to_be_bytes());
        out[18..22].copy_from_slice(&self.messages_per_s_max.to_be_bytes());
        out[22..].copy_from_slice(&self.session.0.to_be_bytes());
        out
    }

    /// Decodes the payload.
    pub fn decode(payload: &[u8]) -> Result<Self, FrameError> {
        let mut reader = Reader::new(payload);
        let version = reader.u8()?;
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        if reader.u8()? != 0 {
            return Err(FrameError::ReservedBits);
        }
        let welcome = Self {
            heartbeat_interval_ms: reader.u32()?,
            idle_timeout_ms: reader.u32()?,
            frame_bytes_max: reader.u32()?,
            messages_per_s_max: reader.u32()?,
            session: SessionRef(reader.u64()?),
        };
        if reader.is_empty() { Ok(welcome) } else { Err(FrameError::Malformed) }
    }
}

/// Appends a whole frame of any type with a payload that the caller has laid out.
///
/// Panics if the payload does not fit 24 bits.
pub fn encode_frame(frame_type: FrameType, payload: &[u8], out: &mut Vec<u8>) {
    let payload_bytes = u32::try_from(payload.len()).expect("payload fits u24");
    out.extend(Header { frame_type, payload_bytes }.encode());
    out.extend(payload);
}

/// Keeps the incomplete rest between reads, for callers without a buffer of their own.
#[derive(Debug)]
pub struct Decoder {
    frame_bytes_max: u32,
    rest: Vec<u8>,
}

impl Decoder {
    /// A decoder that holds nothing yet.
    pub const fn new(frame_bytes_max: u32) -> Self {
        Self { frame_bytes_max, rest: Vec::new() }
    }

    /// Feeds `bytes` and calls `on_frame(type, whole frame)` for every frame that is complete.
    ///
    /// After an error the stream is lost: frames cannot be found again in it.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        mut on_frame: impl FnMut(FrameType, &[u8]),
    ) -> Result<(), FrameError> {
        while !self.rest.is_empty() {
            let Split::Need { total_bytes } = split(&self.rest, self.frame_bytes_max)? else {
                unreachable!("a whole frame never stays behind");
            };
            let missing = (total_bytes - self.rest.len()).min(bytes.len());
            self.rest.extend(&bytes[..missing]);
            bytes = &bytes[missing..];
            if let Split::Frame { frame_type, frame } = split(&self.rest, self.frame_bytes_max)? {
                on_frame(frame_type, frame);
                self.rest.clear();
            } else if bytes.is_empty() {
                return Ok(());
            }
        }
        loop {
            match split(bytes, self.frame_bytes_max)? {
                Split::Frame { frame_type, frame } => {
                    on_frame(frame_type, frame);
                    bytes = &bytes[frame.len()..];
                }
                Split::Need { .. } => {
                    self.rest.extend(bytes);
                    return Ok(());
                }
            }
        }
    }

    /// Bytes of the frame that is not complete yet.
    pub fn pending_bytes(&self) -> usize {
        self.rest.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_found_in_the_first_byte() {
        assert_eq!(split(&[0x80], 10), Err(FrameError::ReservedBits));
        assert_eq!(split(&[0x1f], 10), Err(FrameError::UnknownType(0x1f)));
        assert_eq!(split(&[3], 10), Ok(Split::Need { total_bytes: 4 }));
        assert_eq!(
            split(&[3, 0, 0, 11], 10),
            Err(FrameError::Oversize { payload_bytes: 11, payload_bytes_max: 10 })
        );
    }

    #[test]
    fn typed_frames_round_trip() {
        let mut out = Vec::new();
        let hello = Hello { key: b"user-7", token: b"t" };
        hello.encode(&mut out);
        assert_eq!(Hello::decode(&out[HEADER_BYTES..]), Ok(hello));
        let welcome = Welcome {
            heartbeat_interval_ms: 60_000,
            idle_timeout_ms: 150_000,
            frame_bytes_max: 65_536,
            messages_per_s_max: 7,
            session: SessionRef(9),
        };
        assert_eq!(Welcome::decode(&welcome.encode()[HEADER_BYTES..]), Ok(welcome));
        let plain = Goaway::new(Reason::Drain, 1_500);
        for goaway in [plain, Goaway { code: 4000, alternative: b"h:1", text: "see you", ..plain }] {
            out.clear();
            goaway.encode(&mut out);
            assert_eq!(Goaway::decode(&out[HEADER_BYTES..]), Ok(goaway));
        }
    }
}
