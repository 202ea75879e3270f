//! The link header and the frame types.

use crate::{ConnectionId, Reason, wire::Short};

/// Bytes of a link header.
pub const HEADER_BYTES: usize = 16;
/// Set on sequenced frames that are sent again to another worker after a failover.
pub const FLAG_RESENT: u8 = 0x01;
/// BROADCAST to every open connection of the shard, whatever worker it is routed to; without it,
/// only to those routed over this link. RELAY to every other worker.
pub const FLAG_ALL: u8 = 0x02;
/// The message of DATA, MULTICAST or BROADCAST is UTF-8 text. Nobody checks that, and the edge protocol
/// has no such mark: a gateway ignores it there, and sets it on nothing of such a client.
pub const FLAG_TEXT: u8 = 0x04;
/// RELAY to one session of a worker, which the connection id names: the answer to a RELAY.
pub const FLAG_DIRECT: u8 = 0x10;

macro_rules! link_types {
    ($( $(#[$doc:meta])* $name:ident = $code:literal; )+) => {
        /// The type byte of a link frame.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum LinkType { $( $(#[$doc])* $name = $code, )+ }

        impl LinkType {
            /// Every type, in the order of the codes.
            pub const ALL: &'static [LinkType] = &[ $( LinkType::$name, )+ ];

            /// The type with this code.
            #[inline]
            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $( $code => Some(Self::$name), )+ _ => None }
            }
        }
    };
}

link_types! {
    /// Gateway to worker, first frame of a TCP connection.
    LinkHello = 1;
    /// Worker to gateway, the answer.
    LinkWelcome = 2;
    /// Gateway to worker, third and last step of the handshake.
    LinkProof = 3;
    /// Either side: the handshake failed; aux is a refusal code.
    LinkRefuse = 4;
    /// Either side, not sequenced: cumulative acknowledgement; the payload is a u64 position.
    Ack = 5;
    /// Either side, not sequenced: answered with PONG and the same payload.
    Ping = 6;
    /// Either side, not sequenced.
    Pong = 7;
    /// Worker to gateway, not sequenced: send new connections elsewhere and move mine away.
    Draining = 8;
    /// Gateway to worker: a client wants a session.
    Open = 16;
    /// Worker to gateway: the session is open; the payload has the session reference.
    Accept = 17;
    /// Worker to gateway: no session; aux is the reason, the payload what else the client is told.
    Reject = 18;
    /// Both directions: one edge frame, verbatim.
    Data = 19;
    /// Gateway to worker: the connection is gone; aux is the reason.
    Closed = 20;
    /// Worker to gateway: close the connection; aux is the reason, the payload what else the client is told.
    Close = 21;
    /// Worker to gateway: one edge frame for many connections.
    Multicast = 22;
    /// Worker to gateway: one edge frame for all connections.
    Broadcast = 23;
    /// Gateway to worker: a connection that another worker had; comes before its DATA.
    Reopen = 24;
    /// Worker to gateway: the answer to CLOSED with reason `moved`: nothing more follows.
    Moved = 25;
    /// Worker to gateway to worker: a payload for whoever serves a key, for one worker or for all.
    Relay = 26;
}

impl LinkType {
    /// Whether frames of this type are counted, retained until acknowledged, and sent again.
    #[inline]
    pub const fn is_sequenced(self) -> bool {
        self as u8 >= 16
    }

    /// Whether a worker may send frames of this type once the link is up.
    pub const fn is_from_worker(self) -> bool {
        match self {
            Self::LinkHello | Self::LinkWelcome | Self::LinkProof | Self::LinkRefuse => false,
            Self::Open | Self::Closed | Self::Reopen => false,
            Self::Ack | Self::Ping | Self::Pong | Self::Draining => true,
            Self::Accept | Self::Reject | Self::Data | Self::Close => true,
            Self::Multicast | Self::Broadcast | Self::Moved | Self::Relay => true,
        }
    }
}

/// What is wrong with a link frame. A link with such an error is closed, and the session resumed
/// on a new TCP connection or failed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The type is not defined.
    #[error("unknown link frame type {0}")]
    UnknownType(u8),
    /// Flags that the type does not define.
    #[error("reserved flags {0:#04x} are set")]
    ReservedFlags(u8),
    /// The payload is longer than the limit.
    #[error("link payload of {0} bytes is over the limit")]
    Oversize(u32),
    /// The payload does not follow its type's layout.
    #[error("malformed link payload")]
    Malformed,
    /// A version that is not spoken here.
    #[error("link protocol version {0} is not spoken here")]
    Version(u8),
    /// A frame that is not allowed in this state or direction.
    #[error("unexpected link frame {0:?}")]
    Unexpected(LinkType),
    /// An acknowledgement of frames that were never sent, or that goes back.
    #[error("acknowledged position {acked} is not within {from}..={to}")]
    AckOutOfRange {
        /// The position that the peer acknowledged.
        acked: u64,
        /// What it had acknowledged before.
        from: u64,
        /// What has been sent.
        to: u64,
    },
    /// The sender did not respect the window.
    #[error("the peer sent more than the window allows")]
    WindowExceeded,
    /// The handshake failed, on either side.
    #[error("link handshake refused: {0}")]
    Refused(super::Refusal),
}

impl From<Short> for LinkError {
    fn from(_: Short) -> Self {
        Self::Malformed
    }
}

/// A link frame's header: payload length u32, type u8, flags u8, aux u16, connection id u64; all
/// big-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes that follow the header.
    pub payload_bytes: u32,
    /// What the frame is.
    pub link_type: LinkType,
    /// `FLAG_*`.
    pub flags: u8,
    /// A reason, a listener's index or a refusal code, by type; else 0.
    pub aux: u16,
    /// The connection that the frame is about; 0 where the type has none. Of a RELAY that a gateway sends,
    /// or that goes to one session, the origin: see [`Self::origin`].
    pub connection: ConnectionId,
}

impl Header {
    /// A header without flags and aux.
    #[inline]
    pub const fn new(link_type: LinkType, connection: ConnectionId, payload_bytes: u32) -> Self {
        Self { payload_bytes, link_type, flags: 0, aux: 0, connection }
    }

    /// The same with this aux.
    #[inline]
    pub const fn aux(mut self, aux: u16) -> Self {
        self.aux = aux;
        self
    }

    /// The same with this reason as aux.
    #[inline]
    pub const fn reason(self, reason: Reason) -> Self {
        self.aux(reason.code() as u16)
    }

    /// The same with these `FLAG_*`.
    #[inline]
    pub const fn flags(mut self, flags: u8) -> Self {
        self.flags = flags;
        self
    }

    /// Of a RELAY: the session of the worker that sent it, or to which it goes; opaque to workers.
    #[inline]
    pub const fn origin(&self) -> u64 {
        self.connection.to_bits()
    }

    /// The reason in aux; [`Reason::Internal`] where this version does not know the code.
    pub fn aux_reason(&self) -> Reason {
        u8::try_from(self.aux).ok().and_then(Reason::from_code).unwrap_or(Reason::Internal)
    }

    /// The header's bytes.
    #[inline]
    pub const fn encode(self) -> [u8; HEADER_BYTES] {
        let [l0, l1, l2, l3] = self.payload_bytes.to_be_bytes();
        let [a0, a1] = self.aux.to_be_bytes();
        let [c0, c1, c2, c3, c4, c5, c6, c7] = self.connection.to_bits().to_be_bytes();
        [l0, l1, l2, l3, self.link_type as u8, self.flags, a0, a1, c0, c1, c2, c3, c4, c5, c6, c7]
    }

    /// Decodes a header and checks type, flags and length.
    #[inline]
    pub const fn decode(bytes: [u8; HEADER_BYTES], payload_bytes_max: u32) -> Result<Self, LinkError> {
        let [l0, l1, l2, l3, code, flags, a0, a1, c0, c1, c2, c3, c4, c5, c6, c7] = bytes;
        let Some(link_type) = LinkType::from_code(code) else {
            return Err(LinkError::UnknownType(code));
        };
        let allowed = match link_type {
            LinkType::Broadcast => FLAG_ALL | FLAG_TEXT,
            LinkType::Data | LinkType::Multicast => FLAG_RESENT | FLAG_TEXT,
            LinkType::Relay => FLAG_RESENT | FLAG_ALL | FLAG_DIRECT,
            _ if link_type.is_sequenced() => FLAG_RESENT,
            _ => 0,
        };
        // A RELAY goes to one or to all: both bits together are an error, and no other type has DIRECT.
        let to_one_and_all = flags & (FLAG_ALL | FLAG_DIRECT) == FLAG_ALL | FLAG_DIRECT;
        if flags & !allowed != 0 || to_one_and_all {
            return Err(LinkError::ReservedFlags(flags));
        }
        let payload_bytes = u32::from_be_bytes([l0, l1, l2, l3]);
        if payload_bytes > payload_bytes_max {
            return Err(LinkError::Oversize(payload_bytes));
        }
        Ok(Self {
            payload_bytes,
            link_type,
            flags,
            aux: u16::from_be_bytes([a0, a1]),
            connection: ConnectionId::from_bits(u64::from_be_bytes([c0, c1, c2, c3, c4, c5, c6, c7])),
        })
    }

    /// Bytes of header and payload together.
    #[inline]
    pub const fn frame_bytes(&self) -> usize {
        HEADER_BYTES + self.payload_bytes as usize
    }
}

/// What [`split`] found at the front of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split<'a> {
    /// A whole frame.
    Frame {
        /// Its header.
        header: Header,
        /// Its payload.
        payload: &'a [u8],
    },
    /// Not enough: this many bytes in all, from the same front, allow the next step.
    Need {
        /// Bytes needed, header included; more than were given.
        total_bytes: usize,
    },
}

/// Splits the first link frame off the front of `bytes`.
#[inline]
pub fn split(bytes: &[u8], payload_bytes_max: u32) -> Result<Split<'_>, LinkError> {
    let Some(&header) = bytes.first_chunk::<HEADER_BYTES>() else {
        return Ok(Split::Need { total_bytes: HEADER_BYTES });
    };
    let header = Header::decode(header, payload_bytes_max)?;
    match bytes.get(HEADER_BYTES..header.frame_bytes()) {
        Some(payload) => Ok(Split::Frame { header, payload }),
        None => Ok(Split::Need { total_bytes: header.frame_bytes() }),
    }
}
