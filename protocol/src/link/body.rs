//! Payloads of the frames of a running link.
//!
//! ACK carries a position (u64); PING and PONG at most 8 opaque bytes; DATA and BROADCAST one whole
//! edge frame; CLOSED, MOVED and DRAINING nothing. How a worker answers OPEN and ends connections
//! stands in [`super::answer`]; the rest is laid out here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::LinkError;
use crate::{ConnectionId, SessionRef, edge, wire::Reader};

/// The longest meta in OPEN, in bytes.
pub const META_BYTES_MAX: usize = 8_192;

/// How a client frames what it says; a worker sees edge MESSAGE frames whatever it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Framing {
    /// The edge protocol (SPEC.md, part 1).
    #[default]
    Edge = 0,
    /// WebSocket (RFC 6455).
    Websocket = 1,
    /// MQTT.
    Mqtt = 2,
    /// Frames of the application's own, cut by their length.
    Frames = 3,
}

impl Framing {
    /// Every framing, in the order of the codes.
    pub const ALL: [Self; 4] = [Self::Edge, Self::Websocket, Self::Mqtt, Self::Frames];

    /// The byte in OPEN and REOPEN.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The framing with this code.
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Edge),
            1 => Some(Self::Websocket),
            2 => Some(Self::Mqtt),
            3 => Some(Self::Frames),
            _ => None,
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, LinkError> {
        Self::from_code(reader.u8()?).ok_or(LinkError::Malformed)
    }
}

/// OPEN: a client wants a session. The listener's index stands in the header's aux.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open<'a> {
    /// [`crate::hash::routing_hash`] of the key.
    pub routing_hash: u64,
    /// How the client frames what it says.
    pub framing: Framing,
    /// The client's address, from the PROXY header where there is one; none for Unix sockets.
    pub peer: Option<SocketAddr>,
    /// The routing key of HELLO.
    pub key: &'a [u8],
    /// The auth token of HELLO.
    pub token: &'a [u8],
    /// Lines `name: value`, each ended by CRLF, about the client's request or certificate; at most
    /// [`META_BYTES_MAX`] bytes. Empty where a listener speaks the edge protocol over plain TCP.
    pub meta: &'a [u8],
}

impl<'a> Open<'a> {
    /// The longest payload without meta: IPv6, longest key and token.
    pub const PLAIN_BYTES_MAX: usize = 8 + 1 + 1 + 16 + 2 + Self::COUNTED_BYTES_MAX;
    /// The longest payload.
    pub const PAYLOAD_BYTES_MAX: usize = Self::PLAIN_BYTES_MAX + META_BYTES_MAX;
    /// Key and token at their longest, and the lengths of all three fields.
    const COUNTED_BYTES_MAX: usize = 2 + edge::KEY_BYTES_MAX + 2 + edge::TOKEN_BYTES_MAX + 2;

    /// An OPEN for a client that speaks the edge protocol over plain TCP: without meta.
    pub const fn edge(routing_hash: u64, peer: Option<SocketAddr>, key: &'a [u8], token: &'a [u8]) -> Self {
        Self { routing_hash, framing: Framing::Edge, peer, key, token, meta: b"" }
    }

    /// Appends the payload: hash u64, framing u8, family u8 (0, 4 or 6), address (0, 4 or 16 bytes),
    /// port u16 (where there is an address), key, token and meta, each behind a u16 length.
    pub fn encode_payload(&self, out: &mut Vec<u8>) {
        out.extend(self.routing_hash.to_be_bytes());
        out.push(self.framing.code());
        match self.peer.map(|peer| (peer.ip(), peer.port())) {
            None => out.push(0),
            Some((IpAddr::V4(ip), port)) => {
                out.push(4);
                out.extend(ip.octets());
                out.extend(port.to_be_bytes());
            }
            Some((IpAddr::V6(ip), port)) => {
                out.push(6);
                out.extend(ip.octets());
                out.extend(port.to_be_bytes());
            }
        }
        for field in [self.key, self.token, self.meta] {
            out.extend((field.len() as u16).to_be_bytes());
            out.extend(field);
        }
    }

    /// Decodes the payload.
    pub fn decode(payload: &'a [u8]) -> Result<Self, LinkError> {
        let mut reader = Reader::new(payload);
        let routing_hash = reader.u64()?;
        let framing = Framing::read(&mut reader)?;
        let ip = match reader.u8()? {
            0 => None,
            4 => Some(IpAddr::V4(Ipv4Addr::from(reader.array::<4>()?))),
            6 => Some(IpAddr::V6(Ipv6Addr::from(reader.array::<16>()?))),
            _ => return Err(LinkError::Malformed),
        };
        let peer = match ip {
            None => None,
            Some(ip) => Some(SocketAddr::new(ip, reader.u16()?)),
        };
        let (key, token, meta) = (reader.counted()?, reader.counted()?, reader.counted()?);
        let too_long = key.len() > edge::KEY_BYTES_MAX
            || token.len() > edge::TOKEN_BYTES_MAX
            || meta.len() > META_BYTES_MAX;
        if !reader.is_empty() || too_long {
            return Err(LinkError::Malformed);
        }
        Ok(Self { routing_hash, framing, peer, key, token, meta })
    }
}

/// REOPEN: a connection that another worker had. The listener's index stands in the header's aux.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reopen {
    /// The routing hash that OPEN stated, or ACCEPT since.
    pub routing_hash: u64,
    /// What the first worker answered in ACCEPT.
    pub session: SessionRef,
    /// How the client frames what it says.
    pub framing: Framing,
}

impl Reopen {
    /// Bytes of the payload.
    pub const PAYLOAD_BYTES: usize = 8 + 8 + 1;

    /// The payload.
    pub fn encode_payload(&self) -> [u8; Self::PAYLOAD_BYTES] {
        let mut out = [0; Self::PAYLOAD_BYTES];
        out[..8].copy_from_slice(&self.routing_hash.to_be_bytes());
        out[8..16].copy_from_slice(&self.session.0.to_be_bytes());
        out[16] = self.framing.code();
        out
    }

    /// Decodes the payload.
    pub fn decode(payload: &[u8]) -> Result<Self, LinkError> {
        let mut reader = Reader::new(payload);
        let (routing_hash, session) = (reader.u64()?, SessionRef(reader.u64()?));
        let reopen = Self { routing_hash, session, framing: Framing::read(&mut reader)? };
        if reader.is_empty() { Ok(reopen) } else { Err(LinkError::Malformed) }
    }
}

/// RELAY: a payload for another worker. The gateway hands it, unchanged, to the worker that owns the
/// hash; with [`FLAG_DIRECT`](super::header::FLAG_DIRECT) to the session that the header's connection id
/// names, with [`FLAG_ALL`](super::header::FLAG_ALL) to all other workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relay<'a> {
    /// [`crate::hash::routing_hash`] of the key it is meant for; without meaning where a flag says to whom
    /// it goes.
    pub routing_hash: u64,
    /// Opaque to the gateway.
    pub payload: &'a [u8],
}

impl<'a> Relay<'a> {
    /// Appends the payload: hash u64, then the opaque bytes.
    pub fn encode_payload(&self, out: &mut Vec<u8>) {
        out.extend(self.routing_hash.to_be_bytes());
        out.extend(self.payload);
    }

    /// Decodes the payload.
    pub fn decode(payload: &'a [u8]) -> Result<Self, LinkError> {
        let mut reader = Reader::new(payload);
        Ok(Self { routing_hash: reader.u64()?, payload: reader.rest() })
    }
}

/// Splits a MULTICAST payload (count u32, that many connection ids u64, one edge frame) into the
/// bytes of the ids and the edge frame. [`multicast_ids`] walks the ids.
pub fn split_multicast(payload: &[u8]) -> Result<(&[u8], &[u8]), LinkError> {
    let mut reader = Reader::new(payload);
    let count = reader.u32()? as usize;
    let ids = reader.take(count.checked_mul(8).ok_or(LinkError::Malformed)?)?;
    Ok((ids, reader.rest()))
}

/// The connection ids in the bytes that [`split_multicast`] gave.
pub fn multicast_ids(ids: &[u8]) -> impl Iterator<Item = ConnectionId> {
    ids.as_chunks::<8>().0.iter().map(|&id| ConnectionId::from_bits(u64::from_be_bytes(id)))
}

/// The MESSAGE payload in the edge frame that DATA, MULTICAST and BROADCAST carry; an error unless
/// `frame` is exactly one whole MESSAGE within the limit.
pub fn message_payload(frame: &[u8], frame_bytes_max: u32) -> Result<&[u8], LinkError> {
    match edge::split(frame, frame_bytes_max) {
        Ok(edge::Split::Frame { frame_type: edge::FrameType::Message, frame: whole })
            if whole.len() == frame.len() =>
        {
            Ok(&frame[edge::HEADER_BYTES..])
        }
        _ => Err(LinkError::Malformed),
    }
}

/// A u64 payload: ACK's position.
pub fn decode_u64(payload: &[u8]) -> Result<u64, LinkError> {
    Ok(u64::from_be_bytes(payload.try_into().map_err(|_| LinkError::Malformed)?))
}
