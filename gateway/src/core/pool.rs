//! Which blocks of the driver's memory are in use, and by how many holders.
//!
//! A block has one holder when allocated; whoever shares it retains it, and the last release
//! frees it. Free blocks are reused last-in first-out, so that resident memory follows the
//! high-water mark of what is in use at once.

use crate::{
    core::config::CoreConfig,
    op::{Block, PoolSpec},
};

/// The classes of blocks, in the order of [`specs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// What clients send is received here, then parsed and copied on at once.
    Rx = 0,
    /// Backlog of slow clients.
    Outbox = 1,
    /// Incomplete frames of clients.
    Spill = 2,
    /// What workers send is received here, and sent to clients from here.
    LinkRx = 3,
    /// What goes to workers, retained until acknowledged.
    LinkTx = 4,
    /// Payloads of broadcasts, shared by all receivers.
    Fanout = 5,
}

const CLASSES: [Class; 6] =
    [Class::Rx, Class::Outbox, Class::Spill, Class::LinkRx, Class::LinkTx, Class::Fanout];

/// The pools that a core with this configuration needs from its driver.
pub fn specs(config: &CoreConfig) -> Vec<PoolSpec> {
    let links = (config.workers.len() + CoreConfig::WORKERS_SPARE) as u64;
    let count = |bytes: u64, block: u32| {
        u32::try_from(bytes.div_ceil(u64::from(block))).unwrap_or(Block::INDEX_MAX).min(Block::INDEX_MAX)
    };
    let frame = config.link_payload_bytes_max() + 16;
    let link_rx_bytes = (2 * frame).max(256 * 1024).next_multiple_of(4096);
    // What links retain is bounded by their windows, plus what may come on top of a full window:
    // frames of receive buffers already filled (an empty MESSAGE grows from 4 to 20 bytes), OPEN
    // or REOPEN and CLOSED of every slot, and another link's frames after a failover.
    let tx_bytes = 2 * links * u64::from(config.link_window_bytes)
        + 6 * u64::from(config.rx_blocks * CoreConfig::RX_BLOCK_BYTES)
        + 64 * u64::from(config.slots_max)
        + 2 * links * u64::from(frame);
    CLASSES
        .iter()
        .map(|class| match class {
            Class::Rx => PoolSpec { block_bytes: CoreConfig::RX_BLOCK_BYTES, blocks: config.rx_blocks },
            Class::Outbox => PoolSpec {
                block_bytes: CoreConfig::CHUNK_BYTES,
                blocks: count(config.outbox_bytes_total, CoreConfig::CHUNK_BYTES),
            },
            Class::Spill => PoolSpec {
                block_bytes: CoreConfig::CHUNK_BYTES,
                blocks: count(config.spill_bytes_total, CoreConfig::CHUNK_BYTES),
            },
            Class::LinkRx => PoolSpec { block_bytes: link_rx_bytes, blocks: (links * 4) as u32 },
            Class::LinkTx => PoolSpec {
                block_bytes: CoreConfig::LINK_TX_BLOCK_BYTES,
                blocks: count(tx_bytes, CoreConfig::LINK_TX_BLOCK_BYTES) + 2 * links as u32,
            },
            Class::Fanout => PoolSpec {
                block_bytes: (config.frame_bytes_max + 4).next_multiple_of(4096),
                blocks: config.bounds.fanout_blocks,
            },
        })
        .collect()
}

#[derive(Debug)]
struct Pool {
    spec: PoolSpec,
    free: Vec<u32>,
    /// Holders of every block ever used.
    holders: Vec<u32>,
}

/// All pools of a shard.
#[derive(Debug)]
pub(crate) struct Pools {
    pools: [Pool; CLASSES.len()],
}

impl Pools {
    pub(crate) fn new(config: &CoreConfig) -> Self {
        let mut specs = specs(config).into_iter();
        Self {
            pools: CLASSES.map(|_| Pool {
                spec: specs.next().expect("one specification a class"),
                free: Vec::new(),
                holders: Vec::new(),
            }),
        }
    }

    /// A free block with one holder; none when the pool is exhausted.
    pub(crate) fn alloc(&mut self, class: Class) -> Option<Block> {
        let pool = &mut self.pools[class as usize];
        let index = match pool.free.pop() {
            Some(index) => index,
            None if pool.holders.len() < pool.spec.blocks as usize => {
                pool.holders.push(0);
                pool.holders.len() as u32 - 1
            }
            None => return None,
        };
        let holders = &mut pool.holders[index as usize];
        assert_eq!(*holders, 0, "invariant buffer-in-one-place: a free block has no holder");
        *holders = 1;
        Some(Block::new(class as u8, index))
    }

    /// Adds a holder.
    pub(crate) fn retain(&mut self, block: Block) {
        let holders = &mut self.pools[block.class()].holders[block.index() as usize];
        assert!(*holders > 0, "invariant buffer-in-one-place: only a held block is shared");
        *holders += 1;
    }

    /// Takes a holder away; the last one frees the block. Returns whether it was the last.
    pub(crate) fn release(&mut self, block: Block) -> bool {
        let pool = &mut self.pools[block.class()];
        let holders = &mut pool.holders[block.index() as usize];
        *holders =
            holders.checked_sub(1).expect("invariant buffer-in-one-place: a block is released once a holder");
        let last = *holders == 0;
        if last {
            pool.free.push(block.index());
        }
        last
    }

    pub(crate) fn holders(&self, block: Block) -> u32 {
        self.pools[block.class()].holders[block.index() as usize]
    }

    pub(crate) fn block_bytes(&self, class: Class) -> u32 {
        self.pools[class as usize].spec.block_bytes
    }

    /// Blocks that an [`Self::alloc`] could still give.
    pub(crate) fn available(&self, class: Class) -> u32 {
        let pool = &self.pools[class as usize];
        pool.spec.blocks - pool.holders.len() as u32 + pool.free.len() as u32
    }

    /// Blocks with a holder.
    pub(crate) fn in_use(&self, class: Class) -> u32 {
        self.pools[class as usize].spec.blocks - self.available(class)
    }
}
