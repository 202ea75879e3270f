//! What must hold of links between any two steps.

use super::{Link, LinkState, Links};
use crate::core::{context::Context, index::LinkIndex};

impl Links {
    /// Panics if an invariant does not hold, naming it. `routed`: connections by link, as counted from
    /// outside; `is_left`: whether nobody else has anything of a link's worker.
    pub(crate) fn check_invariants(
        &self,
        ctx: &Context,
        routed: &[u32],
        is_left: impl Fn(LinkIndex) -> bool,
    ) {
        let beyond: u32 = self.links.iter().map(|link| link.tx.blocks_beyond()).sum();
        assert_eq!(
            beyond,
            ctx.pools.link_tx_beyond(),
            "invariant admission: what link queues have beyond their own is counted"
        );
        for ((index, link), routed) in self.iter().zip(routed) {
            assert!(
                !link.vacant || link.is_left() && is_left(index),
                "invariant link-clean: link {index} is for the next worker, and something of {} is left",
                link.name()
            );
            assert_eq!(
                link.connections, *routed,
                "invariant conservation: connections per worker are counted"
            );
            let mut others = self.links.iter().filter(|other| !std::ptr::eq(*other, link));
            let twice = link.session.is_some_and(|session| {
                others.any(|other| other.session.is_some_and(|other| other.worker == session.worker))
            });
            assert!(!twice, "invariant one-link-per-worker: {} shares a worker process", link.name());
            link.check_invariants(ctx);
        }
    }
}

impl Link {
    fn check_invariants(&self, ctx: &Context) {
        let window_bytes = self.session.map_or(0, |session| session.window_bytes);
        assert!(
            window_bytes <= ctx.cfg.link_window_bytes,
            "invariant admission: a window of {window_bytes} bytes that nothing is kept for"
        );
        assert!(
            self.session.is_some() || self.retained_bytes() == 0,
            "invariant no-orphans: {} bytes are queued for a link without a session",
            self.retained_bytes()
        );
        let due_ms = self.moves.due_ms(ctx.cfg.link_failover_ms);
        assert!(
            self.state != LinkState::Up || due_ms.is_none_or(|due_ms| ctx.now_ms < due_ms),
            "invariant deadlines: a move has been due since {due_ms:?}, at {} the link is up",
            ctx.now_ms
        );
        if self.state == LinkState::Down {
            assert_eq!(self.ops, 0, "invariant op-bits: a link that is down has no op in the kernel");
        }
    }
}
