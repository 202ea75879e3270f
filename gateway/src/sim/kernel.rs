//! The fake kernel: executes ops on the simulated network, as unkindly as Linux may.
//!
//! An op is *armed* from its execution until it has ended, and *in flight* until its completion
//! has been reaped. What the gateway must not do (close what is armed, accept into an occupied
//! slot, two sends on one socket) is recorded as a violation, and then happens as it does on
//! Linux: the socket stays without FIN, is replaced silently, the bytes race.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque},
    net::SocketAddr,
};

use crate::{
    op::{Block, Completion, Interest, LinkAddress, Op, Sock, Token, errno, poll_bits},
    sim::{
        faults::Faults,
        memory::Memory,
        net::{ConnId, Net},
        rng::Rng,
    },
};

/// What an address does with a connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dial {
    /// Accepts.
    Accept,
    /// Refuses.
    Refuse,
    /// Never answers; the connect times out.
    BlackHole,
}

/// A worker's listening address.
#[derive(Debug)]
pub struct Endpoint {
    /// Where it is.
    pub address: LinkAddress,
    /// What it does now.
    pub dial: Dial,
    /// Connections that no worker has taken yet.
    pub accepted: VecDeque<ConnId>,
    /// The actor that is woken.
    pub owner: u32,
}

/// Something that happens at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// Bytes, FIN, RST or room arrive.
    Arrive(ConnId),
    /// A slow op gets to its end.
    Finish(u64),
    /// A poll wakes for nothing.
    Spurious(u64),
    /// A completion becomes visible.
    Post(u64),
    /// An actor asked to be woken.
    Actor(u32),
}

/// How far an op is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Armed,
    Ended(i32),
}

#[derive(Debug)]
struct InFlight {
    token: Token,
    op: Op,
    /// The file that the request holds.
    conn: Option<ConnId>,
    phase: Phase,
}

/// The kernel and everything behind it.
#[derive(Debug)]
pub struct World {
    /// The network.
    pub net: Net,
    /// How unkind the kernel is now.
    pub faults: Faults,
    /// Addresses that links can dial.
    pub endpoints: Vec<Endpoint>,
    /// Broken rules, in the order in which they were broken.
    pub violations: Vec<String>,
    /// Bytes a client socket buffers, up and down: drawn from these ranges.
    pub client_buffers: [(u64, u64); 2],
    /// The same for links.
    pub link_buffers: [(u64, u64); 2],
    /// One-way delay of the network in microseconds: drawn from this range per packet.
    pub latency_us: (u64, u64),
    /// Clients that a listener holds before it turns others away.
    pub backlog_max: usize,
    /// Print every op and completion, for reading one seed.
    pub trace: bool,
    /// How often each kind of fault happened.
    pub fault_counts: BTreeMap<&'static str, u64>,
    rng: Rng,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    event_serial: u64,
    ops: BTreeMap<u64, InFlight>,
    op_serial: u64,
    /// Ended ops whose completion is visible.
    posted: VecDeque<u64>,
    backlogs: Vec<VecDeque<ConnId>>,
    slots: Vec<Option<ConnId>>,
    peers: Vec<Option<SocketAddr>>,
    links: BTreeMap<u16, ConnId>,
    link_addresses: BTreeMap<u16, LinkAddress>,
    /// Closed, but a request still holds the file: connection and the ops it waits for.
    unreleased: Vec<(ConnId, Vec<u64>)>,
    slots_per_ring: u32,
}

impl World {
    /// A world with this many listeners and slots.
    pub fn new(mut rng: Rng, listeners: u16, slots: u32, slots_per_ring: u32, faults: Faults) -> Self {
        Self {
            net: Net::new(rng.fork()),
            faults,
            endpoints: Vec::new(),
            violations: Vec::new(),
            client_buffers: [(65_536, 65_536); 2],
            link_buffers: [(262_144, 262_144); 2],
            latency_us: (10, 100),
            backlog_max: 1024,
            trace: false,
            fault_counts: BTreeMap::new(),
            rng,
            events: BinaryHeap::new(),
            event_serial: 0,
            ops: BTreeMap::new(),
            op_serial: 0,
            posted: VecDeque::new(),
            backlogs: (0..listeners).map(|_| VecDeque::new()).collect(),
            slots: vec![None; slots as usize],
            peers: vec![None; slots as usize],
            links: BTreeMap::new(),
            link_addresses: BTreeMap::new(),
            unreleased: Vec::new(),
            slots_per_ring,
        }
    }

    /// Virtual time since the world began, in microseconds.
    pub fn now_us(&self) -> u64 {
        self.net.now_us
    }

    /// Wakes an actor at this time.
    pub fn wake_actor_at(&mut self, at_us: u64, actor: u32) {
        self.schedule(at_us, Event::Actor(actor));
    }

    /// A client connects to a listener; none when its backlog is full.
    pub fn connect(&mut self, listener: u16, owner: u32, addr: Option<SocketAddr>) -> Option<ConnId> {
        if self.backlogs[usize::from(listener)].len() >= self.backlog_max {
            return None;
        }
        let buffers = self.draw_buffers(self.client_buffers);
        let conn = self.net.open(owner, addr, buffers, self.latency_us);
        self.backlogs[usize::from(listener)].push_back(conn);
        self.schedule(self.net.now_us, Event::Arrive(conn));
        self.serve_accepts();
        Some(conn)
    }

    /// Clients in the backlogs.
    pub fn backlog_len(&self) -> usize {
        self.backlogs.iter().map(VecDeque::len).sum()
    }

    /// The connection in this slot.
    pub fn in_slot(&self, slot: u32) -> Option<ConnId> {
        self.slots[slot as usize]
    }

    /// The ops that have not been reaped, by token.
    pub fn in_flight(&self) -> impl Iterator<Item = (Token, Op)> {
        self.ops.values().map(|op| (op.token, op.op))
    }

    /// Ops submitted since the world began.
    pub fn ops_submitted(&self) -> u64 {
        self.op_serial
    }

    /// Closed sockets that a request still keeps alive.
    pub fn unreleased_len(&self) -> usize {
        self.unreleased.len()
    }

    pub(super) fn set_link_address(&mut self, link: u16, address: LinkAddress) {
        self.link_addresses.insert(link, address);
    }

    pub(super) fn peer(&self, slot: u32) -> Option<SocketAddr> {
        self.peers[slot as usize]
    }

    pub(super) fn roll(&mut self, per_mille: u32, fault: &'static str) -> bool {
        let hit = self.rng.chance(per_mille);
        if hit {
            *self.fault_counts.entry(fault).or_default() += 1;
        }
        hit
    }

    pub(super) fn roll_jump(&mut self) -> Option<u64> {
        let hit = self.rng.below(1_000_000) < u64::from(self.faults.jump_per_million);
        hit.then(|| {
            *self.fault_counts.entry("clock jump").or_default() += 1;
            self.rng.range(1, self.faults.jump_us)
        })
    }

    fn draw_buffers(&mut self, [up, down]: [(u64, u64); 2]) -> (usize, usize) {
        (self.rng.log_range(up.0, up.1) as usize, self.rng.log_range(down.0, down.1) as usize)
    }

    fn schedule(&mut self, at_us: u64, event: Event) {
        self.event_serial += 1;
        self.events.push(Reverse((at_us.max(self.net.now_us), self.event_serial, event)));
    }

    /// Prints a line of the trace.
    pub fn note(&self, what: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{:>12.3} ms  {}", self.net.now_us as f64 / 1_000.0, what());
        }
    }

    fn violation(&mut self, what: String) {
        self.violations.push(what);
    }
}

/// Time.
impl World {
    /// When the next event is due.
    pub(super) fn next_event_at(&mut self) -> Option<u64> {
        self.schedule_arrivals();
        self.events.peek().map(|Reverse((at, ..))| *at)
    }

    pub(super) fn advance_to(&mut self, at_us: u64) {
        self.net.now_us = self.net.now_us.max(at_us);
    }

    /// Runs the next event, which must be due. Gives the actor to wake, if any.
    pub(super) fn run_event(&mut self, memory: &mut Memory) -> Option<u32> {
        let Reverse((at, _, event)) = self.events.pop().expect("the caller has seen an event");
        debug_assert!(at <= self.net.now_us);
        match event {
            Event::Arrive(conn) => {
                self.net.settle(conn);
                self.retry_armed(memory, conn);
                return self.net.owner(conn);
            }
            Event::Finish(serial) => self.finish(serial),
            Event::Spurious(serial) => {
                if self.is_armed(serial) {
                    *self.fault_counts.entry("spurious poll").or_default() += 1;
                    self.end(serial, poll_bits::IN);
                }
            }
            Event::Post(serial) => self.posted.push_back(serial),
            Event::Actor(actor) => return Some(actor),
        }
        None
    }

    fn schedule_arrivals(&mut self) {
        for (at, conn) in std::mem::take(&mut self.net.arrivals) {
            self.schedule(at, Event::Arrive(conn));
        }
    }

    /// Visible completions, not yet reaped.
    pub(super) fn has_posted(&self) -> bool {
        !self.posted.is_empty()
    }

    /// Takes visible completions, a bounded number.
    pub(super) fn reap(&mut self, memory: &mut Memory, completions: &mut Vec<Completion>) {
        let from = completions.len();
        let max = (self.rng.range(1, self.faults.reap_max) as usize).min(self.posted.len());
        for _ in 0..max {
            let serial = self.posted.pop_front().expect("counted");
            let done = self.ops.remove(&serial).expect("a completion is reaped once");
            let Phase::Ended(result) = done.phase else { unreachable!("only ended ops are posted") };
            match done.op {
                Op::Recv { block, .. } => memory.end_receive(block),
                Op::Send { block, offset, len, .. } => memory.end_send(block, offset, len),
                _ => {}
            }
            self.note(|| format!("done   {:?} {result}", done.token));
            completions.push(Completion { token: done.token, result });
        }
        let batch = &mut completions[from..];
        if batch.len() > 1 && self.rng.chance(self.faults.reorder) {
            for last in (1..batch.len()).rev() {
                batch.swap(last, self.rng.index(last + 1));
            }
        }
    }
}

/// Ops.
impl World {
    /// Checks an op as it is submitted; it is executed by [`Self::execute`].
    pub(super) fn submit(&mut self, token: Token, op: Op) -> u64 {
        if let Some(twin) = self.ops.values().find(|other| other.token == token) {
            let what = format!("invariant op-bits: {op:?} has the token of {:?}, in flight", twin.op);
            self.violation(what);
        }
        self.check_rules(op);
        self.note(|| format!("submit {token:?} {op:?}"));
        self.op_serial += 1;
        self.ops.insert(self.op_serial, InFlight { token, op, conn: None, phase: Phase::Armed });
        self.op_serial
    }

    fn check_rules(&mut self, op: Op) {
        let Some(sock) = sock_of(op) else { return };
        let mut broken = None;
        for other in self.ops.values().filter(|other| sock_of(other.op) == Some(sock)) {
            match (op, other.op) {
                (Op::Close { .. }, held) => {
                    broken = Some(format!("invariant join-before-close: {op:?} while {held:?} is in flight"));
                }
                (_, Op::Close { .. }) => {
                    broken = Some(format!("invariant join-before-close: {op:?} while a close is in flight"));
                }
                (Op::Accept { .. }, held) | (held, Op::Accept { .. }) => {
                    broken = Some(format!("invariant op-bits: {op:?} while {held:?} is in flight"));
                }
                (Op::Send { .. }, Op::Send { .. }) => {
                    broken = Some(format!("invariant one-send-in-flight: a second send on {sock:?}"));
                }
                (Op::Recv { .. }, Op::Recv { .. })
                | (Op::Connect { .. }, Op::Connect { .. })
                | (Op::Shutdown { .. }, Op::Shutdown { .. }) => {
                    broken = Some(format!("invariant op-bits: {op:?} twice in flight"));
                }
                (Op::Poll { interest: a, .. }, Op::Poll { interest: b, .. }) if a == b => {
                    broken = Some(format!("invariant op-bits: {op:?} twice in flight"));
                }
                _ => {}
            }
        }
        if let Some(broken) = broken {
            self.violation(broken);
        }
    }

    fn is_armed(&self, serial: u64) -> bool {
        self.ops.get(&serial).is_some_and(|op| op.phase == Phase::Armed)
    }

    /// Executes an op for the first time.
    pub(super) fn execute(&mut self, memory: &mut Memory, serial: u64) {
        let InFlight { op, token: _, .. } = self.ops[&serial];
        let conn = sock_of(op).and_then(|sock| self.conn_of(sock));
        self.ops.get_mut(&serial).expect("just read").conn = conn;
        match op {
            Op::Accept { .. } => self.serve_accepts(),
            Op::Poll { .. } => self.arm_poll(serial),
            Op::Recv { wait, .. } | Op::Send { wait, .. } => {
                if let Some(error) = self.roll_transfer_error(wait) {
                    self.end(serial, error);
                } else {
                    self.try_transfer(memory, serial, wait);
                }
            }
            Op::Connect { link } => self.start_connect(serial, link),
            Op::Shutdown { .. } => {
                let delay = self.rng.range(0, self.faults.shutdown_delay_us);
                self.schedule(self.net.now_us + delay, Event::Finish(serial));
            }
            Op::Close { sock } => self.close(serial, sock),
            Op::Cancel { sock, target } => self.cancel(serial, sock, target),
        }
    }

    fn conn_of(&self, sock: Sock) -> Option<ConnId> {
        match sock {
            Sock::Client(slot) => self.slots[slot as usize],
            Sock::Link(link) => self.links.get(&link).copied(),
        }
    }

    /// An armed op ends; its completion becomes visible now or later.
    fn end(&mut self, serial: u64, result: i32) {
        let op = self.ops.get_mut(&serial).expect("an op ends once");
        assert_eq!(op.phase, Phase::Armed, "an op ends once");
        op.phase = Phase::Ended(result);
        let late = self.roll(self.faults.completion_late, "late completion");
        let delay = if late { self.rng.range(0, self.faults.completion_delay_us) } else { 0 };
        self.schedule(self.net.now_us + delay, Event::Post(serial));
        self.release_unheld();
    }

    fn roll_transfer_error(&mut self, wait: bool) -> Option<i32> {
        if self.roll(self.faults.no_memory, "no memory") {
            return Some(-self.rng.pick(&[errno::ENOMEM, errno::ENOBUFS, errno::EINTR]));
        }
        if !wait && self.roll(self.faults.spurious_again, "spurious EAGAIN") {
            return Some(-errno::EAGAIN);
        }
        None
    }

    /// A receive or send: as much as goes now, else it stays armed if it may wait.
    fn try_transfer(&mut self, memory: &mut Memory, serial: u64, wait: bool) {
        let InFlight { op, conn, .. } = self.ops[&serial];
        let Some(conn) = conn else { return self.end(serial, -EBADF) };
        let result = match op {
            Op::Recv { block, offset, len, .. } => self.receive(memory, conn, (block, offset, len)),
            Op::Send { block, offset, len, .. } => self.transmit(memory, conn, (block, offset, len)),
            other => unreachable!("{other:?} moves no bytes"),
        };
        if !(wait && result == -errno::EAGAIN) {
            self.end(serial, result);
        }
    }

    fn receive(&mut self, memory: &mut Memory, conn: ConnId, (block, offset, len): (Block, u32, u32)) -> i32 {
        let short = self.roll(self.faults.short_recv, "short receive");
        let max = if short { self.rng.range(1, u64::from(len.max(1))) } else { u64::from(len) };
        match self.net.recv(conn, max as usize) {
            Ok(bytes) => {
                memory.received(block, offset, &bytes);
                result_of(bytes.len())
            }
            Err(error) => error,
        }
    }

    fn transmit(
        &mut self,
        memory: &mut Memory,
        conn: ConnId,
        (block, offset, len): (Block, u32, u32),
    ) -> i32 {
        match self.net.room(conn) {
            Ok(room) => {
                let mut take = (len as usize).min(room);
                if take > 1 && self.roll(self.faults.short_send, "short send") {
                    take = self.rng.range(1, take as u64) as usize;
                }
                let bytes = memory.sending(block, offset, take as u32).to_vec();
                self.net.send(conn, bytes);
                result_of(take)
            }
            Err(error) => error,
        }
    }

    fn arm_poll(&mut self, serial: u64) {
        if self.ops[&serial].conn.is_none() {
            self.end(serial, -EBADF);
        } else if self.roll(self.faults.poll_error, "poll error") {
            self.end(serial, -errno::ENOMEM);
        } else {
            self.try_poll(serial);
            if self.is_armed(serial) && self.rng.chance(self.faults.poll_spurious) {
                let delay = self.rng.log_range(1, 10_000_000);
                self.schedule(self.net.now_us + delay, Event::Spurious(serial));
            }
        }
    }

    fn try_poll(&mut self, serial: u64) {
        let InFlight { op: Op::Poll { interest, .. }, conn: Some(conn), .. } = self.ops[&serial] else {
            unreachable!("only polls on sockets are tried")
        };
        let wanted = match interest {
            Interest::Readable => poll_bits::IN | poll_bits::RDHUP,
            Interest::Writable => poll_bits::OUT,
            Interest::Ended => poll_bits::RDHUP,
        };
        let bits = self.net.poll(conn) & (wanted | poll_bits::ERR | poll_bits::HUP);
        if bits != 0 {
            self.end(serial, bits);
        }
    }

    /// Something changed on a connection: ops that waited for it may go on.
    fn retry_armed(&mut self, memory: &mut Memory, conn: ConnId) {
        let mut waiting: Vec<u64> = self
            .ops
            .iter()
            .filter(|(_, op)| op.conn == Some(conn) && op.phase == Phase::Armed)
            .map(|(&serial, _)| serial)
            .collect();
        // A poll and a send woken by the same event run in any order.
        if self.rng.chance(self.faults.reorder) {
            waiting.reverse();
        }
        for serial in waiting {
            match self.ops[&serial].op {
                Op::Poll { .. } => self.try_poll(serial),
                Op::Recv { .. } | Op::Send { .. } => self.try_transfer(memory, serial, true),
                _ => {}
            }
        }
    }

    fn finish(&mut self, serial: u64) {
        if !self.is_armed(serial) {
            return;
        }
        match (self.ops[&serial].op, self.ops[&serial].conn) {
            (Op::Shutdown { .. }, Some(conn)) => {
                let result = self.net.shutdown(conn);
                self.end(serial, result);
            }
            (Op::Shutdown { .. }, None) => self.end(serial, -EBADF),
            (Op::Connect { link }, _) => self.finish_connect(serial, link),
            // A cancel that came too late for a target that then never became ready.
            _ => self.end(serial, -errno::ECANCELED),
        }
    }
}

/// Accept, connect, close, cancel.
impl World {
    /// Hands clients of the backlogs to armed accepts.
    fn serve_accepts(&mut self) {
        for listener in 0..self.backlogs.len() {
            loop {
                let armed: Vec<(u64, u32)> = self
                    .ops
                    .iter()
                    .filter_map(|(&serial, op)| match op.op {
                        Op::Accept { slot, listener: on } if usize::from(on) == listener => {
                            (op.phase == Phase::Armed).then_some((serial, slot))
                        }
                        _ => None,
                    })
                    .collect();
                if armed.is_empty() || self.backlogs[listener].is_empty() {
                    break;
                }
                let (serial, slot) = armed[self.rng.index(armed.len())];
                if self.roll(self.faults.accept_error, "accept error") {
                    let error = self.rng.pick(&[
                        errno::ENFILE,
                        errno::EMFILE,
                        errno::ENOMEM,
                        errno::ENOBUFS,
                        errno::ECONNABORTED,
                        errno::EINTR,
                    ]);
                    // A client that aborted is gone; a failure may come after it was taken.
                    if self.roll(self.faults.accept_drops, "accept drop") {
                        let dropped = self.backlogs[listener].pop_front().expect("not empty");
                        self.net.release(dropped);
                    }
                    self.end(serial, -error);
                    continue;
                }
                let conn = self.backlogs[listener].pop_front().expect("not empty");
                self.install(slot, conn);
                self.end(serial, 0);
            }
        }
    }

    fn install(&mut self, slot: u32, conn: ConnId) {
        self.peers[slot as usize] = self.net.addr(conn);
        if let Some(old) = self.slots[slot as usize].replace(conn) {
            // Linux replaces the file without a word.
            self.violation(format!("invariant free-slot-clean: accept into the occupied slot {slot}"));
            self.drop_file(old, slot / self.slots_per_ring);
        }
    }

    fn start_connect(&mut self, serial: u64, link: u16) {
        if self.links.contains_key(&link) {
            self.violation(format!("invariant op-bits: link {link} connects while it has a socket"));
        }
        if self.roll(self.faults.connect_error, "connect error") {
            let error = self.rng.pick(&[errno::ECONNREFUSED, errno::ETIMEDOUT, errno::ENOMEM, errno::EMFILE]);
            self.end(serial, -error);
            return;
        }
        let delay = match self.endpoint(link).map(|endpoint| endpoint.dial) {
            Some(Dial::BlackHole) => 120_000_000,
            _ => 2 * self.rng.range(self.latency_us.0, self.latency_us.1),
        };
        self.schedule(self.net.now_us + delay, Event::Finish(serial));
    }

    fn endpoint(&mut self, link: u16) -> Option<&mut Endpoint> {
        let address = self.link_addresses.get(&link)?;
        self.endpoints.iter_mut().find(|endpoint| endpoint.address == *address)
    }

    fn finish_connect(&mut self, serial: u64, link: u16) {
        match self.endpoint(link).map(|endpoint| (endpoint.dial, endpoint.owner)) {
            Some((Dial::Accept, owner)) => {
                let buffers = self.draw_buffers(self.link_buffers);
                let conn = self.net.open(owner, None, buffers, self.latency_us);
                self.links.insert(link, conn);
                self.endpoint(link).expect("just found").accepted.push_back(conn);
                self.schedule(self.net.now_us, Event::Actor(owner));
                self.end(serial, 0);
            }
            Some((Dial::BlackHole, _)) => self.end(serial, -errno::ETIMEDOUT),
            Some((Dial::Refuse, _)) | None => self.end(serial, -errno::ECONNREFUSED),
        }
    }

    fn close(&mut self, serial: u64, sock: Sock) {
        let (conn, ring) = match sock {
            Sock::Client(slot) => (self.slots[slot as usize].take(), slot / self.slots_per_ring),
            Sock::Link(link) => (self.links.remove(&link), 0),
        };
        match conn {
            Some(conn) => {
                self.drop_file(conn, ring);
                self.end(serial, 0);
            }
            None => self.end(serial, -EBADF),
        }
    }

    /// The descriptor is gone; the socket follows when no request holds the file any more.
    fn drop_file(&mut self, conn: ConnId, ring: u32) {
        let ordered = self.faults.ordered_release;
        let per_ring = self.slots_per_ring;
        let holds = |op: &InFlight| {
            let same_ring = match sock_of(op.op) {
                Some(Sock::Client(slot)) => slot / per_ring == ring && !matches!(op.op, Op::Accept { .. }),
                _ => false,
            };
            let closes = matches!(op.op, Op::Close { .. } | Op::Cancel { .. });
            op.phase == Phase::Armed && !closes && (op.conn == Some(conn) || ordered && same_ring)
        };
        let holders: Vec<u64> =
            self.ops.iter().filter(|(_, op)| holds(op)).map(|(&serial, _)| serial).collect();
        self.unreleased.push((conn, holders));
        self.release_unheld();
    }

    fn release_unheld(&mut self) {
        let mut index = 0;
        while index < self.unreleased.len() {
            let ops = &self.ops;
            let armed = |serial: &u64| ops.get(serial).is_some_and(|op| op.phase == Phase::Armed);
            if self.unreleased[index].1.iter().any(armed) {
                index += 1;
            } else {
                let (conn, _) = self.unreleased.remove(index);
                self.net.release(conn);
            }
        }
    }

    fn cancel(&mut self, serial: u64, sock: Sock, target: Token) {
        let found = self
            .ops
            .iter()
            .find(|(_, op)| op.token == target && op.phase == Phase::Armed && sock_of(op.op) == Some(sock));
        let Some((&victim, op)) = found else { return self.end(serial, -errno::ENOENT) };
        // A shutdown runs in a kernel worker and cannot be stopped any more.
        let running = matches!(op.op, Op::Shutdown { .. });
        if running || self.roll(self.faults.cancel_loses, "cancel loses") {
            if !running {
                // It ends soon by itself, and may still succeed until then.
                let delay = self.rng.range(0, self.faults.completion_delay_us);
                self.schedule(self.net.now_us + delay, Event::Finish(victim));
            }
            self.end(serial, -errno::EALREADY);
        } else if self.rng.chance(500) {
            self.end(victim, -errno::ECANCELED);
            self.end(serial, 0);
        } else {
            self.end(serial, 0);
            self.end(victim, -errno::ECANCELED);
        }
    }
}

/// Bad descriptor (errno(3)): an op on a socket that is not there.
const EBADF: i32 = 9;

/// The socket that an op is about; a cancel is about another op.
fn sock_of(op: Op) -> Option<Sock> {
    match op {
        Op::Accept { slot, .. } => Some(Sock::Client(slot)),
        Op::Connect { link } => Some(Sock::Link(link)),
        Op::Poll { sock, .. }
        | Op::Recv { sock, .. }
        | Op::Send { sock, .. }
        | Op::Shutdown { sock }
        | Op::Close { sock } => Some(sock),
        Op::Cancel { .. } => None,
    }
}

fn result_of(bytes: usize) -> i32 {
    i32::try_from(bytes).expect("no transfer is that long")
}
