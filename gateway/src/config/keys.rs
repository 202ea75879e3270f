//! The table of keys. Units stand last in a key's name; 0 turns a limit off where its text says
//! so.

use std::{net::SocketAddr, ops::RangeInclusive, path::PathBuf};

use ipnet::IpNet;
use roost_protocol::{edge, link};
use serde::{Deserialize, Serialize};

use super::value::{
    Alternative, Auto, EmbeddedHandler, FullPolicy, ListenerSpec, LogFormat, LogLevel, NoWorkerPolicy,
    WorkerSpec,
};
use crate::ring::RING_SLOTS_MAX;

/// When a changed value takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// At SIGHUP, in the running gateway.
    Live,
    /// At the next start or hand-over.
    Start,
}

/// What is known about a key besides its type.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The name in the file; the environment has `ROOST_` and this in upper case.
    pub name: &'static str,
    /// When a change takes effect.
    pub when: When,
    /// What a number may be; for `auto` keys it binds the number.
    pub range: Option<(u64, u64)>,
    /// The description.
    pub doc: &'static str,
}

macro_rules! keys {
    ($( $(#[doc = $doc:literal])+ $when:ident $name:ident: $type:ty = $default:expr $(, in $range:expr)?; )+) => {
        /// The whole configuration; see `roost.example.toml` for the keys in context.
        #[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct Config { $( $(#[doc = $doc])+ pub $name: $type, )+ }

        impl Default for Config {
            fn default() -> Self {
                Self { $( $name: $default, )+ }
            }
        }

        /// Every key, in the order of the documentation.
        pub const KEYS: &[Key] = &[ $( Key {
            name: stringify!($name),
            when: When::$when,
            range: keys!(@range $($range)?),
            doc: concat!($($doc, "\n"),+),
        }, )+ ];

        impl Config {
            /// Takes the value of `key` from `other`. Panics on a name that is no key.
            pub(super) fn take(&mut self, key: &str, other: &Self) {
                match key {
                    $( stringify!($name) => self.$name = other.$name.clone(), )+
                    _ => panic!("no such key: {key}"),
                }
            }
        }
    };
    (@range) => { None };
    (@range $range:expr) => { Some(bounds(&$range)) };
}

const fn bounds(range: &RangeInclusive<u64>) -> (u64, u64) {
    (*range.start(), *range.end())
}

/// The sweep compares 16-bit ticks of a second, so deadlines end below 2^15 of them.
const DEADLINE_MS_MAX: u64 = 32_000_000;
const MIB: u64 = 1024 * 1024;

keys! {
    /// Where clients connect: `ADDR:PORT`, IPv4 or `[IPv6]`; `[::]` is all of IPv6 and no IPv4, so
    /// name 0.0.0.0 and `[::]` for both. `proxy:ADDR:PORT` expects a PROXY protocol header (v1 or v2)
    /// before the first frame, from the sources in `proxy_trusted`.
    Start listen: Vec<ListenerSpec> = vec![ListenerSpec::local(7400)];
    /// Networks whose PROXY headers are believed; everybody else on a `proxy:` listener is closed.
    Live proxy_trusted: Vec<IpNet> = Vec::new();
    /// Connections that wait in the kernel to be accepted, per listener; net.core.somaxconn caps
    /// it silently.
    Start listen_backlog: u32 = 65_535, in 1..=i32::MAX as u64;
    /// Bytes that a client's socket takes beyond what TCP has sent (TCP_NOTSENT_LOWAT, tcp(7)): what
    /// a client that does not read costs in the kernel before its outbox counts. 0: as
    /// net.ipv4.tcp_notsent_lowat says.
    Start notsent_lowat_bytes: u32 = 131_072, in 0..=i32::MAX as u64;
    /// Unix socket over which a successor takes the listening sockets from this process; empty:
    /// none. The successor is started with the same value.
    Start handover_socket: PathBuf = PathBuf::new();
    /// How long a successor waits for a worker that is up on every shard, before it gives up and leaves
    /// the running gateway as it is.
    Start handover_worker_wait_ms: u32 = 10_000, in 0..=600_000;

    /// Threads that own connections; `auto`: one per core this process may run on.
    Start shards: Auto<u16> = Auto::Auto, in 1..=256;
    /// Connections held at once, over all shards; `auto`: what the machine can hold
    /// (`roost-gateway check` shows the arithmetic).
    Start connections_max: Auto<u32> = Auto::Auto, in 1..=1 << 24;
    /// Slots of one ring's file table; more connections than that take more rings.
    Start ring_slots_max: u32 = 16_384, in 64..=RING_SLOTS_MAX as u64;
    /// How long a shard that has hardly any time to spare lets events gather before it acts on
    /// them, at most, in microseconds: fewer, larger turns cost less, and messages wait. The less
    /// time to spare, the longer; below 60% of its core not at all. 0: never.
    Start gather_us_max: u32 = 0, in 0..=10_000;
    /// How long a shard that has nothing to do looks for events before it sleeps, at most, in
    /// microseconds: messages need not wait until its core has woken up, which is busy meanwhile.
    /// It looks only as long as that has paid lately. 0: never.
    Start busy_poll_us_max: u32 = 0, in 0..=10_000;
    /// The best kernel feature tier to use, to try a lower one on a newer kernel; `auto`: all.
    Start features_max: Auto<String> = Auto::Auto;
    /// Memory this process and its sockets in the kernel may take, for `connections_max = "auto"`
    /// and `check`; `auto`: what is free now, less a reserve.
    Start memory_bytes_max: Auto<u64> = Auto::Auto, in 16 * MIB..=1 << 50;

    /// Time from accept to a complete HELLO.
    Live handshake_timeout_ms: u32 = 10_000, in 1_000..=DEADLINE_MS_MAX;
    /// What WELCOME asks clients to send PING at; a blocked client gets a PONG as often. 0: none.
    Live heartbeat_interval_ms: u32 = 60_000, in 0..=DEADLINE_MS_MAX;
    /// Silence after which a client is closed; two heartbeats at least, and 0 where there are none.
    /// 0: never.
    Live idle_timeout_ms: u32 = 150_000, in 0..=DEADLINE_MS_MAX;
    /// How long a frame may stay incomplete.
    Live frame_timeout_ms: u32 = 30_000, in 1_000..=DEADLINE_MS_MAX;
    /// How long a client may take none of what is queued for it.
    Live write_timeout_ms: u32 = 20_000, in 1_000..=DEADLINE_MS_MAX;
    /// How long a client closed for an error is listened to, so that GOAWAY reaches it, before
    /// its socket is closed.
    Live linger_ms: u32 = 1_000, in 0..=60_000;

    /// Largest payload of a frame.
    Start frame_bytes_max: u32 = edge::FRAME_BYTES_MAX_DEFAULT, in 64..=(1 << 24) - 1;
    /// Largest backlog of one client, in bytes; beyond it the client is a slow consumer.
    Live outbox_bytes_max: u32 = 1024 * 1024, in 4_096..=1 << 30;
    /// Memory for all backlogs together.
    Start outbox_bytes_total: u64 = 128 * MIB, in MIB..=1 << 40;
    /// Memory for all incomplete frames together.
    Start spill_bytes_total: u64 = 128 * MIB, in MIB..=1 << 40;

    /// The workers: `[NAME=]HOST:PORT` or `[NAME=]unix:PATH`. The name is what routing hashes, so
    /// it must be the same at every gateway; without one it is the address. Empty: the reference
    /// worker runs inside the gateway.
    Live workers: Vec<WorkerSpec> = Vec::new();
    /// What the reference worker does when it runs inside the gateway.
    Start embedded_handler: EmbeddedHandler = EmbeddedHandler::Echo;
    /// File with the secret that gateway and workers prove to each other; required when a worker
    /// is neither on a loopback address nor on a Unix socket. Empty: none.
    Start link_secret_file: PathBuf = PathBuf::new();
    /// Bytes a link may carry without acknowledgement, and retain for a resume, per direction.
    Start link_window_bytes: u32 = link::WINDOW_BYTES_DEFAULT, in 65_536..=1 << 30;
    /// Absence after which a worker's connections go to the others; also, how long a worker that lives
    /// may owe the answer to CLOSED(moved).
    Live link_failover_ms: u32 = 10_000, in 100..=3_600_000;
    /// First pause between two dials of a link; it doubles, jittered, up to the next key.
    Live link_redial_min_ms: u32 = 50, in 1..=60_000;
    /// Longest pause between two dials.
    Live link_redial_max_ms: u32 = 2_000, in 1..=600_000;
    /// Silence after which a link is probed, and after twice that declared broken and dialled anew;
    /// at most a quarter of `link_failover_ms` is used. 0: it is probed as often as failover needs,
    /// and not declared broken before.
    Live link_keepalive_ms: u32 = 10_000, in 0..=3_600_000;
    /// What becomes of clients while no worker is up, of new ones and of those whose worker was given up:
    /// `wait` (unread, for `handshake_timeout_ms` at most) or `refuse` (GOAWAY with a retry-after).
    Live no_worker: NoWorkerPolicy = NoWorkerPolicy::Wait;

    /// What becomes of clients beyond `connections_max`: they stay in the `backlog`, or the
    /// gateway answers to `refuse` them (GOAWAY with a retry-after).
    Start full: FullPolicy = FullPolicy::Backlog;
    /// Connections per IPv4 address, or per IPv6 /64, at once. 0: off.
    Live per_ip_max: u32 = 0, in 0..=1 << 24;
    /// Whether `per_ip_max` holds for loopback addresses, too.
    Start per_ip_loopback: bool = false;
    /// Connections accepted per second, over all shards; more wait in the backlog. 0: off.
    Live accept_ramp_per_s: u32 = 0, in 0..=10_000_000;
    /// Messages per second and connection; as many again at once after a quiet second. 0: off.
    Live messages_per_s_max: u32 = 0, in 0..=1_000_000;
    /// PINGs and PONGs per second and connection; as many again at once after a quiet second. 0: off.
    Live control_frames_per_s_max: u32 = 1_000, in 0..=30_000;
    /// Shortest time after which a refused client is asked to come back.
    Live retry_after_min_ms: u32 = 1_000, in 0..=DEADLINE_MS_MAX;
    /// Longest; the time is drawn evenly from this range, so that refused clients do not return
    /// at once.
    Live retry_after_max_ms: u32 = 5_000, in 0..=DEADLINE_MS_MAX;

    /// Over how long GOAWAYs are spread at SIGTERM; the gateway ends when all clients have left,
    /// and a few seconds after this time at the latest.
    Live drain_ms: u32 = 30_000, in 0..=86_400_000;
    /// Most GOAWAYs per second while draining; where that takes longer than `drain_ms`, so does
    /// the drain. 0: no limit but `drain_ms`.
    Live drain_rate_per_s: u32 = 0, in 0..=100_000_000;
    /// Where clients are asked to go when this gateway ends: `HOST:PORT`, as they can reach it.
    /// Empty: nowhere else. Not said at a hand-over, where they come back to the same address.
    Live drain_to: Alternative = Alternative::default();

    /// Where `/metrics`, `/healthz`, `/readyz` and the page are served; `[::]` is all of IPv6 and no
    /// IPv4, as for `listen`. Empty: nowhere.
    Start admin_listen: Vec<SocketAddr> = vec![SocketAddr::from(([127, 0, 0, 1], 7401))];
    /// File with the token for whatever lists connections or changes state (`/api/`). Empty: that
    /// part is off.
    Start admin_token_file: PathBuf = PathBuf::new();
    /// Host names by which browsers may reach `/api/`, besides `admin_listen` and localhost.
    Start admin_hosts: Vec<String> = Vec::new();
    /// How much is logged: `error`, `warn`, `info`, `debug`, `trace`.
    Live log_level: LogLevel = LogLevel::Info;
    /// How lines are logged, to stderr: `text` or `json`.
    Start log_format: LogFormat = LogFormat::Text;
}

/// The key with this name.
pub fn key(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

impl Key {
    /// The environment variable that overrides the file.
    pub fn variable(&self) -> String {
        format!("ROOST_{}", self.name.to_ascii_uppercase())
    }
}
