//! Deadlines without timers: the table is visited slice by slice, round after round.

use roost_protocol::{
    Reason,
    edge::{self, FrameType},
};

use crate::{
    core::{
        record::{Hot, IDLE_PERIOD, State, flag},
        shard::ShardCore,
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
    pub(super) fn start(&mut self, now_ms: u64) {
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

impl ShardCore {
    /// Visits a slice if one is due. Says when the next is.
    pub(super) fn run_sweep(&mut self, io: &mut impl Io) -> u64 {
        if self.ctx.now_ms < self.sweep.due_ms {
            return self.next_deadline();
        }
        let high_water = self.table.high_water();
        let (slice, pause_ms) = Sweep::pace(high_water, self.ctx.cfg.bounds.sweep_slice);
        let from = self.sweep.cursor;
        let to = (from + slice).min(high_water);
        for slot in from..to {
            self.visit(io, slot);
        }
        self.sweep.cursor = if to == high_water { 0 } else { to };
        self.sweep.due_ms = self.ctx.now_ms + pause_ms;
        self.next_deadline()
    }

    fn next_deadline(&self) -> u64 {
        let resumes = self.accepting.resumes_at_ms(self.ctx.now_ms).unwrap_or(u64::MAX);
        self.sweep.due_ms.min(resumes)
    }

    fn visit(&mut self, io: &mut impl Io, slot: u32) {
        let hot = *self.hot(slot);
        let blocked = hot.has(flag::BLOCKED);
        match hot.state() {
            State::Free | State::Accepting | State::Closing => return,
            State::Handshaking if blocked => {
                // Its HELLO waits for a worker: it should ask elsewhere, or later.
                if self.ctx.age_ms(hot.since_tick()) > self.ctx.cfg.handshake_timeout_ms {
                    return self.refuse(io, slot, Reason::NoWorker);
                }
            }
            // HELLO is to come; or the worker's answer, whichever worker it is by then.
            State::Handshaking | State::Opening => {
                if self.ctx.age_ms(hot.since_tick()) > self.ctx.cfg.handshake_timeout_ms {
                    return self.refuse(io, slot, Reason::HandshakeTimeout);
                }
            }
            State::Open if blocked => self.soothe(io, slot),
            State::Open => {
                let idle_timeout_ms = u64::from(self.ctx.cfg.idle_timeout_ms);
                if idle_timeout_ms > 0 && self.idle_ms(&hot) > idle_timeout_ms {
                    return self.refuse(io, slot, Reason::IdleTimeout);
                }
                self.count_idle_period(slot);
            }
            State::Draining => {
                let flushing = hot.outbox() != 0 || hot.has(flag::SHUT_WAIT);
                if !flushing && self.ctx.age_ms(hot.since_tick()) > self.ctx.cfg.linger_ms {
                    return self.stop(io, slot);
                }
            }
        }
        let hot = self.hot(slot);
        if hot.outbox() != 0
            && self.ctx.age_ms(self.outboxes.progress_tick(hot.outbox())) > self.ctx.cfg.write_timeout_ms
        {
            return self.close_slow(io, slot);
        }
        if hot.spill() != 0
            && !blocked
            && self.ctx.age_ms(self.spills.since_tick(hot.spill())) > self.ctx.cfg.frame_timeout_ms
        {
            self.refuse(io, slot, Reason::FrameTimeout);
        }
    }

    /// How long a connection has not been heard.
    pub(super) fn idle_ms(&self, hot: &Hot) -> u64 {
        u64::from(hot.idle_periods()) * u64::from(IDLE_PERIOD) * 1_000
            + u64::from(self.ctx.age_ms(hot.active_tick()))
    }

    /// Ticks tell ages apart up to 18 hours: who is silent for longer is counted in periods.
    fn count_idle_period(&mut self, slot: u32) {
        let tick = self.tick();
        let hot = self.table.hot_mut(slot);
        if tick.wrapping_sub(hot.active_tick()) >= IDLE_PERIOD {
            hot.set_active_tick(hot.active_tick().wrapping_add(IDLE_PERIOD));
            hot.set_idle_periods(hot.idle_periods().saturating_add(1));
        }
    }

    /// A blocked client cannot be heard; so that it does not think us dead, it gets a PONG.
    fn soothe(&mut self, io: &mut impl Io, slot: u32) {
        let (tick, interval_ms) = (self.tick(), self.ctx.cfg.heartbeat_interval_ms);
        let hot = self.table.hot_mut(slot);
        if tick.wrapping_sub(hot.active_tick()) >= BLOCKED_MAX {
            hot.set_active_tick(tick.wrapping_sub(BLOCKED_MAX));
        }
        if interval_ms > 0 && self.ctx.age_ms(self.hot(slot).since_tick()) >= interval_ms {
            self.table.hot_mut(slot).set_since_tick(tick);
            let header = edge::Header { frame_type: FrameType::Pong, payload_bytes: 0 };
            self.queue_bytes(io, slot, &header.encode());
        }
    }
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
}
