//! The smallest world that a shard's core can live in: memory, and a list of what it asked for.

use roost_gateway::op::{Block, Io, Op, PoolSpec, Token};

/// Memory, and the ops that nobody has looked at yet.
pub(crate) struct World {
    specs: Vec<PoolSpec>,
    /// One piece of zeroed memory a class: untouched pages cost nothing.
    memory: Vec<Vec<u8>>,
    pub(crate) ops: Vec<(Token, Op)>,
}

impl World {
    pub(crate) fn new(specs: Vec<PoolSpec>) -> Self {
        let bytes = |spec: &PoolSpec| spec.block_bytes as usize * spec.blocks as usize;
        let memory = specs.iter().map(|spec| vec![0; bytes(spec)]).collect();
        Self { specs, memory, ops: Vec::with_capacity(65_536) }
    }

    fn start(&self, block: Block) -> usize {
        self.specs[block.class()].block_bytes as usize * block.index() as usize
    }

    /// Part of a block.
    pub(crate) fn bytes(&self, block: Block, offset: u32, len: u32) -> &[u8] {
        &self.memory[block.class()][self.start(block) + offset as usize..][..len as usize]
    }
}

impl Io for World {
    fn submit(&mut self, token: Token, op: Op) {
        self.ops.push((token, op));
    }

    fn block(&self, block: Block) -> &[u8] {
        self.bytes(block, 0, self.specs[block.class()].block_bytes)
    }

    fn block_mut(&mut self, block: Block) -> &mut [u8] {
        let start = self.start(block);
        &mut self.memory[block.class()][start..][..self.specs[block.class()].block_bytes as usize]
    }

    fn write(&mut self, block: Block, offset: u32, bytes: &[u8]) {
        self.block_mut(block)[offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    fn copy(&mut self, from: Block, from_offset: u32, len: u32, to: Block, to_offset: u32) {
        let (source, target) = (self.start(from) + from_offset as usize, self.start(to) + to_offset as usize);
        let len = len as usize;
        if from.class() == to.class() {
            self.memory[from.class()].copy_within(source..source + len, target);
        } else if let Ok([from, to]) = self.memory.get_disjoint_mut([from.class(), to.class()]) {
            to[target..][..len].copy_from_slice(&from[source..][..len]);
        }
    }
}
