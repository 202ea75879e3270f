//! How a listener's clients mark frames: bytes become frames, and the gateway's replies become bytes.
//!
//! Whoever handles frames knows their types and lengths only, and replies by meaning. So another
//! framing is one more member of [`Framing`], and nothing else changes.

use roost_protocol::{
    Reason,
    edge::{self, FrameType, Goaway, Welcome},
};

use crate::core::listener::Framing;

/// What the gateway itself says to a client.
#[derive(Debug)]
pub(crate) enum Reply<'a> {
    /// The session is open.
    Welcome(Welcome),
    /// The answer to a PING with this payload.
    Pong(&'a [u8]),
    /// The client has to leave.
    Goaway(Goaway<'a>),
}

/// What a stream of frames begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// A frame of so many bytes in all, which need not be there yet.
    Frame { frame_type: FrameType, bytes: u32 },
    /// The begin of a header: so many bytes are needed to tell more.
    Part { bytes: u32 },
    /// No frame, whatever follows.
    Refused(Reason),
}

impl Framing {
    /// The longest header.
    pub(super) const HEADER_BYTES_MAX: usize = edge::HEADER_BYTES;

    /// Looks at the begin of a stream of frames.
    #[inline]
    pub(super) fn begin(self, bytes: &[u8], frame_bytes_max: u32) -> Begin {
        let Self::Edge = self;
        let Some(&head) = bytes.first_chunk() else {
            // The first byte may tell already.
            return match bytes.first().map(|&first| self.frame_type(first, frame_bytes_max)) {
                Some(Err(reason)) => Begin::Refused(reason),
                _ => Begin::Part { bytes: edge::HEADER_BYTES as u32 },
            };
        };
        match edge::Header::decode(head, frame_bytes_max) {
            Ok(header) => Begin::Frame { frame_type: header.frame_type, bytes: header.frame_bytes() as u32 },
            Err(error) => Begin::Refused(error.reason()),
        }
    }

    /// The type of a frame of which the first byte has come.
    pub(super) fn frame_type(self, first: u8, frame_bytes_max: u32) -> Result<FrameType, Reason> {
        let Self::Edge = self;
        let header = edge::Header::decode([first, 0, 0, 0], frame_bytes_max);
        header.map(|header| header.frame_type).map_err(edge::FrameError::reason)
    }

    /// Appends a reply to `out`.
    pub(super) fn encode(self, reply: &Reply<'_>, out: &mut Vec<u8>) {
        let Self::Edge = self;
        match reply {
            Reply::Welcome(welcome) => out.extend(welcome.encode()),
            Reply::Pong(payload) => edge::encode_frame(FrameType::Pong, payload, out),
            Reply::Goaway(goaway) => goaway.encode(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_begin_says_as_much_as_split_does() {
        for code in 0..=u8::MAX {
            for (len, have) in [(0u8, 0), (0, 1), (3, 3), (3, 4), (3, 6), (3, 7), (3, 9), (200, 9)] {
                let bytes = &[code, 0, 0, len, 0, 0, 0, 0, 0][..have];
                let begin = Framing::Edge.begin(bytes, 100);
                match edge::split(bytes, 100) {
                    Ok(edge::Split::Frame { frame_type, frame }) => {
                        assert_eq!(begin, Begin::Frame { frame_type, bytes: frame.len() as u32 });
                    }
                    Ok(edge::Split::Need { total_bytes }) => {
                        let (Begin::Frame { bytes, .. } | Begin::Part { bytes }) = begin else {
                            panic!("{begin:?}: {have} of {len} bytes of type {code}");
                        };
                        assert_eq!(bytes as usize, total_bytes);
                    }
                    Err(error) => assert_eq!(begin, Begin::Refused(error.reason())),
                }
            }
        }
    }

    #[test]
    fn replies_are_frames_that_clients_can_read() {
        let mut out = Vec::new();
        Framing::Edge.encode(&Reply::Pong(b"12345678"), &mut out);
        let goaway = Goaway { alternative: b"h:1", ..Goaway::new(Reason::Drain, 7) };
        Framing::Edge.encode(&Reply::Goaway(goaway), &mut out);
        let Ok(edge::Split::Frame { frame_type, frame }) = edge::split(&out, 100) else { panic!("{out:?}") };
        assert_eq!((frame_type, &frame[edge::HEADER_BYTES..]), (FrameType::Pong, &b"12345678"[..]));
        let rest = &out[frame.len()..];
        assert!(matches!(
            edge::split(rest, 100),
            Ok(edge::Split::Frame { frame_type: FrameType::Goaway, .. })
        ));
    }
}
