//! Which worker a connection belongs to, and moves when that changes because a worker returns or
//! leaves in order. Clients notice nothing.

use roost_protocol::{
    Reason, hash,
    link::{Header, LinkType, Reopen},
};

use crate::{
    core::{
        event::Event,
        index::{Slot, WorkerIndex},
        link::{Link, LinkState},
        record::{State, flag},
        shard::{ShardCore, admission::Payload},
        stats::Stat,
    },
    op::Io,
};

/// The worker for a routing hash among those that are up.
fn route(links: &[Link], routing_hash: u64) -> Option<WorkerIndex> {
    let up = links.iter().enumerate().filter(|(_, link)| link.is_routable());
    hash::rendezvous(routing_hash, up.map(|(index, link)| (WorkerIndex::new(index as u8), link.worker_hash)))
}

/// Like [`route`], but a worker that wants to leave is better than none.
pub(super) fn route_any(links: &[Link], routing_hash: u64) -> Option<WorkerIndex> {
    route(links, routing_hash).or_else(|| {
        let takes = links.iter().enumerate().filter(|(_, link)| link.takes_frames());
        hash::rendezvous(
            routing_hash,
            takes.map(|(index, link)| (WorkerIndex::new(index as u8), link.worker_hash)),
        )
    })
}

impl ShardCore {
    /// The worker for a routing hash among those that are up.
    pub(super) fn route(&self, routing_hash: u64) -> Option<WorkerIndex> {
        route(&self.links, routing_hash)
    }

    /// Like [`Self::route`], but a worker that wants to leave is better than none.
    pub(super) fn route_any(&self, routing_hash: u64) -> Option<WorkerIndex> {
        route_any(&self.links, routing_hash)
    }

    /// Which workers are up has changed: whoever is not with its owner is moved. A walk that is under
    /// way ends first, so that one who comes and goes does not keep it from ever ending.
    pub(super) fn start_rebalance(&mut self) {
        self.look_at_homeless();
        for link in &mut self.links {
            match link.rebalance {
                Some(1..) => link.rebalance_again = true,
                _ => link.rebalance = Some(0),
            }
        }
    }

    pub(super) fn on_draining(&mut self, index: usize) {
        self.links[index].undrains_at_ms = None;
        self.set_draining(index, true);
    }

    pub(super) fn set_draining(&mut self, index: usize, draining: bool) {
        if std::mem::replace(&mut self.links[index].draining, draining) != draining {
            self.ctx.events.push(Event::Draining { worker: index as u8, draining });
            self.start_rebalance();
        }
    }

    /// DRAINING holds for the TCP connection that it came on. A worker that goes on draining says so
    /// again; until it could have, it is believed to.
    pub(super) fn judge_draining(&mut self, index: usize) {
        let link = &mut self.links[index];
        let due =
            link.state == LinkState::Up && link.undrains_at_ms.is_some_and(|at_ms| self.ctx.now_ms >= at_ms);
        if due {
            link.undrains_at_ms = None;
            self.set_draining(index, false);
        }
    }

    /// Runs a bounded part of failovers, moves and resumptions. Returns whether more is left.
    pub(super) fn run_routing(&mut self, io: &mut impl Io) -> bool {
        let mut busy = false;
        for index in 0..self.links.len() {
            busy |= self.run_failover(io, index);
        }
        busy |= self.run_resends(io);
        busy |= self.run_rebalance(io);
        for index in 0..self.links.len() {
            busy |= self.resume_blocked(io, index);
        }
        busy | self.resume_homeless(io)
    }

    /// Gives a connection to a worker: REOPEN, unless its OPEN is itself to be sent again.
    pub(super) fn assign(&mut self, io: &mut impl Io, slot: Slot, worker: WorkerIndex) {
        let old = usize::from(self.hot(slot).worker());
        self.connections.assign(slot, worker);
        self.links[old].connections -= 1;
        self.links[usize::from(worker)].connections += 1;
        self.ctx.stats.inc(Stat::ConnectionsMoved);
        if self.hot(slot).state() != State::Open {
            return;
        }
        let cold = self.connections.cold(slot);
        let listener = cold.listener();
        let reopen = Reopen { routing_hash: cold.routing_hash(), session: self.hot(slot).session() };
        let header = Header::new(LinkType::Reopen, self.connections.id(slot), Reopen::PAYLOAD_BYTES as u32);
        self.append(io, usize::from(worker), header.aux(listener), Payload::Bytes(&reopen.encode_payload()));
    }

    /// Moves connections to the workers that own them, a bounded part of the table at a time. Each
    /// link goes on where it stopped: one that waits for answers holds up no other.
    fn run_rebalance(&mut self, io: &mut impl Io) -> bool {
        if self.is_failing_over() {
            // First things first; and a failing worker must not be told of moves.
            return false;
        }
        let moving_max = self.ctx.cfg.bounds.moving as usize;
        let goes_on = |link: &Link| link.rebalance.filter(|_| link.may_move(moving_max));
        let Some(from) = self.links.iter().filter_map(goes_on).min() else { return false };
        let end = self.connections.high_water();
        let to = (from + self.ctx.cfg.bounds.routing_visits).min(end);
        for slot in Slot::range(from, to) {
            if self.is_misplaced(slot) && self.link(self.hot(slot).worker()).may_move(moving_max) {
                self.begin_move(io, slot);
            }
        }
        let mut busy = false;
        for link in &mut self.links {
            if goes_on(link).is_some_and(|cursor| cursor >= from && cursor <= to) {
                link.rebalance = match to == end {
                    true => std::mem::take(&mut link.rebalance_again).then_some(0),
                    false => Some(to),
                };
            }
            busy |= goes_on(link).is_some();
        }
        busy
    }

    /// Whether the connection is open and another worker owns it.
    pub(super) fn is_misplaced(&self, slot: Slot) -> bool {
        let hot = self.hot(slot);
        hot.is_open()
            && !hot.has(flag::MOVING)
            && self
                .route(self.connections.cold(slot).routing_hash())
                .is_some_and(|owner| owner != hot.worker())
    }

    /// The owner of a connection that has just opened may have changed since its HELLO: walks leave out
    /// those that are opening, since no worker could take them over.
    pub(super) fn settle(&mut self, io: &mut impl Io, slot: Slot) {
        if !self.is_misplaced(slot) {
            return;
        }
        let index = usize::from(self.hot(slot).worker());
        if !self.is_failing_over() && self.links[index].may_move(self.ctx.cfg.bounds.moving as usize) {
            return self.begin_move(io, slot);
        }
        let link = &mut self.links[index];
        link.rebalance = Some(link.rebalance.map_or(slot.get(), |cursor| cursor.min(slot.get())));
    }

    fn begin_move(&mut self, io: &mut impl Io, slot: Slot) {
        self.connections.begin_move(slot);
        let (header, hot) = (Header::new(LinkType::Closed, self.connections.id(slot), 0), *self.hot(slot));
        let index = usize::from(hot.worker());
        self.append(io, index, header.reason(Reason::Moved), Payload::Bytes(&[]));
        let link = &mut self.links[index];
        link.moves.push((slot.get(), hot.generation()), link.tx.appended_frames(), self.ctx.now_ms);
    }

    /// Gives a worker up that does not answer for a connection that it was to let go: its client is
    /// not read.
    pub(super) fn judge_moves(&mut self, index: usize) {
        while let Some(first) = self.links[index].moves.first() {
            let hot = self.hot(Slot::new(first.slot));
            if hot.generation() == first.generation && hot.has(flag::MOVING) {
                break;
            }
            self.links[index].moves.drop_first();
        }
        let link = &mut self.links[index];
        let due_ms = link.moves.due_ms(self.ctx.cfg.link_failover_ms);
        // Without a TCP connection it cannot answer; how long that may last has its own limit.
        link.moves_overdue |=
            link.state == LinkState::Up && due_ms.is_some_and(|due_ms| self.ctx.now_ms >= due_ms);
    }

    /// MOVED has come: the old worker says no more, the new one takes over.
    pub(super) fn finish_move(&mut self, io: &mut impl Io, slot: Slot) {
        self.connections.end_move(slot);
        let (index, now_ms) = (usize::from(self.hot(slot).worker()), self.ctx.now_ms);
        self.links[index].moves.answered(slot.get(), now_ms);
        match self.route_any(self.connections.cold(slot).routing_hash()) {
            Some(worker) => self.assign(io, slot, worker),
            None => return self.refuse(io, slot, Reason::NoWorker),
        }
        if self.hot(slot).has(flag::BLOCKED) {
            self.resume(io, slot);
        }
    }

    /// Those that hold whole frames first.
    fn resume_blocked(&mut self, io: &mut impl Io, index: usize) -> bool {
        if self.is_failing_over() {
            // Each would only be put back.
            return false;
        }
        for _ in 0..self.ctx.cfg.bounds.resumes {
            if !(self.links[index].has_credit() || self.can_scatter(index)) {
                return false;
            }
            let link = &mut self.links[index];
            let next = link.holding.pop_front().or_else(|| link.blocked.pop_front());
            let Some((slot, generation)) = next else { return false };
            let slot = Slot::new(slot);
            let hot = self.hot(slot);
            if hot.generation() == generation && hot.has(flag::BLOCKED) && !hot.has(flag::MOVING) {
                // It may be routed elsewhere by now; `read` blocks it there if need be.
                self.resume(io, slot);
            }
        }
        !(self.links[index].blocked.is_empty() && self.links[index].holding.is_empty())
    }

    /// After a failover the list of a worker that is still gone holds connections of others.
    fn can_scatter(&self, index: usize) -> bool {
        self.links[index].session.is_none() && self.links[index].failover.is_none()
    }
}
