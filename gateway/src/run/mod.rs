//! The process: from a configuration to running shards, and in order back to nothing.
//!
//! * [`caught`]: signals, from the first instruction on.
//! * [`handover`]: listening sockets pass to a successor.
//! * [`names`]: where workers' names lead.
//! * [`listeners`]: the sockets where clients connect.
//! * [`worker`]: the reference worker inside the gateway.
//! * [`shards`]: one thread per shard.
//! * [`signals`]: the control loop: SIGTERM drains, SIGHUP reloads.
//! * [`succession`]: a hand-over, as states of that loop.
//! * [`drain`]: how it ends.
#![forbid(unsafe_code)]

mod caught;
mod drain;
mod handover;
mod listeners;
mod names;
mod running;
mod shards;
mod signals;
mod succession;
mod worker;

use std::{
    fs, io,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use roost_protocol::InstanceId;

use crate::{
    admin::Admin,
    config::{self, Config, Loaded, Options},
    core::{
        CoreConfig, ListenerConfig,
        bounds::Bounds,
        config::{NoWorkerPolicy, WorkerConfig},
        limits::{Cap, PerIp},
    },
    event_loop::Target,
    logging::LevelHandle,
    op::LinkAddress,
    preflight,
    ring::{Features, FeaturesMax},
};

pub use caught::CaughtSignals;
pub use names::unresolved;
use running::{AdminSockets, Entry, Running};
pub use shards::Fleet;

/// Accepts armed per shard and listener.
const ACCEPTS_MAX: u32 = 64;

/// A worker with everything known of it.
#[derive(Clone, Debug)]
struct Worker {
    config: WorkerConfig,
    target: Target,
}

/// The workers whose addresses are yet to be looked up: names of workers, and `HOST:PORT`.
fn named(workers: &[Worker]) -> Vec<(String, Arc<str>)> {
    let name = |worker: &Worker| match &worker.target {
        Target::Name(host) => Some((worker.config.name.clone(), Arc::clone(host))),
        Target::Address(_) => None,
    };
    workers.iter().filter_map(name).collect()
}

/// Runs the gateway until it is told to end. `options` are read again at SIGHUP.
///
/// # Errors
/// One line with cause and remedy.
pub fn run(
    loaded: &Loaded,
    options: &Options,
    log_level: &LevelHandle,
    signals: CaughtSignals,
) -> Result<()> {
    match start_and_serve(loaded, options, log_level, signals) {
        Err(error) if error.is::<caught::EndedEarly>() => {
            tracing::info!("{error}");
            Ok(())
        }
        result => result,
    }
}

/// Everything that can fail comes before the first client is accepted, and before a predecessor hears
/// that it may end.
fn start_and_serve(
    loaded: &Loaded,
    options: &Options,
    log_level: &LevelHandle,
    mut signals: CaughtSignals,
) -> Result<()> {
    let config = &loaded.config;
    let features = Features::detect(features_max(config)?)?;
    let workers_configured = configured_workers(config)?;
    let worker_wait = Duration::from_millis(config.handover_worker_wait_ms.into());
    let called = match handover_socket(config) {
        Some(path) => handover::call(path, worker_wait, &mut signals)?,
        None => None,
    };
    let (predecessor, inheritance) = called.unzip();
    let (sockets, admin_sockets, server, given_back) = match inheritance {
        Some(inheritance) => {
            let handover::Inheritance { listeners, admin, server, gives_back } = inheritance;
            (Some(listeners), admin, Some(server), Some(gives_back))
        }
        None => (None, Vec::new(), None, None),
    };
    let listeners = listeners::open(config, sockets, &mut signals)?;
    let admin_sockets = AdminSockets::open(&config.admin_listen, admin_sockets)?;
    // Where an address had to be waited for, the memory of who had it is free now.
    let (connections_max, capacity) = preflight::connections_max(config, &features, given_back.as_ref())?;
    signals.go_on()?;
    let embedded = match config.workers.is_empty() {
        true => Some(worker::Embedded::start(config)?),
        false => None,
    };
    let workers = embedded.as_ref().map_or(workers_configured, |embedded| vec![embedded.worker()]);
    let core = start_config(config, &features, connections_max, &workers)?;
    let resolver = names::Names::start(names::system())?;
    resolver.want(named(&workers));
    let fleet = Fleet::start(config, &features, &core, &workers, &listeners, &resolver)?;
    resolver.serve(fleet.control());
    let admin = Admin::prepare(config, fleet.control())?;
    let server = match (server, handover_socket(config)) {
        (None, Some(path)) => Some(handover::HandoverServer::bind(path)?),
        (server, _) => server,
    };
    let mut running = Running {
        config: config.clone(),
        core,
        connections_max,
        fleet: &fleet,
        capacity,
        names: &resolver,
        listeners,
        server,
        entry: Entry::WaitsForWorker { until: Instant::now() + worker_wait },
        predecessor,
        successor: None,
        admin: Some(admin),
        admin_sockets,
        options,
        log_level,
        signals,
    };
    running.serve(&features)?;
    drop(running);
    fleet.stop()?;
    if let Some(embedded) = embedded {
        embedded.stop();
    }
    Ok(())
}

fn handover_socket(config: &Config) -> Option<&Path> {
    let path = config.handover_socket.as_path();
    (!path.as_os_str().is_empty()).then_some(path)
}

fn configured_workers(config: &Config) -> Result<Vec<Worker>> {
    let secret = read_secret(config)?;
    let worker = |spec: &config::WorkerSpec| Worker {
        config: WorkerConfig { name: spec.name.clone(), secret: secret.clone() },
        target: spec.address.target(),
    };
    Ok(config.workers.iter().map(worker).collect())
}

/// Makes the rings and maps the pools that a start makes for so many connections, and gives them back.
///
/// # Errors
/// What the start would fail with.
pub fn rehearse(config: &Config, features: &Features, connections_max: u32) -> Result<()> {
    let worker = |name: &str| Worker {
        config: WorkerConfig { name: name.to_owned(), secret: None },
        // Nobody is dialled.
        target: Target::Address(LinkAddress::Unix(std::path::PathBuf::new())),
    };
    let named = config.workers.iter().map(|spec| worker(&spec.name));
    let workers: Vec<_> = if config.workers.is_empty() { vec![worker("embedded")] } else { named.collect() };
    let core = start_config(config, features, connections_max, &workers)?;
    shards::rehearse(config, features, &core)
}

fn features_max(config: &Config) -> Result<FeaturesMax> {
    match config.features_max.as_ref().value() {
        None => Ok(FeaturesMax::default()),
        Some(text) => text.parse().map_err(|error| anyhow!("features_max: {error}")),
    }
}

/// The link secret, if there is one.
fn read_secret(config: &Config) -> Result<Option<Vec<u8>>> {
    let secret = preflight::secrets::link(config).map_err(|error| anyhow!(error))?;
    Ok(secret.map(|secret| {
        if let Some(warning) = secret.warning {
            tracing::warn!("{warning}");
        }
        secret.bytes
    }))
}

/// What the shards start with.
fn start_config(
    config: &Config,
    features: &Features,
    connections_max: u32,
    workers: &[Worker],
) -> Result<CoreConfig> {
    let mut core = core_config(config, config.shard_count(), connections_max, workers)?;
    if !features.direct() && config.full == config::FullPolicy::Refuse {
        // Each slot is a descriptor here. Some are for the telling; links and the admin side keep theirs.
        let share = connections_max.div_ceil(u32::from(core.shards));
        core.slots_max = share + preflight::capacity::TELLING_PLAIN;
    }
    Ok(core)
}

/// A shard's share of the configuration; shards differ in their index only.
fn core_config(config: &Config, shards: u16, connections_max: u32, workers: &[Worker]) -> Result<CoreConfig> {
    let share = |total: u64| Config::share(total, shards);
    // A full shard leaves clients to the others. Where they are told to go instead, every shard
    // has slots for all that the process may hold, and some for the telling.
    let (slots_max, cap) = match config.full {
        config::FullPolicy::Backlog => (share(u64::from(connections_max)) as u32, None),
        config::FullPolicy::Refuse => (connections_max + 4 * ACCEPTS_MAX, Some(Cap::new(connections_max))),
    };
    let mut gateway = InstanceId::NONE;
    getrandom::fill(&mut gateway.0).map_err(io::Error::other).context("no random bytes")?;
    Ok(CoreConfig {
        shard: 0,
        shards,
        gateway,
        slots_max,
        cap,
        listeners: config.listen.iter().map(listener).collect(),
        counts_waiting: true,
        accepts_max: ACCEPTS_MAX,
        // Everything that can fail comes first.
        accepts_at_start: false,
        proxy_trusted: config.proxy_trusted.clone(),
        per_ip: per_ip(config)?,
        accept_ramp_per_s: config.accept_ramp_per_s.div_ceil(u32::from(shards)),
        workers: workers.iter().map(|worker| worker.config.clone()).collect(),
        no_worker: match config.no_worker {
            config::NoWorkerPolicy::Wait => NoWorkerPolicy::Wait,
            config::NoWorkerPolicy::Refuse => NoWorkerPolicy::Refuse,
        },
        handshake_timeout_ms: config.handshake_timeout_ms,
        idle_timeout_ms: config.idle_timeout_ms,
        heartbeat_interval_ms: config.heartbeat_interval_ms,
        frame_timeout_ms: config.frame_timeout_ms,
        write_timeout_ms: config.write_timeout_ms,
        linger_ms: config.linger_ms,
        frame_bytes_max: config.frame_bytes_max,
        rx_blocks: CoreConfig::RX_BLOCKS,
        outbox_bytes_max: config.outbox_bytes_max,
        outbox_bytes_total: share(config.outbox_bytes_total),
        spill_bytes_total: share(config.spill_bytes_total),
        link_window_bytes: config.link_window_bytes,
        link_tx_block_bytes: CoreConfig::LINK_TX_BLOCK_BYTES,
        link_shared_percent: 100,
        link_failover_ms: config.link_failover_ms,
        link_hold_ms: CoreConfig::LINK_HOLD_MS,
        link_redial_ms: (config.link_redial_min_ms, config.link_redial_max_ms),
        link_keepalive_ms: config.link_keepalive_ms,
        messages_per_s_max: config.messages_per_s_max,
        control_frames_per_s_max: config.control_frames_per_s_max,
        retry_after_ms: (config.retry_after_min_ms, config.retry_after_max_ms),
        bounds: Bounds::GATEWAY,
    })
}

fn listener(spec: &config::ListenerSpec) -> ListenerConfig {
    ListenerConfig { proxy: spec.proxy, ..ListenerConfig::default() }
}

/// Four addresses a bucket: half a million addresses at once, in 4 MiB.
const PER_IP_BUCKETS: usize = 1 << 17;

fn per_ip(config: &Config) -> Result<Option<Arc<PerIp>>> {
    if config.per_ip_max == 0 {
        return Ok(None);
    }
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).map_err(io::Error::other).context("no random bytes")?;
    let seed = u64::from_le_bytes(seed);
    Ok(Some(PerIp::new(PER_IP_BUCKETS, seed, config.per_ip_max, config.per_ip_loopback)))
}

/// A directory for sockets that only this user may enter; removed when dropped.
#[derive(Debug)]
struct PrivateDir(std::path::PathBuf);

impl PrivateDir {
    fn create() -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let name = format!("roost-{}-{:016x}", std::process::id(), u64::from_le_bytes(random));
        let path = std::env::temp_dir().join(name);
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PrivateDir {
    fn drop(&mut self) {
        // Best effort: a left-over directory harms nobody.
        drop(fs::remove_dir_all(&self.0));
    }
}
