//! What every room of a shard works with: configuration, time, memory, figures, events, chance.

use std::sync::Arc;

use crate::core::{
    config::CoreConfig,
    event::Events,
    pool::Pools,
    stats::{ShardStats, Stat},
};

/// Fills a buffer with random bytes: from the system's generator, or a seed in the simulation.
pub type Entropy = Box<dyn FnMut(&mut [u8]) + Send>;

/// What records reckon time in, in milliseconds.
pub(crate) const TICK_MS: u64 = 1_000;

/// The one context of a shard. A room gets it by parameter, and keeps none of it.
pub(crate) struct Context {
    pub(crate) cfg: CoreConfig,
    pub(crate) stats: Arc<ShardStats>,
    /// Time of this turn, in milliseconds. It never goes back. Set by [`Self::set_now_ms`].
    pub(crate) now_ms: u64,
    /// The same in ticks: every event asks for it.
    tick: u16,
    pub(crate) pools: Pools,
    pub(crate) events: Events,
    entropy: Entropy,
}

impl Context {
    pub(crate) fn new(cfg: CoreConfig, stats: Arc<ShardStats>, entropy: Entropy) -> Self {
        stats.set(Stat::SlotsMax, u64::from(cfg.slots_max));
        Self { pools: Pools::new(&cfg), cfg, stats, now_ms: 0, tick: 0, events: Events::default(), entropy }
    }

    /// A turn begins at this time.
    pub(crate) fn set_now_ms(&mut self, now_ms: u64) {
        (self.now_ms, self.tick) = (now_ms, (now_ms / TICK_MS) as u16);
    }

    /// Time in ticks, as records hold it.
    #[inline]
    pub(crate) fn tick(&self) -> u16 {
        self.tick
    }

    /// Whole milliseconds since `tick`, rounded down to ticks.
    pub(crate) fn age_ms(&self, tick: u16) -> u32 {
        u32::from(self.tick().wrapping_sub(tick)) * TICK_MS as u32
    }

    /// Whether more than `limit_ms` have passed since `tick`. Ticks do not tell by how much less than
    /// another tick that is: nobody is judged too early.
    pub(crate) fn is_over(&self, tick: u16, limit_ms: u32) -> bool {
        u64::from(self.age_ms(tick)) >= u64::from(limit_ms) + TICK_MS
    }

    /// Fills `bytes` from the entropy source.
    pub(crate) fn fill_random(&mut self, bytes: &mut [u8]) {
        (self.entropy)(bytes);
    }

    /// A number below `bound`, from the entropy source.
    pub(crate) fn random_below(&mut self, bound: u32) -> u32 {
        let mut bytes = [0; 8];
        self.fill_random(&mut bytes);
        (u64::from_le_bytes(bytes) % u64::from(bound.max(1))) as u32
    }

    /// A retry-after from the configured range, in milliseconds.
    pub(crate) fn retry_after_ms(&mut self) -> u32 {
        let (from, to) = self.cfg.retry_after_ms;
        from + self.random_below(to.saturating_sub(from) + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_judged_before_a_time_out_is_over_or_two_ticks_after() {
        let mut ctx = Context::new(
            CoreConfig::lone(1, Vec::new()),
            Arc::new(ShardStats::default()),
            Box::new(|bytes| bytes.fill(0)),
        );
        for limit_ms in [0, 1, 500, 999, 1_000, 1_001, 1_500, 20_000] {
            for began_ms in (0..2_000).step_by(37) {
                ctx.set_now_ms(began_ms);
                let tick = ctx.tick();
                for passed_ms in (0..u64::from(limit_ms) + 3_000).step_by(53) {
                    ctx.set_now_ms(began_ms + passed_ms);
                    let over = ctx.is_over(tick, limit_ms);
                    let limit_ms = u64::from(limit_ms);
                    assert!(!over || passed_ms > limit_ms, "{passed_ms} of {limit_ms} ms");
                    assert!(over || passed_ms < limit_ms + 2 * TICK_MS, "{passed_ms} of {limit_ms} ms");
                }
            }
        }
    }
}
