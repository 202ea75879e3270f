//! What failed sessions left, on its way to other workers; and the moves that a worker has yet to
//! answer.

use std::collections::VecDeque;

use roost_protocol::link::{HEADER_BYTES, Header};

use super::tx::salvaged_frames;

/// Whole frames, one behind the other, that are to be sent again in this order.
#[derive(Debug, Default)]
pub(crate) struct Resend {
    bytes: Vec<u8>,
    /// Where the first frame begins.
    at: usize,
}

impl Resend {
    pub(crate) fn is_empty(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> u64 {
        (self.bytes.len() - self.at) as u64
    }

    /// The first frame.
    pub(crate) fn front(&self) -> Option<(Header, &[u8])> {
        salvaged_frames(&self.bytes[self.at..]).next()
    }

    /// Removes the first frame.
    pub(crate) fn pop(&mut self) {
        if let Some((header, _)) = self.front() {
            self.at += header.frame_bytes();
        }
        if self.is_empty() {
            *self = Self::default();
        }
    }

    /// Adds a frame at the end.
    pub(crate) fn push(&mut self, header: Header, payload: &[u8]) {
        self.bytes.reserve(HEADER_BYTES + payload.len());
        self.bytes.extend(header.encode());
        self.bytes.extend(payload);
    }

    /// Puts frames before all others.
    pub(crate) fn prepend(&mut self, mut first: Vec<u8>) {
        first.extend(&self.bytes[self.at..]);
        *self = Self { bytes: first, at: 0 };
    }

    /// Takes all frames out.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        let mut taken = std::mem::take(self);
        taken.bytes.drain(..taken.at);
        taken.bytes
    }
}

/// A connection that its worker was told to give up by CLOSED(moved).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Move {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
    /// The position of its CLOSED in the session.
    position: u64,
    /// When the worker last got on with what comes before the answer.
    since_ms: u64,
}

/// The moves whose MOVED is awaited, in the order in which the worker has to answer.
///
/// A worker may take long for what it was sent before; so the time of the first move begins anew with
/// every sign that the worker gets on with it.
#[derive(Debug, Default)]
pub(crate) struct Moves(VecDeque<Move>);

impl Moves {
    /// Moves under way, and those whose client has gone meanwhile.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn contains(&self, slot: u32, generation: u32) -> bool {
        self.0.iter().any(|awaited| (awaited.slot, awaited.generation) == (slot, generation))
    }

    pub(crate) fn clear(&mut self) {
        self.0 = VecDeque::new();
    }

    /// CLOSED(moved) of a connection is queued at this position.
    pub(crate) fn push(&mut self, (slot, generation): (u32, u32), position: u64, now_ms: u64) {
        self.0.push_back(Move { slot, generation, position, since_ms: now_ms });
    }

    pub(crate) fn first(&self) -> Option<Move> {
        self.0.front().copied()
    }

    /// The first move has ended without an answer.
    pub(crate) fn drop_first(&mut self) {
        self.0.pop_front();
    }

    /// The worker has answered for this connection.
    pub(crate) fn answered(&mut self, slot: u32, now_ms: u64) {
        match self.0.iter().position(|awaited| awaited.slot == slot) {
            Some(0) => {
                self.0.pop_front();
                self.touch(now_ms);
            }
            Some(at) => drop(self.0.remove(at)),
            None => {}
        }
    }

    /// The worker has acknowledged what it was sent, up to `acked` from `before`.
    pub(crate) fn acknowledged(&mut self, before: u64, acked: u64, now_ms: u64) {
        if acked > before && self.first().is_some_and(|first| before < first.position) {
            self.touch(now_ms);
        }
    }

    /// The first move's time begins anew.
    pub(crate) fn touch(&mut self, now_ms: u64) {
        if let Some(first) = self.0.front_mut() {
            first.since_ms = first.since_ms.max(now_ms);
        }
    }

    /// When the worker is at fault if the first move has not been answered.
    pub(crate) fn due_ms(&self, patience_ms: u32) -> Option<u64> {
        self.first().map(|first| first.since_ms + u64::from(patience_ms))
    }
}

#[cfg(test)]
mod tests {
    use roost_protocol::{ConnectionId, link::LinkType};

    use super::*;

    #[test]
    fn what_failed_later_goes_before_what_it_was_still_to_be_sent() {
        let frame = |slot: u32, payload: &[u8]| {
            let id = ConnectionId::new(0, slot, 0);
            (Header::new(LinkType::Data, id, payload.len() as u32), payload.to_vec())
        };
        let mut resend = Resend::default();
        for (slot, payload) in [(1, b"a".as_slice()), (2, b"bb"), (3, b"")] {
            let (header, payload) = frame(slot, payload);
            resend.push(header, &payload);
        }
        resend.pop();
        let (header, payload) = frame(1, b"a");
        let mut first = header.encode().to_vec();
        first.extend(payload);
        resend.prepend(first);
        let mut order = Vec::new();
        while let Some((header, payload)) = resend.front() {
            order.push((header.connection.slot(), payload.len()));
            resend.pop();
        }
        assert_eq!(order, [(1, 1), (2, 2), (3, 0)]);
        assert!(resend.is_empty() && resend.bytes() == 0 && resend.take().is_empty());
    }

    #[test]
    fn a_move_is_due_when_the_worker_no_longer_gets_on_with_what_comes_before_it() {
        let mut moves = Moves::default();
        moves.push((1, 0), 5, 100);
        moves.push((2, 0), 6, 100);
        moves.push((3, 0), 7, 100);
        assert_eq!(moves.due_ms(10), Some(110));
        moves.acknowledged(3, 4, 105);
        assert_eq!(moves.due_ms(10), Some(115), "it gets on");
        moves.acknowledged(4, 5, 107);
        assert_eq!(moves.due_ms(10), Some(117), "it has come as far as the CLOSED");
        moves.acknowledged(5, 9, 110);
        assert_eq!(moves.due_ms(10), Some(117), "what it does for others is no answer");
        moves.answered(2, 111);
        assert_eq!((moves.due_ms(10), moves.len()), (Some(117), 2), "nor is that for another one");
        moves.answered(1, 112);
        assert_eq!(moves.due_ms(10), Some(122), "the next one is looked at from now on");
        moves.drop_first();
        assert_eq!((moves.len(), moves.due_ms(10)), (0, None));
    }
}
