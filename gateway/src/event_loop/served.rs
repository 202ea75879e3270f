//! The time that counts against others: that in which the shard looked.
//!
//! A process may be stopped for minutes (SIGSTOP, a control group's freezer, a virtual machine's
//! pause), or have no processor for a while. What clients and workers said meanwhile waits in their
//! sockets, and they must not be judged by a clock that ran on. So a turn that begins much later than
//! it was due takes no time, and the clock stands still until everybody has been read.
//!
//! Whoever is late each time is slow, and not stopped: then all time counts, or nothing would ever be
//! due.

/// How late a turn may begin, in milliseconds, before that counts as a pause.
const LATE_MS: u64 = 100;
/// Turns that must leave nothing behind, one after the other, until everybody counts as read: what is
/// polled in one is received in the next.
const QUIET_TURNS: u32 = 2;
/// After a pause the shard must have been in time for this part of it, until the next one is a pause.
const IN_TIME_PART: u64 = 100;
/// Pauses are told to the core by the second, together: a rate's burst covers shorter ones.
const TOLD_MS: u64 = 1_000;

/// The clock of one shard's core.
#[derive(Debug)]
pub(super) struct Served {
    /// When the last turn began.
    last_ms: u64,
    /// How long it was to last, with the sleep after it.
    planned_ms: u64,
    /// Real time that did not count.
    lost_ms: u64,
    /// Of that, not told to the core yet.
    untold_ms: u64,
    /// For how long turns must be in time until a late one is a pause again.
    owed_ms: u64,
    /// After a pause: until when others are being read, at most, and the turns that left nothing.
    catching_up: Option<(u64, u32)>,
}

impl Served {
    pub(super) const fn new(now_ms: u64) -> Self {
        Self { last_ms: now_ms, planned_ms: 0, lost_ms: 0, untold_ms: 0, owed_ms: 0, catching_up: None }
    }

    /// A turn begins. Gives the time that has been served.
    pub(super) fn begin(&mut self, now_ms: u64) -> u64 {
        let elapsed_ms = now_ms.saturating_sub(self.last_ms);
        self.last_ms += elapsed_ms;
        let late = elapsed_ms > self.planned_ms + LATE_MS;
        let counted_ms = match self.catching_up {
            Some((until_ms, _)) if now_ms < until_ms => 0,
            Some(_) => {
                self.catching_up = None;
                elapsed_ms
            }
            None if late => {
                let is_pause = self.owed_ms == 0;
                self.owed_ms = self.owed_ms.max(elapsed_ms / IN_TIME_PART + 1);
                if is_pause {
                    self.catching_up = Some((now_ms + elapsed_ms - self.planned_ms, 0));
                }
                if is_pause { 0 } else { elapsed_ms }
            }
            None => {
                self.owed_ms = self.owed_ms.saturating_sub(elapsed_ms);
                elapsed_ms
            }
        };
        self.lost_ms += elapsed_ms - counted_ms;
        self.untold_ms += elapsed_ms - counted_ms;
        self.last_ms - self.lost_ms
    }

    /// Whether the clock stands still while others are being read.
    pub(super) const fn is_catching_up(&self) -> bool {
        self.catching_up.is_some()
    }

    /// The pause that the core has yet to hear of, if it is long enough.
    pub(super) fn take_pause_ms(&mut self) -> Option<u64> {
        (self.untold_ms >= TOLD_MS).then(|| std::mem::take(&mut self.untold_ms))
    }

    /// A turn ends; the next one is due at this time of the core's, or at once. `behind`: there is
    /// more to read than this turn did.
    pub(super) fn end(&mut self, next_ms: Option<u64>, behind: bool) {
        self.planned_ms = next_ms.map_or(0, |at_ms| self.real_ms(at_ms).saturating_sub(self.last_ms));
        if let Some((_, quiet)) = &mut self.catching_up {
            *quiet = if behind { 0 } else { *quiet + 1 };
            if *quiet >= QUIET_TURNS {
                self.catching_up = None;
            }
        }
    }

    /// When it will be this time of the core's, if nothing holds it up.
    pub(super) const fn real_ms(&self, served_ms: u64) -> u64 {
        served_ms.saturating_add(self.lost_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_that_was_planned_counts_and_a_pause_does_not() {
        let mut served = Served::new(1_000);
        assert_eq!(served.begin(1_010), 1_010);
        served.end(Some(1_500), false);
        assert_eq!(served.begin(1_500), 1_500);
        served.end(Some(2_000), false);
        assert_eq!(served.begin(62_000), 1_500, "stopped for a minute");
        assert_eq!(served.take_pause_ms(), Some(60_500));
        assert_eq!(served.take_pause_ms(), None);
        served.end(None, true);
        assert_eq!(served.begin(62_500), 1_500, "others are being read");
        served.end(None, false);
        assert_eq!(served.begin(62_510), 1_500);
        served.end(Some(2_000), false);
        assert_eq!(served.real_ms(2_000), 62_510 + 500);
        assert_eq!(served.begin(63_010), 2_000, "time goes on when everybody has been read");
    }

    #[test]
    fn a_shard_that_is_always_late_sees_time_go_on() {
        let mut served = Served::new(0);
        for turn in 1..=100 {
            served.begin(turn * 300);
            served.end(None, true);
        }
        assert!(served.begin(30_300) >= 29_000);
    }

    #[test]
    fn one_that_is_stopped_again_and_again_loses_no_client_for_it() {
        let mut served = Served::new(0);
        let mut now_ms = 0;
        for _ in 0..100 {
            now_ms += 6_000;
            let stopped = served.begin(now_ms);
            served.end(None, false);
            for _ in 0..5 {
                served.end(Some(stopped + 100), false);
                now_ms += 50;
                served.begin(now_ms);
            }
        }
        assert!(served.begin(now_ms) <= 100 * 5 * 50);
    }

    #[test]
    fn catching_up_lasts_no_longer_than_the_pause() {
        let mut served = Served::new(0);
        served.begin(5_000);
        served.end(None, true);
        let times: Vec<u64> = (1..=60)
            .map(|turn| {
                let served_ms = served.begin(5_000 + turn * 100);
                served.end(None, true);
                served_ms
            })
            .collect();
        assert_eq!(times[..49], [0; 49]);
        assert_eq!(times[59], 1_100, "then all time counts");
    }
}
