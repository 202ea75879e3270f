//! What whoever routes asks of a link, and tells it.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use roost_protocol::ConnectionId;

use super::{Link, Resend};

impl Link {
    /// The worker's name.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.stats.worker
    }

    /// The hash of the worker's name in the rendezvous choice.
    pub(crate) fn worker_hash(&self) -> u64 {
        self.worker_hash
    }

    /// The worker owns so many partitions.
    pub(crate) fn publish_partitions(&self, partitions: u32) {
        self.stats.partitions.store(u64::from(partitions), Relaxed);
    }

    /// Whether there is a session.
    pub(crate) fn has_session(&self) -> bool {
        self.session.is_some()
    }

    /// What other workers know the session by; none without one.
    pub(crate) fn origin(&self) -> Option<u64> {
        self.session.map(|session| session.origin)
    }

    /// A connection is routed to this worker from now on.
    pub(crate) fn add_connection(&mut self) {
        self.connections += 1;
    }

    /// A connection of this worker has ended, or goes to another one.
    pub(crate) fn remove_connection(&mut self) {
        self.connections -= 1;
    }

    /// Whether connections can be routed here: there is a session, and no older one is being
    /// cleared away. Its TCP connection may be broken for the moment.
    pub(crate) fn is_routable(&self) -> bool {
        self.takes_frames() && !self.is_leaving()
    }

    /// Whether the worker wants to be left, or should be.
    pub(crate) fn is_leaving(&self) -> bool {
        self.draining || self.removed
    }

    /// Whether frames can be queued for the session.
    pub(crate) fn takes_frames(&self) -> bool {
        self.session.is_some() && !self.failing_over
    }

    /// Whether a frame may be appended that can wait: an OPEN, or what a connection sends. To be asked
    /// for each frame, when it is appended, so the queue has at most a window and the frame that
    /// filled it.
    #[inline]
    pub(crate) fn has_credit(&self) -> bool {
        self.has_room() && self.resend.is_empty()
    }

    /// Whether the queue is within the window: what failed sessions left may go there.
    pub(crate) fn has_room(&self) -> bool {
        let closed = self.failing_over | self.overrun | (self.makes_way & self.removed);
        !closed
            && self.session.is_some_and(|session| self.tx.retained_bytes() < u64::from(session.window_bytes))
    }

    /// Whether frames of failed sessions wait for room here.
    #[inline]
    pub(crate) fn has_resends(&self) -> bool {
        !self.resend.is_empty()
    }

    /// The frames of failed sessions that wait for room here. Whoever takes them out puts them back.
    pub(crate) fn resend_mut(&mut self) -> &mut Resend {
        &mut self.resend
    }

    /// Whether the worker may be told to let another connection go: it must have all that the
    /// connection has sent, and not have too many to let go already.
    pub(crate) fn may_move(&self, moving_max: u32) -> bool {
        self.takes_frames()
            && !self.overrun
            && self.resend.is_empty()
            && self.moves.len() < moving_max as usize
    }

    /// CLOSED(moved) of a connection is the frame that was appended last.
    pub(crate) fn note_move(&mut self, connection: ConnectionId, now_ms: u64) {
        self.moves.push(connection, self.tx.appended_frames(), now_ms);
    }

    /// The worker has let a connection go.
    pub(crate) fn end_move(&mut self, connection: ConnectionId, now_ms: u64) {
        self.moves.answered(connection, now_ms);
    }

    /// Drops the first moves, as long as nobody waits for their end.
    pub(crate) fn drop_moves(&mut self, is_awaited: impl Fn(ConnectionId) -> bool) {
        while self.moves.first().is_some_and(|first| !is_awaited(first)) {
            self.moves.drop_first();
        }
    }

    /// Whether it is looked at how long this connection's move takes.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn is_moving(&self, connection: ConnectionId) -> bool {
        self.moves.contains(connection)
    }

    /// All connections of a session that has ended have gone to others.
    pub(crate) fn end_failover(&mut self) {
        self.failing_over = false;
    }
}
