//! The send queue of a session: frames that wait for the window, and frames that wait for their
//! acknowledgement.

use std::collections::VecDeque;

use roost_protocol::link::{HEADER_BYTES, Header};

/// Bytes of a chunk; a longer frame gets a chunk of its own.
const CHUNK_BYTES: usize = 64 * 1024;

/// Sequenced frames in order: `acked <= sent <= end`, counted in frames since the session began.
///
/// Frames lie back to back in chunks and never straddle two. Their headers say how long they are,
/// so no index is kept beside them.
#[derive(Debug, Default)]
pub(crate) struct Retained {
    chunks: VecDeque<Vec<u8>>,
    /// An empty chunk kept for reuse.
    spare: Vec<u8>,
    /// Frames before this one have been acknowledged and dropped.
    acked: u64,
    /// Frames before this one have been sent on the present TCP connection.
    sent: u64,
    /// Frames before this one have been queued.
    end: u64,
    /// Where frame `acked` starts in the first chunk.
    acked_offset: usize,
    /// The chunk and offset at which frame `sent` starts.
    sent_chunk: usize,
    sent_offset: usize,
    /// Bytes from `acked` to `sent`.
    in_flight_bytes: usize,
    /// Bytes from `sent` to `end`.
    pending_bytes: usize,
    /// Frames sent on earlier TCP connections.
    sent_before: u64,
}

impl Retained {
    /// Queues a frame whose payload is the concatenation of `parts`.
    #[inline]
    pub(crate) fn push(&mut self, header: Header, parts: &[&[u8]]) {
        let frame_bytes = header.frame_bytes();
        debug_assert_eq!(frame_bytes - HEADER_BYTES, parts.iter().map(|part| part.len()).sum::<usize>());
        if self.chunks.back().is_none_or(|chunk| chunk.capacity() - chunk.len() < frame_bytes) {
            self.add_chunk(frame_bytes);
        }
        let chunk = self.chunks.back_mut().expect("a chunk was just made sure of");
        chunk.extend_from_slice(&header.encode());
        for part in parts {
            chunk.extend_from_slice(part);
        }
        self.end += 1;
        self.pending_bytes += frame_bytes;
    }

    /// Moves the next frames to `out`: whole ones, at most `out_bytes_max` bytes in all (but at
    /// least one frame), and no more in flight than `window_bytes` (but a longer frame goes when
    /// nothing else is in flight). Says whether any were moved.
    pub(crate) fn fill(&mut self, out: &mut Vec<u8>, out_bytes_max: usize, window_bytes: usize) -> bool {
        let before = out.len();
        while self.sent < self.end {
            let chunk = &self.chunks[self.sent_chunk];
            let start = self.sent_offset;
            let mut stop = start;
            while stop < chunk.len() {
                let frame_bytes = frame_bytes_at(chunk, stop);
                let batch_bytes = stop - start + frame_bytes;
                let first = out.len() == before && stop == start;
                let alone = first && self.in_flight_bytes == 0;
                if (self.in_flight_bytes + batch_bytes > window_bytes && !alone)
                    || (out.len() + batch_bytes > out_bytes_max && !first)
                {
                    break;
                }
                stop += frame_bytes;
                self.sent += 1;
            }
            out.extend_from_slice(&chunk[start..stop]);
            self.in_flight_bytes += stop - start;
            self.pending_bytes -= stop - start;
            self.sent_offset = stop;
            if stop < chunk.len() {
                break;
            }
            if self.sent_chunk + 1 < self.chunks.len() {
                self.sent_chunk += 1;
                self.sent_offset = 0;
            }
        }
        out.len() > before
    }

    /// Drops the frames before `position`. Err if they have not been sent, or `position` goes
    /// back.
    pub(crate) fn ack(&mut self, position: u64) -> Result<(), OutOfRange> {
        if !(self.acked..=self.sent).contains(&position) {
            return Err(OutOfRange { from: self.acked, to: self.sent });
        }
        while self.acked < position {
            let chunk = self.chunks.front().expect("unacknowledged frames lie in a chunk");
            let frame_bytes = frame_bytes_at(chunk, self.acked_offset);
            self.acked_offset += frame_bytes;
            self.in_flight_bytes -= frame_bytes;
            self.acked += 1;
            if self.acked_offset == chunk.len() {
                self.drop_front();
            }
        }
        Ok(())
    }

    /// Starts over on a new TCP connection: the peer has the frames before `position`, all later
    /// ones will be sent again. Err as for [`Self::ack`], except that what any connection of the
    /// session has carried counts as sent.
    pub(crate) fn resume(&mut self, position: u64) -> Result<(), OutOfRange> {
        if !self.known().contains(&position) {
            return Err(OutOfRange { from: self.acked, to: self.sent_ever() });
        }
        self.sent_before = self.sent_ever();
        self.in_flight_bytes += self.pending_bytes;
        self.pending_bytes = 0;
        self.sent = self.end;
        self.ack(position).expect("the range was checked");
        self.sent = self.acked;
        self.sent_chunk = 0;
        self.sent_offset = self.acked_offset;
        self.pending_bytes = self.in_flight_bytes;
        self.in_flight_bytes = 0;
        Ok(())
    }

    /// Frames sent on any TCP connection of the session.
    fn sent_ever(&self) -> u64 {
        self.sent.max(self.sent_before)
    }

    /// The positions that the peer can be at.
    pub(crate) fn known(&self) -> std::ops::RangeInclusive<u64> {
        self.acked..=self.sent_ever()
    }

    /// Frames acknowledged by the peer.
    pub(crate) fn acked(&self) -> u64 {
        self.acked
    }

    /// Frames sent on the present TCP connection, or acknowledged.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Frames queued since the session began.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Bytes that have not been sent.
    pub(crate) fn pending_bytes(&self) -> usize {
        self.pending_bytes
    }

    /// Bytes that have been sent and not acknowledged.
    #[cfg(test)]
    pub(crate) fn in_flight_bytes(&self) -> usize {
        self.in_flight_bytes
    }

    fn add_chunk(&mut self, frame_bytes: usize) {
        let mut chunk = std::mem::take(&mut self.spare);
        if chunk.capacity() < frame_bytes {
            chunk = Vec::with_capacity(frame_bytes.max(CHUNK_BYTES));
        }
        // What has been sent ends at the end of the last chunk: go on in the new one.
        if self.sent == self.end && !self.chunks.is_empty() {
            self.sent_chunk = self.chunks.len();
            self.sent_offset = 0;
        }
        self.chunks.push_back(chunk);
    }

    /// The first chunk is acknowledged to its end.
    fn drop_front(&mut self) {
        self.acked_offset = 0;
        let mut chunk = self.chunks.pop_front().expect("there is a first");
        if self.sent_chunk == 0 {
            // Frame `sent` starts where this chunk ended, which is the start of the next.
            self.sent_offset = 0;
        } else {
            self.sent_chunk -= 1;
        }
        if chunk.capacity() <= CHUNK_BYTES && self.spare.capacity() == 0 {
            chunk.clear();
            self.spare = chunk;
        }
    }
}

/// A position outside of what the peer may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfRange {
    pub(crate) from: u64,
    pub(crate) to: u64,
}

#[inline]
fn frame_bytes_at(chunk: &[u8], offset: usize) -> usize {
    let length = chunk[offset..].first_chunk::<4>().expect("a frame starts with its header");
    HEADER_BYTES + u32::from_be_bytes(*length) as usize
}
