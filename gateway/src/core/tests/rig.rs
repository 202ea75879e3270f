//! A shard with several workers and many clients, moved by hand: for what a whole simulated world
//! does not reach often enough, or not at the right moment.

use std::sync::Arc;

use roost_protocol::{
    ConnectionId, InstanceId,
    edge::{self, FrameType, Hello},
    hash,
    link::{self, Header, LinkType, LinkWelcome, Reopen, Split, handshake},
};

use crate::{
    core::{
        CoreConfig, ShardCore,
        config::WorkerConfig,
        pool::specs,
        record::State,
        shard::inspect::{LinkView, SlotView},
        stats::ShardStats,
    },
    op::{Completion, Op, Sock, errno, poll_bits},
    sim::Hands,
};

/// A frame that a worker was sent.
pub(super) type Said = (Header, Vec<u8>);

pub(super) struct Rig {
    pub(super) core: ShardCore,
    pub(super) hands: Hands,
    pub(super) now_ms: u64,
    /// What each worker has been sent in all its sessions, handshakes and PINGs left out.
    pub(super) said: Vec<Vec<Said>>,
    /// What each client has been sent.
    pub(super) heard: Vec<Vec<u8>>,
    unread: Vec<Vec<u8>>,
}

impl Rig {
    /// A shard whose workers `w0`, `w1`, ... are up, all but the `absent` last ones.
    pub(super) fn new(
        slots: u32,
        (workers, absent): (usize, usize),
        set: impl FnOnce(&mut CoreConfig),
    ) -> Self {
        let worker = |i: usize| WorkerConfig { name: format!("w{i}"), secret: None };
        let mut config = CoreConfig::lone(slots, (0..workers).map(worker).collect());
        (config.idle_timeout_ms, config.heartbeat_interval_ms, config.link_keepalive_ms) = (0, 0, 0);
        set(&mut config);
        let hands = Hands::new(&specs(&config));
        let stats = Arc::new(ShardStats::default());
        let core = ShardCore::new(config, slots, stats, Box::new(|bytes| bytes.fill(7)));
        let mut rig = Self {
            core,
            hands,
            now_ms: 1_000,
            said: vec![Vec::new(); workers],
            heard: vec![Vec::new(); slots as usize],
            unread: vec![Vec::new(); workers],
        };
        rig.core.start(&mut rig.hands, rig.now_ms, slots);
        for link in 0..workers - absent {
            rig.up(link, 1 + link as u8, None);
        }
        rig
    }

    fn done(&mut self, completion: Completion) {
        self.core.begin_turn(self.now_ms);
        self.core.on_completion(&mut self.hands, completion);
    }

    pub(super) fn end(&mut self, wanted: impl Fn(Op) -> bool, result: i32) -> bool {
        let Some(op) = self.hands.take(|_, op| wanted(op)) else { return false };
        let completion = self.hands.end(op, result);
        self.done(completion);
        true
    }

    /// A worker is reached, and says that a session goes on from this position, or begins.
    pub(super) fn up(&mut self, link: usize, instance: u8, resumed: Option<u64>) {
        let dial = Op::Connect { link: link as u16 };
        // The last dial may have taken too long, and the next one be due in a while.
        for _ in 0..100 {
            if !self.hands.ops().any(|(_, op)| op == dial) {
                self.now_ms += 50;
                self.turn();
            }
        }
        assert!(self.end(|op| op == dial, 0), "w{link} is dialled");
        let welcome = LinkWelcome {
            resumed: resumed.is_some(),
            window_bytes: 4 << 20,
            worker: InstanceId([instance; 16]),
            nonce: [9; handshake::NONCE_BYTES],
            received_position: resumed.unwrap_or_default(),
            capabilities: 0,
            proof: None,
        };
        let mut bytes = Vec::new();
        handshake::encode_frame(LinkType::LinkWelcome, &welcome.encode_payload(), &mut bytes);
        self.unread[link].clear();
        self.hands.deliver(&mut self.core, Sock::Link(link as u16), &bytes);
        self.turn();
        self.pong(link);
        self.turn();
    }

    /// The TCP connection of a link ends; the next dial waits in the kernel.
    pub(super) fn cut(&mut self, link: usize) {
        let index = link as u16;
        assert!(self.end(|op| matches!(op, Op::Recv { sock: Sock::Link(on), .. } if on == index), 0));
        self.settle();
    }

    /// A turn, and whatever ends at once ends.
    pub(super) fn turn(&mut self) {
        self.core.begin_turn(self.now_ms);
        self.core.end_turn(&mut self.hands);
        self.core.take_events(|_| {});
        self.core.check_invariants();
        self.settle();
        assert!(self.core.forgotten().is_empty());
    }

    pub(super) fn turns(&mut self, count: u32) {
        (0..count).for_each(|_| self.turn());
    }

    fn settle(&mut self) {
        loop {
            if let Some(op) = self.hands.take(|_, op| matches!(op, Op::Send { .. })) {
                let Op::Send { sock, .. } = op.1 else { unreachable!("just matched") };
                let (completion, bytes) = self.hands.end_send(op, usize::MAX);
                match sock {
                    Sock::Link(link) => self.read_link(usize::from(link), &bytes),
                    Sock::Client(slot) => self.heard[slot as usize].extend(bytes),
                }
                self.done(completion);
            } else if let Some((token, op)) = self.hands.take(|_, op| matches!(op, Op::Cancel { .. })) {
                let Op::Cancel { target, .. } = op else { unreachable!("just matched") };
                if let Some(victim) = self.hands.take(|token, _| token == target) {
                    let ended = self.hands.end(victim, -errno::ECANCELED);
                    self.done(ended);
                }
                let ended = self.hands.end((token, op), 0);
                self.done(ended);
            } else if !self.end(|op| matches!(op, Op::Close { .. } | Op::Shutdown { .. }), 0) {
                return;
            }
        }
    }

    fn read_link(&mut self, link: usize, bytes: &[u8]) {
        let unread = &mut self.unread[link];
        unread.extend(bytes);
        while let Ok(Split::Frame { header, payload }) = link::split(unread, u32::MAX) {
            if header.link_type.is_sequenced() {
                self.said[link].push((header, payload.to_vec()));
            }
            let len = header.frame_bytes();
            unread.drain(..len);
        }
    }

    /// A worker says something.
    pub(super) fn frame(&mut self, link: usize, header: Header, payload: &[u8]) {
        let mut bytes = Header { payload_bytes: payload.len() as u32, ..header }.encode().to_vec();
        bytes.extend(payload);
        self.core.begin_turn(self.now_ms);
        self.hands.deliver(&mut self.core, Sock::Link(link as u16), &bytes);
    }

    pub(super) fn about(&self, slot: u32, link_type: LinkType) -> Header {
        Header::new(link_type, self.view(slot).connection, 0)
    }

    pub(super) fn pong(&mut self, link: usize) {
        self.frame(link, Header::new(LinkType::Pong, ConnectionId::from_bits(0), 0), b"");
    }

    /// A worker acknowledges all that it was sent in its session.
    pub(super) fn ack(&mut self, link: usize) {
        let view = self.link(link);
        let position = (view.acked_frames + view.lag_frames).to_be_bytes();
        self.frame(link, Header::new(LinkType::Ack, ConnectionId::from_bits(0), 0), &position);
        self.turn();
    }

    /// Time goes on, and these workers let themselves be heard. Dials are not answered.
    pub(super) fn pass(&mut self, until_ms: u64, step_ms: u64, alive: &[usize]) {
        while self.now_ms < until_ms {
            self.now_ms = until_ms.min(self.now_ms + step_ms);
            for &link in alive {
                self.pong(link);
            }
            self.turn();
        }
    }

    /// A client comes and says HELLO.
    pub(super) fn client(&mut self, key: &[u8]) -> u32 {
        if !self.hands.ops().any(|(_, op)| matches!(op, Op::Accept { .. })) {
            self.turn();
        }
        self.client_at(0, key)
    }

    /// A client comes to a listener where an accept waits, and says HELLO.
    pub(super) fn client_at(&mut self, listener: u16, key: &[u8]) -> u32 {
        let slot = self.client_at_once(listener);
        let mut hello = Vec::new();
        Hello { key, token: b"" }.encode(&mut hello);
        self.hands.deliver(&mut self.core, Sock::Client(slot), &hello);
        slot
    }

    /// The peer of a socket writes.
    pub(super) fn deliver(&mut self, from: Sock, bytes: &[u8]) {
        self.core.begin_turn(self.now_ms);
        self.hands.deliver(&mut self.core, from, bytes);
    }

    /// A client comes to a listener where an accept waits.
    pub(super) fn client_at_once(&mut self, listener: u16) -> u32 {
        let wanted = |op: Op| matches!(op, Op::Accept { listener: on, .. } if on == listener);
        let (token, op) = self.hands.take(|_, op| wanted(op)).expect("an accept");
        let Op::Accept { slot, .. } = op else { unreachable!("just matched") };
        let completion = self.hands.end((token, op), 0);
        self.done(completion);
        slot
    }

    /// A client whose worker accepts it.
    pub(super) fn open_client(&mut self, key: &[u8]) -> u32 {
        let slot = self.client(key);
        self.turn();
        self.accept(slot);
        slot
    }

    pub(super) fn accept(&mut self, slot: u32) {
        let (worker, header) = (usize::from(self.view(slot).worker), self.about(slot, LinkType::Accept));
        self.frame(worker, header, &7u64.to_be_bytes());
        self.turn();
        assert_eq!(self.view(slot).state, State::Open);
    }

    /// A client sends a message; returns whether the gateway reads.
    pub(super) fn say(&mut self, slot: u32, payload: &[u8]) -> bool {
        let sock = Sock::Client(slot);
        self.end(|op| matches!(op, Op::Poll { sock: on, .. } if on == sock), poll_bits::IN);
        if !self.hands.ops().any(|(_, op)| matches!(op, Op::Recv { sock: on, .. } if on == sock)) {
            return false;
        }
        let mut message = Vec::new();
        edge::encode_frame(FrameType::Message, payload, &mut message);
        self.hands.deliver(&mut self.core, sock, &message);
        self.turn();
        true
    }

    pub(super) fn view(&self, slot: u32) -> SlotView {
        self.core.slot_views().nth(slot as usize).expect("a slot that was used")
    }

    pub(super) fn link(&self, link: usize) -> LinkView {
        self.core.link_views().nth(link).expect("a link")
    }

    /// What a worker was sent about a connection: types, and the last byte of each payload, or of
    /// REOPEN's session reference.
    pub(super) fn told(&self, link: usize, id: ConnectionId) -> Vec<(LinkType, u8)> {
        let about = self.said[link].iter().filter(|(header, _)| header.connection == id);
        let tells = |(header, payload): &Said| match header.link_type {
            LinkType::Reopen => Reopen::decode(payload).expect("it decodes").session.0 as u8,
            _ => payload.last().copied().unwrap_or(0),
        };
        about.map(|said| (said.0.link_type, tells(said))).collect()
    }

    /// What a client was sent of this type, whole frames.
    pub(super) fn heard(&self, slot: u32, wanted: FrameType) -> Vec<&[u8]> {
        let (mut rest, mut frames) = (&self.heard[slot as usize][..], Vec::new());
        while let Ok(edge::Split::Frame { frame_type, frame }) = edge::split(rest, 1 << 20) {
            if frame_type == wanted {
                frames.push(frame);
            }
            rest = &rest[frame.len()..];
        }
        frames
    }

    /// The reason in the GOAWAY that a client was sent last.
    pub(super) fn goaway(&self, slot: u32) -> Option<u8> {
        self.heard(slot, FrameType::Goaway).last().map(|frame| frame[edge::HEADER_BYTES])
    }
}

/// The worker that owns a key among these.
pub(super) fn owner(key: &[u8], among: &[usize]) -> usize {
    let names = among.iter().map(|&i| (i, hash::worker_hash(format!("w{i}").as_bytes())));
    hash::rendezvous(hash::partition(key), names).expect("a worker")
}

/// The first key that belongs to each of these in turn, as the ones before are gone.
pub(super) fn key_of(owners: &[usize]) -> [u8; 4] {
    let is_wanted = |key: &[u8; 4]| (0..owners.len()).all(|from| owner(key, &owners[from..]) == owners[from]);
    (0..100_000u32).map(u32::to_be_bytes).find(is_wanted).expect("a key")
}
