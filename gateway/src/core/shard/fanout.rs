//! Broadcasts: one payload for all connections, delivered a bounded part per turn.
//!
//! A broadcast runs beside later frames of the same link, so that a million deliveries do not
//! hold up everything else; broadcasts are in order among themselves.

use crate::{
    core::{index::Slot, shard::ShardCore, span::Span, stats::Stat},
    op::Io,
};

/// A broadcast under way.
#[derive(Debug)]
pub(super) struct Fanout {
    /// The MESSAGE; the block's first hold belongs to the broadcast.
    pub(super) span: Span,
    /// Only connections routed to this worker; none: all.
    pub(super) only_worker: Option<u8>,
    /// Slots below have been visited.
    pub(super) cursor: u32,
}

impl ShardCore {
    /// Delivers a bounded part of the oldest broadcast. Returns whether more is left.
    pub(super) fn run_fanouts(&mut self, io: &mut impl Io) -> bool {
        let Some(fanout) = self.fanouts.front_mut() else { return false };
        let (span, only_worker, from) = (fanout.span, fanout.only_worker, fanout.cursor);
        let to = (from + self.ctx.cfg.bounds.fanout_visits).min(self.connections.high_water());
        fanout.cursor = to;
        for slot in Slot::range(from, to) {
            let hot = self.hot(slot);
            if hot.is_open() && only_worker.is_none_or(|worker| hot.worker().get() == worker) {
                self.ctx.stats.inc(Stat::FanoutDeliveries);
                self.queue_span(io, slot, span);
            }
        }
        if to == self.connections.high_water() {
            self.ctx.pools.release(span.block);
            self.fanouts.pop_front();
        }
        !self.fanouts.is_empty()
    }
}
