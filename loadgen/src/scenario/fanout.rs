//! `broadcast` and `multicast`: one user's messages go to many.

use serde_json::json;

use super::{steady, steps};
use crate::{plan::Scenario, run::Run};

pub(super) fn run(run: &mut Run) -> anyhow::Result<()> {
    let plan = run.plan.clone();
    steps::warm_up(run, false)?;
    steps::connect(run, plan.connections)?;
    let receivers = match plan.scenario {
        Scenario::Multicast { receivers } => u64::from(receivers.min(plan.connections)),
        _ => u64::from(plan.connections),
    };
    steps::hold(run, |run| {
        let before = run.poll("hold")?;
        steady::traffic(run, &plan)?;
        let owed = |now: &crate::tally::Snapshot| (now.sent - before.sent) * receivers;
        run.wait("drain", plan.grace, |now| now.received - before.received >= owed(now))?;
        let now = run.poll("drain")?;
        let (owed, delivered) = (owed(&now), now.received - before.received);
        run.found.extra.insert("deliveries_owed".into(), json!(owed));
        run.found.extra.insert("deliveries".into(), json!(delivered));
        if owed != delivered {
            run.found.broken_rules.push(format!("{delivered} of {owed} deliveries arrived"));
        }
        Ok(())
    })?;
    steps::measure_held(run)?;
    steps::end_hold(run)
}
