//! What happened that somebody may want to read about: the shard loop writes it to the log.

use roost_protocol::{ConnectionId, Reason, link::LinkError};

/// Something worth a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A link's TCP connection is up, with a session that went on or a new one.
    LinkUp {
        /// The worker's index.
        worker: u8,
        /// Whether an earlier session goes on.
        resumed: bool,
    },
    /// A link's TCP connection is gone, or did not come up; the session stays.
    LinkDown {
        /// The worker's index.
        worker: u8,
    },
    /// A worker broke the link protocol; its TCP connection is closed.
    LinkError {
        /// The worker's index.
        worker: u8,
        /// What it did.
        error: LinkError,
    },
    /// A worker's session is given up; its connections go to other workers.
    Failover {
        /// The worker's index.
        worker: u8,
        /// Connections that it had.
        connections: u32,
    },
    /// A connection ended.
    Closed {
        /// Which.
        connection: ConnectionId,
        /// Why.
        reason: Reason,
    },
}

/// Events of one turn, at most so many: a flood must not become a flood of lines.
#[derive(Debug, Default)]
pub(crate) struct Events {
    events: Vec<Event>,
    dropped: u64,
}

/// Events kept per turn.
const EVENTS_MAX: usize = 64;

impl Events {
    pub(crate) fn push(&mut self, event: Event) {
        if self.events.len() < EVENTS_MAX {
            self.events.push(event);
        } else {
            self.dropped += 1;
        }
    }

    /// Takes the events out; also, how many were not kept.
    pub(crate) fn take(&mut self, mut each: impl FnMut(Event)) -> u64 {
        self.events.drain(..).for_each(&mut each);
        std::mem::take(&mut self.dropped)
    }
}
