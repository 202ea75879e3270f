//! From flags to a report.

use std::{
    fs,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use anyhow::Context;
use roost_ring::{Features, FeaturesMax};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    cli::{Cli, Command, RunArgs, TransportKind},
    exchange::{Exchange, Fanout},
    figures,
    fleet::{Fleet, FleetConfig},
    plan::{Plan, Scenario},
    preflight::{self, Limit},
    report::{self, hlog, html, result::RunResult, table, verdict},
    run::Run,
    say, scenario,
    socket::{Descriptors, SocketNetwork, Sources},
    transport::Network,
    tun::{TunConfig, TunNetwork},
};

/// Does what the command line says; true if the run was clean.
///
/// # Errors
/// What keeps the run from being run, in one line.
pub fn main(cli: Cli) -> anyhow::Result<bool> {
    let (scenario, args) = match cli.command {
        Command::BareAccept(args) => {
            scenario::bare_accept::run(&args, raise_nofile(), &stop_on_signals()?)?;
            return Ok(true);
        }
        Command::Merge(args) => {
            report::merge::run(&args)?;
            return Ok(true);
        }
        Command::Echo(args) => (Scenario::Echo, args),
        Command::Idle(args) => (Scenario::Idle { bare: args.bare }, args.run),
        Command::Route(args) => (Scenario::Route, args),
        Command::Broadcast(args) => (Scenario::Broadcast, args),
        Command::Multicast(args) => (Scenario::Multicast { receivers: args.receivers }, args.run),
        Command::Storm(args) => {
            let limit = Duration::try_from_secs_f64(args.storm_limit_s).context("--storm-limit-s")?;
            let scenario =
                Scenario::Storm { restart_command: args.restart_command, limit, retry_ms: args.retry_ms };
            (scenario, args.run)
        }
        Command::Slow(args) => {
            let scenario = Scenario::Slow {
                share: args.slow_share,
                rate: args.slow_rate,
                payload_bytes: args.slow_payload as usize,
                reading: Duration::from_millis(args.slow_reads_ms),
                pausing: Duration::from_millis(args.slow_pauses_ms),
            };
            (scenario, args.run)
        }
        Command::Churn(args) => (Scenario::Churn { per_second: args.churn_rate }, args.run),
    };
    run_scenario(scenario, &args)
}

fn run_scenario(scenario: Scenario, args: &RunArgs) -> anyhow::Result<bool> {
    let plan = Plan::new(scenario, args)?;
    let nofile = raise_nofile();
    let Some(Clients { network, processes }) = clients(&plan, args, nofile)? else { return Ok(true) };
    let clients_are = network.description();
    say::note(format_args!("clients: {clients_are}"));
    let stop = stop_on_signals()?;
    let hlog = args.hlog.as_deref().map(hlog::Writer::create).transpose()?;
    let fleet = Fleet::start(&fleet_config(&plan), &network)?;
    let mut run = Run::new(plan, fleet, sources(args, &processes), stop, hlog);
    let outcome = scenario::run(&mut run);
    let (plan, found, report) = run.finish()?;
    outcome?;
    let kernel_clients = plan.transport == TransportKind::Socket;
    let mut result = RunResult::new(&plan, &found, &report, &clients_are, kernel_clients);
    verdict::judge(&mut result, &plan, &found);
    let said = say::line(table::render(&result).trim_end_matches('\n'));
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&result)?;
        fs::write(path, text + "\n").with_context(|| format!("--json {}", path.display()))?;
    }
    if let Some(path) = &args.html {
        let page = html::render(&result, &found.latency)?;
        fs::write(path, page).with_context(|| format!("--html {}", path.display()))?;
    }
    said.context("the report cannot be written to standard output")?;
    Ok(result.failures.is_empty())
}

fn fleet_config(plan: &Plan) -> FleetConfig {
    let mut config = FleetConfig {
        clients: plan.connections,
        threads: plan.threads,
        first_user: plan.first_user,
        key: plan.key.clone(),
        seed: plan.seed,
        exchange: Exchange::Echo,
        heartbeat: plan.heartbeat,
        window: plan.window,
        failover: plan.failover,
    };
    let fanout = |receivers| {
        let sender = plan.first_user + Fleet::sole_sender(&config);
        Exchange::Fanout(Arc::new(Fanout::new(sender, receivers, plan.messages() as usize)))
    };
    config.exchange = match plan.scenario {
        Scenario::Idle { bare: true } => Exchange::Bare,
        Scenario::Route => Exchange::Route,
        Scenario::Broadcast => fanout(None),
        Scenario::Multicast { receivers } => fanout(Some(receivers)),
        _ => Exchange::Echo,
    };
    config
}

/// Set by SIGINT and SIGTERM; a second one ends the process at once.
fn stop_on_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// The way of the clients to the target, and what was started on it.
struct Clients {
    network: Arc<dyn Network>,
    /// Commands and process ids.
    processes: Vec<(String, u32)>,
}

/// The clients' network, if this machine can hold the run; none if that was the question.
fn clients(plan: &Plan, args: &RunArgs, nofile: u64) -> anyhow::Result<Option<Clients>> {
    let machine = preflight::Machine::read(nofile);
    match plan.transport {
        TransportKind::Socket => {
            let features = match args.plain_descriptors {
                true => Features::detect(FeaturesMax::Deferred)?,
                false => Features::detect_to_connect(FeaturesMax::Direct)?,
            };
            let descriptors = match args.plain_descriptors {
                true => Descriptors::Plain { because: "--plain-descriptors says so".to_owned() },
                false => Descriptors::of(&features),
            };
            let sources = plan.source.map(|cidr| Sources::spread(cidr, u64::from(plan.connections)));
            if !fits(
                plan,
                args,
                &preflight::socket_limits(plan, &descriptors, sources.as_ref(), &machine),
                &machine,
            )? {
                return Ok(None);
            }
            let ring_slots_max = args.ring_slots_max.min(SocketNetwork::ring_slots_for(nofile));
            let network = SocketNetwork { target: plan.target, sources, features, ring_slots_max };
            Ok(Some(Clients { network: Arc::new(network), processes: Vec::new() }))
        }
        TransportKind::Tun => {
            if !fits(plan, args, &preflight::tun_limits(plan, &machine), &machine)? {
                return Ok(None);
            }
            let SocketAddr::V4(target) = plan.target else {
                anyhow::bail!("--transport tun speaks IPv4 only: give --target an IPv4 address");
            };
            let network = TunNetwork::new(TunConfig {
                target,
                clients: plan.connections,
                threads: plan.threads,
                seed: plan.seed,
                args: args.tun.clone(),
            })?;
            for note in network.notes() {
                say::note(format_args!("note: {note}"));
            }
            let processes = network.processes();
            Ok(Some(Clients { network: Arc::new(network), processes }))
        }
    }
}

/// Whether to go on: says what the machine can hold where that was asked for or is too little.
fn fits(plan: &Plan, args: &RunArgs, limits: &[Limit], machine: &preflight::Machine) -> anyhow::Result<bool> {
    let refusal = preflight::refusal(plan, limits);
    if args.preflight || refusal.is_some() {
        say::note(preflight::render(plan, limits, machine).trim_end_matches('\n'));
    }
    if let Some(why) = refusal.filter(|_| !args.force) {
        anyhow::bail!(why);
    }
    Ok(!args.preflight)
}

/// Where figures are read: as the flags say, or from what the run has started itself.
fn sources(args: &RunArgs, processes: &[(String, u32)]) -> figures::Sources {
    let started = |name: &str| {
        let program = |command: &str| {
            command.split_whitespace().next().is_some_and(|word| word.rsplit('/').next() == Some(name))
        };
        processes.iter().filter(|(command, _)| program(command)).map(|&(_, pid)| pid).collect::<Vec<_>>()
    };
    let worker_pids =
        if args.worker_pid.is_empty() { started("roost-router") } else { args.worker_pid.clone() };
    figures::Sources {
        gateway_pid: args.gateway_pid.or_else(|| started("roost-gateway").first().copied()),
        worker_pids,
        worker_stats: args.worker_stats.clone(),
        gateway_metrics: args.gateway_metrics.clone(),
    }
}

/// Raises the soft limit of descriptors to the hard one and returns it.
fn raise_nofile() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Where it may not be raised, the soft limit it is.
    if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current }
        .unwrap_or(u64::MAX)
}
