//! What must hold between any two steps. Walks the whole table: for simulations and tests.

use crate::core::{index::Slot, link::LinkState, record::flag, shard::ShardCore};

impl ShardCore {
    /// Panics if an invariant does not hold, naming it.
    pub fn check_invariants(&self) {
        self.connections.check_invariants(&self.ctx);
        let mut homeless = 0;
        let mut routed = vec![0u32; self.links.len()];
        for slot in Slot::range(0, self.connections.high_water()) {
            let hot = self.hot(slot);
            homeless += u32::from(self.connections.awaits_worker(slot));
            if hot.has_session() {
                routed[usize::from(hot.worker())] += 1;
            }
            self.check_placement(slot);
        }
        assert_eq!(
            homeless, self.homeless,
            "invariant conservation: connections without a worker are counted"
        );
        let walks = self.links.iter().filter(|link| link.failover.is_some()).count();
        assert_eq!(walks, self.walks as usize, "invariant conservation: failovers under way are counted");
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
    }

    /// An open connection is with its owner, or will be: on its way, or before the walk that moves it.
    fn check_placement(&self, slot: Slot) {
        let hot = self.hot(slot);
        if hot.has(flag::MOVING) {
            let link = self.link(hot.worker());
            assert!(
                self.awaits_failover(slot) || link.moves.contains(slot.get(), hot.generation()),
                "invariant deadlines: slot {slot} is being moved and nobody looks how long"
            );
        } else if !self.is_failing_over() && self.is_misplaced(slot) {
            let link = self.link(hot.worker());
            assert!(
                link.rebalance_again || link.rebalance.is_some_and(|cursor| cursor <= slot.get()),
                "invariant placement: slot {slot} stays with worker {}, which does not own it",
                hot.worker()
            );
        }
    }
}
