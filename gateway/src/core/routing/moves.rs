//! Moves: a connection goes to its owner when the workers that are up have changed, because one returns or
//! leaves in order. Clients notice nothing.

use std::iter;

use roost_protocol::{
    Reason,
    link::{Header, LinkType, Reopen},
};

use super::Routing;
use crate::{
    core::{
        connection::Connections,
        context::Context,
        index::{Slot, WorkerIndex},
        link::Piece,
        record::{State, flag},
        stats::Stat,
    },
    op::Io,
};

impl Routing {
    /// Which workers are up has changed: whoever is not with its owner is moved. A walk that is under
    /// way ends first, so that one who comes and goes does not keep it from ever ending.
    pub(super) fn start_rebalance(&mut self) {
        self.owners.forget();
        self.look_at_waiting();
        for record in &mut self.workers {
            match record.rebalance {
                Some(1..) => record.rebalance_again = true,
                _ => record.rebalance = Some(0),
            }
        }
    }

    /// Gives a connection to a worker: REOPEN, unless its OPEN is itself to be sent again.
    pub(super) fn assign(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        connections: &mut Connections,
        slot: Slot,
        worker: WorkerIndex,
    ) {
        let old = connections.hot(slot).worker();
        connections.assign(slot, worker);
        self.links[old.link()].remove_connection();
        let link = &mut self.links[worker.link()];
        link.add_connection();
        ctx.stats.inc(Stat::ConnectionsMoved);
        let (hot, cold) = (connections.hot(slot), connections.cold(slot));
        if hot.state() != State::Open {
            return;
        }
        let framing = ctx.cfg.framing(cold.listener()).on_links();
        let reopen = Reopen { routing_hash: cold.routing_hash(), session: hot.session(), framing };
        let header = Header::new(LinkType::Reopen, connections.id(slot), Reopen::PAYLOAD_BYTES as u32);
        let payload = reopen.encode_payload();
        link.append(io, ctx, header.aux(cold.listener()), iter::once(Piece::Bytes(&payload)));
    }

    /// Where the walk of a worker's connections goes on, if the worker may be told of moves.
    fn rebalances_from(&self, worker: WorkerIndex, moving_max: u32) -> Option<u32> {
        self.record(worker).rebalance.filter(|_| self.link(worker).may_move(moving_max))
    }

    /// Moves connections to the workers that own them, a bounded part of the table at a time. Each
    /// link goes on where it stopped: one that waits for answers holds up no other.
    pub(super) fn run_rebalance(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        connections: &mut Connections,
    ) -> bool {
        if self.is_failing_over() {
            // First things first; and a failing worker must not be told of moves.
            return false;
        }
        if !self.owners.is_whole() {
            // Without the table a walk past thousands of connections costs a weight for each of all workers.
            return false;
        }
        let moving_max = ctx.cfg.bounds.moving;
        let mut cursors = self.links.indices().map(|link| self.rebalances_from(link.worker(), moving_max));
        let Some(from) = cursors.by_ref().flatten().min() else { return false };
        let end = connections.high_water();
        let to = (from + ctx.cfg.bounds.routing_visits).min(end);
        for slot in Slot::range(from, to) {
            let worker = connections.hot(slot).worker();
            if self.is_misplaced(connections, slot) && self.link(worker).may_move(moving_max) {
                self.begin_move(io, ctx, connections, slot);
            }
        }
        let mut busy = false;
        for worker in self.links.indices().map(|link| link.worker()) {
            let cursor = self.rebalances_from(worker, moving_max);
            if cursor.is_some_and(|cursor| cursor >= from && cursor <= to) {
                let record = self.record_mut(worker);
                record.rebalance = match to == end {
                    true => std::mem::take(&mut record.rebalance_again).then_some(0),
                    false => Some(to),
                };
            }
            busy |= self.rebalances_from(worker, moving_max).is_some();
        }
        busy
    }

    /// Whether the connection is open and another worker owns it.
    pub(super) fn is_misplaced(&self, connections: &Connections, slot: Slot) -> bool {
        self.may_not_stay(connections, slot, |routing_hash| self.route(routing_hash))
    }

    /// Whether the connection is open and this owner of its hash is another worker.
    fn may_not_stay(
        &self,
        connections: &Connections,
        slot: Slot,
        owner: impl Fn(u64) -> Option<WorkerIndex>,
    ) -> bool {
        let hot = connections.hot(slot);
        let owner = || owner(connections.cold(slot).routing_hash());
        hot.is_open() && !hot.has(flag::MOVING) && owner().is_some_and(|owner| owner != hot.worker())
    }

    /// The owner of a connection that has just opened may have changed since its HELLO: walks leave out
    /// those that are opening, since no worker could take them over. Or its worker has given it another
    /// hash (`rekeyed`): then the owner may be one that wants to leave, as for a HELLO.
    pub(super) fn settle(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        connections: &mut Connections,
        (slot, rekeyed): (Slot, bool),
    ) {
        let is_anothers = rekeyed && self.may_not_stay(connections, slot, |hash| self.route_any(hash));
        if !is_anothers && !self.is_misplaced(connections, slot) {
            return;
        }
        let worker = connections.hot(slot).worker();
        if !self.is_failing_over() && self.link(worker).may_move(ctx.cfg.bounds.moving) {
            return self.begin_move(io, ctx, connections, slot);
        }
        let record = self.record_mut(worker);
        record.rebalance = Some(record.rebalance.map_or(slot.get(), |cursor| cursor.min(slot.get())));
    }

    fn begin_move(&mut self, io: &mut impl Io, ctx: &mut Context, connections: &mut Connections, slot: Slot) {
        connections.begin_move(slot);
        let connection = connections.id(slot);
        let header = Header::new(LinkType::Closed, connection, 0).reason(Reason::Moved);
        let link = &mut self.links[connections.hot(slot).worker().link()];
        link.append(io, ctx, header, iter::empty());
        link.note_move(connection, ctx.now_ms);
    }

    /// MOVED has come: the old worker says no more, the new one takes over.
    pub(super) fn finish_move(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        connections: &mut Connections,
        slot: Slot,
    ) {
        connections.end_move(slot);
        let worker = connections.hot(slot).worker();
        self.links[worker.link()].end_move(connections.id(slot), ctx.now_ms);
        match self.route_any(connections.cold(slot).routing_hash()) {
            Some(worker) => self.assign(io, ctx, connections, slot, worker),
            None => return connections.refuse(io, ctx, self, slot, Reason::NoWorker),
        }
        if connections.hot(slot).has(flag::BLOCKED) {
            connections.resume(io, ctx, self, slot);
        }
    }

    /// Resumes connections that wait for a worker's link; those that hold whole frames first.
    pub(super) fn resume_blocked(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        connections: &mut Connections,
        worker: WorkerIndex,
    ) -> bool {
        if self.is_failing_over() {
            // Each would only be put back.
            return false;
        }
        if self.record(worker).blocked_count() == 0 {
            return false;
        }
        for _ in 0..ctx.cfg.bounds.resumes {
            if !(self.link(worker).has_credit() || self.can_scatter(worker)) {
                return false;
            }
            let record = self.record_mut(worker);
            let next = record.holding.pop_front().or_else(|| record.blocked.pop_front());
            let Some((slot, generation)) = next else { return false };
            let slot = Slot::new(slot);
            let hot = connections.hot(slot);
            if hot.generation() == generation && hot.has(flag::BLOCKED) && !hot.has(flag::MOVING) {
                // It may be routed elsewhere by now; `read` blocks it there if need be.
                connections.resume(io, ctx, self, slot);
            }
        }
        self.record(worker).blocked_count() > 0
    }

    /// After a failover the list of a worker that is still gone holds connections of others.
    fn can_scatter(&self, worker: WorkerIndex) -> bool {
        !self.link(worker).has_session() && self.record(worker).failover.is_none()
    }
}
