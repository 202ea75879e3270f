//! When things are due: fixed in advance, whatever the other side does (open loop).
//!
//! Times are nanoseconds since the run's start.

/// Nanoseconds of a second.
pub const NS_PER_S: u64 = 1_000_000_000;

/// A number of equal steps at a constant rate: step k is due at `start + k / rate`.
#[derive(Clone, Copy, Debug)]
pub struct Pacer {
    start_ns: u64,
    per_second: f64,
    steps: u64,
    done: u64,
}

impl Pacer {
    /// `steps` steps from `start_ns` on. A rate of 0 or less: nothing is ever due.
    pub const fn new(start_ns: u64, per_second: f64, steps: u64) -> Self {
        Self { start_ns, per_second, steps: if per_second > 0.0 { steps } else { 0 }, done: 0 }
    }

    /// A pacer with nothing to do.
    pub const fn idle() -> Self {
        Self::new(0, 1.0, 0)
    }

    /// When the next step is due; none when all are done.
    pub fn next_due_ns(&self) -> Option<u64> {
        (self.done < self.steps)
            .then(|| self.start_ns + whole(self.done as f64 / self.per_second * NS_PER_S as f64))
    }

    /// Takes the next step if it is due: its number and when it was due.
    pub fn take(&mut self, now_ns: u64) -> Option<(u64, u64)> {
        let due_ns = self.next_due_ns().filter(|&due_ns| due_ns <= now_ns)?;
        self.done += 1;
        Some((self.done - 1, due_ns))
    }

    /// Steps not taken yet.
    pub const fn remaining(&self) -> u64 {
        self.steps - self.done
    }
}

/// A number without its fraction; below 0 counts as 0.
#[expect(clippy::cast_sign_loss, reason = "the cast saturates at 0")]
pub const fn whole(value: f64) -> u64 {
    value as u64
}

/// Heartbeats spread evenly: each client once per interval, at its own place within it.
#[derive(Clone, Copy, Debug)]
pub struct Heartbeat {
    interval_ns: u64,
    clients: u32,
    /// Beats taken in all; beat k belongs to client `k % clients` in round `k / clients`.
    beats: u64,
}

impl Heartbeat {
    /// Heartbeats of `clients` clients; an interval of 0 means none.
    pub const fn new(interval_ns: u64, clients: u32) -> Self {
        Self { interval_ns, clients, beats: 0 }
    }

    /// When the next beat is due.
    pub fn next_due_ns(&self) -> Option<u64> {
        if self.interval_ns == 0 || self.clients == 0 {
            return None;
        }
        let clients = u64::from(self.clients);
        let within = u128::from(self.beats % clients) * u128::from(self.interval_ns) / u128::from(clients);
        Some(self.beats / clients * self.interval_ns + within as u64)
    }

    /// Takes the next beat if it is due.
    pub fn take(&mut self, now_ns: u64) -> Option<Beat> {
        let due_ns = self.next_due_ns().filter(|&due_ns| due_ns <= now_ns)?;
        let (beat, clients) = (self.beats, u64::from(self.clients));
        self.beats += 1;
        Some(Beat { client: (beat % clients) as u32, round: (beat / clients) as u32, due_ns })
    }
}

/// A heartbeat that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beat {
    /// Whose.
    pub client: u32,
    /// Which of the client's, from 0.
    pub round: u32,
    /// When it was due.
    pub due_ns: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_keep_their_times_even_when_taken_late() {
        let mut pacer = Pacer::new(100, 1e9, 3);
        assert_eq!(pacer.take(99), None);
        assert_eq!(pacer.take(100), Some((0, 100)));
        assert_eq!(pacer.take(100), None);
        assert_eq!(pacer.take(500), Some((1, 101)));
        assert_eq!(pacer.take(500), Some((2, 102)));
        assert_eq!((pacer.take(500), pacer.next_due_ns(), pacer.remaining()), (None, None, 0));
        assert_eq!(Pacer::new(0, 0.0, 9).take(u64::MAX), None);
    }

    #[test]
    fn every_client_beats_once_per_interval() {
        let mut heartbeat = Heartbeat::new(1000, 4);
        let mut beats = Vec::new();
        for now_ns in 0..2000 {
            while let Some(beat) = heartbeat.take(now_ns) {
                assert_eq!(beat.due_ns, now_ns);
                beats.push(beat);
            }
        }
        let expected: Vec<_> = (0..8)
            .map(|beat| Beat { client: beat % 4, round: beat / 4, due_ns: u64::from(beat) * 250 })
            .collect();
        assert_eq!(beats, expected);
        assert_eq!(Heartbeat::new(0, 4).take(u64::MAX), None);
    }
}
