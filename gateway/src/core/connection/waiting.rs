//! Connections that are not read for a while: their worker has no room, they are being moved, or no
//! worker is up.
//!
//! A client whose HELLO waits keeps it in a spill. Its leaving is noticed by a poll for the end alone.

use roost_protocol::Reason;

use super::{
    Connections, Upstream, kind,
    lifecycle::State,
    record::{bit, flag},
};
use crate::{
    core::{
        context::Context,
        index::{Slot, WorkerIndex},
        stats::Stat,
    },
    op::{Interest, Io, Op, Sock, poll_bits},
};

impl Connections {
    /// Whether what this connection sends can be queued now, if it is for a worker.
    #[inline]
    fn may_forward(&self, up: &impl Upstream, slot: Slot) -> bool {
        let hot = self.hot(slot);
        !hot.has_session() || !hot.has(flag::MOVING) && up.may_forward(hot.worker())
    }

    /// Whether more of this connection may be read.
    #[inline]
    pub(super) fn may_read(&self, up: &impl Upstream, slot: Slot) -> bool {
        let hot = self.hot(slot);
        !hot.has_session() || !hot.has(flag::MOVING) && up.may_read(hot.worker())
    }

    /// Blocks a connection whose next frame has nowhere to go for the moment: its link has no room,
    /// it is being moved, or a failover has not yet re-sent what came before. The frame stays whole in
    /// the spill.
    #[inline]
    pub(super) fn held(&mut self, ctx: &Context, up: &mut impl Upstream, slot: Slot) -> bool {
        let held = !self.may_forward(up, slot);
        if held {
            self.block(ctx, up, slot, true);
        }
        held
    }

    /// Puts a connection where it is resumed when its link has credit. `holding`: it has been read,
    /// and its frames wait.
    pub(super) fn block(&mut self, ctx: &Context, up: &mut impl Upstream, slot: Slot, holding: bool) {
        self.set_blocked(ctx, slot);
        let hot = self.hot(slot);
        // One that is being moved is resumed by MOVED alone.
        if !hot.has(flag::MOVING) {
            up.block(hot.worker(), self.id(slot), holding);
        }
    }

    pub(super) fn set_blocked(&mut self, ctx: &Context, slot: Slot) {
        // What made it wake up is a sign of life, too.
        self.hear(ctx, slot);
        let hot = self.table.hot_mut(slot);
        assert!(!hot.has(flag::BLOCKED), "invariant reads-in-one-place: a blocked connection is not read");
        hot.set_flag(flag::BLOCKED);
        // A worker's time to answer goes on, whether its client is read or not.
        if hot.state() != State::Opening {
            hot.set_since_tick(ctx.tick());
        }
        ctx.stats.inc(Stat::Blocked);
        ctx.stats.inc(Stat::ConnectionsBlocked);
    }

    pub(super) fn clear_blocked(
        &mut self,
        io: &mut impl Io,
        ctx: &Context,
        up: &mut impl Upstream,
        slot: Slot,
    ) {
        if self.awaits_worker(slot) {
            up.waits(false);
            self.unwatch(io, slot);
        }
        if self.hot(slot).has(flag::BLOCKED) {
            self.clear_flag(slot, flag::BLOCKED);
            ctx.stats.dec(Stat::ConnectionsBlocked);
        }
    }

    /// A blocked connection may go on: first with what it holds, then with what its socket has.
    pub(crate) fn resume(&mut self, io: &mut impl Io, ctx: &mut Context, up: &mut impl Upstream, slot: Slot) {
        let tick = ctx.tick();
        self.clear_blocked(io, ctx, up, slot);
        let hot = self.table.hot_mut(slot);
        // Blocked time is not idle time, and the client may have spoken all the while.
        let unread_s = tick.wrapping_sub(hot.active_tick());
        hot.set_active_tick(tick);
        match hot.state() {
            State::Open => hot.set_idle_periods(0),
            State::Opening => {}
            _ => hot.set_since_tick(tick),
        }
        // What is incomplete could not become whole meanwhile.
        for handle in [self.hot(slot).spill(), self.table.kept(slot)] {
            if handle != 0 {
                self.spills.restart(handle, tick);
            }
        }
        self.allow_unread(ctx, slot, u32::from(unread_s));
        self.handle_spilled(io, ctx, up, slot);
    }

    /// Whether its HELLO waits for a worker.
    pub(crate) fn awaits_worker(&self, slot: Slot) -> bool {
        let hot = self.hot(slot);
        hot.state() == State::Handshaking && hot.has(flag::BLOCKED)
    }

    /// Waits for the end of a client that is not read.
    pub(super) fn watch(&mut self, io: &mut impl Io, slot: Slot) {
        // The cancel of its accept may still be on its way, and one of the watch could not follow.
        if self.hot(slot).ops() & bit::CANCEL == 0 {
            let sock = Sock::Client(slot.get());
            self.submit(io, slot, kind::POLL_IN, Op::Poll { sock, interest: Interest::Ended });
        }
    }

    pub(super) fn on_watch(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        up: &mut impl Upstream,
        slot: Slot,
        result: i32,
    ) {
        match result {
            1.. if result & poll_bits::ERR != 0 => {
                self.set_flag(slot, flag::SHUT);
                self.close(io, ctx, up, slot, (Reason::ClientReset, None));
            }
            1.. if result & (poll_bits::RDHUP | poll_bits::HUP) != 0 => {
                self.close(io, ctx, up, slot, (Reason::ClientEof, None));
            }
            // Woken for nothing, or out of memory for a moment.
            _ => self.watch(io, slot),
        }
    }

    /// Calls a watch off, so that the connection is read when its poll has ended.
    fn unwatch(&mut self, io: &mut impl Io, slot: Slot) {
        if self.hot(slot).ops() & bit::POLL_IN != 0 {
            let op = Op::Cancel { sock: Sock::Client(slot.get()), target: self.token(kind::POLL_IN, slot) };
            self.submit(io, slot, kind::CANCEL, op);
        }
    }

    /// The connection goes to another worker as soon as its own lets it go: it is not read until then.
    pub(crate) fn begin_move(&mut self, slot: Slot) {
        self.set_flag(slot, flag::MOVING);
    }

    /// It has been let go, or will never be.
    pub(crate) fn end_move(&mut self, slot: Slot) {
        self.clear_flag(slot, flag::MOVING);
    }

    /// The connection is another worker's from now on.
    pub(crate) fn assign(&mut self, slot: Slot, worker: WorkerIndex) {
        self.table.hot_mut(slot).set_worker(worker);
    }
}
