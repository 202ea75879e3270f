//! Incomplete frames: byte queues that exist only while a frame has not fully arrived.

use super::{outbox::Exhausted, rank::Ranks, slab::Slab};
use crate::{
    core::{
        index::Slot,
        listener::Framing,
        pool::{Class, Pools},
        span::Span,
    },
    op::{Block, Io},
};

/// As many bytes as a frame's header has at most.
pub(crate) type FrameHead = [u8; Framing::HEADER_BYTES_MAX];

#[derive(Clone, Copy, Debug, Default)]
struct Spill {
    /// Handles of the first and last piece; never 0.
    head: u32,
    tail: u32,
    bytes: u32,
    slot: Slot,
    since_tick: u16,
    /// Its class in [`Ranks`].
    rank: u8,
}

#[derive(Clone, Copy, Debug, Default)]
struct Piece {
    block: Option<Block>,
    start: u32,
    end: u32,
    next: u32,
}

/// All spills of a shard.
#[derive(Debug)]
pub(crate) struct Spills {
    spills: Slab<Spill>,
    pieces: Slab<Piece>,
    bytes: u64,
    ranks: Ranks,
}

impl Spills {
    pub(crate) const fn new() -> Self {
        Self { spills: Slab::new(), pieces: Slab::new(), bytes: 0, ranks: Ranks::new() }
    }

    /// Appends a copy of `span` to the spill `handle` (0: a new one), all or nothing, and gives
    /// its handle.
    pub(crate) fn push(
        &mut self,
        io: &mut impl Io,
        pools: &mut Pools,
        handle: u32,
        (slot, tick): (Slot, u16),
        span: Span,
    ) -> Result<u32, Exhausted> {
        let chunk_bytes = pools.block_bytes(Class::Spill);
        let tail =
            if handle == 0 { Piece::default() } else { *self.pieces.get(self.spills.get(handle).tail) };
        let room = if tail.block.is_some() { chunk_bytes - tail.end } else { 0 };
        let in_tail = room.min(span.len);
        if pools.available(Class::Spill) < (span.len - in_tail).div_ceil(chunk_bytes) {
            return Err(Exhausted);
        }
        let handle = if handle != 0 {
            handle
        } else {
            self.spills.insert(Spill { since_tick: tick, slot, ..Spill::default() })
        };
        if let (Some(block), true) = (tail.block, in_tail > 0) {
            io.copy(span.block, span.offset, in_tail, block, tail.end);
            self.pieces.get_mut(self.spills.get(handle).tail).end += in_tail;
        }
        let mut done = in_tail;
        while done < span.len {
            let block = pools.alloc(Class::Spill).expect("checked above");
            let len = chunk_bytes.min(span.len - done);
            io.copy(span.block, span.offset + done, len, block, 0);
            let piece = self.pieces.insert(Piece { block: Some(block), start: 0, end: len, next: 0 });
            let spill = self.spills.get_mut(handle);
            if spill.head == 0 {
                spill.head = piece;
            } else {
                self.pieces.get_mut(spill.tail).next = piece;
            }
            spill.tail = piece;
            done += len;
        }
        let spill = self.spills.get_mut(handle);
        spill.bytes += span.len;
        spill.rank = self.ranks.place(handle, spill.rank, spill.bytes);
        self.bytes += u64::from(span.len);
        Ok(handle)
    }

    /// The first bytes, at most a frame header: what is needed to know the frame's length.
    pub(crate) fn peek_header(&self, io: &impl Io, handle: u32) -> (FrameHead, usize) {
        let mut header = FrameHead::default();
        let mut filled = 0;
        for span in self.spans(handle, header.len() as u32) {
            let bytes = span.bytes(io);
            header[filled..filled + bytes.len()].copy_from_slice(bytes);
            filled += bytes.len();
        }
        (header, filled)
    }

    /// The first `len` bytes, piece by piece.
    pub(crate) fn spans(&self, handle: u32, len: u32) -> impl Iterator<Item = Span> {
        let (mut next, mut left) = (self.spills.get(handle).head, len);
        std::iter::from_fn(move || {
            if next == 0 || left == 0 {
                return None;
            }
            let piece = self.pieces.get(next);
            let len = left.min(piece.end - piece.start);
            let block = piece.block.expect("a piece in use has a block");
            left -= len;
            next = piece.next;
            Some(Span { block, offset: piece.start, len })
        })
    }

    /// Drops the first `len` bytes. Returns whether the spill is now empty; it is then gone.
    pub(crate) fn consume(&mut self, pools: &mut Pools, handle: u32, len: u32) -> bool {
        let spill = self.spills.get_mut(handle);
        assert!(len <= spill.bytes, "invariant spill-sums: only what was spilled is consumed");
        spill.bytes -= len;
        spill.rank = self.ranks.place(handle, spill.rank, spill.bytes);
        self.bytes -= u64::from(len);
        let mut left = len;
        while left > 0 {
            let piece = self.pieces.get_mut(spill.head);
            let step = left.min(piece.end - piece.start);
            piece.start += step;
            left -= step;
            if piece.start == piece.end && (left > 0 || spill.bytes == 0 || piece.next != 0) {
                let done = self.pieces.remove(spill.head);
                pools.release(done.block.expect("a piece in use has a block"));
                spill.head = done.next;
            }
        }
        if spill.bytes == 0 {
            self.spills.remove(handle);
            return true;
        }
        false
    }

    /// Drops a spill with all it holds.
    pub(crate) fn discard(&mut self, pools: &mut Pools, handle: u32) {
        let bytes = self.bytes(handle);
        assert!(self.consume(pools, handle, bytes), "invariant spill-sums: all bytes are consumed");
    }

    /// Starts the frame deadline anew: a frame was completed and another one is incomplete.
    pub(crate) fn restart(&mut self, handle: u32, tick: u16) {
        self.spills.get_mut(handle).since_tick = tick;
    }

    pub(crate) fn bytes(&self, handle: u32) -> u32 {
        self.spills.get(handle).bytes
    }

    pub(crate) fn since_tick(&self, handle: u32) -> u16 {
        self.spills.get(handle).since_tick
    }

    /// Bytes in all spills.
    pub(crate) fn bytes_total(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn count(&self) -> usize {
        self.spills.len()
    }

    /// Who holds the most, and how many bytes; none if all hold next to nothing.
    pub(crate) fn largest(&self) -> Option<(Slot, u32)> {
        let handle = self.ranks.largest(|handle| self.bytes(handle))?;
        Some((self.spills.get(handle).slot, self.bytes(handle)))
    }
}
