//! All load threads: started, told and asked as one.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::Context;
use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::{
    client::Broken,
    exchange::Exchange,
    latency,
    load::{
        Command, Connects, Departure, Interval, Lane, Load, LoadConfig, LoadReport, Reconnect, Slow, Traffic,
    },
    schedule::whole,
    tally::{Snapshot, Status, Tally},
    transport::{Network, Share},
};

/// What a fleet is made for.
#[derive(Clone, Debug)]
pub struct FleetConfig {
    /// Clients in all.
    pub clients: u32,
    /// Load threads; the clients are shared among them.
    pub threads: u32,
    /// Number of client 0 among all users (several generators may drive one gateway).
    pub first_user: u32,
    /// The routing key of all clients; none: each has its own.
    pub key: Option<String>,
    /// Seed of all content.
    pub seed: u64,
    /// How messages travel.
    pub exchange: Exchange,
    /// Heartbeat interval; zero: none.
    pub heartbeat: Duration,
    /// See [`LoadConfig::window`].
    pub window: u32,
    /// See [`LoadConfig::failover`].
    pub failover: bool,
}

/// The load threads.
pub struct Fleet {
    threads: Vec<Member>,
    intervals: Receiver<Interval>,
    start: Instant,
}

struct Member {
    share: Share,
    commands: Sender<Command>,
    told: u64,
    status: Arc<Status>,
    handle: JoinHandle<anyhow::Result<LoadReport>>,
}

/// What all threads handed back.
#[derive(Debug)]
pub struct FleetReport {
    /// All counts.
    pub tally: Tally,
    /// The transports' counters.
    pub transport: Vec<(&'static str, u64)>,
    /// User-space bytes of clients and transports.
    pub user_bytes: u64,
    /// How the peer first broke the protocol.
    pub first_broken: Option<(u32, Broken)>,
    /// From connect to WELCOME, in microseconds.
    pub open_latency: hdrhistogram::Histogram<u64>,
    /// Intervals that nobody has taken yet.
    pub intervals: Vec<Interval>,
}

impl Fleet {
    /// Starts the threads; no client connects yet.
    ///
    /// # Errors
    /// When a transport cannot be opened.
    pub fn start(config: &FleetConfig, network: &Arc<dyn Network>) -> anyhow::Result<Self> {
        let start = Instant::now();
        let (interval_sender, intervals) = unbounded();
        let threads = config.threads.clamp(1, config.clients.max(1));
        let (ready, opened) = unbounded();
        let mut members = Vec::new();
        for thread in 0..threads {
            let share = share_of(config.clients, thread, threads);
            let (commands, receiver) = unbounded();
            let status = Arc::new(Status::default());
            let load = LoadConfig {
                share,
                first_user: config.first_user,
                key: config.key.clone(),
                seed: config.seed,
                exchange: config.exchange.clone(),
                heartbeat: config.heartbeat,
                start,
                window: config.window,
                failover: config.failover,
            };
            let (network, sender, shared) =
                (Arc::clone(network), interval_sender.clone(), Arc::clone(&status));
            let ready = ready.clone();
            let handle = std::thread::Builder::new().name(format!("load-{thread}")).spawn(move || {
                // Waits end when they are due, not 50 us later. Kernels without it are none the worse.
                let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
                let transport = network.open(share);
                let _ = ready.send(transport.is_ok());
                Load::new(load, transport?, receiver, sender, shared).run()
            })?;
            members.push(Member { share, commands, told: 0, status, handle });
        }
        let mut fleet = Self { threads: members, intervals, start };
        // A thread that panics drops its sender; then recv fails and join tells why.
        drop(ready);
        let all_opened = (0..threads).all(|_| opened.recv() == Ok(true));
        if !all_opened {
            fleet.send_all(|_| Command::Finish);
            fleet.finish()?;
            anyhow::bail!("a load thread did not start");
        }
        Ok(fleet)
    }

    /// A fleet without threads.
    pub fn none() -> Self {
        Self { threads: Vec::new(), intervals: crossbeam_channel::never(), start: Instant::now() }
    }

    /// Time since the fleet started: the clock of its schedules.
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Where all threads stand, after every command given so far has begun.
    ///
    /// # Errors
    /// When a thread has ended before its time.
    pub fn snapshot(&self) -> anyhow::Result<Snapshot> {
        loop {
            if self.threads.iter().any(|member| member.handle.is_finished()) {
                anyhow::bail!("a load thread has ended");
            }
            if self.threads.iter().all(|member| member.status.commands.load(Relaxed) >= member.told) {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut snapshot = Snapshot::default();
        for member in &self.threads {
            snapshot.add(&member.status);
        }
        Ok(snapshot)
    }

    /// Intervals that the threads have finished since the last call.
    pub fn take_intervals(&self) -> impl Iterator<Item = Interval> {
        self.intervals.try_iter()
    }

    /// Connects clients until `clients` have been.
    pub fn connect(&mut self, clients: u32, per_second: f64, in_flight_max: u64) {
        self.send_all(|share| {
            Command::Connect(Connects {
                clients: part(clients, share),
                per_second: per_second / f64::from(share.threads),
                in_flight_max: (in_flight_max / u64::from(share.threads)).max(1),
            })
        });
    }

    /// Starts or ends the hold.
    pub fn hold(&mut self, holding: bool) {
        self.send_all(|_| Command::Hold(holding));
    }

    /// Sends `messages` messages at `per_second` over `active` clients that read, or over the slow
    /// ones. Of few active clients, some threads have none.
    pub fn traffic(&mut self, lane: Lane, active: u32, per_second: f64, messages: u64, payload_bytes: usize) {
        self.traffic_for(Duration::ZERO, lane, active, per_second, messages, payload_bytes);
    }

    /// Like `traffic`, and for the time of `closed` each reply is followed by another message.
    pub fn traffic_for(
        &mut self,
        closed: Duration,
        lane: Lane,
        active: u32,
        per_second: f64,
        messages: u64,
        payload_bytes: usize,
    ) {
        // A little ahead, so that no thread begins late.
        let start_ns = (self.now() + Duration::from_millis(30)).as_nanos() as u64;
        let mut before = 0;
        self.send_all(|share| {
            let own_active = part(active, share);
            let upto = before + u64::from(own_active);
            // Parts of the messages that add up exactly.
            let until = |clients: u64| {
                (u128::from(messages) * u128::from(clients) / u128::from(active.max(1))) as u64
            };
            let own = until(upto) - until(before);
            before = upto;
            let interleave_ns =
                whole(1e9 * f64::from(share.thread) / (per_second.max(1e-9) * f64::from(share.threads)));
            Command::Traffic(Traffic {
                lane,
                active: own_active,
                per_second: per_second * own as f64 / messages.max(1) as f64,
                messages: own,
                payload_bytes,
                start_ns: start_ns + interleave_ns.min(1_000_000_000),
                closed_until_ns: if closed.is_zero() { 0 } else { start_ns + closed.as_nanos() as u64 },
            })
        });
    }

    /// The client that sends when there is one active client only.
    pub fn sole_sender(config: &FleetConfig) -> u32 {
        let threads = config.threads.clamp(1, config.clients.max(1));
        (0..threads)
            .map(|thread| share_of(config.clients, thread, threads))
            .find(|&share| part(1, share) == 1)
            .map_or(0, |share| share.first_client)
    }

    /// Takes back what the schedule has not sent yet.
    pub fn stop_traffic(&mut self) {
        self.send_all(|_| Command::StopTraffic);
    }

    /// Every open client sends one message.
    pub fn check(&mut self, per_second: f64, payload_bytes: usize) {
        self.send_all(|share| Command::Check {
            per_second: per_second / f64::from(share.threads),
            payload_bytes,
        });
    }

    /// All but the first `keep` clients leave.
    pub fn leave(&mut self, keep: u32, per_second: f64, how: Departure) {
        self.send_all(|share| Command::Leave {
            keep: part(keep, share),
            per_second: per_second / f64::from(share.threads),
            how,
        });
    }

    /// What clients do whose connection ended against the plan.
    pub fn reconnect(&mut self, policy: Reconnect, in_flight_max: u64) {
        self.send_all(|share| Command::Reconnect {
            policy,
            in_flight_max: (in_flight_max / u64::from(share.threads)).max(1),
        });
    }

    /// Sessions leave and come back; 0 ends it.
    pub fn churn(&mut self, per_second: f64) {
        self.send_all(|share| Command::Churn { per_second: per_second / f64::from(share.threads) });
    }

    /// The first `slow.clients` read slowly.
    pub fn slow(&mut self, slow: Slow) {
        self.send_all(|share| Command::Slow(Slow { clients: part(slow.clients, share), ..slow }));
    }

    /// Sends no more heartbeats.
    pub fn stop_heartbeat(&mut self) {
        self.send_all(|_| Command::StopHeartbeat);
    }

    /// The slow readers read from now on.
    pub fn slow_resume(&mut self) {
        self.send_all(|_| Command::SlowResume);
    }

    /// The run is over: see [`Command::CountAsLost`].
    pub fn count_as_lost(&mut self) {
        self.send_all(|_| Command::CountAsLost);
    }

    /// Ends all threads and collects what they counted.
    ///
    /// # Errors
    /// The first error of a thread.
    pub fn finish(mut self) -> anyhow::Result<FleetReport> {
        self.send_all(|_| Command::Finish);
        let mut report = FleetReport {
            tally: Tally::default(),
            transport: Vec::new(),
            user_bytes: 0,
            first_broken: None,
            open_latency: latency::histogram(),
            intervals: Vec::new(),
        };
        for member in self.threads {
            let load = member.handle.join().map_err(|_| anyhow::anyhow!("a load thread panicked"))?;
            let load = load.with_context(|| format!("load thread {}", member.share.thread))?;
            report.tally.merge(&load.tally);
            report.user_bytes += load.user_bytes;
            report.first_broken = report.first_broken.or(load.first_broken);
            report.open_latency.add(&load.open_latency)?;
            for (name, count) in load.transport.details {
                match report.transport.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, sum)) => *sum += count,
                    None => report.transport.push((name, count)),
                }
            }
        }
        report.intervals = self.intervals.try_iter().collect();
        Ok(report)
    }

    fn send_all(&mut self, mut command: impl FnMut(Share) -> Command) {
        for member in &mut self.threads {
            // A thread that has ended shows in `snapshot` and `finish`.
            if member.commands.send(command(member.share)).is_ok() {
                member.told += 1;
            }
        }
    }
}

/// A whole number's part for a share: the first clients of the fleet are spread evenly over the
/// threads, and the parts add up.
const fn part(count: u32, share: Share) -> u32 {
    let (count, thread, threads) = (count as u64, share.thread as u64, share.threads as u64);
    (count * (thread + 1) / threads - count * thread / threads) as u32
}

const fn share_of(clients: u32, thread: u32, threads: u32) -> Share {
    let first = (clients as u64 * thread as u64 / threads as u64) as u32;
    let share = Share { thread, threads, first_client: first, clients: 0 };
    Share { clients: part(clients, share), ..share }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_cover_all_clients_once() {
        for (clients, threads) in [(10, 3), (1, 1), (7, 7), (1_000_001, 4)] {
            let mut next = 0;
            for thread in 0..threads {
                let share = share_of(clients, thread, threads);
                assert_eq!(share.first_client, next);
                next += share.clients;
            }
            assert_eq!(next, clients);
        }
    }
}
