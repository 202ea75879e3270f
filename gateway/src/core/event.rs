//! What happened that somebody may want to read about: the shard loop writes it to the log.

use roost_protocol::{
    ConnectionId, Reason,
    link::{LinkError, Refusal},
};

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
    /// A link's TCP connection is gone, or did not come up; the session stays. Attempts that fail
    /// one after the other are told of whenever their cause changes, and else at growing intervals.
    LinkDown {
        /// The worker's index.
        worker: u8,
        /// Why.
        cause: LinkDownCause,
        /// Whether the link was up before.
        was_up: bool,
        /// Attempts that have failed since the link was up, with this one.
        failures: u32,
    },
    /// A worker's session will be given up: its queue has the most of what queues share, and that is
    /// used up.
    LinkOverrun {
        /// The worker's index.
        worker: u8,
    },
    /// A worker's session is given up; its connections go to other workers.
    Failover {
        /// The worker's index.
        worker: u8,
        /// Connections that it had.
        connections: u32,
    },
    /// So many workers were named beyond those that links can be had for.
    NoLink {
        /// How many.
        workers: u32,
    },
    /// A worker's sessions are given up one after the other: while others serve, it is not dialled
    /// for a while.
    HeldDown {
        /// The worker's index.
        worker: u8,
        /// Sessions given up in a row.
        times: u32,
        /// For how long, in milliseconds.
        pause_ms: u32,
    },
    /// A worker wants to leave, or no longer does.
    Draining {
        /// The worker's index.
        worker: u8,
        /// Whether it wants to.
        draining: bool,
    },
    /// A connection ended.
    Closed {
        /// Which.
        connection: ConnectionId,
        /// Why.
        reason: Reason,
    },
}

/// Why a link's TCP connection ended, or did not come up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkDownCause {
    /// It could not be dialled.
    Dial {
        /// The errno(3) of connect(2), or of what comes before it; positive.
        errno: i32,
    },
    /// The connect or a step of the handshake took longer than `handshake_timeout_ms`.
    Late(LinkStep),
    /// The worker ended its sending side, or the whole connection, by FIN.
    Eof,
    /// The worker did so after DRAINING, with nothing left to do: it leaves in order.
    Left,
    /// The connection broke.
    Io {
        /// The errno(3) of the receive or send; positive.
        errno: i32,
    },
    /// Nothing came for this long, in milliseconds, although a PING was sent or the session is over.
    Silent(u32),
    /// The worker broke the link protocol.
    Protocol(LinkError),
    /// The worker refused the handshake.
    RefusedByWorker(Refusal),
    /// The gateway refused the handshake, and has said so.
    RefusedByGateway(Refusal),
    /// The gateway has a link to the same worker process under another name, and keeps that one.
    SameWorker {
        /// The index of the worker that has the link.
        other: u8,
    },
    /// The worker says that a session goes on, but not one that this gateway has.
    WrongResume,
    /// It is given up again and again: see [`Event::HeldDown`].
    HeldDown,
    /// The session is given up: the same protocol error came twice at the same place.
    Poisoned,
    /// The session is given up: the worker lives, and has not let a connection go that it was to.
    MovesOverdue,
    /// The configuration does not name the worker any more.
    Removed,
    /// The configuration has another address for the worker.
    Moved,
}

/// What a link that is coming up waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkStep {
    /// The worker's kernel, to accept the connection.
    Connect,
    /// LINK_WELCOME.
    Welcome,
    /// The worker's first frame after LINK_PROOF.
    FirstFrame,
}

/// Events of one turn, of connections at most so many: a flood must not become a flood of lines.
#[derive(Debug, Default)]
pub(crate) struct Events {
    events: Vec<Event>,
    dropped: u64,
}

/// Ends of connections kept per turn.
const EVENTS_MAX: usize = 64;

impl Events {
    pub(crate) fn push(&mut self, event: Event) {
        // What links say is bounded by their number, and is said once.
        if !matches!(event, Event::Closed { .. }) || self.events.len() < EVENTS_MAX {
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
