//! `storm`: all clients lose their connections at once and come back at once.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{steady, steps};
use crate::{
    figures::listener::Listener,
    load::{Departure, Reconnect},
    plan::Scenario,
    preflight,
    run::Run,
    tally::Snapshot,
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
    let before = run.poll("storm")?;
    let (begin, killed_at) = (run.fleet.now(), Instant::now());
    let memory = MemoryPeak::begin(run);
    let (listening_at, listening) = match restart_command {
        // It never stops.
        None => {
            run.fleet.leave(0, f64::INFINITY, Departure::ResetAndReturn);
            (begin, before)
        }
        Some(command) => restart(run, command, &before, limit)?,
    };
    let mut all_ended = None;
    run.wait("storm", limit, |now| {
        if all_ended.is_none() && now.disconnected - before.disconnected >= clients {
            all_ended = Some((killed_at.elapsed(), now.opened - before.opened));
        }
        now.open == clients && now.opened - before.opened >= clients && now.leaving == 0
    })?;
    let (all_at, back) = (run.fleet.now(), run.found.last);
    while run.is_restarting() && run.fleet.now() - begin < limit {
        run.pass("storm", Duration::from_millis(100))?;
    }
    let (opened, since) = (back.opened - before.opened, all_at - listening_at);
    let peak_bytes = run
        .found
        .series
        .iter()
        .filter(|point| point.t_s >= begin.as_secs_f64())
        .filter_map(|point| point.gateway_pss_bytes)
        .max();
    let (machine_before, machine_peak) = memory.end(run);
    let refused_without = back.refused_without_retry_after - listening.refused_without_retry_after;
    let storm = json!({
        "sessions_opened": opened,
        "listening_again_s": restart_command.map(|_| (listening_at - begin).as_secs_f64()),
        "all_connected_s": (back.open == clients).then(|| (all_at - begin).as_secs_f64()),
        "all_connected_since_listening_s": (back.open == clients).then_some(since.as_secs_f64()),
        "connections_per_s_since_listening": opened as f64 / since.as_secs_f64().max(1e-3),
        // How long the kernel took to end the old connections, and how many were back by then.
        "old_ended_s": all_ended.map(|(after, _)| after.as_secs_f64()),
        "back_when_old_ended": all_ended.map(|(_, back)| back),
        "gateway_pss_peak_bytes": peak_bytes,
        "machine_memory_before_bytes": machine_before,
        "machine_memory_peak_bytes": machine_peak,
        "before_listening": {
            "connect_failed": listening.connect_failed - before.connect_failed,
            "refused": listening.refused - before.refused,
        },
        "since_listening": {
            "connect_failed": back.connect_failed - listening.connect_failed,
            "refused": back.refused - listening.refused,
            "told_when_to_come_back": back.refused - listening.refused - refused_without,
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

/// Restarts the gateway, and waits until it listens again: when that was, and where the clients
/// stood then. What failed before that is told apart.
fn restart(
    run: &mut Run,
    command: &str,
    before: &Snapshot,
    limit: Duration,
) -> anyhow::Result<(Duration, Snapshot)> {
    let (target, begin) = (run.plan.target, run.fleet.now());
    let first = Listener::find(target);
    run.restart_gateway(command)?;
    let mut anew = false;
    run.wait("storm", limit, |now| {
        anew = Listener::find(target).is_some_and(|found| Some(found) != first);
        // A gateway on another machine, or one that keeps its listener, shows by a new session.
        anew || now.opened > before.opened
    })?;
    let kept = !anew && first.is_some() && Listener::find(target) == first;
    Ok(if kept { (begin, *before) } else { (run.fleet.now(), run.found.last) })
}

/// What the whole machine's memory came to, at the most.
struct MemoryPeak {
    free_before: Option<u64>,
    least_before: Option<u64>,
}

impl MemoryPeak {
    fn begin(run: &mut Run) -> Self {
        let free_before = preflight::memory_free();
        let least_before = run.found.memory_free.map(|(_, least)| least);
        if let (Some((_, least)), Some(free)) = (&mut run.found.memory_free, free_before) {
            *least = free;
        }
        Self { free_before, least_before }
    }

    /// In use, page cache not counted: before, and at the most since, in bytes.
    fn end(self, run: &mut Run) -> (Option<u64>, Option<u64>) {
        let memory = rustix::system::sysinfo();
        let total = memory.totalram as u64 * u64::from(memory.mem_unit);
        let used = |free: Option<u64>| free.map(|free| total.saturating_sub(free));
        let found = run.found.memory_free.as_mut().map(|(_, least)| least);
        let least_since = found.as_deref().copied();
        if let (Some(least), Some(earlier)) = (found, self.least_before) {
            *least = earlier.min(*least);
        }
        (used(self.free_before), used(least_since))
    }
}
