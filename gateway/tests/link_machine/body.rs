//! What is run on every input: by the replay of the corpus, and by the fuzz target in
//! `gateway/fuzz`.
//!
//! An input is a script for a shard with two workers: each command is a byte and a parameter. The
//! core is real; its ops end as the script says. After every command the invariants must hold, and
//! what the core says on its links must be frames that the link protocol allows.

use std::{collections::BTreeSet, sync::Arc};

use roost_gateway::{
    core::{
        CoreConfig, ShardCore,
        config::WorkerConfig,
        link::LinkState,
        pool::specs,
        stats::{ShardStats, Stat},
    },
    op::{Completion, Interest, Op, Sock, errno, poll_bits},
    sim::Hands,
};
use roost_protocol::{
    ConnectionId, InstanceId, SessionRef,
    edge::{self, FrameType, Hello},
    link::{
        self, Accept, Ending, Header, LinkHello, LinkType, LinkWelcome, Relay, Split, handshake,
        header::{FLAG_ALL, FLAG_DIRECT},
    },
};

/// What an input has reached, in words.
pub(crate) type Seen = BTreeSet<String>;

const LINKS: usize = 2;
const SLOTS: u32 = 8;
/// Of an input; the rest is not looked at.
const INPUT_BYTES_MAX: usize = 4_096;

/// Runs an input; panics if anything is not as it must be.
pub(crate) fn link_machine(input: &[u8]) -> Seen {
    let mut machine = Machine::new(&input[..input.len().min(INPUT_BYTES_MAX)]);
    while let Some((command, parameter)) = machine.next_command() {
        let before: Vec<_> = machine.core.link_views().map(|link| link.state).collect();
        machine.run(command, parameter);
        machine.note_transitions(&before);
        let before: Vec<_> = machine.core.link_views().map(|link| link.state).collect();
        machine.turn();
        machine.note_transitions(&before);
        machine.check();
    }
    machine.finish()
}

/// The worker's end of a link's TCP connection.
#[derive(Default)]
struct Wire {
    /// What has come of a frame.
    rx: Vec<u8>,
    /// What the worker has written and the gateway has not received.
    tx: Vec<u8>,
    /// The number of frames read.
    frames: u64,
    hello: Option<LinkHello>,
    /// The position that the last LINK_WELCOME stated.
    stated: u64,
}

struct Machine<'a> {
    core: ShardCore,
    hands: Hands,
    input: &'a [u8],
    now_ms: u64,
    wires: [Wire; LINKS],
    /// Connections that the gateway has named to workers.
    known: Vec<ConnectionId>,
    seen: Seen,
}

impl<'a> Machine<'a> {
    fn new(input: &'a [u8]) -> Self {
        let worker = |index| WorkerConfig { name: format!("worker-{index}"), secret: None };
        let mut config = CoreConfig::lone(SLOTS, (0..LINKS).map(worker).collect());
        config.frame_bytes_max = 512;
        config.link_window_bytes = 2_048;
        config.link_failover_ms = 2_000;
        config.accepts_max = 2;
        config.outbox_bytes_max = 4_096;
        let mut hands = Hands::new(&specs(&config));
        let mut core =
            ShardCore::new(config, SLOTS, Arc::new(ShardStats::default()), Box::new(|bytes| bytes.fill(3)));
        core.start(&mut hands, 0, SLOTS);
        Self {
            core,
            hands,
            input,
            now_ms: 0,
            wires: Default::default(),
            known: Vec::new(),
            seen: Seen::new(),
        }
    }

    fn next_command(&mut self) -> Option<(u8, u8)> {
        let (&[command, parameter], rest) = self.input.split_first_chunk::<2>()?;
        self.input = rest;
        Some((command, parameter))
    }

    fn complete(&mut self, completion: Completion) {
        self.core.begin_turn(self.now_ms);
        self.core.on_completion(&mut self.hands, completion);
    }

    fn turn(&mut self) {
        self.core.begin_turn(self.now_ms);
        self.core.end_turn(&mut self.hands);
        self.core.take_events(|_| {});
    }

    /// Ends the oldest op that `wanted` accepts with this result. Says whether there was one.
    fn end(&mut self, wanted: impl Fn(Op) -> bool, result: i32) -> bool {
        let Some(op) = self.hands.take(|_, op: Op| wanted(op)) else { return false };
        let completion = self.hands.end(op, result);
        self.complete(completion);
        true
    }

    fn run(&mut self, command: u8, parameter: u8) {
        let link = usize::from(command >> 4) % LINKS;
        let sock = Sock::Link(link as u16);
        let state = self.core.link_views().nth(link).expect("a link").state;
        let name = match command & 15 {
            0 => {
                let result = if parameter < 200 { 0 } else { -errno::ECONNREFUSED };
                let connects = |op: Op| op == Op::Connect { link: link as u16 };
                if self.end(connects, result) {
                    self.wires[link] = Wire::default();
                }
                "connect"
            }
            1 => {
                self.welcome(link, parameter);
                "welcome"
            }
            2 => {
                self.frame(link, parameter);
                "frame"
            }
            3 => {
                let (bytes, rest) = self.input.split_at(usize::from(parameter).min(self.input.len()));
                self.wires[link].tx.extend(bytes);
                self.input = rest;
                "raw bytes"
            }
            4 => {
                self.deliver(link, usize::from(parameter) + 1);
                "deliver a part"
            }
            5 => {
                self.deliver(link, usize::MAX);
                "deliver all"
            }
            6 => {
                self.take_up(link, usize::from(parameter) + 1);
                "take a part"
            }
            7 => {
                for _ in 0..=parameter % 8 {
                    self.take_up(link, usize::MAX);
                    self.turn();
                }
                "take all"
            }
            8 => {
                let result =
                    [0, -errno::ECONNRESET, -errno::EINTR, -errno::ETIMEDOUT][usize::from(parameter) % 4];
                self.end(|op: Op| matches!(op, Op::Recv { sock: on, .. } if on == sock), result);
                "receive fails"
            }
            9 => {
                let result = [-errno::EPIPE, -errno::ECONNRESET][usize::from(parameter) % 2];
                self.end(|op: Op| matches!(op, Op::Send { sock: on, .. } if on == sock), result);
                "send fails"
            }
            10 => {
                self.now_ms += 1 << (parameter % 13);
                "time"
            }
            11 => {
                self.arrive(parameter);
                "a client comes"
            }
            12 => {
                self.speak(parameter);
                "a client speaks"
            }
            13 => {
                self.listen(parameter);
                "clients read"
            }
            14 => {
                self.leave(parameter);
                "a client leaves"
            }
            _ => {
                while self.end_cancel()
                    || self.end(|op: Op| matches!(op, Op::Close { .. } | Op::Shutdown { .. }), 0)
                {
                }
                "cancels and closes end"
            }
        };
        self.seen.insert(format!("{name}, link {state:?}"));
    }

    fn note_transitions(&mut self, before: &[LinkState]) {
        for (before, after) in before.iter().zip(self.core.link_views()) {
            if *before != after.state {
                self.seen.insert(format!("{before:?} -> {:?}", after.state));
            }
        }
    }

    /// A cancel ends, and what it is for.
    fn end_cancel(&mut self) -> bool {
        let Some((token, op)) = self.hands.take(|_, op: Op| matches!(op, Op::Cancel { .. })) else {
            return false;
        };
        let Op::Cancel { target, .. } = op else { unreachable!("just matched") };
        if let Some(victim) = self.hands.take(|token, _| token == target) {
            let ended = self.hands.end(victim, -errno::ECANCELED);
            self.complete(ended);
        }
        let ended = self.hands.end((token, op), 0);
        self.complete(ended);
        true
    }

    /// The worker answers LINK_HELLO, rightly or wrongly.
    fn welcome(&mut self, link: usize, parameter: u8) {
        let Some(hello) = self.wires[link].hello else { return };
        let resumed = parameter & 1 != 0;
        let instance = InstanceId([1 + (parameter >> 1 & 1) + 2 * link as u8; 16]);
        let view = self.core.link_views().nth(link).expect("a link");
        let position = match parameter >> 2 & 3 {
            // Everything that was sent, nothing, or nonsense.
            0 | 1 => view.acked_frames + view.lag_frames,
            2 => view.acked_frames,
            _ => u64::from(parameter),
        };
        let welcome = LinkWelcome {
            resumed,
            window_bytes: 256 << (parameter >> 5),
            worker: if resumed && parameter & 16 == 0 { hello.expected_worker } else { instance },
            nonce: [9; handshake::NONCE_BYTES],
            received_position: if resumed { position } else { 0 },
            capabilities: 0,
            proof: None,
        };
        let wire = &mut self.wires[link];
        wire.stated = welcome.received_position;
        handshake::encode_frame(LinkType::LinkWelcome, &welcome.encode_payload(), &mut wire.tx);
    }

    /// The worker writes a frame that may make sense.
    fn frame(&mut self, link: usize, parameter: u8) {
        let Some((kind, choice)) = self.next_command() else { return };
        let id = match self.known.len() {
            0 => ConnectionId::from_bits(u64::from(choice)),
            known => self.known[usize::from(choice) % known],
        };
        let mut message = Vec::new();
        edge::encode_frame(FrameType::Message, &vec![parameter; usize::from(parameter)], &mut message);
        let view = self.core.link_views().nth(link).expect("a link");
        let link_type = LinkType::ALL[usize::from(kind) % LinkType::ALL.len()];
        let payload = match link_type {
            LinkType::Data | LinkType::Broadcast => message,
            LinkType::Ack => {
                let part = (view.offered_frames - view.acked_frames) * u64::from(parameter) / 255;
                (view.acked_frames + part).to_be_bytes().to_vec()
            }
            LinkType::Accept => {
                let mut body = Vec::new();
                // Every third one belongs to another hash from now on.
                let routing_hash = (parameter % 3 == 2).then(|| u64::from(parameter) << 56);
                let session = SessionRef(parameter.into());
                Accept { routing_hash, ..Accept::new(session) }.encode_payload(&mut body);
                body
            }
            LinkType::Reject => {
                let mut body = Vec::new();
                let (code, text) = if parameter % 2 == 1 { (4_001, "bye") } else { (0, "") };
                Ending { retry_after_ms: parameter.into(), code, text }.encode_payload(&mut body);
                body
            }
            LinkType::Multicast => {
                let mut body = (self.known.len() as u32).to_be_bytes().to_vec();
                body.extend(self.known.iter().flat_map(|id| id.to_bits().to_be_bytes()));
                body.extend(message);
                body
            }
            LinkType::Relay => {
                let mut body = Vec::new();
                Relay { routing_hash: u64::from(choice), payload: &message }.encode_payload(&mut body);
                body
            }
            _ => Vec::new(),
        };
        let state = view.state;
        self.seen.insert(format!("{link_type:?}, link {state:?}"));
        let flags = match (link_type, parameter % 16) {
            (LinkType::Relay, 1) => FLAG_DIRECT,
            (LinkType::Relay, 2) => FLAG_ALL,
            _ => 0,
        };
        let header = Header::new(link_type, id, payload.len() as u32).flags(flags);
        self.wires[link].tx.extend(header.encode());
        self.wires[link].tx.extend(payload);
    }

    /// The gateway receives at most `max` bytes of what the worker wrote.
    fn deliver(&mut self, link: usize, max: usize) {
        let sock = Sock::Link(link as u16);
        let tx = &self.wires[link].tx;
        if tx.is_empty() {
            return;
        }
        let Some(op) = self.hands.take(|_, op: Op| matches!(op, Op::Recv { sock: on, .. } if on == sock))
        else {
            return;
        };
        let (completion, taken) = self.hands.end_recv(op, &tx[..tx.len().min(max)]);
        self.wires[link].tx.drain(..taken);
        self.complete(completion);
    }

    /// The worker reads at most `max` bytes of what the gateway sends.
    fn take_up(&mut self, link: usize, max: usize) {
        let sock = Sock::Link(link as u16);
        let Some(op) = self.hands.take(|_, op: Op| matches!(op, Op::Send { sock: on, .. } if on == sock))
        else {
            return;
        };
        let (completion, bytes) = self.hands.end_send(op, max);
        self.wires[link].rx.extend(bytes);
        self.read_frames(link);
        self.complete(completion);
    }

    fn read_frames(&mut self, link: usize) {
        let wire = &mut self.wires[link];
        loop {
            let (header, payload) = match link::split(&wire.rx, u32::MAX) {
                Ok(Split::Frame { header, payload }) => (header, payload),
                Ok(Split::Need { .. }) => return,
                Err(error) => panic!("the gateway sends what is no frame: {error}"),
            };
            let allowed = match wire.frames {
                0 => header.link_type == LinkType::LinkHello,
                1 => matches!(header.link_type, LinkType::LinkProof | LinkType::LinkRefuse),
                _ => matches!(
                    header.link_type,
                    LinkType::LinkRefuse
                        | LinkType::Open
                        | LinkType::Data
                        | LinkType::Closed
                        | LinkType::Reopen
                        | LinkType::Relay
                        | LinkType::Ack
                        | LinkType::Ping
                        | LinkType::Pong
                ),
            };
            assert!(allowed, "{:?} as frame {} of a connection", header.link_type, wire.frames);
            wire.frames += 1;
            match header.link_type {
                LinkType::LinkHello => wire.hello = Some(LinkHello::decode(payload).expect("it decodes")),
                LinkType::LinkProof => {
                    wire.tx.extend(Header::new(LinkType::Ack, ConnectionId::from_bits(0), 8).encode());
                    wire.tx.extend(wire.stated.to_be_bytes());
                }
                LinkType::Open | LinkType::Reopen if !self.known.contains(&header.connection) => {
                    self.known.push(header.connection);
                }
                _ => {}
            }
            self.seen.insert(format!("the gateway says {:?}", header.link_type));
            wire.rx.drain(..header.frame_bytes());
        }
    }

    /// A client is accepted and says HELLO.
    fn arrive(&mut self, parameter: u8) {
        let Some((token, op)) = self.hands.take(|_, op: Op| matches!(op, Op::Accept { .. })) else { return };
        let Op::Accept { slot, .. } = op else { unreachable!("just matched") };
        let completion = self.hands.end((token, op), 0);
        self.complete(completion);
        let mut hello = Vec::new();
        Hello { key: &[parameter], token: b"" }.encode(&mut hello);
        self.receive(slot, &hello);
    }

    /// A client's bytes are received, whether it was parked or not.
    fn receive(&mut self, slot: u32, bytes: &[u8]) {
        let sock = Sock::Client(slot);
        let polls = |op: Op| matches!(op, Op::Poll { sock: on, interest } if on == sock && interest == Interest::Readable);
        self.end(polls, poll_bits::IN);
        let Some(op) = self.hands.take(|_, op: Op| matches!(op, Op::Recv { sock: on, .. } if on == sock))
        else {
            return;
        };
        let (completion, _) = self.hands.end_recv(op, bytes);
        self.complete(completion);
    }

    fn speak(&mut self, parameter: u8) {
        let slot = u32::from(parameter) % SLOTS;
        let len = usize::from(parameter >> 3) * 8;
        let mut bytes = Vec::new();
        edge::encode_frame(FrameType::Message, &vec![parameter; len], &mut bytes);
        if parameter & 64 != 0 {
            // A part of the next frame, too.
            bytes.extend([FrameType::Message as u8, 0, 0]);
        }
        self.receive(slot, &bytes);
    }

    /// Clients take all, a little, or nothing of what is sent to them.
    fn listen(&mut self, parameter: u8) {
        let to_client = |op: Op| matches!(op, Op::Send { sock: Sock::Client(_), .. });
        match parameter % 4 {
            0 => {
                self.end(to_client, -errno::EAGAIN);
            }
            1 => {
                if let Some(op) = self.hands.take(|_, op: Op| to_client(op)) {
                    let (completion, _) = self.hands.end_send(op, 1 + usize::from(parameter));
                    self.complete(completion);
                }
            }
            2 => {
                let waits = |op: Op| matches!(op, Op::Poll { interest: Interest::Writable, .. });
                self.end(waits, poll_bits::OUT);
            }
            _ => {
                while let Some(op) = self.hands.take(|_, op: Op| to_client(op)) {
                    let (completion, _) = self.hands.end_send(op, usize::MAX);
                    self.complete(completion);
                }
            }
        }
    }

    fn leave(&mut self, parameter: u8) {
        let sock = Sock::Client(u32::from(parameter) % SLOTS);
        let polls = |op: Op| matches!(op, Op::Poll { sock: on, interest } if on == sock && interest != Interest::Writable);
        self.end(polls, poll_bits::IN | poll_bits::RDHUP);
        let result = if parameter & 128 == 0 { 0 } else { -errno::ECONNRESET };
        self.end(|op: Op| matches!(op, Op::Recv { sock: on, .. } if on == sock), result);
    }

    fn check(&self) {
        self.core.check_invariants();
        let sorted = |mut tokens: Vec<u64>| {
            tokens.sort_unstable();
            tokens
        };
        let believed = sorted(self.core.ops_in_kernel().iter().map(|token| token.to_bits()).collect());
        let real = sorted(self.hands.ops().map(|(token, _)| token.to_bits()).collect());
        assert_eq!(believed, real, "invariant op-bits: bits and ops differ");
        assert!(self.core.forgotten().is_empty(), "invariant blocked-resumed: no list knows them");
        assert_eq!(
            self.core.stats().get(Stat::LateCompletions),
            0,
            "invariant token-live: a late completion"
        );
    }

    fn finish(mut self) -> Seen {
        let stats = self.core.stats();
        let worth_seeing = [
            Stat::Blocked,
            Stat::ConnectionsMoved,
            Stat::FanoutDeliveries,
            Stat::FramesResent,
            Stat::LinkBreaks,
            Stat::LinkErrors,
            Stat::LinkFailovers,
            Stat::LinkFramesStale,
            Stat::LinkResumes,
            Stat::MessagesDelivered,
            Stat::RelaysDropped,
            Stat::RelaysForwarded,
        ];
        self.seen
            .extend(worth_seeing.iter().filter(|&&stat| stats.get(stat) > 0).map(|stat| format!("{stat:?}")));
        self.seen
    }
}
