//! Randomness that a seed decides: SplitMix64, small enough to read and good enough for dice.

use roost_protocol::hash;

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The stream of a seed.
    pub const fn new(seed: u64) -> Self {
        // Neighbouring seeds must not give shifted copies of one stream.
        Self(hash::mix(seed ^ 0x726f_6f73_745f_7369))
    }

    /// An independent stream, so that more draws on one side do not change the other.
    pub fn fork(&mut self) -> Self {
        Self::new(self.draw())
    }

    /// 64 random bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        hash::mix(self.0)
    }

    /// Below `bound`, which must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "nothing is below 0");
        ((u128::from(self.draw()) * u128::from(bound)) >> 64) as u64
    }

    /// An index below `len`.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// Within `from..=to`.
    pub fn range(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    /// True `per_mille` times out of a thousand.
    pub fn chance(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.below(1000) < u64::from(per_mille)
    }

    /// One of `items`.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.index(items.len())]
    }

    /// From `from..=to`, small values as likely as large ones by order of magnitude.
    pub fn log_range(&mut self, from: u64, to: u64) -> u64 {
        let bits = |value: u64| u64::from(u64::BITS - value.leading_zeros());
        let width = self.range(bits(from), bits(to));
        let low = if width == 0 { 0 } else { 1 << (width - 1) };
        let high = if width == 0 { 0 } else { (1u64 << (width - 1)).wrapping_mul(2).wrapping_sub(1) };
        self.range(low.clamp(from, to), high.clamp(from, to))
    }

    /// Fills `bytes`.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            let word = self.draw().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Rng;

    #[test]
    fn a_seed_decides_the_stream_and_bounds_hold() {
        let (mut a, mut b) = (Rng::new(7), Rng::new(7));
        let mut other = Rng::new(8);
        let drawn: Vec<u64> = (0..100).map(|_| a.draw()).collect();
        assert!(drawn.iter().all(|&value| value == b.draw()));
        assert!(drawn.iter().any(|&value| value != other.draw()));
        for _ in 0..10_000 {
            assert!((3..=1000).contains(&a.log_range(3, 1000)));
            assert!((5..=6).contains(&a.range(5, 6)));
        }
        let hits = (0..100_000).filter(|_| a.chance(250)).count();
        assert!((24_000..26_000).contains(&hits), "{hits}");
    }
}
