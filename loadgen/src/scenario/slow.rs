//! `slow`: some clients do not read what they are sent; the others must notice nothing.

use serde_json::json;

use super::{steady, steps};
use crate::{
    load::{Lane, Slow},
    plan::Scenario,
    run::Run,
    schedule::whole,
};

pub(super) fn run(run: &mut Run) -> anyhow::Result<()> {
    let plan = run.plan.clone();
    let Scenario::Slow { rate, payload_bytes, reading, pausing, .. } = plan.scenario else {
        unreachable!("asked for slow")
    };
    let slow = plan.scenario.slow_clients(plan.connections);
    steps::warm_up(run, false)?;
    steps::connect(run, plan.connections)?;
    steps::hold(run, |run| {
        run.fleet.slow(Slow { clients: slow, reading, pausing, reads_now: false });
        let messages = whole(rate * plan.duration.as_secs_f64());
        run.fleet.traffic(Lane::Slow, slow, rate, messages, payload_bytes);
        steady::traffic(run, &plan)?;
        // Whoever was not cut off gets everything in the end.
        run.fleet.slow_resume();
        run.wait("resume", plan.grace, |now| now.slow_outstanding == 0)?;
        Ok(())
    })?;
    steps::measure_held(run)?;
    steps::end_hold(run)?;
    let last = run.found.last;
    run.found.extra.insert("slow_clients".into(), json!(slow));
    run.found.extra.insert("slow_clients_cut_off".into(), json!(last.slow_closed));
    Ok(())
}
