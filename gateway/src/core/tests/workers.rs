//! Workers come and go by reload: a link's place goes to the next one when nothing of the last is left.

use std::sync::Arc;

use roost_protocol::{
    ConnectionId,
    edge::Hello,
    link::{Header, LinkType},
};

use super::config;
use crate::{
    core::{
        Command, CoreConfig, ShardCore,
        config::WorkerConfig,
        event::Event,
        pool::specs,
        record::State,
        stats::{LINKS_MAX, ShardStats, Stat},
    },
    op::{Op, Sock, errno, poll_bits},
    sim::Hands,
};

const SLOTS: u32 = 8;

pub(super) struct Rig {
    pub(super) config: CoreConfig,
    pub(super) core: ShardCore,
    pub(super) hands: Hands,
    pub(super) now_ms: u64,
    pub(super) events: Vec<Event>,
}

impl Rig {
    pub(super) fn new(names: &[&str]) -> Self {
        Self::of(CoreConfig { workers: workers(names), ..config() })
    }

    pub(super) fn of(config: CoreConfig) -> Self {
        let hands = Hands::new(&specs(&config));
        let stats = Arc::new(ShardStats::default());
        let core = ShardCore::new(config.clone(), SLOTS, stats, Box::new(|bytes| bytes.fill(7)));
        let mut rig = Self { config, core, hands, now_ms: 0, events: Vec::new() };
        rig.core.start(&mut rig.hands, 0, SLOTS);
        rig
    }

    pub(super) fn reload(&mut self, names: &[&str]) {
        let config = CoreConfig { workers: workers(names), ..self.config.clone() };
        self.core.on_command(&mut self.hands, Command::Configure(Box::new(config)));
        self.turn();
    }

    pub(super) fn turn(&mut self) {
        self.now_ms += 1;
        self.core.begin_turn(self.now_ms);
        self.core.end_turn(&mut self.hands);
        let events = &mut self.events;
        self.core.take_events(|event| events.push(event));
        self.core.check_invariants();
    }

    pub(super) fn end(&mut self, wanted: impl Fn(Op) -> bool, result: i32) -> bool {
        let Some(op) = self.hands.take(|_, op| wanted(op)) else { return false };
        let completion = self.hands.end(op, result);
        self.core.on_completion(&mut self.hands, completion);
        true
    }

    /// What was cancelled ends, sends are taken whole, closes are done; dials stay.
    pub(super) fn settle(&mut self) {
        loop {
            if let Some(op) = self.hands.take(|_, op| matches!(op, Op::Send { .. })) {
                let (completion, _) = self.hands.end_send(op, usize::MAX);
                self.core.on_completion(&mut self.hands, completion);
            } else if let Some((token, op)) = self.hands.take(|_, op| matches!(op, Op::Cancel { .. })) {
                let Op::Cancel { target, .. } = op else { unreachable!("just matched") };
                if let Some(victim) = self.hands.take(|token, _| token == target) {
                    let completion = self.hands.end(victim, -errno::ECANCELED);
                    self.core.on_completion(&mut self.hands, completion);
                }
                let completion = self.hands.end((token, op), 0);
                self.core.on_completion(&mut self.hands, completion);
            } else if !self.end(|op| matches!(op, Op::Close { .. } | Op::Shutdown { .. }), 0) {
                return self.turn();
            }
        }
    }

    /// A client of the only worker that takes clients; its slot.
    pub(super) fn client(&mut self, key: &[u8]) -> u32 {
        let (token, op) = self.hands.take(|_, op| matches!(op, Op::Accept { .. })).expect("an accept");
        let Op::Accept { slot, .. } = op else { unreachable!("just matched") };
        let completion = self.hands.end((token, op), 0);
        self.core.on_completion(&mut self.hands, completion);
        let mut hello = Vec::new();
        Hello { key, token: b"" }.encode(&mut hello);
        self.hands.deliver(&mut self.core, Sock::Client(slot), &hello);
        self.settle();
        assert_eq!(self.view(slot).state, State::Opening);
        slot
    }

    fn view(&self, slot: u32) -> crate::core::shard::inspect::SlotView {
        self.core.slot_views().nth(slot as usize).expect("a slot")
    }

    pub(super) fn say(&mut self, link: u16, link_type: LinkType, connection: ConnectionId, payload: &[u8]) {
        let mut bytes = Header::new(link_type, connection, payload.len() as u32).encode().to_vec();
        bytes.extend(payload);
        self.hands.deliver(&mut self.core, Sock::Link(link), &bytes);
        self.settle();
    }

    /// The worker has handled all that it was sent.
    pub(super) fn acknowledge(&mut self, link: u16) {
        let view = self.core.link_views().nth(usize::from(link)).expect("a link");
        let position = (view.acked_frames + view.lag_frames).to_be_bytes();
        self.say(link, LinkType::Ack, ConnectionId::from_bits(0), &position);
    }

    /// Names of the links whose figures are published.
    fn published(&self) -> Vec<String> {
        self.core.stats().links().iter().map(|link| link.worker.to_string()).collect()
    }
}

pub(super) fn workers(names: &[&str]) -> Vec<WorkerConfig> {
    names.iter().map(|name| WorkerConfig { name: (*name).to_owned(), secret: None }).collect()
}

#[test]
fn names_without_end_need_no_more_links_than_there_are_workers() {
    let mut rig = Rig::new(&["w0"]);
    for number in 1..=300 {
        let name = format!("w{number}");
        rig.reload(&[&name]);
        rig.settle();
        assert_eq!(rig.published(), [name.as_str()]);
        assert!(rig.core.link_views().count() <= 2);
        let index = rig.core.worker_index(&name).expect("a link");
        assert_eq!(rig.core.worker_name(index as u8), name);
        assert_eq!(rig.core.worker_index(&format!("w{}", number - 1)), None);
    }
    // The last one is dialled, again and again.
    assert!(rig.end(|op| matches!(op, Op::Connect { .. }), -errno::ECONNREFUSED));
    rig.settle();
    rig.now_ms += 1_000;
    rig.turn();
    assert!(rig.hands.ops().any(|(_, op)| matches!(op, Op::Connect { .. })));
}

#[test]
fn as_many_workers_as_fit_a_byte_have_links_and_one_more_has_none() {
    let names: Vec<String> = (0..=LINKS_MAX).map(|number| format!("w{number}")).collect();
    let mut all: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut rig = Rig::new(&all[..1]);
    rig.reload(&all);
    assert!(rig.events.contains(&Event::NoLink { workers: 1 }), "{:?}", rig.events);
    assert_eq!(rig.core.link_views().count(), LINKS_MAX);
    assert_eq!(rig.core.worker_index(all[LINKS_MAX - 1]), Some(255));
    assert_eq!(rig.core.worker_index(all[LINKS_MAX]), None);
    // As soon as one has left, there is a link for the next reload.
    let last = all.pop().expect("257 names");
    rig.reload(&all[1..]);
    rig.settle();
    all[0] = last;
    rig.reload(&all);
    assert_eq!(rig.core.worker_index(last), Some(0));
    assert_eq!(rig.published().len(), LINKS_MAX);
}

#[test]
fn a_link_is_kept_while_a_connection_or_its_last_frames_need_it() {
    let mut rig = Rig::new(&["old"]);
    rig.hands.welcome_link(&mut rig.core, 64 * 1024);
    rig.settle();
    let slot = rig.client(b"key");
    let id = rig.view(slot).connection;
    rig.say(0, LinkType::Accept, id, &7u64.to_be_bytes());
    rig.acknowledge(0);
    // It is not named any more, and nobody else takes its client.
    rig.reload(&["new"]);
    rig.settle();
    assert_eq!(rig.core.worker_index("new"), Some(1), "what belongs to old is not new's");
    assert_eq!(rig.published(), ["old", "new"]);
    assert_eq!(rig.view(slot).worker, 0);
    rig.reload(&["new", "newer"]);
    assert_eq!(rig.core.worker_index("newer"), Some(2));
    // The client goes; the worker has yet to acknowledge that it was told.
    rig.end(|op| matches!(op, Op::Poll { sock, .. } if sock == Sock::Client(slot)), poll_bits::IN);
    rig.end(|op| matches!(op, Op::Recv { sock, .. } if sock == Sock::Client(slot)), -errno::ECONNRESET);
    rig.settle();
    assert_eq!(rig.core.stats().get(Stat::Connections), 0);
    rig.reload(&["new", "newer", "newest"]);
    assert_eq!(rig.core.worker_index("newest"), Some(3), "CLOSED is not acknowledged");
    rig.acknowledge(0);
    rig.settle();
    rig.settle();
    assert_eq!(rig.published(), ["new", "newer", "newest"], "now nothing of it is left");
    rig.reload(&["new", "newer", "newest", "last"]);
    assert_eq!(rig.core.worker_index("last"), Some(0), "and its place is taken");
}
