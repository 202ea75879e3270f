//! What the simulation's shadow model may see of a core, and what it may not change.

pub use crate::core::{connection::SlotView, link::inspect::LinkView};
use crate::{
    core::{index::WorkerIndex, pool::Class, record::State, shard::ShardCore},
    op::{Block, Token},
};

impl ShardCore {
    /// Panics if an invariant does not hold, naming it. Walks the whole table.
    pub fn check_invariants(&self) {
        self.connections.check_invariants(&self.ctx);
        self.routing.check_invariants(&self.ctx, &self.connections);
    }

    /// The tokens of all ops that the core believes to be in the kernel.
    pub fn ops_in_kernel(&self) -> Vec<Token> {
        self.connections.ops_in_kernel().chain(self.routing.ops_in_kernel()).collect()
    }

    /// Every slot that was ever used.
    pub fn slot_views(&self) -> impl Iterator<Item = SlotView> {
        self.connections.views()
    }

    /// Every link.
    pub fn link_views(&self) -> impl Iterator<Item = LinkView> {
        self.routing.link_views(&self.ctx)
    }

    /// The worker that owns a partition, as connections are routed.
    pub fn owner(&self, partition: u16) -> Option<u8> {
        self.routing.owner(partition).map(WorkerIndex::get)
    }

    /// First and longest time for which a worker is held down.
    pub fn link_hold_ms(&self) -> (u32, u32) {
        self.ctx.cfg.link_hold_ms
    }

    /// Whether nobody in the core holds this block.
    pub fn is_free_block(&self, block: Block) -> bool {
        self.ctx.pools.holders(block) == 0
    }

    /// The time of the last turn, in milliseconds: what all deadlines are compared with.
    pub fn now_ms(&self) -> u64 {
        self.ctx.now_ms
    }

    /// How much a turn does.
    pub fn bounds(&self) -> &crate::core::bounds::Bounds {
        &self.ctx.cfg.bounds
    }

    /// Who waits for a receive buffer, first come first: slots, and the numbers of their places.
    pub fn buffer_waiters(&self) -> Vec<(u32, u64)> {
        self.connections.buffer_waiters()
    }

    /// Receive blocks whose frames wait for a later turn.
    pub fn blocks_postponed(&self) -> usize {
        self.connections.blocks_postponed()
    }

    /// Blocks in use, by class, in the order of the classes.
    pub fn blocks_in_use(&self) -> [u32; 6] {
        [Class::Rx, Class::Outbox, Class::Spill, Class::LinkRx, Class::LinkTx, Class::Fanout]
            .map(|class| self.ctx.pools.in_use(class))
    }

    /// Connections that are accepted and have not begun to end.
    pub fn connections_alive(&self) -> u32 {
        let alive = |view: &SlotView| matches!(view.state, State::Handshaking | State::Opening | State::Open);
        self.slot_views().filter(alive).count() as u32
    }

    /// Connections counted against the process's cap, if there is one.
    pub fn cap_held(&self) -> Option<u32> {
        self.ctx.cfg.cap.as_ref().map(|cap| cap.held())
    }

    /// Connections counted by address, if they are.
    pub fn per_ip_counted(&self) -> Option<u64> {
        self.ctx.cfg.per_ip.as_ref().map(|per_ip| per_ip.counted())
    }

    /// Connections that hold a cell of the per-address table.
    pub fn per_ip_holders(&self) -> u64 {
        self.connections.per_ip_holders()
    }

    /// Blocked connections that stand on no list from which they would ever be resumed.
    pub fn forgotten(&self) -> Vec<u32> {
        self.routing.forgotten(&self.connections)
    }
}
