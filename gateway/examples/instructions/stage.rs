//! A shard's core with scripted clients and a scripted worker around it. Only what the core itself
//! does runs inside [`crate::measured`]; what stands in for kernel, clients and worker does not.

use std::{collections::VecDeque, sync::Arc};

use roost_gateway::{
    core::{CoreConfig, ShardCore, config::WorkerConfig, pool, stats::ShardStats},
    op::{Completion, Interest, Io as _, Op, Sock, Token, errno, poll_bits},
};
use roost_protocol::{
    ConnectionId, InstanceId, SessionRef,
    edge::{FrameType, Hello, encode_frame},
    link::{
        Accept, Frame, Header, LinkType, LinkWelcome, Split, WINDOW_BYTES_DEFAULT, handshake,
        payload_bytes_max, split,
    },
};

use crate::{measured, world::World};

const FRAME_BYTES_MAX: u32 = roost_protocol::edge::FRAME_BYTES_MAX_DEFAULT;

#[derive(Clone, Default)]
struct ClientEnd {
    /// What it has sent and the core has not read.
    sent: VecDeque<Vec<u8>>,
    poll_in: Option<Token>,
    poll_out: Option<Token>,
    poll_end: Option<Token>,
    left: bool,
}

/// Core, kernel, clients and worker.
pub(crate) struct Stage {
    core: ShardCore,
    world: World,
    now_ms: u64,
    clients: Vec<ClientEnd>,
    accepts: VecDeque<(Token, u32)>,
    /// Slots of the clients, in the order in which they came.
    pub(crate) slots: Vec<u32>,
    link_recv: Option<(Token, Op)>,
    to_gateway: Vec<u8>,
    from_gateway: Vec<u8>,
    handled: u64,
    completions: Vec<Completion>,
    /// Whether turns are measured now.
    pub(crate) measuring: bool,
    /// Whether clients take what is sent to them.
    pub(crate) taking: bool,
    /// Bytes that clients took.
    pub(crate) taken: u64,
    opened: Vec<ConnectionId>,
}

impl Stage {
    /// A core with room for so many clients, its link up.
    pub(crate) fn new(slots: u32) -> Self {
        let worker = WorkerConfig { name: "worker".into(), secret: None };
        let mut config = CoreConfig::lone(slots, vec![worker]);
        // Nobody is to be closed for being idle here.
        config.idle_timeout_ms = 0;
        let world = World::new(pool::specs(&config));
        let mut seed = 1_u8;
        let entropy = Box::new(move |bytes: &mut [u8]| {
            bytes.fill(seed);
            seed = seed.wrapping_add(1);
        });
        let core = ShardCore::new(config, slots, Arc::new(ShardStats::default()), entropy);
        let mut stage = Self {
            core,
            world,
            now_ms: 1_000,
            clients: vec![ClientEnd::default(); slots as usize],
            accepts: VecDeque::new(),
            slots: Vec::new(),
            link_recv: None,
            to_gateway: Vec::new(),
            from_gateway: Vec::new(),
            handled: 0,
            completions: Vec::with_capacity(65_536),
            measuring: false,
            taking: true,
            taken: 0,
            opened: Vec::new(),
        };
        stage.core.start(&mut stage.world, stage.now_ms, slots);
        stage.settle();
        stage
    }

    /// So many clients come, say HELLO and are accepted by the worker.
    pub(crate) fn connect(&mut self, clients: u32) {
        let mut hello = Vec::new();
        Hello { key: b"user-1234", token: b"" }.encode(&mut hello);
        let until = self.opened.len() + clients as usize;
        let mut left = clients;
        while left > 0 {
            let (token, slot) = self.accepts.pop_front().expect("an accept is armed for each free slot");
            self.completions.push(Completion::new(token, 0));
            self.clients[slot as usize] = ClientEnd { sent: [hello.clone()].into(), ..ClientEnd::default() };
            self.slots.push(slot);
            left -= 1;
            if self.accepts.is_empty() || left == 0 {
                self.settle();
            }
        }
        assert_eq!(self.opened.len(), until, "the worker heard of all");
    }

    /// A client sends a message of so many bytes.
    pub(crate) fn send(&mut self, slot: u32, payload_bytes: usize) {
        let mut frame = Vec::new();
        encode_frame(FrameType::Message, &vec![7; payload_bytes], &mut frame);
        self.clients[slot as usize].sent.push_back(frame);
        self.wake(slot);
    }

    /// A client ends its stream.
    pub(crate) fn leave(&mut self, slot: u32) {
        let client = &mut self.clients[slot as usize];
        client.left = true;
        let token = client.poll_end.take();
        self.completions.extend(token.map(|token| Completion::new(token, poll_bits::RDHUP)));
        self.wake(slot);
    }

    /// The worker sends one message to everybody.
    pub(crate) fn broadcast(&mut self, payload_bytes: usize) {
        let header = Header::new(LinkType::Broadcast, ConnectionId::from_bits(0), 0);
        Frame::Broadcast(&vec![7; payload_bytes]).encode(header, &mut self.to_gateway);
        self.settle();
    }

    /// Clients take again what is sent to them.
    pub(crate) fn take_again(&mut self) {
        self.taking = true;
        for client in &mut self.clients {
            let token = client.poll_out.take();
            self.completions.extend(token.map(|token| Completion::new(token, poll_bits::OUT)));
        }
        self.settle();
    }

    /// Time passes and a turn with nothing in it.
    pub(crate) fn tick(&mut self, ms: u64) {
        self.now_ms += ms;
        self.turn();
        self.settle();
    }

    /// Turns until nothing is under way.
    pub(crate) fn settle(&mut self) {
        loop {
            self.perform();
            self.work();
            self.feed_link();
            if self.completions.is_empty() {
                return;
            }
            self.turn();
        }
    }

    fn turn(&mut self) {
        let Self { core, world, completions, now_ms, .. } = self;
        let mut turn = || {
            core.begin_turn(*now_ms);
            for completion in completions.drain(..) {
                core.on_completion(world, completion);
            }
            core.end_turn(world);
            core.take_events(|_| {});
        };
        if self.measuring { measured(turn) } else { turn() }
    }

    fn wake(&mut self, slot: u32) {
        let token = self.clients[slot as usize].poll_in.take();
        self.completions.extend(token.map(|token| Completion::new(token, poll_bits::IN)));
    }

    /// The kernel's part: carries out what the core has submitted.
    fn perform(&mut self) {
        for (token, op) in std::mem::take(&mut self.world.ops) {
            let outcome = match op {
                Op::Accept { slot, .. } => {
                    self.accepts.push_back((token, slot));
                    None
                }
                Op::CountWaiting { .. } => Some(-errno::EOPNOTSUPP),
                Op::Connect { .. } | Op::Shutdown { .. } | Op::Close { .. } => Some(0),
                Op::Poll { sock: Sock::Client(slot), interest } => self.poll(token, slot, interest),
                Op::Recv { sock: Sock::Client(slot), block, offset, .. } => {
                    let client = &mut self.clients[slot as usize];
                    Some(match client.sent.pop_front() {
                        Some(bytes) => {
                            self.world.write(block, offset, &bytes);
                            result(bytes.len())
                        }
                        None if client.left => 0,
                        None => -errno::EAGAIN,
                    })
                }
                Op::Recv { .. } => {
                    self.link_recv = Some((token, op));
                    None
                }
                Op::Send { sock: Sock::Client(_), len, .. } if self.taking => {
                    self.taken += u64::from(len);
                    Some(result(len as usize))
                }
                Op::Send { sock: Sock::Client(_), .. } => Some(-errno::EAGAIN),
                Op::Send { block, offset, len, .. } => {
                    self.from_gateway.extend_from_slice(self.world.bytes(block, offset, len));
                    Some(result(len as usize))
                }
                Op::Cancel { target, .. } => {
                    self.completions.push(Completion::new(target, -errno::ECANCELED));
                    for client in &mut self.clients {
                        client.poll_in = client.poll_in.filter(|&token| token != target);
                        client.poll_out = client.poll_out.filter(|&token| token != target);
                        client.poll_end = client.poll_end.filter(|&token| token != target);
                    }
                    Some(0)
                }
                Op::Poll { .. } => unreachable!("links wait in their receives and sends"),
            };
            self.completions.extend(outcome.map(|result| Completion::new(token, result)));
        }
    }

    fn poll(&mut self, token: Token, slot: u32, interest: Interest) -> Option<i32> {
        let client = &mut self.clients[slot as usize];
        match interest {
            Interest::Readable if !client.sent.is_empty() || client.left => Some(poll_bits::IN),
            Interest::Readable => {
                client.poll_in = Some(token);
                None
            }
            Interest::Writable if self.taking => Some(poll_bits::OUT),
            Interest::Writable => {
                client.poll_out = Some(token);
                None
            }
            Interest::Ended if client.left => Some(poll_bits::RDHUP),
            Interest::Ended => {
                client.poll_end = Some(token);
                None
            }
        }
    }

    /// The worker's part: answers what has come over the link.
    fn work(&mut self) {
        let bytes = std::mem::take(&mut self.from_gateway);
        let (mut at, before) = (0, self.handled);
        while let Ok(Split::Frame { header, payload }) =
            split(&bytes[at..], payload_bytes_max(FRAME_BYTES_MAX))
        {
            at += header.frame_bytes();
            self.handled += u64::from(header.link_type.is_sequenced());
            let id = header.connection;
            match header.link_type {
                LinkType::LinkHello => {
                    let welcome = LinkWelcome {
                        resumed: false,
                        window_bytes: WINDOW_BYTES_DEFAULT,
                        worker: InstanceId([2; 16]),
                        nonce: [3; 16],
                        received_position: 0,
                        capabilities: 0,
                        proof: None,
                    };
                    let payload = welcome.encode_payload();
                    handshake::encode_frame(LinkType::LinkWelcome, &payload, &mut self.to_gateway);
                }
                LinkType::LinkProof => {
                    let header = Header::new(LinkType::Ack, id, 0);
                    Frame::Ack(0).encode(header, &mut self.to_gateway);
                }
                LinkType::Open => {
                    self.opened.push(id);
                    let header = Header::new(LinkType::Accept, id, 0);
                    Frame::Accept(Accept::new(SessionRef(1))).encode(header, &mut self.to_gateway);
                }
                LinkType::Data => {
                    let header = Header::new(LinkType::Data, id, payload.len() as u32);
                    self.to_gateway.extend(header.encode());
                    self.to_gateway.extend_from_slice(payload);
                }
                LinkType::Ping => {
                    let header = Header::new(LinkType::Pong, id, 0);
                    Frame::Pong(payload).encode(header, &mut self.to_gateway);
                }
                _ => {}
            }
        }
        self.from_gateway = bytes[at..].to_vec();
        if self.handled > before {
            let header = Header::new(LinkType::Ack, ConnectionId::from_bits(0), 0);
            Frame::Ack(self.handled).encode(header, &mut self.to_gateway);
        }
    }

    /// Hands the core what the worker has sent, as much as its receive takes.
    fn feed_link(&mut self) {
        if self.to_gateway.is_empty() {
            return;
        }
        let Some((token, Op::Recv { block, offset, len, .. })) = self.link_recv.take() else { return };
        let count = self.to_gateway.len().min(len as usize);
        let bytes: Vec<u8> = self.to_gateway.drain(..count).collect();
        self.world.write(block, offset, &bytes);
        self.completions.push(Completion::new(token, result(count)));
    }
}

/// Bytes as a completion has them.
fn result(bytes: usize) -> i32 {
    i32::try_from(bytes).expect("a block is short")
}
