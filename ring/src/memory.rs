//! The blocks: one lazily mapped region per class.

use std::{io, ptr::NonNull, slice};

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::op::{Block, BlockUsers, Misuse, PoolSpec};

/// Zeroed memory at an address that never changes, backed by pages only where touched.
pub(super) struct Region {
    base: NonNull<u8>,
    bytes: usize,
}

impl Region {
    /// Maps `bytes`, page-aligned.
    pub(super) fn map(bytes: usize) -> io::Result<Self> {
        // Zero is no valid length for mmap(2); an empty class still gets an address.
        let bytes = bytes.max(1);
        // SAFETY: a fresh private mapping at an address of the kernel's choice aliases nothing.
        let base = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )?
        };
        let base = NonNull::new(base.cast()).expect("the kernel maps nothing at address 0 by itself");
        Ok(Self { base, bytes })
    }

    /// The address of byte `offset`, good for `len` bytes. Panics if they do not lie within.
    pub(super) fn at(&self, offset: usize, len: usize) -> NonNull<u8> {
        assert!(len <= self.bytes && offset <= self.bytes - len);
        // SAFETY: the assertion keeps the result inside the one allocation behind `base`.
        unsafe { self.base.add(offset) }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` and nothing borrowed from `self` outlives it. That
        // the kernel no longer uses it is the business of `teardown`, which leaks it otherwise.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok());
    }
}

/// One class of blocks.
struct Class {
    spec: PoolSpec,
    region: Region,
}

/// How far apart blocks of this size begin.
///
/// What blocks hold is mostly at their beginning, and at a distance of a power of two all those
/// beginnings would compete for the same few lines of a cache. One line more spreads them over all.
fn stride(block_bytes: u32) -> usize {
    const CACHE_LINE_BYTES: usize = 64;
    block_bytes as usize + CACHE_LINE_BYTES
}

/// All blocks of one driver.
///
/// `users` tracks which op in the kernel has which block, and every access asks it first. That check
/// is what makes the references handed out here sound.
pub(super) struct Memory {
    classes: Vec<Class>,
    users: BlockUsers,
}

/// What the core may do with a block. Panics if it may not: blocks are the core's own, and no input
/// names one.
#[inline]
#[track_caller]
fn demand(result: Result<(), Misuse>) {
    if let Err(misuse) = result {
        panic!("a block is misused: {misuse}");
    }
}

impl Memory {
    pub(super) fn new(specs: &[PoolSpec]) -> io::Result<Self> {
        let class = |spec: &PoolSpec| {
            let region = Region::map(stride(spec.block_bytes) * spec.blocks as usize)?;
            Ok(Class { spec: *spec, region })
        };
        let users = BlockUsers::new(specs);
        Ok(Self { classes: specs.iter().map(class).collect::<io::Result<_>>()?, users })
    }

    /// Gives part of a block to the kernel to write to. Panics if the block is in use.
    pub(super) fn start_receive(&mut self, block: Block, offset: u32, len: u32) -> *mut u8 {
        demand(self.users.start_receive(block, offset, len));
        self.classes[block.class()].range(block, offset, len).as_ptr()
    }

    /// Lets the kernel read part of a block. Panics if it is receiving into it.
    pub(super) fn start_send(&mut self, block: Block, offset: u32, len: u32) -> *const u8 {
        demand(self.users.start_send(block, offset, len));
        self.classes[block.class()].range(block, offset, len).as_ptr()
    }

    /// A receive or send from the block has completed.
    pub(super) fn end(&mut self, block: Block) {
        demand(self.users.end(block));
    }

    pub(super) fn bytes(&self, block: Block) -> &[u8] {
        demand(self.users.check_read(block));
        let class = &self.classes[block.class()];
        let base = class.range(block, 0, class.spec.block_bytes);
        // SAFETY: in bounds by `range`, zero-initialised by the mapping. Nobody writes while the
        // reference lives: no receive is in the kernel, and starting one or writing needs
        // `&mut self`. The kernel may read as well, which is fine.
        unsafe { slice::from_raw_parts(base.as_ptr(), class.spec.block_bytes as usize) }
    }

    pub(super) fn bytes_mut(&mut self, block: Block) -> &mut [u8] {
        demand(self.users.check_write(block));
        let class = &mut self.classes[block.class()];
        let base = class.range(block, 0, class.spec.block_bytes);
        // SAFETY: in bounds by `range`, initialised. Nothing of the block is in the kernel, and
        // `&mut self` excludes every other reference of ours.
        unsafe { slice::from_raw_parts_mut(base.as_ptr(), class.spec.block_bytes as usize) }
    }

    pub(super) fn write(&mut self, block: Block, offset: u32, bytes: &[u8]) {
        let len = u32::try_from(bytes.len()).expect("a write within a block");
        demand(self.users.check_write_part(block, offset, len));
        let target = self.classes[block.class()].range(block, offset, len);
        // SAFETY: in bounds by `range`; `bytes` cannot overlap it, because `&mut self` excludes
        // references into blocks. The kernel may be sending other bytes of the block: raw copies
        // form no reference to those. Should the caller break its promise not to touch bytes in
        // flight, the kernel sends either value; that is a wrong message, not undefined behaviour,
        // since the kernel reads through its own mapping.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target.as_ptr(), bytes.len()) };
    }

    /// Copies between blocks, or within one; under the rules of [`Self::bytes`] for `from` and of
    /// [`Self::write`] for `to`.
    pub(super) fn copy(&mut self, from: Block, from_offset: u32, len: u32, to: Block, to_offset: u32) {
        demand(self.users.check_read_part(from, from_offset, len));
        demand(self.users.check_write_part(to, to_offset, len));
        let source = self.classes[from.class()].range(from, from_offset, len);
        let target = self.classes[to.class()].range(to, to_offset, len);
        // SAFETY: both in bounds by `range` and initialised by their mappings; the copy allows for
        // an overlap. `&mut self` excludes references into blocks, and no receive writes to either.
        // The kernel may be sending other bytes of `to`, as in `write`.
        unsafe { std::ptr::copy(source.as_ptr(), target.as_ptr(), len as usize) };
    }
}

impl Class {
    /// The address of part of a block that exists, which [`BlockUsers`] has checked; within the region in
    /// any case.
    fn range(&self, block: Block, offset: u32, len: u32) -> NonNull<u8> {
        let block_bytes = self.spec.block_bytes;
        debug_assert!(block.index() < self.spec.blocks && offset + len <= block_bytes);
        self.region.at(block.index() as usize * stride(block_bytes) + offset as usize, len as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: Block = Block::new(1, 3);

    fn memory() -> Memory {
        let specs = [PoolSpec { block_bytes: 64, blocks: 2 }, PoolSpec { block_bytes: 4096, blocks: 4 }];
        Memory::new(&specs).expect("a mapping")
    }

    #[test]
    fn blocks_are_apart_and_keep_their_bytes() {
        let mut memory = memory();
        memory.bytes_mut(Block::new(1, 2)).fill(1);
        memory.bytes_mut(BLOCK).fill(2);
        memory.write(Block::new(1, 2), 4095, &[9]);
        assert!(memory.bytes(BLOCK).iter().all(|byte| *byte == 2));
        assert_eq!(memory.bytes(Block::new(1, 2))[4094..], [1, 9]);
    }

    #[test]
    fn senders_share_a_block_with_readers_and_careful_writers() {
        let mut memory = memory();
        let first = memory.start_send(BLOCK, 0, 10);
        let second = memory.start_send(BLOCK, 10, 10);
        assert_eq!(second, first.wrapping_add(10));
        memory.write(BLOCK, 20, b"tail");
        assert_eq!(&memory.bytes(BLOCK)[20..24], b"tail");
        memory.end(BLOCK);
        memory.end(BLOCK);
        memory.bytes_mut(BLOCK)[0] = 1;
    }

    #[test]
    fn bytes_are_copied_between_blocks_and_within_one() {
        let mut memory = memory();
        memory.write(BLOCK, 0, b"0123456789");
        memory.start_send(BLOCK, 0, 10);
        memory.copy(BLOCK, 2, 4, Block::new(0, 1), 60);
        assert_eq!(&memory.bytes(Block::new(0, 1))[56..], b"\0\0\0\x002345");
        memory.copy(BLOCK, 4, 6, BLOCK, 12);
        memory.copy(BLOCK, 12, 6, BLOCK, 14);
        assert_eq!(&memory.bytes(BLOCK)[..20], b"0123456789\0\x0045456789");
    }

    #[test]
    #[should_panic(expected = "read while the kernel is receiving")]
    fn nothing_is_copied_from_where_the_kernel_receives() {
        let mut memory = memory();
        memory.start_receive(BLOCK, 0, 8);
        memory.copy(BLOCK, 16, 4, Block::new(1, 1), 0);
    }

    #[test]
    #[should_panic(expected = "outside the block")]
    fn no_copy_reaches_into_the_next_block() {
        memory().copy(BLOCK, 0, 65, Block::new(0, 0), 0);
    }

    #[test]
    #[should_panic(expected = "read while the kernel is receiving")]
    fn a_block_being_received_into_is_not_read() {
        let mut memory = memory();
        memory.start_receive(BLOCK, 0, 4096);
        memory.bytes(BLOCK);
    }

    #[test]
    #[should_panic(expected = "written while the kernel is using it")]
    fn a_block_being_sent_is_not_handed_out_for_writing() {
        let mut memory = memory();
        memory.start_send(BLOCK, 0, 1);
        memory.bytes_mut(BLOCK);
    }

    #[test]
    #[should_panic(expected = "a receive into a block that the kernel is using")]
    fn a_receive_shares_a_block_with_nobody() {
        let mut memory = memory();
        memory.start_send(BLOCK, 0, 1);
        memory.start_receive(BLOCK, 64, 1);
    }

    #[test]
    #[should_panic(expected = "outside the block")]
    fn no_op_reaches_into_the_next_block() {
        memory().start_send(BLOCK, 4000, 97);
    }
}
