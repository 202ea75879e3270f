//! Latency as people wait for it: from when a message was *meant* to be sent.
//!
//! A generator that waits for a slow server before it goes on sends nothing during the very
//! pauses that hurt; timing from the actual send then hides them (coordinated omission). So
//! three numbers are kept per reply: from the intended time (corrected), from the actual send
//! (uncorrected), and how late the send itself was (lag), which tells when the generator and not
//! the server was the limit.

use hdrhistogram::Histogram;

/// The longest latency that is told apart, in microseconds: an hour; longer ones count as that.
const MAX_US: u64 = 3_600_000_000;
/// Significant decimal digits.
const DIGITS: u8 = 3;

/// An empty histogram of microseconds.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_US, DIGITS).expect("bounds are sound")
}

/// The three histograms, in microseconds.
#[derive(Clone, Debug)]
pub struct Latency {
    /// Reply minus intended send.
    pub corrected: Histogram<u64>,
    /// Reply minus actual send.
    pub uncorrected: Histogram<u64>,
    /// Actual send minus intended send.
    pub send_lag: Histogram<u64>,
}

impl Default for Latency {
    fn default() -> Self {
        Self { corrected: histogram(), uncorrected: histogram(), send_lag: histogram() }
    }
}

impl Latency {
    /// Records one reply; times in nanoseconds of the same clock.
    pub fn record_reply(&mut self, intended_ns: u64, sent_ns: u64, received_ns: u64) {
        self.corrected.saturating_record(us(received_ns.saturating_sub(intended_ns)));
        self.uncorrected.saturating_record(us(received_ns.saturating_sub(sent_ns)));
    }

    /// Records one of the deliveries of a message to many; its actual send is not known to all.
    pub fn record_delivery(&mut self, intended_ns: u64, received_ns: u64) {
        self.corrected.saturating_record(us(received_ns.saturating_sub(intended_ns)));
    }

    /// Records one send.
    pub fn record_send(&mut self, intended_ns: u64, sent_ns: u64) {
        self.send_lag.saturating_record(us(sent_ns.saturating_sub(intended_ns)));
    }

    /// Adds another thread's.
    pub fn merge(&mut self, other: &Self) {
        for (into, from) in [
            (&mut self.corrected, &other.corrected),
            (&mut self.uncorrected, &other.uncorrected),
            (&mut self.send_lag, &other.send_lag),
        ] {
            into.add(from).expect("the bounds are the same");
        }
    }
}

/// Microseconds, rounded, at least 1 as the histograms' lowest value is.
const fn us(ns: u64) -> u64 {
    let us = (ns + 500) / 1000;
    if us == 0 { 1 } else { us }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_send_shows_in_corrected_and_lag_only() {
        let mut latency = Latency::default();
        latency.record_send(1_000_000, 6_000_000);
        latency.record_reply(1_000_000, 6_000_000, 6_200_000);
        assert_eq!(latency.send_lag.max() / 10, 500);
        assert_eq!(latency.corrected.max() / 10, 520);
        assert_eq!(latency.uncorrected.max(), 200);
    }

    #[test]
    fn two_threads_add_up() {
        let (mut a, mut b) = (Latency::default(), Latency::default());
        a.record_reply(0, 0, 100_000);
        b.record_reply(0, 0, 300_000_000_000);
        a.merge(&b);
        assert_eq!(a.corrected.len(), 2);
        assert!(a.corrected.max() >= 300_000_000);
    }
}
