//! A run's plan: the flags, checked and with their defaults filled in.

use std::{net::IpAddr, net::SocketAddr, time::Duration};

use anyhow::ensure;
use serde::Serialize;

use crate::{
    cli::{RunArgs, TransportKind},
    payload,
    schedule::whole,
    socket::Cidr,
};

/// What kind of run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the names of the subcommands, explained there")]
pub enum Scenario {
    Echo,
    Idle,
}

impl Scenario {
    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Echo => "echo",
            Self::Idle => "idle",
        }
    }

    /// Connections end in it by design, so that it has a rule of its own.
    pub const fn expects_closes(self) -> bool {
        match self {
            Self::Echo | Self::Idle => false,
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
    pub warmup: u32,
    pub check_rate: f64,
    pub grace: Duration,
    pub seed: u64,
    pub first_user: u32,
    pub failover: bool,
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
        let by_default = if scenario == Scenario::Idle { 0 } else { args.connections };
        let active = args.active.unwrap_or(by_default);
        ensure!(
            active <= args.connections,
            "--active {active} is more than --connections {}",
            args.connections
        );
        let rate = args.rate.unwrap_or(if active == 0 { 0.0 } else { 1000.0 });
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
        Ok(Self {
            scenario,
            target: args.target,
            connections: args.connections,
            active,
            rate,
            payload_bytes,
            duration: seconds("--duration", args.duration)?,
            heartbeat: seconds("--heartbeat-s", args.heartbeat_s)?,
            source: source(args)?,
            transport: args.transport,
            threads: args.threads,
            connect_rate: args.connect_rate,
            connecting_max: u64::from(args.connecting_max.max(1)),
            warmup: args.warmup.min(args.connections),
            check_rate: args.check_rate,
            grace: seconds("--grace-s", args.grace_s)?,
            seed: match args.seed {
                Some(seed) => seed,
                None => getrandom::u64()
                    .map_err(|error| anyhow::anyhow!("no random seed: {error}; give --seed"))?,
            },
            first_user: args.first_user,
            failover: args.failover,
        })
    }

    /// Messages that the schedule owes: rate times duration.
    pub fn messages(&self) -> u64 {
        whole(self.rate * self.duration.as_secs_f64())
    }
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
