//! The shadow model: what must hold between any two turns of the shard, seen from outside.

use std::collections::{BTreeMap, BTreeSet};

use roost_protocol::Reason;

use crate::{
    core::{
        ShardCore,
        link::LinkState,
        record::{State, bit, flag},
        shard::inspect::{LinkView, SlotView},
        stats::Stat,
    },
    op::{Interest, Op, Sock, Token},
    sim::{
        coverage::{Coverage, LINK_SITUATIONS, SITUATIONS},
        holds::Holds,
        kernel::World,
        net::ConnId,
        placement::Placement,
    },
};

/// Ops that one turn may submit: a constant, some per completion, some per slot.
const OPS_PER_TURN: (u64, u64, u64) = (64, 4, 4);

/// How often one client's frames may be handled in a turn, each time as many as at a stretch.
const STRETCHES_PER_TURN: u64 = 3;

/// What the shadow remembers from turn to turn.
#[derive(Debug, Default)]
pub struct Shadow {
    /// What has been reached.
    pub coverage: Coverage,
    slots: Vec<Option<SlotView>>,
    links: Vec<Option<LinkView>>,
    holds: Holds,
    placement: Placement,
    /// The last socket in each slot, and the generation of its connection.
    sockets: BTreeMap<u32, (ConnId, u32)>,
    /// Who waits for a receive buffer, at which place, and the slots that have received since.
    waiting: BTreeMap<(u32, u64), BTreeSet<u32>>,
    messages_forwarded: u64,
    ops_submitted: u64,
    completions: u64,
}

impl Shadow {
    /// The next turn takes a configuration.
    pub fn reloads(&mut self) {
        self.holds.reloads();
    }

    /// Checks everything that can be checked at the end of a turn. Panics, naming the invariant.
    pub fn check(&mut self, core: &ShardCore, world: &World) {
        let before = (self.ops_submitted, self.completions);
        self.check_work(core, world);
        self.check_share(core);
        self.check_order(core, world);
        let stopped_ms = world.stopped_us() / 1_000;
        assert!(
            core.now_ms() + stopped_ms <= world.now_us() / 1_000 + 1,
            "invariant served-time: {stopped_ms} ms of {} were a pause, and {} counted",
            world.now_us() / 1_000,
            core.now_ms()
        );
        self.holds.look(core.link_views().collect(), core.now_ms(), core.link_hold_ms());
        if before == (self.ops_submitted, self.completions) {
            // Nothing came in and nothing went out: what held still holds, and is looked at again
            // when it matters.
            return;
        }
        core.check_invariants();
        self.placement.check(core);
        self.check_ops(core, world);
        self.check_slots(core, world);
        self.check_links(core);
        self.check_buffers(core);
        self.check_polls(core, world);
        self.check_budgets(core);
        let forgotten = core.forgotten();
        assert!(
            forgotten.is_empty(),
            "invariant blocked-resumed: slots {forgotten:?} wait and no list knows them"
        );
        assert_eq!(
            core.stats().get(Stat::LateCompletions),
            0,
            "invariant token-live: a completion came for a generation that is gone"
        );
    }

    /// Op bits and ops in the kernel are the same set.
    fn check_ops(&self, core: &ShardCore, world: &World) {
        let sorted = |mut tokens: Vec<u64>| {
            tokens.sort_unstable();
            tokens
        };
        let believed = sorted(core.ops_in_kernel().iter().map(|token| token.to_bits()).collect());
        let real = sorted(world.in_flight().map(|(token, _)| token.to_bits()).collect());
        if believed != real {
            let only = |a: &[u64], b: &[u64]| -> Vec<Token> {
                a.iter().filter(|bits| !b.contains(bits)).map(|&bits| Token::from_bits(bits)).collect()
            };
            panic!(
                "invariant op-bits: bits without op {:?}, ops without bit {:?}",
                only(&believed, &real),
                only(&real, &believed)
            );
        }
    }

    fn check_slots(&mut self, core: &ShardCore, world: &World) {
        for (slot, view) in core.slot_views().enumerate() {
            let at = slot as u32;
            self.coverage.states.insert(view.state as u8);
            if slot >= self.slots.len() {
                self.slots.push(None);
            }
            let last = self.slots[slot].replace(view);
            for (name, applies) in SITUATIONS {
                if applies(&view) && !last.as_ref().is_some_and(applies) {
                    *self.coverage.situations.entry(name).or_default() += 1;
                }
            }
            let before = last.map_or(State::Free, |before| before.state);
            if before != view.state {
                *self.coverage.transitions.entry((before as u8, view.state as u8)).or_default() += 1;
            }
            let socket = world.in_slot(at);
            match view.state {
                State::Free => {
                    assert_eq!(
                        socket, None,
                        "invariant free-slot-clean: slot {slot} is free and has a socket"
                    );
                }
                // The accept, or the close, may have been executed but not been reaped.
                State::Accepting | State::Closing => {}
                _ => assert!(socket.is_some(), "invariant free-slot-clean: slot {slot} has lost its socket"),
            }
            if let Some(socket) = socket {
                let generation = view.connection.generation();
                let (last, of) = *self.sockets.entry(at).or_insert((socket, generation));
                assert!(
                    last == socket || of != generation,
                    "invariant generation-bumped: slot {slot} serves a second client as generation {generation}"
                );
                self.sockets.insert(at, (socket, generation));
            }
        }
    }

    fn check_links(&mut self, core: &ShardCore) {
        for (index, view) in core.link_views().enumerate() {
            let settled = view.lag_frames == 0 && view.all_sent;
            assert!(
                !settled || view.retained_bytes == 0,
                "invariant credit: link {index} retains {} bytes that nobody has yet to acknowledge",
                view.retained_bytes
            );
            if index >= self.links.len() {
                self.links.push(None);
            }
            let last = self.links[index].replace(view);
            for (name, applies) in LINK_SITUATIONS {
                if applies(&view) && !last.as_ref().is_some_and(applies) {
                    *self.coverage.situations.entry(name).or_default() += 1;
                }
            }
            if let Some(last) = last.filter(|last| last.worker_hash != view.worker_hash) {
                let left = (last.session, last.connections, last.retained_bytes, last.failing_over);
                assert!(
                    last.state == LinkState::Down && left == (None, 0, 0, false),
                    "invariant link-clean: link {index} goes to another worker; of the last one is left {last:?}"
                );
            }
            let before = last.map_or(LinkState::Down, |last| last.state);
            if before != view.state {
                *self.coverage.link_transitions.entry((before as u8, view.state as u8)).or_default() += 1;
            }
        }
    }

    /// Whoever stands on a list is not polled for input as well.
    fn check_polls(&self, core: &ShardCore, world: &World) {
        let views: Vec<SlotView> = core.slot_views().collect();
        for (token, op) in world.in_flight() {
            if let Op::Poll { sock: Sock::Client(slot), interest: Interest::Readable } = op
                && let Some(view) = views.get(slot as usize)
                && view.connection.generation() == token.generation()
            {
                let reads = matches!(view.state, State::Handshaking | State::Opening | State::Open);
                assert!(
                    !reads || view.flags & (flag::BLOCKED | flag::RX_WAIT) == 0,
                    "invariant reads-in-one-place: slot {slot} stands on a list and is polled for input"
                );
            }
        }
    }

    /// Every receive holds a block, and those that wait with its frames; nobody else holds one of that class.
    fn check_buffers(&self, core: &ShardCore) {
        let [rx, ..] = core.blocks_in_use();
        let receiving =
            core.slot_views().filter(|view| view.ops & crate::core::record::bit::RECV != 0).count();
        let postponed = core.blocks_postponed();
        assert_eq!(
            rx as usize,
            receiving + postponed,
            "invariant buffer-in-one-place: receive blocks in use"
        );
    }

    /// What is counted against a budget is there. This shard is alone in its process.
    fn check_budgets(&self, core: &ShardCore) {
        let (held, alive) = (core.cap_held(), core.connections_alive());
        assert!(
            held.is_none_or(|held| held == alive),
            "invariant budget: {held:?} connections are counted against the cap, {alive} are alive"
        );
        let (counted, holding) = (core.per_ip_counted(), core.per_ip_holders());
        assert!(
            counted.is_none_or(|counted| counted == holding),
            "invariant budget: {counted:?} connections are counted by address, {holding} should be"
        );
    }

    /// What one turn does is bounded by what came in and the size of the table.
    fn check_work(&mut self, core: &ShardCore, world: &World) {
        let submitted = world.ops_submitted();
        let completions = core.stats().get(Stat::Completions);
        let (constant, per_completion, per_slot) = OPS_PER_TURN;
        let slots = core.slot_views().count() as u64;
        let limit = constant + per_completion * (completions - self.completions) + per_slot * slots;
        let ops = submitted - self.ops_submitted;
        assert!(ops <= limit, "invariant bounded-work: {ops} ops in one turn, {limit} are reasonable");
        (self.ops_submitted, self.completions) = (submitted, completions);
    }

    /// What one client says is handled at a stretch or two, however much of it has arrived.
    fn check_share(&mut self, core: &ShardCore) {
        let forwarded = core.stats().get(Stat::MessagesForwarded);
        // Whoever is to be heard in this turn was being received, or waited, when the last one ended.
        let may_speak = |view: &&SlotView| {
            view.ops & bit::RECV != 0
                || view.is_postponed
                || view.flags & (flag::BLOCKED | flag::RX_WAIT) != 0
        };
        let speakers = self.slots.iter().flatten().filter(may_speak).count() as u64;
        // One that is blocked and resumed, or postponed, in a turn goes on in the same one.
        let limit = speakers * STRETCHES_PER_TURN * u64::from(core.bounds().client_frames);
        let now = forwarded - self.messages_forwarded;
        assert!(now <= limit, "invariant turns: {now} messages of {speakers} clients in one turn");
        self.messages_forwarded = forwarded;
    }

    /// Nobody gets a second receive buffer while another waits for its first.
    fn check_order(&mut self, core: &ShardCore, world: &World) {
        let receives = world.client_receives();
        let waiters = core.buffer_waiters();
        self.waiting.retain(|waiter, _| waiters.contains(waiter) && !receives.contains(&waiter.0));
        for (waiter, received) in &mut self.waiting {
            for &slot in receives {
                assert!(
                    received.insert(slot),
                    "invariant turns: slot {slot} receives again while slot {} waits for a buffer",
                    waiter.0
                );
            }
        }
        for waiter in waiters {
            self.waiting.entry(waiter).or_default();
        }
    }

    /// What must hold when every client has gone and every worker has answered.
    pub fn check_end(&self, core: &ShardCore) {
        let [rx, outbox, spill, _, link_tx, fanout] = core.blocks_in_use();
        assert_eq!(
            (rx, outbox, spill, link_tx, fanout),
            (0, 0, 0, 0, 0),
            "invariant buffer-in-one-place: blocks are in use at the end (rx, outbox, spill, link, fan-out)"
        );
        let stats = core.stats();
        assert_eq!(
            stats.get(Stat::Accepts),
            stats.get(Stat::Closes),
            "invariant conservation: all that were accepted have been closed"
        );
        assert_eq!(stats.get(Stat::Connections), 0, "invariant conservation: nobody is left");
    }

    /// Files the reasons and counters of a finished run.
    pub fn finish(&mut self, core: &ShardCore) {
        let stats = core.stats();
        for &reason in Reason::ALL {
            let count = stats.closes(reason);
            if count > 0 {
                *self.coverage.reasons.entry(reason.code()).or_default() += count;
            }
        }
        for &stat in Stat::ALL {
            if matches!(stat.kind(), crate::core::stats::StatKind::Counter) && stat != Stat::LoopBusyNs {
                *self.coverage.stats.entry(format!("{stat:?}")).or_default() += stats.get(stat);
            }
        }
    }
}
