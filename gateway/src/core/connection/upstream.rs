//! What connections need of whoever knows the workers.
//!
//! The data path calls this directly, and it is inlined: nothing is queued for a message.

use std::net::SocketAddr;

use roost_protocol::{ConnectionId, Reason, edge::Hello};

use crate::{
    core::{context::Context, index::WorkerIndex, span::Span},
    op::Io,
};

/// A client that has said HELLO.
pub(crate) struct Newcomer<'a> {
    pub(crate) connection: ConnectionId,
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) listener: u16,
    pub(crate) hello: Hello<'a>,
}

/// What becomes of a HELLO.
pub(crate) enum Greeting {
    /// OPEN is queued for this worker, which owns this hash.
    Opening { worker: WorkerIndex, routing_hash: u64 },
    /// No worker is up, or its queue is full: the HELLO is to wait.
    Wait,
    /// It is not served.
    Refuse(Reason),
}

/// A connection with a session that ends.
#[derive(Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) connection: ConnectionId,
    pub(crate) worker: WorkerIndex,
    /// The worker was to let it go: it has had its CLOSED.
    pub(crate) moving: bool,
    pub(crate) reason: Reason,
}

/// Workers, as connections see them.
pub(crate) trait Upstream {
    /// A client has said HELLO.
    fn hello(&mut self, io: &mut impl Io, ctx: &mut Context, newcomer: &Newcomer<'_>) -> Greeting;

    /// A client's HELLO waits (`true`), or does no more.
    fn waits(&mut self, waits: bool);

    /// Whether what a worker's client sends can be queued now.
    fn may_forward(&self, worker: WorkerIndex) -> bool;

    /// Whether more of a worker's clients may be read: what they send can be queued now, and none waits
    /// with what has been read already.
    fn may_read(&self, worker: WorkerIndex) -> bool;

    /// A whole MESSAGE, header included, which [`Self::may_forward`] allowed: `bytes` in these spans.
    fn message(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        whose: (ConnectionId, WorkerIndex),
        bytes: u32,
        spans: impl Iterator<Item = Span>,
    );

    /// A connection is not read until its worker has room. `holding`: it has been read, and its frames
    /// wait.
    fn block(&mut self, worker: WorkerIndex, connection: ConnectionId, holding: bool);

    /// A connection with a session has ended.
    fn ended(&mut self, io: &mut impl Io, ctx: &mut Context, ended: Ended);
}
