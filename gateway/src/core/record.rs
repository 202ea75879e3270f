//! The connection record: 48 bytes that an idle client costs.
//!
//! Who has which bits; an assertion below holds the table to the code.
//!
//! | field | bits | what for | free |
//! |---|---|---|---|
//! | `generation` | 32 | the slot's uses | 0 |
//! | `state` | 8 | 7 states | 5 bits |
//! | `ops` | 8 | 8 ops | 0 |
//! | `worker` | 8 | the link's index | 0 |
//! | `flags` | 8 | 8 flags | 0 |
//! | `active_tick`, `mark_tick` | 16 + 16 | seconds | 0 |
//! | `outbox`, `spill` | 32 + 32 | handles | 0 |
//! | `link` | 32 | 16 receive block, 16 control frames left; free slots: the next one | 0 |
//! | `session` | 64 | the worker's reference; before, the address; after, bytes discarded | 0 |
//! | `routing_hash` | 64 | the hash; before, the address | 0 |
//! | `cell_and_rate` | 32 | 20 address cell, 6 messages left (high bits) | 6 bits |
//! | `rate_low` | 16 | messages left (low bits); before, the port | 0 |
//! | `rate_tick` | 16 | the second that they are for; before, the listener | 0 |

use bytemuck::Zeroable;
use roost_protocol::SessionRef;

/// Where a connection is in its life. `docs/architecture.md` draws it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// No socket; on a free list.
    Free = 0,
    /// An accept into this slot is in the kernel.
    Accepting = 1,
    /// Accepted; no complete HELLO yet.
    Handshaking = 2,
    /// OPEN is queued; the worker has not answered.
    Opening = 3,
    /// The session is open.
    Open = 4,
    /// What is queued is being flushed, then the sending side is shut and input discarded.
    Draining = 5,
    /// Armed ops are cancelled and joined, then the socket is closed.
    Closing = 6,
}

impl State {
    /// Every state.
    pub const ALL: [State; 7] = [
        Self::Free,
        Self::Accepting,
        Self::Handshaking,
        Self::Opening,
        Self::Open,
        Self::Draining,
        Self::Closing,
    ];

    const fn from_u8(value: u8) -> Self {
        match value {
            0 => Self::Free,
            1 => Self::Accepting,
            2 => Self::Handshaking,
            3 => Self::Opening,
            4 => Self::Open,
            5 => Self::Draining,
            6 => Self::Closing,
            _ => panic!("no such state"),
        }
    }
}

/// One bit per op of a connection that is in the kernel.
pub mod bit {
    /// An accept.
    pub const ACCEPT: u8 = 1 << 0;
    /// A poll for input.
    pub const POLL_IN: u8 = 1 << 1;
    /// A receive.
    pub const RECV: u8 = 1 << 2;
    /// A send.
    pub const SEND: u8 = 1 << 3;
    /// A poll for room to send.
    pub const POLL_OUT: u8 = 1 << 4;
    /// A cancel of one of the others.
    pub const CANCEL: u8 = 1 << 5;
    /// A shutdown of the sending side.
    pub const SHUTDOWN: u8 = 1 << 6;
    /// A close.
    pub const CLOSE: u8 = 1 << 7;
}

/// What else is true of a connection.
pub mod flag {
    /// On a list of blocked connections: not read until the link has credit or a worker is up.
    pub const BLOCKED: u8 = 1 << 0;
    /// CLOSED(moved) is sent, MOVED is awaited: not read.
    pub const MOVING: u8 = 1 << 1;
    /// The sending side is shut, or must not be used any more.
    pub const SHUT: u8 = 1 << 2;
    /// The peer address kept until OPEN is IPv6.
    pub const PEER_V6: u8 = 1 << 3;
    /// The peer address kept until OPEN is IPv4.
    pub const PEER_V4: u8 = 1 << 4;
    /// Waits for its turn to be read: for a receive buffer, or with frames that have arrived.
    pub const RX_WAIT: u8 = 1 << 5;
    /// Waits for its turn to shut its sending side.
    pub const SHUT_WAIT: u8 = 1 << 6;
    /// The PROXY header is not complete.
    pub const PROXY: u8 = 1 << 7;
}

/// The part of the record that every event touches: half a cache line.
#[derive(Clone, Copy, Debug, Zeroable)]
#[repr(C)]
pub(crate) struct Hot {
    /// Bumped whenever the slot is freed, so that late completions and frames find nobody.
    pub(crate) generation: u32,
    state: u8,
    /// `bit::*`.
    pub(crate) ops: u8,
    /// The worker it is routed to, from Opening on.
    pub(crate) worker: u8,
    /// `flag::*`.
    pub(crate) flags: u8,
    /// Tick at which the client was last heard.
    pub(crate) active_tick: u16,
    /// Tick at which the present state, or the present blockage, began. Of an open connection that
    /// is not blocked: how many times [`IDLE_PERIOD`] it has been silent before `active_tick`.
    pub(crate) mark_tick: u16,
    /// Handle of the outbox; 0: nothing unsent.
    pub(crate) outbox: u32,
    /// Handle of the spill; 0: no incomplete frame.
    pub(crate) spill: u32,
    /// Free: the next free slot + 1. Else the receive block's index while RECV is in the kernel, and
    /// above it the PINGs and PONGs that the client may still send before it is heard in another
    /// second than now.
    pub(crate) link: u32,
    /// The worker's reference from ACCEPT on. Before OPEN: the first half of the peer address.
    pub(crate) session: SessionRefBits,
}

/// A [`SessionRef`] as plain bits, since a zeroed record must be valid.
pub(crate) type SessionRefBits = u64;

/// The part that only opening, routing and limits touch.
#[derive(Clone, Copy, Debug, Zeroable)]
#[repr(C)]
pub(crate) struct Cold {
    /// From OPEN on the routing hash; before, the second half of the peer address.
    pub(crate) routing_hash: u64,
    /// Which cell of the per-IP table counts this connection; 0: none. Above it the high bits of the
    /// message allowance.
    cell_and_rate: u32,
    /// Low bits of the message allowance as of `rate_tick`. Before OPEN: the peer's port.
    pub(crate) rate_low: u16,
    /// See `rate_low`. Before OPEN: the listener.
    pub(crate) rate_tick: u16,
}

const _: () = assert!(size_of::<Hot>() == 32 && size_of::<Cold>() == 16);

/// Seconds of silence after which an open connection's `active_tick` is moved on by as much, and the
/// period counted: less than half of what the ticks can tell apart.
pub(crate) const IDLE_PERIOD: u16 = 1 << 15;

/// Bits of [`Hot::link`] that name a receive block.
const RX_BITS: u32 = 16;
/// The most PINGs and PONGs that a connection can be allowed at once.
pub(crate) const CONTROL_LEFT_MAX: u32 = (1 << (32 - RX_BITS)) - 1;

/// Bits of a record that name a cell of the per-IP table.
const CELL_BITS: u32 = 20;
/// The greatest cell of a per-IP table.
pub(crate) const CELL_MAX: u32 = (1 << CELL_BITS) - 1;
/// Bits of the message allowance that stand above the cell.
const RATE_HIGH_BITS: u32 = 6;
/// The most messages that a connection can be allowed at once.
pub(crate) const RATE_LEFT_MAX: u32 = (1 << (16 + RATE_HIGH_BITS)) - 1;

const _: () = assert!(CELL_BITS + RATE_HIGH_BITS <= 32 && State::ALL.len() <= 8);
const _: () = assert!(crate::core::CoreConfig::RX_BLOCKS < 1 << RX_BITS);

impl Cold {
    pub(crate) const fn ip_cell(&self) -> u32 {
        self.cell_and_rate & CELL_MAX
    }

    pub(crate) fn set_ip_cell(&mut self, cell: u32) {
        debug_assert!(cell <= CELL_MAX);
        self.cell_and_rate = self.cell_and_rate & !CELL_MAX | cell;
    }

    /// Messages that the client may still send, as of `rate_tick`.
    pub(crate) const fn rate_left(&self) -> u32 {
        (self.cell_and_rate >> CELL_BITS) << 16 | self.rate_low as u32
    }

    /// At most [`RATE_LEFT_MAX`].
    pub(crate) fn set_rate_left(&mut self, left: u32) {
        debug_assert!(left <= RATE_LEFT_MAX);
        self.cell_and_rate = self.cell_and_rate & CELL_MAX | (left >> 16) << CELL_BITS;
        self.rate_low = left as u16;
    }
}

impl Hot {
    /// The block that the receive in the kernel fills.
    #[inline]
    pub(crate) const fn rx_block(&self) -> u32 {
        self.link & ((1 << RX_BITS) - 1)
    }

    #[inline]
    pub(crate) fn set_rx_block(&mut self, index: u32) {
        self.link = self.link >> RX_BITS << RX_BITS | index;
    }

    /// PINGs and PONGs that the client may still send, as of `active_tick`.
    #[inline]
    pub(crate) const fn control_left(&self) -> u32 {
        self.link >> RX_BITS
    }

    /// At most [`CONTROL_LEFT_MAX`].
    pub(crate) fn set_control_left(&mut self, left: u32) {
        debug_assert!(left <= CONTROL_LEFT_MAX);
        self.link = left << RX_BITS | self.rx_block();
    }

    #[inline]
    pub(crate) const fn state(&self) -> State {
        State::from_u8(self.state)
    }

    pub(crate) fn set_state(&mut self, state: State) {
        self.state = state as u8;
    }

    #[inline]
    pub(crate) const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(crate) const fn session(&self) -> SessionRef {
        SessionRef(self.session)
    }

    /// Whether the client can still be spoken to as a session.
    #[inline]
    pub(crate) const fn is_open(&self) -> bool {
        matches!(self.state(), State::Open)
    }

    /// Whether what the client sends is of interest.
    #[inline]
    pub(crate) const fn reads(&self) -> bool {
        matches!(self.state(), State::Handshaking | State::Opening | State::Open)
    }

    /// Whether a worker knows the connection, or will when it reads its link.
    pub(crate) const fn has_session(&self) -> bool {
        matches!(self.state(), State::Opening | State::Open)
    }
}
