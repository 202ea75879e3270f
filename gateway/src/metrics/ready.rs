//! Whether clients should be sent here: what `/readyz` and `roost_ready` say.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use crate::core::stats::{ShardStats, Stat};

/// The state behind `/readyz`.
#[derive(Debug)]
pub struct Readiness {
    accepting: AtomicBool,
    shards: Vec<Arc<ShardStats>>,
}

impl Readiness {
    /// Ready as soon as every shard has a worker.
    pub fn new(shards: Vec<Arc<ShardStats>>) -> Self {
        Self { accepting: AtomicBool::new(true), shards }
    }

    /// Says whether new clients are taken at all.
    pub fn set_accepting(&self, accepting: bool) {
        self.accepting.store(accepting, Relaxed);
    }

    /// Why no clients should be sent here; none: they should.
    pub fn obstacle(&self) -> Option<String> {
        if !self.accepting.load(Relaxed) {
            return Some("draining".to_owned());
        }
        let lonely = self.shards.iter().position(|shard| shard.get(Stat::LinksUp) == 0)?;
        Some(format!("shard {lonely} has no worker"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::Readiness;
    use crate::core::stats::{ShardStats, Stat};

    #[test]
    fn ready_needs_a_worker_on_every_shard_and_no_drain() {
        let shards = [Arc::new(ShardStats::default()), Arc::new(ShardStats::default())];
        let readiness = Readiness::new(shards.to_vec());
        shards[0].set(Stat::LinksUp, 1);
        assert_eq!(readiness.obstacle().unwrap(), "shard 1 has no worker");
        shards[1].set(Stat::LinksUp, 2);
        assert_eq!(readiness.obstacle(), None);
        readiness.set_accepting(false);
        assert_eq!(readiness.obstacle().unwrap(), "draining");
    }
}
