//! The blocks that sends take their bytes from.

use roost_ring::op::{Block, PoolSpec};

/// One class of blocks: which are free, and what the others hold.
pub(super) struct Outgoing {
    class: u8,
    spec: PoolSpec,
    /// Blocks that were used and are free now.
    free: Vec<u32>,
    /// By index; grows to the largest number of sends there ever was at once.
    parts: Vec<Part>,
    /// Bytes of the largest part so far: further ones of a block were never touched.
    touched_bytes: u32,
}

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Whose bytes these are.
    pub(super) slot: u32,
    /// How many they were, in bytes. 0: the block is free.
    pub(super) len: u32,
    /// How many of them have left.
    pub(super) sent: u32,
}

impl Outgoing {
    pub(super) const fn new(class: u8, spec: PoolSpec) -> Self {
        Self { class, spec, free: Vec::new(), parts: Vec::new(), touched_bytes: 0 }
    }

    /// Takes a block for bytes of this slot: as many as fit of `len`. None if all are in use.
    pub(super) fn take(&mut self, slot: u32, len: usize) -> Option<(Block, u32)> {
        let fits = u32::try_from(len).unwrap_or(u32::MAX).min(self.spec.block_bytes);
        let part = Part { slot, len: fits, sent: 0 };
        self.touched_bytes = self.touched_bytes.max(fits);
        let index = match self.free.pop() {
            Some(index) => {
                self.parts[index as usize] = part;
                index
            }
            None if self.parts.len() < self.spec.blocks as usize => {
                self.parts.push(part);
                self.parts.len() as u32 - 1
            }
            None => return None,
        };
        Some((Block::new(self.class, index), fits))
    }

    /// Notes that `sent` more bytes of a block have left. Returns what is in it.
    pub(super) fn advance(&mut self, block: Block, sent: u32) -> Part {
        let part = &mut self.parts[block.index() as usize];
        part.sent += sent;
        assert!(part.sent <= part.len, "the kernel sent more than it was given");
        *part
    }

    /// Frees a block whose send is over.
    pub(super) fn release(&mut self, block: Block) {
        self.parts[block.index() as usize].len = 0;
        self.free.push(block.index());
    }

    /// The block that this slot sends from.
    pub(super) fn find(&self, slot: u32) -> Option<Block> {
        let at = self.parts.iter().position(|part| part.slot == slot && part.len > 0)?;
        Some(Block::new(self.class, at as u32))
    }

    /// User-space bytes of blocks at most, as far as they were touched, and of the lists.
    pub(super) fn bytes(&self) -> u64 {
        let lists = self.parts.capacity() * size_of::<Part>() + self.free.capacity() * size_of::<u32>();
        self.parts.len() as u64 * u64::from(self.touched_bytes) + lists as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_sent_in_pieces_and_used_again() {
        let mut outgoing = Outgoing::new(1, PoolSpec { block_bytes: 4, blocks: 2 });
        let (block, taken) = outgoing.take(7, 6).unwrap();
        assert_eq!((block.class(), taken), (1, 4));
        assert_eq!((outgoing.find(7), outgoing.find(8)), (Some(block), None));
        assert_eq!(outgoing.advance(block, 3), Part { slot: 7, len: 4, sent: 3 });
        assert_eq!(outgoing.advance(block, 1).sent, 4);
        let (other, _) = outgoing.take(8, 1).unwrap();
        assert_eq!(outgoing.take(9, 1), None);
        outgoing.release(block);
        assert_eq!((outgoing.find(7), outgoing.find(8)), (None, Some(other)));
        assert_eq!(outgoing.take(9, 2), Some((block, 2)));
    }
}
