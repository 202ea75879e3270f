//! What the clients are made to do: short scripts over a [`Run`].

pub mod bare_accept;
mod churn;
mod fanout;
mod slow;
mod steady;
mod steps;
mod storm;

use crate::{plan::Scenario, run::Run};

/// Runs the plan's scenario. What it found stays in the run, also when it was stopped.
///
/// # Errors
/// What ended a load thread.
pub fn run(run: &mut Run) -> anyhow::Result<()> {
    let result = match run.plan.scenario {
        Scenario::Echo | Scenario::Idle { .. } | Scenario::Route => steady::run(run),
        Scenario::Broadcast | Scenario::Multicast { .. } => fanout::run(run),
        Scenario::Storm { .. } => storm::run(run),
        Scenario::Slow { .. } => slow::run(run),
        Scenario::Churn { .. } => churn::run(run),
    };
    let Err(error) = result else { return Ok(()) };
    run.found.stopped = Some(error.downcast()?);
    run.let_outstanding_arrive();
    Ok(())
}
