//! Clients whose HELLO waits for a worker that is up and has room.

use super::Routing;
use crate::{
    core::{connection::Connections, context::Context, index::Slot},
    op::Io,
};

/// Clients whose HELLO waits, and the walk that resumes them. A list would grow for as long as clients
/// come and go without a worker.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// How many there are.
    count: u32,
    /// Where the walk is in the table.
    cursor: u32,
    /// How many slots it has yet to visit.
    left: u32,
}

impl Waiting {
    /// One more waits, or does no more.
    pub(super) fn count(&mut self, waits: bool) {
        if waits {
            self.count += 1;
        } else {
            self.count -= 1;
        }
    }

    /// How many wait.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn total(&self) -> u32 {
        self.count
    }
}

impl Routing {
    /// Walks the table once round whenever a link that a HELLO may wait for has credit. Returns whether
    /// slots are left.
    pub(super) fn resume_waiting(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        connections: &mut Connections,
    ) -> bool {
        if self.waiting.count == 0 {
            self.waiting.left = 0;
            return false;
        }
        for (index, link) in self.links.iter() {
            let record = &mut self.workers[index.index()];
            if record.may_be_awaited && link.has_credit() {
                record.may_be_awaited = false;
                self.waiting.left = connections.high_water();
            }
        }
        let mut looked_at = 0;
        for _ in 0..ctx.cfg.bounds.routing_visits.min(self.waiting.left) {
            self.waiting.left -= 1;
            let slot = Slot::new(self.waiting.cursor % connections.high_water());
            self.waiting.cursor = slot.get() + 1;
            if !connections.awaits_worker(slot) {
                continue;
            }
            let routing_hash = connections.waiting_hash(io, ctx, slot);
            match routing_hash.and_then(|routing_hash| self.route_any(routing_hash)) {
                Some(worker) if !self.link(worker).has_credit() => {
                    self.record_mut(worker).may_be_awaited = true;
                }
                Some(_) => connections.resume(io, ctx, self, slot),
                None => {}
            }
            looked_at += 1;
            if looked_at == ctx.cfg.bounds.resumes {
                break;
            }
        }
        self.waiting.left > 0
    }

    /// Who routes where has changed: those that wait for one worker may belong to another now.
    pub(super) fn look_at_waiting(&mut self) {
        for record in &mut self.workers {
            record.may_be_awaited = true;
        }
    }
}
