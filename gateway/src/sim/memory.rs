//! The blocks, with the same rules as the ring driver's and fewer mercies.
//!
//! Like the real memory it asks [`BlockUsers`], and panics when a block is touched that the kernel is
//! using. Beyond that
//! it checks that a write overlaps no send in flight, fills what a receive did not write with
//! poison, and can poison blocks that nobody holds, so that whoever reads a block too late sends
//! bytes that no client or worker ever wrote.

use std::collections::BTreeMap;

use crate::op::{Block, BlockUsers, Misuse, PoolSpec};

/// What stands where nobody should read.
const POISON: u8 = 0xdb;

/// All blocks of one fake driver; memory exists for those that have been touched.
#[derive(Debug)]
pub struct Memory {
    classes: Vec<Class>,
    users: BlockUsers,
}

#[derive(Debug)]
struct Class {
    spec: PoolSpec,
    blocks: BTreeMap<u32, Bytes>,
}

#[derive(Debug)]
struct Bytes {
    bytes: Box<[u8]>,
    /// Ranges of the sends in the kernel: offset and length.
    sending: Vec<(u32, u32)>,
}

/// What the core may do with a block; the rules are those of every driver.
#[track_caller]
fn demand(result: Result<(), Misuse>) {
    if let Err(misuse) = result {
        panic!("invariant buffer-in-one-place: {misuse}");
    }
}

impl Memory {
    /// Memory of these classes.
    pub fn new(specs: &[PoolSpec]) -> Self {
        let class = |spec: &PoolSpec| Class { spec: *spec, blocks: BTreeMap::new() };
        Self { classes: specs.iter().map(class).collect(), users: BlockUsers::new(specs) }
    }

    fn entry(&mut self, block: Block) -> &mut Bytes {
        let class = &mut self.classes[block.class()];
        assert!(block.index() < class.spec.blocks, "{block:?} does not exist");
        class.blocks.entry(block.index()).or_insert_with(|| Bytes {
            bytes: vec![POISON; class.spec.block_bytes as usize].into(),
            sending: Vec::new(),
        })
    }

    pub(super) fn start_receive(&mut self, block: Block, offset: u32, len: u32) {
        demand(self.users.start_receive(block, offset, len));
        self.entry(block).bytes[offset as usize..][..len as usize].fill(POISON);
    }

    pub(super) fn start_send(&mut self, block: Block, offset: u32, len: u32) {
        demand(self.users.start_send(block, offset, len));
        self.entry(block).sending.push((offset, len));
    }

    /// The kernel writes what a receive got.
    pub(super) fn received(&mut self, block: Block, offset: u32, bytes: &[u8]) {
        assert!(
            self.users.is_receiving(block),
            "invariant buffer-in-one-place: the kernel writes only where a receive is armed"
        );
        self.entry(block).bytes[offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    /// The kernel reads what a send gives.
    pub(super) fn sending(&mut self, block: Block, offset: u32, len: u32) -> &[u8] {
        &self.entry(block).bytes[offset as usize..][..len as usize]
    }

    pub(super) fn end_receive(&mut self, block: Block) {
        assert!(self.users.is_receiving(block), "a receive ends once");
        demand(self.users.end(block));
    }

    pub(super) fn end_send(&mut self, block: Block, offset: u32, len: u32) {
        let entry = self.entry(block);
        let index = entry.sending.iter().position(|&range| range == (offset, len)).expect("a send ends once");
        entry.sending.swap_remove(index);
        demand(self.users.end(block));
    }

    pub(super) fn bytes(&self, block: Block) -> &[u8] {
        demand(self.users.check_read(block));
        let blocks = &self.classes[block.class()].blocks;
        &blocks.get(&block.index()).expect("a block is written before it is read").bytes
    }

    pub(super) fn bytes_mut(&mut self, block: Block) -> &mut [u8] {
        demand(self.users.check_write(block));
        &mut self.entry(block).bytes
    }

    pub(super) fn write(&mut self, block: Block, offset: u32, bytes: &[u8]) {
        let len = u32::try_from(bytes.len()).expect("a write within a block");
        demand(self.users.check_write_part(block, offset, len));
        let entry = self.entry(block);
        let overlaps = |&(from, many): &(u32, u32)| offset < from + many && from < offset + len;
        assert!(
            !entry.sending.iter().any(overlaps),
            "invariant buffer-in-one-place: written while the kernel is sending those bytes"
        );
        entry.bytes[offset as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    /// Poisons blocks that nobody holds. Panics if the kernel is using one.
    pub fn poison(&mut self, free: &[Block]) {
        for &block in free {
            assert!(
                !self.users.is_used(block),
                "invariant buffer-in-one-place: {block:?} is free and in the kernel"
            );
            let entry = self.entry(block);
            // The first bytes are enough to be noticed, and cheap after every turn.
            let front = entry.bytes.len().min(64);
            entry.bytes[..front].fill(POISON);
        }
    }

    /// Every block that was ever used.
    pub fn touched(&self) -> Vec<Block> {
        let class = |(class, blocks): (usize, &Class)| -> Vec<Block> {
            blocks.blocks.keys().map(|&index| Block::new(class as u8, index)).collect()
        };
        self.classes.iter().enumerate().flat_map(class).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: Block = Block::new(0, 1);

    fn memory() -> Memory {
        Memory::new(&[PoolSpec { block_bytes: 64, blocks: 2 }])
    }

    #[test]
    fn what_a_receive_did_not_write_is_poison() {
        let mut memory = memory();
        memory.bytes_mut(BLOCK).fill(1);
        memory.start_receive(BLOCK, 8, 8);
        memory.received(BLOCK, 8, b"abc");
        memory.end_receive(BLOCK);
        assert_eq!(memory.bytes(BLOCK)[7..17], [1, b'a', b'b', b'c', 0xdb, 0xdb, 0xdb, 0xdb, 0xdb, 1]);
    }

    #[test]
    #[should_panic(expected = "written while the kernel is sending those bytes")]
    fn bytes_in_flight_are_not_written() {
        let mut memory = memory();
        memory.start_send(BLOCK, 0, 10);
        memory.write(BLOCK, 10, b"behind is fine");
        memory.write(BLOCK, 9, b"x");
    }

    #[test]
    #[should_panic(expected = "a receive into a block that the kernel is using")]
    fn a_receive_shares_a_block_with_nobody() {
        let mut memory = memory();
        memory.start_send(BLOCK, 0, 1);
        memory.start_receive(BLOCK, 32, 1);
    }

    #[test]
    #[should_panic(expected = "is free and in the kernel")]
    fn a_free_block_is_not_in_the_kernel() {
        let mut memory = memory();
        memory.start_send(BLOCK, 0, 1);
        memory.poison(&[BLOCK]);
    }
}
