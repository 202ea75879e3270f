//! The time that counts against gateways: that in which this process ran.
//!
//! A process that was stopped (SIGSTOP, a freezer, a pause of its machine) finds in its sockets what
//! gateways said meanwhile. Nobody is silent because of that: a gap between two looks at the clock,
//! which is looked at with every tick, is left out.

use std::{cell::Cell, time::Instant};

/// How much later than a tick a look at the clock may come, in milliseconds.
const LATE_MS: u64 = 100;

/// A clock that stands still while nobody looks at it for longer than a tick.
#[derive(Debug)]
pub(super) struct Clock {
    started: Instant,
    tick_ms: u64,
    last_ms: Cell<u64>,
    lost_ms: Cell<u64>,
}

impl Clock {
    /// Runs from now on, and is looked at every `tick_ms` at least.
    pub(super) fn new(tick_ms: u64) -> Self {
        Self { started: Instant::now(), tick_ms, last_ms: Cell::new(0), lost_ms: Cell::new(0) }
    }

    /// Milliseconds since the start that this process ran.
    pub(super) fn now_ms(&self) -> u64 {
        self.look(self.started.elapsed().as_millis() as u64)
    }

    fn look(&self, real_ms: u64) -> u64 {
        let elapsed_ms = real_ms.saturating_sub(self.last_ms.replace(real_ms));
        if elapsed_ms > self.tick_ms + LATE_MS {
            self.lost_ms.set(self.lost_ms.get() + elapsed_ms - self.tick_ms);
        }
        real_ms - self.lost_ms.get()
    }
}

#[cfg(test)]
mod tests {
    use super::Clock;

    #[test]
    fn a_pause_counts_as_a_tick() {
        let clock = Clock::new(50);
        assert_eq!(clock.look(10), 10);
        assert_eq!(clock.look(60), 60);
        assert_eq!(clock.look(190), 190, "late, as on a busy machine");
        assert_eq!(clock.look(120_190), 240, "stopped for two minutes");
        assert_eq!(clock.look(120_240), 290);
    }
}
