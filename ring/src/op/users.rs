//! Who uses which block: the same rules for every driver.

use std::fmt;

use super::{Block, PoolSpec};

/// What an access to a block would break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Misuse(&'static str);

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

const RECEIVE_INTO_USED: Misuse = Misuse("a receive into a block that the kernel is using");
const SEND_WHILE_RECEIVING: Misuse = Misuse("a send from a block that the kernel is writing to");
const READ_WHILE_RECEIVING: Misuse = Misuse("read while the kernel is receiving");
const WRITTEN_WHILE_RECEIVING: Misuse = Misuse("written while the kernel is receiving");
const WRITTEN_WHILE_USED: Misuse = Misuse("written while the kernel is using it");
const ENDED_TOO_OFTEN: Misuse = Misuse("more completions than ops on a block");
const OUTSIDE: Misuse = Misuse("outside the block");

/// Which ops in the kernel use which block.
///
/// The bytes of a block are the kernel's to write (one receive), shared by the kernel and readers (any
/// number of sends), or ours. A driver asks before it touches a block or gives it to the kernel.
#[derive(Debug)]
pub struct BlockUsers {
    classes: Vec<Class>,
}

#[derive(Debug)]
struct Class {
    spec: PoolSpec,
    /// Per block: sends in the kernel, or [`RECEIVING`]. Zeroed pages, so blocks that are never used
    /// cost nothing.
    users: Vec<u32>,
}

/// A block that the kernel receives into belongs to it alone.
const RECEIVING: u32 = u32::MAX;

impl BlockUsers {
    /// Nobody uses any block of these classes.
    pub fn new(specs: &[PoolSpec]) -> Self {
        let class = |spec: &PoolSpec| {
            assert!(spec.blocks <= Block::INDEX_MAX + 1);
            Class { spec: *spec, users: vec![0; spec.blocks as usize] }
        };
        Self { classes: specs.iter().map(class).collect() }
    }

    /// Begins a receive into part of a block.
    ///
    /// # Errors
    /// An op uses the block, or the part does not lie within.
    #[inline]
    pub fn start_receive(&mut self, block: Block, offset: u32, len: u32) -> Result<(), Misuse> {
        self.check_part(block, offset, len)?;
        let users = self.users_mut(block);
        if *users != 0 {
            return Err(RECEIVE_INTO_USED);
        }
        *users = RECEIVING;
        Ok(())
    }

    /// Begins a send of part of a block.
    ///
    /// # Errors
    /// A receive uses the block, or the part does not lie within.
    #[inline]
    pub fn start_send(&mut self, block: Block, offset: u32, len: u32) -> Result<(), Misuse> {
        self.check_part(block, offset, len)?;
        let users = self.users_mut(block);
        if *users >= RECEIVING - 1 {
            return Err(SEND_WHILE_RECEIVING);
        }
        *users += 1;
        Ok(())
    }

    /// A receive or send of the block has completed.
    ///
    /// # Errors
    /// There was none.
    #[inline]
    pub fn end(&mut self, block: Block) -> Result<(), Misuse> {
        let users = self.users_mut(block);
        *users = match *users {
            0 => return Err(ENDED_TOO_OFTEN),
            RECEIVING => 0,
            sends => sends - 1,
        };
        Ok(())
    }

    /// Whether all of a block may be read.
    ///
    /// # Errors
    /// A receive uses it.
    #[inline]
    pub fn check_read(&self, block: Block) -> Result<(), Misuse> {
        if self.is_receiving(block) { Err(READ_WHILE_RECEIVING) } else { Ok(()) }
    }

    /// Whether part of a block may be read.
    ///
    /// # Errors
    /// A receive uses the block, or the part does not lie within.
    #[inline]
    pub fn check_read_part(&self, block: Block, offset: u32, len: u32) -> Result<(), Misuse> {
        self.check_part(block, offset, len)?;
        self.check_read(block)
    }

    /// Whether all of a block may be written.
    ///
    /// # Errors
    /// An op uses it.
    #[inline]
    pub fn check_write(&self, block: Block) -> Result<(), Misuse> {
        if self.is_used(block) { Err(WRITTEN_WHILE_USED) } else { Ok(()) }
    }

    /// Whether part of a block may be written, as far as sends in the kernel have other parts.
    ///
    /// # Errors
    /// A receive uses the block, or the part does not lie within.
    #[inline]
    pub fn check_write_part(&self, block: Block, offset: u32, len: u32) -> Result<(), Misuse> {
        self.check_part(block, offset, len)?;
        if self.is_receiving(block) { Err(WRITTEN_WHILE_RECEIVING) } else { Ok(()) }
    }

    /// Whether a receive uses the block.
    #[inline]
    pub fn is_receiving(&self, block: Block) -> bool {
        self.users(block) == RECEIVING
    }

    /// Whether any op uses the block.
    #[inline]
    pub fn is_used(&self, block: Block) -> bool {
        self.users(block) != 0
    }

    #[inline]
    fn users(&self, block: Block) -> u32 {
        self.classes[block.class()].users[block.index() as usize]
    }

    #[inline]
    fn users_mut(&mut self, block: Block) -> &mut u32 {
        &mut self.classes[block.class()].users[block.index() as usize]
    }

    #[inline]
    fn check_part(&self, block: Block, offset: u32, len: u32) -> Result<(), Misuse> {
        let block_bytes = self.classes[block.class()].spec.block_bytes;
        if len <= block_bytes && offset <= block_bytes - len { Ok(()) } else { Err(OUTSIDE) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: Block = Block::new(1, 3);

    fn users() -> BlockUsers {
        BlockUsers::new(&[PoolSpec { block_bytes: 64, blocks: 2 }, PoolSpec { block_bytes: 4096, blocks: 4 }])
    }

    #[test]
    fn senders_share_a_block_with_readers_and_careful_writers() {
        let mut users = users();
        assert_eq!(users.start_send(BLOCK, 0, 10), Ok(()));
        assert_eq!(users.start_send(BLOCK, 10, 10), Ok(()));
        assert_eq!(users.check_read(BLOCK), Ok(()));
        assert_eq!(users.check_write_part(BLOCK, 20, 4), Ok(()));
        assert_eq!(users.check_write(BLOCK), Err(WRITTEN_WHILE_USED));
        assert_eq!(users.start_receive(BLOCK, 64, 1), Err(RECEIVE_INTO_USED));
        assert_eq!((users.end(BLOCK), users.end(BLOCK)), (Ok(()), Ok(())));
        assert_eq!(users.check_write(BLOCK), Ok(()));
        assert_eq!(users.end(BLOCK), Err(ENDED_TOO_OFTEN));
    }

    #[test]
    fn a_receive_shares_a_block_with_nobody() {
        let mut users = users();
        assert_eq!(users.start_receive(BLOCK, 0, 8), Ok(()));
        assert_eq!(users.start_receive(BLOCK, 8, 8), Err(RECEIVE_INTO_USED));
        assert_eq!(users.start_send(BLOCK, 8, 8), Err(SEND_WHILE_RECEIVING));
        assert_eq!(users.check_read_part(BLOCK, 8, 8), Err(READ_WHILE_RECEIVING));
        assert_eq!(users.check_write_part(BLOCK, 8, 8), Err(WRITTEN_WHILE_RECEIVING));
        assert!(users.is_receiving(BLOCK) && users.is_used(BLOCK) && !users.is_used(Block::new(1, 2)));
        assert_eq!(users.end(BLOCK), Ok(()));
        assert_eq!(users.check_read(BLOCK), Ok(()));
    }

    #[test]
    fn no_op_reaches_into_the_next_block() {
        let mut users = users();
        assert_eq!(users.start_send(BLOCK, 4000, 97), Err(OUTSIDE));
        assert_eq!(users.start_receive(BLOCK, u32::MAX, 2), Err(OUTSIDE));
        assert_eq!(users.check_write_part(Block::new(0, 0), 0, 65), Err(OUTSIDE));
        assert_eq!(users.start_send(BLOCK, 4000, 96), Ok(()));
    }
}
