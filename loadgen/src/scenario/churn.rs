//! `churn`: sessions end and begin at a steady rate.

use serde_json::json;

use super::{steady, steps};
use crate::{plan::Scenario, run::Run, schedule::whole};

pub(super) fn run(run: &mut Run) -> anyhow::Result<()> {
    let plan = run.plan.clone();
    let Scenario::Churn { per_second } = plan.scenario else { unreachable!("asked for churn") };
    steps::warm_up(run, false)?;
    steps::connect(run, plan.connections)?;
    let before = run.poll("churn")?;
    steps::hold(run, |run| {
        // Sessions come and go, so their lowest number says nothing.
        run.fleet.hold(false);
        run.fleet.churn(per_second);
        steady::traffic(run, &plan)?;
        run.fleet.churn(0.0);
        run.wait("return", plan.grace, |now| now.open == u64::from(plan.connections))?;
        Ok(())
    })?;
    steps::measure_held(run)?;
    steps::final_check(run)?;
    run.wait_for_pings()?;
    let after = run.poll("finish")?;
    run.found.connections_held = Some(after.open);
    run.found.connections_held_min = None;
    let returned = after.opened - before.opened;
    run.found.extra.insert("sessions_returned".into(), json!(returned));
    let owed = whole(per_second * plan.duration.as_secs_f64());
    let rules = &mut run.found.broken_rules;
    if (returned as f64) < owed as f64 * 0.99 {
        rules.push(format!("{returned} of {owed} sessions came back, less than 99%"));
    }
    if after.open != u64::from(plan.connections) {
        rules.push(format!("{} of {} sessions are open at the end", after.open, plan.connections));
    }
    for (count, what) in [
        (after.connect_failed, "connects failed"),
        (after.refused, "clients were refused"),
        (after.disconnected, "sessions ended against the plan"),
    ] {
        if count > 0 {
            rules.push(format!("{count} {what}"));
        }
    }
    Ok(())
}
