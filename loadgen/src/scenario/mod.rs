//! What the clients are made to do: short scripts over a [`Run`].

pub mod steady;

use crate::{
    plan::Scenario,
    run::{Interrupted, Run},
};

/// Runs the plan's scenario. What it found stays in the run, also when it was interrupted.
///
/// # Errors
/// What ended a load thread.
pub fn run(run: &mut Run) -> anyhow::Result<()> {
    let result = match run.plan.scenario {
        Scenario::Echo | Scenario::Idle => steady::run(run),
    };
    match result {
        Err(error) if error.is::<Interrupted>() => {
            run.found.interrupted = true;
            run.calm_down();
            Ok(())
        }
        other => other,
    }
}
