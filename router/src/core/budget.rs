//! What one call may queue.
//!
//! A call is one callback of a handler, or one push from outside. What the protocol asks for (ACCEPT,
//! REJECT, CLOSE, MOVED) is not counted: a connection causes one of each at most.

/// A bound that a send has met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The queue of the link: the gateway is away, takes nothing, or takes less than it is sent. Later, when
    /// it has caught up, there is room.
    Queue,
    /// The call has queued [`call_bytes_max`](crate::WorkerConfig::call_bytes_max) bytes. A later call, such as
    /// that of a timer, may go on.
    Call,
}

impl Limit {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Queue => "the queue of the link is full",
            Self::Call => "the call has queued as many bytes as it may",
        }
    }
}

/// What a call has queued so far.
#[derive(Debug)]
pub(super) struct Budget {
    /// The number of the call, by which links know what it has queued on them already.
    pub(super) call: u64,
    spent_bytes: usize,
    bytes_max: usize,
}

impl Budget {
    pub(super) fn new(call: u64, bytes_max: usize) -> Self {
        Self { call, spent_bytes: 0, bytes_max }
    }

    /// Whether a frame may be queued on a link on which call `last_call` has queued something last. One
    /// frame may on each link, whatever its length: else a broadcast would end where the budget does.
    #[inline]
    pub(super) fn allows(&self, frame_bytes: usize, last_call: u64) -> bool {
        last_call != self.call || self.spent_bytes.saturating_add(frame_bytes) <= self.bytes_max
    }

    #[inline]
    pub(super) fn spend(&mut self, frame_bytes: usize) {
        self.spent_bytes = self.spent_bytes.saturating_add(frame_bytes);
    }
}
