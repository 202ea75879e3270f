//! The link protocol: what a gateway shard speaks with a worker (SPEC.md, part 2).
//!
//! * [`header`]: the 16-byte header and the frame types.
//! * [`handshake`]: LINK_HELLO, LINK_WELCOME, LINK_PROOF and LINK_REFUSE.
//! * [`answer`]: what a worker says about a connection: ACCEPT, REJECT, CLOSE.
//! * [`body`]: the payloads of the frames of a running link.
//! * [`frame`]: any frame as one typed value, for tools and tests.

pub mod answer;
pub mod body;
pub mod frame;
pub mod handshake;
pub mod header;

pub use answer::{Accept, Ending};
pub use body::{Framing, Open, Relay, Reopen, multicast_ids, split_multicast};
pub use frame::Frame;
pub use handshake::{LinkHello, LinkProof, LinkWelcome, Refusal};
pub use header::{HEADER_BYTES, Header, LinkError, LinkType, Split, split};

/// The version of the link protocol, in LINK_HELLO and LINK_WELCOME.
pub const VERSION: u8 = 1;
/// Default of the window: bytes of sequenced frames, headers included, that may be sent beyond
/// the receiver's last acknowledgement.
pub const WINDOW_BYTES_DEFAULT: u32 = 4 * 1024 * 1024;
/// Bytes that a link payload may be longer than the largest edge frame: the connection ids of a
/// MULTICAST or the fields of an OPEN, meta included, must fit. A link payload is at most
/// `4 + frame_bytes_max + PAYLOAD_EXTRA_BYTES_MAX` bytes.
pub const PAYLOAD_EXTRA_BYTES_MAX: u32 = 64 * 1024;

/// The longest link payload, given the limit of an edge MESSAGE's payload (at most
/// [`crate::edge::FRAME_BYTES_LIMIT`]; more counts as that).
pub const fn payload_bytes_max(frame_bytes_max: u32) -> u32 {
    let limit = crate::edge::FRAME_BYTES_LIMIT;
    let frame_bytes_max = if frame_bytes_max < limit { frame_bytes_max } else { limit };
    crate::edge::HEADER_BYTES as u32 + frame_bytes_max + PAYLOAD_EXTRA_BYTES_MAX
}
