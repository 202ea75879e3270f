//! TCP for millions of clients: one pure state machine for a whole share of them.
//!
//! No clock, no descriptor, no randomness: the time comes in with each call, segments go out
//! through [`Wire`], what the clients see goes into [`Events`]. An idle connection is a record
//! of 20 bytes; bytes that are unsent, unacknowledged or unread lie in pools that all
//! connections share, and a timer exists only while something is unacknowledged.
//!
//! What it does: RFC 9293 with handshake and SYN retransmission, MSS option, in-order delivery,
//! cumulative acknowledgement, retransmission (RFC 6298) with back-off, fast retransmit and
//! recovery in the manner of NewReno (RFC 6582), initial window and slow start (RFC 5681, 6928),
//! zero-window probes, silly-window avoidance, FIN and RST in both directions, TIME-WAIT,
//! challenge ACKs (RFC 5961).
//!
//! What it does not: window scaling (windows end at 65,535 bytes), SACK, timestamps, ECN,
//! urgent data, listening, simultaneous open, keep-alives. Segments that arrive out of order
//! are dropped and acknowledged again, so the peer repairs them. Acknowledgements wait for the
//! caller's next turn, not for a timer; Nagle's algorithm is off.

mod connection;
mod input;
mod output;
mod slab;
#[cfg(test)]
mod tests;
mod timer;

use std::collections::VecDeque;

pub use connection::State;
use connection::{Record, Work, flag};
use slab::{Chunks, Slab};
use timer::{RoundTrip, Wheel, tick_of, ticks};

use super::packet::{MSS_BYTES, Segment};
use crate::transport::{Close, Ended, Event, Events};

/// Where segments go.
pub trait Wire {
    /// Sends a segment of a client to the peer. It may get lost.
    fn transmit(&mut self, client: u32, segment: &Segment<'_>);
}

/// How a stack of clients is made.
#[derive(Clone, Copy, Debug)]
pub struct TcpConfig {
    /// Clients, numbered from 0.
    pub clients: u32,
    /// From this and the client's number comes its first initial sequence number.
    pub sequence_seed: u64,
    /// Receive window of each client, at least 1. Memory is used only by clients that pause.
    pub receive_window_bytes: u16,
}

/// Counters that only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpStats {
    /// Segments handed to the wire.
    pub segments_out: u64,
    /// Segments taken in.
    pub segments_in: u64,
    /// Segments sent again, for whatever reason; SYNs apart.
    pub retransmits: u64,
    /// Of these: after three duplicate acknowledgements.
    pub fast_retransmits: u64,
    /// SYNs sent again.
    pub syn_retransmits: u64,
    /// Segments dropped since one before them was missing.
    pub out_of_order: u64,
    /// Segments that had nothing new or lay outside the window.
    pub unacceptable: u64,
    /// Probes of a closed window.
    pub window_probes: u64,
    /// RSTs that ended a connection.
    pub resets_in: u64,
    /// RSTs sent, answers to stray segments included.
    pub resets_out: u64,
    /// Connections given up since the peer had been silent for too long.
    pub timeouts: u64,
    /// Bytes that came for a client that had closed.
    pub discarded_bytes: u64,
}

/// The clients of one share.
#[derive(Debug)]
pub struct Tcp {
    config: TcpConfig,
    records: Box<[Record]>,
    works: Slab<Work>,
    chunks: Chunks,
    wheel: Wheel,
    round_trip: RoundTrip,
    /// Clients with something to do in the next turn.
    queue: VecDeque<u32>,
    /// A segment's payload, gathered from its chunks.
    scratch: Box<[u8; MSS_BYTES]>,
    connecting: u32,
    connected: u32,
    unsent_bytes: u64,
    stats: TcpStats,
}

impl Tcp {
    /// Clients that are all absent.
    pub fn new(config: TcpConfig) -> Self {
        assert!(config.receive_window_bytes > 0);
        Self {
            config,
            // Zeroed pages come from the kernel on first touch: memory follows use.
            records: bytemuck::zeroed_slice_box(config.clients as usize),
            works: Slab::new(),
            chunks: Chunks::new(),
            wheel: Wheel::new(),
            round_trip: RoundTrip::new(),
            queue: VecDeque::new(),
            scratch: Box::new([0; MSS_BYTES]),
            connecting: 0,
            connected: 0,
            unsent_bytes: 0,
            stats: TcpStats::default(),
        }
    }

    /// Begins to connect. Panics unless the client is absent, or lingers in TIME-WAIT.
    pub fn connect(&mut self, client: u32) {
        let record = &mut self.records[client as usize];
        assert!(
            matches!(record.state(), State::Absent | State::TimeWait),
            "client {client} is not absent but {:?}",
            record.state()
        );
        // Past every number that the last connection between these ends could have used, so
        // that a peer in TIME-WAIT takes the SYN (RFC 9293 section 3.6.1).
        record.snd_una = match record.snd_una {
            0 => splitmix64(self.config.sequence_seed ^ u64::from(client)) as u32,
            last => last.wrapping_add(SEQUENCE_STEP),
        };
        record.flags &= flag::QUEUED;
        record.set_state(State::SynSent);
        self.connecting += 1;
        self.enqueue(client);
    }

    /// Queues bytes. Ignored unless the client is connected and has not been closed.
    pub fn send(&mut self, client: u32, bytes: &[u8]) {
        if !self.is_open(client) || bytes.is_empty() {
            return;
        }
        let handle = self.work_of(client);
        self.chunks.push(&mut self.works.get_mut(handle).tx, bytes);
        self.unsent_bytes += bytes.len() as u64;
        self.enqueue(client);
    }

    /// Ends a connection. Ignored unless the client is connected and has not been closed.
    pub fn close(&mut self, client: u32, how: Close) {
        if !self.is_open(client) {
            return;
        }
        let record = &mut self.records[client as usize];
        record.flags &= !flag::PAUSED;
        record.flags |= flag::LOCAL
            | match how {
                Close::Fin => flag::FIN_DUE,
                Close::Reset => flag::RST_DUE,
            };
        self.enqueue(client);
    }

    /// Stops or resumes reading.
    pub fn set_reading(&mut self, client: u32, reading: bool) {
        if !self.is_open(client) {
            return;
        }
        let record = &mut self.records[client as usize];
        if reading {
            record.flags &= !flag::PAUSED;
            if record.work != 0 {
                self.enqueue(client);
            }
        } else {
            record.flags |= flag::PAUSED;
        }
    }

    /// Does what is due for up to `budget` clients; false once nothing is left to do.
    pub fn turn(&mut self, now_us: u64, budget: usize, wire: &mut impl Wire, events: &mut Events) -> bool {
        for _ in 0..budget {
            let Some(client) = self.queue.pop_front() else { break };
            self.records[client as usize].flags &= !flag::QUEUED;
            self.serve(now_us, client, wire, events);
        }
        !self.queue.is_empty()
    }

    /// Runs the timers that are due.
    pub fn run_timers(&mut self, now_us: u64, wire: &mut impl Wire, events: &mut Events) {
        while let Some((tick, list)) = self.wheel.take_due(tick_of(now_us)) {
            for &client in &list {
                self.visit(now_us, tick, client, wire, events);
            }
            self.wheel.recycle(tick, list);
        }
    }

    /// Whether [`Self::run_timers`] may have something to do later.
    pub const fn has_timers(&self) -> bool {
        !self.wheel.is_empty()
    }

    /// Whether [`Self::turn`] has something to do.
    pub fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The state of a client.
    pub fn state(&self, client: u32) -> State {
        self.records[client as usize].state()
    }

    /// Clients between `connect` and its answer.
    pub const fn connecting(&self) -> u32 {
        self.connecting
    }

    /// Clients between `Connected` and `Closed`.
    pub const fn connected(&self) -> u32 {
        self.connected
    }

    /// Bytes given to `send` and not yet acknowledged.
    pub const fn unsent_bytes(&self) -> u64 {
        self.unsent_bytes
    }

    /// Counters.
    pub const fn stats(&self) -> TcpStats {
        self.stats
    }

    /// Bytes of tables and pools, whether in use or not.
    pub fn heap_bytes(&self) -> usize {
        size_of_val(&*self.records)
            + self.works.heap_bytes()
            + self.chunks.heap_bytes()
            + self.wheel.heap_bytes()
            + self.queue.capacity() * size_of::<u32>()
            + MSS_BYTES
    }

    /// Work records and chunks in use: both 0 when every connection is idle.
    pub fn pools_in_use(&self) -> (usize, usize) {
        (self.works.live(), self.chunks.live())
    }

    fn is_open(&self, client: u32) -> bool {
        let record = &self.records[client as usize];
        record.state() == State::Established && !record.has(flag::LOCAL)
    }

    /// Puts a client into the queue of those with something to do.
    fn enqueue(&mut self, client: u32) {
        let record = &mut self.records[client as usize];
        if !record.has(flag::QUEUED) {
            record.flags |= flag::QUEUED;
            self.queue.push_back(client);
        }
    }

    /// The handle of a client's work record, which is made if there is none.
    fn work_of(&mut self, client: u32) -> u32 {
        let record = &mut self.records[client as usize];
        if record.work == 0 {
            record.work = self.works.alloc();
        }
        record.work
    }

    /// The work record of a client that has one.
    fn work(&mut self, client: u32) -> Option<&mut Work> {
        match self.records[client as usize].work {
            0 => None,
            handle => Some(self.works.get_mut(handle)),
        }
    }

    /// Sets a client's timer.
    fn arm(&mut self, now_us: u64, client: u32, after_us: u64) {
        let deadline = tick_of(now_us) + ticks(after_us);
        let handle = self.work_of(client);
        let work = self.works.get_mut(handle);
        work.deadline = deadline;
        if work.wheel_tick == 0 || work.wheel_tick > deadline {
            work.wheel_tick = self.wheel.insert(client, deadline);
        }
    }

    /// Looks at a client that the wheel has come to.
    fn visit(&mut self, now_us: u64, tick: u32, client: u32, wire: &mut impl Wire, events: &mut Events) {
        let Some(work) = self.work(client) else { return };
        if work.wheel_tick != tick {
            return;
        }
        work.wheel_tick = 0;
        let deadline = work.deadline;
        if deadline > tick {
            let tick = self.wheel.insert(client, deadline);
            self.work(client).expect("it was there").wheel_tick = tick;
        } else if deadline != 0 {
            work.deadline = 0;
            self.on_timeout(now_us, client, wire, events);
        }
    }

    /// Gives the work record back if nothing is under way.
    fn settle(&mut self, client: u32) {
        let record = &mut self.records[client as usize];
        if record.work == 0 {
            return;
        }
        let work = self.works.get(record.work);
        if work.in_flight == 0 && work.tx.is_empty() && work.rx.is_empty() && work.deadline == 0 {
            self.works.free(record.work);
            record.work = 0;
        }
    }

    /// Ends a connection for good and says so.
    fn finish(&mut self, client: u32, state: State, how: Ended, events: &mut Events) {
        let was = self.records[client as usize].state();
        self.release(client);
        self.records[client as usize].set_state(state);
        if was == State::SynSent {
            self.connecting -= 1;
            let Ended::Failed(errno) = how else { unreachable!("nobody closes what is not open") };
            events.push(Event::ConnectFailed { client, errno });
        } else {
            self.connected -= 1;
            events.push(Event::Closed { client, how });
        }
    }

    /// Gives back whatever the client has in the pools.
    fn release(&mut self, client: u32) {
        let record = &mut self.records[client as usize];
        record.flags &= flag::QUEUED;
        if record.work == 0 {
            return;
        }
        let work = self.works.get_mut(record.work);
        record.snd_una = record.snd_una.wrapping_add(work.in_flight);
        self.unsent_bytes -= u64::from(work.tx.len());
        self.chunks.clear(&mut work.tx);
        self.chunks.clear(&mut work.rx);
        self.works.free(record.work);
        record.work = 0;
    }

    /// How a connection that broke with `errno` ended: who had already said that it is over,
    /// decides.
    fn broken(&self, client: u32, errno: i32) -> Ended {
        let record = &self.records[client as usize];
        if record.has(flag::LOCAL) {
            Ended::Local
        } else if matches!(record.state(), State::CloseWait | State::LastAck) {
            Ended::PeerFin
        } else {
            Ended::Failed(errno)
        }
    }
}

/// How far apart the numbers of two connections between the same ends begin, at least: more
/// than any window.
const SEQUENCE_STEP: u32 = 1 << 17;

/// The finaliser of splitmix64 (Steele, Lea, Flood 2014).
fn splitmix64(value: u64) -> u64 {
    let mut mixed = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
