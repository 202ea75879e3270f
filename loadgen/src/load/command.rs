//! The commands to a load thread, and what it reports while it runs.

use std::time::Duration;

use crate::latency::Latency;

/// A command to a load thread; what became of it shows in [`crate::tally::Status`]. Numbers
/// of clients and rates are those of the thread's share.
#[derive(Clone, Copy, Debug)]
pub enum Command {
    /// Connects clients in order until the first `clients` of the share have been.
    Connect(Connects),
    /// Starts or ends the hold, during which the lowest number of open sessions is kept.
    Hold(bool),
    /// Sends messages on a schedule.
    Traffic(Traffic),
    /// Takes back what the schedule has not sent yet.
    StopTraffic,
    /// Every open client sends one message.
    Check {
        /// Messages per second.
        per_second: f64,
        /// Bytes of each.
        payload_bytes: usize,
    },
    /// All clients from `keep` on leave.
    Leave {
        /// Clients that stay.
        keep: u32,
        /// Departures per second.
        per_second: f64,
        /// How.
        how: Departure,
    },
    /// What clients do whose connection ended against the plan.
    Reconnect {
        /// What.
        policy: Reconnect,
        /// Sessions that may be on their way at a time when they do.
        in_flight_max: u64,
    },
    /// Sessions leave and come back, one after the other.
    Churn {
        /// Sessions per second; 0 ends it.
        per_second: f64,
    },
    /// The share's first clients read slowly.
    Slow(Slow),
    /// Sends no more heartbeats.
    StopHeartbeat,
    /// The slow readers read from now on.
    SlowResume,
    /// The run is over: what is outstanding when a connection ends is lost from now on, not cut off.
    CountAsLost,
    /// Ends the thread.
    Finish,
}

/// A ramp.
#[derive(Clone, Copy, Debug)]
pub struct Connects {
    /// Clients that will have been connected, those before included.
    pub clients: u32,
    /// Connects per second.
    pub per_second: f64,
    /// Sessions that may be on their way at a time.
    pub in_flight_max: u64,
}

/// An open-loop schedule.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    /// Whose messages these are.
    pub lane: Lane,
    /// Clients that send in turn, spread over the lane's.
    pub active: u32,
    /// Messages per second.
    pub per_second: f64,
    /// Messages in all.
    pub messages: u64,
    /// Bytes of each.
    pub payload_bytes: usize,
    /// When the first is due, in nanoseconds of the run.
    pub start_ns: u64,
    /// Closed loop: until then, in nanoseconds of the run, each reply makes its client send another
    /// message. 0: open loop.
    pub closed_until_ns: u64,
}

/// Two kinds of clients with schedules of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lane {
    /// Those that read: timed, and owed.
    #[default]
    Main,
    /// The slow readers.
    Slow,
}

/// How a client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// CLOSE, then the peer's FIN is awaited.
    Politely,
    /// RST, and connects again at once.
    ResetAndReturn,
    /// RST.
    Reset,
}

/// What a client does whose connection ended against the plan or was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reconnect {
    /// Stays away.
    Never,
    /// Connects at once, without jitter or back-off; where GOAWAY said retry-after, after
    /// exactly that time; where connecting failed, after this time.
    AtOnce {
        /// Milliseconds after a connect that failed.
        after_failure_ms: u64,
    },
}

/// Slow readers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Slow {
    /// The first clients of the share, which read slowly; 0: none.
    pub clients: u32,
    /// How long they read; zero: never.
    pub reading: Duration,
    /// How long they pause in between.
    pub pausing: Duration,
    /// Whether they read now; kept by the load thread.
    pub reads_now: bool,
}

/// Latency of an interval.
#[derive(Clone, Debug)]
pub struct Interval {
    /// From, in nanoseconds of the run.
    pub start_ns: u64,
    /// To.
    pub end_ns: u64,
    /// The interval's histograms.
    pub latency: Latency,
}
