//! From flags to a report.

use std::{
    fs,
    sync::{Arc, atomic::AtomicBool},
};

use anyhow::Context;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    cli::{Cli, Command, RunArgs, TransportKind},
    client::Exchange,
    figures,
    fleet::{Fleet, FleetConfig},
    plan::{Plan, Scenario},
    report::{hlog, result::RunResult, table, verdict},
    ring::Features,
    run::Run,
    scenario,
    socket::{SocketNetwork, Sources},
    transport::Network,
};

/// Does what the command line says; true if the run was clean.
///
/// # Errors
/// What keeps the run from being run, in one line.
pub fn main(cli: Cli) -> anyhow::Result<bool> {
    match cli.command {
        Command::Echo(args) => run_scenario(Scenario::Echo, &args),
        Command::Idle(args) => run_scenario(Scenario::Idle, &args),
    }
}

fn run_scenario(scenario: Scenario, args: &RunArgs) -> anyhow::Result<bool> {
    let plan = Plan::new(scenario, args)?;
    let nofile = raise_nofile();
    let network = network(&plan, args, nofile)?;
    let clients_are = network.description();
    eprintln!("clients: {clients_are}");
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // A second one ends the process at once.
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    let hlog = args.hlog.as_deref().map(hlog::Writer::create).transpose()?;
    let fleet = Fleet::start(
        &FleetConfig {
            clients: plan.connections,
            threads: plan.threads,
            first_user: plan.first_user,
            seed: plan.seed,
            exchange: Exchange::Echo,
            heartbeat: plan.heartbeat,
            failover: plan.failover,
        },
        &network,
    )?;
    let mut run = Run::new(plan, fleet, sources(args), stop, hlog);
    let outcome = scenario::run(&mut run);
    let (plan, found, report) = run.finish()?;
    outcome?;
    let kernel_clients = plan.transport == TransportKind::Socket;
    let mut result = RunResult::new(&plan, &found, &report, &clients_are, kernel_clients);
    verdict::judge(&mut result, &plan, &found);
    print!("{}", table::render(&result));
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&result)?;
        fs::write(path, text + "\n").with_context(|| format!("--json {}", path.display()))?;
    }
    Ok(result.failures.is_empty())
}

fn network(plan: &Plan, args: &RunArgs, nofile: u64) -> anyhow::Result<Arc<dyn Network>> {
    match plan.transport {
        TransportKind::Socket => {
            let mut features = Features::probe()?;
            if args.plain_descriptors {
                features = features.plain("--plain-descriptors");
            }
            Ok(Arc::new(SocketNetwork {
                target: plan.target,
                sources: plan.source.map(|cidr| Sources::spread(cidr, u64::from(plan.connections))),
                features,
                ring_slots_max: args.ring_slots_max.min(SocketNetwork::ring_slots_for(nofile)),
            }))
        }
        TransportKind::Tun => anyhow::bail!("--transport tun is not built in"),
    }
}

fn sources(args: &RunArgs) -> figures::Sources {
    figures::Sources {
        gateway_pid: args.gateway_pid,
        worker_pids: args.worker_pid.clone(),
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
