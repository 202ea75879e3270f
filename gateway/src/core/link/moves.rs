//! Connections that a worker was told to let go, and for which it has yet to answer.

use std::collections::VecDeque;

use roost_protocol::ConnectionId;

/// A connection that its worker was told to give up by CLOSED(moved).
#[derive(Clone, Copy, Debug)]
struct Move {
    connection: ConnectionId,
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
pub(super) struct Moves(VecDeque<Move>);

impl Moves {
    /// Moves under way, and those whose client has gone meanwhile.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    #[cfg(any(test, feature = "sim"))]
    pub(super) fn contains(&self, connection: ConnectionId) -> bool {
        self.0.iter().any(|entry| entry.connection == connection)
    }

    pub(super) fn clear(&mut self) {
        self.0 = VecDeque::new();
    }

    /// CLOSED(moved) of a connection is queued at this position.
    pub(super) fn push(&mut self, connection: ConnectionId, position: u64, now_ms: u64) {
        self.0.push_back(Move { connection, position, since_ms: now_ms });
    }

    /// The connection for which the worker has to answer next.
    pub(super) fn first(&self) -> Option<ConnectionId> {
        self.0.front().map(|first| first.connection)
    }

    /// The first move has ended without an answer.
    pub(super) fn drop_first(&mut self) {
        self.0.pop_front();
    }

    /// The worker has answered for this connection.
    pub(super) fn answered(&mut self, connection: ConnectionId, now_ms: u64) {
        match self.0.iter().position(|entry| entry.connection.slot() == connection.slot()) {
            Some(0) => {
                self.0.pop_front();
                self.touch(now_ms);
            }
            Some(at) => drop(self.0.remove(at)),
            None => {}
        }
    }

    /// The worker has acknowledged what it was sent, up to `acked` from `before`.
    pub(super) fn acknowledged(&mut self, before: u64, acked: u64, now_ms: u64) {
        if acked > before && self.0.front().is_some_and(|first| before < first.position) {
            self.touch(now_ms);
        }
    }

    /// The first move's time begins anew.
    pub(super) fn touch(&mut self, now_ms: u64) {
        if let Some(first) = self.0.front_mut() {
            first.since_ms = first.since_ms.max(now_ms);
        }
    }

    /// When the worker is at fault if the first move has not been answered.
    pub(super) fn due_ms(&self, patience_ms: u32) -> Option<u64> {
        self.0.front().map(|first| first.since_ms + u64::from(patience_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_is_due_when_the_worker_no_longer_gets_on_with_what_comes_before_it() {
        let id = |slot| ConnectionId::new(0, slot, 0);
        let mut moves = Moves::default();
        moves.push(id(1), 5, 100);
        moves.push(id(2), 6, 100);
        moves.push(id(3), 7, 100);
        assert_eq!(moves.due_ms(10), Some(110));
        moves.acknowledged(3, 4, 105);
        assert_eq!(moves.due_ms(10), Some(115), "it gets on");
        moves.acknowledged(4, 5, 107);
        assert_eq!(moves.due_ms(10), Some(117), "it has come as far as the CLOSED");
        moves.acknowledged(5, 9, 110);
        assert_eq!(moves.due_ms(10), Some(117), "what it does for others is no answer");
        moves.answered(id(2), 111);
        assert_eq!((moves.due_ms(10), moves.len()), (Some(117), 2), "nor is that for another one");
        moves.answered(id(1), 112);
        assert_eq!(moves.due_ms(10), Some(122), "the next one is looked at from now on");
        moves.drop_first();
        assert_eq!((moves.len(), moves.due_ms(10)), (0, None));
    }
}
