//! Any link frame as one typed value.

use super::{
    Accept, Ending, Header, LinkError, LinkHello, LinkProof, LinkType, LinkWelcome, Open, Refusal, Relay,
    Reopen, body,
};
use crate::edge::PING_BYTES_MAX;

/// The payload of a link frame, decoded and checked against its type's layout; flags, aux and
/// connection id stand in the [`Header`]. Convenient for tools and tests; a gateway or worker on
/// its hot path picks what it needs from [`super::body`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// See [`LinkHello`].
    LinkHello(LinkHello),
    /// See [`LinkWelcome`].
    LinkWelcome(LinkWelcome),
    /// See [`LinkProof`].
    LinkProof(LinkProof),
    /// The refusal is aux.
    LinkRefuse(Refusal),
    /// Sequenced frames that the sender has handled.
    Ack(u64),
    /// The payload that PONG must repeat.
    Ping(&'a [u8]),
    /// The payload of the PING it answers.
    Pong(&'a [u8]),
    /// The worker wants to leave.
    Draining,
    /// See [`Open`]; the listener is aux.
    Open(Open<'a>),
    /// See [`Accept`].
    Accept(Accept<'a>),
    /// See [`Ending`]; the reason is aux.
    Reject(Ending<'a>),
    /// The payload of the MESSAGE.
    Data(&'a [u8]),
    /// The reason is aux.
    Closed,
    /// See [`Ending`]; the reason is aux.
    Close(Ending<'a>),
    /// One MESSAGE for many.
    Multicast {
        /// The bytes of the connection ids; [`body::multicast_ids`] walks them.
        ids: &'a [u8],
        /// The payload of the MESSAGE.
        message: &'a [u8],
    },
    /// The payload of the MESSAGE.
    Broadcast(&'a [u8]),
    /// See [`Reopen`]; the listener is aux.
    Reopen(Reopen),
    /// Nothing more follows for the connection.
    Moved,
    /// See [`Relay`].
    Relay(Relay<'a>),
}

impl<'a> Frame<'a> {
    /// Decodes the payload of a frame whose header has been checked, as by
    /// [`split`](super::split).
    pub fn decode(header: &Header, payload: &'a [u8], frame_bytes_max: u32) -> Result<Self, LinkError> {
        let message = |frame| body::message_payload(frame, frame_bytes_max);
        Ok(match header.link_type {
            LinkType::LinkHello => Self::LinkHello(LinkHello::decode(payload)?),
            LinkType::LinkWelcome => Self::LinkWelcome(LinkWelcome::decode(payload)?),
            LinkType::LinkProof => Self::LinkProof(LinkProof::decode(payload)?),
            LinkType::LinkRefuse => empty(payload, Self::LinkRefuse(Refusal::from_code(header.aux)))?,
            LinkType::Ack => Self::Ack(body::decode_u64(payload)?),
            LinkType::Ping => Self::Ping(short(payload)?),
            LinkType::Pong => Self::Pong(short(payload)?),
            LinkType::Draining => empty(payload, Self::Draining)?,
            LinkType::Open => Self::Open(Open::decode(payload)?),
            LinkType::Accept => Self::Accept(Accept::decode(payload)?),
            LinkType::Reject => Self::Reject(Ending::decode(payload)?),
            LinkType::Data => Self::Data(message(payload)?),
            LinkType::Closed => empty(payload, Self::Closed)?,
            LinkType::Close => Self::Close(Ending::decode(payload)?),
            LinkType::Multicast => {
                let (ids, frame) = body::split_multicast(payload)?;
                Self::Multicast { ids, message: message(frame)? }
            }
            LinkType::Broadcast => Self::Broadcast(message(payload)?),
            LinkType::Reopen => Self::Reopen(Reopen::decode(payload)?),
            LinkType::Moved => empty(payload, Self::Moved)?,
            LinkType::Relay => Self::Relay(Relay::decode(payload)?),
        })
    }

    /// Appends the whole frame; flags, aux and connection are those of `header`, type and length
    /// follow from the frame. A retry-after of 0 is written out, not left empty; code and text are left
    /// out where there is neither.
    ///
    /// Panics where a field is over its limit.
    pub fn encode(&self, header: Header, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend([0; super::HEADER_BYTES]);
        self.encode_payload(out);
        let payload_bytes = u32::try_from(out.len() - start - super::HEADER_BYTES).expect("fits u32");
        let mut header = Header { payload_bytes, link_type: self.link_type(), ..header };
        if let Self::LinkRefuse(refusal) = *self {
            header.aux = refusal as u16;
        }
        out[start..start + super::HEADER_BYTES].copy_from_slice(&header.encode());
    }

    /// The type byte of the frame.
    pub const fn link_type(&self) -> LinkType {
        match self {
            Self::LinkHello(_) => LinkType::LinkHello,
            Self::LinkWelcome(_) => LinkType::LinkWelcome,
            Self::LinkProof(_) => LinkType::LinkProof,
            Self::LinkRefuse(_) => LinkType::LinkRefuse,
            Self::Ack(_) => LinkType::Ack,
            Self::Ping(_) => LinkType::Ping,
            Self::Pong(_) => LinkType::Pong,
            Self::Draining => LinkType::Draining,
            Self::Open(_) => LinkType::Open,
            Self::Accept(_) => LinkType::Accept,
            Self::Reject(_) => LinkType::Reject,
            Self::Data(_) => LinkType::Data,
            Self::Closed => LinkType::Closed,
            Self::Close(_) => LinkType::Close,
            Self::Multicast { .. } => LinkType::Multicast,
            Self::Broadcast(_) => LinkType::Broadcast,
            Self::Reopen(_) => LinkType::Reopen,
            Self::Moved => LinkType::Moved,
            Self::Relay(_) => LinkType::Relay,
        }
    }

    fn encode_payload(&self, out: &mut Vec<u8>) {
        use crate::edge::{FrameType, encode_frame};
        match *self {
            Self::LinkHello(hello) => out.extend(hello.encode_payload()),
            Self::LinkWelcome(welcome) => out.extend(welcome.encode_payload()),
            Self::LinkProof(proof) => out.extend(proof.encode_payload()),
            Self::Ack(position) => out.extend(position.to_be_bytes()),
            Self::Ping(payload) | Self::Pong(payload) => out.extend(payload),
            Self::LinkRefuse(_) | Self::Draining | Self::Closed | Self::Moved => {}
            Self::Open(open) => open.encode_payload(out),
            Self::Accept(accept) => accept.encode_payload(out),
            Self::Reject(ending) | Self::Close(ending) => ending.encode_payload(out),
            Self::Data(message) | Self::Broadcast(message) => encode_frame(FrameType::Message, message, out),
            Self::Multicast { ids, message } => {
                let count = u32::try_from(ids.len() / 8).expect("fits u32");
                out.extend(count.to_be_bytes());
                out.extend(ids);
                encode_frame(FrameType::Message, message, out);
            }
            Self::Reopen(reopen) => out.extend(reopen.encode_payload()),
            Self::Relay(relay) => relay.encode_payload(out),
        }
    }
}

fn empty<'a>(payload: &[u8], frame: Frame<'a>) -> Result<Frame<'a>, LinkError> {
    if payload.is_empty() { Ok(frame) } else { Err(LinkError::Malformed) }
}

fn short(payload: &[u8]) -> Result<&[u8], LinkError> {
    if payload.len() <= PING_BYTES_MAX { Ok(payload) } else { Err(LinkError::Malformed) }
}
