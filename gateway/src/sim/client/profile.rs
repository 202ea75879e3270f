//! What clients are like.

use roost_protocol::Reason;

/// What a client is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Profile {
    /// Sends, reads, pings, leaves when everything was answered.
    Steady,
    /// The same, but its bytes come in crumbs.
    Crumbs,
    /// The same, but sends all it has at once.
    Burst,
    /// Opens a session and stays, with a ping now and then.
    Idle,
    /// Opens a session and falls silent.
    Silent,
    /// Connects and never says HELLO.
    Mute,
    /// Sends a part of a frame and no more.
    HalfFrame,
    /// Reads a little, rarely.
    SlowReader,
    /// Sends and never reads.
    NeverReads,
    /// Breaks the protocol, then waits to be told so.
    Breaker,
    /// Resets the connection at any moment.
    Resetter,
    /// Ends its sending side without CLOSE.
    HalfCloser,
    /// Sends CLOSE at any moment.
    Closer,
    /// Its host vanishes: TCP gives up.
    Vanisher,
    /// Sends random bytes.
    Noise,
}

impl Profile {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Steady,
        Self::Crumbs,
        Self::Burst,
        Self::Idle,
        Self::Silent,
        Self::Mute,
        Self::HalfFrame,
        Self::SlowReader,
        Self::NeverReads,
        Self::Breaker,
        Self::Resetter,
        Self::HalfCloser,
        Self::Closer,
        Self::Vanisher,
        Self::Noise,
    ];

    /// Gives the gateway no cause to close it.
    pub const fn is_well_behaved(self) -> bool {
        matches!(self, Self::Steady | Self::Crumbs | Self::Burst | Self::Idle)
    }
}

/// How a connection ended, as its client saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The client wanted it.
    Itself,
    /// The gateway said so, with this reason.
    Goaway(Reason),
    /// FIN without GOAWAY.
    Eof,
    /// RST.
    Reset,
    /// The gateway does not listen any more, and had not let it in before.
    Refused,
}

/// What all clients of a run share.
#[derive(Clone, Debug)]
pub struct Manners {
    /// The gateway's limit.
    pub frame_bytes_max: u32,
    /// Pause between actions, in microseconds.
    pub think_us: (u64, u64),
    /// How often an idle client pings, in microseconds.
    pub ping_us: u64,
    /// The longest message.
    pub message_bytes_max: u32,
    /// A client that was told to go or has resigned waits this long for the end, in microseconds.
    pub patience_us: u64,
    /// The listener where a PROXY header comes first.
    pub proxy_listener: Option<u16>,
    /// The listeners that have a cipher.
    pub ciphered: Vec<u16>,
}
