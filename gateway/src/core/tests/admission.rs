//! Memory is asked for where bytes are appended: whatever clients, workers and reloads do, queues keep
//! to what is theirs, and who holds the most pays.

use std::sync::Arc;

use roost_protocol::{
    ConnectionId, InstanceId, Reason,
    edge::{self, FrameType, Hello},
    hash,
    link::{self, Header, LinkType, Split},
};

use crate::{
    core::{
        Command, CoreConfig, ShardCore,
        config::WorkerConfig,
        pool::specs,
        record::State,
        stats::{ShardStats, Stat},
    },
    op::{Op, Sock, errno, poll_bits},
    sim::Hands,
};

const SLOTS: u32 = 256;

fn workers(count: usize) -> Vec<WorkerConfig> {
    (0..count).map(|i| WorkerConfig { name: format!("worker-{i}"), secret: None }).collect()
}

struct Rig {
    core: ShardCore,
    hands: Hands,
    stats: Arc<ShardStats>,
    now_ms: u64,
    /// Bytes of an incomplete frame that each worker has read, and MESSAGEs before it.
    wires: Vec<(Vec<u8>, usize)>,
}

impl Rig {
    fn new(config: CoreConfig) -> Self {
        let hands = Hands::new(&specs(&config));
        let stats = Arc::new(ShardStats::default());
        let core = ShardCore::new(config, SLOTS, Arc::clone(&stats), Box::new(|bytes| bytes.fill(7)));
        let mut rig = Self { core, hands, stats, now_ms: 1, wires: Vec::new() };
        rig.core.start(&mut rig.hands, 0, SLOTS);
        rig
    }

    fn end(&mut self, wanted: impl Fn(Op) -> bool, result: i32) -> bool {
        let Some(op) = self.hands.take(|_, op| wanted(op)) else { return false };
        let completion = self.hands.end(op, result);
        self.core.on_completion(&mut self.hands, completion);
        true
    }

    /// Turns until nothing is left to do at once; TCP takes all that links send.
    fn settle(&mut self) {
        loop {
            self.core.begin_turn(self.now_ms);
            self.core.end_turn(&mut self.hands);
            self.core.check_invariants();
            let mut idle = true;
            while let Some(op) = self.hands.take(|_, op| matches!(op, Op::Send { sock: Sock::Link(_), .. })) {
                let Op::Send { sock: Sock::Link(link), .. } = op.1 else { unreachable!("just matched") };
                let (completion, bytes) = self.hands.end_send(op, usize::MAX);
                self.core.on_completion(&mut self.hands, completion);
                self.hear(usize::from(link), &bytes);
                idle = false;
            }
            if idle {
                return;
            }
        }
    }

    fn hear(&mut self, link: usize, bytes: &[u8]) {
        let (wire, messages) = &mut self.wires[link];
        wire.extend(bytes);
        let mut at = 0;
        while let Ok(Split::Frame { header, .. }) = link::split(&wire[at..], u32::MAX) {
            *messages += usize::from(header.link_type == LinkType::Data);
            at += header.frame_bytes();
        }
        wire.drain(..at);
    }

    /// A worker takes the dial and grants a window.
    fn up(&mut self, link: u16, window_bytes: u32) {
        self.wires.resize_with(self.wires.len().max(usize::from(link) + 1), Default::default);
        // LINK_HELLO counts for nothing here.
        self.hands.welcome(&mut self.core, link, InstanceId([link as u8 + 1; 16]), window_bytes);
        self.settle();
    }

    fn come(&mut self, key: &[u8]) -> u32 {
        self.settle();
        let op = self.hands.take(|_, op| matches!(op, Op::Accept { .. })).expect("an accept is armed");
        let Op::Accept { slot, .. } = op.1 else { unreachable!("just matched") };
        let completion = self.hands.end(op, 0);
        self.core.on_completion(&mut self.hands, completion);
        let mut hello = Vec::new();
        Hello { key, token: b"" }.encode(&mut hello);
        assert_eq!(self.say(slot, &hello), hello.len());
        slot
    }

    /// A client whose session its worker opens.
    fn open(&mut self, key: &[u8]) -> u32 {
        let slot = self.come(key);
        self.settle();
        let mut accept = Header::new(LinkType::Accept, self.id(slot), 8).encode().to_vec();
        accept.extend([1; 8]);
        let worker = self.core.slot_views().nth(slot as usize).expect("a slot").worker;
        self.hands.deliver(&mut self.core, Sock::Link(u16::from(worker)), &accept);
        assert!(self.take(slot, usize::MAX), "WELCOME");
        slot
    }

    fn id(&self, slot: u32) -> ConnectionId {
        self.core.sample(slot, 1)[0].connection
    }

    fn state(&self, slot: u32) -> State {
        self.core.slot_views().nth(slot as usize).expect("a slot").state
    }

    fn wake(&mut self, slot: u32) {
        let sock = Sock::Client(slot);
        self.end(|op| matches!(op, Op::Poll { sock: on, .. } if on == sock), poll_bits::IN);
    }

    fn receive(&mut self, slot: u32, bytes: &[u8]) -> Option<usize> {
        let sock = Sock::Client(slot);
        let receive = self.hands.take(|_, op| matches!(op, Op::Recv { sock: on, .. } if on == sock))?;
        let (received, taken) = self.hands.end_recv(receive, bytes);
        self.core.on_completion(&mut self.hands, received);
        Some(taken)
    }

    /// A client says this, for as long as it is read; returns how much was.
    fn say(&mut self, slot: u32, bytes: &[u8]) -> usize {
        let mut said = 0;
        while said < bytes.len() {
            self.wake(slot);
            match self.receive(slot, &bytes[said..]) {
                Some(taken) => said += taken,
                None => break,
            }
        }
        said
    }

    /// A client's socket takes so many bytes of what is being sent; false if nothing is.
    fn take(&mut self, slot: u32, bytes: usize) -> bool {
        let sock = Sock::Client(slot);
        let Some(op) = self.hands.take(|_, op| matches!(op, Op::Send { sock: on, .. } if on == sock)) else {
            return false;
        };
        let completion = match bytes {
            0 => self.hands.end(op, -errno::EAGAIN),
            _ => self.hands.end_send(op, bytes).0,
        };
        self.core.on_completion(&mut self.hands, completion);
        true
    }

    /// A worker acknowledges everything.
    fn acknowledge(&mut self, link: u16) {
        let view = self.core.link_views().nth(usize::from(link)).expect("a link");
        let mut ack = Header::new(LinkType::Ack, ConnectionId::from_bits(0), 8).encode().to_vec();
        ack.extend(view.offered_frames.to_be_bytes());
        self.hands.deliver(&mut self.core, Sock::Link(link), &ack);
        self.settle();
    }

    fn retained(&self) -> Vec<u64> {
        self.core.link_views().map(|link| link.retained_bytes).collect()
    }

    fn data(&mut self, slot: u32, payload_bytes: usize) {
        let frame = message(payload_bytes);
        let mut data = Header::new(LinkType::Data, self.id(slot), frame.len() as u32).encode().to_vec();
        data.extend(frame);
        self.hands.deliver(&mut self.core, Sock::Link(0), &data);
    }

    fn closes(&self, reason: Reason) -> u64 {
        self.stats.closes(reason)
    }
}

fn message(payload_bytes: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    edge::encode_frame(FrameType::Message, &vec![3; payload_bytes], &mut frame);
    frame
}

fn ping() -> Vec<u8> {
    let mut frame = Vec::new();
    edge::encode_frame(FrameType::Ping, &[1; 8], &mut frame);
    frame
}

#[test]
fn frames_that_are_completed_all_at_once_wait_whole_for_room() {
    let (frame, window) = (200_000, 400_008);
    let config = CoreConfig {
        frame_bytes_max: frame,
        link_window_bytes: window,
        ..CoreConfig::lone(SLOTS, workers(1))
    };
    let mut rig = Rig::new(config);
    rig.up(0, window);
    let clients: Vec<u32> = (0..CoreConfig::RX_BLOCKS).map(|i| rig.come(&i.to_be_bytes())).collect();
    let frame = message(frame as usize);
    let (last, most) = frame.split_last().expect("a frame");
    for &client in &clients {
        assert_eq!(rig.say(client, most), most.len());
    }
    // All of their receives are in the kernel before the first ends.
    clients.iter().for_each(|&client| rig.wake(client));
    for &client in &clients {
        assert_eq!(rig.receive(client, &[*last]), Some(1));
    }
    for _ in 0..clients.len() {
        let bound = u64::from(window) + frame.len() as u64 + 16 + 64 * u64::from(SLOTS);
        assert!(rig.retained()[0] <= bound, "{:?} of {bound}", rig.retained());
        rig.settle();
        rig.acknowledge(0);
    }
    assert_eq!(rig.wires[0].1, clients.len(), "each message has gone to the worker");
    assert_eq!(rig.stats.get(Stat::Closes), 0);
}

#[test]
fn a_worker_that_grants_more_than_the_gateway_keeps_is_not_sent_more() {
    let window = 128 * 1024;
    let config = CoreConfig { link_window_bytes: window, ..CoreConfig::lone(SLOTS, workers(1)) };
    let mut rig = Rig::new(config);
    rig.up(0, 1 << 28);
    let clients: Vec<u32> = (0..16u32).map(|i| rig.come(&i.to_be_bytes())).collect();
    let message = message(60_000);
    for _ in 0..200 {
        for &client in &clients {
            rig.say(client, &message);
        }
        rig.settle();
    }
    let bound = u64::from(window) + 60_020;
    assert!(rig.retained()[0] <= bound, "{:?} of {bound}", rig.retained());
    assert!(clients.iter().all(|&client| rig.say(client, &message) == 0), "nobody is read");
}

#[test]
fn queues_follow_a_list_of_workers_that_grows() {
    let window = 1 << 20;
    let config = CoreConfig { link_window_bytes: window, ..CoreConfig::lone(SLOTS, workers(1)) };
    let mut rig = Rig::new(config.clone());
    rig.up(0, window);
    let more = CoreConfig { workers: workers(30), ..config };
    rig.core.on_command(&mut rig.hands, Command::Configure(Box::new(more)));
    rig.settle();
    (1..30).for_each(|link| rig.up(link, window));
    // None of them acknowledges anything, and clients of all of them do not stop.
    let clients: Vec<u32> = (0..SLOTS - 64).map(|i| rig.come(&i.to_be_bytes())).collect();
    let message = message(60_000);
    for _ in 0..30 {
        for &client in &clients {
            rig.say(client, &message);
        }
        rig.settle();
    }
    let full = rig.retained().iter().filter(|&&bytes| bytes >= u64::from(window)).count();
    assert!(full > 20, "most are full: {:?}", rig.retained());
    assert_eq!(rig.stats.get(Stat::Closes) + rig.stats.get(Stat::LinkOverruns), 0);
}

/// All that a link which is closing has in the kernel ends.
fn join(rig: &mut Rig, link: u16) {
    let sock = Sock::Link(link);
    rig.end(|op| matches!(op, Op::Recv { sock: on, .. } if on == sock), -errno::ECANCELED);
    rig.end(|op| op == Op::Connect { link }, -errno::ECANCELED);
    rig.end(|op| matches!(op, Op::Cancel { sock: on, .. } if on == sock), 0);
    rig.end(|op| matches!(op, Op::Close { sock: on } if on == sock), 0);
    rig.settle();
}

#[test]
fn a_link_that_overruns_what_all_share_is_given_up_and_loses_nothing() {
    let window = 1024;
    let config = CoreConfig {
        frame_bytes_max: 256,
        link_window_bytes: window,
        link_tx_block_bytes: 512,
        link_shared_percent: 0,
        link_failover_ms: 10_000,
        ..CoreConfig::lone(SLOTS, workers(2))
    };
    let mut rig = Rig::new(config.clone());
    rig.up(0, window);
    rig.up(1, window);
    // Nine in ten are the second's.
    let owner = |key: &[u8; 4]| {
        let names = (0..2).map(|i| (i, hash::worker_hash(format!("worker-{i}").as_bytes())));
        hash::rendezvous(hash::partition(key), names)
    };
    let keys = |worker: u32, count: usize| {
        (0..u32::MAX).map(u32::to_be_bytes).filter(move |key| owner(key) == Some(worker)).take(count)
    };
    let mut clients = Vec::new();
    for key in keys(0, 20).chain(keys(1, 180)) {
        clients.push(rig.open(&key));
        (0..2).for_each(|link| rig.acknowledge(link));
    }
    for &client in &clients[10..30] {
        rig.say(client, &message(200));
        rig.settle();
    }
    assert!(rig.retained().iter().all(|&bytes| bytes >= u64::from(window)), "both are full");
    let forwarded = rig.stats.get(Stat::MessagesForwarded);
    // The second is silent for too long. Its clients are more than the first has room to be told of, and
    // that one acknowledges nothing.
    rig.now_ms = 9_000;
    let ping = Header::new(LinkType::Ping, ConnectionId::from_bits(0), 0).encode();
    rig.hands.deliver(&mut rig.core, Sock::Link(0), &ping);
    rig.now_ms = 11_000;
    rig.settle();
    join(&mut rig, 1);
    assert_eq!(rig.stats.get(Stat::LinkFailovers), 1);
    rig.settle();
    assert_eq!(rig.stats.get(Stat::LinkOverruns), 1, "{:?}", rig.retained());
    join(&mut rig, 0);
    assert_eq!(rig.stats.get(Stat::LinkFailovers), 2);
    // Another worker under the second name has all of it, where queues share what a gateway's do.
    let usual = CoreConfig { link_shared_percent: 100, ..config };
    rig.core.on_command(&mut rig.hands, Command::Configure(Box::new(usual)));
    rig.now_ms = 15_000;
    rig.settle();
    rig.wires[1] = Default::default();
    rig.up(1, 1 << 20);
    for _ in 0..40 {
        rig.acknowledge(1);
    }
    assert!(rig.wires[1].1 as u64 >= forwarded, "{} of {forwarded}", rig.wires[1].1);
    assert_eq!(rig.stats.get(Stat::Closes), 0);
}

/// A shard with little memory for backlogs, a link that is up, and clients whose sessions are open.
fn small_backlogs(clients: u32) -> (Rig, Vec<u32>) {
    let config = CoreConfig {
        frame_bytes_max: 8 * 1024,
        outbox_bytes_max: 64 * 1024,
        outbox_bytes_total: 64 * 1024,
        ..CoreConfig::lone(SLOTS, workers(1))
    };
    let mut rig = Rig::new(config);
    rig.up(0, 1 << 20);
    let open = (0..clients).map(|i| rig.open(&i.to_be_bytes())).collect();
    (rig, open)
}

#[test]
fn who_holds_the_most_pays_and_not_who_asks() {
    let (mut rig, clients) = small_backlogs(10);
    let (hogs, small) = clients.split_at(2);
    // Two whose sends are in the kernel, in the middle of a burst, and who hold all there is.
    for _ in 0..7 {
        hogs.iter().for_each(|&hog| rig.data(hog, 8_000));
    }
    for round in 0..200 {
        for &client in small {
            assert_eq!(rig.say(client, &ping()), ping().len(), "round {round}");
            if round % 2 == 0 {
                // Every other round its socket is slow, for a moment.
                rig.take(client, 1);
                let sock = Sock::Client(client);
                rig.end(|op| matches!(op, Op::Poll { sock: on, interest: crate::op::Interest::Writable } if on == sock), poll_bits::OUT);
            }
            while rig.take(client, usize::MAX) {}
            assert_eq!(rig.state(client), State::Open, "round {round}");
        }
        for &hog in hogs {
            if rig.state(hog) == State::Open {
                rig.data(hog, 8_000);
            }
        }
    }
    assert!(rig.closes(Reason::MemoryBudget) + rig.closes(Reason::SlowConsumer) > 0);
    assert!(small.iter().all(|&client| rig.state(client) == State::Open));
}

#[test]
fn a_data_frame_closes_the_largest_whose_send_is_in_the_kernel() {
    let (mut rig, clients) = small_backlogs(3);
    let [hog, other, asker] = clients[..] else { unreachable!("three") };
    for _ in 0..8 {
        rig.data(hog, 6_000);
    }
    // Something of everybody's is in the kernel.
    rig.data(other, 100);
    rig.data(asker, 100);
    for _ in 0..4 {
        rig.data(asker, 6_000);
    }
    assert_eq!(rig.state(hog), State::Closing);
    assert_eq!((rig.state(other), rig.state(asker)), (State::Open, State::Open));
    assert_eq!(rig.closes(Reason::MemoryBudget), 1);
    rig.core.check_invariants();
}

#[test]
fn one_that_is_told_to_go_lets_go_of_a_links_block_when_there_is_no_memory() {
    let (mut rig, clients) = small_backlogs(1);
    let client = clients[0];
    for _ in 0..9 {
        rig.data(client, 7_000);
    }
    let connection = rig.id(client);
    rig.core.on_command(&mut rig.hands, Command::Close { connection, reason: Reason::AdminClosed });
    assert_eq!(rig.state(client), State::Draining);
    // Its socket takes next to nothing, and there is no room for the rest.
    rig.take(client, 1);
    assert_eq!(rig.state(client), State::Closing, "it waits for nobody");
    rig.core.check_invariants();
}

#[test]
fn what_its_state_does_not_allow_is_refused_at_the_first_byte() {
    let oversize = [FrameType::Message as u8, 0xff, 0xff, 0xff];
    for bytes in [&message(100)[..], &ping(), &oversize] {
        for cut in 1..=bytes.len() {
            let mut rig = Rig::new(CoreConfig::lone(SLOTS, workers(1)));
            rig.up(0, 1 << 20);
            let op = rig.hands.take(|_, op| matches!(op, Op::Accept { .. })).expect("an accept is armed");
            let Op::Accept { slot, .. } = op.1 else { unreachable!("just matched") };
            let completion = rig.hands.end(op, 0);
            rig.core.on_completion(&mut rig.hands, completion);
            rig.say(slot, &bytes[..cut]);
            assert_eq!(rig.closes(Reason::UnexpectedFrame), 1, "{cut} of {bytes:?}");
            let [_, _, spill, ..] = rig.core.blocks_in_use();
            assert_eq!(spill, 0, "nothing of it is kept");
        }
    }
}
