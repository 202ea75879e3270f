//! Loss on purpose, to show that TCP repairs it and that the report says so.

/// Drops a share of packets, the same ones for the same seed.
#[derive(Debug)]
pub(super) struct Loss {
    state: u64,
    /// Of 2^53; 0: none.
    threshold: u64,
    dropped: u64,
}

impl Loss {
    /// Drops `percent` of all packets, 0 to 100.
    pub(super) fn new(percent: f64, seed: u64) -> Self {
        assert!((0.0..=100.0).contains(&percent));
        // Not negative, as was just asserted, and exact: 2^53 has a place in an f64.
        #[expect(clippy::cast_sign_loss)]
        let threshold = (percent / 100.0 * (1u64 << 53) as f64) as u64;
        Self { state: seed | 1, threshold, dropped: 0 }
    }

    /// Whether the next packet is to be dropped.
    pub(super) fn strikes(&mut self) -> bool {
        if self.threshold == 0 {
            return false;
        }
        // xorshift64* (Vigna 2016).
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let strikes = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11 < self.threshold;
        self.dropped += u64::from(strikes);
        strikes
    }

    /// Packets dropped so far.
    pub(super) const fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_what_was_asked_for() {
        for (percent, expected) in
            [(0.0, 0..=0), (1.0, 850..=1_150), (50.0, 49_000..=51_000), (100.0, 100_000..=100_000)]
        {
            let mut loss = Loss::new(percent, 7);
            let strikes = (0..100_000).filter(|_| loss.strikes()).count();
            assert!(expected.contains(&strikes), "{strikes} of 100,000 at {percent}%");
            assert_eq!(loss.dropped(), strikes as u64);
        }
    }
}
