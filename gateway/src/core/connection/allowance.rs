//! How much a client may send: messages, and PINGs and PONGs, per second.
//!
//! An allowance grows by a second's worth at a time, up to two. So a client that keeps to its rate may
//! be late by a second and catch up. Time in which the gateway did not read it (it was blocked, or the
//! whole process stopped) is no fault of the client's: for each such second it is allowed as much
//! again, to be used whenever what it had sent is read.

use super::{
    Connections,
    record::{CONTROL_LEFT_MAX, RATE_LEFT_MAX},
};
use crate::core::{context::Context, index::Slot};

/// What is allowed when nothing has been used for long.
const fn burst(per_s: u32, max: u32) -> u32 {
    let burst = per_s.saturating_mul(2);
    if burst < max { burst } else { max }
}

/// What is allowed after some seconds. What exceeds the burst was given for time unread, and stays.
fn refilled(left: u32, per_s: u32, seconds: u16, max: u32) -> u32 {
    let grown = left.saturating_add(per_s.saturating_mul(u32::from(seconds)));
    grown.min(burst(per_s, max)).max(left)
}

fn with_unread(left: u32, per_s: u32, seconds: u32, max: u32) -> u32 {
    left.saturating_add(per_s.saturating_mul(seconds)).min(max)
}

impl Connections {
    /// The client is heard.
    #[inline]
    pub(super) fn hear(&mut self, ctx: &Context, slot: Slot) {
        if self.hot(slot).active_tick() != ctx.tick() {
            self.hear_anew(ctx, slot);
        }
    }

    /// It is heard for the first time in this second.
    fn hear_anew(&mut self, ctx: &Context, slot: Slot) {
        let (tick, per_s) = (ctx.tick(), ctx.cfg.control_frames_per_s_max);
        let hot = self.table.hot_mut(slot);
        let seconds = tick.wrapping_sub(hot.active_tick());
        hot.set_control_left(refilled(hot.control_left(), per_s, seconds, CONTROL_LEFT_MAX));
        hot.set_active_tick(tick);
        if hot.is_open() {
            hot.set_idle_periods(0);
        }
    }

    /// A client has come in: it is heard, and may send PINGs.
    pub(super) fn hear_first(&mut self, ctx: &Context, slot: Slot) {
        let (tick, per_s) = (ctx.tick(), ctx.cfg.control_frames_per_s_max);
        let hot = self.table.hot_mut(slot);
        hot.set_active_tick(tick);
        hot.set_since_tick(tick);
        hot.set_control_left(burst(per_s, CONTROL_LEFT_MAX));
    }

    /// Takes one PING or PONG from what the client may send. Returns whether it may.
    #[inline]
    pub(super) fn take_control_allowance(&mut self, ctx: &Context, slot: Slot) -> bool {
        let limited = ctx.cfg.control_frames_per_s_max > 0;
        let hot = self.table.hot_mut(slot);
        match hot.control_left().checked_sub(1) {
            Some(left) => hot.set_control_left(left),
            None => return !limited,
        }
        true
    }

    /// Takes one message from what the client may send. Returns whether it may.
    pub(super) fn take_allowance(&mut self, ctx: &Context, slot: Slot) -> bool {
        let (tick, per_s) = (ctx.tick(), ctx.cfg.messages_per_s_max);
        let cold = self.table.cold_mut(slot);
        let seconds = tick.wrapping_sub(cold.rate_tick());
        let left = refilled(cold.rate_left(), per_s, seconds, RATE_LEFT_MAX);
        cold.set_rate(tick, left.saturating_sub(1));
        left > 0
    }

    /// An opened connection may send what is allowed at once, and what it may have sent while its
    /// HELLO waited.
    pub(super) fn allow_first(&mut self, ctx: &Context, slot: Slot) {
        let (tick, per_s) = (ctx.tick(), ctx.cfg.messages_per_s_max);
        let unread_s = std::mem::take(&mut self.hello_waited_s);
        let left = with_unread(burst(per_s, RATE_LEFT_MAX), per_s, unread_s, RATE_LEFT_MAX);
        self.table.cold_mut(slot).set_rate(tick, left);
    }

    /// The client was not read for so many seconds.
    pub(super) fn allow_unread(&mut self, ctx: &Context, slot: Slot, seconds: u32) {
        let (messages, control) = (ctx.cfg.messages_per_s_max, ctx.cfg.control_frames_per_s_max);
        let hot = self.table.hot_mut(slot);
        hot.set_control_left(with_unread(hot.control_left(), control, seconds, CONTROL_LEFT_MAX));
        // Before OPEN the record has no room for messages: see `allow_first`.
        if !hot.has_session() {
            self.hello_waited_s = seconds;
        } else if messages > 0 {
            let cold = self.table.cold_mut(slot);
            let left = with_unread(cold.rate_left(), messages, seconds, RATE_LEFT_MAX);
            cold.set_rate(cold.rate_tick(), left);
        }
    }

    /// The whole shard has read nobody for so long.
    pub(crate) fn on_pause(&mut self, ctx: &Context, pause_ms: u64) {
        let seconds = u32::try_from(pause_ms.div_ceil(1_000)).unwrap_or(u32::MAX);
        for slot in Slot::range(0, self.table.high_water()) {
            if self.hot(slot).has_session() {
                self.allow_unread(ctx, slot, seconds);
            }
        }
    }

    /// The limits have changed: they hold from now on, whatever was allowed before.
    pub(crate) fn allow_anew(&mut self, ctx: &Context) {
        let tick = ctx.tick();
        let (messages, control) = (ctx.cfg.messages_per_s_max, ctx.cfg.control_frames_per_s_max);
        for slot in Slot::range(0, self.table.high_water()) {
            let hot = self.table.hot_mut(slot);
            if hot.reads() {
                hot.set_control_left(burst(control, CONTROL_LEFT_MAX));
            }
            if hot.has_session() {
                self.table.cold_mut(slot).set_rate(tick, burst(messages, RATE_LEFT_MAX));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_grows_to_two_seconds_worth_and_keeps_what_was_given_for_time_unread() {
        let max = RATE_LEFT_MAX;
        assert_eq!(refilled(0, 5, 1, max), 5);
        assert_eq!(refilled(4, 5, 1, max), 9);
        assert_eq!(refilled(4, 5, 100, max), 10);
        assert_eq!(refilled(60, 5, 100, max), 60);
        assert_eq!(refilled(3, 5, 0, max), 3);
        assert_eq!(with_unread(10, 5, 60, max), 310);
        assert_eq!(with_unread(10, 1_000_000, 60, max), max);
    }

    #[test]
    fn the_record_holds_the_largest_configurable_burst() {
        use crate::config::keys::key;
        let most = |name: &str| u32::try_from(key(name).unwrap().range.unwrap().1).unwrap();
        assert!(2 * most("messages_per_s_max") <= RATE_LEFT_MAX);
        assert!(2 * most("control_frames_per_s_max") <= CONTROL_LEFT_MAX);
    }
}
