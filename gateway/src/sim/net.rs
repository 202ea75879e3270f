//! TCP as both ends see it: bounded byte pipes with latency, FIN and RST.
//!
//! The *gateway* end is driven by the fake kernel, the *peer* end by simulated clients and
//! workers. Everything a peer does takes effect at the gateway only when it arrives.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
};

use crate::{
    op::{errno, poll_bits},
    sim::rng::Rng,
};

/// No route to host (errno(3)): what an ICMP error makes of a connection.
const EHOSTUNREACH: i32 = 113;

/// Names a connection of the simulated network; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// What a peer reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerRead {
    /// These bytes.
    Data(Vec<u8>),
    /// Nothing yet.
    Nothing,
    /// The gateway has ended its sending side and everything was read.
    Eof,
    /// The connection was reset.
    Reset,
}

/// What travels in one direction.
#[derive(Debug, Default)]
struct Pipe {
    /// On its way: arrival time and bytes.
    flying: VecDeque<(u64, Vec<u8>)>,
    flying_bytes: usize,
    /// Arrived, unread.
    ready: VecDeque<u8>,
    capacity: usize,
    /// When the end of the stream arrives, if it was sent.
    fin_at_us: Option<u64>,
    fin_arrived: bool,
    last_arrival_us: u64,
}

impl Pipe {
    fn room(&self) -> usize {
        self.capacity.saturating_sub(self.flying_bytes + self.ready.len())
    }

    fn push(&mut self, bytes: Vec<u8>, at_us: u64) -> u64 {
        self.last_arrival_us = self.last_arrival_us.max(at_us);
        self.flying_bytes += bytes.len();
        self.flying.push_back((self.last_arrival_us, bytes));
        self.last_arrival_us
    }

    fn fin(&mut self, at_us: u64) -> u64 {
        self.last_arrival_us = self.last_arrival_us.max(at_us);
        self.fin_at_us = Some(self.last_arrival_us);
        self.last_arrival_us
    }

    fn settle(&mut self, now_us: u64) {
        while self.flying.front().is_some_and(|(at, _)| *at <= now_us) {
            let (_, bytes) = self.flying.pop_front().expect("just seen");
            self.flying_bytes -= bytes.len();
            self.ready.extend(bytes);
        }
        if self.flying.is_empty() && self.fin_at_us.is_some_and(|at| at <= now_us) {
            self.fin_arrived = true;
        }
    }

    fn clear(&mut self) {
        self.flying.clear();
        self.flying_bytes = 0;
        self.ready.clear();
    }

    fn take(&mut self, max: usize) -> Vec<u8> {
        let len = max.min(self.ready.len());
        self.ready.drain(..len).collect()
    }
}

/// How an end stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    /// It has closed its descriptor.
    Closed,
    /// Torn down by a reset or a timeout.
    Dead,
}

/// One TCP (or Unix) connection.
#[derive(Debug)]
struct Conn {
    /// Peer to gateway.
    up: Pipe,
    /// Gateway to peer.
    down: Pipe,
    gateway: End,
    /// The error that the gateway's next call reports.
    gateway_error: Option<i32>,
    gateway_shut: bool,
    peer: End,
    peer_shut: bool,
    /// When a reset or timeout by the peer arrives, and as which errno.
    break_at: Option<(u64, i32)>,
    latency_us: (u64, u64),
    /// The actor behind the peer end.
    owner: u32,
    addr: Option<SocketAddr>,
}

/// What an actor or the kernel did that takes effect later: look at this connection again then.
pub type Arrival = (u64, ConnId);

/// All connections.
#[derive(Debug)]
pub struct Net {
    conns: BTreeMap<ConnId, Conn>,
    next: u64,
    rng: Rng,
    /// A reset that arrives also destroys what had arrived before it, per mille.
    pub reset_destroys_per_mille: u32,
    pub(super) arrivals: Vec<Arrival>,
    pub(super) now_us: u64,
}

impl Net {
    /// No connections yet.
    pub const fn new(rng: Rng) -> Self {
        Self {
            conns: BTreeMap::new(),
            next: 0,
            rng,
            reset_destroys_per_mille: 500,
            arrivals: Vec::new(),
            now_us: 0,
        }
    }

    /// A connection between the gateway and the peer of `owner`, with buffers of these sizes.
    pub(super) fn open(
        &mut self,
        owner: u32,
        addr: Option<SocketAddr>,
        (up_bytes, down_bytes): (usize, usize),
        latency_us: (u64, u64),
    ) -> ConnId {
        self.next += 1;
        let id = ConnId(self.next);
        let conn = Conn {
            up: Pipe { capacity: up_bytes, ..Pipe::default() },
            down: Pipe { capacity: down_bytes, ..Pipe::default() },
            gateway: End::Open,
            gateway_error: None,
            gateway_shut: false,
            peer: End::Open,
            peer_shut: false,
            break_at: None,
            latency_us,
            owner,
            addr,
        };
        self.conns.insert(id, conn);
        id
    }

    fn conn(&mut self, id: ConnId) -> &mut Conn {
        self.conns.get_mut(&id).expect("a connection is forgotten only when both ends are gone")
    }

    fn arrival(&mut self, id: ConnId) -> u64 {
        let (from, to) = self.conn(id).latency_us;
        self.now_us + self.rng.range(from, to)
    }

    /// Who is behind the peer end; none once the connection is forgotten.
    pub(super) fn owner(&self, id: ConnId) -> Option<u32> {
        self.conns.get(&id).map(|conn| conn.owner)
    }

    pub(super) fn addr(&self, id: ConnId) -> Option<SocketAddr> {
        self.conns.get(&id).and_then(|conn| conn.addr)
    }

    /// Connections of which an end is left.
    pub fn len(&self) -> usize {
        self.conns.len()
    }

    /// Whether no connection is left.
    pub fn is_empty(&self) -> bool {
        self.conns.is_empty()
    }

    /// Lets arrive what is due.
    pub(super) fn settle(&mut self, id: ConnId) {
        let now_us = self.now_us;
        let destroys = self.rng.chance(self.reset_destroys_per_mille);
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.up.settle(now_us);
        conn.down.settle(now_us);
        if let Some((at, error)) = conn.break_at
            && at <= now_us
        {
            conn.break_at = None;
            if conn.gateway == End::Open {
                conn.gateway = End::Dead;
                conn.gateway_error = Some(error);
                conn.up.flying.clear();
                conn.up.flying_bytes = 0;
                if destroys {
                    conn.up.ready.clear();
                }
            }
            conn.down.clear();
        }
        // Data for a socket that is closed: TCP answers with a reset.
        if conn.gateway == End::Closed && !conn.up.ready.is_empty() && conn.peer == End::Open {
            conn.up.clear();
            conn.peer = End::Dead;
            conn.down.clear();
        }
        if conn.peer == End::Closed && conn.gateway == End::Open && !conn.down.ready.is_empty() {
            conn.down.clear();
            conn.gateway = End::Dead;
            conn.gateway_error = Some(-errno::ECONNRESET);
        }
        if conn.gateway != End::Open && conn.peer == End::Closed && conn.break_at.is_none() {
            // A dead gateway end still has a descriptor: the kernel forgets it at its close.
            if conn.gateway == End::Closed {
                self.conns.remove(&id);
            }
        }
    }
}

/// The peer's calls.
impl Net {
    /// Whether the peer end can still be used.
    pub fn peer_is_open(&self, id: ConnId) -> bool {
        self.conns.get(&id).is_some_and(|conn| conn.peer == End::Open)
    }

    /// Writes what fits; 0 when nothing does. None when the connection is gone.
    pub fn peer_write(&mut self, id: ConnId, bytes: &[u8]) -> Option<usize> {
        let conn = self.conns.get_mut(&id)?;
        if conn.peer != End::Open || conn.peer_shut {
            return None;
        }
        let len = bytes.len().min(conn.up.room());
        if len == 0 {
            return Some(0);
        }
        // TCP cuts where it likes.
        let mut rest = &bytes[..len];
        while !rest.is_empty() {
            let piece =
                if self.rng.chance(700) { rest.len() } else { self.rng.range(1, rest.len() as u64) as usize };
            let at = self.arrival(id);
            let at = self.conn(id).up.push(rest[..piece].to_vec(), at);
            self.arrivals.push((at, id));
            rest = &rest[piece..];
        }
        Some(len)
    }

    /// Reads at most `max` bytes.
    pub fn peer_read(&mut self, id: ConnId, max: usize) -> PeerRead {
        let now_us = self.now_us;
        let Some(conn) = self.conns.get_mut(&id) else { return PeerRead::Reset };
        conn.down.settle(now_us);
        if conn.peer != End::Open {
            return PeerRead::Reset;
        }
        let bytes = conn.down.take(max);
        if !bytes.is_empty() {
            // Room at the gateway's end, as soon as the acknowledgement arrives.
            let at = self.arrival(id);
            self.arrivals.push((at, id));
            return PeerRead::Data(bytes);
        }
        if conn.down.fin_arrived { PeerRead::Eof } else { PeerRead::Nothing }
    }

    /// Bytes that have arrived and were not read.
    pub fn peer_unread(&self, id: ConnId) -> usize {
        self.conns.get(&id).map_or(0, |conn| conn.down.ready.len())
    }

    /// Ends the sending side.
    pub fn peer_shutdown(&mut self, id: ConnId) {
        let at = if self.peer_is_open(id) && !self.conn(id).peer_shut { self.arrival(id) } else { return };
        let conn = self.conn(id);
        conn.peer_shut = true;
        let at = conn.up.fin(at);
        self.arrivals.push((at, id));
    }

    /// Closes the descriptor: FIN, or RST if something was not read.
    pub fn peer_close(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get(&id) else { return };
        if conn.peer == End::Dead {
            self.peer_gone(id);
        } else if conn.down.ready.is_empty() {
            self.peer_shutdown(id);
            self.peer_gone(id);
        } else {
            self.peer_reset(id);
        }
    }

    /// Sends RST: what is on its way is lost.
    pub fn peer_reset(&mut self, id: ConnId) {
        self.peer_break(id, errno::ECONNRESET);
    }

    /// Stops answering for good: the gateway's TCP gives up after `after_us`, or hears from a router
    /// that there is no way.
    pub fn peer_vanish(&mut self, id: ConnId, after_us: u64) {
        let error = if self.rng.chance(800) { errno::ETIMEDOUT } else { EHOSTUNREACH };
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.latency_us = (after_us, after_us);
        self.peer_break(id, error);
    }

    fn peer_break(&mut self, id: ConnId, error: i32) {
        if self.conns.contains_key(&id) {
            let at = self.arrival(id);
            let conn = self.conn(id);
            if conn.break_at.is_none() {
                conn.break_at = Some((at, -error));
            }
            self.arrivals.push((at, id));
            self.peer_gone(id);
        }
    }

    fn peer_gone(&mut self, id: ConnId) {
        let now_us = self.now_us;
        let conn = self.conn(id);
        conn.peer = End::Closed;
        conn.down.ready.clear();
        self.arrivals.push((now_us, id));
    }
}

/// What the fake kernel does at the gateway's end.
impl Net {
    /// What poll(2) would say.
    pub(super) fn poll(&mut self, id: ConnId) -> i32 {
        self.settle(id);
        let conn = self.conn(id);
        let mut bits = 0;
        if !conn.up.ready.is_empty() {
            bits |= poll_bits::IN;
        }
        if conn.up.fin_arrived {
            bits |= poll_bits::IN | poll_bits::RDHUP;
            if conn.gateway_shut {
                bits |= poll_bits::HUP;
            }
        }
        if conn.down.room() * 3 >= conn.down.capacity || conn.gateway_shut {
            bits |= poll_bits::OUT;
        }
        if conn.gateway == End::Dead {
            bits |= poll_bits::IN | poll_bits::OUT | poll_bits::RDHUP | poll_bits::HUP;
        }
        if conn.gateway_error.is_some() {
            bits |= poll_bits::ERR;
        }
        bits
    }

    /// Up to `max` bytes, empty at the end of the stream, or a negative errno.
    pub(super) fn recv(&mut self, id: ConnId, max: usize) -> Result<Vec<u8>, i32> {
        self.settle(id);
        let conn = self.conn(id);
        if !conn.up.ready.is_empty() {
            let bytes = conn.up.take(max);
            // Room at the peer's end: let it know.
            let at = self.arrival(id);
            self.arrivals.push((at, id));
            return Ok(bytes);
        }
        if let Some(error) = conn.gateway_error.take() {
            return Err(error);
        }
        if conn.up.fin_arrived || conn.gateway == End::Dead { Ok(Vec::new()) } else { Err(-errno::EAGAIN) }
    }

    /// How many bytes a send would take, or a negative errno.
    pub(super) fn room(&mut self, id: ConnId) -> Result<usize, i32> {
        self.settle(id);
        let conn = self.conn(id);
        if let Some(error) = conn.gateway_error.take() {
            return Err(error);
        }
        if conn.gateway_shut || conn.gateway == End::Dead {
            return Err(-errno::EPIPE);
        }
        match conn.down.room() {
            0 => Err(-errno::EAGAIN),
            room => Ok(room),
        }
    }

    /// Takes bytes for which [`Self::room`] has room.
    pub(super) fn send(&mut self, id: ConnId, bytes: Vec<u8>) {
        let at = self.arrival(id);
        let at = self.conn(id).down.push(bytes, at);
        self.arrivals.push((at, id));
    }

    /// Ends the gateway's sending side; a negative errno if there is no connection any more.
    pub(super) fn shutdown(&mut self, id: ConnId) -> i32 {
        self.settle(id);
        if self.conn(id).gateway == End::Dead {
            return -errno::ENOTCONN;
        }
        if !std::mem::replace(&mut self.conn(id).gateway_shut, true) {
            let at = self.arrival(id);
            let at = self.conn(id).down.fin(at);
            self.arrivals.push((at, id));
        }
        0
    }

    /// The last reference to the gateway's descriptor is gone: FIN, or RST with unread input.
    pub(super) fn release(&mut self, id: ConnId) {
        self.settle(id);
        if !self.conns.contains_key(&id) {
            return;
        }
        let now_us = self.now_us;
        if self.conn(id).gateway == End::Open {
            if self.conn(id).up.ready.is_empty() {
                self.shutdown(id);
            } else {
                let conn = self.conn(id);
                conn.up.clear();
                conn.down.clear();
                if conn.peer == End::Open {
                    conn.peer = End::Dead;
                }
            }
        } else if self.conn(id).peer == End::Open {
            self.conn(id).peer = End::Dead;
        }
        self.conn(id).gateway = End::Closed;
        self.arrivals.push((now_us, id));
    }
}
