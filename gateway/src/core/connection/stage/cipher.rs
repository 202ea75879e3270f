//! The cipher of a listener: bytes of a socket to bytes of frames, in place, and back.

use roost_protocol::Reason;

use crate::core::listener::Cipher;

/// What became of bytes that were received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opened {
    /// So many bytes for the framing stand at the front now.
    pub(super) plain_bytes: usize,
    /// So many are done with; the others are the begin of a record.
    pub(super) used_bytes: usize,
}

impl Cipher {
    /// Opens whole records in place. None of `bytes` is kept here. Fails on what can be no record.
    pub(super) fn open(self, bytes: &mut [u8]) -> Result<Opened, Reason> {
        match self {
            Self::None => Ok(Opened { plain_bytes: bytes.len(), used_bytes: bytes.len() }),
            #[cfg(any(test, feature = "sim"))]
            Self::Xor => {
                super::xor::open(bytes).map(|(plain_bytes, used_bytes)| Opened { plain_bytes, used_bytes })
            }
        }
    }

    /// Appends the records of `plain` to `out`.
    pub(in crate::core::connection) fn seal(self, plain: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::None => out.extend(plain),
            #[cfg(any(test, feature = "sim"))]
            Self::Xor => super::xor::seal(plain, super::xor::RECORD_BYTES_MAX, out),
        }
    }
}
