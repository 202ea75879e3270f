//! Bytes in a block of the driver's memory.

use crate::op::{Block, Io};

/// Bytes in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) block: Block,
    pub(crate) offset: u32,
    pub(crate) len: u32,
}

impl Span {
    /// The bytes themselves.
    #[inline]
    pub(crate) fn bytes(self, io: &impl Io) -> &[u8] {
        &io.block(self.block)[self.offset as usize..][..self.len as usize]
    }
}

impl Default for Span {
    fn default() -> Self {
        Self { block: Block::new(0, 0), offset: 0, len: 0 }
    }
}
