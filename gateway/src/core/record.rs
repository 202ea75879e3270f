//! The connection record: 48 bytes that an idle client costs.

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
    /// Waits for a receive buffer.
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
    /// Tick at which the present state, or the present blockage, began.
    pub(crate) mark_tick: u16,
    /// Handle of the outbox; 0: nothing unsent.
    pub(crate) outbox: u32,
    /// Handle of the spill; 0: no incomplete frame.
    pub(crate) spill: u32,
    /// Free: the next free slot + 1. RECV in the kernel: the receive block's index.
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
    /// Which cell of the per-IP table counts this connection; 0: none.
    pub(crate) ip_cell: u32,
    /// Message allowance left in the tick of `rate_tick`. Before OPEN: the peer's port.
    pub(crate) rate_left: u16,
    /// See `rate_left`. Before OPEN: the listener.
    pub(crate) rate_tick: u16,
}

const _: () = assert!(size_of::<Hot>() == 32 && size_of::<Cold>() == 16);

impl Hot {
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

    /// Whether a worker knows the connection, or will when it reads its link.
    pub(crate) const fn has_session(&self) -> bool {
        matches!(self.state(), State::Opening | State::Open)
    }
}
