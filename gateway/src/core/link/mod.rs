//! Links: one per worker, each with a session that outlives its TCP connections.
//!
//! The room knows sockets, frames and sessions, and neither clients' connections nor who is routed where.
//! What happened is returned ([`Arrival`], the frames of a session that has ended); ops and memory come
//! by parameter.
//!
//! * [`state`]: the TCP connection's states and ops.
//! * [`session`]: what survives a break of the TCP connection.
//! * [`links`]: all links of a shard, and what happens when an op completes.
//! * [`roster`]: which worker has which link.
//! * [`routable`]: what whoever routes asks of a link and tells it.
//! * [`dial`]: when a link is dialled, and where next.
//! * [`handshake`]: until a link is up.
//! * [`attend`]: what is due on a link: dials, probes, deadlines, the end of sessions.
//! * [`rx`]: bytes of a worker become frames.
//! * [`append`]: frames for a worker, and which link is given up when memory is short.
//! * [`tx`]: the send queue with retention, acknowledgement and resume.
//! * [`flush`]: what is sent next, and when frames of the worker are acknowledged.
//! * [`hold`]: a worker that is given up again and again is left alone for a while.
//! * [`resend`]: frames of failed sessions, on their way to this worker.
//! * [`moves`]: connections that the worker has yet to let go.

mod append;
mod attend;
mod dial;
mod flush;
mod handshake;
mod hold;
#[cfg(any(test, feature = "sim"))]
pub mod inspect;
#[cfg(any(test, feature = "sim"))]
mod invariants;
mod links;
mod moves;
mod resend;
mod roster;
mod routable;
mod rx;
mod session;
mod state;
pub(crate) mod tx;

use std::{collections::VecDeque, sync::Arc};

pub(crate) use append::Piece;
pub use dial::Redial;
use hold::Hold;
pub(crate) use links::{Links, is_link_op};
use moves::Moves;
pub(crate) use resend::Resend;
use roost_protocol::{
    ConnectionId, hash,
    link::{LinkHello, LinkWelcome},
};
pub(crate) use rx::Arrival;
use rx::Rx;
use session::Session;
pub use state::{LinkState, TRANSITIONS};
use tx::TxQueue;
pub(crate) use tx::frames_in;

use crate::{
    core::{config::WorkerConfig, event::LinkDownCause, index::LinkIndex, stats::LinkStats, transitions},
    op::{Block, Io, Op, Sock, Token},
};

/// What frames that are about no connection carry as its id.
pub(crate) const NO_CONNECTION: ConnectionId = ConnectionId::from_bits(0);

/// One link.
#[derive(Debug)]
pub(crate) struct Link {
    index: LinkIndex,
    state: LinkState,
    /// `op_bit::*`.
    ops: u8,
    /// Bumped whenever the TCP connection is gone.
    generation: u32,
    /// Where its figures are published, and the worker's name.
    stats: Arc<LinkStats>,
    /// What the worker must prove that it knows.
    secret: Option<Vec<u8>>,
    /// The hash of the worker's name in the rendezvous choice.
    worker_hash: u64,
    session: Option<Session>,
    /// The worker asked for its connections to go elsewhere.
    draining: bool,
    /// It did on an earlier TCP connection, and does no longer if it has not said so by then.
    undrains_at_ms: Option<u64>,
    /// The configuration no longer names the worker: its connections go elsewhere, then the link.
    removed: bool,
    /// Nothing of a removed worker is left: the next new one may have its place.
    vacant: bool,
    /// The connections of a session that ended are being given to other workers.
    failing_over: bool,
    tx: TxQueue,
    /// It had no memory left for a frame, or had the most when there was none: its session is to be
    /// given up, and what comes for it until then is kept here.
    overrun: bool,
    overflow: Vec<u8>,
    /// Frames of failed sessions that wait for room in `tx`; they come before what clients send.
    resend: Resend,
    /// Connections that the worker is to let go, in the order in which it was told.
    moves: Moves,
    /// It has not let one of them go in time: the session is to be given up.
    moves_overdue: bool,
    /// Frames outside the session (handshake, ACK, PING, PONG) to send at the next boundary.
    control: Vec<u8>,
    /// The block that `control` is sent from, and how much of it is unsent: offset and length.
    control_send: Option<(Block, u32, u32)>,
    rx: Rx,
    /// Connections routed to this worker.
    connections: u32,
    retry_at_ms: u64,
    backoff_ms: u32,
    /// Addresses that are dialled in turn; 0: none is known, so that it is not dialled.
    addresses: u32,
    /// Of those, dialled without success one after the other.
    tries: u32,
    /// It was not up when its last TCP connection went.
    failed: bool,
    /// It has a new address: the next dial is due as soon as it is down.
    readdressed: bool,
    /// When the worker was last heard, or the session began to miss it.
    heard_at_ms: u64,
    /// Where in the session the worker last broke the protocol.
    error_position: Option<u64>,
    /// It did so twice at the same place: the session is to be given up.
    poisoned: bool,
    /// When the last PING was sent.
    pinged_at_ms: u64,
    /// What LINK_HELLO said on this connection.
    hello: Option<LinkHello>,
    /// Why attempts to bring the link up have failed since it was up, as far as the log knows: the last
    /// causes, as many as there are addresses.
    reported: VecDeque<LinkDownCause>,
    /// Attempts that have failed since it was up.
    failures: u32,
    /// What LINK_WELCOME said on this connection, until the session has begun or goes on.
    welcome: Option<LinkWelcome>,
    /// The worker has said that it does not have the session any more.
    session_lost: bool,
    /// The worker is removed, and another name that leads to the same process waits for this link to
    /// end: nothing more is given to it.
    makes_way: bool,
    /// When this TCP connection was dialled, or refused: what its deadlines count from.
    since_ms: u64,
    /// When the link came up last.
    up_at_ms: u64,
    /// When the session began.
    began_at_ms: u64,
    hold: Hold,
}

impl Link {
    fn new(index: LinkIndex, worker: &WorkerConfig, tx: TxQueue) -> Self {
        Self {
            index,
            stats: Arc::new(LinkStats::new(&worker.name)),
            secret: worker.secret.clone(),
            state: LinkState::Down,
            ops: 0,
            generation: 0,
            worker_hash: hash::worker_hash(worker.name.as_bytes()),
            session: None,
            draining: false,
            undrains_at_ms: None,
            removed: false,
            vacant: false,
            failing_over: false,
            tx,
            overrun: false,
            overflow: Vec::new(),
            resend: Resend::default(),
            moves: Moves::default(),
            moves_overdue: false,
            control: Vec::new(),
            control_send: None,
            rx: Rx::default(),
            connections: 0,
            retry_at_ms: 0,
            backoff_ms: 0,
            addresses: 1,
            tries: 0,
            failed: false,
            readdressed: false,
            heard_at_ms: 0,
            error_position: None,
            poisoned: false,
            pinged_at_ms: 0,
            hello: None,
            reported: VecDeque::new(),
            failures: 0,
            welcome: None,
            session_lost: false,
            makes_way: false,
            since_ms: 0,
            up_at_ms: 0,
            began_at_ms: 0,
            hold: Hold::default(),
        }
    }

    /// Changes the state, as [`TRANSITIONS`] allows.
    fn set_state(&mut self, state: LinkState) {
        assert!(
            transitions::allows(&TRANSITIONS, self.state, state),
            "invariant lifecycle: link {} goes from {:?} to {state:?}",
            self.index,
            self.state
        );
        self.state = state;
    }

    fn sock(&self) -> Sock {
        Sock::Link(self.index.get())
    }

    fn token(&self, kind: u8) -> Token {
        Token::new(kind, u32::from(self.index.get()), self.generation)
    }

    /// Submits an op and sets its bit.
    fn submit(&mut self, io: &mut impl Io, kind: u8, op: Op) {
        let bit = state::bit_of(kind);
        assert_eq!(self.ops & bit, 0, "invariant op-bits: at most one op of a kind per link");
        self.ops |= bit;
        io.submit(self.token(kind), op);
    }
}
