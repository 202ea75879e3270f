//! `storm`: all clients lose their connections at once and come back at once.

use std::{process::Command, time::Duration};

use anyhow::{Context, ensure};
use serde_json::json;

use super::{steady, steps};
use crate::{
    load::{Departure, Reconnect},
    plan::Scenario,
    run::Run,
};

pub(super) fn run(run: &mut Run) -> anyhow::Result<()> {
    let plan = run.plan.clone();
    let Scenario::Storm { restart_command, limit, retry_ms } = plan.scenario.clone() else {
        unreachable!("asked for a storm")
    };
    steps::warm_up(run, false)?;
    steps::connect(run, plan.connections)?;
    steps::check_all(run, "check")?;
    run.fleet.reconnect(Reconnect::AtOnce { after_failure_ms: retry_ms }, plan.storm_connecting_max);
    storm(run, restart_command.as_deref(), limit)?;
    steps::hold(run, |run| steady::traffic(run, &plan))?;
    steps::measure_held(run)?;
    steps::final_check(run)?;
    steps::end_hold(run)
}

fn storm(run: &mut Run, restart_command: Option<&str>, limit: Duration) -> anyhow::Result<()> {
    let clients = u64::from(run.plan.connections);
    let before = run.look("storm")?;
    let begin = run.fleet.now();
    match restart_command {
        None => run.fleet.leave(0, f64::INFINITY, Departure::ResetAndReturn),
        Some(command) => {
            if let Some(pid) = restart(command)? {
                run.set_gateway_pid(pid);
            }
        }
    }
    let (listening_at, listening) = match restart_command {
        // It never stopped.
        None => (begin, before),
        // The first session that opens again shows that the gateway listens; what failed before
        // that is told apart.
        Some(_) => {
            run.wait("storm", limit, |now| now.opened > before.opened)?;
            (run.fleet.now(), run.found.last)
        }
    };
    run.wait("storm", limit, |now| {
        now.open == clients && now.opened - before.opened >= clients && now.leaving == 0
    })?;
    let (all_at, back) = (run.fleet.now(), run.found.last);
    let (opened, since) = (back.opened - before.opened, all_at - listening_at);
    let peak_bytes = run
        .found
        .series
        .iter()
        .filter(|point| point.t_s >= begin.as_secs_f64())
        .filter_map(|point| point.gateway_pss_bytes)
        .max();
    let refused_without = back.refused_without_retry_after - listening.refused_without_retry_after;
    let storm = json!({
        "sessions_opened": opened,
        "listening_again_s": restart_command.map(|_| (listening_at - begin).as_secs_f64()),
        "all_connected_s": (back.open == clients).then(|| (all_at - begin).as_secs_f64()),
        "connections_per_s_since_listening": opened as f64 / since.as_secs_f64().max(1e-3),
        "gateway_pss_peak_bytes": peak_bytes,
        "before_listening": {
            "connect_failed": listening.connect_failed - before.connect_failed,
            "refused": listening.refused - before.refused,
        },
        "since_listening": {
            "connect_failed": back.connect_failed - listening.connect_failed,
            "refused": back.refused - listening.refused,
            "refused_without_retry_after": refused_without,
        },
    });
    run.found.extra.insert("storm".into(), storm);
    if back.open != clients {
        run.found.broken_rules.push(format!("{} of {clients} clients came back in time", back.open));
    }
    if refused_without > 0 {
        run.found.broken_rules.push(format!("{refused_without} clients were refused without retry-after"));
    }
    Ok(())
}

/// Runs the user's command; the number in its last line of output.
fn restart(command: &str) -> anyhow::Result<Option<u32>> {
    let output = Command::new("sh")
        .args(["-c", command])
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("--restart-command")?;
    ensure!(output.status.success(), "--restart-command failed: {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).lines().last().and_then(|line| line.trim().parse().ok()))
}
