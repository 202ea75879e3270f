//! `echo`, `idle` and `route`: connect, hold, send on a schedule, and look at what it costs.

use super::steps;
use crate::{
    load::Lane,
    plan::{Plan, Scenario},
    run::Run,
};

pub(super) fn run(run: &mut Run) -> anyhow::Result<()> {
    let plan = run.plan.clone();
    let idle = matches!(plan.scenario, Scenario::Idle { .. });
    steps::warm_up(run, idle)?;
    if idle {
        // A pause at half of them: the slope from here on is what a connection costs, whatever
        // the process costs.
        steps::connect(run, plan.connections / 2)?;
        if !plan.scenario.is_bare() {
            steps::check_all(run, "half check")?;
        }
        run.pass("settle", steps::SETTLE)?;
        let open = run.poll("settle")?.open;
        run.found.half = Some((open, run.figures()));
    }
    steps::connect(run, plan.connections)?;
    steps::hold(run, |run| traffic(run, &plan))?;
    steps::measure_held(run)?;
    if idle && !plan.scenario.is_bare() {
        steps::final_check(run)?;
    }
    steps::end_hold(run)?;
    let tally = run.found.last;
    if matches!(plan.scenario, Scenario::Route) && tally.undeliverable > 0 {
        let rule = format!("{} messages were reported as undeliverable", tally.undeliverable);
        run.found.broken_rules.push(rule);
    }
    Ok(())
}

/// The plan's schedule, for the plan's duration, and the wait for its last replies.
pub(super) fn traffic(run: &mut Run, plan: &Plan) -> anyhow::Result<()> {
    let closed = if plan.closed { plan.duration } else { std::time::Duration::ZERO };
    run.fleet.traffic_for(closed, Lane::Main, plan.active, plan.rate, plan.messages(), plan.payload_bytes);
    run.pass("hold", plan.duration)?;
    run.wait("drain", plan.grace, |now| now.to_send == 0 && now.outstanding == 0)?;
    Ok(())
}
