//! How long to let completions gather before a turn.
//!
//! A turn has a price of its own: the call into the kernel, the sleep and the wake-up before it, a
//! send to and a receive from every worker behind it. A shard that hurries to each completion pays
//! it for two or three messages; one that waits a moment pays it for twenty. But the moment is
//! latency. So the shard waits only when it has little time to spare, where saved work is what
//! shortens the queues, and the longer the less it has.

use std::time::Duration;

use super::Clock;

/// The share of the processor, per mille, up to which nothing gathers.
const CALM: u64 = 600;
/// The share from which completions gather for as long as allowed.
const FULL: u64 = 850;
/// How often the share is looked at.
const WINDOW_NS: u64 = 2_000_000;

/// The measure of one shard's load, and what follows from it.
#[derive(Debug)]
pub(super) struct Pace {
    gather_us_max: u32,
    /// When the present window began, and the processor time taken by then.
    since_ns: u64,
    since_cpu_ns: u64,
    /// Processor time per mille of real time, over the last few windows.
    share: u64,
    gather: Duration,
}

impl Pace {
    /// Gathers for at most so many microseconds; 0: never.
    pub(super) const fn new(gather_us_max: u32) -> Self {
        Self { gather_us_max, since_ns: 0, since_cpu_ns: 0, share: 0, gather: Duration::ZERO }
    }

    /// How long completions may gather from `now_ns` on; zero: not at all.
    pub(super) fn gather(&mut self, now_ns: u64, clock: &mut impl Clock) -> Duration {
        let elapsed_ns = now_ns.saturating_sub(self.since_ns);
        if self.gather_us_max > 0 && elapsed_ns >= WINDOW_NS {
            let cpu_ns = clock.cpu_ns();
            let share = (cpu_ns.saturating_sub(self.since_cpu_ns) * 1000 / elapsed_ns).min(1000);
            // What was four windows ago hardly counts; a long sleep counts as several at once.
            let weight = (elapsed_ns / WINDOW_NS).min(4);
            self.share = (share * weight + self.share * (4 - weight)) / 4;
            (self.since_ns, self.since_cpu_ns) = (now_ns, cpu_ns);
            let excess = self.share.saturating_sub(CALM).min(FULL - CALM);
            self.gather = Duration::from_micros(u64::from(self.gather_us_max) * excess / (FULL - CALM));
        }
        self.gather
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread that takes `share` per mille of the processor.
    struct Fixed {
        now_ns: u64,
        share: u64,
        cpu_ns: u64,
        looks: u32,
    }

    impl Fixed {
        fn run(&mut self, pace: &mut Pace, share: u64, turns: u32, turn_ns: u64) -> u128 {
            self.share = share;
            let mut gather = Duration::ZERO;
            for _ in 0..turns {
                self.now_ns += turn_ns;
                self.cpu_ns += turn_ns * self.share / 1000;
                gather = pace.gather(self.now_ns, self);
            }
            gather.as_micros()
        }
    }

    impl Clock for Fixed {
        fn now_ns(&mut self) -> u64 {
            self.now_ns
        }

        fn cpu_ns(&mut self) -> u64 {
            self.looks += 1;
            self.cpu_ns
        }
    }

    fn fixed() -> Fixed {
        Fixed { now_ns: 0, share: 0, cpu_ns: 0, looks: 0 }
    }

    #[test]
    fn the_busier_the_longer_and_idle_not_at_all() {
        let (mut clock, mut pace) = (fixed(), Pace::new(100));
        assert_eq!(clock.run(&mut pace, 300, 5_000, 10_000), 0);
        assert_eq!(clock.run(&mut pace, CALM, 5_000, 10_000), 0);
        let half = clock.run(&mut pace, (CALM + FULL) / 2, 5_000, 10_000);
        assert!((45..=50).contains(&half), "{half}");
        // Whole numbers lose a little on the way.
        assert!(clock.run(&mut pace, 1000, 5_000, 10_000) >= 99);
        assert_eq!(clock.run(&mut pace, 300, 5_000, 10_000), 0);
    }

    #[test]
    fn one_long_sleep_ends_it() {
        let (mut clock, mut pace) = (fixed(), Pace::new(100));
        clock.run(&mut pace, 1000, 5_000, 10_000);
        assert_eq!(clock.run(&mut pace, 1, 1, 50_000_000), 0);
    }

    #[test]
    fn the_processor_clock_is_not_read_every_turn() {
        let (mut clock, mut pace) = (fixed(), Pace::new(100));
        clock.run(&mut pace, 1000, 10_000, 10_000);
        assert!(clock.looks <= 51, "{}", clock.looks);
        let (mut clock, mut off) = (fixed(), Pace::new(0));
        assert_eq!(clock.run(&mut off, 1000, 10_000, 10_000), 0);
        assert_eq!(clock.looks, 0);
    }
}
