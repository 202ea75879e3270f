//! What must hold between any two steps. Walks the whole table: for simulations and tests.

use crate::core::{
    link::LinkState,
    record::{State, bit, flag},
    shard::ShardCore,
    stats::Stat,
};

impl ShardCore {
    /// Panics if an invariant does not hold, naming it.
    pub fn check_invariants(&self) {
        let mut live = 0;
        let mut states = [0u64; State::ALL.len()];
        let (mut outbox_bytes, mut outboxes) = (0u64, 0);
        let (mut spill_bytes, mut spills) = (0u64, 0);
        let (mut blocked, mut homeless) = (0, 0);
        let mut routed = vec![0u32; self.links.len()];
        for slot in 0..self.table.high_water() {
            let hot = self.hot(slot);
            states[hot.state() as usize] += 1;
            live += u32::from(hot.state() != State::Free);
            if hot.outbox() != 0 {
                outboxes += 1;
                outbox_bytes += u64::from(self.outboxes.bytes(hot.outbox()));
                let closing = hot.state() == State::Closing;
                let sends = usize::from(hot.ops() & bit::SEND != 0);
                assert!(
                    self.outboxes.link_buffers(hot.outbox()) <= sends,
                    "invariant link-buffer-let-go: slot {slot} keeps a link's receive buffer"
                );
                assert!(
                    closing || self.is_sending(slot),
                    "invariant outbox-sums: slot {slot}: an outbox is always on its way"
                );
            }
            if hot.spill() != 0 {
                spills += 1;
                spill_bytes += u64::from(self.spills.bytes(hot.spill()));
            }
            blocked += u64::from(hot.has(flag::BLOCKED));
            homeless += u32::from(self.is_homeless(slot));
            if hot.has_session() {
                routed[usize::from(hot.worker())] += 1;
            }
            self.check_reading(slot);
            self.check_placement(slot);
            if matches!(hot.state(), State::Free) {
                assert_eq!(
                    (hot.ops(), hot.outbox(), hot.spill()),
                    (0, 0, 0),
                    "invariant free-slot-clean: slot {slot}"
                );
            }
        }
        assert_eq!(live, self.table.live(), "invariant conservation: live slots are those not free");
        assert_eq!(outbox_bytes, self.outboxes.bytes_total(), "invariant outbox-sums: the bytes of all");
        assert_eq!(outboxes, self.outboxes.count(), "invariant outbox-sums: every outbox has an owner");
        assert_eq!(spill_bytes, self.spills.bytes_total(), "invariant spill-sums: the bytes of all");
        assert_eq!(spills, self.spills.count(), "invariant spill-sums: every spill has an owner");
        assert_eq!(
            blocked,
            self.ctx.stats.get(Stat::ConnectionsBlocked),
            "invariant conservation: blocked connections are counted"
        );
        assert_eq!(
            homeless, self.homeless,
            "invariant conservation: connections without a worker are counted"
        );
        let walks = self.links.iter().filter(|link| link.failover.is_some()).count();
        assert_eq!(walks, self.walks as usize, "invariant conservation: failovers under way are counted");
        let accepting = (states[State::Accepting as usize], u64::from(self.accepting.armed_total()));
        assert_eq!(accepting.0, accepting.1, "invariant conservation: accepts in the kernel are counted");
        let beyond: u32 = self.links.iter().map(|link| link.tx.blocks_beyond()).sum();
        assert_eq!(
            beyond,
            self.ctx.pools.link_tx_beyond(),
            "invariant admission: what link queues have beyond their own is counted"
        );
        for (index, (link, routed)) in self.links.iter().zip(routed).enumerate() {
            assert!(
                !link.vacant || link.is_left() && !self.is_broadcasting(index),
                "invariant link-clean: link {index} is for the next worker, and something of {} is left",
                link.name()
            );
            let window_bytes = link.session.map_or(0, |session| session.window_bytes);
            assert!(
                window_bytes <= self.ctx.cfg.link_window_bytes,
                "invariant admission: a window of {window_bytes} bytes that nothing is kept for"
            );
            assert_eq!(
                link.connections, routed,
                "invariant conservation: connections per worker are counted"
            );
            assert!(
                link.session.is_some() || link.tx.retained_bytes() == 0 && link.resend.is_empty(),
                "invariant no-orphans: {} bytes are queued for a link without a session",
                link.tx.retained_bytes() + link.resend.bytes()
            );
            let due_ms = link.moves.due_ms(self.ctx.cfg.link_failover_ms);
            assert!(
                link.state != LinkState::Up || due_ms.is_none_or(|due_ms| self.ctx.now_ms < due_ms),
                "invariant deadlines: a move has been due since {due_ms:?}, at {} the link is up",
                self.ctx.now_ms
            );
            let others = self.links.iter().filter(|other| !std::ptr::eq(*other, link));
            let twice = link.session.is_some_and(|session| {
                others.filter_map(|other| other.session).any(|other| other.worker == session.worker)
            });
            assert!(!twice, "invariant one-link-per-worker: {} shares a worker process", link.name());
            if link.state == LinkState::Down {
                assert_eq!(link.ops, 0, "invariant op-bits: a link that is down has no op in the kernel");
            }
        }
        let closed: u64 =
            roost_protocol::Reason::ALL.iter().map(|&reason| self.ctx.stats.closes(reason)).sum();
        assert_eq!(
            closed,
            self.ctx.stats.get(Stat::Closes),
            "invariant conservation: close reasons sum to closed"
        );
        let ending = states[State::Draining as usize] + states[State::Closing as usize];
        let alive = u64::from(live) - states[State::Accepting as usize] - ending;
        assert_eq!(
            self.ctx.stats.get(Stat::Accepts) - closed,
            alive,
            "invariant conservation: accepted - closed = alive"
        );
    }

    /// An open connection is with its owner, or will be: on its way, or before the walk that moves it.
    fn check_placement(&self, slot: u32) {
        let hot = self.hot(slot);
        if hot.has(flag::MOVING) {
            let link = self.link(hot.worker());
            assert!(
                self.awaits_failover(slot) || link.moves.contains(slot, hot.generation()),
                "invariant deadlines: slot {slot} is being moved and nobody looks how long"
            );
        } else if !self.is_failing_over() && self.is_misplaced(slot) {
            let link = self.link(hot.worker());
            assert!(
                link.rebalance_again || link.rebalance.is_some_and(|cursor| cursor <= slot),
                "invariant placement: slot {slot} stays with worker {}, which does not own it",
                hot.worker()
            );
        }
    }

    /// A connection that reads is waiting for input in exactly one place. One whose HELLO waits for
    /// a worker is watched instead, or will be when its accept's cancel is through; later, the watch
    /// may still be there until it is cancelled.
    fn check_reading(&self, slot: u32) {
        let hot = self.hot(slot);
        if self.is_homeless(slot) {
            let watched =
                matches!(hot.ops() & (bit::POLL_IN | bit::RECV | bit::CANCEL), bit::POLL_IN | bit::CANCEL);
            assert!(watched, "invariant reads-in-one-place: slot {slot}: nobody would notice its end");
            return;
        }
        let in_kernel = hot.ops() & (bit::POLL_IN | bit::RECV) != 0;
        let waits = hot.flags() & (flag::BLOCKED | flag::RX_WAIT) != 0;
        // The end of a watch that was called off may be overtaken by that of its cancel. That it is
        // no poll for input can be seen from outside only.
        let unwatched = hot.ops() & bit::POLL_IN != 0 && (hot.ops() & bit::CANCEL != 0 || waits);
        if matches!(hot.state(), State::Handshaking | State::Opening | State::Open) && !unwatched {
            assert!(
                in_kernel != waits,
                "invariant reads-in-one-place: slot {slot} waits for input nowhere, or twice"
            );
        }
        // One that is sent away need not wait before its sending side is shut.
        assert!(
            hot.state() != State::Draining || !(in_kernel && waits),
            "invariant reads-in-one-place: slot {slot} is sent away and waits for input twice"
        );
    }
}
