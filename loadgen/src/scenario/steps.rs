//! Steps that scenarios have in common.

use std::time::Duration;

use crate::{
    found::Window,
    load::Departure,
    run::{Run, Waited},
    tally::Snapshot,
};

/// How long processes and kernel get to come to rest before a figure is taken.
pub(super) const SETTLE: Duration = Duration::from_secs(2);
/// Departures per second after the warm-up.
const LEAVE_PER_S: f64 = 5_000.0;

/// Figures before anything; then some clients come, send one message each and leave, so that what
/// the gateway allocates once is not taken for a cost of connections.
pub(super) fn warm_up(run: &mut Run, with_clients: bool) -> anyhow::Result<()> {
    run.found.at_start = Some(run.figures());
    let (warmup, grace) = (run.plan.warmup, run.plan.grace);
    if with_clients && warmup > 0 {
        run.fleet.connect(warmup, run.plan.connect_rate, run.plan.connecting_max);
        let limit = grace + time_for(warmup, run.plan.connect_rate);
        run.wait("warm-up", limit, |now| now.connecting == 0)?;
        check_all(run, "warm-up")?;
        run.fleet.leave(0, LEAVE_PER_S, Departure::Politely);
        run.wait("warm-up", grace, |now| now.leaving == 0 && now.open == 0)?;
    }
    run.pass("settle", SETTLE)?;
    run.found.baseline = Some(run.figures());
    Ok(())
}

/// Connects until `clients` have been connected.
pub(super) fn connect(run: &mut Run, clients: u32) -> anyhow::Result<()> {
    let before = run.poll("connect")?;
    run.fleet.connect(clients, run.plan.connect_rate, run.plan.connecting_max);
    let limit = run.plan.grace + 3 * time_for(clients, run.plan.connect_rate);
    run.wait("connect", limit, |now| now.connecting == 0)?;
    let after = run.poll("connect")?;
    if after.connecting > 0 {
        // What follows then counts clients that come in the middle of it, and may take what they
        // are told of earlier messages for duplicates. The cause must stand before that.
        run.found.broken_rules.push(format!(
            "{} of {clients} connects had no WELCOME within {:.0} s: connect more slowly, or give the \
             listener a longer backlog (net.core.somaxconn)",
            after.connecting,
            limit.as_secs_f64()
        ));
    }
    let (cpu_ns, opened) = run.found.ramp_cpu.unwrap_or_default();
    run.found.ramp_cpu = Some((cpu_ns + after.cpu_ns - before.cpu_ns, opened + after.opened - before.opened));
    Ok(())
}

/// Begins the hold, does `during` (which may be cut short by the user), and notes what held.
pub(super) fn hold(run: &mut Run, during: impl FnOnce(&mut Run) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let begin = run.fleet.now();
    run.fleet.hold(true);
    let before = run.poll("hold")?;
    note_held(run);
    let figures_before = run.figures();
    let result = during(run);
    let after = run.found.last;
    note_held(run);
    run.found.held = run.fleet.now() - begin;
    let busiest_ns = after.cpu_ns_max.saturating_sub(before.cpu_ns_max);
    let wanted_ns = after.wanted_ns_max.saturating_sub(before.wanted_ns_max);
    let held_ns = run.found.held.as_nanos().max(1) as f64;
    run.found.generator_cpu_share = Some(busiest_ns as f64 / held_ns);
    run.found.generator_wanted_share = Some(wanted_ns as f64 / held_ns);
    // A message to many costs as many deliveries.
    let messages = |now: &Snapshot| now.sent.max(now.received);
    if messages(&after) > messages(&before) {
        run.found.traffic = Some(Window {
            figures: [figures_before, run.figures()],
            messages: messages(&after) - messages(&before),
            heartbeats: after.pings_sent - before.pings_sent,
            generator_cpu_ns: after.cpu_ns - before.cpu_ns,
        });
    }
    result
}

/// Takes over how many sessions are open and the lowest number so far.
pub(super) fn note_held(run: &mut Run) {
    run.found.connections_held = Some(run.found.last.open);
    run.found.connections_held_min = Some(run.found.last.open_min);
}

/// The figures with all clients idle again.
pub(super) fn measure_held(run: &mut Run) -> anyhow::Result<()> {
    wait_until_all_answered(run)?;
    run.pass("settle", SETTLE)?;
    let now = run.poll("settle")?;
    run.found.answered_at_figures = (run.plan.heartbeat > Duration::ZERO).then_some(now.answered);
    run.found.held_figures = Some((now.open, run.figures()));
    Ok(())
}

/// Where the plan holds for longer than a heartbeat interval, every client must have had one
/// answered before a figure counts as that of a live connection. One interval is enough for it.
fn wait_until_all_answered(run: &mut Run) -> anyhow::Result<()> {
    let interval = run.plan.heartbeat;
    if interval > Duration::ZERO && run.plan.duration >= interval {
        run.wait("heartbeats", interval + run.plan.grace, |now| now.answered == now.open)?;
    }
    Ok(())
}

/// Every open client sends one message and waits for it to come back.
pub(super) fn check_all(run: &mut Run, phase: &str) -> anyhow::Result<Waited> {
    let (rate, payload_bytes) = (run.plan.check_rate, run.plan.payload_bytes);
    run.fleet.check(rate, payload_bytes);
    let limit = run.plan.grace + 3 * time_for(run.plan.connections, rate);
    run.wait(phase, limit, |now| now.to_send == 0 && now.outstanding == 0)
}

/// [`check_all`], for the report.
pub(super) fn final_check(run: &mut Run) -> anyhow::Result<()> {
    let before = run.poll("final check")?;
    check_all(run, "final check")?;
    let after = run.poll("final check")?;
    run.found.final_check = Some((before.open, after.received - before.received));
    Ok(())
}

/// Waits for the last PONGs and notes what was held to the end.
pub(super) fn end_hold(run: &mut Run) -> anyhow::Result<()> {
    run.wait_for_pings()?;
    note_held(run);
    Ok(())
}

/// How long `count` steps take at a rate.
pub(super) fn time_for(count: u32, per_second: f64) -> Duration {
    Duration::from_secs_f64(f64::from(count) / per_second)
}
