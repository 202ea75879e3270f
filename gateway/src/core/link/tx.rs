//! A link's send queue: frames are retained until the worker acknowledges them, and sent again
//! after a break.
//!
//! All frames stand in one byte stream over a chain of blocks. Frames that are not sequenced
//! (ACK) may stand between; they are dropped once sent and never sent again.

use std::collections::VecDeque;

use roost_protocol::link::{HEADER_BYTES, Header, LinkError};

use crate::{
    core::{
        pool::{Class, Pools},
        span::Span,
    },
    op::{Block, Io},
};

/// Not counted and not retained once sent.
const UNSEQUENCED: u32 = 1 << 31;
/// Unsequenced and sent on an earlier TCP connection: skipped when sending again.
const STALE: u32 = 1 << 30;
const LEN: u32 = STALE - 1;

/// The queue. Offsets are absolute: they count all bytes ever appended.
#[derive(Debug, Default)]
pub(crate) struct TxQueue {
    blocks: VecDeque<Block>,
    /// Offset of the first byte of the first block.
    base: u64,
    /// Offset of the first retained byte.
    head: u64,
    /// Offset of the first byte that TCP has not taken on this connection.
    sent: u64,
    /// Offset behind the last byte.
    tail: u64,
    /// Bytes of the last block behind `tail`; 0 without a block.
    tail_room: u32,
    /// Length and marks of every frame from `head` to `tail`.
    frames: VecDeque<u32>,
    /// Of those, how many TCP has taken whole.
    frames_sent: usize,
    /// Bytes of the frame after those that TCP has taken.
    frame_sent: u32,
    /// Unsequenced frames that TCP has not taken whole on this connection.
    unsequenced_unsent: u32,
    /// Sequenced frames acknowledged in this session.
    acked: u64,
    /// Sequenced frames that TCP has taken whole.
    sequenced_sent: u64,
    /// An acknowledgement that overtook the completion of the send it is for.
    ack_ahead: u64,
    /// Sequenced frames appended in this session.
    appended: u64,
    /// Offset behind what has been given to TCP on this connection, taken or not.
    offered: u64,
    /// The same of all connections of the session.
    offered_ever: u64,
    /// Bytes that the frame being appended still lacks.
    missing: u32,
    block_bytes: u32,
    /// Blocks that the pool has for this queue whatever others have.
    own_blocks: u32,
}

impl TxQueue {
    /// An empty queue that is sure of `own_blocks`; more it has from what all queues share.
    pub(crate) fn new(block_bytes: u32, own_blocks: u32) -> Self {
        Self { block_bytes, own_blocks, ..Self::default() }
    }

    /// Whether a frame of this length can be appended now. To be asked before [`Self::begin`].
    #[inline]
    pub(crate) fn fits(&self, pools: &Pools, frame_bytes: u32) -> bool {
        frame_bytes <= self.tail_room || {
            let more = (frame_bytes - self.tail_room).div_ceil(self.block_bytes);
            pools.fits_link_tx(self.own_blocks, self.blocks.len() as u32, more)
        }
    }

    /// Blocks beyond its own.
    pub(crate) fn blocks_beyond(&self) -> u32 {
        (self.blocks.len() as u32).saturating_sub(self.own_blocks)
    }

    /// Bytes queued or not yet acknowledged.
    pub(crate) fn retained_bytes(&self) -> u64 {
        self.tail - self.head
    }

    /// Sequenced frames queued or not yet acknowledged.
    pub(crate) fn lag_frames(&self) -> u64 {
        self.appended - self.acked
    }

    /// Sequenced frames acknowledged in this session.
    pub(crate) fn acked_frames(&self) -> u64 {
        self.acked
    }

    /// Sequenced frames appended in this session.
    pub(crate) fn appended_frames(&self) -> u64 {
        self.appended
    }

    /// Sequenced frames of this session that TCP has been given on this connection.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn offered_frames(&self) -> u64 {
        self.sequenced_offered()
    }

    /// Whether TCP has taken everything.
    pub(crate) fn is_all_sent(&self) -> bool {
        self.sent == self.tail
    }

    /// Whether an unsequenced frame stands in the queue that has not left.
    pub(crate) fn holds_unsequenced(&self) -> bool {
        self.unsequenced_unsent > 0
    }

    /// Whether what TCP has taken ends with a whole frame, so that a frame from elsewhere may
    /// come next.
    pub(crate) fn is_at_boundary(&self) -> bool {
        self.frame_sent == 0
    }

    /// Begins a frame that [`Self::fits`]; exactly `header.payload_bytes` must follow by
    /// [`Self::put_bytes`] and [`Self::put_span`].
    pub(crate) fn begin(&mut self, io: &mut impl Io, pools: &mut Pools, header: Header) {
        assert_eq!(self.missing, 0, "invariant whole-frames: frames are appended whole");
        let sequenced = header.link_type.is_sequenced();
        self.frames.push_back(header.frame_bytes() as u32 | if sequenced { 0 } else { UNSEQUENCED });
        self.appended += u64::from(sequenced);
        self.unsequenced_unsent += u32::from(!sequenced);
        self.missing = header.frame_bytes() as u32;
        self.put_bytes(io, pools, &header.encode());
    }

    pub(crate) fn put_bytes(&mut self, io: &mut impl Io, pools: &mut Pools, bytes: &[u8]) {
        let mut rest = bytes;
        self.put(pools, bytes.len() as u32, |block, offset, len| {
            let (now, later) = rest.split_at(len as usize);
            io.write(block, offset, now);
            rest = later;
        });
    }

    pub(crate) fn put_span(&mut self, io: &mut impl Io, pools: &mut Pools, span: Span) {
        let mut done = 0;
        self.put(pools, span.len, |block, offset, len| {
            io.copy(span.block, span.offset + done, len, block, offset);
            done += len;
        });
    }

    fn put(&mut self, pools: &mut Pools, len: u32, mut copy: impl FnMut(Block, u32, u32)) {
        self.missing = self
            .missing
            .checked_sub(len)
            .expect("invariant whole-frames: a frame has the length it was begun with");
        let mut left = len;
        while left > 0 {
            if self.tail_room == 0 {
                let block =
                    pools.alloc(Class::LinkTx).expect("invariant admission: a frame that fits has blocks");
                self.blocks.push_back(block);
                pools.take_beyond(u32::from(self.blocks_beyond() > 0));
                self.tail_room = self.block_bytes;
            }
            let piece = left.min(self.tail_room);
            let block = *self.blocks.back().expect("just ensured");
            copy(block, self.block_bytes - self.tail_room, piece);
            self.tail += u64::from(piece);
            self.tail_room -= piece;
            left -= piece;
        }
    }

    /// What to send next: contiguous bytes, whole frames as far as block and window allow.
    ///
    /// `window_bytes` limits what is sent and not acknowledged; a lone frame larger than the
    /// window goes when nothing else is outstanding.
    pub(crate) fn next_send(&mut self, window_bytes: u32) -> Option<Span> {
        assert_eq!(self.missing, 0, "invariant whole-frames: frames are appended whole");
        while self.frame_sent == 0 && self.frames.get(self.frames_sent).is_some_and(|f| f & STALE != 0) {
            self.sent += u64::from(self.frames[self.frames_sent] & LEN);
            self.frames_sent += 1;
        }
        if self.is_all_sent() {
            return None;
        }
        let outstanding = self.sent - self.head;
        let room = u64::from(window_bytes).saturating_sub(outstanding);
        let offset = ((self.sent - self.base) % u64::from(self.block_bytes)) as u32;
        let contiguous = u64::from(self.block_bytes - offset);
        let mut len = u64::from((self.frames[self.frames_sent] & LEN) - self.frame_sent);
        // A frame that TCP has begun is finished whatever the window says.
        if self.frame_sent == 0 && len > room && outstanding > 0 {
            return None;
        }
        for frame in self.frames.range(self.frames_sent + 1..) {
            let more = len + u64::from(frame & LEN);
            if frame & STALE != 0 || more > room || len >= contiguous {
                break;
            }
            len = more;
        }
        let index = (self.sent - self.base) / u64::from(self.block_bytes);
        self.offered = self.sent + len.min(contiguous);
        Some(Span { block: self.blocks[index as usize], offset, len: len.min(contiguous) as u32 })
    }

    /// TCP has taken `len` more bytes.
    pub(crate) fn on_sent(&mut self, pools: &mut Pools, len: u32) {
        self.sent += u64::from(len);
        let mut left = len;
        while left > 0 {
            let frame = self.frames[self.frames_sent];
            let rest = (frame & LEN) - self.frame_sent;
            if left < rest {
                self.frame_sent += left;
                break;
            }
            left -= rest;
            self.frame_sent = 0;
            let sequenced = frame & UNSEQUENCED == 0;
            self.sequenced_sent += u64::from(sequenced);
            self.unsequenced_unsent -= u32::from(!sequenced);
            self.frames_sent += 1;
        }
        let position = self.ack_ahead.min(self.sequenced_sent).max(self.acked);
        self.ack(pools, position);
    }

    /// The worker has handled `position` sequenced frames of this session.
    pub(crate) fn on_ack(&mut self, pools: &mut Pools, position: u64) -> Result<(), LinkError> {
        let from = self.acked.max(self.ack_ahead);
        if position < from || position > self.sequenced_sent && position > self.sequenced_offered() {
            let to = self.sequenced_offered();
            return Err(LinkError::AckOutOfRange { acked: position, from, to });
        }
        // The answer can be reaped before the completion of the send that it answers.
        self.ack_ahead = position;
        self.ack(pools, position.min(self.sequenced_sent));
        Ok(())
    }

    fn ack(&mut self, pools: &mut Pools, position: u64) {
        while self.acked < position {
            let frame = self.frames[0];
            self.acked += u64::from(frame & UNSEQUENCED == 0);
            self.pop_frame();
        }
        self.drop_unsequenced(pools);
    }

    /// Sequenced frames of this session that TCP has been given whole on this connection.
    fn sequenced_offered(&self) -> u64 {
        let taken = self.sent - u64::from(self.frame_sent);
        self.sequenced_sent + self.sequenced_between(self.frames_sent, taken, self.offered)
    }

    /// Sequenced frames from the one at `index`, which begins at offset `at`, that end by `until`.
    fn sequenced_between(&self, index: usize, mut at: u64, until: u64) -> u64 {
        let mut count = 0;
        for &frame in self.frames.range(index..) {
            at += u64::from(frame & LEN);
            if at > until {
                break;
            }
            count += u64::from(frame & UNSEQUENCED == 0);
        }
        count
    }

    /// Whether the session can go on after `position` frames: the worker can have handled so many,
    /// and has not said before that it had handled more.
    pub(crate) fn may_resume(&self, position: u64) -> bool {
        let offered = self.offered.max(self.offered_ever);
        let known = self.acked..=self.acked + self.sequenced_between(0, self.head, offered);
        known.contains(&position)
    }

    /// A new TCP connection carries on: everything from `position` on is sent again.
    pub(crate) fn resume(&mut self, pools: &mut Pools, position: u64) -> Result<(), LinkError> {
        if !self.may_resume(position) {
            return Err(LinkError::AckOutOfRange { acked: position, from: self.acked, to: self.appended });
        }
        self.offered_ever = self.offered_ever.max(self.offered);
        // What the peer has handled was sent, even if no completion has said so.
        self.frames_sent = self.frames.len();
        self.frame_sent = 0;
        self.sent = self.tail;
        self.ack(pools, position);
        for frame in &mut self.frames {
            if *frame & UNSEQUENCED != 0 {
                *frame |= STALE;
            }
        }
        self.frames_sent = 0;
        self.unsequenced_unsent = 0;
        self.sent = self.head;
        self.offered = self.head;
        (self.sequenced_sent, self.ack_ahead) = (position, position);
        Ok(())
    }

    /// Ends the session: gives the sequenced frames that were not acknowledged, as one run of
    /// bytes, and starts counting anew.
    pub(crate) fn take_unacked(&mut self, io: &impl Io, pools: &mut Pools) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut at = self.head;
        for &frame in &self.frames {
            let mut left = frame & LEN;
            while left > 0 {
                let offset = ((at - self.base) % u64::from(self.block_bytes)) as u32;
                let index = (at - self.base) / u64::from(self.block_bytes);
                let piece = left.min(self.block_bytes - offset);
                if frame & UNSEQUENCED == 0 {
                    let block = io.block(self.blocks[index as usize]);
                    bytes.extend(&block[offset as usize..][..piece as usize]);
                }
                at += u64::from(piece);
                left -= piece;
            }
        }
        pools.give_beyond(self.blocks_beyond());
        for block in self.blocks.drain(..) {
            pools.release(block);
        }
        *self = Self::new(self.block_bytes, self.own_blocks);
        bytes
    }

    fn drop_unsequenced(&mut self, pools: &mut Pools) {
        while let Some(&frame) = self.frames.front()
            && frame & UNSEQUENCED != 0
            && (self.frames_sent > 0 || frame & STALE != 0)
        {
            if self.frames_sent == 0 {
                // Not to be sent again: nothing behind it might come to pass over it.
                self.frames_sent = 1;
                self.sent += u64::from(frame & LEN);
            }
            self.pop_frame();
        }
        let block_bytes = u64::from(self.block_bytes);
        while self.head - self.base >= block_bytes || (self.head == self.tail && !self.blocks.is_empty()) {
            pools.give_beyond(u32::from(self.blocks_beyond() > 0));
            pools.release(self.blocks.pop_front().expect("a block for every retained byte"));
            self.base += block_bytes;
            if self.blocks.is_empty() {
                self.base = self.head;
                self.tail_room = 0;
            }
        }
        if self.frames.is_empty() && self.frames.capacity() > 4096 {
            self.frames.shrink_to(256);
        }
    }

    fn pop_frame(&mut self) {
        let frame = self.frames.pop_front().expect("a frame to drop");
        self.frames_sent =
            self.frames_sent.checked_sub(1).expect("invariant at-least-once: only sent frames are dropped");
        self.head += u64::from(frame & LEN);
    }
}

/// The frames of a run of whole frames.
pub(crate) fn frames_in(bytes: &[u8]) -> impl Iterator<Item = (Header, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (head, _) = rest.split_first_chunk::<HEADER_BYTES>()?;
        let header = Header::decode(*head, u32::MAX).expect("only our own frames are retained");
        let (frame, after) = rest.split_at(header.frame_bytes());
        rest = after;
        Some((header, &frame[HEADER_BYTES..]))
    })
}
