//! What is to happen when: timers and ticks, in milliseconds of the worker's clock.

use std::collections::BTreeMap;

/// Names a timer of this worker; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerId {
    due_ms: u64,
    serial: u64,
}

/// As many timers are set as [`timers_max`](crate::WorkerConfig::timers_max) allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("as many timers are set as may be")]
pub struct TimersFull;

/// The timers that are set, and the time as the worker was told it last.
#[derive(Debug)]
pub(crate) struct Timers {
    now_ms: u64,
    /// The token of each, by when it is due, then by when it was set.
    tokens: BTreeMap<TimerId, u64>,
    next_serial: u64,
    timers_max: usize,
    /// How often a tick is due, and when the next one is.
    tick: Option<(u64, u64)>,
}

impl Timers {
    /// No timers; ticks every `tick_ms`, where that is not 0.
    pub(super) fn new(timers_max: usize, tick_ms: u64) -> Self {
        let tick = (tick_ms > 0).then_some((tick_ms, tick_ms));
        Self { now_ms: 0, tokens: BTreeMap::new(), next_serial: 0, timers_max, tick }
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Time goes on, and never back.
    #[inline]
    pub(super) fn time_is(&mut self, now_ms: u64) {
        self.now_ms = self.now_ms.max(now_ms);
    }

    /// How many are set.
    pub(super) fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Sets a timer. It is never due at once: who sets one in each call of one makes time go on.
    pub(super) fn set(&mut self, delay_ms: u64, token: u64) -> Result<TimerId, TimersFull> {
        if self.tokens.len() >= self.timers_max {
            return Err(TimersFull);
        }
        let id = TimerId { due_ms: self.now_ms.saturating_add(delay_ms.max(1)), serial: self.next_serial };
        self.next_serial += 1;
        self.tokens.insert(id, token);
        Ok(id)
    }

    /// Takes a timer back. False: it is not set any more.
    pub(super) fn cancel(&mut self, id: TimerId) -> bool {
        self.tokens.remove(&id).is_some()
    }

    /// Takes the timer that is due first, if one is, and gives its token.
    pub(super) fn take_due(&mut self) -> Option<u64> {
        let first = self.tokens.first_entry().filter(|first| first.key().due_ms <= self.now_ms)?;
        Some(first.remove())
    }

    /// Whether a tick is due; the next one is due a whole interval later, however late this one is.
    pub(super) fn take_tick(&mut self) -> bool {
        let Some((interval_ms, due_ms)) = &mut self.tick else { return false };
        let is_due = *due_ms <= self.now_ms;
        if is_due {
            *due_ms = self.now_ms.saturating_add(*interval_ms);
        }
        is_due
    }

    /// When the next timer or tick is due.
    pub(super) fn next_due_ms(&self) -> Option<u64> {
        let timer = self.tokens.first_key_value().map(|(id, _)| id.due_ms);
        let tick = self.tick.map(|(_, due_ms)| due_ms);
        timer.into_iter().chain(tick).min()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn timers_are_due_in_order_and_once(
            steps in prop::collection::vec((0..4u8, 0..50u64), 0..200),
        ) {
            let mut timers = Timers::new(20, 0);
            let mut model: Vec<(u64, u64, TimerId)> = Vec::new();
            let mut now_ms = 0;
            for (token, (step, value)) in (0u64..).zip(steps) {
                match step {
                    0 | 1 => match timers.set(value, token) {
                        Err(TimersFull) => prop_assert_eq!(model.len(), 20),
                        Ok(id) => model.push((now_ms + value.max(1), token, id)),
                    },
                    2 => {
                        if let Some(&(_, _, id)) = model.get(value as usize) {
                            prop_assert!(timers.cancel(id) && !timers.cancel(id));
                            model.remove(value as usize);
                        }
                    }
                    _ => {
                        now_ms += value;
                        timers.time_is(now_ms);
                        timers.time_is(now_ms / 2);
                        model.sort_by_key(|entry| entry.0);
                        while let Some(token) = timers.take_due() {
                            prop_assert!(model[0].0 <= now_ms);
                            prop_assert_eq!(token, model.remove(0).1);
                        }
                        prop_assert!(model.iter().all(|entry| entry.0 > now_ms));
                    }
                }
                prop_assert_eq!(timers.len(), model.len());
                prop_assert_eq!(timers.next_due_ms(), model.iter().map(|entry| entry.0).min());
            }
        }
    }

    #[test]
    fn ticks_that_are_missed_are_left_out() {
        let mut timers = Timers::new(0, 100);
        assert_eq!(timers.next_due_ms(), Some(100));
        timers.time_is(99);
        assert!(!timers.take_tick());
        timers.time_is(1_050);
        assert!(timers.take_tick() && !timers.take_tick());
        assert_eq!(timers.next_due_ms(), Some(1_150));
        assert_eq!(timers.set(1, 1), Err(TimersFull));
        let mut none = Timers::new(1, 0);
        none.time_is(u64::MAX);
        assert!(!none.take_tick() && none.next_due_ms().is_none());
        assert!(none.set(u64::MAX, 1).is_ok(), "no time is too far away");
    }
}
