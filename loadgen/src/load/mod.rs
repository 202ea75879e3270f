//! One load thread: the clients of a share over a transport, driven by commands.

mod apply;
mod command;
mod due;
mod event;
mod in_flight;
#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

pub use command::{Command, Connects, Departure, Interval, Lane, Reconnect, Slow, Traffic};
use crossbeam_channel::{Receiver, Sender};
use in_flight::InFlight;

use crate::{
    client::{Broken, Clients, Received},
    exchange::Exchange,
    latency::{self, Latency},
    schedule::{Heartbeat, NS_PER_S, Pacer},
    tally::{Status, Tally},
    transport::{Counts, Events, Share, Transport},
};

/// What a load thread is started with.
#[derive(Clone, Debug)]
pub struct LoadConfig {
    /// Its clients.
    pub share: Share,
    /// Number of the generator's client 0 among all users.
    pub first_user: u32,
    /// The routing key of all clients; none: each has its own.
    pub key: Option<String>,
    /// Seed of all content.
    pub seed: u64,
    /// How messages travel.
    pub exchange: Exchange,
    /// Heartbeat interval; zero: none.
    pub heartbeat: Duration,
    /// Time zero of the run.
    pub start: Instant,
    /// Messages that a client may have outstanding before it waits; 0: any number.
    pub window: u32,
    /// Duplicates are blamed on a failover that the user has announced.
    pub failover: bool,
}

/// What a load thread hands back at its end.
#[derive(Debug)]
pub struct LoadReport {
    /// Its counts.
    pub tally: Tally,
    /// What the transport counted.
    pub transport: Counts,
    /// User-space bytes of clients and transport, at their peak.
    pub user_bytes: u64,
    /// How the peer first broke the protocol, and at which client.
    pub first_broken: Option<(u32, Broken)>,
    /// From connect to WELCOME, in microseconds.
    pub open_latency: hdrhistogram::Histogram<u64>,
}

/// One load thread.
pub struct Load {
    config: LoadConfig,
    transport: Box<dyn Transport>,
    clients: Clients,
    commands: Receiver<Command>,
    intervals: Sender<Interval>,
    status: Arc<Status>,
    tally: Tally,
    /// Latency since `interval_start`.
    interval: Latency,
    interval_start_ns: u64,
    open_latency: hdrhistogram::Histogram<u64>,
    in_flight: InFlight,
    /// When messages of clients that wait for a reply were due.
    waiting: HashMap<u32, VecDeque<u64>>,
    heartbeat: Heartbeat,
    connects: Connecting,
    traffic: Sending,
    slow_traffic: Sending,
    check: Checking,
    leave: Leaving,
    churn: Churning,
    slow: Slow,
    slow_toggle_ns: u64,
    reconnect: Reconnect,
    retrying_max: u64,
    /// When to connect again: (ns, client).
    retries: BinaryHeap<Reverse<(u64, u32)>>,
    /// Clients that said CLOSE, and until when the peer may answer with FIN.
    fin_waits: VecDeque<(u64, u32)>,
    /// Retry-after of clients that were told to go, until the connection is over.
    retry_after: HashMap<u32, u32>,
    /// How the peer first broke the protocol.
    first_broken: Option<(u32, Broken)>,
    live: Live,
    holding: bool,
    /// See [`Command::CountAsLost`].
    counts_as_lost: bool,
    finished: bool,
    cpu_read_ns: u64,
    // Scratch, kept for its memory.
    out: Vec<u8>,
    received: Vec<Received>,
}

/// Levels that the thread keeps exactly.
#[derive(Debug, Default)]
struct Live {
    connecting: u64,
    open: u64,
    open_min: u64,
    answered: u64,
    pinged: u64,
    outstanding: u64,
    slow_outstanding: u64,
    slow_ended: u64,
    /// Messages due whose clients wait for a reply.
    held_back: u64,
    departing: u64,
}

#[derive(Debug)]
struct Connecting {
    pacer: Pacer,
    next: u32,
    in_flight_max: u64,
}

#[derive(Debug)]
struct Sending {
    pacer: Pacer,
    spec: Traffic,
}

#[derive(Debug)]
struct Checking {
    pacer: Pacer,
    payload_bytes: usize,
}

#[derive(Debug)]
struct Leaving {
    pacer: Pacer,
    next: u32,
    how: Departure,
}

#[derive(Debug)]
struct Churning {
    pacer: Pacer,
}

/// Things done per turn and kind, so that a schedule is never starved by another.
const PER_TURN: usize = 256;
/// Messages and heartbeats per turn: as many as a poll brings events at the most. What the schedule
/// of a busy generator lags behind would come as a flood when it has time again.
const SENDS_PER_TURN: usize = 4_096;
/// Places of the heartbeats' schedule looked at per turn.
const LOOKS_PER_TURN: usize = 65_536;
/// How long a turn may wait: how late a command can be noticed.
const WAIT_MAX_NS: u64 = 20_000_000;
/// How long a client that said CLOSE waits for the peer's FIN.
const FIN_WAIT_NS: u64 = 2_000_000_000;
/// How often histograms are handed over.
const INTERVAL_NS: u64 = 1_000_000_000;
/// How often the thread's CPU time is read.
const CPU_READ_NS: u64 = 100_000_000;

impl Load {
    /// A thread's load over its transport.
    pub fn new(
        config: LoadConfig,
        transport: Box<dyn Transport>,
        commands: Receiver<Command>,
        intervals: Sender<Interval>,
        status: Arc<Status>,
    ) -> Self {
        let share = config.share;
        let first_user = config.first_user + share.first_client;
        let clients = Clients::new(config.seed, first_user, share.clients, config.exchange.clone())
            .with_key(config.key.clone());
        Self {
            heartbeat: Heartbeat::new(config.heartbeat.as_nanos() as u64, share.clients),
            transport,
            clients,
            commands,
            intervals,
            status,
            tally: Tally::default(),
            interval: Latency::default(),
            interval_start_ns: 0,
            open_latency: latency::histogram(),
            in_flight: InFlight::default(),
            waiting: HashMap::new(),
            connects: Connecting { pacer: Pacer::idle(), next: 0, in_flight_max: 0 },
            traffic: Sending { pacer: Pacer::idle(), spec: Traffic::default() },
            slow_traffic: Sending { pacer: Pacer::idle(), spec: Traffic::default() },
            check: Checking { pacer: Pacer::idle(), payload_bytes: 0 },
            leave: Leaving { pacer: Pacer::idle(), next: 0, how: Departure::Politely },
            churn: Churning { pacer: Pacer::idle() },
            slow: Slow::default(),
            slow_toggle_ns: 0,
            reconnect: Reconnect::Never,
            retrying_max: u64::MAX,
            retries: BinaryHeap::new(),
            fin_waits: VecDeque::new(),
            retry_after: HashMap::new(),
            first_broken: None,
            live: Live::default(),
            holding: false,
            counts_as_lost: false,
            finished: false,
            cpu_read_ns: 0,
            out: Vec::new(),
            received: Vec::new(),
            config,
        }
    }

    /// Runs until told to finish.
    ///
    /// # Errors
    /// When the transport fails.
    pub fn run(mut self) -> anyhow::Result<LoadReport> {
        let mut events = Events::new();
        while !self.finished {
            let now_ns = self.now_ns();
            self.take_commands(now_ns);
            let busy = self.do_what_is_due(now_ns);
            let wait_ns = if busy { 0 } else { self.wait_ns(now_ns) };
            self.transport.poll(Duration::from_nanos(wait_ns), &mut events)?;
            let now_ns = self.now_ns();
            for event in events.iter() {
                self.on_event(event, now_ns);
            }
            events.clear();
            self.publish(now_ns);
        }
        self.finish()
    }

    fn finish(mut self) -> anyhow::Result<LoadReport> {
        self.hand_over_interval(self.now_ns());
        self.tally.lost +=
            (0..self.clients.len()).map(|client| u64::from(self.clients.outstanding(client))).sum::<u64>();
        Ok(LoadReport {
            tally: self.tally,
            transport: self.transport.counts(),
            user_bytes: self.clients.user_bytes() + self.transport.user_bytes() + self.in_flight.bytes(),
            first_broken: self.first_broken,
            open_latency: self.open_latency,
        })
    }

    fn now_ns(&self) -> u64 {
        self.config.start.elapsed().as_nanos() as u64
    }

    fn take_commands(&mut self, now_ns: u64) {
        while let Ok(command) = self.commands.try_recv() {
            self.on_command(command, now_ns);
            self.publish_levels();
            self.status.commands.fetch_add(1, Relaxed);
        }
    }

    /// How long nothing is due.
    fn wait_ns(&self, now_ns: u64) -> u64 {
        let connects = (self.live.connecting < self.connects.in_flight_max)
            .then(|| self.connects.pacer.next_due_ns())
            .flatten();
        [
            connects,
            self.heartbeat.next_due_ns(),
            self.traffic.pacer.next_due_ns(),
            self.slow_traffic.pacer.next_due_ns(),
            self.check.pacer.next_due_ns(),
            self.leave.pacer.next_due_ns(),
            self.churn.pacer.next_due_ns(),
            (self.live.connecting < self.retrying_max)
                .then(|| self.retries.peek().map(|Reverse((due_ns, _))| *due_ns))
                .flatten(),
        ]
        .into_iter()
        .flatten()
        .min()
        .map_or(WAIT_MAX_NS, |due_ns| due_ns.saturating_sub(now_ns).min(WAIT_MAX_NS))
    }

    fn publish(&mut self, now_ns: u64) {
        self.publish_levels();
        if now_ns - self.cpu_read_ns >= CPU_READ_NS {
            self.cpu_read_ns = now_ns;
            let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            self.status
                .cpu_ns
                .store(cpu.tv_sec.unsigned_abs() * NS_PER_S + cpu.tv_nsec.unsigned_abs(), Relaxed);
            self.status.core_wait_ns.store(core_wait_ns().unwrap_or(0), Relaxed);
        }
        if now_ns - self.interval_start_ns >= INTERVAL_NS {
            self.hand_over_interval(now_ns);
        }
    }

    fn publish_levels(&self) {
        let status = &self.status;
        for (cell, value) in [
            (&status.connecting, self.live.connecting + self.connects.pacer.remaining()),
            (&status.open, self.live.open),
            (&status.open_min, self.live.open_min),
            (&status.leaving, self.leave.pacer.remaining() + self.live.departing),
            (&status.connect_failed, self.tally.connect_failed_total()),
            (&status.refused, self.tally.refused.values().sum()),
            (&status.refused_without_retry_after, self.tally.refused_without_retry_after),
            (&status.undeliverable, self.tally.offline + self.tally.delivery_refused),
            (&status.waiting, self.retries.len() as u64),
            (&status.disconnected, self.tally.disconnected_total()),
            (&status.opened, self.tally.opened),
            (&status.sent, self.tally.messages_sent),
            (&status.received, self.tally.messages_received),
            (&status.pings_sent, self.tally.heartbeats_sent),
            (&status.outstanding, self.live.outstanding),
            (&status.slow_outstanding, self.live.slow_outstanding),
            (&status.slow_closed, self.tally.slow_disconnected.values().sum()),
            (
                &status.to_send,
                self.traffic.pacer.remaining() + self.check.pacer.remaining() + self.live.held_back,
            ),
            (&status.pings_outstanding, self.live.pinged),
            (&status.answered, self.live.answered),
        ] {
            cell.store(value, Relaxed);
        }
    }

    fn hand_over_interval(&mut self, now_ns: u64) {
        let start_ns = std::mem::replace(&mut self.interval_start_ns, now_ns);
        if self.interval.send_lag.is_empty() && self.interval.corrected.is_empty() {
            return;
        }
        let latency = std::mem::take(&mut self.interval);
        // Nobody listens any more only when the run is being torn down.
        let _ = self.intervals.send(Interval { start_ns, end_ns: now_ns, latency });
    }
}

/// How long this thread has been ready to run and waited for a core: the second number of its
/// schedstat (proc(5), Documentation/scheduler/sched-stats.rst). None where the kernel has none.
fn core_wait_ns() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().nth(1)?.parse().ok()
}
