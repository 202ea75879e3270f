//! The handshake of one TCP connection, sans-IO: LINK_HELLO in, LINK_WELCOME out, LINK_PROOF in.

use roost_protocol::{
    InstanceId,
    auth::{self, Side},
    edge,
    link::{
        self, HEADER_BYTES, LinkError, LinkHello, LinkProof, LinkType, LinkWelcome, Refusal,
        handshake::{NONCE_BYTES, encode_frame},
    },
};

use super::Position;
use crate::id::LinkId;

/// The longest payload of a handshake frame, in bytes; all have fixed layouts well below.
pub const PAYLOAD_BYTES_MAX: u32 = 256;

/// What the worker brings to every handshake.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// This run of the worker.
    pub worker: InstanceId,
    /// The link secret, if one is required.
    pub secret: Option<&'a [u8]>,
    /// What a gateway is granted.
    pub window_bytes: u32,
}

/// A session that goes on over a new TCP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// The session.
    pub link: LinkId,
    /// Which of its TCP connections was the last at LINK_HELLO.
    pub epoch: u32,
    /// The position that the worker states.
    pub position: Position,
}

/// A handshake that waits for LINK_PROOF.
#[derive(Debug)]
pub struct Handshake {
    /// What the gateway said.
    pub hello: LinkHello,
    /// The session that goes on; none: a new one begins.
    pub resumed: Option<Resumed>,
    /// What the gateway was granted.
    pub window_bytes: u32,
    hello_payload: Vec<u8>,
    welcome_proven: Vec<u8>,
}

/// Decodes LINK_HELLO and checks that this worker could serve that gateway.
pub fn read_hello(payload: &[u8]) -> Result<LinkHello, Refusal> {
    let hello = LinkHello::decode(payload).map_err(|error| match error {
        LinkError::Version(_) => Refusal::Version,
        _ => Refusal::Malformed,
    })?;
    if hello.window_bytes < window_bytes_min(&hello) {
        return Err(Refusal::Malformed);
    }
    Ok(hello)
}

/// The smallest window through which every DATA frame fits, and a MULTICAST to one client.
fn window_bytes_min(hello: &LinkHello) -> u32 {
    (HEADER_BYTES + 4 + 8 + edge::HEADER_BYTES) as u32 + hello.frame_bytes_max
}

impl Handshake {
    /// Answers LINK_HELLO: the handshake, and the LINK_WELCOME frame to send.
    ///
    /// `hello` is what [`read_hello`] made of `payload`; `resumed` the position from which the
    /// session goes on, if it does.
    pub fn welcome(
        identity: &Identity<'_>,
        hello: LinkHello,
        payload: &[u8],
        resumed: Option<Resumed>,
        nonce: [u8; NONCE_BYTES],
    ) -> (Self, Vec<u8>) {
        let frame_max = HEADER_BYTES as u32 + link::payload_bytes_max(hello.frame_bytes_max);
        let mut welcome = LinkWelcome {
            resumed: resumed.is_some(),
            window_bytes: identity.window_bytes.max(frame_max),
            worker: identity.worker,
            nonce,
            received_position: resumed.map_or(0, |resumed| resumed.position.frames),
            capabilities: 0,
            proof: None,
        };
        let welcome_proven = welcome.encode_proven();
        welcome.proof =
            identity.secret.map(|secret| auth::prove(secret, Side::Worker, payload, &welcome_proven));
        let mut frame = Vec::new();
        encode_frame(LinkType::LinkWelcome, &welcome.encode_payload(), &mut frame);
        let handshake = Self {
            hello,
            resumed,
            window_bytes: welcome.window_bytes,
            hello_payload: payload.to_vec(),
            welcome_proven,
        };
        (handshake, frame)
    }

    /// Checks LINK_PROOF. Nothing about any session may change before this has succeeded.
    pub fn verify(&self, identity: &Identity<'_>, payload: &[u8]) -> Result<(), Refusal> {
        let LinkProof { proof } = LinkProof::decode(payload).map_err(|_| Refusal::Malformed)?;
        let Some(secret) = identity.secret else { return Ok(()) };
        let proof = proof.ok_or(Refusal::SecretRequired)?;
        if auth::verify(secret, Side::Gateway, &self.hello_payload, &self.welcome_proven, &proof) {
            Ok(())
        } else {
            Err(Refusal::SecretWrong)
        }
    }
}
