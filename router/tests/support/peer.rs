//! The gateway's side of a link session, sans-IO and strict: what the worker does wrong panics.

use std::collections::VecDeque;

use roost_protocol::{
    ConnectionId, InstanceId, Reason,
    auth::{self, Side},
    edge,
    link::{
        Framing, HEADER_BYTES, Header, LinkHello, LinkProof, LinkType, LinkWelcome, Open, Refusal, Relay,
        Reopen, Split, handshake::encode_frame, header::FLAG_RESENT, payload_bytes_max, split,
    },
};

/// A frame of the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub header: Header,
    pub payload: Vec<u8>,
}

/// How far the handshake is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    Down,
    Welcome { hello: Vec<u8> },
    Up,
    Refused(Refusal),
}

/// One gateway shard.
#[derive(Clone, Debug)]
pub struct Peer {
    pub gateway: InstanceId,
    pub shard: u16,
    pub secret: Option<Vec<u8>>,
    pub frame_bytes_max: u32,
    /// What it states as its own, in milliseconds.
    pub link_failover_ms: u32,
    /// What the worker is granted.
    pub window_in_bytes: u32,
    pub stage: Stage,
    /// The worker of the session; NONE asks for a new one.
    pub worker: InstanceId,
    /// Sequenced frames of the worker, in order, over the session.
    pub inbox: Vec<Frame>,
    /// Unsequenced frames of the worker.
    pub control: Vec<Frame>,
    /// Each ACK of the worker: its position, and how many frames had come before it.
    pub acks: Vec<(u64, usize)>,
    pub resumes: u32,
    pub sessions: u32,
    /// Frames before this one have been acknowledged.
    acked: u64,
    retained: VecDeque<Vec<u8>>,
    /// Of the retained ones, how many have been sent on this TCP connection.
    sent: usize,
    in_flight_bytes: usize,
    window_out_bytes: usize,
    /// Bytes that came since the last acknowledgement that was sent.
    unacknowledged_bytes: usize,
    acknowledged: u64,
    /// Acknowledge only when told to.
    pub withhold_acks: bool,
    /// The worker has sent the ACK that comes right behind the handshake.
    pub greeted: bool,
    to_send: Vec<u8>,
    incoming: Vec<u8>,
    nonce: u8,
}

impl Peer {
    pub fn new(gateway: u8, shard: u16) -> Self {
        Self {
            gateway: InstanceId([gateway; 16]),
            shard,
            secret: None,
            frame_bytes_max: 4096,
            link_failover_ms: 10_000,
            window_in_bytes: 1024 * 1024,
            stage: Stage::Down,
            worker: InstanceId::NONE,
            inbox: Vec::new(),
            control: Vec::new(),
            acks: Vec::new(),
            greeted: false,
            resumes: 0,
            sessions: 0,
            acked: 0,
            retained: VecDeque::new(),
            sent: 0,
            in_flight_bytes: 0,
            window_out_bytes: 0,
            unacknowledged_bytes: 0,
            acknowledged: 0,
            withhold_acks: false,
            to_send: Vec::new(),
            incoming: Vec::new(),
            nonce: 0,
        }
    }

    pub fn with_secret(mut self, secret: Option<&[u8]>) -> Self {
        self.secret = secret.map(<[u8]>::to_vec);
        self
    }

    /// What the worker is granted, in bytes.
    pub fn with_window(mut self, window_in_bytes: u32) -> Self {
        self.window_in_bytes = window_in_bytes;
        self
    }

    pub fn with_frame_bytes_max(mut self, frame_bytes_max: u32) -> Self {
        self.frame_bytes_max = frame_bytes_max;
        self
    }

    /// What it says of itself, and from where its session goes on.
    pub fn hello(&self) -> LinkHello {
        LinkHello {
            shard: self.shard,
            shards: self.shard + 1,
            gateway: self.gateway,
            nonce: [self.nonce; 16],
            expected_worker: self.worker,
            received_position: if self.worker == InstanceId::NONE { 0 } else { self.inbox.len() as u64 },
            window_bytes: self.window_in_bytes,
            frame_bytes_max: self.frame_bytes_max,
            capabilities: 0,
            link_failover_ms: self.link_failover_ms,
            link_keepalive_ms: 10_000,
            idle_timeout_ms: 150_000,
            messages_per_s_max: 0,
        }
    }

    /// A TCP connection is up: says hello.
    pub fn connected(&mut self) {
        self.nonce = self.nonce.wrapping_add(1);
        let payload = self.hello().encode_payload();
        self.incoming.clear();
        self.to_send.clear();
        encode_frame(LinkType::LinkHello, &payload, &mut self.to_send);
        self.stage = Stage::Welcome { hello: payload };
    }

    /// The TCP connection is gone.
    pub fn disconnected(&mut self) {
        self.to_send.clear();
        if self.is_up() {
            self.stage = Stage::Down;
        }
    }

    pub fn is_up(&self) -> bool {
        self.stage == Stage::Up
    }

    /// Forgets the session, as a gateway does that fails over.
    pub fn forget(&mut self) {
        self.worker = InstanceId::NONE;
    }

    /// Frames not yet acknowledged by the worker.
    pub fn unacknowledged(&self) -> usize {
        self.retained.len()
    }

    /// Frames that the window holds back.
    pub fn unsent(&self) -> usize {
        self.retained.len() - self.sent
    }

    pub fn acked(&self) -> u64 {
        self.acked
    }

    pub fn push(&mut self, header: Header, payload: &[u8]) {
        let mut frame = header.encode().to_vec();
        frame.extend(payload);
        self.retained.push_back(frame);
    }

    pub fn push_raw(&mut self, bytes: &[u8]) {
        self.to_send.extend(bytes);
    }

    pub fn ping(&mut self, payload: &[u8]) {
        let header = Header::new(LinkType::Ping, ConnectionId::from_bits(0), payload.len() as u32);
        self.to_send.extend(header.encode());
        self.to_send.extend(payload);
    }

    pub fn id(&self, slot: u32) -> ConnectionId {
        ConnectionId::new(self.shard as u8, slot, 1)
    }

    pub fn open(&mut self, connection: ConnectionId, key: &[u8]) {
        let open = Open::edge(roost_protocol::hash::routing_hash(key), None, key, b"");
        let mut payload = Vec::new();
        open.encode_payload(&mut payload);
        self.push(Header::new(LinkType::Open, connection, payload.len() as u32), &payload);
    }

    pub fn reopen(&mut self, connection: ConnectionId, routing_hash: u64) {
        let reopen = Reopen {
            routing_hash,
            session: roost_protocol::SessionRef(routing_hash),
            framing: Framing::Edge,
        };
        let payload = reopen.encode_payload();
        self.push(Header::new(LinkType::Reopen, connection, payload.len() as u32), &payload);
    }

    pub fn message(&mut self, connection: ConnectionId, body: &[u8], resent: bool) {
        let mut payload = Vec::new();
        edge::encode_frame(edge::FrameType::Message, body, &mut payload);
        let mut header = Header::new(LinkType::Data, connection, payload.len() as u32);
        header.flags = if resent { FLAG_RESENT } else { 0 };
        self.push(header, &payload);
    }

    pub fn closed(&mut self, connection: ConnectionId, reason: Reason) {
        self.push(Header::new(LinkType::Closed, connection, 0).reason(reason), &[]);
    }

    pub fn relay(&mut self, routing_hash: u64, body: &[u8]) {
        let mut payload = Vec::new();
        Relay { routing_hash, payload: body }.encode_payload(&mut payload);
        self.push(Header::new(LinkType::Relay, ConnectionId::from_bits(0), payload.len() as u32), &payload);
    }

    /// What to write now.
    pub fn fill(&mut self) -> Vec<u8> {
        if self.is_up() {
            while let Some(frame) = self.retained.get(self.sent)
                && self.in_flight_bytes + frame.len() <= self.window_out_bytes
            {
                self.in_flight_bytes += frame.len();
                self.to_send.extend(frame);
                self.sent += 1;
            }
            if !self.withhold_acks && self.acknowledged < self.inbox.len() as u64 {
                self.acknowledged = self.inbox.len() as u64;
                self.unacknowledged_bytes = 0;
                self.to_send.extend(Header::new(LinkType::Ack, ConnectionId::from_bits(0), 8).encode());
                self.to_send.extend(self.acknowledged.to_be_bytes());
            }
        }
        std::mem::take(&mut self.to_send)
    }

    /// Bytes have arrived, cut anywhere.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.incoming.extend(bytes);
        let incoming = std::mem::take(&mut self.incoming);
        let mut rest = &incoming[..];
        loop {
            match split(rest, payload_bytes_max(self.frame_bytes_max)).expect("the worker's frames decode") {
                Split::Need { .. } => break,
                Split::Frame { header, payload } => {
                    rest = &rest[header.frame_bytes()..];
                    self.frame(header, payload);
                }
            }
        }
        self.incoming = rest.to_vec();
    }

    fn frame(&mut self, header: Header, payload: &[u8]) {
        match std::mem::replace(&mut self.stage, Stage::Down) {
            Stage::Welcome { hello } => self.handshake_frame(hello, header, payload),
            Stage::Up => {
                self.stage = Stage::Up;
                self.link_frame(header, payload);
            }
            other => panic!("{header:?} while {other:?}"),
        }
    }

    fn handshake_frame(&mut self, hello: Vec<u8>, header: Header, payload: &[u8]) {
        if header.link_type == LinkType::LinkRefuse {
            self.stage = Stage::Refused(Refusal::from_code(header.aux));
            return;
        }
        assert_eq!(header.link_type, LinkType::LinkWelcome);
        let welcome = LinkWelcome::decode(payload).expect("LINK_WELCOME decodes");
        let proven = &payload[..LinkWelcome::PROVEN_BYTES];
        if let Some(secret) = &self.secret {
            let proof = welcome.proof.unwrap_or_default();
            if !auth::verify(secret, Side::Worker, &hello, proven, &proof) {
                // A strict gateway would refuse here; go on, to see what the worker makes of it.
                self.control.push(Frame { header, payload: b"worker proof wrong".to_vec() });
            }
        }
        let proof = self.secret.as_ref().map(|secret| auth::prove(secret, Side::Gateway, &hello, proven));
        encode_frame(LinkType::LinkProof, &LinkProof { proof }.encode_payload(), &mut self.to_send);
        if welcome.resumed {
            assert_eq!(welcome.worker, self.worker, "resumed with another instance");
            self.resumes += 1;
            self.drop_acked(welcome.received_position);
        } else {
            self.sessions += 1;
            self.worker = welcome.worker;
            self.inbox.clear();
            self.acks.clear();
            self.acked = 0;
        }
        self.acknowledged = self.inbox.len() as u64;
        self.unacknowledged_bytes = 0;
        self.sent = 0;
        self.in_flight_bytes = 0;
        self.window_out_bytes = welcome.window_bytes as usize;
        self.greeted = false;
        self.stage = Stage::Up;
    }

    fn link_frame(&mut self, header: Header, payload: &[u8]) {
        let frame = Frame { header, payload: payload.to_vec() };
        if header.link_type.is_sequenced() {
            self.unacknowledged_bytes += header.frame_bytes();
            assert!(
                self.unacknowledged_bytes <= self.window_in_bytes as usize,
                "the worker overran the window"
            );
            self.inbox.push(frame);
            return;
        }
        if header.link_type == LinkType::Ack {
            let position = u64::from_be_bytes(payload.try_into().expect("ACK has 8 bytes"));
            let first = std::mem::replace(&mut self.greeted, true);
            assert!(position > self.acked || !first && position == self.acked, "an ACK of nothing new");
            self.drop_acked(position);
            if first {
                self.acks.push((position, self.inbox.len()));
            }
            return;
        }
        if header.link_type == LinkType::Ping {
            let pong = Header::new(LinkType::Pong, ConnectionId::from_bits(0), payload.len() as u32);
            self.to_send.extend(pong.encode());
            self.to_send.extend(payload);
        }
        self.control.push(frame);
    }

    fn drop_acked(&mut self, position: u64) {
        assert!(position >= self.acked, "{position} goes back behind {}", self.acked);
        while self.acked < position {
            let frame = self.retained.pop_front().expect("an acknowledgement of what was never sent");
            if self.sent > 0 {
                self.sent -= 1;
                self.in_flight_bytes -= frame.len();
            } else {
                assert!(!self.is_up(), "an acknowledgement of what was not sent on this connection");
            }
            self.acked += 1;
        }
    }

    /// The bodies of the messages for a connection, in order.
    pub fn messages(&self, connection: ConnectionId) -> Vec<&[u8]> {
        let to_it = |frame: &&Frame| {
            frame.header.link_type == LinkType::Data && frame.header.connection == connection
        };
        self.inbox.iter().filter(to_it).map(|frame| &frame.payload[edge::HEADER_BYTES..]).collect()
    }

    /// How many sequenced frames of this type have come.
    pub fn count(&self, link_type: LinkType) -> usize {
        self.inbox.iter().filter(|frame| frame.header.link_type == link_type).count()
    }
}

const _: () = assert!(HEADER_BYTES == 16);
