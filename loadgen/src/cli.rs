//! Flags.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    path::PathBuf,
};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{figures::http::Url, socket::Cidr, tun::TunArgs};

/// Drives a roost gateway with many simulated clients, checks every reply, and reports honest
/// figures.
///
/// Exit code 0 means that the run was held and clean: connections_held_min equals
/// connections_requested, at least 99% of the scheduled messages were sent, no heartbeat went
/// unanswered, and nothing was lost, duplicated, reordered, misdelivered or corrupted. A scenario
/// that expects closes states its own rule in its --help. 1: the run was not clean; 2: it could
/// not be run.
#[derive(Debug, Parser)]
#[command(name = "roost-loadgen", version, max_term_width = 100, args_override_self = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Scenarios and tools.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// K clients send messages on an open-loop schedule; each reply is checked.
    Echo(RunArgs),
    /// Connect at a given rate, hold with heartbeats, and at the end have every client send one
    /// message and get it back.
    Idle(IdleArgs),
    /// Users of a pair send each other messages by key; needs workers with handler `route`.
    ///
    /// A message reported as undeliverable fails the run.
    Route(RunArgs),
    /// One user's messages go to all clients; needs workers with handler `fanout`.
    ///
    /// --rate counts messages, not deliveries [default: 1]. Every client must receive each
    /// message once and in order.
    Broadcast(RunArgs),
    /// One user's messages go to some clients; needs one worker with handler `fanout`.
    ///
    /// --rate counts messages, not deliveries [default: 1]. Each message must be delivered as
    /// often as --receivers says.
    Multicast(MulticastArgs),
    /// All clients lose their connections at once and come back at once, without jitter or
    /// back-off; a refused one waits exactly what retry-after says.
    ///
    /// The hold of --duration begins when all are back; connections_held_min counts from there.
    /// Beyond the common rule, no client may be refused without retry-after once the gateway
    /// listens (again). Closes that the storm itself causes are no failure.
    Storm(StormArgs),
    /// Some clients read slowly or never while they are sent messages; the others must notice
    /// nothing.
    ///
    /// A slow client that the gateway cuts off is no failure, whatever the reason, and counts as
    /// held; one that is not cut off must get all its replies in the end. For the others the
    /// common rule holds.
    Slow(SlowArgs),
    /// Sessions end and begin at a steady rate.
    ///
    /// Instead of connections_held_min, all sessions must be open at the end, at least 99% of
    /// --churn-rate times --duration must have come back, and no connect may fail, be refused or
    /// end against the plan.
    Churn(ChurnArgs),
    /// A bare server: accepts connections into direct descriptors and does nothing with them.
    /// The kernel memory of `idle --bare` against it is the baseline of what a gateway adds.
    BareAccept(BareAcceptArgs),
    /// Joins interval logs of several generators.
    Merge(MergeArgs),
}

/// Flags of `idle`.
#[derive(Clone, Debug, Args)]
pub struct IdleArgs {
    /// Flags of every scenario.
    #[command(flatten)]
    pub run: RunArgs,
    /// Speak no protocol at all: only connect and hold, against `bare-accept`.
    #[arg(long)]
    pub bare: bool,
}

/// Flags of `multicast`.
#[derive(Clone, Debug, Args)]
pub struct MulticastArgs {
    /// Flags of every scenario.
    #[command(flatten)]
    pub run: RunArgs,
    /// Connections that each message goes to.
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub receivers: u32,
}

/// Flags of `storm`.
#[derive(Clone, Debug, Args)]
pub struct StormArgs {
    /// Flags of every scenario.
    #[command(flatten)]
    pub run: RunArgs,
    /// Instead of resetting all connections, run this command by `sh -c`, which restarts the
    /// gateway. If its last line of output is a number, that is the new --gateway-pid.
    #[arg(long, value_name = "COMMAND")]
    pub restart_command: Option<String>,
    /// How long the clients may take to come back.
    #[arg(long, value_name = "S", default_value_t = 300.0)]
    pub storm_limit_s: f64,
    /// How long a client waits after a connect that failed, such as while nobody listens.
    #[arg(long, value_name = "MS", default_value_t = 100)]
    pub retry_ms: u64,
}

/// Flags of `slow`.
#[derive(Clone, Debug, Args)]
pub struct SlowArgs {
    /// Flags of every scenario.
    #[command(flatten)]
    pub run: RunArgs,
    /// Share of the clients that read slowly.
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    pub slow_share: f64,
    /// Messages per second that the slow clients send all together, whose replies pile up.
    #[arg(long, value_name = "MSGS_PER_S", default_value_t = 1000.0)]
    pub slow_rate: f64,
    /// Bytes of their messages.
    #[arg(long, value_name = "BYTES", default_value_t = 4096)]
    pub slow_payload: u32,
    /// How long they read at a time; 0: never.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub slow_reads_ms: u64,
    /// How long they pause in between.
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    pub slow_pauses_ms: u64,
}

/// Flags of `churn`.
#[derive(Clone, Debug, Args)]
pub struct ChurnArgs {
    /// Flags of every scenario.
    #[command(flatten)]
    pub run: RunArgs,
    /// Sessions per second that end and come back.
    #[arg(long, value_name = "PER_S", default_value_t = 100.0)]
    pub churn_rate: f64,
}

/// Flags of `bare-accept`.
#[derive(Clone, Debug, Args)]
pub struct BareAcceptArgs {
    /// Where to listen; port 0: the kernel chooses, and the first line of output says.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Connections to accept, at most.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub connections: u32,
    /// Sockets of one ring at most.
    #[arg(long, value_name = "N", default_value_t = roost_ring::RING_SLOTS_MAX, value_parser = clap::value_parser!(u32).range(1..=i64::from(roost_ring::RING_SLOTS_MAX)))]
    pub ring_slots_max: u32,
}

/// Flags of `merge`.
#[derive(Clone, Debug, Args)]
pub struct MergeArgs {
    /// Interval logs written with --hlog.
    #[arg(required = true, value_name = "FILE")]
    pub logs: Vec<PathBuf>,
    /// Write percentiles of all logs together as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write all intervals as one log.
    #[arg(long, value_name = "FILE")]
    pub hlog: Option<PathBuf>,
}

/// Which clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TransportKind {
    /// Kernel sockets over io_uring.
    Socket,
    /// User-space TCP over TUN devices in a network namespace.
    Tun,
}

impl TransportKind {
    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Tun => "tun",
        }
    }
}

/// Flags of every scenario.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Where the gateway listens: host:port.
    #[arg(long, value_name = "ADDR", value_parser = resolve)]
    pub target: SocketAddr,
    /// Clients.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub connections: u32,
    /// Clients that send messages, spread over all of them [default: all in echo and route, those
    /// that are not slow in slow, else none; one in broadcast and multicast].
    #[arg(long, value_name = "K")]
    pub active: Option<u32>,
    /// Messages per second over all active clients [default: 1000 if any is active].
    #[arg(long, value_name = "MSGS_PER_S")]
    pub rate: Option<f64>,
    /// Bytes of a message, at least 16: what is needed to tell whose it is.
    #[arg(long, value_name = "BYTES", default_value_t = 64)]
    pub payload: u32,
    /// How long the hold lasts, after all have connected.
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    pub duration: f64,
    /// Each client's heartbeat interval, spread evenly over all; 0: none.
    #[arg(long, value_name = "S", default_value_t = 60.0)]
    pub heartbeat_s: f64,
    /// Source addresses of the clients [default: 127.0.0.0/8 for a target in it, else one].
    #[arg(long, value_name = "CIDR")]
    pub source: Option<Cidr>,
    /// How clients reach the gateway.
    #[arg(long, value_enum, default_value_t = TransportKind::Socket)]
    pub transport: TransportKind,
    /// Load threads.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: u32,
    /// Connects per second.
    #[arg(long, value_name = "PER_S", default_value_t = 10_000.0)]
    pub connect_rate: f64,
    /// Connects under way at a time [default: 1024; in a storm: all].
    #[arg(long, value_name = "N")]
    pub connecting_max: Option<u32>,
    /// Clients that connect, send one message and leave before the first memory figure is taken.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub warmup: u32,
    /// Messages per second when every client sends one.
    #[arg(long, value_name = "PER_S", default_value_t = 20_000.0)]
    pub check_rate: f64,
    /// How long to wait for the last replies, and for connects.
    #[arg(long, value_name = "S", default_value_t = 30.0)]
    pub grace_s: f64,
    /// Seed of all content [default: random].
    #[arg(long)]
    pub seed: Option<u64>,
    /// Number of the first user: `user-<index>` keys of several generators must not collide.
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    pub first_user: u32,
    /// The routing key of all clients, so that one worker serves them all; not in route, whose
    /// users are known by their keys [default: each its own, `user-INDEX`].
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Messages that a client may have outstanding; what is due beyond that is sent late, when a
    /// reply has come. 0: any number, every message leaves when it is due.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub window: u32,
    /// Closed loop, to find what the other side can do at most: every active client keeps --window
    /// messages outstanding [default: 1] and sends the next when a reply has come. There is no
    /// schedule (--rate is not used), so latencies count from the send and say nothing about
    /// pauses. Only in echo.
    #[arg(long, overrides_with = "rate")]
    pub closed: bool,
    /// A worker dies during this run: duplicates count as duplicated_after_failover.
    #[arg(long)]
    pub failover: bool,
    /// The gateway's process, for its memory, CPU and descriptors.
    #[arg(long, value_name = "PID")]
    pub gateway_pid: Option<u32>,
    /// The gateway's metrics page, for its own count of connections.
    #[arg(long, value_name = "URL")]
    pub gateway_metrics: Option<Url>,
    /// A worker's process; may be repeated.
    #[arg(long, value_name = "PID")]
    pub worker_pid: Vec<u32>,
    /// A worker's stats page, for its count of handled messages; may be repeated.
    #[arg(long, value_name = "URL")]
    pub worker_stats: Vec<Url>,
    /// Write the result as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a report for people: one HTML file that needs no network.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Write latencies as an HdrHistogram V2 interval log, which `merge` joins.
    #[arg(long, value_name = "FILE")]
    pub hlog: Option<PathBuf>,
    /// Run even if the preflight says that this machine cannot hold it.
    #[arg(long)]
    pub force: bool,
    /// End the run, with its report, when less memory than this is free or page cache; 0: never.
    #[arg(long, value_name = "MIB", default_value_t = 1_792)]
    pub memory_floor_mib: u64,
    /// Only say what this machine can hold for this run.
    #[arg(long)]
    pub preflight: bool,
    /// Sockets of one ring at most.
    #[arg(long, value_name = "N", default_value_t = roost_ring::RING_SLOTS_MAX, value_parser = clap::value_parser!(u32).range(1..=i64::from(roost_ring::RING_SLOTS_MAX)))]
    pub ring_slots_max: u32,
    /// Hold sockets as file descriptors, as kernels without usable direct descriptors must.
    #[arg(long)]
    pub plain_descriptors: bool,
    /// Flags of the other transport.
    #[command(flatten)]
    pub tun: TunArgs,
}

fn resolve(text: &str) -> Result<SocketAddr, String> {
    text.to_socket_addrs()
        .map_err(|error| format!("{error}; give host:port"))?
        .next()
        .ok_or_else(|| "no such host".to_owned())
}
