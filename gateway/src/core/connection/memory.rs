//! Who pays when memory is used up: the connection that holds the most, and the one that asks only if
//! it is that one.

use roost_protocol::Reason;

use super::{Connections, Upstream, lifecycle::State, outbox::Exhausted};
use crate::{
    core::{CoreConfig, context::Context, index::Slot, span::Span},
    op::Io,
};

/// Blocks of the pool of outboxes that only the gateway's own small frames may take.
pub(super) fn outbox_reserve_blocks(ctx: &Context) -> u32 {
    let bytes = CoreConfig::outbox_reserve_bytes(ctx.cfg.outbox_bytes_total);
    (bytes / u64::from(CoreConfig::CHUNK_BYTES)) as u32
}

/// What a connection has in the pool of spills.
#[derive(Clone, Copy)]
pub(super) enum Pile {
    /// Frames that are incomplete or wait.
    Frames,
    /// Bytes that a stage cannot use yet.
    Stage,
}

impl Connections {
    /// Runs `queue`, which asks for so many bytes of the pool of outboxes, until there is memory for
    /// it: whoever holds the most is closed, and that may be the connection itself.
    pub(super) fn with_outbox_memory<I: Io>(
        &mut self,
        io: &mut I,
        ctx: &mut Context,
        up: &mut impl Upstream,
        (slot, asked_bytes): (Slot, u32),
        mut queue: impl FnMut(&mut Self, &mut I, &mut Context) -> Result<(), Exhausted>,
    ) {
        while queue(self, io, ctx).is_err() {
            let outbox = self.hot(slot).outbox();
            let held = if outbox == 0 { 0 } else { self.outboxes.held(outbox) };
            let payer = match self.outboxes.largest() {
                Some((victim, most)) if victim != slot && most > held + asked_bytes => victim,
                _ => slot,
            };
            #[cfg(any(test, feature = "sim"))]
            self.check_payer(payer, (slot, asked_bytes), |slot| match self.hot(slot).outbox() {
                0 => 0,
                outbox => self.outboxes.held(outbox),
            });
            // No GOAWAY: its socket takes nothing, and it may stand in the middle of a frame.
            match self.hot(payer).state() {
                State::Draining => self.stop(io, ctx, payer),
                _ => self.close(io, ctx, up, payer, (Reason::MemoryBudget, None)),
            }
            if payer == slot {
                return;
            }
        }
    }

    /// Keeps bytes of a connection whose frames are incomplete or wait. Whoever holds the most is
    /// closed if there is no memory; returns false if that is the connection itself.
    pub(super) fn spill(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        up: &mut impl Upstream,
        slot: Slot,
        span: Span,
    ) -> bool {
        let tick = ctx.tick();
        self.store(io, ctx, up, (slot, Pile::Frames), (span, tick))
    }

    /// The same for either pile; `since`: since when a new one has been there, as a tick.
    pub(super) fn store(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        up: &mut impl Upstream,
        (slot, pile): (Slot, Pile),
        (span, since): (Span, u16),
    ) -> bool {
        loop {
            let handle = match pile {
                Pile::Frames => self.hot(slot).spill(),
                Pile::Stage => self.table.kept(slot),
            };
            if let Ok(handle) = self.spills.push(io, &mut ctx.pools, handle, (slot, since), span) {
                match pile {
                    Pile::Frames => self.table.hot_mut(slot).set_spill(handle),
                    Pile::Stage => self.table.set_kept(slot, handle),
                }
                return true;
            }
            let held = if handle == 0 { 0 } else { self.spills.bytes(handle) };
            let payer = match self.spills.largest() {
                Some((victim, most)) if victim != slot && most > held + span.len => victim,
                _ => slot,
            };
            #[cfg(any(test, feature = "sim"))]
            self.check_payer(payer, (slot, span.len), |slot| {
                self.spill_bytes(slot).max(self.kept_bytes(slot))
            });
            self.refuse(io, ctx, up, payer, Reason::MemoryBudget);
            // The payer's GOAWAY may have used up the memory for backlogs, and this one been closed for it.
            if !self.hot(slot).reads() {
                return false;
            }
        }
    }
}
