//! A worker is given up: its connections go to others, and what it had not acknowledged follows.
//!
//! * A walk over the table gives each connection of the failed worker to another one. Walks of
//!   several workers may overlap; whatever they leave stands in one list, `unacked`, older frames
//!   first.
//! * When no walk is under way, each frame goes to the list of the link that has its connection now,
//!   and from there, within the link's window, to its queue. So no frame is ever appended to the queue of
//!   a link that has no session, or whose connections are being given away.
//! * Clients of a link are not read before its list is empty: what they send comes behind it.
//! * A further failure takes the link's queue and list back, before all that still waits.

use std::{collections::BTreeMap, iter};

use roost_protocol::{
    ConnectionId, Reason, hash,
    link::{
        Header, LinkType, Relay,
        header::{FLAG_ALL, FLAG_DIRECT, FLAG_RESENT},
    },
};

use super::Routing;
use crate::{
    core::{
        config::NoWorkerPolicy,
        connection::Connections,
        context::Context,
        index::{Slot, WorkerIndex},
        link::{Piece, frames_in},
        record::{State, flag},
        stats::Stat,
    },
    op::Io,
};

impl Routing {
    /// Whether connections are being given to other workers, or it is not yet known who has what
    /// they had sent.
    #[inline]
    pub(super) fn is_failing_over(&self) -> bool {
        self.failovers > 0 || !self.unacked.is_empty()
    }

    /// Whether the worker of the connection in a slot failed, and it has not been given to another one yet.
    pub(super) fn awaits_failover(&self, worker: WorkerIndex, slot: u32) -> bool {
        !self.link(worker).has_session() || self.record(worker).failover.is_some_and(|cursor| slot >= cursor)
    }

    /// A worker's session has ended: what it had and had not acknowledged goes to others.
    pub(super) fn fail_over(
        &mut self,
        ctx: &Context,
        connections: &Connections,
        worker: WorkerIndex,
        unacked: &[u8],
    ) {
        self.owners.forget();
        self.look_at_waiting();
        let unacked = without_answered(connections, worker, unacked);
        for (header, payload) in frames_in(&unacked) {
            // No worker knows of a connection whose OPEN has yet to be sent again.
            let is_open = header.link_type == LinkType::Open;
            if is_open && self.new_worker(connections, header, payload).is_some() {
                self.unsent_opens.insert(header.connection.to_bits());
            }
        }
        self.unacked.prepend(unacked);
        // Connections that an earlier walk has given back to this worker are visited again.
        self.failovers += u32::from(self.record_mut(worker).failover.replace(0).is_none());
        if self.links.iter().all(|(_, link)| !link.has_session()) {
            self.workerless_since_ms = ctx.now_ms;
        }
    }

    /// A bounded part of a failed worker's walk. Returns whether more is left.
    pub(super) fn run_failover(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        connections: &mut Connections,
        failed: WorkerIndex,
    ) -> bool {
        let Some(from) = self.record(failed).failover else { return false };
        let to = (from + ctx.cfg.bounds.routing_visits).min(connections.high_water());
        let is_back = self.link(failed).has_session();
        let served = is_back || self.links.iter().any(|(_, link)| link.takes_frames());
        if !served && self.no_worker_due_ms(ctx).is_none_or(|due_ms| ctx.now_ms < due_ms) {
            // Nobody to go to: the connections wait, unread.
            return false;
        }
        for slot in Slot::range(from, to) {
            let hot = connections.hot(slot);
            if hot.has_session() && hot.worker() == failed {
                if served {
                    self.reassign(io, ctx, connections, slot, failed);
                } else {
                    connections.refuse(io, ctx, self, slot, Reason::NoWorker);
                }
            }
            self.record_mut(failed).failover = Some(slot.get() + 1);
        }
        if to == connections.high_water() {
            self.record_mut(failed).failover = None;
            self.links[failed.link()].end_failover();
            // It may be back, and counts as up from now on.
            self.owners.forget();
            self.failovers -= 1;
        }
        true
    }

    /// When connections that no worker has taken are told so; none while a worker is there that may
    /// take them.
    pub(super) fn no_worker_due_ms(&self, ctx: &Context) -> Option<u64> {
        if self.failovers == 0 || self.links.iter().any(|(_, link)| link.has_session()) {
            return None;
        }
        let patience_ms = match ctx.cfg.no_worker {
            // So long a client may be without traffic anyway.
            NoWorkerPolicy::Wait => ctx.cfg.handshake_timeout_ms.max(ctx.cfg.idle_timeout_ms),
            NoWorkerPolicy::Refuse => 0,
        };
        Some(self.workerless_since_ms + u64::from(patience_ms))
    }

    /// The worker for a connection of a failed one, which may itself be back.
    fn failover_target(&self, routing_hash: u64, failed: WorkerIndex) -> Option<WorkerIndex> {
        let owner = self.route_any(routing_hash);
        let back = self.link(failed);
        if !back.has_session() {
            return owner;
        }
        if back.is_leaving() {
            // One that wants to leave, or should, is better than none.
            return owner.or(Some(failed));
        }
        // It takes no frames before the walk has ended; yet then it owns what it owned.
        let up = owner.filter(|&owner| self.link(owner).is_routable());
        let both = up.into_iter().chain([failed]).map(|worker| (worker, self.link(worker).worker_hash()));
        hash::rendezvous(hash::partition_of(routing_hash), both)
    }

    fn reassign(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        connections: &mut Connections,
        slot: Slot,
        failed: WorkerIndex,
    ) {
        let hot = connections.hot(slot);
        if hot.has(flag::MOVING) {
            // Its MOVED will never come; it goes where it was going.
            if hot.has(flag::BLOCKED) {
                self.record_mut(failed).blocked.push_back((slot.get(), hot.generation()));
            }
            connections.end_move(slot);
        }
        let worker = self.failover_target(connections.cold(slot).routing_hash(), failed);
        let worker = worker.expect("the walk runs only while a worker takes frames");
        self.assign(io, ctx, connections, slot, worker);
    }

    /// Sends a bounded part of what failed workers left again. Returns whether more can be.
    pub(super) fn run_resends(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        connections: &Connections,
    ) -> bool {
        let shares = self.failovers == 0 && !self.unacked.is_empty();
        let mut busy = shares && self.share_unacked(ctx, connections);
        for link in self.links.indices() {
            busy |= self.resend(io, ctx, connections, link.worker());
        }
        busy
    }

    /// Gives frames to the links that have their connections now. Returns whether more are left.
    fn share_unacked(&mut self, ctx: &Context, connections: &Connections) -> bool {
        let mut unacked = std::mem::take(&mut self.unacked);
        for _ in 0..ctx.cfg.bounds.resends {
            let Some((mut header, payload)) = unacked.front() else { break };
            match self.new_worker(connections, header, payload) {
                Some(worker) => {
                    header.flags |= FLAG_RESENT;
                    self.links[worker.link()].resend_mut().push(header, payload);
                }
                None => self.leave_out(ctx, header),
            }
            unacked.pop();
        }
        self.unacked = unacked;
        !self.unacked.is_empty()
    }

    /// The worker that is to have a frame of a failed session; none if nobody is.
    fn new_worker(&self, connections: &Connections, header: Header, payload: &[u8]) -> Option<WorkerIndex> {
        let hot = |connection| connections.find(connection).map(|slot| connections.hot(slot));
        match header.link_type {
            // An OPEN that was answered, though not acknowledged, has become a REOPEN.
            LinkType::Open => {
                let hot = hot(header.connection)?;
                (hot.state() == State::Opening).then_some(hot.worker())
            }
            LinkType::Data => {
                let hot = hot(header.connection)?;
                hot.has_session().then_some(hot.worker())
            }
            // It was for this session, or the others have theirs.
            LinkType::Relay if header.flags & (FLAG_DIRECT | FLAG_ALL) != 0 => None,
            LinkType::Relay => self.route_any(Relay::decode(payload).ok()?.routing_hash),
            // The new worker never knew the connection, or has its own REOPEN.
            _ => None,
        }
    }

    fn leave_out(&mut self, ctx: &Context, header: Header) {
        match header.link_type {
            LinkType::Open => drop(self.unsent_opens.remove(&header.connection.to_bits())),
            LinkType::Relay if header.flags & FLAG_DIRECT != 0 => ctx.stats.inc(Stat::RelaysOriginGone),
            LinkType::Relay => ctx.stats.inc(Stat::RelaysDropped),
            _ => {}
        }
    }

    /// Appends what waits for a link to its queue, within its window. Returns whether it stopped for
    /// the bound of a turn only.
    fn resend(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        connections: &Connections,
        worker: WorkerIndex,
    ) -> bool {
        let mut left = ctx.cfg.bounds.resends;
        if !self.link(worker).has_resends() {
            return false;
        }
        let mut waiting = std::mem::take(self.links[worker.link()].resend_mut());
        while left > 0 && self.link(worker).has_room() {
            let Some((header, payload)) = waiting.front() else { break };
            left -= 1;
            // Its connection may have ended meanwhile.
            let is_due = header.link_type == LinkType::Relay
                || self.new_worker(connections, header, payload) == Some(worker);
            if is_due {
                self.links[worker.link()].append(io, ctx, header, iter::once(Piece::Bytes(payload)));
                ctx.stats.inc(Stat::FramesResent);
            }
            if header.link_type == LinkType::Open {
                self.unsent_opens.remove(&header.connection.to_bits());
            }
            waiting.pop();
        }
        let busy = left == 0 && !waiting.is_empty();
        *self.links[worker.link()].resend_mut() = waiting;
        busy
    }
}

/// Leaves out of what a failed worker had not acknowledged the messages that its MOVED
/// answered: it had handled them, in order, before their connections went elsewhere
/// (SPEC.md 3.9), and there they would come behind what was said since.
fn without_answered(connections: &Connections, failed: WorkerIndex, unacked: &[u8]) -> Vec<u8> {
    // Of each connection the last two frames that announced a move, by position.
    let mut moves: BTreeMap<u64, [usize; 2]> = BTreeMap::new();
    for (position, (header, _)) in frames_in(unacked).enumerate() {
        if header.link_type == LinkType::Closed && header.aux_reason() == Reason::Moved {
            let latest = moves.entry(header.connection.to_bits()).or_default();
            *latest = [latest[1], position];
        }
    }
    let answered_until = |connection: ConnectionId| {
        let [before, last] = moves.get(&connection.to_bits()).copied().unwrap_or_default();
        // The answer to the last one may still have been on its way.
        let is_moving = connections.find(connection).is_some_and(|slot| {
            let hot = connections.hot(slot);
            hot.worker() == failed && hot.has(flag::MOVING)
        });
        if is_moving { before } else { last }
    };
    let mut kept = Vec::with_capacity(unacked.len());
    let mut rest = unacked;
    for (position, (header, _)) in frames_in(unacked).enumerate() {
        let (frame, after) = rest.split_at(header.frame_bytes());
        rest = after;
        if header.link_type != LinkType::Data || position >= answered_until(header.connection) {
            kept.extend_from_slice(frame);
        }
    }
    kept
}
