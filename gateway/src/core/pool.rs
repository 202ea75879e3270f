//! Which blocks of the driver's memory are in use, and by how many holders.
//!
//! A block has one holder when allocated; whoever shares it retains it, and the last release
//! frees it. Free blocks are reused last-in first-out, so that resident memory follows the
//! high-water mark of what is in use at once.

use roost_protocol::{edge, link};

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

/// The most links that pools are mapped for: a reload may name so many workers.
const LINKS_MAX: usize = crate::core::stats::LINKS_MAX;

/// The pools that a core with this configuration needs from its driver: mapped for the most links
/// that there can be, since memory is only used where it is touched. [`Pools`] keeps to what the
/// links that there are allow.
pub fn specs(config: &CoreConfig) -> Vec<PoolSpec> {
    specs_for(config, LINKS_MAX.max(config.workers.len()))
}

/// What may be in use with so many links.
pub fn specs_for(config: &CoreConfig, links: usize) -> Vec<PoolSpec> {
    let spec =
        |&class| PoolSpec { block_bytes: block_bytes(config, class), blocks: blocks(config, class, links) };
    CLASSES.iter().map(spec).collect()
}

/// Bytes of a block.
fn block_bytes(config: &CoreConfig, class: Class) -> u32 {
    match class {
        Class::Rx => CoreConfig::RX_BLOCK_BYTES,
        Class::Outbox | Class::Spill => CoreConfig::CHUNK_BYTES,
        Class::LinkRx => (2 * link_frame_bytes(config)).max(256 * 1024).next_multiple_of(4096),
        Class::LinkTx => config.link_tx_block_bytes,
        Class::Fanout => (config.frame_bytes_max + 4).next_multiple_of(4096),
    }
}

/// Blocks of a class with so many links.
fn blocks(config: &CoreConfig, class: Class, links: usize) -> u32 {
    let count = |bytes: u64, block: u32| {
        u32::try_from(bytes.div_ceil(u64::from(block))).unwrap_or(Block::INDEX_MAX).min(Block::INDEX_MAX)
    };
    match class {
        Class::Rx => config.rx_blocks,
        Class::Outbox => count(config.outbox_bytes_total, CoreConfig::CHUNK_BYTES),
        Class::Spill => count(config.spill_bytes_total, CoreConfig::CHUNK_BYTES),
        Class::LinkRx => (links * 4) as u32,
        Class::LinkTx => {
            // Each link's own, a block for what it sends outside its session, and what all share.
            let own = links as u64 * (u64::from(link_tx_own_blocks(config)) + 1);
            let all = own + u64::from(link_tx_shared_blocks(config, links).hard);
            u32::try_from(all).unwrap_or(Block::INDEX_MAX).min(Block::INDEX_MAX)
        }
        Class::Fanout => config.bounds.fanout_blocks,
    }
}

/// The longest link frame.
fn link_frame_bytes(config: &CoreConfig) -> u32 {
    config.link_payload_bytes_max() + 16
}

/// The longest of the frames that wait for a window: DATA and OPEN.
fn waiting_frame_bytes(config: &CoreConfig) -> u32 {
    let data = config.frame_bytes_max + edge::HEADER_BYTES as u32;
    // No listener has meta for OPEN yet.
    data.max(link::Open::PLAIN_BYTES_MAX as u32) + link::HEADER_BYTES as u32
}

/// Blocks that a link's queue is sure of: a window, a frame that was begun with the window all but
/// full, and a first and a last block used in part.
pub(crate) fn link_tx_own_blocks(config: &CoreConfig) -> u32 {
    let bytes = u64::from(config.link_window_bytes) + u64::from(waiting_frame_bytes(config));
    u32::try_from(bytes.div_ceil(config.link_tx_block_bytes.into())).unwrap_or(Block::INDEX_MAX / 2) + 2
}

/// What link queues may have beyond their own, together.
#[derive(Clone, Copy, Debug, Default)]
struct Shared {
    /// Beyond this the link with the most is given up.
    soft: u32,
    /// Beyond this whoever asks is.
    hard: u32,
}

/// What cannot wait for room in a window: OPEN or REOPEN, CLOSED, and CLOSED for a move, of every
/// slot; and what a failed link had not had acknowledged, which goes to others.
fn link_tx_shared_blocks(config: &CoreConfig, links: usize) -> Shared {
    let window = u64::from(config.link_window_bytes) + u64::from(waiting_frame_bytes(config));
    let bytes = 64 * u64::from(config.slots_max) + links as u64 * window;
    let bytes = bytes * u64::from(config.link_shared_percent) / 100;
    let soft = bytes.div_ceil(config.link_tx_block_bytes.into());
    let clamp = |blocks: u64| u32::try_from(blocks).unwrap_or(Block::INDEX_MAX / 4);
    Shared { soft: clamp(soft), hard: clamp(soft + soft / 4) }
}

#[derive(Debug)]
struct Pool {
    block_bytes: u32,
    /// Blocks that may be in use; the driver has at least as many.
    limit: u32,
    free: Vec<u32>,
    /// Holders of every block ever used.
    holders: Vec<u32>,
}

/// All pools of a shard.
#[derive(Debug)]
pub(crate) struct Pools {
    pools: [Pool; CLASSES.len()],
    /// Links that the driver has blocks for.
    links_mapped: usize,
    link_tx_shared: Shared,
    /// Blocks that link queues have beyond their own.
    link_tx_beyond: u32,
}

impl Pools {
    pub(crate) fn new(config: &CoreConfig) -> Self {
        let pool = |class| Pool {
            block_bytes: block_bytes(config, class),
            limit: 0,
            free: Vec::new(),
            holders: Vec::new(),
        };
        let mut pools = Self {
            pools: CLASSES.map(pool),
            links_mapped: LINKS_MAX.max(config.workers.len()),
            link_tx_shared: Shared::default(),
            link_tx_beyond: 0,
        };
        for class in CLASSES {
            pools.pools[class as usize].limit = blocks(config, class, 0);
        }
        pools.allow(config, config.workers.len());
        pools
    }

    /// Sets what so many links may use. What is in use beyond stays until it is released.
    pub(crate) fn allow(&mut self, config: &CoreConfig, links: usize) {
        let links = links.min(self.links_mapped);
        for class in [Class::LinkRx, Class::LinkTx] {
            self.pools[class as usize].limit = blocks(config, class, links);
        }
        self.link_tx_shared = link_tx_shared_blocks(config, links);
    }

    /// Whether a link's queue that has `blocks` of which `own` are sure may have `more`.
    pub(crate) fn fits_link_tx(&self, own: u32, blocks: u32, more: u32) -> bool {
        let beyond = (blocks + more).saturating_sub(own.max(blocks));
        (beyond == 0 || self.link_tx_beyond + beyond <= self.link_tx_shared.hard)
            && self.available(Class::LinkTx) >= more
    }

    /// Counts blocks that a link's queue has taken beyond its own.
    pub(crate) fn take_beyond(&mut self, blocks: u32) {
        self.link_tx_beyond += blocks;
    }

    /// Counts such blocks as given back.
    pub(crate) fn give_beyond(&mut self, blocks: u32) {
        self.link_tx_beyond = self
            .link_tx_beyond
            .checked_sub(blocks)
            .expect("invariant admission: what links share is given back once");
    }

    /// Blocks that link queues have beyond their own.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn link_tx_beyond(&self) -> u32 {
        self.link_tx_beyond
    }

    /// Whether link queues have more beyond their own than they should share.
    pub(crate) fn link_tx_is_tight(&self) -> bool {
        self.link_tx_beyond > self.link_tx_shared.soft
    }

    /// A free block with one holder; none when the pool is exhausted.
    pub(crate) fn alloc(&mut self, class: Class) -> Option<Block> {
        let pool = &mut self.pools[class as usize];
        if pool.holders.len() - pool.free.len() >= pool.limit as usize {
            return None;
        }
        let index = match pool.free.pop() {
            Some(index) => index,
            None => {
                pool.holders.push(0);
                pool.holders.len() as u32 - 1
            }
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
        self.pools[class as usize].block_bytes
    }

    /// Blocks that an [`Self::alloc`] could still give.
    pub(crate) fn available(&self, class: Class) -> u32 {
        self.pools[class as usize].limit.saturating_sub(self.in_use(class))
    }

    /// Blocks with a holder.
    pub(crate) fn in_use(&self, class: Class) -> u32 {
        let pool = &self.pools[class as usize];
        (pool.holders.len() - pool.free.len()) as u32
    }
}
