//! The time that counts against gateways: that in which this process ran.
//!
//! A process that was stopped (SIGSTOP, a freezer, a pause of its machine) finds in its sockets what
//! gateways said meanwhile. Nobody is silent because of that: a gap between two looks at the clock,
//! which is looked at with every tick, is left out.
//!
//! A process that is late each time is slow, and not stopped: then all time counts, or nothing would
//! ever be due.

use std::{cell::Cell, time::Instant};

/// How much later than a tick a look at the clock may come, in milliseconds, before that is a pause.
const LATE_MS: u64 = 100;
/// After a pause this part of it must pass without a late look, until the next one is a pause again.
const IN_TIME_PART: u64 = 100;

/// A clock that stands still while nobody looks at it for longer than a tick.
#[derive(Debug)]
pub(super) struct Clock {
    started: Instant,
    tick_ms: u64,
    last_ms: Cell<u64>,
    lost_ms: Cell<u64>,
    /// For how long looks must be in time until a late one is a pause again.
    owed_ms: Cell<u64>,
}

impl Clock {
    /// Runs from now on, and is looked at every `tick_ms` at least.
    pub(super) fn new(tick_ms: u64) -> Self {
        Self {
            started: Instant::now(),
            tick_ms,
            last_ms: Cell::new(0),
            lost_ms: Cell::new(0),
            owed_ms: Cell::new(0),
        }
    }

    /// Milliseconds since the start that this process ran.
    pub(super) fn now_ms(&self) -> u64 {
        self.advance(self.started.elapsed().as_millis() as u64)
    }

    fn advance(&self, real_ms: u64) -> u64 {
        let elapsed_ms = real_ms.saturating_sub(self.last_ms.replace(real_ms));
        let owed_ms = self.owed_ms.get();
        if elapsed_ms <= self.tick_ms + LATE_MS {
            self.owed_ms.set(owed_ms.saturating_sub(elapsed_ms));
        } else {
            if owed_ms == 0 {
                self.lost_ms.set(self.lost_ms.get() + elapsed_ms);
            }
            self.owed_ms.set(owed_ms.max(elapsed_ms / IN_TIME_PART + 1));
        }
        real_ms - self.lost_ms.get()
    }
}

#[cfg(test)]
mod tests {
    use super::Clock;

    #[test]
    fn a_pause_does_not_count() {
        let clock = Clock::new(50);
        assert_eq!(clock.advance(10), 10);
        assert_eq!(clock.advance(60), 60);
        assert_eq!(clock.advance(190), 190, "late, as on a busy machine");
        assert_eq!(clock.advance(120_190), 190, "stopped for two minutes");
        assert_eq!(clock.advance(120_240), 240);
    }

    #[test]
    fn a_process_that_is_always_late_sees_time_go_on() {
        let clock = Clock::new(50);
        let times: Vec<u64> = (1..=100).map(|look| clock.advance(look * 300)).collect();
        assert_eq!(times[..3], [0, 300, 600]);
        assert_eq!(times[99], 29_700);
    }

    #[test]
    fn each_pause_of_a_process_that_is_in_time_between_them_is_left_out() {
        let clock = Clock::new(50);
        let mut real_ms = 0;
        let mut served_ms = 0;
        for _ in 0..100 {
            real_ms += 6_000;
            clock.advance(real_ms);
            for _ in 0..5 {
                real_ms += 50;
                served_ms = clock.advance(real_ms);
            }
        }
        assert_eq!(served_ms, 100 * 5 * 50);
    }
}
