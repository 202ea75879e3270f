//! Who is given up again and again is left alone for a while, and for longer each time.

/// Sessions given up in a row that cost no more than the ordinary pause between dials: a worker that
/// is restarted, and once more, is none that cannot serve.
const TOLERATED: u32 = 2;

/// How often in a row a worker's sessions were given up, and until when it is to be left alone.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hold {
    times: u32,
    until_ms: u64,
}

impl Hold {
    /// A session that lasted `lasted_ms` is given up. `(first, longest)` are the pauses: the first
    /// doubles with each further time up to the longest, and one that lasted as long as the longest
    /// begins a new count. Returns the pause if there is one.
    pub(crate) fn given_up(&mut self, now_ms: u64, lasted_ms: u64, pauses_ms: (u32, u32)) -> Option<u32> {
        let (first, longest) = pauses_ms;
        let again = lasted_ms < u64::from(longest);
        self.times = if again { self.times.saturating_add(1) } else { 1 };
        let beyond = self.times.checked_sub(TOLERATED + 1)?;
        let pause_ms = u64::from(first) << beyond.min(31);
        let pause_ms = pause_ms.min(u64::from(longest)) as u32;
        self.until_ms = now_ms + u64::from(pause_ms);
        Some(pause_ms)
    }

    /// Whether one more time would be followed by a pause.
    pub(crate) fn is_next_held(&self) -> bool {
        self.times >= TOLERATED
    }

    /// Sessions given up in a row.
    pub(crate) fn times(&self) -> u32 {
        self.times
    }

    /// When the pause ends; in the past if there is none.
    pub(crate) fn until_ms(&self) -> u64 {
        self.until_ms
    }
}

#[cfg(test)]
mod tests {
    use super::Hold;

    const PAUSES_MS: (u32, u32) = (1_000, 60_000);

    #[test]
    fn pauses_come_with_the_third_time_in_a_row_and_double() {
        let mut hold = Hold::default();
        let pauses: Vec<_> = (0..10).map(|_| hold.given_up(0, 10, PAUSES_MS).unwrap_or(0)).collect();
        assert_eq!(pauses, [0, 0, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
        for _ in 0..100 {
            assert_eq!(hold.given_up(5, 10, PAUSES_MS), Some(60_000));
        }
        assert_eq!(hold.until_ms(), 60_005);
    }

    #[test]
    fn a_session_that_lasted_begins_a_new_count() {
        let mut hold = Hold::default();
        for _ in 0..5 {
            hold.given_up(0, 10, PAUSES_MS);
        }
        assert_eq!(hold.given_up(0, 60_000, PAUSES_MS), None);
        assert_eq!((hold.times(), hold.is_next_held()), (1, false));
    }
}
