//! The fake kernel: executes ops on the simulated network, as unkindly as Linux may.
//!
//! An op is *armed* from its execution until it has ended, and *in flight* until its completion
//! has been reaped. What the gateway must not do (close what is armed, accept into an occupied
//! slot, two sends on one socket) is recorded as a violation, and then happens as it does on
//! Linux: the socket stays without FIN, is replaced silently, the bytes race.
//!
//! * here: the world and what it consists of.
//! * `time`: events, and the completions that become visible.
//! * `ops`: what an op does from its submission to its end.
//! * `sockets`: accept, connect, close, cancel.

mod ops;
mod sockets;
mod time;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque},
    net::SocketAddr,
};

use crate::{
    op::{LinkAddress, Op, Sock, Token},
    sim::{
        faults::Faults,
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
    /// For how long the process was stopped, each time, less what cannot be told from a sleep.
    stopped_us: u64,
    /// From when on the shard has run long enough to know the next pause for one.
    runs_since_us: u64,
    /// Clients for which a receive was submitted since these were last looked at, by slot.
    client_receives: Vec<u32>,
    /// Ended ops whose completion is visible.
    posted: VecDeque<u64>,
    backlogs: Vec<VecDeque<ConnId>>,
    listening: bool,
    /// Whoever was in a backlog when the listeners were closed.
    refused: BTreeSet<ConnId>,
    slots: Vec<Option<ConnId>>,
    peers: Vec<Option<SocketAddr>>,
    links: BTreeMap<u16, ConnId>,
    link_addresses: BTreeMap<u16, LinkAddress>,
    /// Closed, but a request still holds the file: connection and the ops it waits for.
    unreleased: Vec<(ConnId, Vec<u64>)>,
    slots_per_ring: u32,
}

/// A shorter pause may be a sleep for all that the shard knows: one a sweep's round, and what counts
/// as late.
const SLEEP_US_MAX: u64 = 2_000_000;

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
            client_receives: Vec::new(),
            stopped_us: 0,
            runs_since_us: 0,
            posted: VecDeque::new(),
            backlogs: (0..listeners).map(|_| VecDeque::new()).collect(),
            listening: true,
            refused: BTreeSet::new(),
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

    /// A client connects to a listener; none when its backlog is full, or nobody listens.
    pub fn connect(&mut self, listener: u16, owner: u32, addr: Option<SocketAddr>) -> Option<ConnId> {
        if !self.listening || self.backlogs[usize::from(listener)].len() >= self.backlog_max {
            return None;
        }
        let buffers = self.draw_buffers(self.client_buffers);
        let conn = self.net.open(owner, addr, buffers, self.latency_us);
        self.backlogs[usize::from(listener)].push_back(conn);
        self.schedule(self.net.now_us, Event::Arrive(conn));
        self.serve_accepts();
        Some(conn)
    }

    /// Whether clients can connect at all.
    pub fn is_listening(&self) -> bool {
        self.listening
    }

    /// Whether a client was cut off in a backlog, by the end of its listener.
    pub fn was_refused(&self, conn: ConnId) -> bool {
        self.refused.contains(&conn)
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

    /// For how long the process was stopped in all, in microseconds, at least: of each time, what lasts
    /// longer than any sleep is counted.
    pub fn stopped_us(&self) -> u64 {
        self.stopped_us
    }

    /// Clients for which a receive was submitted, by slot, since [`Self::forget_receives`].
    pub fn client_receives(&self) -> &[u32] {
        &self.client_receives
    }

    pub(in crate::sim) fn forget_receives(&mut self) {
        self.client_receives.clear();
    }

    /// Closed sockets that a request still keeps alive.
    pub fn unreleased_len(&self) -> usize {
        self.unreleased.len()
    }

    pub(in crate::sim) fn set_link_address(&mut self, link: u16, address: LinkAddress) {
        self.link_addresses.insert(link, address);
    }

    pub(in crate::sim) fn roll(&mut self, per_mille: u32, fault: &'static str) -> bool {
        let hit = self.rng.chance(per_mille);
        if hit {
            *self.fault_counts.entry(fault).or_default() += 1;
        }
        hit
    }

    pub(in crate::sim) fn roll_jump(&mut self) -> Option<u64> {
        let hit = self.rng.below(1_000_000) < u64::from(self.faults.jump_per_million);
        hit.then(|| {
            *self.fault_counts.entry("clock jump").or_default() += 1;
            let jump_us = self.rng.range(1, self.faults.jump_us);
            // One that comes right after another is slowness for all that the shard knows.
            if self.now_us() >= self.runs_since_us {
                self.stopped_us += jump_us.saturating_sub(SLEEP_US_MAX);
            }
            self.runs_since_us = self.now_us() + 3 * jump_us + SLEEP_US_MAX;
            jump_us
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
        Op::CountWaiting { .. } | Op::Cancel { .. } => None,
    }
}

fn result_of(bytes: usize) -> i32 {
    i32::try_from(bytes).expect("no transfer is that long")
}
