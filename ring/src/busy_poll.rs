//! How long to keep looking for completions before sleeping.
//!
//! A sleep costs latency: putting the thread to rest and waking it takes microseconds, many of them
//! where the processor itself is virtual. Looking on costs a processor that is busy with nothing.
//! So a bank looks on for as long as that has paid lately, as KVM's halt polling does: for the whole
//! of the time allowed once something came within it, and for half as long after every time in which
//! nothing did. Where nothing comes at all that ends after twice the time allowed, and where it is
//! off, no clock is read.

use std::time::{Duration, Instant};

/// The time that a bank looks on, and what it has learned.
#[derive(Debug)]
pub(super) struct BusyPoll {
    max: Duration,
    window: Duration,
}

/// A wait that is under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting(Instant);

impl Waiting {
    /// What is left of a wait of at most `timeout`.
    pub(super) fn left_of(self, timeout: Duration) -> Duration {
        timeout.saturating_sub(self.0.elapsed())
    }
}

impl BusyPoll {
    /// Windows shorter than this are none: looking once takes as long.
    const WINDOW_MIN: Duration = Duration::from_micros(1);

    /// Looks on for at most this long; zero: never.
    pub(super) const fn new(max: Duration) -> Self {
        Self { max, window: max }
    }

    /// Begins a wait. None if it is off.
    pub(super) fn begin(&self) -> Option<Waiting> {
        (!self.max.is_zero()).then(|| Waiting(Instant::now()))
    }

    /// Whether looking is worth while in this wait, which has just begun.
    pub(super) const fn is_worth_while(&self) -> bool {
        !self.window.is_zero()
    }

    /// Whether to look on, in a wait of at most `timeout`.
    pub(super) fn goes_on(&self, waiting: Waiting, timeout: Duration) -> bool {
        waiting.0.elapsed() < self.window.min(timeout)
    }

    /// The wait is over, looking and sleeping.
    pub(super) fn end(&mut self, waiting: Waiting) {
        self.learn(waiting.0.elapsed());
    }

    fn learn(&mut self, waited: Duration) {
        self.window = match self.window / 2 {
            _ if waited <= self.max => self.max,
            half if half >= Self::WINDOW_MIN => half,
            _ => Duration::ZERO,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_micros(200);
    const LONG: Duration = Duration::from_micros(201);

    #[test]
    fn silence_ends_it_and_one_short_wait_brings_it_back() {
        let mut busy_poll = BusyPoll::new(MAX);
        let mut looked = Duration::ZERO;
        while busy_poll.is_worth_while() {
            looked += busy_poll.window;
            busy_poll.learn(LONG);
        }
        assert!(looked <= 2 * MAX, "{looked:?} for nothing");
        busy_poll.learn(LONG);
        assert!(!busy_poll.is_worth_while());
        busy_poll.learn(MAX);
        assert_eq!(busy_poll.window, MAX);
    }

    #[test]
    fn a_gap_now_and_then_does_not_end_it() {
        let mut busy_poll = BusyPoll::new(MAX);
        for _ in 0..10 {
            busy_poll.learn(LONG);
            assert_eq!(busy_poll.window, MAX / 2);
            busy_poll.learn(MAX / 4);
            assert_eq!(busy_poll.window, MAX);
        }
    }

    #[test]
    fn off_is_off() {
        let mut busy_poll = BusyPoll::new(Duration::ZERO);
        assert!(busy_poll.begin().is_none());
        busy_poll.learn(Duration::ZERO);
        assert!(!busy_poll.is_worth_while());
    }
}
