//! Clients whose HELLO waits for a worker that is up and has room.

use crate::{
    core::{index::Slot, shard::ShardCore},
    op::Io,
};

impl ShardCore {
    /// Walks the table once round whenever a link that a HELLO may wait for has credit. A list
    /// would grow for as long as clients come and go without a worker.
    pub(super) fn resume_homeless(&mut self, io: &mut impl Io) -> bool {
        for link in &mut self.links {
            if link.awaited && link.has_credit() {
                link.awaited = false;
                self.homeless_left = self.connections.high_water();
            }
        }
        if self.homeless == 0 {
            self.homeless_left = 0;
        }
        let mut looked_at = 0;
        for _ in 0..self.ctx.cfg.bounds.routing_visits.min(self.homeless_left) {
            self.homeless_left -= 1;
            let slot = Slot::new(self.homeless_cursor % self.connections.high_water());
            self.homeless_cursor = slot.get() + 1;
            if !self.connections.awaits_worker(slot) {
                continue;
            }
            let routing_hash = self.connections.waiting_hash(io, &self.ctx, slot);
            match routing_hash.and_then(|routing_hash| self.route_any(routing_hash)) {
                Some(worker) if !self.link(worker).has_credit() => {
                    self.links[usize::from(worker)].awaited = true;
                }
                Some(_) => self.resume(io, slot),
                None => {}
            }
            looked_at += 1;
            if looked_at == self.ctx.cfg.bounds.resumes {
                break;
            }
        }
        self.homeless_left > 0
    }

    /// Who routes where has changed: those that wait for one worker may belong to another now.
    pub(super) fn look_at_homeless(&mut self) {
        for link in &mut self.links {
            link.awaited = true;
        }
    }
}
