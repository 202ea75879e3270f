//! Calls that no frame caused: pushes from other threads.

use super::{Context, Core, Handler};

impl<H: Handler> Core<H> {
    /// Runs `work`, which came from outside. It may queue what one call may; then [`Self::pushes_wait`] says
    /// whether more of it may run.
    pub fn push(&mut self, work: impl FnOnce(&mut Context<'_>)) {
        let (_, mut ctx) = self.call(None);
        ctx.outside = true;
        work(&mut ctx);
    }

    /// Whether pushes must wait: one has filled the queue of a gateway, which has yet to catch up.
    pub fn pushes_wait(&mut self) -> bool {
        self.registry.pushes_wait(self.config.pending_bytes_max)
    }

    /// Whether pushes had to wait when that was asked last.
    pub fn has_waiting_pushes(&self) -> bool {
        self.registry.has_waiting_pushes()
    }
}
