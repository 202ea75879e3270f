//! The deterministic simulation of whole shards: many seeds, all invariants, full coverage.
//!
//! `ROOST_SIM_SEED=n` replays one seed; `ROOST_SIM_FROM=n` and `ROOST_SIM_SEEDS=n` choose the
//! range (`scripts/sim-sweep` sets them).

use std::{env, time::Instant};

use roost_gateway::sim::{
    coverage::Coverage,
    run::{Failure, run},
};

/// Seeds of every test run.
const SEEDS: u64 = 1_000;

fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[test]
fn every_seed_keeps_the_invariants_and_together_they_reach_everything() {
    // A panic is how an invariant breaks; the seed's report is what should be read.
    if let Some(seed) = number("ROOST_SIM_SEED") {
        match run(seed) {
            Ok(coverage) => println!("{coverage}"),
            Err(failure) => panic!("{failure}"),
        }
        return;
    }
    let from = number("ROOST_SIM_FROM").unwrap_or(0);
    let seeds = number("ROOST_SIM_SEEDS").unwrap_or(SEEDS);
    let keep_going = env::var_os("ROOST_SIM_KEEP_GOING").is_some();
    std::panic::set_hook(Box::new(|_| {}));
    let began = Instant::now();
    let mut coverage = Coverage::default();
    let mut failures: Vec<Failure> = Vec::new();
    for seed in from..from + seeds {
        match run(seed) {
            Ok(reached) => coverage.merge(&reached),
            Err(failure) => failures.push(failure),
        }
        if !failures.is_empty() && !keep_going {
            break;
        }
    }
    drop(std::panic::take_hook());
    let took = began.elapsed();
    println!("{coverage}");
    println!("{seeds} seeds in {:.1} s", took.as_secs_f64());
    for failure in &failures {
        println!("{failure}");
    }
    assert!(failures.is_empty(), "{} of {seeds} seeds failed; the first: {}", failures.len(), failures[0]);
    if seeds >= SEEDS {
        let missing = coverage.missing();
        assert!(missing.is_empty(), "not reached by {seeds} seeds: {missing:#?}");
    }
}
