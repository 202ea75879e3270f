//! Links: one per worker, each with a session that outlives its TCP connections.
//!
//! * [`tx`]: the send queue with retention, acknowledgement and resume.
//! * [`hold`]: who is given up again and again is left alone for a while.
//! * [`resend`]: what comes from failed sessions, and moves that are not answered yet.
//! * `state` (here): the TCP connection's state and the session's.
//!
//! What a shard does with links (dialling, frames, failover) stands in `core::shard`.

pub(crate) mod hold;
pub(crate) mod resend;
pub(crate) mod tx;

use std::{collections::VecDeque, sync::Arc};

use hold::Hold;
use resend::{Moves, Resend};
use roost_protocol::{
    InstanceId, hash,
    link::{LinkHello, LinkWelcome},
};
use tx::TxQueue;

use crate::{
    core::{config::WorkerConfig, event::LinkDownCause, stats::LinkStats},
    op::Block,
};

/// Where a link's TCP connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LinkState {
    /// No connection; the next dial is due at `retry_at_ms`.
    Down = 1,
    /// A connect is in the kernel.
    Connecting = 2,
    /// LINK_HELLO is sent, LINK_WELCOME awaited.
    Handshaking = 3,
    /// Frames flow.
    Up = 4,
    /// Armed ops are cancelled and joined, then the socket is closed.
    Closing = 5,
    /// LINK_PROOF is sent, the worker's first frame awaited: only that shows that it was accepted.
    Proving = 6,
    /// LINK_REFUSE is on its way; what the worker still says is thrown away.
    Refusing = 7,
}

impl LinkState {
    /// Every state.
    pub const ALL: [LinkState; 7] = [
        Self::Down,
        Self::Connecting,
        Self::Handshaking,
        Self::Up,
        Self::Closing,
        Self::Proving,
        Self::Refusing,
    ];

    /// Whether there is a TCP connection that is of use: bytes go out and come in.
    pub(crate) fn is_connected(self) -> bool {
        matches!(self, Self::Handshaking | Self::Up | Self::Proving | Self::Refusing)
    }
}

/// One bit per op of a link that is in the kernel.
pub(crate) mod link_bit {
    pub(crate) const CONNECT: u8 = 1 << 0;
    pub(crate) const RECV: u8 = 1 << 1;
    pub(crate) const SEND: u8 = 1 << 2;
    pub(crate) const CANCEL: u8 = 1 << 3;
    pub(crate) const CLOSE: u8 = 1 << 4;
}

/// A session with a worker instance: what must survive a break of the TCP connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Session {
    pub(crate) worker: InstanceId,
    /// Sequenced frames of the worker handled so far.
    pub(crate) received: u64,
    /// Of those, acknowledged on this connection.
    pub(crate) acked: u64,
    /// Bytes of the others.
    pub(crate) unacked_bytes: u64,
    /// When the first of the others was handled, if there are any.
    pub(crate) unacked_since_ms: u64,
    /// What the worker grants, and no more than the gateway's own window.
    pub(crate) window_bytes: u32,
}

impl Session {
    /// A session in which nothing has been said yet.
    pub(crate) fn new(worker: InstanceId, window_bytes: u32) -> Self {
        Self { worker, received: 0, acked: 0, unacked_bytes: 0, unacked_since_ms: 0, window_bytes }
    }

    /// A sequenced frame has been handled.
    #[inline]
    pub(crate) fn handled(&mut self, frame_bytes: u32, now_ms: u64) {
        if !self.owes_ack() {
            self.unacked_since_ms = now_ms;
        }
        self.received += 1;
        self.unacked_bytes += u64::from(frame_bytes);
    }

    /// Whether frames have been handled and not acknowledged.
    #[inline]
    pub(crate) fn owes_ack(&self) -> bool {
        self.acked < self.received
    }

    /// The peer has been told of all frames that have been handled.
    pub(crate) fn acknowledged(&mut self) {
        self.acked = self.received;
        self.unacked_bytes = 0;
    }
}

/// A failed session's connections being given to other workers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failover {
    /// Slots below this have been visited.
    pub(crate) cursor: u32,
}

/// What is received on a link.
#[derive(Debug, Default)]
pub(crate) struct Rx {
    /// The block that receives, or whose frames are being handled.
    pub(crate) block: Option<Block>,
    /// Bytes received into the block.
    pub(crate) filled: u32,
    /// Of those, handled.
    pub(crate) handled: u32,
    /// Frames stand in the block, but handling waits (for a broadcast to end, or for its turn).
    pub(crate) stalled: bool,
}

/// Causes of failed attempts that are remembered, at most.
const CAUSES_MAX: u32 = 8;
/// Failed attempts after which one of a known cause is news again; then after twice as many, and so on.
const FAILURES_AGAIN: u32 = 8;

/// One link.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) state: LinkState,
    /// `link_bit::*`.
    pub(crate) ops: u8,
    /// Bumped whenever the TCP connection is gone.
    pub(crate) generation: u32,
    /// Where its figures are published, and the worker's name.
    pub(crate) stats: Arc<LinkStats>,
    /// What the worker must prove that it knows.
    pub(crate) secret: Option<Vec<u8>>,
    /// The worker's hash in the rendezvous choice.
    pub(crate) worker_hash: u64,
    pub(crate) session: Option<Session>,
    /// The worker asked for its connections to go elsewhere.
    pub(crate) draining: bool,
    /// It did on an earlier TCP connection, and does no longer if it has not said so by then.
    pub(crate) undrains_at_ms: Option<u64>,
    /// The configuration no longer names the worker: its connections go elsewhere, then the link.
    pub(crate) retired: bool,
    /// Nothing of a retired worker is left: the next new one may have its place.
    pub(crate) vacant: bool,
    pub(crate) failover: Option<Failover>,
    pub(crate) tx: TxQueue,
    /// It had no memory left for a frame, or had the most when there was none: its session is to be
    /// given up, and what comes for it until then is kept here.
    pub(crate) overrun: bool,
    pub(crate) stranded: Vec<u8>,
    /// Frames of failed sessions that wait for room in `tx`; they come before what clients send.
    pub(crate) resend: Resend,
    /// Connections that the worker is to let go, in the order in which it was told.
    pub(crate) moves: Moves,
    /// It has not let one of them go in time: the session is to be given up.
    pub(crate) moves_overdue: bool,
    /// From which slot on connections of this worker may belong to another one; none: all are right.
    pub(crate) rebalance: Option<u32>,
    /// Once that walk has ended, it begins anew.
    pub(crate) rebalance_again: bool,
    /// Frames outside the session (handshake, ACK, PING, PONG) to send at the next boundary.
    pub(crate) control: Vec<u8>,
    /// The block that `control` is sent from, and how much of it is unsent: offset and length.
    pub(crate) control_send: Option<(Block, u32, u32)>,
    pub(crate) rx: Rx,
    /// Connections that woke while the link had no credit: slot and generation.
    pub(crate) blocked: VecDeque<(u32, u32)>,
    /// Those of them that hold whole frames, for which there was no room when they came: they go
    /// first, and nobody else is read before. So no more hold frames than receives were in the kernel.
    pub(crate) holding: VecDeque<(u32, u32)>,
    /// A HELLO may wait for this link: once it has credit, those that wait are looked at.
    pub(crate) awaited: bool,
    /// Connections routed to this worker.
    pub(crate) connections: u32,
    pub(crate) retry_at_ms: u64,
    pub(crate) backoff_ms: u32,
    /// Addresses that are dialled in turn; 0: none is known, so that it is not dialled.
    pub(crate) addresses: u32,
    /// Of those, dialled without success one after the other.
    pub(crate) tries: u32,
    /// It was not up when its last TCP connection went.
    pub(crate) failed: bool,
    /// It has a new address: the next dial is due as soon as it is down.
    pub(crate) moved: bool,
    /// When the worker was last heard, or the session began to miss it.
    pub(crate) heard_at_ms: u64,
    /// Where in the session the worker last broke the protocol.
    pub(crate) error_position: Option<u64>,
    /// It did so twice at the same place: the session is to be given up.
    pub(crate) hopeless: bool,
    /// When the last PING was sent.
    pub(crate) pinged_at_ms: u64,
    /// What LINK_HELLO said on this connection.
    pub(crate) hello: Option<LinkHello>,
    /// Why attempts to bring the link up have failed since it was up, as far as the log knows: the last
    /// causes, as many as there are addresses.
    pub(crate) told: VecDeque<LinkDownCause>,
    /// Attempts that have failed since it was up.
    pub(crate) failures: u32,
    /// What LINK_WELCOME said on this connection, until the link is up.
    pub(crate) welcome: Option<LinkWelcome>,
    /// The worker has said that it does not have the session any more.
    pub(crate) lost: bool,
    /// The worker is retired, and another name that leads to the same process waits for this link to
    /// end: nothing more is given to it.
    pub(crate) yields: bool,
    /// When this TCP connection was dialled, or refused: what its deadlines count from.
    pub(crate) since_ms: u64,
    /// When the link came up last.
    pub(crate) up_at_ms: u64,
    /// When the session began.
    pub(crate) began_at_ms: u64,
    pub(crate) hold: Hold,
}

impl Link {
    pub(crate) fn new(worker: &WorkerConfig, tx: TxQueue) -> Self {
        Self {
            stats: Arc::new(LinkStats::new(&worker.name)),
            secret: worker.secret.clone(),
            state: LinkState::Down,
            ops: 0,
            generation: 0,
            worker_hash: hash::routing_hash(worker.name.as_bytes()),
            session: None,
            draining: false,
            undrains_at_ms: None,
            retired: false,
            vacant: false,
            failover: None,
            tx,
            overrun: false,
            stranded: Vec::new(),
            resend: Resend::default(),
            moves: Moves::default(),
            moves_overdue: false,
            rebalance: None,
            rebalance_again: false,
            control: Vec::new(),
            control_send: None,
            rx: Rx::default(),
            blocked: VecDeque::new(),
            holding: VecDeque::new(),
            awaited: true,
            connections: 0,
            retry_at_ms: 0,
            backoff_ms: 0,
            addresses: 1,
            tries: 0,
            failed: false,
            moved: false,
            heard_at_ms: 0,
            pinged_at_ms: 0,
            error_position: None,
            hopeless: false,
            hello: None,
            told: VecDeque::new(),
            failures: 0,
            welcome: None,
            lost: false,
            yields: false,
            since_ms: 0,
            up_at_ms: 0,
            began_at_ms: 0,
            hold: Hold::default(),
        }
    }

    /// The worker's name.
    pub(crate) fn name(&self) -> &str {
        &self.stats.worker
    }

    /// Whether the worker is no longer named, and nothing that it was given or has said is left.
    pub(crate) fn is_left(&self) -> bool {
        self.retired
            && self.state == LinkState::Down
            && self.ops == 0
            && self.session.is_none()
            && self.failover.is_none()
            && self.connections == 0
            && self.blocked.is_empty()
            && self.holding.is_empty()
            && self.stranded.is_empty()
            && self.resend.is_empty()
            && self.tx.retained_bytes() == 0
    }

    /// A TCP connection is gone, or did not come up, for this cause. A worker that cannot be reached is
    /// dialled for ever: it is news when the cause changes, and now and then. Gives, if it is, how many
    /// attempts have failed since the link was up.
    pub(crate) fn is_news(&mut self, cause: LinkDownCause) -> Option<u32> {
        if self.state == LinkState::Up {
            return Some(0);
        }
        self.failures = self.failures.saturating_add(1);
        if self.told.contains(&cause) {
            let again = self.failures >= FAILURES_AGAIN && self.failures.is_power_of_two();
            return again.then_some(self.failures);
        }
        // Each address may fail in its own way.
        self.told.truncate((self.addresses.clamp(1, CAUSES_MAX) - 1) as usize);
        self.told.push_front(cause);
        Some(self.failures)
    }

    /// Whether connections can be routed here: there is a session, and no older one is being
    /// cleared away. Its TCP connection may be broken for the moment.
    pub(crate) fn is_routable(&self) -> bool {
        self.session.is_some() && self.failover.is_none() && !self.draining && !self.retired
    }

    /// Whether frames can be queued for the session.
    pub(crate) fn takes_frames(&self) -> bool {
        self.session.is_some() && self.failover.is_none()
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
        self.session.is_some_and(|session| self.tx.retained_bytes() < u64::from(session.window_bytes))
            && self.failover.is_none()
            && !self.overrun
            && !(self.yields && self.retired)
    }

    /// Whether the worker may be told to let another connection go: it must have all that the
    /// connection has sent, and not have too many to let go already.
    pub(crate) fn may_move(&self, moving_max: usize) -> bool {
        self.takes_frames() && !self.overrun && self.resend.is_empty() && self.moves.len() < moving_max
    }
}
