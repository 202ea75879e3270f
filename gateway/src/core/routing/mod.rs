//! Which worker a connection belongs to, and what becomes of it when workers come, go and fail.
//!
//! The only room that sees both connections and links. Its state is private; connections reach it as an
//! [`Upstream`](crate::core::connection::Upstream).
//!
//! * [`upstream`]: what connections ask and say: HELLO, messages, their ends.
//! * [`opening`]: clients whose HELLO waits for a worker that is up and has room.
//! * [`frames`]: what workers say about connections.
//! * [`owners`]: who owns which partition.
//! * [`attend`]: links are looked at once per turn, and sessions end.
//! * [`moves`]: connections go to their owners when the workers that are up have changed.
//! * [`failover`]: a worker is given up, and others get what it had.
//! * [`broadcast`]: one message for all, a bounded part per turn.

mod attend;
mod broadcast;
mod failover;
mod frames;
#[cfg(any(test, feature = "sim"))]
mod inspect;
#[cfg(any(test, feature = "sim"))]
mod invariants;
mod moves;
mod opening;
mod owners;
mod upstream;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use broadcast::Broadcast;
use opening::Waiting;
use owners::Owners;

use crate::{
    core::{
        connection::Connections,
        context::Context,
        index::{LinkIndex, WorkerIndex},
        link::{Link, Links, Redial, Resend},
        stats::Stat,
    },
    op::{Io, Token},
};

/// What is to be done for the connections of one worker.
#[derive(Debug)]
struct WorkerRecord {
    /// Its session has failed, and its connections are being given to others: slots below this have been
    /// visited.
    failover: Option<u32>,
    /// From which slot on its connections may belong to another worker; none: all are right.
    rebalance: Option<u32>,
    /// Once that walk has ended, it begins anew.
    rebalance_again: bool,
    /// Connections that woke while the link had no credit: slot and generation.
    blocked: VecDeque<(u32, u32)>,
    /// Those of them that hold whole frames, for which there was no room when they came: they go
    /// first, and nobody else is read before. So no more hold frames than receives were in the kernel.
    holding: VecDeque<(u32, u32)>,
    /// A HELLO may wait for this worker: once its link has credit, those that wait are looked at.
    may_be_awaited: bool,
}

impl WorkerRecord {
    const fn new() -> Self {
        Self {
            failover: None,
            rebalance: None,
            rebalance_again: false,
            blocked: VecDeque::new(),
            holding: VecDeque::new(),
            may_be_awaited: true,
        }
    }

    /// Connections that wait for the link.
    fn blocked_count(&self) -> usize {
        self.blocked.len() + self.holding.len()
    }
}

/// The links of a shard, and who is routed where.
pub(crate) struct Routing {
    links: Links,
    /// By the index of the worker's link.
    workers: Vec<WorkerRecord>,
    owners: Owners,
    /// Failed workers whose connections are being given to others.
    failovers: u32,
    /// Frames that failed workers had not acknowledged, until it is known who gets them.
    unacked: Resend,
    /// Connections whose OPEN stands there, or waits to be sent again: no worker knows of them.
    unsent_opens: BTreeSet<u64>,
    /// When the last worker was given up, for as long as there is no other.
    workerless_since_ms: u64,
    waiting: Waiting,
    broadcasts: VecDeque<Broadcast>,
}

impl Routing {
    /// Links to the workers of the configuration, none of them dialled yet.
    pub(crate) fn new(ctx: &mut Context) -> Self {
        let mut routing = Self {
            links: Links::default(),
            workers: Vec::new(),
            owners: Owners::new(),
            failovers: 0,
            unacked: Resend::default(),
            unsent_opens: BTreeSet::new(),
            workerless_since_ms: 0,
            waiting: Waiting::default(),
            broadcasts: VecDeque::new(),
        };
        routing.link_workers(ctx);
        routing
    }

    /// The configuration may have other workers.
    pub(crate) fn configure(&mut self, ctx: &mut Context) {
        self.link_workers(ctx);
        self.start_rebalance();
    }

    fn link_workers(&mut self, ctx: &mut Context) {
        self.links.configure(ctx);
        self.workers.resize_with(self.links.indices().count(), WorkerRecord::new);
    }

    fn link(&self, worker: WorkerIndex) -> &Link {
        &self.links[worker.link()]
    }

    fn record(&self, worker: WorkerIndex) -> &WorkerRecord {
        &self.workers[worker.link().index()]
    }

    fn record_mut(&mut self, worker: WorkerIndex) -> &mut WorkerRecord {
        &mut self.workers[worker.link().index()]
    }

    /// Acts on the completion of a link's op.
    pub(crate) fn on_completion(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        connections: &mut Connections,
        token: Token,
        result: i32,
    ) {
        if let Some(link) = self.links.on_completion(io, ctx, token, result) {
            // What is left stays for the end of the turn.
            self.handle_frames(io, ctx, connections, link);
        }
    }

    /// Runs a bounded part of failovers, moves and resumptions. Returns whether more is left.
    pub(crate) fn run(&mut self, io: &mut impl Io, ctx: &mut Context, connections: &mut Connections) -> bool {
        let mut busy = self.run_owners(ctx);
        if self.failovers > 0 {
            for link in self.links.indices() {
                busy |= self.run_failover(io, ctx, connections, link.worker());
            }
        }
        busy |= self.run_resends(io, ctx, connections);
        busy |= self.run_rebalance(io, ctx, connections);
        for link in self.links.indices() {
            busy |= self.resume_blocked(io, ctx, connections, link.worker());
        }
        busy | self.resume_waiting(io, ctx, connections)
    }

    /// Sends what waits, on every link.
    pub(crate) fn flush(&mut self, io: &mut impl Io, ctx: &mut Context) {
        self.links.flush(io, ctx);
    }

    /// Whether frames of workers that have arrived wait for their turn.
    pub(crate) fn is_behind(&self) -> bool {
        self.links.is_stalled()
    }

    /// Publishes the figures of links.
    pub(crate) fn publish(&self, ctx: &Context) {
        let retained_bytes = self.links.publish(ctx, |link| self.record(link.worker()).blocked_count());
        ctx.stats.set(Stat::LinkRetainedBytes, retained_bytes + self.unacked.bytes());
    }

    /// Says how many addresses the driver gives a link in turn; see
    /// [`ShardCore::set_addresses`](crate::core::ShardCore::set_addresses).
    pub(crate) fn set_addresses(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        index: u16,
        count: usize,
        redial: Redial,
    ) {
        self.links.set_addresses(io, ctx, index, count, redial);
    }

    /// See [`Links::take_broken`].
    pub(crate) fn take_broken(&mut self, each: impl FnMut(u16, bool)) {
        self.links.take_broken(each);
    }

    /// The name of a worker.
    pub(crate) fn worker_name(&self, worker: WorkerIndex) -> &Arc<str> {
        self.link(worker).name()
    }

    /// The link of the worker with this name.
    pub(crate) fn link_of(&self, name: &str) -> Option<LinkIndex> {
        self.links.index_of(name)
    }
}
