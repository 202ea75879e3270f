//! Broadcasts: one payload for all connections, delivered a bounded part per turn.
//!
//! A broadcast runs beside later frames of the same link, so that a million deliveries do not
//! hold up everything else; broadcasts are in order among themselves.

use super::Routing;
use crate::{
    core::{
        connection::Connections,
        context::Context,
        index::{Slot, WorkerIndex},
        pool::Class,
        span::Span,
        stats::Stat,
    },
    op::Io,
};

/// A broadcast under way.
#[derive(Debug)]
pub(super) struct Broadcast {
    /// The MESSAGE; the block's first hold belongs to the broadcast.
    span: Span,
    /// Only connections routed to this worker; none: all.
    pub(super) only_worker: Option<WorkerIndex>,
    /// Slots below have been visited.
    cursor: u32,
}

impl Routing {
    /// Begins to broadcast a MESSAGE. Returns false if as many broadcasts are under way as may be.
    pub(super) fn begin_broadcast(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        message: Span,
        only_worker: Option<WorkerIndex>,
    ) -> bool {
        let Some(block) = ctx.pools.alloc(Class::Fanout) else { return false };
        io.copy(message.block, message.offset, message.len, block, 0);
        let span = Span { block, offset: 0, len: message.len };
        self.broadcasts.push_back(Broadcast { span, only_worker, cursor: 0 });
        true
    }

    /// Delivers a bounded part of the oldest broadcast. Returns whether more is left.
    pub(crate) fn run_broadcasts(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        connections: &mut Connections,
    ) -> bool {
        let Some(broadcast) = self.broadcasts.front_mut() else { return false };
        let (span, only_worker, from) = (broadcast.span, broadcast.only_worker, broadcast.cursor);
        let to = (from + ctx.cfg.bounds.fanout_visits).min(connections.high_water());
        broadcast.cursor = to;
        for slot in Slot::range(from, to) {
            let hot = connections.hot(slot);
            if hot.is_open() && only_worker.is_none_or(|worker| hot.worker() == worker) {
                ctx.stats.inc(Stat::FanoutDeliveries);
                connections.queue_span(io, ctx, self, slot, span);
            }
        }
        if to == connections.high_water() {
            ctx.pools.release(span.block);
            self.broadcasts.pop_front();
        }
        !self.broadcasts.is_empty()
    }
}
