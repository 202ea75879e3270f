//! The end of a connection: drain (GOAWAY, flush, shut, discard), then stop, join, close.
//!
//! Closing a slot with an op still in the kernel would send no FIN, and closing with unread input
//! would send RST and destroy the GOAWAY: hence the steps.

use std::sync::Arc;

use roost_protocol::{Reason, edge::Goaway, link::Ending};

use super::{
    Connections, Ended, Upstream,
    framing::Reply,
    kind,
    lifecycle::State,
    record::{bit, flag},
};
use crate::{
    core::{context::Context, event::Event, index::Slot, stats::Stat},
    op::{Io, Op, Sock},
};

impl Connections {
    /// Ends a connection with a GOAWAY. A client that should come back is told when, so that those
    /// who are closed together do not return together.
    pub(crate) fn refuse(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        up: &mut impl Upstream,
        slot: Slot,
        reason: Reason,
    ) {
        let retry_after_ms = if reason.invites_back() { ctx.retry_after_ms() } else { 0 };
        self.close(io, ctx, up, slot, (reason, Some(Ending::after_ms(retry_after_ms))));
    }

    /// Ends a connection. With `goaway` the client is told, and told this, unless its sending side is
    /// gone; without, what is queued for it is still flushed after a CLOSE of its own. Does nothing for a
    /// connection that is ending already.
    pub(crate) fn close(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        up: &mut impl Upstream,
        slot: Slot,
        (reason, goaway): (Reason, Option<Ending<'_>>),
    ) {
        let hot = *self.hot(slot);
        if matches!(hot.state(), State::Draining | State::Closing) {
            return;
        }
        ctx.stats.count_close(reason);
        ctx.events.push(Event::Closed { connection: self.id(slot), reason });
        // Whoever was too many was not counted.
        let counted = reason != Reason::Full || hot.has_session();
        if let (Some(cap), true) = (&ctx.cfg.cap, counted) {
            cap.give_back();
        }
        if hot.has_session() {
            // The old worker has had its CLOSED, the new one has not heard of it yet.
            self.clear_flag(slot, flag::MOVING);
            let (connection, moving) = (self.id(slot), hot.has(flag::MOVING));
            up.ended(io, ctx, Ended { connection, worker: hot.worker(), moving, reason });
        }
        self.clear_blocked(io, ctx, up, slot);
        self.clear_flag(slot, flag::RX_WAIT);
        let tick = ctx.tick();
        let hot = self.table.hot_mut(slot);
        hot.begin_end(tick);
        let spill = hot.spill();
        hot.set_spill(0);
        let kept = self.table.kept(slot);
        self.table.set_kept(slot, 0);
        for handle in [spill, kept] {
            if handle != 0 {
                self.spills.discard(&mut ctx.pools, handle);
            }
        }
        let flushes = goaway.is_some() || reason == Reason::ClientClosed;
        if self.hot(slot).has(flag::SHUT) || !flushes {
            self.stop(io, ctx, slot);
            return;
        }
        self.set_state(ctx, slot, State::Draining);
        if let Some(Ending { retry_after_ms, code, text }) = goaway {
            let to = if reason == Reason::Drain { self.drain.alternative() } else { Arc::default() };
            let goaway = Goaway { reason, retry_after_ms, code, alternative: to.as_bytes(), text };
            self.queue_reply(io, ctx, up, slot, &Reply::Goaway(goaway));
        } else if self.hot(slot).outbox() == 0 {
            self.shut(io, ctx, slot);
        }
    }

    /// Everything is flushed: shuts the sending side, as soon as few others do.
    pub(super) fn shut(&mut self, io: &mut impl Io, ctx: &Context, slot: Slot) {
        if self.shutdowns_in_flight >= ctx.cfg.bounds.shutdowns {
            self.set_flag(slot, flag::SHUT_WAIT);
            self.shutdown_waiters.push_back(self.entry(slot));
            return;
        }
        self.shutdowns_in_flight += 1;
        self.set_flag(slot, flag::SHUT);
        self.submit(io, slot, kind::SHUTDOWN, Op::Shutdown { sock: Sock::Client(slot.get()) });
    }

    pub(super) fn on_shutdown(&mut self, io: &mut impl Io, ctx: &mut Context, slot: Slot) {
        self.shutdowns_in_flight -= 1;
        while let Some((waiter, generation)) = self.shutdown_waiters.pop_front() {
            if self.hot(waiter).generation() == generation && self.hot(waiter).has(flag::SHUT_WAIT) {
                self.clear_flag(waiter, flag::SHUT_WAIT);
                self.shut(io, ctx, waiter);
                break;
            }
        }
        match self.hot(slot).state() {
            State::Closing => self.join(io, ctx, slot),
            // One that waits for a receive buffer is read when there is one: no poll beside that.
            _ if self.hot(slot).has(flag::RX_WAIT) => {}
            _ if self.hot(slot).ops() & (bit::RECV | bit::POLL_IN) == 0 => self.park(io, slot),
            _ => {}
        }
    }

    /// First step: nothing new is submitted, and what waits in the kernel is cancelled.
    pub(super) fn stop(&mut self, io: &mut impl Io, ctx: &mut Context, slot: Slot) {
        self.set_state(ctx, slot, State::Closing);
        self.clear_flag(slot, flag::RX_WAIT | flag::SHUT_WAIT);
        self.join(io, ctx, slot);
    }

    /// Second step: waits until no op is in the kernel, then closes.
    pub(super) fn join(&mut self, io: &mut impl Io, ctx: &mut Context, slot: Slot) {
        assert_eq!(self.hot(slot).state(), State::Closing);
        let ops = self.hot(slot).ops();
        let outbox = self.hot(slot).outbox();
        if outbox != 0 && ops & bit::SEND == 0 {
            self.table.hot_mut(slot).set_outbox(0);
            self.outboxes.discard(&mut ctx.pools, outbox);
        } else if outbox != 0 {
            // Who asks for memory needs not wait for a send that is in the kernel.
            self.outboxes.trim(&mut ctx.pools, outbox);
        }
        if ops == 0 {
            self.submit(io, slot, kind::CLOSE, Op::Close { sock: Sock::Client(slot.get()) });
        } else if ops & bit::CANCEL == 0 {
            // Only polls wait in the kernel; all else ends by itself.
            let target = match ops {
                _ if ops & bit::POLL_IN != 0 => kind::POLL_IN,
                _ if ops & bit::POLL_OUT != 0 => kind::POLL_OUT,
                _ => return,
            };
            let op = Op::Cancel { sock: Sock::Client(slot.get()), target: self.token(target, slot) };
            self.submit(io, slot, kind::CANCEL, op);
        }
    }

    /// A cancel has ended; its target ends, or has ended, by itself.
    pub(super) fn on_cancel(&mut self, io: &mut impl Io, ctx: &mut Context, slot: Slot) {
        match self.hot(slot).state() {
            State::Closing => self.join(io, ctx, slot),
            // The accept ended before its cancel did.
            State::Accepting if self.hot(slot).ops() == 0 => self.release_accept(slot),
            _ if self.awaits_worker(slot) => self.watch(io, slot),
            _ => {}
        }
    }

    /// Third step is done: the slot is free.
    pub(super) fn on_close(&mut self, ctx: &Context, slot: Slot) {
        assert_eq!(self.hot(slot).state(), State::Closing);
        let ip_cell = self.table.cold(slot).ip_cell();
        if let (Some(per_ip), true) = (&ctx.cfg.per_ip, ip_cell != 0) {
            per_ip.release(ip_cell);
        }
        self.table.free(slot);
        ctx.stats.dec(Stat::ConnectionsClosing);
        ctx.stats.dec(Stat::Connections);
    }
}
