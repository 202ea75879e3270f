//! Where a connection is in its life.

/// The state of a slot. `docs/architecture.md` draws it.
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

    pub(super) const fn from_u8(value: u8) -> Self {
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
