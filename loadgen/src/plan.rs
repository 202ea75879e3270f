//! A run's plan: the flags, checked and with their defaults filled in.

use std::{net::IpAddr, net::SocketAddr, time::Duration};

use anyhow::ensure;
use roost_protocol::edge::KEY_BYTES_MAX;

use crate::{
    cli::{RunArgs, TransportKind},
    payload,
    schedule::whole,
    socket::Cidr,
};

/// What kind of run, with what only that kind needs.
#[derive(Clone, Debug, PartialEq)]
pub enum Scenario {
    /// See the subcommand of the same name, also below.
    Echo,
    #[allow(missing_docs, reason = "as above")]
    Idle { bare: bool },
    #[allow(missing_docs, reason = "as above")]
    Route,
    #[allow(missing_docs, reason = "as above")]
    Broadcast,
    #[allow(missing_docs, reason = "as above")]
    Multicast { receivers: u32 },
    #[allow(missing_docs, reason = "as above")]
    Storm { restart_command: Option<String>, limit: Duration, retry_ms: u64 },
    #[allow(missing_docs, reason = "as above")]
    Slow { share: f64, rate: f64, payload_bytes: usize, reading: Duration, pausing: Duration },
    #[allow(missing_docs, reason = "as above")]
    Churn { per_second: f64 },
}

impl Scenario {
    /// As on the command line.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Idle { .. } => "idle",
            Self::Route => "route",
            Self::Broadcast => "broadcast",
            Self::Multicast { .. } => "multicast",
            Self::Storm { .. } => "storm",
            Self::Slow { .. } => "slow",
            Self::Churn { .. } => "churn",
        }
    }

    /// Sessions end in it by design, so that the hold is no measure.
    pub const fn expects_closes(&self) -> bool {
        matches!(self, Self::Churn { .. })
    }

    /// No protocol is spoken.
    pub const fn is_bare(&self) -> bool {
        matches!(self, Self::Idle { bare: true })
    }

    /// Active clients and rate, where no flag says.
    fn traffic_by_default(&self, connections: u32) -> (u32, f64) {
        match self {
            Self::Echo | Self::Route => (connections, RATE),
            Self::Slow { .. } => (connections - self.slow_clients(connections), RATE),
            Self::Broadcast | Self::Multicast { .. } => (1, 1.0),
            Self::Idle { .. } | Self::Storm { .. } | Self::Churn { .. } => (0, 0.0),
        }
    }

    /// How many of the clients read slowly.
    pub fn slow_clients(&self, connections: u32) -> u32 {
        match self {
            Self::Slow { share, .. } => {
                u32::try_from(whole(f64::from(connections) * share)).unwrap_or(connections)
            }
            _ => 0,
        }
    }
}

/// A checked plan.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the flags of cli::RunArgs, explained there")]
pub struct Plan {
    pub scenario: Scenario,
    pub target: SocketAddr,
    pub connections: u32,
    pub active: u32,
    pub rate: f64,
    pub payload_bytes: usize,
    pub duration: Duration,
    pub heartbeat: Duration,
    pub source: Option<Cidr>,
    pub transport: TransportKind,
    pub threads: u32,
    pub connect_rate: f64,
    pub connecting_max: u64,
    pub storm_connecting_max: u64,
    pub warmup: u32,
    pub check_rate: f64,
    pub grace: Duration,
    pub seed: u64,
    pub first_user: u32,
    pub key: Option<String>,
    pub window: u32,
    pub closed: bool,
    pub failover: bool,
    /// Bytes.
    pub memory_floor: u64,
}

impl Plan {
    /// Checks the flags and fills in defaults.
    ///
    /// # Errors
    /// One line that names the flag and what it may be.
    pub fn new(scenario: Scenario, args: &RunArgs) -> anyhow::Result<Self> {
        let payload_max = roost_protocol::edge::FRAME_BYTES_LIMIT as usize;
        let payload_bytes = args.payload as usize;
        ensure!(
            (payload::BYTES_MIN..=payload_max).contains(&payload_bytes),
            "--payload must be {} to {payload_max} bytes: a message names its sender and proves its content",
            payload::BYTES_MIN
        );
        check(&scenario)?;
        let (usually_active, usual_rate) = scenario.traffic_by_default(args.connections);
        let active = args.active.unwrap_or(usually_active);
        let most = args.connections - scenario.slow_clients(args.connections);
        ensure!(active <= most, "--active {active} is more than the {most} clients that there are for it");
        let many = matches!(scenario, Scenario::Broadcast | Scenario::Multicast { .. });
        ensure!(!many || active == 1, "--active must be 1: one user sends to many");
        ensure!(
            !scenario.is_bare() || active == 0,
            "--active must be 0 with --bare: no messages without protocol"
        );
        let usual_rate = match active {
            0 => 0.0,
            _ if usual_rate > 0.0 => usual_rate,
            _ => RATE,
        };
        ensure!(!args.closed || scenario == Scenario::Echo, "--closed is for echo only");
        let rate = match args.closed {
            true => f64::from(active) * f64::from(args.window.max(1)) / CLOSED_START_S,
            false => args.rate.unwrap_or(usual_rate),
        };
        ensure!(rate >= 0.0 && rate.is_finite(), "--rate must be 0 or more");
        ensure!(rate == 0.0 || active > 0, "--rate {rate} needs --active clients to send");
        ensure!(args.connect_rate > 0.0, "--connect-rate must be more than 0");
        ensure!(args.check_rate > 0.0, "--check-rate must be more than 0");
        let seconds = |name: &str, value: f64| {
            Duration::try_from_secs_f64(value)
                .map_err(|_| anyhow::anyhow!("{name} must be a number of seconds, 0 or more"))
        };
        ensure!(
            args.first_user.checked_add(args.connections).is_some(),
            "--first-user plus --connections must be below 2^32"
        );
        if let Some(key) = &args.key {
            ensure!(
                key.len() <= KEY_BYTES_MAX,
                "--key has {} bytes; the protocol has room for {KEY_BYTES_MAX}",
                key.len()
            );
            ensure!(!matches!(scenario, Scenario::Route), "--key and route: users are known by their keys");
        }
        Ok(Self {
            target: args.target,
            connections: args.connections,
            active,
            rate,
            payload_bytes,
            duration: seconds("--duration", args.duration)?,
            heartbeat: if scenario.is_bare() {
                Duration::ZERO
            } else {
                seconds("--heartbeat-s", args.heartbeat_s)?
            },
            source: source(args)?,
            transport: args.transport,
            threads: args.threads,
            connect_rate: args.connect_rate,
            connecting_max: args.connecting_max.map_or(CONNECTING_MAX, |most| u64::from(most.max(1))),
            storm_connecting_max: args.connecting_max.map_or(u64::MAX, |most| u64::from(most.max(1))),
            warmup: if scenario.is_bare() { 0 } else { args.warmup.min(args.connections) },
            check_rate: args.check_rate,
            grace: seconds("--grace-s", args.grace_s)?,
            seed: match args.seed {
                Some(seed) => seed,
                None => getrandom::u64()
                    .map_err(|error| anyhow::anyhow!("no random seed: {error}; give --seed"))?,
            },
            first_user: args.first_user,
            key: args.key.clone(),
            window: if args.closed { args.window.max(1) } else { args.window },
            closed: args.closed,
            failover: args.failover,
            memory_floor: args.memory_floor_mib.saturating_mul(1 << 20),
            scenario,
        })
    }

    /// Messages that the schedule owes: rate times duration; in a closed loop those that begin it.
    pub fn messages(&self) -> u64 {
        if self.closed {
            return u64::from(self.active) * u64::from(self.window);
        }
        whole(self.rate * self.duration.as_secs_f64())
    }
}

/// Messages per second, unless a flag says otherwise.
const RATE: f64 = 1000.0;
/// Over how long the first messages of a closed loop leave, in seconds.
const CLOSED_START_S: f64 = 1.0;
/// Connects under way at a time, unless a flag says otherwise.
const CONNECTING_MAX: u64 = 1024;

/// Checks what only this scenario has.
fn check(scenario: &Scenario) -> anyhow::Result<()> {
    match *scenario {
        Scenario::Slow { share, rate, payload_bytes, .. } => {
            ensure!((0.0..1.0).contains(&share), "--slow-share must be 0 or more and below 1");
            ensure!(rate >= 0.0 && rate.is_finite(), "--slow-rate must be 0 or more");
            ensure!(
                payload_bytes >= payload::BYTES_MIN
                    && payload_bytes <= roost_protocol::edge::FRAME_BYTES_LIMIT as usize,
                "--slow-payload must be {} bytes or more",
                payload::BYTES_MIN
            );
        }
        Scenario::Churn { per_second } => ensure!(per_second > 0.0, "--churn-rate must be more than 0"),
        Scenario::Multicast { receivers } => ensure!(receivers > 0, "--receivers must be 1 or more"),
        _ => {}
    }
    Ok(())
}

fn source(args: &RunArgs) -> anyhow::Result<Option<Cidr>> {
    if let Some(source) = args.source {
        ensure!(
            source.is_ipv4() == args.target.is_ipv4(),
            "--source {source} and --target {} are not of the same family",
            args.target
        );
        return Ok(Some(source));
    }
    match args.target.ip() {
        IpAddr::V4(ip) if ip.is_loopback() => Ok(Some("127.0.0.0/8".parse().expect("a range"))),
        _ => Ok(None),
    }
}
