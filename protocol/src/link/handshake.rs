//! The handshake of a link: LINK_HELLO, LINK_WELCOME, LINK_PROOF, or LINK_REFUSE.
//!
//! It proves the secret in both directions (see [`crate::auth`]) and says whether a link session
//! goes on: the position each side has received tells the other which retained frames to drop and
//! which to send again.

use super::{Header, LinkError, LinkType, VERSION};
use crate::{ConnectionId, InstanceId, auth::PROOF_BYTES, edge::FRAME_BYTES_LIMIT, wire::Reader};

/// Bytes of a nonce.
pub const NONCE_BYTES: usize = 16;
/// The longest payload of a handshake frame that a receiver need take, in bytes.
pub const PAYLOAD_BYTES_MAX: u32 = 256;
/// Shards of a gateway: as many as a connection id can name.
pub const SHARDS_MAX: u16 = 256;
const FLAG_RESUMED: u8 = 0x01;
const NO_CONNECTION: ConnectionId = ConnectionId::from_bits(0);

/// LINK_HELLO: the gateway shard introduces itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkHello {
    /// The shard that dials; with the gateway's instance it names the session.
    pub shard: u16,
    /// How many shards the gateway has.
    pub shards: u16,
    /// This run of the gateway.
    pub gateway: InstanceId,
    /// Random, fresh for every TCP connection.
    pub nonce: [u8; NONCE_BYTES],
    /// The worker's instance of the session to resume; NONE asks for a new session.
    pub expected_worker: InstanceId,
    /// Sequenced frames of the worker that the gateway has handled in that session.
    pub received_position: u64,
    /// What the gateway grants the worker, in bytes.
    pub window_bytes: u32,
    /// The longest payload of an edge MESSAGE, in bytes.
    pub frame_bytes_max: u32,
    /// Optional features that the gateway understands, a bit each. One is used only where both sides
    /// state it; this version defines none, and bits that are not defined are ignored.
    pub capabilities: u32,
    /// After how much silence the gateway gives a worker up, in milliseconds. A worker should keep a
    /// session for several times as long.
    pub link_failover_ms: u32,
    /// After how much silence the gateway sends PING, in milliseconds; 0: never.
    pub link_keepalive_ms: u32,
    /// Silence after which the gateway closes a client, in milliseconds; 0: never.
    pub idle_timeout_ms: u32,
    /// Messages per second that a client may send; 0: no limit.
    pub messages_per_s_max: u32,
}

impl LinkHello {
    /// Bytes of the payload.
    pub const PAYLOAD_BYTES: usize = 2 + 2 + 2 + 2 + 16 + NONCE_BYTES + 16 + 8 + 4 + 4 + 5 * 4;

    /// The payload, which is also what the proofs cover.
    pub fn encode_payload(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::PAYLOAD_BYTES);
        out.extend([VERSION, 0]);
        out.extend(self.shard.to_be_bytes());
        out.extend(self.shards.to_be_bytes());
        out.extend([0, 0]);
        out.extend(self.gateway.0);
        out.extend(self.nonce);
        out.extend(self.expected_worker.0);
        out.extend(self.received_position.to_be_bytes());
        out.extend(self.window_bytes.to_be_bytes());
        out.extend(self.frame_bytes_max.to_be_bytes());
        out.extend(self.capabilities.to_be_bytes());
        out.extend(self.link_failover_ms.to_be_bytes());
        out.extend(self.link_keepalive_ms.to_be_bytes());
        out.extend(self.idle_timeout_ms.to_be_bytes());
        out.extend(self.messages_per_s_max.to_be_bytes());
        out
    }

    /// Decodes the payload.
    pub fn decode(payload: &[u8]) -> Result<Self, LinkError> {
        let mut reader = Reader::new(payload);
        check_version(reader.u8()?)?;
        check_flags(reader.u8()?, 0)?;
        let (shard, shards, reserved) = (reader.u16()?, reader.u16()?, reader.u16()?);
        let hello = Self {
            shard,
            shards,
            gateway: InstanceId(reader.array()?),
            nonce: reader.array()?,
            expected_worker: InstanceId(reader.array()?),
            received_position: reader.u64()?,
            window_bytes: reader.u32()?,
            frame_bytes_max: reader.u32()?,
            capabilities: reader.u32()?,
            link_failover_ms: reader.u32()?,
            link_keepalive_ms: reader.u32()?,
            idle_timeout_ms: reader.u32()?,
            messages_per_s_max: reader.u32()?,
        };
        // A limit over what an edge header can state would overflow the sums made of it.
        let in_range = shard < shards && shards <= SHARDS_MAX && hello.frame_bytes_max <= FRAME_BYTES_LIMIT;
        if !reader.is_empty() || reserved != 0 || !in_range || hello.gateway == InstanceId::NONE {
            return Err(LinkError::Malformed);
        }
        Ok(hello)
    }
}

/// LINK_WELCOME: the worker introduces itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkWelcome {
    /// Whether the session that LINK_HELLO named goes on. If not, both sides start at position 0.
    pub resumed: bool,
    /// What the worker grants the gateway, in bytes.
    pub window_bytes: u32,
    /// This run of the worker.
    pub worker: InstanceId,
    /// Random, fresh for every TCP connection.
    pub nonce: [u8; NONCE_BYTES],
    /// Sequenced frames of the gateway that the worker has handled; 0 in a new session.
    pub received_position: u64,
    /// Optional features that the worker understands; see [`LinkHello::capabilities`].
    pub capabilities: u32,
    /// The worker's proof; none where no secret is configured.
    pub proof: Option<[u8; PROOF_BYTES]>,
}

impl LinkWelcome {
    /// Bytes of the payload before the proof field; the proofs cover these.
    pub const PROVEN_BYTES: usize = 2 + 2 + 4 + 16 + NONCE_BYTES + 8 + 4;

    /// The payload without its proof field.
    pub fn encode_proven(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(Self::PROVEN_BYTES + 1 + PROOF_BYTES);
        out.extend([VERSION, if self.resumed { FLAG_RESUMED } else { 0 }, 0, 0]);
        out.extend(self.window_bytes.to_be_bytes());
        out.extend(self.worker.0);
        out.extend(self.nonce);
        out.extend(self.received_position.to_be_bytes());
        out.extend(self.capabilities.to_be_bytes());
        out
    }

    /// The whole payload.
    pub fn encode_payload(&self) -> Vec<u8> {
        let mut out = self.encode_proven();
        encode_proof(self.proof, &mut out);
        out
    }

    /// Decodes the payload. The proof is over `payload[..PROVEN_BYTES]`.
    pub fn decode(payload: &[u8]) -> Result<Self, LinkError> {
        let mut reader = Reader::new(payload);
        check_version(reader.u8()?)?;
        let flags = reader.u8()?;
        check_flags(flags, FLAG_RESUMED)?;
        let reserved = reader.u16()?;
        let welcome = Self {
            resumed: flags & FLAG_RESUMED != 0,
            window_bytes: reader.u32()?,
            worker: InstanceId(reader.array()?),
            nonce: reader.array()?,
            received_position: reader.u64()?,
            capabilities: reader.u32()?,
            proof: decode_proof(&mut reader)?,
        };
        let consistent = welcome.resumed || welcome.received_position == 0;
        let usable = welcome.window_bytes > 0 && welcome.worker != InstanceId::NONE;
        if !reader.is_empty() || reserved != 0 || !consistent || !usable {
            return Err(LinkError::Malformed);
        }
        Ok(welcome)
    }
}

/// LINK_PROOF: the gateway's proof; sent, empty, without a secret too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkProof {
    /// The gateway's proof; none where no secret is configured.
    pub proof: Option<[u8; PROOF_BYTES]>,
}

impl LinkProof {
    /// The payload.
    pub fn encode_payload(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1 + PROOF_BYTES);
        encode_proof(self.proof, &mut out);
        out
    }

    /// Decodes the payload.
    pub fn decode(payload: &[u8]) -> Result<Self, LinkError> {
        let mut reader = Reader::new(payload);
        let proof = decode_proof(&mut reader)?;
        if reader.is_empty() { Ok(Self { proof }) } else { Err(LinkError::Malformed) }
    }
}

/// Why a handshake failed: the aux field of LINK_REFUSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[repr(u16)]
pub enum Refusal {
    /// The version is not spoken here.
    #[error("the link protocol version is not spoken here")]
    Version = 1,
    /// A secret is required here and the peer proved none.
    #[error("a link secret is required")]
    SecretRequired = 2,
    /// The proof is wrong: the secrets differ.
    #[error("the link secrets differ")]
    SecretWrong = 3,
    /// A handshake frame does not follow its layout, or is not the one expected.
    #[error("malformed link handshake")]
    Malformed = 4,
    /// The gateway has a link to this worker's process already, under another name.
    #[error("this worker is linked under another name already")]
    AlreadyLinked = 5,
}

impl Refusal {
    /// The refusal with this code; unknown codes count as [`Refusal::Malformed`].
    pub const fn from_code(code: u16) -> Self {
        match code {
            1 => Self::Version,
            2 => Self::SecretRequired,
            3 => Self::SecretWrong,
            5 => Self::AlreadyLinked,
            _ => Self::Malformed,
        }
    }

    /// The whole LINK_REFUSE frame.
    pub const fn encode(self) -> [u8; super::HEADER_BYTES] {
        Header::new(LinkType::LinkRefuse, NO_CONNECTION, 0).aux(self as u16).encode()
    }
}

/// Appends a whole handshake frame: header of `link_type`, then `payload`.
pub fn encode_frame(link_type: LinkType, payload: &[u8], out: &mut Vec<u8>) {
    out.extend(Header::new(link_type, NO_CONNECTION, payload.len() as u32).encode());
    out.extend(payload);
}

fn check_version(version: u8) -> Result<(), LinkError> {
    if version == VERSION { Ok(()) } else { Err(LinkError::Version(version)) }
}

fn check_flags(flags: u8, allowed: u8) -> Result<(), LinkError> {
    if flags & !allowed == 0 { Ok(()) } else { Err(LinkError::ReservedFlags(flags)) }
}

fn encode_proof(proof: Option<[u8; PROOF_BYTES]>, out: &mut Vec<u8>) {
    match proof {
        None => out.push(0),
        Some(proof) => {
            out.push(PROOF_BYTES as u8);
            out.extend(proof);
        }
    }
}

fn decode_proof(reader: &mut Reader<'_>) -> Result<Option<[u8; PROOF_BYTES]>, LinkError> {
    match usize::from(reader.u8()?) {
        0 => Ok(None),
        PROOF_BYTES => Ok(Some(reader.array()?)),
        _ => Err(LinkError::Malformed),
    }
}
