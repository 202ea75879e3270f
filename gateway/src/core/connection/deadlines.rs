//! Deadlines without timers: the table is visited slice by slice, round after round.

use roost_protocol::Reason;

use super::{
    Connections, Upstream,
    framing::Reply,
    lifecycle::State,
    record::{Hot, IDLE_PERIOD, flag},
};
use crate::{
    core::{
        context::{Context, TICK_MS},
        index::Slot,
    },
    op::Io,
};

/// How long a round over the table takes, at most: what a deadline may be late by.
const ROUND_MS: u64 = 1_000;

/// The longest time of which a blocked connection knows that it was blocked, in ticks.
const BLOCKED_MAX: u16 = u16::MAX - 64;

/// Where the round is.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    cursor: u32,
    /// When the next slice is due.
    due_ms: u64,
}

impl Sweep {
    fn start(&mut self, now_ms: u64) {
        self.due_ms = now_ms + ROUND_MS;
    }

    /// Slots per slice, and milliseconds from one slice to the next, in a table with so many used and
    /// at least so many slots per slice.
    fn pace(high_water: u32, slice: u32) -> (u32, u64) {
        let slice = slice.max(high_water.div_ceil(ROUND_MS as u32));
        let slices = u64::from(high_water.div_ceil(slice).max(1));
        (slice, ROUND_MS / slices)
    }
}

impl Connections {
    /// The first round begins.
    pub(crate) fn start_sweep(&mut self, ctx: &Context) {
        self.sweep.start(ctx.now_ms);
    }

    /// Visits a slice if one is due. Says when the next is.
    pub(crate) fn run_sweep(&mut self, io: &mut impl Io, ctx: &mut Context, up: &mut impl Upstream) -> u64 {
        if ctx.now_ms < self.sweep.due_ms {
            return self.next_deadline(ctx);
        }
        let high_water = self.table.high_water();
        let (slice, pause_ms) = Sweep::pace(high_water, ctx.cfg.bounds.sweep_slice);
        let from = self.sweep.cursor;
        let to = (from + slice).min(high_water);
        let (tick, quiet_ticks) = (ctx.tick(), quiet_ticks(ctx.cfg.idle_timeout_ms));
        for slot in Slot::range(from, to) {
            if !self.rests(slot, tick, quiet_ticks) {
                self.visit(io, ctx, up, slot);
            }
        }
        self.sweep.cursor = if to == high_water { 0 } else { to };
        self.sweep.due_ms = ctx.now_ms + pause_ms;
        self.next_deadline(ctx)
    }

    fn next_deadline(&self, ctx: &Context) -> u64 {
        let resumes = self.accepting.resumes_at_ms(ctx.now_ms).unwrap_or(u64::MAX);
        self.sweep.due_ms.min(resumes)
    }

    /// Whether [`Self::visit`] would find nothing: an open connection with nothing unsent and nothing
    /// incomplete, heard less than so many ticks ago. Nearly all are.
    #[inline]
    fn rests(&self, slot: Slot, tick: u16, quiet_ticks: u16) -> bool {
        let hot = self.hot(slot);
        hot.is_open()
            && !hot.has(flag::BLOCKED)
            && hot.outbox() | hot.spill() == 0
            && hot.idle_periods() == 0
            && tick.wrapping_sub(hot.active_tick()) < quiet_ticks
            && (!self.staged || self.table.kept(slot) == 0)
    }

    fn visit(&mut self, io: &mut impl Io, ctx: &mut Context, up: &mut impl Upstream, slot: Slot) {
        let hot = *self.hot(slot);
        let blocked = hot.has(flag::BLOCKED);
        match hot.state() {
            State::Free | State::Accepting | State::Closing => return,
            State::Handshaking if blocked => {
                // Its HELLO waits for a worker: it should ask elsewhere, or later.
                if ctx.is_over(hot.since_tick(), ctx.cfg.handshake_timeout_ms) {
                    return self.refuse(io, ctx, up, slot, Reason::NoWorker);
                }
            }
            // HELLO is to come; or the worker's answer, whichever worker it is by then.
            State::Handshaking | State::Opening => {
                if ctx.is_over(hot.since_tick(), ctx.cfg.handshake_timeout_ms) {
                    return self.refuse(io, ctx, up, slot, Reason::HandshakeTimeout);
                }
            }
            State::Open if blocked => self.send_keepalive_pong(io, ctx, up, slot),
            State::Open => {
                let idle_timeout_ms = u64::from(ctx.cfg.idle_timeout_ms);
                if idle_timeout_ms > 0 && idle_ms(ctx, &hot) >= idle_timeout_ms + TICK_MS {
                    return self.refuse(io, ctx, up, slot, Reason::IdleTimeout);
                }
                self.count_idle_period(ctx, slot);
            }
            State::Draining => {
                let flushing = hot.outbox() != 0 || hot.has(flag::SHUT_WAIT);
                if !flushing && ctx.is_over(hot.since_tick(), ctx.cfg.linger_ms) {
                    return self.stop(io, ctx, slot);
                }
            }
        }
        let hot = self.hot(slot);
        if hot.outbox() != 0
            && ctx.is_over(self.outboxes.progress_tick(hot.outbox()), ctx.cfg.write_timeout_ms)
        {
            return self.close_slow(io, ctx, up, slot);
        }
        let overdue = |handle: u32| {
            handle != 0 && ctx.is_over(self.spills.since_tick(handle), ctx.cfg.frame_timeout_ms)
        };
        if !blocked && (overdue(hot.spill()) || overdue(self.table.kept(slot))) {
            self.refuse(io, ctx, up, slot, Reason::FrameTimeout);
        }
    }

    /// How long a connection has not been heard, in milliseconds.
    pub(crate) fn idle_ms(&self, ctx: &Context, slot: Slot) -> u64 {
        idle_ms(ctx, self.hot(slot))
    }

    /// Ticks tell ages apart up to 18 hours: who is silent for longer is counted in periods.
    fn count_idle_period(&mut self, ctx: &Context, slot: Slot) {
        let tick = ctx.tick();
        let hot = self.table.hot_mut(slot);
        if tick.wrapping_sub(hot.active_tick()) >= IDLE_PERIOD {
            hot.set_active_tick(hot.active_tick().wrapping_add(IDLE_PERIOD));
            hot.set_idle_periods(hot.idle_periods().saturating_add(1));
        }
    }

    /// A blocked client cannot be heard; so that it does not think us dead, it gets a PONG.
    fn send_keepalive_pong(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        up: &mut impl Upstream,
        slot: Slot,
    ) {
        let (tick, interval_ms) = (ctx.tick(), ctx.cfg.heartbeat_interval_ms);
        let hot = self.table.hot_mut(slot);
        if tick.wrapping_sub(hot.active_tick()) >= BLOCKED_MAX {
            hot.set_active_tick(tick.wrapping_sub(BLOCKED_MAX));
        }
        if interval_ms > 0 && ctx.age_ms(self.hot(slot).since_tick()) >= interval_ms {
            self.table.hot_mut(slot).set_since_tick(tick);
            self.queue_reply(io, ctx, up, slot, &Reply::Pong(b""));
        }
    }
}

/// Silence up to which an open connection is neither idle for too long nor has a period to count.
fn quiet_ticks(idle_timeout_ms: u32) -> u16 {
    match idle_timeout_ms {
        0 => IDLE_PERIOD,
        timeout_ms => {
            let ticks = (u64::from(timeout_ms) + TICK_MS).div_ceil(TICK_MS);
            ticks.min(IDLE_PERIOD.into()) as u16
        }
    }
}

/// How long a connection has not been heard.
fn idle_ms(ctx: &Context, hot: &Hot) -> u64 {
    u64::from(hot.idle_periods()) * u64::from(IDLE_PERIOD) * 1_000 + u64::from(ctx.age_ms(hot.active_tick()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::bounds::Bounds;

    #[test]
    fn a_round_takes_a_second_at_most_however_large_the_table() {
        for high_water in [0, 1, 2_048, 2_049, 1_000_000, 2_048_000, 2_048_001, 5_000_000, 1 << 24] {
            let (slice, pause_ms) = Sweep::pace(high_water, Bounds::GATEWAY.sweep_slice);
            let round_ms = u64::from(high_water.div_ceil(slice)) * pause_ms;
            assert!(pause_ms > 0, "{high_water} slots: the loop would spin");
            assert!(round_ms <= ROUND_MS, "{high_water} slots: a round takes {round_ms} ms");
        }
    }

    #[test]
    fn who_is_passed_over_is_neither_idle_for_too_long_nor_has_a_period_to_count() {
        for timeout_ms in [0, 1, 999, 1_000, 1_001, 60_000, 32_766_001, 32_767_000, 32_767_001, u32::MAX] {
            let quiet = u64::from(quiet_ticks(timeout_ms));
            for ticks in (0..=u64::from(u16::MAX)).filter(|ticks| ticks.abs_diff(quiet) < 3) {
                let is_idle = timeout_ms > 0 && ticks * 1_000 >= u64::from(timeout_ms) + TICK_MS;
                let has_period = ticks >= u64::from(IDLE_PERIOD);
                assert_eq!(ticks >= quiet, is_idle || has_period, "{ticks} s, time-out {timeout_ms} ms");
            }
        }
    }
}
