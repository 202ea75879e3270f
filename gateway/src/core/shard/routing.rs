//! Which worker a connection belongs to, and what happens when that changes: failover when a
//! worker is gone, moves when one returns or leaves in order. Clients notice nothing.

use std::collections::BTreeMap;

use roost_protocol::{
    ConnectionId, Reason, hash,
    link::{Header, LinkType, Relay, Reopen, header::FLAG_RESENT},
};

use crate::{
    core::{
        event::Event,
        link::{Failover, tx::salvaged_frames},
        record::{State, flag},
        shard::{ShardCore, admission::Payload},
        stats::{Stat, bump},
    },
    op::Io,
};

/// A walk over the table that moves connections to the workers they belong to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rebalance {
    cursor: u32,
}

impl ShardCore {
    /// The worker for a routing hash among those that are up.
    pub(super) fn route(&self, routing_hash: u64) -> Option<u8> {
        let up = self.links.iter().enumerate().filter(|(_, link)| link.is_routable());
        hash::rendezvous(routing_hash, up.map(|(index, link)| (index as u8, link.worker_hash)))
    }

    /// Like [`Self::route`], but a worker that wants to leave is better than none.
    pub(super) fn route_any(&self, routing_hash: u64) -> Option<u8> {
        self.route(routing_hash).or_else(|| {
            let takes = self.links.iter().enumerate().filter(|(_, link)| link.takes_frames());
            hash::rendezvous(routing_hash, takes.map(|(index, link)| (index as u8, link.worker_hash)))
        })
    }

    /// Whether what this connection sends can be queued now.
    #[inline]
    pub(super) fn may_forward(&self, slot: u32) -> bool {
        !self.must_hold(slot) && self.link(self.hot(slot).worker).has_credit()
    }

    /// Whether more of this connection may be read: what it sends can be queued now, and nobody
    /// waits with what has been read already.
    pub(super) fn may_read(&self, slot: u32) -> bool {
        self.may_forward(slot) && self.link(self.hot(slot).worker).holding.is_empty()
    }

    /// Whether what this connection has sent must wait, even beyond the window: it is being
    /// moved, or frames that came before it have yet to be re-sent.
    pub(super) fn must_hold(&self, slot: u32) -> bool {
        self.hot(slot).has(flag::MOVING) || self.links.iter().any(|link| link.failover.is_some())
    }

    /// Whether the connection's worker failed and it has not been given to another one yet.
    pub(super) fn awaits_failover(&self, slot: u32) -> bool {
        let link = self.link(self.hot(slot).worker);
        link.session.is_none() && link.failover.is_none()
            || link.failover.as_ref().is_some_and(|failover| slot >= failover.cursor)
    }

    /// Gives a worker up: what it had and had not acknowledged goes to others.
    pub(super) fn fail_session(&mut self, io: &mut impl Io, index: usize) {
        self.stats.inc(Stat::LinkFailovers);
        self.look_at_homeless();
        let link = &mut self.links[index];
        bump(&link.stats.failovers, 1);
        self.events.push(Event::Failover { worker: index as u8, connections: link.connections });
        link.session = None;
        (link.error_position, link.hopeless, link.overrun) = (None, false, false);
        let mut salvage = link.tx.salvage(io, &mut self.pools);
        salvage.append(&mut link.stranded);
        let mut salvage = self.without_answered(index, &salvage);
        if let Some(older) = self.links[index].failover.take() {
            // A failover was under way: connections beyond its cursor still wait, and what they
            // had sent comes first. Those before it are visited again, which is harmless.
            let mut all = older.salvage;
            all.append(&mut salvage);
            salvage = all;
        }
        self.links[index].failover = Some(Failover { cursor: 0, salvage });
    }

    /// Leaves out of what the failed worker `index` had not acknowledged the messages that its MOVED
    /// answered: it had handled them, in order, before their connections went elsewhere
    /// (SPEC.md 3.9), and there they would come behind what was said since.
    fn without_answered(&self, index: usize, salvage: &[u8]) -> Vec<u8> {
        // Of each connection the last two frames that announced a move, by position.
        let mut moves: BTreeMap<u64, [usize; 2]> = BTreeMap::new();
        for (position, (header, _)) in salvaged_frames(salvage).enumerate() {
            if header.link_type == LinkType::Closed && header.aux_reason() == Reason::Moved {
                let latest = moves.entry(header.connection.to_bits()).or_default();
                *latest = [latest[1], position];
            }
        }
        let answered_until = |connection: ConnectionId| {
            let [before, last] = moves.get(&connection.to_bits()).copied().unwrap_or_default();
            // The answer to the last one may still have been on its way.
            let is_moving = self.find(connection).is_some_and(|slot| {
                let hot = self.hot(slot);
                usize::from(hot.worker) == index && hot.has(flag::MOVING)
            });
            if is_moving { before } else { last }
        };
        let mut kept = Vec::with_capacity(salvage.len());
        let mut rest = salvage;
        for (position, (header, _)) in salvaged_frames(salvage).enumerate() {
            let (frame, after) = rest.split_at(header.frame_bytes());
            rest = after;
            if header.link_type != LinkType::Data || position >= answered_until(header.connection) {
                kept.extend_from_slice(frame);
            }
        }
        kept
    }

    pub(super) fn start_rebalance(&mut self) {
        self.look_at_homeless();
        self.rebalance = Some(Rebalance { cursor: 0 });
    }

    pub(super) fn on_draining(&mut self, index: usize) {
        self.links[index].draining = true;
        self.start_rebalance();
    }

    /// Runs a bounded part of failovers, moves and resumptions. Returns whether more is left.
    pub(super) fn run_routing(&mut self, io: &mut impl Io) -> bool {
        let mut busy = false;
        for index in 0..self.links.len() {
            busy |= self.run_failover(io, index);
        }
        busy |= self.run_rebalance(io);
        for index in 0..self.links.len() {
            busy |= self.resume_blocked(io, index);
        }
        busy | self.resume_homeless(io)
    }

    fn run_failover(&mut self, io: &mut impl Io, index: usize) -> bool {
        let Some(failover) = &mut self.links[index].failover else { return false };
        let from = failover.cursor;
        let to = (from + self.cfg.bounds.routing_visits).min(self.table.high_water());
        let has_new_session = self.links[index].session.is_some();
        if !has_new_session && !self.links.iter().any(|link| link.takes_frames()) {
            // Nobody to go to: the connections wait, unread.
            return false;
        }
        for slot in from..to {
            self.links[index].failover.as_mut().expect("it runs").cursor = slot + 1;
            if self.hot(slot).has_session() && usize::from(self.hot(slot).worker) == index {
                self.rehome(io, slot, index);
            }
        }
        if to < self.table.high_water() {
            return true;
        }
        let failover = self.links[index].failover.take().expect("it runs");
        self.resend(io, &failover.salvage);
        true
    }

    /// The worker for a connection of the failed worker `index`, which may itself be back.
    fn refuge(&self, routing_hash: u64, index: usize) -> Option<u8> {
        let candidates = self.links.iter().enumerate().filter(|&(i, link)| {
            let back = i == index && link.session.is_some() && !link.draining && !link.retired;
            link.is_routable() || back
        });
        hash::rendezvous(routing_hash, candidates.map(|(i, link)| (i as u8, link.worker_hash)))
            .or_else(|| self.route_any(routing_hash))
            // One that wants to leave, or should, is better than none.
            .or_else(|| self.links[index].session.is_some().then_some(index as u8))
    }

    fn rehome(&mut self, io: &mut impl Io, slot: u32, index: usize) {
        if self.hot(slot).has(flag::MOVING) {
            // Its MOVED will never come; it goes where it was going.
            self.clear_flag(slot, flag::MOVING);
            self.moving -= 1;
            if self.hot(slot).has(flag::BLOCKED) {
                let generation = self.hot(slot).generation;
                self.links[index].blocked.push_back((slot, generation));
            }
        }
        let worker = self.refuge(self.table.cold(slot).routing_hash, index);
        let worker = worker.expect("the walk runs only while a worker takes frames");
        self.assign(io, slot, worker);
    }

    /// Gives a connection to a worker: REOPEN, unless its OPEN is itself to be sent again.
    fn assign(&mut self, io: &mut impl Io, slot: u32, worker: u8) {
        let hot = self.table.hot_mut(slot);
        let old = usize::from(hot.worker);
        hot.worker = worker;
        self.links[old].connections -= 1;
        self.links[usize::from(worker)].connections += 1;
        self.stats.inc(Stat::ConnectionsMoved);
        if self.hot(slot).state() != State::Open {
            return;
        }
        let reopen =
            Reopen { routing_hash: self.table.cold(slot).routing_hash, session: self.hot(slot).session() };
        let header = Header::new(LinkType::Reopen, self.connection_id(slot), Reopen::PAYLOAD_BYTES as u32);
        self.append(io, usize::from(worker), header, Payload::Bytes(&reopen.encode_payload()));
    }

    /// Sends a failed session's frames again, marked, each to where its connection is now.
    fn resend(&mut self, io: &mut impl Io, salvage: &[u8]) {
        for (mut header, payload) in salvaged_frames(salvage) {
            let worker = match header.link_type {
                // An OPEN that was answered, though not acknowledged, has become a REOPEN.
                LinkType::Open => match self.find(header.connection) {
                    Some(slot) if self.hot(slot).state() == State::Opening => Some(self.hot(slot).worker),
                    _ => None,
                },
                LinkType::Data => match self.find(header.connection) {
                    Some(slot) if self.hot(slot).has_session() => Some(self.hot(slot).worker),
                    _ => None,
                },
                LinkType::Relay => {
                    Relay::decode(payload).ok().and_then(|relay| self.route(relay.routing_hash))
                }
                // The new worker never knew the connection, or has its own REOPEN.
                _ => None,
            };
            let Some(worker) = worker else { continue };
            header.flags |= FLAG_RESENT;
            self.append(io, usize::from(worker), header, Payload::Bytes(payload));
            self.stats.inc(Stat::FramesResent);
        }
    }

    fn run_rebalance(&mut self, io: &mut impl Io) -> bool {
        let Some(Rebalance { cursor }) = self.rebalance else { return false };
        if self.links.iter().any(|link| link.failover.is_some()) {
            // First things first; and a failing worker must not be told of moves.
            return false;
        }
        let to = (cursor + self.cfg.bounds.routing_visits).min(self.table.high_water());
        for slot in cursor..to {
            if self.moving >= self.cfg.bounds.moving {
                self.rebalance = Some(Rebalance { cursor: slot });
                return false;
            }
            self.move_if_due(io, slot);
        }
        let done = to == self.table.high_water();
        self.rebalance = (!done).then_some(Rebalance { cursor: to });
        !done
    }

    fn move_if_due(&mut self, io: &mut impl Io, slot: u32) {
        let hot = *self.hot(slot);
        if !hot.is_open() || hot.has(flag::MOVING) {
            return;
        }
        let due = self.route(self.table.cold(slot).routing_hash);
        if due.is_none_or(|worker| worker == hot.worker) {
            return;
        }
        self.set_flag(slot, flag::MOVING);
        self.moving += 1;
        let header = Header::new(LinkType::Closed, self.connection_id(slot), 0).reason(Reason::Moved);
        self.append(io, usize::from(hot.worker), header, Payload::Bytes(&[]));
    }

    /// MOVED has come: the old worker says no more, the new one takes over.
    pub(super) fn finish_move(&mut self, io: &mut impl Io, slot: u32) {
        self.clear_flag(slot, flag::MOVING);
        self.moving -= 1;
        match self.route_any(self.table.cold(slot).routing_hash) {
            Some(worker) => self.assign(io, slot, worker),
            None => return self.refuse(io, slot, Reason::NoWorker),
        }
        if self.hot(slot).has(flag::BLOCKED) {
            self.resume(io, slot);
        }
    }

    /// Those that hold whole frames first.
    fn resume_blocked(&mut self, io: &mut impl Io, index: usize) -> bool {
        for _ in 0..self.cfg.bounds.resumes {
            if !(self.links[index].has_credit() || self.can_scatter(index)) {
                return false;
            }
            let link = &mut self.links[index];
            let next = link.holding.pop_front().or_else(|| link.blocked.pop_front());
            let Some((slot, generation)) = next else { return false };
            let hot = self.hot(slot);
            if hot.generation == generation && hot.has(flag::BLOCKED) && !hot.has(flag::MOVING) {
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
