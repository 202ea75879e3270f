//! What must survive a break of a link's TCP connection.

use roost_protocol::InstanceId;

/// A session with a worker instance. Both sides count sequenced frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Session {
    pub(super) worker: InstanceId,
    /// What other workers' sessions know it by, as the sender of a RELAY: unique in this gateway.
    pub(super) origin: u64,
    /// Sequenced frames of the worker handled so far.
    received: u64,
    /// Of those, acknowledged on this connection.
    pub(super) acked: u64,
    /// Bytes of the others.
    unacked_bytes: u64,
    /// When the first of the others was handled, if there are any.
    unacked_since_ms: u64,
    /// What the worker grants, and no more than the gateway's own window.
    pub(super) window_bytes: u32,
}

impl Session {
    /// A session in which nothing has been said yet.
    pub(super) fn new(worker: InstanceId, origin: u64, window_bytes: u32) -> Self {
        Self { worker, origin, received: 0, acked: 0, unacked_bytes: 0, unacked_since_ms: 0, window_bytes }
    }

    /// Sequenced frames of the worker handled so far.
    #[inline]
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Bytes of handled frames that are not acknowledged.
    pub(super) fn unacked_bytes(&self) -> u64 {
        self.unacked_bytes
    }

    /// When the first frame that is not acknowledged was handled, if there is one.
    pub(super) fn unacked_since_ms(&self) -> u64 {
        self.unacked_since_ms
    }

    /// A sequenced frame has been handled.
    #[inline]
    pub(super) fn handled(&mut self, frame_bytes: u32, now_ms: u64) {
        if !self.owes_ack() {
            self.unacked_since_ms = now_ms;
        }
        self.received += 1;
        self.unacked_bytes += u64::from(frame_bytes);
    }

    /// Whether frames have been handled and not acknowledged.
    #[inline]
    pub(super) fn owes_ack(&self) -> bool {
        self.acked < self.received
    }

    /// The peer has been told of all frames that have been handled.
    pub(super) fn acknowledged(&mut self) {
        self.acked = self.received;
        self.unacked_bytes = 0;
    }
}
