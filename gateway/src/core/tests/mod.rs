//! Property tests: the parts of the core against plain models. `PROPTEST_CASES` widens them.

mod accept;
mod admission;
mod bad_vectors;
mod churn;
mod dial;
mod failover;
mod fair;
mod handshake;
mod hellos;
mod moves;
mod outbox;
mod owners;
mod proxy;
mod rekeys;
mod relays;
mod rig;
mod spill;
mod stage;
mod sweep;
mod table;
mod tx;
mod workers;

use crate::{
    core::{
        CoreConfig,
        config::WorkerConfig,
        pool::{Class, Pools, specs},
        span::Span,
    },
    op::{Block, Io},
    sim::Hands,
};

/// A shard with one worker, and pools small enough to run out.
fn config() -> CoreConfig {
    let mut config = CoreConfig::lone(64, vec![WorkerConfig { name: "worker".into(), secret: None }]);
    config.frame_bytes_max = 8 * 1024;
    config.outbox_bytes_total = 16 * u64::from(CoreConfig::CHUNK_BYTES);
    config.spill_bytes_total = 16 * u64::from(CoreConfig::CHUNK_BYTES);
    config
}

fn memory() -> (Hands, Pools) {
    let config = config();
    (Hands::new(&specs(&config)), Pools::new(&config))
}

/// Distinct bytes, so that any mix-up shows.
fn pattern(salt: u64, len: usize) -> Vec<u8> {
    let byte = |at: u64| (at.wrapping_mul(0x9e37_79b9).wrapping_add(salt * 0x85eb_ca6b) >> 7) as u8;
    (0..len as u64).map(byte).collect()
}

/// A block of this class with `bytes` at an odd offset; the caller holds it.
fn filled(hands: &mut Hands, pools: &mut Pools, class: Class, bytes: &[u8]) -> Option<Span> {
    let block = pools.alloc(class)?;
    hands.write(block, 5, bytes);
    Some(Span { block, offset: 5, len: bytes.len() as u32 })
}

fn read(hands: &Hands, block: Block, offset: u32, len: u32) -> Vec<u8> {
    hands.block(block)[offset as usize..][..len as usize].to_vec()
}
