//! `roost-router`: the reference worker.
#![forbid(unsafe_code)]

use std::{
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context as _, anyhow, bail};
use clap::{Parser, ValueEnum};
use roost_router::{
    Address, AddressError, BindError, KeyPolicy, Listener, ShutdownHandle, Stats, Worker, WorkerConfig, api,
    handlers, listen, metrics, secret,
    shell::{http, log, say},
};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

/// The reference worker of roost: takes links from gateways and answers their clients.
#[derive(Debug, Parser)]
#[command(name = "roost-router", version)]
struct Args {
    /// Where to listen for gateways: HOST:PORT, which is every address of HOST, or unix:PATH. Repeatable.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7500", value_parser = addresses)]
    listen: Vec<Addresses>,
    /// What to do with messages.
    #[arg(long, value_enum, default_value = "echo")]
    handler: HandlerName,
    /// File with the link secret, at least 16 bytes (trailing line ends ignored). Required unless every --listen is a
    /// loopback address or a Unix socket.
    #[arg(long, value_name = "FILE")]
    link_secret_file: Option<PathBuf>,
    /// Where to serve figures over HTTP: /stats (JSON), /metrics (Prometheus), /healthz.
    #[arg(long, value_name = "ADDR")]
    metrics: Option<SocketAddr>,
    /// Where to serve the HTTP API that pushes to users: docs/worker-http.md. Needs --handler route.
    #[arg(long, value_name = "ADDR")]
    api: Option<SocketAddr>,
    /// File with the token that requests to the API must bear, at least 16 bytes (trailing line ends ignored).
    #[arg(long, value_name = "FILE", requires = "api")]
    api_token_file: Option<PathBuf>,
    /// Serve the API to other hosts without TLS, and also without a token where none is given: whoever is on
    /// the way can read the messages.
    #[arg(long, requires = "api")]
    api_insecure: bool,
    /// Write the figures to this file as JSON when the worker ends.
    #[arg(long, value_name = "FILE")]
    stats_file: Option<PathBuf>,
    /// What a gateway may send without acknowledgement, per link, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = WorkerConfig::default().window_bytes)]
    window_bytes: u32,
    /// Bytes queued for a link beyond its window before the worker stops handling what fills it.
    #[arg(long, value_name = "BYTES", default_value_t = WorkerConfig::default().pending_bytes_max)]
    pending_bytes_max: usize,
    /// Bytes that handling one message may queue in all; one frame on each link it may in any case.
    #[arg(long, value_name = "BYTES", default_value_t = WorkerConfig::default().call_bytes_max)]
    call_bytes_max: usize,
    /// Bytes that topics may take: 100 for each membership, 128 and its name for each topic.
    #[arg(long, value_name = "BYTES", default_value_t = WorkerConfig::default().topic_bytes_max)]
    topic_bytes_max: usize,
    /// Open connections that a key may have here; 0: any number.
    #[arg(long, value_name = "N", default_value_t = WorkerConfig::default().connections_per_key_max)]
    connections_per_key_max: usize,
    /// What becomes of one more.
    #[arg(long, value_enum, default_value = "close-oldest")]
    connections_per_key_policy: KeyPolicyName,
    /// How long a session is kept for a gateway that has gone away, in ms [default: six times what the
    /// gateway states as its link_failover_ms].
    #[arg(long, value_name = "MS")]
    session_ttl_ms: Option<u64>,
    /// Silence after which a link is probed, and after twice that given up, in ms; 0: never.
    #[arg(long, value_name = "MS", default_value_t = WorkerConfig::default().keepalive_ms)]
    keepalive_ms: u64,
    /// How long a gateway may take from connecting to a complete handshake, in ms.
    #[arg(long, value_name = "MS", default_value_t = WorkerConfig::default().handshake_timeout_ms)]
    handshake_timeout_ms: u64,
    /// How long to wait, after SIGTERM or SIGINT, for connections to be moved away, in ms.
    #[arg(long, value_name = "MS", default_value_t = WorkerConfig::default().drain_ms)]
    drain_ms: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum HandlerName {
    /// Sends every message back to its sender.
    Echo,
    /// Swallows and counts messages.
    Sink,
    /// Passes messages between users by key.
    Route,
    /// Like echo, and passes marked messages to many clients.
    Fanout,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KeyPolicyName {
    /// It opens, and the oldest is closed.
    CloseOldest,
    /// It is refused.
    RefuseNewest,
}

fn main() -> ExitCode {
    // Before anything else: no signal may end a start half way.
    let signals = match Signals::new([SIGINT, SIGTERM, SIGHUP]) {
        Ok(signals) => signals,
        Err(error) => {
            say::last_words(format!("roost-router: cannot handle signals: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let args = Args::parse();
    say::bound_panics();
    match start_log().and_then(|()| run(args, signals)) {
        Ok(()) => {
            log::flush(log::FLUSH_WITHIN);
            ExitCode::SUCCESS
        }
        Err(error) => {
            say::last_words(format!("roost-router: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn start_log() -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let lines = log::layer(log::LineFormat::Text).context("no log")?;
    tracing_subscriber::registry().with(filter).with(lines).try_init().context("no log")
}

fn run(args: Args, signals: Signals) -> anyhow::Result<()> {
    let config = WorkerConfig {
        secret: read_secret(&args)?,
        window_bytes: args.window_bytes,
        pending_bytes_max: args.pending_bytes_max,
        call_bytes_max: args.call_bytes_max,
        topic_bytes_max: args.topic_bytes_max,
        connections_per_key_max: args.connections_per_key_max,
        connections_per_key_policy: match args.connections_per_key_policy {
            KeyPolicyName::CloseOldest => KeyPolicy::CloseOldest,
            KeyPolicyName::RefuseNewest => KeyPolicy::RefuseNewest,
        },
        session_ttl_ms: args.session_ttl_ms,
        keepalive_ms: args.keepalive_ms,
        handshake_timeout_ms: args.handshake_timeout_ms,
        drain_ms: args.drain_ms,
        ..WorkerConfig::default()
    };
    let (mut listeners, mut socket_files) = (Vec::new(), Vec::new());
    for addresses in &args.listen {
        let (bound, files) = bind(addresses)?;
        listeners.extend(bound);
        socket_files.extend(files);
    }
    let worker = Worker::new(config);
    let stats = worker.stats();
    let _figures = args.metrics.map(|address| serve_metrics(address, stats.clone())).transpose()?;
    let _api = serve_api(&args, &worker)?;
    let (handle, shutdown) = roost_router::shutdown();
    drain_on_signals(signals, handle)?;
    let ran = match args.handler {
        HandlerName::Echo => worker.run(handlers::Echo, listeners, shutdown),
        HandlerName::Sink => worker.run(handlers::Sink, listeners, shutdown),
        HandlerName::Route => worker.run(handlers::Route, listeners, shutdown),
        HandlerName::Fanout => worker.run(handlers::Fanout::default(), listeners, shutdown),
    };
    socket_files.iter().for_each(SocketFile::remove);
    if let Some(path) = &args.stats_file {
        std::fs::write(path, metrics::json(&stats))
            .with_context(|| format!("cannot write --stats-file {}", path.display()))?;
    }
    ran.context("the worker failed")
}

fn read_secret(args: &Args) -> anyhow::Result<Option<Vec<u8>>> {
    let Some(path) = &args.link_secret_file else {
        if let Some(address) = args.listen.iter().flatten().find(|address| !address.is_local()) {
            bail!(
                "--listen {address} can be reached from other hosts: give --link-secret-file, or listen on \
                 loopback or a Unix socket"
            );
        }
        return Ok(None);
    };
    let secret = secret::link(path).map_err(|cause| anyhow!("--link-secret-file {cause}"))?;
    if let Some(warning) = secret.warning {
        tracing::warn!("--link-secret-file {warning}");
    }
    Ok(Some(secret.bytes))
}

/// What one `--listen` leads to.
type Addresses = Vec<Address>;

fn addresses(text: &str) -> Result<Addresses, AddressError> {
    Address::resolve(text)
}

fn bind(addresses: &Addresses) -> anyhow::Result<(Vec<Listener>, Vec<SocketFile>)> {
    let explain = |BindError { address, error }: &BindError| match address {
        Address::Tcp(address) => listen::explain(error, *address, "--listen"),
        Address::Unix(_) => format!("cannot listen on {address}: {error}"),
    };
    let (listeners, left_out) = Listener::bind_all(addresses).map_err(|error| anyhow!(explain(&error)))?;
    // Before anybody hears of it: from then on the path may be another's.
    let files = addresses.iter().filter_map(SocketFile::of).collect();
    for error in &left_out {
        tracing::warn!("left out: {}", explain(error));
    }
    for listener in &listeners {
        // Piped readers wait for this line; a closed pipe is theirs to explain.
        say::announce(format!("roost-router: listening on {}\n", listener.address()?));
    }
    Ok((listeners, files))
}

fn serve_metrics(address: SocketAddr, stats: Arc<Stats>) -> anyhow::Result<http::Server> {
    let listener = listen::tcp(address).map_err(|error| {
        anyhow!("cannot serve metrics: {}", listen::explain(&error, address, "--metrics"))
    })?;
    let server = metrics::serve(listener, stats).context("cannot serve metrics")?;
    for address in server.addresses() {
        say::announce(format!("roost-router: metrics on http://{address}\n"));
    }
    Ok(server)
}

fn serve_api(args: &Args, worker: &Worker) -> anyhow::Result<Option<http::Server>> {
    let Some(address) = args.api else { return Ok(None) };
    if !matches!(args.handler, HandlerName::Route) {
        bail!("--api needs a handler that finds users by key: give --handler route");
    }
    if !address.ip().to_canonical().is_loopback() && !args.api_insecure {
        bail!(
            "--api {address} can be reached from other hosts, and there is no TLS: listen on loopback behind a \
             TLS terminator, or give --api-insecure"
        );
    }
    let token = args.api_token_file.as_deref().map(secret::link).transpose();
    let token = token.map_err(|cause| anyhow!("--api-token-file {cause}"))?;
    if let Some(warning) = token.as_ref().and_then(|token| token.warning.as_ref()) {
        tracing::warn!("--api-token-file {warning}");
    }
    let listener = listen::tcp(address)
        .map_err(|error| anyhow!("cannot serve the API: {}", listen::explain(&error, address, "--api")))?;
    let server = api::serve(listener, worker.handle(), worker.stats(), token.map(|token| token.bytes))
        .context("cannot serve the API")?;
    for address in server.addresses() {
        say::announce(format!("roost-router: API on http://{address}\n"));
    }
    Ok(Some(server))
}

fn drain_on_signals(mut signals: Signals, handle: ShutdownHandle) -> anyhow::Result<()> {
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            let mut drains = false;
            for signal in signals.forever() {
                // The first asks nicely, the second does not wait.
                match signal {
                    SIGHUP => tracing::info!("SIGHUP: nothing to read again"),
                    _ if drains => handle.stop(),
                    _ => {
                        drains = true;
                        handle.drain();
                    }
                }
            }
        })
        .context("cannot start the signal thread")?;
    Ok(())
}

/// The file of a Unix socket that this process listens on.
struct SocketFile {
    path: PathBuf,
    /// Device, inode and time of its last change: inode numbers are used again.
    identity: (u64, u64, i64, i64),
}

impl SocketFile {
    fn of(address: &Address) -> Option<Self> {
        let Address::Unix(path) = address else { return None };
        Some(Self { path: path.clone(), identity: Self::look(path)? })
    }

    fn look(path: &Path) -> Option<(u64, u64, i64, i64)> {
        let found = std::fs::symlink_metadata(path).ok()?;
        found.file_type().is_socket().then(|| (found.dev(), found.ino(), found.ctime(), found.ctime_nsec()))
    }

    /// Removes it, unless something else stands there by now.
    fn remove(&self) {
        if Self::look(&self.path) == Some(self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
