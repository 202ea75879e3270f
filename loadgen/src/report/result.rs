//! The result as JSON. The keys that scripts build on come first; a figure that could not be
//! read is null, never 0.

use std::{collections::BTreeMap, io};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::{
    figures::{Figures, proc::Process, slab},
    fleet::FleetReport,
    found::{Found, Point, Stopped, Window},
    plan::Plan,
};

/// A run's result.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "the keys are explained in README.md, for readers of the JSON")]
pub struct RunResult {
    pub scenario: &'static str,
    pub connections_requested: u64,
    pub connections_held: Option<u64>,
    pub connections_held_min: Option<u64>,
    pub connect_failed: u64,
    pub disconnected: BTreeMap<String, u64>,
    pub messages_sent: u64,
    pub messages_received: u64,
    pub heartbeats: Heartbeats,
    pub lost: u64,
    pub duplicated: u64,
    pub duplicated_after_failover: u64,
    pub reordered: u64,
    pub misdelivered: u64,
    pub latency_us: Option<Percentiles>,
    pub gateway: Gateway,
    pub worker: Worker,
    pub generator_limited: bool,

    /// Why the exit code is not 0; empty when it is.
    pub failures: Vec<String>,
    pub interrupted: bool,
    /// How the run came to its end.
    pub ended: String,
    pub held_s: f64,
    /// Time zero of phases and series, in seconds of the Unix epoch.
    pub started_unix_s: f64,
    pub corrupted: u64,
    pub cut_off: u64,
    pub protocol_errors: u64,
    pub first_protocol_error: Option<String>,
    pub connect_failed_by_error: BTreeMap<String, u64>,
    pub refused: BTreeMap<String, u64>,
    pub slow_disconnected: BTreeMap<String, u64>,
    pub refused_without_retry_after: u64,
    pub opened: u64,
    pub left: u64,
    pub scheduled: Scheduled,
    pub final_check: Option<FinalCheck>,
    pub latency_uncorrected_us: Option<Percentiles>,
    pub send_lag_us: Option<Percentiles>,
    pub open_latency_us: Option<Percentiles>,
    pub generator: Generator,
    pub kernel: Kernel,
    pub plan: PlanSummary,
    pub machine: BTreeMap<&'static str, String>,
    pub memory: Memory,
    pub phases: Vec<Phase>,
    pub extra: serde_json::Map<String, serde_json::Value>,
    pub series: Vec<Point>,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[allow(missing_docs, reason = "as above")]
pub struct Heartbeats {
    pub due: u64,
    pub sent: u64,
    pub answered: u64,
    /// How late the generator sent the latest of them, in microseconds.
    pub late_us_max: u64,
    /// PINGs of clients that left on purpose before the PONG.
    pub cut_off: u64,
    /// Clients at the end that have had at least one answer.
    pub clients_answered: u64,
    /// Clients that had had at least one when the figures were taken.
    pub clients_answered_before_figures: Option<u64>,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[allow(missing_docs, reason = "as above")]
pub struct Percentiles {
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
    pub count: u64,
}

#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs, reason = "as above")]
pub struct Gateway {
    pub user_bytes_per_connection: Option<f64>,
    pub kernel_bytes_per_connection: Option<f64>,
    pub cpu_s_per_million_messages: Option<f64>,
    pub open_fds: Option<u64>,
    /// By messages and heartbeats together.
    pub cpu_s_per_million_exchanges: Option<f64>,
    /// The same by private dirty memory.
    pub private_dirty_bytes_per_connection: Option<f64>,
    /// From half of the connections to all of them.
    pub user_bytes_per_connection_slope: Option<f64>,
    pub connections_by_its_own_count: Option<u64>,
    pub at_baseline: Option<Process>,
    pub at_half: Option<Process>,
    pub at_all: Option<Process>,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
#[allow(missing_docs, reason = "as above")]
pub struct Worker {
    pub user_bytes_per_connection: Option<f64>,
    pub messages_handled: Option<u64>,
    pub cpu_s_per_million_messages: Option<f64>,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[allow(missing_docs, reason = "as above")]
pub struct Scheduled {
    pub planned: u64,
    pub sent: u64,
}

#[derive(Clone, Copy, Debug, Serialize)]
#[allow(missing_docs, reason = "as above")]
pub struct FinalCheck {
    pub clients: u64,
    pub answered: u64,
}

#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "as above")]
pub struct Generator {
    pub clients_are: String,
    pub limited_because: Option<String>,
    pub busiest_thread_cpu_share: Option<f64>,
    /// With the time that it was ready and waited for a core.
    pub busiest_thread_wanted_share: Option<f64>,
    pub user_bytes_per_client: f64,
    pub cpu_us_per_connection: Option<f64>,
    /// By messages and heartbeats together.
    pub cpu_us_per_exchange: Option<f64>,
    pub counters: BTreeMap<&'static str, u64>,
}

#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs, reason = "as above")]
pub struct Kernel {
    /// What all slab caches grew by per connection: with kernel sockets on both ends, that is a
    /// pair.
    pub slab_bytes_per_connection: Option<f64>,
    /// The part of it that the clients' own sockets account for, by object count.
    pub client_bytes_per_connection: Option<f64>,
    pub slab: Vec<slab::Growth>,
    pub sockstat_at_all: Option<crate::figures::sockstat::Sockstat>,
}

/// Memory of the whole machine that is free or page cache.
#[derive(Clone, Copy, Debug, Serialize)]
#[allow(missing_docs, reason = "as above")]
pub struct Memory {
    pub free_at_start_bytes: Option<u64>,
    pub free_least_bytes: Option<u64>,
    /// Below it the run is stopped.
    pub floor_bytes: u64,
}

#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "as above")]
pub struct PlanSummary {
    pub transport: &'static str,
    pub target: String,
    pub connections: u32,
    pub active: u32,
    pub rate: f64,
    pub payload_bytes: usize,
    pub duration_s: f64,
    pub heartbeat_s: f64,
    pub threads: u32,
    pub connect_rate: f64,
    pub seed: u64,
    pub first_user: u32,
    pub window: u32,
    pub closed: bool,
}

#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "as above")]
pub struct Phase {
    pub name: String,
    pub start_s: f64,
    pub end_s: f64,
}

/// Kernel caches of which each client of the socket transport holds this many objects: its
/// socket, inode, file, dentry, and the poll it is parked on. What is not listed here counts as
/// the gateway's.
const CLIENT_OBJECTS: [(&str, f64); 5] =
    [("TCP", 1.0), ("sock_inode_cache", 1.0), ("filp", 1.0), ("dentry", 1.0), ("io_kiocb", 1.0)];
/// Caches that only the connecting side fills: one bind bucket per port.
const CLIENT_CACHES: [&str; 2] = ["tcp_bind_bucket", "tcp_bind2_bucket"];

impl RunResult {
    /// Makes the result; verdicts are filled in by [`super::verdict`].
    pub fn new(
        plan: &Plan,
        found: &Found,
        fleet: &FleetReport,
        clients_are: &str,
        kernel_clients: bool,
    ) -> Self {
        let tally = &fleet.tally;
        let own = |map: &BTreeMap<&'static str, u64>| {
            map.iter().map(|(&key, &count)| (key.to_owned(), count)).collect()
        };
        let kernel = kernel(found, kernel_clients);
        Self {
            scenario: plan.scenario.name(),
            connections_requested: u64::from(plan.connections),
            connections_held: found.connections_held,
            connections_held_min: found.connections_held_min,
            connect_failed: tally.connect_failed_total(),
            disconnected: own(&tally.disconnected),
            messages_sent: tally.messages_sent,
            messages_received: tally.messages_received,
            heartbeats: Heartbeats {
                due: tally.heartbeats_due,
                sent: tally.heartbeats_sent,
                answered: tally.heartbeats_answered,
                late_us_max: tally.heartbeat_late_ns_max / 1_000,
                cut_off: tally.heartbeats_cut_off,
                clients_answered: found.last.answered,
                clients_answered_before_figures: found.answered_at_figures,
            },
            lost: tally.lost,
            duplicated: tally.duplicated,
            duplicated_after_failover: tally.duplicated_after_failover,
            reordered: tally.reordered,
            misdelivered: tally.misdelivered,
            latency_us: percentiles(&found.latency.corrected),
            gateway: gateway(found, &kernel),
            worker: worker(found),
            generator_limited: false,
            failures: Vec::new(),
            interrupted: found.stopped == Some(Stopped::Interrupted),
            ended: found.stopped.map_or_else(|| "as planned".to_owned(), |stopped| stopped.to_string()),
            held_s: found.held.as_secs_f64(),
            started_unix_s: found.started_unix_s,
            corrupted: tally.corrupted,
            cut_off: tally.cut_off,
            protocol_errors: tally.protocol_errors,
            first_protocol_error: fleet
                .first_broken
                .map(|(client, broken)| format!("client {client}: {broken:?}")),
            connect_failed_by_error: tally
                .connect_failed
                .iter()
                .map(|(&errno, &count)| (io::Error::from_raw_os_error(errno).to_string(), count))
                .collect(),
            refused: own(&tally.refused),
            slow_disconnected: own(&tally.slow_disconnected),
            refused_without_retry_after: tally.refused_without_retry_after,
            opened: tally.opened,
            left: tally.left,
            scheduled: Scheduled { planned: tally.scheduled, sent: tally.scheduled_sent },
            final_check: found.final_check.map(|(clients, answered)| FinalCheck { clients, answered }),
            latency_uncorrected_us: percentiles(&found.latency.uncorrected),
            send_lag_us: percentiles(&found.latency.send_lag),
            open_latency_us: percentiles(&fleet.open_latency),
            generator: Generator {
                clients_are: clients_are.to_owned(),
                limited_because: None,
                busiest_thread_cpu_share: found.generator_cpu_share,
                busiest_thread_wanted_share: found.generator_wanted_share,
                user_bytes_per_client: fleet.user_bytes as f64 / f64::from(plan.connections.max(1)),
                cpu_us_per_connection: found.ramp_cpu.and_then(per_us),
                cpu_us_per_exchange: found
                    .traffic
                    .as_ref()
                    .and_then(|window| per_us((window.generator_cpu_ns, exchanges(window)))),
                counters: fleet.transport.iter().copied().collect(),
            },
            kernel,
            plan: PlanSummary {
                transport: plan.transport.name(),
                target: plan.target.to_string(),
                connections: plan.connections,
                active: plan.active,
                rate: plan.rate,
                payload_bytes: plan.payload_bytes,
                duration_s: plan.duration.as_secs_f64(),
                heartbeat_s: plan.heartbeat.as_secs_f64(),
                threads: plan.threads,
                connect_rate: plan.connect_rate,
                seed: plan.seed,
                first_user: plan.first_user,
                window: plan.window,
                closed: plan.closed,
            },
            machine: machine(),
            memory: Memory {
                free_at_start_bytes: found.memory_free.map(|(start, _)| start),
                free_least_bytes: found.memory_free.map(|(_, least)| least),
                floor_bytes: plan.memory_floor,
            },
            phases: found
                .phases
                .iter()
                .map(|(name, start_s, end_s)| Phase { name: name.clone(), start_s: *start_s, end_s: *end_s })
                .collect(),
            extra: found.extra.clone(),
            series: found.series.clone(),
        }
    }
}

/// Percentiles of a histogram; none when it is empty.
pub fn percentiles(histogram: &Histogram<u64>) -> Option<Percentiles> {
    (!histogram.is_empty()).then(|| Percentiles {
        p50: histogram.value_at_quantile(0.5),
        p90: histogram.value_at_quantile(0.9),
        p99: histogram.value_at_quantile(0.99),
        p999: histogram.value_at_quantile(0.999),
        max: histogram.max(),
        count: histogram.len(),
    })
}

fn per_us((cpu_ns, count): (u64, u64)) -> Option<f64> {
    (count > 0).then(|| cpu_ns as f64 / 1000.0 / count as f64)
}

/// How a number grew from one moment to another, per connection.
fn per_connection(before: Option<u64>, after: Option<u64>, connections: u64) -> Option<f64> {
    (connections > 0).then_some((after? as f64 - before? as f64) / connections as f64)
}

fn gateway(found: &Found, kernel: &Kernel) -> Gateway {
    let baseline = found.baseline.as_ref().map(|figures| figures.gateway);
    let half = found.half.as_ref().map(|(open, figures)| (*open, figures.gateway));
    let all = found.held_figures.as_ref().map(|(open, figures)| (*open, figures.gateway));
    let grown = |of: fn(&Process) -> Option<u64>| {
        let (open, all) = all?;
        per_connection(of(&baseline?), of(&all), open)
    };
    Gateway {
        user_bytes_per_connection: grown(|process| process.pss_bytes),
        kernel_bytes_per_connection: kernel
            .slab_bytes_per_connection
            .map(|bytes| bytes - kernel.client_bytes_per_connection.unwrap_or(0.0)),
        cpu_s_per_million_messages: cpu_per_million(
            found,
            |figures| figures.gateway.cpu_ms(),
            |window| window.messages,
        ),
        cpu_s_per_million_exchanges: cpu_per_million(found, |figures| figures.gateway.cpu_ms(), exchanges),
        open_fds: all.and_then(|(_, process)| process.open_fds),
        private_dirty_bytes_per_connection: grown(|process| process.private_dirty_bytes),
        user_bytes_per_connection_slope: half.zip(all).and_then(|((open_half, half), (open, all))| {
            per_connection(half.pss_bytes, all.pss_bytes, open.checked_sub(open_half)?)
        }),
        connections_by_its_own_count: found
            .held_figures
            .as_ref()
            .and_then(|(_, figures)| figures.gateway_connections),
        at_baseline: baseline,
        at_half: half.map(|(_, process)| process),
        at_all: all.map(|(_, process)| process),
    }
}

fn worker(found: &Found) -> Worker {
    let user_bytes_per_connection = found.held_figures.as_ref().and_then(|(open, all)| {
        per_connection(found.baseline.as_ref()?.worker.pss_bytes, all.worker.pss_bytes, *open)
    });
    Worker {
        user_bytes_per_connection,
        messages_handled: found.messages_handled,
        cpu_s_per_million_messages: cpu_per_million(
            found,
            |figures| figures.worker.cpu_ms(),
            |window| window.messages,
        ),
    }
}

fn cpu_per_million(
    found: &Found,
    cpu_ms: fn(&Figures) -> Option<u64>,
    of: fn(&Window) -> u64,
) -> Option<f64> {
    let window = found.traffic.as_ref()?;
    let [before, after] = &window.figures;
    Some((cpu_ms(after)? as f64 - cpu_ms(before)? as f64) / 1000.0 / of(window) as f64 * 1e6)
}

/// Messages and heartbeats: a PING costs a gateway about as much as a message.
const fn exchanges(window: &Window) -> u64 {
    window.messages + window.heartbeats
}

fn kernel(found: &Found, kernel_clients: bool) -> Kernel {
    let Some((open, all)) = &found.held_figures else { return Kernel::default() };
    let growth = found
        .baseline
        .as_ref()
        .and_then(|baseline| Some(slab::growth(baseline.slab.as_ref()?, all.slab.as_ref()?, *open)))
        .filter(|_| *open > 0);
    let Some(growth) = growth else { return Kernel { sockstat_at_all: all.sockstat, ..Kernel::default() } };
    let clients: f64 = growth
        .iter()
        .filter(|growth| growth.counted)
        .map(|growth| {
            let per_object = growth.bytes / growth.objects;
            let known =
                CLIENT_OBJECTS.iter().find(|(cache, _)| *cache == growth.cache).map_or(0.0, |(_, own)| *own);
            let only = CLIENT_CACHES.contains(&growth.cache.as_str());
            if only { growth.bytes } else { per_object * known.min(growth.objects.max(0.0)) }
        })
        .sum();
    Kernel {
        slab_bytes_per_connection: Some(
            growth.iter().filter(|growth| growth.counted).map(|growth| growth.bytes).sum(),
        ),
        client_bytes_per_connection: kernel_clients.then_some(clients),
        slab: growth,
        sockstat_at_all: all.sockstat,
    }
}

fn machine() -> BTreeMap<&'static str, String> {
    let uname = rustix::system::uname();
    let cpu = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let memory = rustix::system::sysinfo();
    let mut machine = BTreeMap::from([
        ("kernel", uname.release().to_string_lossy().into_owned()),
        ("architecture", uname.machine().to_string_lossy().into_owned()),
        (
            "cores",
            std::thread::available_parallelism().map_or_else(|_| "unknown".to_owned(), |n| n.to_string()),
        ),
        ("memory_mib", ((memory.totalram as u64 * u64::from(memory.mem_unit)) >> 20).to_string()),
    ]);
    machine.extend(cpu.map(|cpu| ("cpu", cpu)));
    machine
}
