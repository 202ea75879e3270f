//! What a run has found so far, and the moments at which it was looked at.

use std::time::Duration;

use serde::Serialize;

use crate::{figures::Figures, latency::Latency, tally::Snapshot};

/// Why a run ends before its plan does, with a report of what was found until then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// The user wants it.
    #[error("the run was interrupted")]
    Interrupted,
    /// The machine has less memory left than the run may leave it, both in bytes.
    #[error(
        "the run was stopped before memory ran out: {} MiB free or page cache, --memory-floor-mib {}",
        free >> 20,
        floor >> 20
    )]
    LowMemory {
        /// Free memory and page cache.
        free: u64,
        /// The floor.
        floor: u64,
    },
}

/// What a run has found so far; the report is made from it.
#[derive(Debug, Default)]
pub struct Found {
    /// Where the clients stood at the end.
    pub last: Snapshot,
    /// Open sessions when the hold began to be reported, and the lowest number since.
    pub connections_held: Option<u64>,
    /// The lowest number of open sessions during the hold.
    pub connections_held_min: Option<u64>,
    /// How long the hold lasted.
    pub held: Duration,
    /// Before anything.
    pub at_start: Option<Figures>,
    /// After the warm-up clients have left.
    pub baseline: Option<Figures>,
    /// Connections and figures at half of them.
    pub half: Option<(u64, Figures)>,
    /// With all connections, idle again after the traffic.
    pub held_figures: Option<(u64, Figures)>,
    /// Around the traffic.
    pub traffic: Option<Window>,
    /// Busiest load thread's share of one core during the traffic or the hold.
    pub generator_cpu_share: Option<f64>,
    /// The same with the time that the thread waited for a core.
    pub generator_wanted_share: Option<f64>,
    /// Time zero of the run, in seconds of the Unix epoch.
    pub started_unix_s: f64,
    /// All load threads' CPU time, in nanoseconds, around the ramp, and connections made in it.
    pub ramp_cpu: Option<(u64, u64)>,
    /// The final check: clients asked, answers.
    pub final_check: Option<(u64, u64)>,
    /// What the workers handled during the run, by their own count.
    pub messages_handled: Option<u64>,
    /// All latency of the scheduled messages.
    pub latency: Latency,
    /// One point per second.
    pub series: Vec<Point>,
    /// Phases: name, start and end in seconds of the run.
    pub phases: Vec<(String, f64, f64)>,
    /// What only this scenario reports.
    pub extra: serde_json::Map<String, serde_json::Value>,
    /// Why the scenario's own rule was broken.
    pub broken_rules: Vec<String>,
    /// What ended the run before its plan did.
    pub stopped: Option<Stopped>,
    /// Free memory and page cache of the machine at the start, and the least since, in bytes.
    pub memory_free: Option<(u64, u64)>,
    /// Open clients that had had a heartbeat answered when the figures were taken.
    pub answered_at_figures: Option<u64>,
}

/// What happened between two moments.
#[derive(Clone, Debug)]
pub struct Window {
    /// Figures before and after.
    pub figures: [Figures; 2],
    /// Messages sent, or delivered where one goes to many.
    pub messages: u64,
    /// Heartbeats sent.
    pub heartbeats: u64,
    /// CPU time of all load threads, in nanoseconds.
    pub generator_cpu_ns: u64,
}

/// A moment of the run.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Point {
    /// Seconds since the start.
    pub t_s: f64,
    /// Open sessions.
    pub open: u64,
    /// On their way.
    pub connecting: u64,
    /// Opened so far.
    pub opened: u64,
    /// Messages sent so far.
    pub sent: u64,
    /// Messages received so far.
    pub received: u64,
    /// Connections failed, refused or ended against the plan, so far.
    pub errors: u64,
    /// The gateway's PSS.
    pub gateway_pss_bytes: Option<u64>,
    /// The gateway's CPU time so far.
    pub gateway_cpu_ms: Option<u64>,
    /// Free memory and page cache of the machine.
    pub memory_free_bytes: Option<u64>,
    /// Corrected latency since the point before, in microseconds.
    pub p50_us: Option<u64>,
    /// 99th percentile.
    pub p99_us: Option<u64>,
    /// Maximum.
    pub max_us: Option<u64>,
}
