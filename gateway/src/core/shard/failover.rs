//! A worker is given up: its connections go to others, and what it had not acknowledged follows.
//!
//! * A walk over the table gives each connection of the failed worker to another one. Walks of
//!   several workers may overlap; whatever they leave stands in one list, `salvage`, older frames
//!   first.
//! * When no walk is under way, each frame goes to the list of the link that has its connection now
//!   (`Link::resend`), and from there, within the link's window, to its queue. So no frame is ever
//!   appended to the queue of a link that has no session, or whose connections are being given away.
//! * Clients of a link are not read before its list is empty: what they send comes behind it.
//! * A further failure takes the link's queue and list back, before all that still waits.

use std::collections::BTreeMap;

use roost_protocol::{
    ConnectionId, Reason, hash,
    link::{Header, LinkType, Relay, header::FLAG_RESENT},
};

use crate::{
    core::{
        config::NoWorkerPolicy,
        event::Event,
        index::{Slot, WorkerIndex},
        link::{Failover, Link, tx::salvaged_frames},
        record::{State, flag},
        shard::{ShardCore, admission::Payload},
        stats::{Stat, bump},
    },
    op::Io,
};

/// Whether a connection's worker has failed, behind this link, and it has not been given to another one.
pub(super) fn awaits_failover(link: &Link, slot: u32) -> bool {
    link.session.is_none() || link.failover.as_ref().is_some_and(|failover| slot >= failover.cursor)
}

impl ShardCore {
    /// Whether connections are being given to other workers, or it is not yet known who has what
    /// they had sent.
    #[inline]
    pub(super) fn is_failing_over(&self) -> bool {
        self.walks > 0 || !self.salvage.is_empty()
    }

    /// Whether the connection's worker failed and it has not been given to another one yet.
    pub(super) fn awaits_failover(&self, slot: Slot) -> bool {
        awaits_failover(self.link(self.hot(slot).worker()), slot.get())
    }

    /// Gives a worker up: what it had and had not acknowledged goes to others.
    pub(super) fn fail_session(&mut self, io: &mut impl Io, index: usize) {
        self.ctx.stats.inc(Stat::LinkFailovers);
        self.look_at_homeless();
        let others_serve = self.others_serve(index);
        let link = &mut self.links[index];
        bump(&link.stats.failovers, 1);
        self.ctx.events.push(Event::Failover { worker: index as u8, connections: link.connections });
        // To lose an idle worker costs nobody anything; and one that makes room is not at fault.
        let at_fault = (link.connections > 0 || link.tx.lag_frames() > 0) && !link.yields;
        let lasted_ms = self.ctx.now_ms - link.began_at_ms;
        if at_fault
            && let Some(pause_ms) = link.hold.given_up(self.ctx.now_ms, lasted_ms, self.ctx.cfg.link_hold_ms)
            && others_serve
        {
            let times = link.hold.times();
            self.ctx.events.push(Event::HeldDown { worker: index as u8, times, pause_ms });
        }
        link.session = None;
        (link.error_position, link.hopeless, link.overrun) = (None, false, false);
        (link.lost, link.yields, link.moves_overdue) = (false, false, false);
        link.moves.clear();
        let mut salvage = link.tx.salvage(io, &mut self.ctx.pools);
        salvage.append(&mut link.stranded);
        salvage.append(&mut link.resend.take());
        let salvage = self.without_answered(index, &salvage);
        self.note_unsent_opens(&salvage);
        self.salvage.prepend(salvage);
        // Connections that an earlier walk has given back to this worker are visited again.
        self.walks += u32::from(self.links[index].failover.is_none());
        self.links[index].failover = Some(Failover { cursor: 0 });
        if self.links.iter().all(|link| link.session.is_none()) {
            self.workerless_since_ms = self.ctx.now_ms;
        }
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
            let is_moving = self.connections.find(connection).is_some_and(|slot| {
                let hot = self.hot(slot);
                usize::from(hot.worker()) == index && hot.has(flag::MOVING)
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

    /// No worker knows of a connection whose OPEN has yet to be sent again.
    fn note_unsent_opens(&mut self, salvage: &[u8]) {
        for (header, _) in salvaged_frames(salvage) {
            if header.link_type == LinkType::Open && self.heir(header, &[]).is_some() {
                self.unsent_opens.insert(header.connection.to_bits());
            }
        }
    }

    /// A bounded part of a failed worker's walk. Returns whether more is left.
    pub(super) fn run_failover(&mut self, io: &mut impl Io, index: usize) -> bool {
        let Some(Failover { cursor: from }) = self.links[index].failover else { return false };
        let to = (from + self.ctx.cfg.bounds.routing_visits).min(self.connections.high_water());
        let is_back = self.links[index].session.is_some();
        let served = is_back || self.links.iter().any(|link| link.takes_frames());
        if !served && self.no_worker_due_ms().is_none_or(|due_ms| self.ctx.now_ms < due_ms) {
            // Nobody to go to: the connections wait, unread.
            return false;
        }
        for slot in Slot::range(from, to) {
            if self.hot(slot).has_session() && usize::from(self.hot(slot).worker()) == index {
                if served {
                    self.rehome(io, slot, index);
                } else {
                    self.refuse(io, slot, Reason::NoWorker);
                }
            }
            self.links[index].failover = Some(Failover { cursor: slot.get() + 1 });
        }
        if to == self.connections.high_water() {
            self.links[index].failover = None;
            self.walks -= 1;
        }
        true
    }

    /// When connections that no worker has taken are told so; none while a worker is there that may
    /// take them.
    pub(super) fn no_worker_due_ms(&self) -> Option<u64> {
        if self.walks == 0 || self.links.iter().any(|link| link.session.is_some()) {
            return None;
        }
        let patience_ms = match self.ctx.cfg.no_worker {
            // So long a client may be without traffic anyway.
            NoWorkerPolicy::Wait => self.ctx.cfg.handshake_timeout_ms.max(self.ctx.cfg.idle_timeout_ms),
            NoWorkerPolicy::Refuse => 0,
        };
        Some(self.workerless_since_ms + u64::from(patience_ms))
    }

    /// The worker for a connection of the failed worker `index`, which may itself be back.
    fn refuge(&self, routing_hash: u64, index: usize) -> Option<WorkerIndex> {
        let candidates = self.links.iter().enumerate().filter(|&(i, link)| {
            let back = i == index && link.session.is_some() && !link.draining && !link.retired;
            link.is_routable() || back
        });
        hash::rendezvous(
            routing_hash,
            candidates.map(|(i, link)| (WorkerIndex::new(i as u8), link.worker_hash)),
        )
        .or_else(|| self.route_any(routing_hash))
        // One that wants to leave, or should, is better than none.
        .or_else(|| self.links[index].session.is_some().then_some(WorkerIndex::new(index as u8)))
    }

    fn rehome(&mut self, io: &mut impl Io, slot: Slot, index: usize) {
        if self.hot(slot).has(flag::MOVING) {
            // Its MOVED will never come; it goes where it was going.
            self.connections.end_move(slot);
            if self.hot(slot).has(flag::BLOCKED) {
                let generation = self.hot(slot).generation();
                self.links[index].blocked.push_back((slot.get(), generation));
            }
        }
        let worker = self.refuge(self.connections.cold(slot).routing_hash(), index);
        let worker = worker.expect("the walk runs only while a worker takes frames");
        self.assign(io, slot, worker);
    }

    /// Sends a bounded part of what failed workers left again. Returns whether more can be.
    pub(super) fn run_resends(&mut self, io: &mut impl Io) -> bool {
        let mut busy = self.walks == 0 && self.share_salvage();
        for index in 0..self.links.len() {
            busy |= self.resend(io, index);
        }
        busy
    }

    /// Gives frames to the links that have their connections now. Returns whether more are left.
    fn share_salvage(&mut self) -> bool {
        let mut salvage = std::mem::take(&mut self.salvage);
        for _ in 0..self.ctx.cfg.bounds.resends {
            let Some((mut header, payload)) = salvage.front() else { break };
            match self.heir(header, payload) {
                Some(worker) => {
                    header.flags |= FLAG_RESENT;
                    self.links[usize::from(worker)].resend.push(header, payload);
                }
                None => self.leave_out(header),
            }
            salvage.pop();
        }
        self.salvage = salvage;
        !self.salvage.is_empty()
    }

    /// The worker that is to have a frame of a failed session; none if nobody is.
    fn heir(&self, header: Header, payload: &[u8]) -> Option<WorkerIndex> {
        match header.link_type {
            // An OPEN that was answered, though not acknowledged, has become a REOPEN.
            LinkType::Open => {
                let slot = self.connections.find(header.connection)?;
                (self.hot(slot).state() == State::Opening).then_some(self.hot(slot).worker())
            }
            LinkType::Data => {
                let slot = self.connections.find(header.connection)?;
                self.hot(slot).has_session().then_some(self.hot(slot).worker())
            }
            LinkType::Relay => self.route_any(Relay::decode(payload).ok()?.routing_hash),
            // The new worker never knew the connection, or has its own REOPEN.
            _ => None,
        }
    }

    fn leave_out(&mut self, header: Header) {
        match header.link_type {
            LinkType::Open => drop(self.unsent_opens.remove(&header.connection.to_bits())),
            LinkType::Relay => self.ctx.stats.inc(Stat::RelaysDropped),
            _ => {}
        }
    }

    /// Appends what waits for a link to its queue, within its window. Returns whether it stopped for
    /// the bound of a turn only.
    fn resend(&mut self, io: &mut impl Io, index: usize) -> bool {
        let mut left = self.ctx.cfg.bounds.resends;
        if self.links[index].resend.is_empty() {
            return false;
        }
        let mut waiting = std::mem::take(&mut self.links[index].resend);
        while left > 0 && self.links[index].has_room() {
            let Some((header, payload)) = waiting.front() else { break };
            left -= 1;
            // Its connection may have ended meanwhile.
            let is_due = header.link_type == LinkType::Relay
                || self.heir(header, payload).is_some_and(|worker| usize::from(worker) == index);
            if is_due {
                self.append(io, index, header, Payload::Bytes(payload));
                self.ctx.stats.inc(Stat::FramesResent);
            }
            if header.link_type == LinkType::Open {
                self.unsent_opens.remove(&header.connection.to_bits());
            }
            waiting.pop();
        }
        let busy = left == 0 && !waiting.is_empty();
        self.links[index].resend = waiting;
        busy
    }
}
