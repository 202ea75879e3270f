//! Whose turn it is to be read.
//!
//! There are far fewer receive buffers than connections, and a client may keep its socket full for
//! ever. So whoever waits for a buffer goes before one that has just had one; and a client whose
//! receive brought more frames than are handled at a stretch goes on with the rest in a later turn,
//! when the others, and the links, have had theirs.

use std::collections::VecDeque;

use super::{
    Connections, Upstream, kind,
    record::{bit, flag},
};
use crate::{
    core::{config::CoreConfig, context::Context, index::Slot, pool::Class, span::Span, stats::Stat},
    op::{Io, Op, Sock},
};

/// Who waits to be read, first come first served. Entries of connections that have ended meanwhile
/// are passed over.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// For a receive buffer.
    buffers: VecDeque<Waiter>,
    /// How many have been taken from that queue so far: a place's number is this and its index.
    taken: u64,
    /// With whole frames that have arrived.
    rests: VecDeque<Rest>,
}

/// Who waits for a receive buffer.
#[derive(Clone, Copy, Debug)]
struct Waiter {
    slot: Slot,
    generation: u32,
    /// It is sent away, and waits for its end only. What it waited for before is not its place any
    /// more: it would be served twice while others wait.
    ends: bool,
}

/// What is left of a receive, or of a spill, after as many frames as are handled at a stretch.
#[derive(Clone, Copy, Debug)]
struct Rest {
    slot: Slot,
    generation: u32,
    /// The unhandled part of the receive block; none: what is left stands in the spill.
    span: Option<Span>,
    /// The receive filled its block: there is probably more in the socket.
    full: bool,
}

impl Turns {
    /// Whether a connection stands here.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn holds(&self, slot: Slot, generation: u32) -> bool {
        let waits = |waiter: &Waiter| (waiter.slot, waiter.generation) == (slot, generation);
        self.buffers.iter().any(waits) || self.holds_rest(slot, generation)
    }

    /// Whether a connection waits with frames that have arrived.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn holds_rest(&self, slot: Slot, generation: u32) -> bool {
        self.rests.iter().any(|rest| (rest.slot, rest.generation) == (slot, generation))
    }

    /// Receive blocks that unhandled frames stand in.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn blocks(&self) -> usize {
        self.rests.iter().filter(|rest| rest.span.is_some()).count()
    }
}

impl Connections {
    /// Whether something that has arrived, or could be received now, waits for its turn.
    pub(crate) fn is_behind(&self) -> bool {
        !self.turns.rests.is_empty() || !self.turns.buffers.is_empty()
    }

    /// Receives if the connection may be read now and nobody waits longer; else puts it where it
    /// will be resumed.
    pub(super) fn read(&mut self, io: &mut impl Io, ctx: &mut Context, up: &mut impl Upstream, slot: Slot) {
        if self.turns.buffers.is_empty() {
            self.receive(io, ctx, up, slot);
        } else if !self.may_read(up, slot) {
            self.block(ctx, up, slot, false);
        } else {
            self.await_buffer(ctx, slot);
        }
    }

    fn receive(&mut self, io: &mut impl Io, ctx: &mut Context, up: &mut impl Upstream, slot: Slot) {
        if !self.may_read(up, slot) {
            self.block(ctx, up, slot, false);
            return;
        }
        let Some(block) = ctx.pools.alloc(Class::Rx) else { return self.await_buffer(ctx, slot) };
        self.table.hot_mut(slot).set_rx_block(block.index());
        let (sock, offset) = (Sock::Client(slot.get()), self.kept_bytes(slot));
        let len = CoreConfig::RX_BLOCK_BYTES - offset;
        let op = Op::Recv { sock, block, offset, len, wait: false };
        self.submit(io, slot, kind::RECV, op);
    }

    fn await_buffer(&mut self, ctx: &Context, slot: Slot) {
        ctx.stats.inc(Stat::RxPoolWaits);
        self.set_flag(slot, flag::RX_WAIT);
        let hot = self.hot(slot);
        self.turns.buffers.push_back(Waiter { slot, generation: hot.generation(), ends: !hot.reads() });
    }

    fn still_waits(&self, waiter: &Waiter) -> bool {
        let hot = self.hot(waiter.slot);
        hot.generation() == waiter.generation && hot.has(flag::RX_WAIT) && hot.reads() != waiter.ends
    }

    /// Who waits for a receive buffer, first come first: slots, and the numbers of their places.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn buffer_waiters(&self) -> Vec<(u32, u64)> {
        let waits = |(_, waiter): &(u64, &Waiter)| {
            self.still_waits(waiter) && !self.turns.holds_rest(waiter.slot, waiter.generation)
        };
        let places = (self.turns.taken..).zip(&self.turns.buffers);
        places.filter(waits).map(|(place, waiter)| (waiter.slot.get(), place)).collect()
    }

    /// The connection has had its share of the turn: it goes on in a later one.
    pub(super) fn postpone(&mut self, ctx: &Context, slot: Slot, span: Option<Span>, full: bool) {
        ctx.stats.inc(Stat::ReadsPostponed);
        self.set_flag(slot, flag::RX_WAIT);
        self.turns.rests.push_back(Rest { slot, generation: self.hot(slot).generation(), span, full });
    }

    /// Reads those whose turn it is. Returns whether frames that have arrived are left.
    pub(crate) fn run_turns(&mut self, io: &mut impl Io, ctx: &mut Context, up: &mut impl Upstream) -> bool {
        // As many as there are buffers: what a turn handles is bounded, however many wait.
        for _ in 0..self.turns.rests.len().min(ctx.cfg.rx_blocks as usize) {
            let rest = self.turns.rests.pop_front().expect("counted");
            self.run_rest(io, ctx, up, rest);
        }
        while ctx.pools.available(Class::Rx) > 0 {
            let Some(waiter) = self.turns.buffers.pop_front() else { break };
            self.turns.taken += 1;
            if self.still_waits(&waiter) {
                self.clear_flag(waiter.slot, flag::RX_WAIT);
                self.receive(io, ctx, up, waiter.slot);
            }
        }
        // Those that wait for a buffer are woken by the completions of the receives in the kernel.
        !self.turns.rests.is_empty()
    }

    fn run_rest(&mut self, io: &mut impl Io, ctx: &mut Context, up: &mut impl Upstream, rest: Rest) {
        let Rest { slot, generation, span, full } = rest;
        let hot = self.hot(slot);
        // One that is sent away meanwhile may wait for a buffer: its frames are not wanted any more.
        if hot.generation() != generation || !hot.reads() || !hot.has(flag::RX_WAIT) {
            if let Some(span) = span {
                ctx.pools.release(span.block);
            }
            return;
        }
        self.clear_flag(slot, flag::RX_WAIT);
        match span {
            Some(span) => self.handle_received(io, ctx, up, slot, span, full),
            None => self.handle_spilled(io, ctx, up, slot),
        }
    }

    /// The connection is through with what has arrived: it is read, or waits for more.
    pub(super) fn go_on_reading(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        up: &mut impl Upstream,
        slot: Slot,
        full: bool,
    ) {
        let hot = self.hot(slot);
        if hot.ops() & (bit::RECV | bit::POLL_IN) == 0 && hot.is_reading() {
            if full {
                self.read(io, ctx, up, slot);
            } else {
                self.park(io, slot);
            }
        }
    }
}
