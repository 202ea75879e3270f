//! Bounded send queues of clients that have something unsent.
//!
//! An outbox is a chain of segments; the first one is what is being sent, and stands in the outbox
//! itself, since most outboxes never have a second one. A segment refers to bytes in a block: a chunk
//! of the outbox pool, a broadcast's shared payload, or, only while its first send is in the kernel,
//! the link's receive buffer: what the socket does not take at once is copied
//! ([`Outboxes::detach`]), so that no slow client pins a link buffer.

use super::{rank::Ranks, slab::Slab};
use crate::{
    core::{
        index::Slot,
        pool::{Class, Pools},
        span::Span,
    },
    op::{Block, Io},
};

#[derive(Clone, Copy, Debug, Default)]
struct Segment {
    span: Span,
    /// Handle of the next segment; 0: none.
    next: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Outbox {
    /// The first segment: what is being sent.
    front: Span,
    /// Handles of the second segment and of the last; 0: there is only the first.
    next: u32,
    tail: u32,
    bytes: u32,
    /// Of those, bytes that stand in blocks of other pools.
    foreign: u32,
    /// The owner, for choosing whom to close when the pool is exhausted.
    slot: Slot,
    /// Tick at which the client last took something, or the outbox was made.
    progress_tick: u16,
    /// Its class in [`Ranks`].
    rank: u8,
}

impl Outbox {
    /// What it holds of the pool, in bytes.
    const fn held(&self) -> u32 {
        self.bytes - self.foreign
    }
}

/// The pool has no chunk left for what should be queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exhausted;

/// All outboxes of a shard.
#[derive(Debug)]
pub(crate) struct Outboxes {
    outboxes: Slab<Outbox>,
    segments: Slab<Segment>,
    bytes: u64,
    ranks: Ranks,
}

impl Outboxes {
    pub(crate) const fn new() -> Self {
        Self { outboxes: Slab::new(), segments: Slab::new(), bytes: 0, ranks: Ranks::new() }
    }

    /// A new outbox whose only content is `span`; the caller's hold on the block goes to it.
    pub(crate) fn open(&mut self, slot: Slot, span: Span, tick: u16) -> u32 {
        self.bytes += u64::from(span.len);
        self.outboxes.insert(Outbox {
            front: span,
            next: 0,
            tail: 0,
            bytes: span.len,
            foreign: if is_foreign(span) { span.len } else { 0 },
            slot,
            progress_tick: tick,
            rank: 0,
        })
    }

    /// What is to be sent next.
    pub(crate) fn front(&self, handle: u32) -> Span {
        self.outboxes.get(handle).front
    }

    pub(crate) fn bytes(&self, handle: u32) -> u32 {
        self.outboxes.get(handle).bytes
    }

    /// What it holds of the pool, in bytes.
    pub(crate) fn held(&self, handle: u32) -> u32 {
        self.outboxes.get(handle).held()
    }

    pub(crate) fn progress_tick(&self, handle: u32) -> u16 {
        self.outboxes.get(handle).progress_tick
    }

    /// Bytes in all outboxes.
    pub(crate) fn bytes_total(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn count(&self) -> usize {
        self.outboxes.len()
    }

    /// Segments that keep a link's receive buffer from being reused. Walks the whole outbox.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn link_buffers(&self, handle: u32) -> usize {
        let outbox = self.outboxes.get(handle);
        let some = |at: u32| (at != 0).then_some(at);
        let others = std::iter::successors(some(outbox.next), |&at| some(self.segments.get(at).next));
        std::iter::once(outbox.front)
            .chain(others.map(|at| self.segments.get(at).span))
            .filter(|span| span.block.class() == Class::LinkRx as usize)
            .count()
    }

    /// Queues a copy of the bytes of `span`, all or nothing, if `keep` blocks of the pool stay free.
    /// The caller keeps its hold.
    pub(crate) fn push_copy(
        &mut self,
        io: &mut impl Io,
        pools: &mut Pools,
        handle: u32,
        span: Span,
        keep: u32,
    ) -> Result<(), Exhausted> {
        let mut copied = 0;
        self.push_with(pools, handle, span.len, keep, |to, offset, len| {
            io.copy(span.block, span.offset + copied, len, to, offset);
            copied += len;
        })
    }

    /// Queues bytes that stand in no block, all or nothing, if `keep` blocks of the pool stay free.
    pub(crate) fn push_bytes(
        &mut self,
        io: &mut impl Io,
        pools: &mut Pools,
        handle: u32,
        bytes: &[u8],
        keep: u32,
    ) -> Result<(), Exhausted> {
        let mut rest = bytes;
        self.push_with(pools, handle, bytes.len() as u32, keep, |to, offset, len| {
            let (now, later) = rest.split_at(len as usize);
            io.write(to, offset, now);
            rest = later;
        })
    }

    /// Queues a share of the block of `span`.
    pub(crate) fn push_shared(&mut self, pools: &mut Pools, handle: u32, span: Span) {
        pools.retain(span.block);
        self.append(handle, span);
        self.outboxes.get_mut(handle).foreign += span.len;
        self.grow(handle, span.len);
    }

    /// `sent` bytes of the front segment have left. Returns whether the outbox is now empty; it
    /// is then gone.
    pub(crate) fn advance(&mut self, pools: &mut Pools, handle: u32, sent: u32, tick: u16) -> bool {
        let outbox = self.outboxes.get_mut(handle);
        assert!(sent <= outbox.front.len, "invariant outbox-sums: more was sent than offered");
        outbox.bytes -= sent;
        self.bytes -= u64::from(sent);
        if sent > 0 {
            outbox.progress_tick = tick;
        }
        if is_foreign(outbox.front) {
            outbox.foreign -= sent;
        }
        if outbox.rank != 0 {
            outbox.rank = self.ranks.place(handle, outbox.rank, outbox.held());
        }
        outbox.front.offset += sent;
        outbox.front.len -= sent;
        if outbox.front.len > 0 {
            return false;
        }
        pools.release(outbox.front.block);
        if outbox.next == 0 {
            assert_eq!(outbox.bytes, 0, "invariant outbox-sums: bytes are the sum of the segments");
            self.outboxes.remove(handle);
            return true;
        }
        let second = self.segments.remove(outbox.next);
        (outbox.front, outbox.next) = (second.span, second.next);
        if outbox.next == 0 {
            outbox.tail = 0;
        }
        false
    }

    /// Copies what is left of the front segment out of a block of another pool, so that the block
    /// can be reused, if `keep` blocks of the outboxes' own stay free. Does nothing for those.
    pub(crate) fn detach(
        &mut self,
        io: &mut impl Io,
        pools: &mut Pools,
        handle: u32,
        keep: u32,
    ) -> Result<(), Exhausted> {
        let Outbox { front: span, next, .. } = *self.outboxes.get(handle);
        if !is_foreign(span) {
            return Ok(());
        }
        let chunk_bytes = pools.block_bytes(Class::Outbox);
        if pools.available(Class::Outbox) < span.len.div_ceil(chunk_bytes) + keep {
            return Err(Exhausted);
        }
        // 0 stands for the front.
        let (mut done, mut after) = (0, 0);
        while done < span.len {
            let block = pools.alloc(Class::Outbox).expect("checked above");
            let len = chunk_bytes.min(span.len - done);
            io.copy(span.block, span.offset + done, len, block, 0);
            let piece = Span { block, offset: 0, len };
            if done == 0 {
                self.outboxes.get_mut(handle).front = piece;
            } else {
                let segment = self.segments.insert(Segment { span: piece, next });
                self.set_next(handle, after, segment);
                after = segment;
            }
            done += len;
        }
        if next == 0 {
            self.outboxes.get_mut(handle).tail = after;
        }
        pools.release(span.block);
        let outbox = self.outboxes.get_mut(handle);
        outbox.foreign -= span.len;
        outbox.rank = self.ranks.place(handle, outbox.rank, outbox.held());
        Ok(())
    }

    /// Drops all but what is being sent: the kernel may be reading that.
    pub(crate) fn trim(&mut self, pools: &mut Pools, handle: u32) {
        let outbox = self.outboxes.get_mut(handle);
        let (rank, next, dropped) = (outbox.rank, outbox.next, outbox.bytes - outbox.front.len);
        let foreign = if is_foreign(outbox.front) { outbox.front.len } else { 0 };
        *outbox = Outbox { next: 0, tail: 0, bytes: outbox.front.len, foreign, rank: 0, ..*outbox };
        self.ranks.place(handle, rank, 0);
        self.bytes -= u64::from(dropped);
        self.release_from(pools, next);
    }

    /// Drops an outbox with all it holds. Not while a send of it is in the kernel.
    pub(crate) fn discard(&mut self, pools: &mut Pools, handle: u32) {
        let outbox = self.outboxes.remove(handle);
        self.ranks.place(handle, outbox.rank, 0);
        self.bytes -= u64::from(outbox.bytes);
        pools.release(outbox.front.block);
        self.release_from(pools, outbox.next);
    }

    fn release_from(&mut self, pools: &mut Pools, segment: u32) {
        let mut next = segment;
        while next != 0 {
            let segment = self.segments.remove(next);
            pools.release(segment.span.block);
            next = segment.next;
        }
    }

    /// Who holds the most of the pool, and how many bytes; none if all hold next to nothing.
    pub(crate) fn largest(&self) -> Option<(Slot, u32)> {
        let handle = self.ranks.largest(|handle| self.held(handle))?;
        let outbox = self.outboxes.get(handle);
        Some((outbox.slot, outbox.held()))
    }

    fn push_with(
        &mut self,
        pools: &mut Pools,
        handle: u32,
        len: u32,
        keep: u32,
        mut put: impl FnMut(Block, u32, u32),
    ) -> Result<(), Exhausted> {
        let chunk_bytes = pools.block_bytes(Class::Outbox);
        let tail = *self.tail_mut(handle);
        let own_chunk = tail.block.class() == Class::Outbox as usize && pools.holders(tail.block) == 1;
        let room = if own_chunk { chunk_bytes - tail.offset - tail.len } else { 0 };
        let in_tail = room.min(len);
        let more = (len - in_tail).div_ceil(chunk_bytes);
        if more > 0 && pools.available(Class::Outbox) < more + keep {
            return Err(Exhausted);
        }
        if in_tail > 0 {
            put(tail.block, tail.offset + tail.len, in_tail);
            self.tail_mut(handle).len += in_tail;
        }
        let mut done = in_tail;
        while done < len {
            let block = pools.alloc(Class::Outbox).expect("checked above");
            let piece = chunk_bytes.min(len - done);
            put(block, 0, piece);
            self.append(handle, Span { block, offset: 0, len: piece });
            done += piece;
        }
        self.grow(handle, len);
        Ok(())
    }

    fn append(&mut self, handle: u32, span: Span) {
        let segment = self.segments.insert(Segment { span, next: 0 });
        let tail = self.outboxes.get(handle).tail;
        self.set_next(handle, tail, segment);
        self.outboxes.get_mut(handle).tail = segment;
    }

    /// Says what comes behind a segment; 0 stands for the front.
    fn set_next(&mut self, handle: u32, segment: u32, next: u32) {
        match segment {
            0 => self.outboxes.get_mut(handle).next = next,
            _ => self.segments.get_mut(segment).next = next,
        }
    }

    /// The last segment's bytes.
    fn tail_mut(&mut self, handle: u32) -> &mut Span {
        let outbox = self.outboxes.get_mut(handle);
        match outbox.tail {
            0 => &mut outbox.front,
            tail => &mut self.segments.get_mut(tail).span,
        }
    }

    fn grow(&mut self, handle: u32, len: u32) {
        let outbox = self.outboxes.get_mut(handle);
        outbox.bytes += len;
        outbox.rank = self.ranks.place(handle, outbox.rank, outbox.held());
        self.bytes += u64::from(len);
    }
}

/// Whether bytes stand in a block of another pool than the outboxes' own.
const fn is_foreign(span: Span) -> bool {
    span.block.class() != Class::Outbox as usize
}
