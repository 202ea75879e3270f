//! A TCP connection of a worker: handshake, frames, acknowledgements.

use std::collections::VecDeque;

use roost_protocol::{
    auth::{self, Side},
    link::{self, Header, LinkHello, LinkProof, LinkType, LinkWelcome, Refusal, Split, handshake},
};

use super::{NONE, Worker, session::Session};
use crate::sim::{
    kernel::World,
    ledger::Ledger,
    net::{ConnId, PeerRead},
};

/// A TCP connection with the gateway.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) conn: ConnId,
    pub(super) rx: Vec<u8>,
    pub(super) tx: VecDeque<u8>,
    pub(super) phase: Phase,
    /// Garbage was written: nothing more makes sense.
    pub(super) spoilt: bool,
    /// Sequenced frames received, counted from the session's beginning.
    pub(super) received: u64,
    pub(super) received_bytes: u64,
    pub(super) acknowledged: u64,
    /// Bytes of the frames received beyond `acknowledged`.
    pub(super) unacknowledged: VecDeque<u64>,
    pub(super) window_out: u64,
    pub(super) frame_bytes_max: u32,
}

#[derive(Debug)]
pub(super) enum Phase {
    Hello,
    Proof { hello: Vec<u8>, proven: Vec<u8>, resumes: Option<Resumption> },
    Running,
}

/// A session that is about to go on: which, and from which position.
#[derive(Clone, Copy, Debug)]
pub(super) struct Resumption {
    pub(super) serial: u32,
    pub(super) stated: u64,
}

impl Wire {
    pub(super) fn new(conn: ConnId) -> Self {
        Self {
            conn,
            rx: Vec::new(),
            tx: VecDeque::new(),
            phase: Phase::Hello,
            spoilt: false,
            received: 0,
            received_bytes: 0,
            acknowledged: 0,
            unacknowledged: VecDeque::new(),
            window_out: 0,
            frame_bytes_max: 0,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running) && !self.spoilt
    }
}

impl Worker {
    /// Reads and handles; false when the TCP connection is of no more use.
    pub(super) fn run_wire(&mut self, world: &mut World, ledger: &mut Ledger, index: usize) -> bool {
        let wire = &mut self.wires[index];
        let mut budget = self.habits.read_bytes_max;
        let mut alive = true;
        while budget > 0 && alive {
            match world.net.peer_read(wire.conn, budget) {
                PeerRead::Data(bytes) => {
                    budget -= bytes.len();
                    wire.rx.extend(bytes);
                }
                PeerRead::Nothing => break,
                PeerRead::Eof | PeerRead::Reset => alive = false,
            }
        }
        let mut taken = 0;
        let rx = std::mem::take(&mut self.wires[index].rx);
        loop {
            match link::split(&rx[taken..], u32::MAX) {
                Ok(Split::Frame { header, payload }) => {
                    taken += header.frame_bytes();
                    if !self.on_frame(world, ledger, index, header, payload) {
                        return false;
                    }
                }
                Ok(Split::Need { .. }) => break,
                Err(error) => {
                    ledger.violation(format!("invariant whole-frames: a worker reads {error}"));
                    return false;
                }
            }
        }
        let Some(wire) = self.wires.get_mut(index) else { return false };
        wire.rx = rx[taken..].to_vec();
        if alive && world.net.peer_unread(wire.conn) > 0 {
            let pause = self.rng.range(self.habits.pace_us.0, self.habits.pace_us.1);
            world.wake_actor_at(world.now_us() + pause, self.actor);
        }
        alive
    }

    fn on_frame(
        &mut self,
        world: &mut World,
        ledger: &mut Ledger,
        index: usize,
        header: Header,
        payload: &[u8],
    ) -> bool {
        world.note(|| {
            let Header { link_type, flags, connection, .. } = header;
            format!("worker {} reads {link_type:?} {flags:#x} {connection:?}", self.index)
        });
        match (&self.wires[index].phase, header.link_type) {
            (Phase::Hello, LinkType::LinkHello) => self.on_hello(world, index, payload),
            (Phase::Proof { .. }, LinkType::LinkProof) => self.on_proof(world, ledger, index, payload),
            (Phase::Running, _) if header.link_type.is_sequenced() => {
                self.on_sequenced(ledger, index, header, payload);
                true
            }
            (Phase::Running, LinkType::Ack) => self.on_ack(ledger, payload),
            (Phase::Running, LinkType::Ping) => {
                let mut pong = Header::new(LinkType::Pong, NONE, payload.len() as u32).encode().to_vec();
                pong.extend(payload);
                if !self.wires[index].spoilt {
                    self.wires[index].tx.extend(pong);
                }
                true
            }
            (Phase::Running, LinkType::Pong) => true,
            // Where it is one process under two names.
            (Phase::Proof { .. }, LinkType::LinkRefuse) => false,
            (phase, other) => {
                ledger.violation(format!("invariant link-protocol: {other:?} in {phase:?}"));
                false
            }
        }
    }

    fn on_hello(&mut self, world: &World, index: usize, payload: &[u8]) -> bool {
        let hello = LinkHello::decode(payload).expect("the gateway's LINK_HELLO decodes");
        let resumes =
            self.session.as_ref().filter(|_| hello.expected_worker == self.instance).and_then(|s| {
                let known = (s.acked..=s.acked + s.retained.len() as u64).contains(&hello.received_position);
                known.then(|| Resumption { serial: s.serial, stated: s.settled_at(hello.received_position) })
            });
        world
            .note(|| format!("{} hears {:?} and says {resumes:?}", self.describe(), hello.received_position));
        let mut nonce = [0; handshake::NONCE_BYTES];
        self.rng.fill(&mut nonce);
        let mut welcome = LinkWelcome {
            resumed: resumes.is_some(),
            window_bytes: self.habits.window_bytes,
            worker: self.instance,
            nonce,
            received_position: resumes.map_or(0, |resumption| resumption.stated),
            capabilities: 0,
            proof: None,
        };
        let proven = welcome.encode_proven();
        welcome.proof =
            self.habits.secret.as_deref().map(|secret| auth::prove(secret, Side::Worker, payload, &proven));
        let mut out = Vec::new();
        handshake::encode_frame(LinkType::LinkWelcome, &welcome.encode_payload(), &mut out);
        let wire = &mut self.wires[index];
        wire.window_out = u64::from(hello.window_bytes);
        wire.frame_bytes_max = hello.frame_bytes_max;
        wire.tx.extend(out);
        wire.phase = Phase::Proof { hello: payload.to_vec(), proven, resumes };
        true
    }

    fn on_proof(&mut self, world: &mut World, ledger: &mut Ledger, index: usize, payload: &[u8]) -> bool {
        let Phase::Proof { hello, proven, resumes } =
            std::mem::replace(&mut self.wires[index].phase, Phase::Running)
        else {
            unreachable!("the caller matched")
        };
        let proof = LinkProof::decode(payload).expect("the gateway's LINK_PROOF decodes").proof;
        if let Some(secret) = self.habits.secret.as_deref() {
            let valid =
                proof.is_some_and(|proof| auth::verify(secret, Side::Gateway, &hello, &proven, &proof));
            if !valid {
                ledger.violation("invariant link-protocol: the gateway's proof is wrong".into());
            }
        }
        if self.refuses_proofs {
            self.wires[index].tx.extend(Refusal::SecretRequired.encode());
            self.write(world, index);
            return false;
        }
        self.proven.push(self.instance);
        let hello = LinkHello::decode(&hello).expect("it decoded before");
        // An older TCP connection of the session is superseded.
        let keep = self.wires[index].conn;
        let old: Vec<ConnId> = self
            .wires
            .iter()
            .filter(|wire| wire.conn != keep && matches!(wire.phase, Phase::Running))
            .map(|wire| wire.conn)
            .collect();
        match resumes {
            Some(Resumption { serial, stated }) => {
                let Some(session) = self.session.as_mut().filter(|s| s.serial == serial) else {
                    return false;
                };
                session.resume(hello.received_position);
                let wire = &mut self.wires[index];
                (wire.received, wire.acknowledged) = (stated, stated);
            }
            None => self.session = Some(Session::new(ledger.begin_session())),
        }
        // The link is up at once.
        let wire = &mut self.wires[index];
        wire.tx.extend(Header::new(LinkType::Ack, NONE, 8).encode());
        wire.tx.extend(wire.acknowledged.to_be_bytes());
        for conn in old {
            let at = self.wires.iter().position(|wire| wire.conn == conn).expect("just listed");
            self.wires[at].spoilt = true;
            world.net.peer_close(conn);
        }
        true
    }

    fn on_ack(&mut self, ledger: &mut Ledger, payload: &[u8]) -> bool {
        let position = link::body::decode_u64(payload).expect("the gateway's ACK decodes");
        let Some(session) = &mut self.session else { return false };
        if position < session.acked || position > session.sent {
            ledger.violation(format!(
                "invariant link-protocol: ACK of {position}, not within {}..={}",
                session.acked, session.sent
            ));
            return false;
        }
        session.on_acked(position);
        true
    }
}
