//! `echo` and `idle`: connect, hold, send on a schedule, and look at what it costs.

use std::time::Duration;

use crate::{
    load::Departure,
    plan::Scenario,
    run::{Run, Waited},
};

/// How long processes and kernel get to come to rest before a figure is taken.
const SETTLE: Duration = Duration::from_secs(2);
/// Departures per second after the warm-up.
const LEAVE_PER_S: f64 = 5_000.0;

/// Runs it.
pub(super) fn run(run: &mut Run) -> anyhow::Result<()> {
    run.found.at_start = Some(run.figures());
    warm_up(run)?;
    ramp(run)?;
    hold(run)?;
    Ok(())
}

/// Some clients come, send one message each and leave, so that what the gateway allocates once
/// is not taken for a cost of connections.
pub(super) fn warm_up(run: &mut Run) -> anyhow::Result<()> {
    let plan = run.plan.clone();
    if plan.warmup > 0 && plan.scenario == Scenario::Idle {
        run.fleet.connect(plan.warmup, plan.connect_rate, plan.connecting_max);
        run.wait("warm-up", plan.grace + ramp_time(plan.warmup, plan.connect_rate), |now| {
            now.connecting == 0
        })?;
        check_all(run, "warm-up")?;
        run.fleet.leave(0, LEAVE_PER_S, Departure::Politely);
        run.wait("warm-up", plan.grace, |now| now.leaving == 0 && now.open == 0)?;
    }
    run.pass("settle", SETTLE)?;
    run.found.baseline = Some(run.figures());
    Ok(())
}

/// Connects all clients; with a pause at half of them where memory is measured.
pub(super) fn ramp(run: &mut Run) -> anyhow::Result<()> {
    let plan = run.plan.clone();
    let before = run.look("connect")?;
    if plan.scenario == Scenario::Idle {
        connect(run, plan.connections / 2)?;
        check_all(run, "half check")?;
        run.pass("settle", SETTLE)?;
        let open = run.look("settle")?.open;
        run.found.half = Some((open, run.figures()));
    }
    connect(run, plan.connections)?;
    let after = run.look("connect")?;
    run.found.ramp_cpu = Some((after.cpu_ns - before.cpu_ns, after.opened - before.opened));
    Ok(())
}

fn connect(run: &mut Run, clients: u32) -> anyhow::Result<()> {
    let plan = run.plan.clone();
    run.fleet.connect(clients, plan.connect_rate, plan.connecting_max);
    run.wait("connect", plan.grace + 3 * ramp_time(clients, plan.connect_rate), |now| now.connecting == 0)?;
    Ok(())
}

/// Holds all sessions for the plan's duration, with heartbeats and traffic.
fn hold(run: &mut Run) -> anyhow::Result<()> {
    let plan = run.plan.clone();
    let begin = run.fleet.now();
    run.fleet.hold(true);
    let before = run.look("hold")?;
    run.found.connections_held = Some(before.open);
    let figures_before = run.figures();
    run.fleet.traffic(plan.active, 0, plan.rate, plan.messages(), plan.payload_bytes);
    let result = hold_on(run);
    let after = run.found.last;
    run.found.held = run.fleet.now() - begin;
    run.found.connections_held = Some(after.open);
    run.found.connections_held_min = Some(after.open_min);
    let cpu_ns = after.cpu_ns - before.cpu_ns;
    run.found.generator_cpu_share =
        Some((after.cpu_ns_max - before.cpu_ns_max) as f64 / run.found.held.as_nanos().max(1) as f64);
    if after.sent > before.sent {
        let figures = run.figures();
        run.found.traffic = Some((figures_before, before.sent, figures, after.sent));
        run.found.traffic_cpu = Some((cpu_ns, after.sent - before.sent));
    }
    result?;
    end_hold(run)
}

fn hold_on(run: &mut Run) -> anyhow::Result<()> {
    let plan = run.plan.clone();
    run.pass("hold", plan.duration)?;
    // The schedule's last messages, and what is still on its way back.
    run.wait("drain", plan.grace, |now| now.to_send == 0 && now.outstanding == 0)?;
    Ok(())
}

/// Takes the figures with all clients idle again, then has every client prove that it is there.
fn end_hold(run: &mut Run) -> anyhow::Result<()> {
    run.pass("settle", SETTLE)?;
    let open = run.look("settle")?.open;
    run.found.held_figures = Some((open, run.figures()));
    if run.plan.scenario == Scenario::Idle {
        let before = run.look("final check")?;
        check_all(run, "final check")?;
        let after = run.look("final check")?;
        run.found.final_check = Some((before.open, after.received - before.received));
    }
    let standing = run.wait_for_pings()?;
    run.found.connections_held = Some(standing.open);
    run.found.connections_held_min = Some(standing.open_min);
    Ok(())
}

/// Every open client sends one message and waits for it to come back.
pub(super) fn check_all(run: &mut Run, phase: &str) -> anyhow::Result<Waited> {
    let (rate, payload_bytes) = (run.plan.check_rate, run.plan.payload_bytes);
    run.fleet.check(rate, payload_bytes);
    let limit = run.plan.grace + 3 * ramp_time(run.plan.connections, rate);
    run.wait(phase, limit, |now| now.to_send == 0 && now.outstanding == 0)
}

/// How long `count` steps take at a rate.
pub(super) fn ramp_time(count: u32, per_second: f64) -> Duration {
    Duration::from_secs_f64(f64::from(count) / per_second)
}
