//! A small io_uring driver for many sockets; the only `unsafe` of this crate.
//!
//! It knows sockets, slots and bytes, and nothing of the protocol or of what a client is:
//!
//! * [`queue`]: one ring: push, enter, reap.
//! * [`memory`]: the memory the kernel reads from and writes into while an op is in flight.
//! * [`bank`]: many rings behind one table of slots, and how to wait for all of them.
//! * [`connect`]: how slots come to their sockets.
//! * [`probe`]: what this kernel can do, found by trial.
//!
//! A slot holds at most one socket and, per [`Kind`], at most one op in the kernel.

mod bank;
mod connect;
mod memory;
mod probe;
mod queue;

pub use bank::{Bank, BankConfig, BankCounts, SLOTS_PER_RING};
pub use probe::{Descriptors, Features};

/// What an op was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Socket, bind and connect as one chain; the result is the connect's, or of whatever step
    /// before it failed.
    Connect = 1,
    /// One-shot poll; the result is a set of poll(2) bits.
    Poll = 2,
    /// Receive what is there.
    Recv = 3,
    /// Send all; the result is an errno or not negative.
    Send = 4,
    /// A cancel or an option; internal.
    Aside = 5,
    /// The socket is closed and the slot is free.
    Close = 6,
    /// Accept into a slot.
    Accept = 7,
    /// A step before the connect failed; internal.
    Setup = 8,
}

impl Kind {
    const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Connect,
            2 => Self::Poll,
            3 => Self::Recv,
            4 => Self::Send,
            5 => Self::Aside,
            6 => Self::Close,
            7 => Self::Accept,
            8 => Self::Setup,
            _ => panic!("a completion that nobody asked for"),
        }
    }
}

/// What became of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Whose.
    pub slot: u32,
    /// Which.
    pub kind: Kind,
    /// Non-negative: success, meaning by kind. Negative: an errno.
    pub result: i32,
    /// The block of a receive, to be handed to [`Bank::take_received`].
    block: u32,
    /// Of a send: the bytes it was given, sent or not.
    pub send_bytes: u32,
}

/// `user_data`: kind u8, block u24, slot u32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tag {
    kind: Kind,
    block: u32,
    slot: u32,
}

impl Tag {
    const BLOCKS_MAX: u32 = 1 << 24;

    const fn new(kind: Kind, slot: u32) -> Self {
        Self { kind, block: 0, slot }
    }

    const fn with_block(kind: Kind, slot: u32, block: u32) -> Self {
        assert!(block < Self::BLOCKS_MAX);
        Self { kind, block, slot }
    }

    const fn to_bits(self) -> u64 {
        (self.kind as u64) << 56 | (self.block as u64) << 32 | self.slot as u64
    }

    const fn from_bits(bits: u64) -> Self {
        Self {
            kind: Kind::from_code((bits >> 56) as u8),
            block: (bits >> 32) as u32 & (Self::BLOCKS_MAX - 1),
            slot: bits as u32,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_survive_the_kernel() {
        for kind in
            [Kind::Connect, Kind::Poll, Kind::Recv, Kind::Send, Kind::Aside, Kind::Close, Kind::Accept]
        {
            let tag = Tag::with_block(kind, u32::MAX, Tag::BLOCKS_MAX - 1);
            assert_eq!(Tag::from_bits(tag.to_bits()), tag);
        }
    }
}
