//! Where a link's TCP connection is in its life, and which of its ops are in the kernel.

use crate::core::transitions::{Transition, step};

/// Where a link's TCP connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LinkState {
    /// No connection; the next dial has its time.
    Down = 1,
    /// A connect is in the kernel.
    Connecting = 2,
    /// LINK_HELLO is sent, LINK_WELCOME awaited.
    Handshaking = 3,
    /// Frames flow.
    Up = 4,
    /// Armed ops are cancelled and joined, then the socket is closed.
    Closing = 5,
    /// LINK_PROOF is sent, the worker's first frame awaited: only that shows that it was accepted.
    Proving = 6,
    /// LINK_REFUSE is on its way; what the worker still says is thrown away.
    Refusing = 7,
}

impl LinkState {
    /// Every state.
    pub const ALL: [LinkState; 7] = [
        Self::Down,
        Self::Connecting,
        Self::Handshaking,
        Self::Up,
        Self::Closing,
        Self::Proving,
        Self::Refusing,
    ];

    /// Whether there is a TCP connection that is of use: bytes go out and come in.
    pub(crate) fn is_connected(self) -> bool {
        matches!(self, Self::Handshaking | Self::Up | Self::Proving | Self::Refusing)
    }
}

/// What may follow what. [`super::Link`] changes its state in no other way.
pub const TRANSITIONS: [Transition<LinkState>; 12] = [
    step(LinkState::Down, LinkState::Connecting, "its time to be dialled has come"),
    step(LinkState::Connecting, LinkState::Handshaking, "connected, LINK_HELLO is queued"),
    step(LinkState::Connecting, LinkState::Closing, "the connect fails or takes too long"),
    step(LinkState::Handshaking, LinkState::Proving, "LINK_WELCOME, LINK_PROOF is queued"),
    step(LinkState::Handshaking, LinkState::Refusing, "a wrong proof, or broken protocol"),
    step(LinkState::Handshaking, LinkState::Closing, "the worker refuses, ends or is late"),
    step(LinkState::Proving, LinkState::Up, "the worker's first frame"),
    step(LinkState::Proving, LinkState::Refusing, "broken protocol"),
    step(LinkState::Proving, LinkState::Closing, "the worker refuses, ends or is late"),
    step(LinkState::Refusing, LinkState::Closing, "the worker has read LINK_REFUSE, or a second is over"),
    step(LinkState::Up, LinkState::Closing, "the connection breaks, or the worker is given up"),
    step(LinkState::Closing, LinkState::Down, "ops are joined and the socket is closed"),
];

/// Kinds of ops on links; a token's index is the link.
pub(super) mod kind {
    /// A connect.
    pub(in super::super) const CONNECT: u8 = 16;
    /// A receive.
    pub(in super::super) const RECV: u8 = 17;
    /// A send.
    pub(in super::super) const SEND: u8 = 18;
    /// A cancel.
    pub(in super::super) const CANCEL: u8 = 19;
    /// A close.
    pub(in super::super) const CLOSE: u8 = 20;
}

/// One bit per op of a link that is in the kernel.
pub(super) mod op_bit {
    pub(in super::super) const CONNECT: u8 = 1 << 0;
    pub(in super::super) const RECV: u8 = 1 << 1;
    pub(in super::super) const SEND: u8 = 1 << 2;
    pub(in super::super) const CANCEL: u8 = 1 << 3;
    pub(in super::super) const CLOSE: u8 = 1 << 4;
}

/// Each op's bit, and its kind.
#[cfg(any(test, feature = "sim"))]
pub(super) const OPS: [(u8, u8); 5] = [
    (op_bit::CONNECT, kind::CONNECT),
    (op_bit::RECV, kind::RECV),
    (op_bit::SEND, kind::SEND),
    (op_bit::CANCEL, kind::CANCEL),
    (op_bit::CLOSE, kind::CLOSE),
];

/// The bit of a kind of op.
pub(super) fn bit_of(kind: u8) -> u8 {
    match kind {
        kind::CONNECT => op_bit::CONNECT,
        kind::RECV => op_bit::RECV,
        kind::SEND => op_bit::SEND,
        kind::CANCEL => op_bit::CANCEL,
        kind::CLOSE => op_bit::CLOSE,
        other => panic!("no link op has kind {other}"),
    }
}
