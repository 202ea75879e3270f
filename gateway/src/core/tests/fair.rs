//! Who is read, how much of it at a stretch, and how much a client may say.

use std::sync::Arc;

use roost_protocol::{
    Reason,
    edge::{self, FrameType, Goaway, Hello},
    link::{self, Header, LinkType, Split},
};

use super::config;
use crate::{
    core::{
        CoreConfig, Next, ShardCore,
        pool::specs,
        record::State,
        shard::Command,
        stats::{ShardStats, Stat},
    },
    op::{Interest, Op, Sock, errno, poll_bits},
    sim::Hands,
};

/// A shard with one worker, whose clients' sockets hold what `unread` says.
struct Rig {
    core: ShardCore,
    hands: Hands,
    now_ms: u64,
    /// What stands in each client's socket; read as far as a block goes.
    unread: Vec<Vec<u8>>,
    /// What each client was sent.
    heard: Vec<Vec<u8>>,
    /// A client's socket never runs dry of this.
    flood: Option<Vec<u8>>,
    floods: Vec<bool>,
    /// The worker acknowledges, and takes what it is sent.
    acknowledges: bool,
    link_rx: Vec<u8>,
    link_frames: u64,
}

impl Rig {
    fn new(config: CoreConfig, clients: usize) -> Self {
        let mut hands = Hands::new(&specs(&config));
        let slots = config.slots_max;
        let stats = Arc::new(ShardStats::default());
        let mut core = ShardCore::new(config, slots, stats, Box::new(|bytes| bytes.fill(7)));
        core.start(&mut hands, 1_000, slots);
        hands.welcome_link(&mut core, 1 << 20);
        let mut rig = Self {
            core,
            hands,
            now_ms: 1_000,
            unread: vec![Vec::new(); slots as usize],
            heard: vec![Vec::new(); slots as usize],
            flood: None,
            floods: vec![false; slots as usize],
            acknowledges: true,
            link_rx: Vec::new(),
            link_frames: 0,
        };
        for client in 0..clients {
            let accept = rig.hands.take(|_, op| matches!(op, Op::Accept { .. })).expect("an accept is armed");
            let Op::Accept { slot, .. } = accept.1 else { unreachable!() };
            assert_eq!(slot as usize, client, "slots are taken in order");
            Hello { key: &slot.to_be_bytes(), token: b"" }.encode(&mut rig.unread[client]);
            let accepted = rig.hands.end(accept, 0);
            rig.core.on_completion(&mut rig.hands, accepted);
            rig.turn();
        }
        for view in rig.core.slot_views().collect::<Vec<_>>() {
            if view.state == State::Opening {
                let header = Header::new(LinkType::Accept, view.connection, 8);
                let bytes = [&header.encode()[..], &1u64.to_be_bytes()].concat();
                rig.hands.deliver(&mut rig.core, Sock::Link(0), &bytes);
            }
        }
        rig.turn();
        assert_eq!(rig.core.slot_views().filter(|view| view.state == State::Open).count(), clients);
        rig.heard.iter_mut().for_each(Vec::clear);
        rig
    }

    fn stat(&self, stat: Stat) -> u64 {
        self.core.stats().get(stat)
    }

    fn state(&self, client: usize) -> State {
        self.core.slot_views().nth(client).expect("a client").state
    }

    /// Everything in the kernel ends once; what that leads to waits for the next turn.
    fn turn(&mut self) -> Next {
        self.core.begin_turn(self.now_ms);
        let ops: Vec<_> = self.hands.ops().collect();
        for (token, _) in ops {
            self.complete(token);
        }
        let next = self.core.end_turn(&mut self.hands);
        self.core.check_invariants();
        next
    }

    fn complete(&mut self, token: crate::op::Token) {
        let Some(op) = self.hands.take(|of, _| of == token) else { return };
        let ended = match op.1 {
            Op::Accept { .. } | Op::Recv { sock: Sock::Link(_), .. } => return self.hands.put_back(op),
            Op::Poll { interest: Interest::Writable, .. } => self.hands.end(op, poll_bits::OUT),
            Op::Poll { sock: Sock::Client(slot), .. } => {
                if self.unread[slot as usize].is_empty() && !self.floods[slot as usize] {
                    return self.hands.put_back(op);
                }
                self.hands.end(op, poll_bits::IN)
            }
            Op::Recv { sock: Sock::Client(slot), .. } => {
                let slot = slot as usize;
                if let (true, Some(flood)) = (self.floods[slot], &self.flood) {
                    self.unread[slot].clone_from(flood);
                }
                let unread = &mut self.unread[slot];
                if unread.is_empty() {
                    self.hands.end(op, -errno::EAGAIN)
                } else {
                    let (ended, taken) = self.hands.end_recv(op, unread);
                    unread.drain(..taken);
                    ended
                }
            }
            Op::Send { sock, .. } => {
                let (ended, bytes) = self.hands.end_send(op, usize::MAX);
                match sock {
                    Sock::Client(slot) => self.heard[slot as usize].extend(bytes),
                    Sock::Link(_) => self.link_rx.extend(bytes),
                }
                self.core.on_completion(&mut self.hands, ended);
                return self.acknowledge();
            }
            _ => self.hands.end(op, 0),
        };
        self.core.on_completion(&mut self.hands, ended);
    }

    fn acknowledge(&mut self) {
        while let Ok(Split::Frame { header, .. }) = link::split(&self.link_rx, u32::MAX) {
            self.link_frames += u64::from(header.link_type.is_sequenced());
            self.link_rx.drain(..header.frame_bytes());
        }
        let acked = self.core.link_views().next().expect("a link").acked_frames;
        let receives = self.hands.ops().any(|(_, op)| matches!(op, Op::Recv { sock: Sock::Link(0), .. }));
        if self.acknowledges && acked < self.link_frames && receives {
            let none = roost_protocol::ConnectionId::from_bits(0);
            let header = Header::new(LinkType::Ack, none, 8);
            let bytes = [&header.encode()[..], &self.link_frames.to_be_bytes()].concat();
            self.hands.deliver(&mut self.core, Sock::Link(0), &bytes);
        }
    }

    fn turns_until(&mut self, what: &str, most: u32, done: impl Fn(&Self) -> bool) -> u32 {
        for turns in 0..most {
            if done(self) {
                return turns;
            }
            self.turn();
        }
        panic!("not within {most} turns: {what}");
    }

    fn goaway(&self, client: usize) -> Option<Reason> {
        let mut rest = &self.heard[client][..];
        while let Ok(edge::Split::Frame { frame_type, frame }) = edge::split(rest, 1 << 20) {
            if frame_type == FrameType::Goaway {
                return Goaway::decode(&frame[edge::HEADER_BYTES..]).ok().map(|goaway| goaway.reason);
            }
            rest = &rest[frame.len()..];
        }
        None
    }
}

fn frames(frame_type: FrameType, payload: &[u8], count: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    edge::encode_frame(frame_type, payload, &mut frame);
    frame.repeat(count)
}

#[test]
fn whoever_waits_for_a_receive_buffer_goes_before_one_that_has_just_had_it() {
    let (buffers, greedy) = (2, 7);
    let config = CoreConfig { rx_blocks: buffers, ..config() };
    let mut rig = Rig::new(config, greedy + 1);
    rig.flood = Some(frames(FrameType::Pong, b"", CoreConfig::RX_BLOCK_BYTES as usize / 4));
    rig.floods[..greedy].fill(true);
    for _ in 0..50 {
        rig.turn();
    }
    assert!(rig.stat(Stat::RxPoolWaits) > 0, "there are too few buffers for all");
    rig.unread[greedy] = frames(FrameType::Ping, b"quietly", 1);
    // Everybody before it handles a full buffer, a part at a stretch.
    let stretches = CoreConfig::RX_BLOCK_BYTES / 4 / 128;
    let most = 10 + (greedy as u32).div_ceil(buffers) * (stretches + 2);
    rig.turns_until("a PING beside floods is answered", most, |rig| !rig.heard[greedy].is_empty());
    // A newcomer's HELLO waits no longer, either.
    let accept = rig.hands.take(|_, op| matches!(op, Op::Accept { .. })).expect("an accept is armed");
    Hello { key: b"new", token: b"" }.encode(&mut rig.unread[greedy + 1]);
    let accepted = rig.hands.end(accept, 0);
    rig.core.on_completion(&mut rig.hands, accepted);
    rig.turns_until("a HELLO beside floods is handled", most, |rig| rig.state(greedy + 1) == State::Opening);
}

#[test]
fn one_that_is_sent_away_while_it_waits_has_one_place() {
    let mut rig = Rig::new(CoreConfig { rx_blocks: 1, ..config() }, 3);
    rig.flood = Some(frames(FrameType::Pong, b"", CoreConfig::RX_BLOCK_BYTES as usize / 4));
    rig.floods[..2].fill(true);
    rig.unread[2] = frames(FrameType::Ping, b"", 1);
    let places = |rig: &Rig| rig.core.buffer_waiters().iter().filter(|waiter| waiter.0 == 2).count();
    rig.turns_until("it waits for the buffer", 50, |rig| places(rig) == 1);
    let connection = rig.core.slot_views().nth(2).expect("a client").connection;
    let close = Command::Close { connection, reason: Reason::AdminClosed };
    rig.core.on_command(&mut rig.hands, close);
    assert_eq!((rig.state(2), places(&rig)), (State::Draining, 0));
    rig.turns_until("it waits for the buffer, for its end", 20, |rig| places(rig) > 0);
    assert_eq!(places(&rig), 1, "it would be read twice while others wait");
}

#[test]
fn a_receive_full_of_small_frames_is_handled_a_part_at_a_stretch_and_in_order() {
    let mut rig = Rig::new(CoreConfig { accepts_max: 1, ..config() }, 1);
    let at_a_stretch = u64::from(rig.core.bounds().client_frames);
    let pings: Vec<u8> = (0..1_000u32).flat_map(|i| frames(FrameType::Ping, &i.to_be_bytes(), 1)).collect();
    rig.unread[0] = pings;
    let mut before = rig.stat(Stat::ClientFramesReceived);
    let mut turns = 0;
    while rig.heard[0].len() < 8_000 {
        let next = rig.turn();
        let handled = rig.stat(Stat::ClientFramesReceived);
        assert!(handled - before <= 2 * at_a_stretch, "{} at once", handled - before);
        assert!(
            handled == 1_001 || handled == before || next == Next::Busy,
            "the rest waits for somebody else"
        );
        before = handled;
        turns += 1;
        assert!(turns < 100, "{} bytes heard", rig.heard[0].len());
    }
    assert_eq!(
        rig.heard[0],
        (0..1_000u32).flat_map(|i| frames(FrameType::Pong, &i.to_be_bytes(), 1)).collect::<Vec<_>>()
    );
    assert!(rig.stat(Stat::ReadsPostponed) > 0);
}

#[test]
fn a_client_that_is_closed_while_its_frames_wait_gives_its_buffer_back() {
    let mut rig = Rig::new(CoreConfig { rx_blocks: 1, ..config() }, 2);
    rig.unread[0] = frames(FrameType::Pong, b"", 4_096);
    rig.turns_until("frames wait", 5, |rig| rig.core.blocks_postponed() == 1);
    let connection = rig.core.slot_views().next().unwrap().connection;
    rig.core.on_command(&mut rig.hands, Command::Close { connection, reason: Reason::AdminClosed });
    rig.unread[1] = frames(FrameType::Ping, b"x", 1);
    rig.turns_until("the other one is read", 10, |rig| !rig.heard[1].is_empty());
    assert_eq!(rig.core.blocks_postponed(), 0);
}

#[test]
fn pings_and_pongs_are_under_a_budget_of_their_own() {
    for frame_type in [FrameType::Ping, FrameType::Pong] {
        let config = CoreConfig { control_frames_per_s_max: 50, messages_per_s_max: 5, ..config() };
        let mut rig = Rig::new(config, 2);
        // Twice a second's worth at once is allowed, and a second's worth every second from then on.
        rig.unread[0] = frames(frame_type, b"", 100);
        for _ in 0..10 {
            rig.turn();
        }
        for _ in 0..5 {
            rig.now_ms += 1_000;
            rig.unread[0] = frames(frame_type, b"", 50);
            rig.turn();
            rig.turn();
            rig.turn();
        }
        assert_eq!(rig.state(0), State::Open, "{frame_type:?}");
        rig.unread[0] = frames(frame_type, b"", 1);
        rig.turns_until("one too many", 10, |rig| rig.goaway(0).is_some());
        assert_eq!(rig.goaway(0), Some(Reason::RateLimited));
        assert_eq!(rig.state(1), State::Open, "its neighbour has not said a word");
    }
}

#[test]
fn a_message_rate_beyond_16_bits_means_what_it_says() {
    for (rate, sent) in [(70_000, 140_000), (100_000, 70_000), (1_000_000, 200_000)] {
        let mut rig = Rig::new(CoreConfig { messages_per_s_max: rate, ..config() }, 1);
        rig.unread[0] = frames(FrameType::Message, b"", sent);
        rig.turns_until("all are forwarded", 20_000, |rig| {
            rig.stat(Stat::MessagesForwarded) == sent as u64 || rig.goaway(0).is_some()
        });
        assert_eq!(rig.goaway(0), None, "{sent} at once where {rate} a second are allowed");
    }
    let mut rig = Rig::new(CoreConfig { messages_per_s_max: 70_000, ..config() }, 1);
    rig.unread[0] = frames(FrameType::Message, b"", 140_001);
    rig.turns_until("one too many", 20_000, |rig| rig.goaway(0).is_some());
    assert_eq!(rig.stat(Stat::MessagesForwarded), 140_000);
}

#[test]
fn time_in_which_a_client_is_not_read_is_not_held_against_it() {
    let limits = CoreConfig { messages_per_s_max: 10, control_frames_per_s_max: 10, ..config() };
    // Its worker is silent meanwhile, and not to be given up.
    let config = CoreConfig { link_failover_ms: u32::MAX, link_keepalive_ms: 0, ..limits };
    for blocked in [true, false] {
        let mut rig = Rig::new(config.clone(), 2);
        if blocked {
            // The worker does not acknowledge: its window fills, and nobody is read.
            rig.acknowledges = false;
            let fill = frames(FrameType::Message, &[0; 8_000], 1);
            while rig.stat(Stat::ConnectionsBlocked) == 0 {
                rig.unread[1].clone_from(&fill);
                rig.turn();
                rig.now_ms += 100;
            }
            rig.unread[0] = frames(FrameType::Message, b"one", 1);
            rig.turns_until("the window is full for this one, too", 10, |rig| {
                rig.stat(Stat::ConnectionsBlocked) == 2
            });
        }
        // For a minute it sends what it may.
        rig.unread[0]
            .extend((0..600).flat_map(|_| {
                [frames(FrameType::Message, b"", 1), frames(FrameType::Ping, b"", 1)].concat()
            }));
        if blocked {
            rig.now_ms += 60_000;
            rig.turn();
            rig.acknowledges = true;
            rig.acknowledge();
        } else {
            rig.core.on_pause(60_000);
        }
        rig.turns_until("all is read", 100, |rig| {
            rig.unread[0].is_empty() && rig.core.blocks_postponed() == 0
        });
        for _ in 0..20 {
            rig.turn();
        }
        assert_eq!((rig.goaway(0), rig.state(0)), (None, State::Open), "blocked: {blocked}");
        // What was given for that time is given once.
        rig.unread[0] = frames(FrameType::Ping, b"", 40);
        rig.turns_until("more than its share", 10, |rig| rig.goaway(0).is_some());
    }
}

#[test]
fn a_limit_that_is_lowered_holds_at_once() {
    let mut rig = Rig::new(config(), 1);
    rig.unread[0] = frames(FrameType::Ping, b"", 10);
    rig.turn();
    let lowered = CoreConfig { messages_per_s_max: 3, control_frames_per_s_max: 3, ..config() };
    rig.core.on_command(&mut rig.hands, Command::Configure(Box::new(lowered)));
    rig.unread[0] = frames(FrameType::Ping, b"", 7);
    rig.turns_until("one too many", 10, |rig| rig.goaway(0).is_some());
    assert_eq!(rig.goaway(0), Some(Reason::RateLimited));
}

#[test]
fn whoever_is_silent_for_days_is_known_to_be() {
    let mut rig = Rig::new(CoreConfig { idle_timeout_ms: 0, link_failover_ms: u32::MAX, ..config() }, 1);
    let heard_ms = rig.now_ms;
    for _ in 0..3_000 {
        rig.now_ms += 90_000;
        rig.turn();
    }
    let silent_ms = rig.now_ms - heard_ms;
    let known_ms = rig.core.sample(0, 1)[0].idle_ms;
    assert!(known_ms.abs_diff(silent_ms) <= 2_000, "silent for {silent_ms} ms, known: {known_ms}");
    rig.unread[0] = frames(FrameType::Ping, b"", 1);
    rig.turns_until("it is answered", 5, |rig| !rig.heard[0].is_empty());
    assert_eq!(rig.core.sample(0, 1)[0].idle_ms, 0);
}

#[test]
fn a_link_that_is_not_read_for_its_broadcasts_is_not_silent() {
    for keepalive_ms in [0, 10_000] {
        let mut bounds = config().bounds;
        (bounds.fanout_blocks, bounds.fanout_visits) = (1, 1);
        let (failover_ms, accepts_max) = (1_000, 1);
        let config = CoreConfig {
            bounds,
            accepts_max,
            link_failover_ms: failover_ms,
            link_keepalive_ms: keepalive_ms,
            ..config()
        };
        let mut rig = Rig::new(config, 8);
        // More broadcasts than can be under way, at a turn a client: it takes longer than a failover.
        let message = frames(FrameType::Message, b"to all", 1);
        let mut header = Header::new(
            LinkType::Broadcast,
            roost_protocol::ConnectionId::from_bits(0),
            message.len() as u32,
        );
        header.flags = roost_protocol::link::header::FLAG_ALL;
        let broadcast = [&header.encode()[..], &message].concat();
        rig.hands.deliver(&mut rig.core, Sock::Link(0), &broadcast.repeat(50));
        for _ in 0..1_200 {
            rig.now_ms += 20;
            rig.turn();
            if rig.stat(Stat::FanoutDeliveries) == 400 {
                break;
            }
        }
        assert_eq!(rig.stat(Stat::FanoutDeliveries), 400, "all are delivered");
        assert_eq!(rig.stat(Stat::LinkBreaks), 0, "the link is in use, keepalive {keepalive_ms}");
        // From now on it is silent indeed.
        for _ in 0..100 {
            rig.now_ms += 20;
            rig.turn();
        }
        assert!(rig.stat(Stat::LinkBreaks) > 0);
    }
}
