//! Where a link's TCP connection is in its life, and which of its ops are in the kernel.

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
