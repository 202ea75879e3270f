//! What each shard gets of what is configured for the process.

use super::Config;
use crate::machine;

impl Config {
    /// Threads that own connections: as configured, or one per core that this process may use.
    pub fn shard_count(&self) -> u16 {
        self.shards.value().unwrap_or_else(|| machine::cores().min(256) as u16)
    }

    /// One shard's part of what all have together, rounded up.
    pub fn share(total: u64, shards: u16) -> u64 {
        total.div_ceil(u64::from(shards))
    }
}
