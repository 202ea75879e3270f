//! HELLO becomes an OPEN to a worker, or waits for one that is up and has room.
//!
//! A client that waits keeps its HELLO in a spill and is not read. Its leaving is noticed by a poll
//! for the end alone, and the sweep ends its wait.

use roost_protocol::{
    Reason,
    edge::{self, Hello, Split},
    hash,
    link::{Header, LinkType, Open},
};

use super::{admission::Payload, receive::Frame};
use crate::{
    core::{
        config::NoWorkerPolicy,
        index::WorkerIndex,
        record::{State, bit, flag},
        shard::{ShardCore, kind},
    },
    op::{Interest, Io, Op, Sock, poll_bits},
};

impl ShardCore {
    pub(super) fn on_hello(&mut self, io: &mut impl Io, slot: u32, frame: Frame) {
        let bytes = self.take_scratch(io, slot, frame);
        match Hello::decode(&bytes[edge::HEADER_BYTES..]) {
            Ok(hello) => {
                let routing_hash = hash::routing_hash(hello.key);
                match self.route_any(routing_hash) {
                    Some(worker) if self.link(worker).has_credit() => {
                        self.open(io, slot, worker, routing_hash, hello);
                    }
                    // Clients may come and go for as long as a worker hangs: what its link retains
                    // must not grow with each.
                    Some(worker) => {
                        self.links[usize::from(worker)].awaited = true;
                        self.wait_for_worker(io, slot, frame);
                    }
                    None => self.on_no_worker(io, slot, frame),
                }
            }
            Err(error) => self.refuse(io, slot, error.reason()),
        }
        self.scratch = bytes;
    }

    fn open(
        &mut self,
        io: &mut impl Io,
        slot: u32,
        worker: WorkerIndex,
        routing_hash: u64,
        hello: Hello<'_>,
    ) {
        let peer = self.take_peer(slot);
        let tick = self.ctx.tick();
        let cold = self.table.cold_mut(slot);
        cold.set_routing_hash(routing_hash);
        let listener = cold.listener();
        let hot = self.table.hot_mut(slot);
        hot.set_worker(worker);
        hot.set_since_tick(tick);
        self.set_state(slot, State::Opening);
        let mut payload = Vec::with_capacity(Open::PAYLOAD_BYTES_MAX);
        Open { routing_hash, peer, key: hello.key, token: hello.token }.encode_payload(&mut payload);
        let header = Header::new(LinkType::Open, self.connection_id(slot), payload.len() as u32);
        self.links[usize::from(worker)].connections += 1;
        self.append(io, usize::from(worker), header.aux(listener), Payload::Bytes(&payload));
    }

    /// No worker is up: the client is refused, or waits.
    fn on_no_worker(&mut self, io: &mut impl Io, slot: u32, frame: Frame) {
        if self.ctx.cfg.no_worker == NoWorkerPolicy::Refuse {
            return self.refuse(io, slot, Reason::NoWorker);
        }
        self.wait_for_worker(io, slot, frame);
    }

    /// The client waits with its HELLO in a spill. It is not read meanwhile, but its leaving is
    /// noticed, and the sweep ends its wait.
    fn wait_for_worker(&mut self, io: &mut impl Io, slot: u32, frame: Frame) {
        if let Frame::Block(span) = frame
            && !self.spill(io, slot, span)
        {
            return;
        }
        self.set_blocked(slot);
        self.homeless += 1;
        self.watch(io, slot);
    }

    /// Whether its HELLO waits for a worker.
    pub(super) fn is_homeless(&self, slot: u32) -> bool {
        let hot = self.hot(slot);
        hot.state() == State::Handshaking && hot.has(flag::BLOCKED)
    }

    /// The worker whose HELLO it is that waits in the spill.
    fn homeless_worker(&mut self, io: &impl Io, slot: u32) -> Option<WorkerIndex> {
        let waiting_bytes = self.spills.bytes(self.hot(slot).spill());
        let bytes = self.take_scratch(io, slot, Frame::Spill(waiting_bytes));
        let worker = match edge::split(&bytes, self.ctx.cfg.frame_bytes_max) {
            Ok(Split::Frame { frame, .. }) => Hello::decode(&frame[edge::HEADER_BYTES..]).ok(),
            _ => None,
        }
        .and_then(|hello| self.route_any(hash::routing_hash(hello.key)));
        self.scratch = bytes;
        worker
    }

    /// Waits for the end of a client that is not read.
    pub(super) fn watch(&mut self, io: &mut impl Io, slot: u32) {
        // The cancel of its accept may still be on its way, and one of the watch could not follow.
        if self.hot(slot).ops() & bit::CANCEL == 0 {
            let sock = Sock::Client(slot);
            self.submit(io, slot, kind::POLL_IN, Op::Poll { sock, interest: Interest::Ended });
        }
    }

    pub(super) fn on_watch(&mut self, io: &mut impl Io, slot: u32, result: i32) {
        match result {
            1.. if result & poll_bits::ERR != 0 => {
                self.set_flag(slot, flag::SHUT);
                self.close(io, slot, Reason::ClientReset, None);
            }
            1.. if result & (poll_bits::RDHUP | poll_bits::HUP) != 0 => {
                self.close(io, slot, Reason::ClientEof, None);
            }
            // Woken for nothing, or out of memory for a moment.
            _ => self.watch(io, slot),
        }
    }

    /// Calls a watch off, so that the connection is read when its poll has ended.
    pub(super) fn unwatch(&mut self, io: &mut impl Io, slot: u32) {
        if self.hot(slot).ops() & bit::POLL_IN != 0 {
            let op = Op::Cancel { sock: Sock::Client(slot), target: self.token(kind::POLL_IN, slot) };
            self.submit(io, slot, kind::CANCEL, op);
        }
    }

    /// Walks the table once round whenever a link that a HELLO may wait for has credit. A list
    /// would grow for as long as clients come and go without a worker.
    pub(super) fn resume_homeless(&mut self, io: &mut impl Io) -> bool {
        for link in &mut self.links {
            if link.awaited && link.has_credit() {
                link.awaited = false;
                self.homeless_left = self.table.high_water();
            }
        }
        if self.homeless == 0 {
            self.homeless_left = 0;
        }
        let mut looked_at = 0;
        for _ in 0..self.ctx.cfg.bounds.routing_visits.min(self.homeless_left) {
            self.homeless_left -= 1;
            let slot = self.homeless_cursor % self.table.high_water();
            self.homeless_cursor = slot + 1;
            if !self.is_homeless(slot) {
                continue;
            }
            match self.homeless_worker(io, slot) {
                Some(worker) if !self.link(worker).has_credit() => {
                    self.links[usize::from(worker)].awaited = true;
                }
                Some(_) => self.resume(io, slot),
                None => {}
            }
            looked_at += 1;
            if looked_at == self.ctx.cfg.bounds.resumes {
                break;
            }
        }
        self.homeless_left > 0
    }

    /// Who routes where has changed: those that wait for one worker may belong to another now.
    pub(super) fn look_at_homeless(&mut self) {
        for link in &mut self.links {
            link.awaited = true;
        }
    }
}
