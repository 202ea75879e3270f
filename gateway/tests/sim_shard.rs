//! The deterministic simulation of whole shards: many seeds, all invariants, full coverage.
//!
//! * `ROOST_SIM_SEED=n` replays one seed; with `ROOST_SIM_TRACE=1` it tells every op.
//! * `ROOST_SIM_FROM=n` and `ROOST_SIM_SEEDS=n` choose the range, `ROOST_SIM_KEEP_GOING=1` lists
//!   all failures (`scripts/sim-sweep` sets them).
//! * `ROOST_SIM_UNTIL=NAME` goes on after failures until one names this invariant
//!   (`scripts/mutants` sets it).

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
    let until = env::var("ROOST_SIM_UNTIL").ok();
    let keep_going = env::var_os("ROOST_SIM_KEEP_GOING").is_some();
    std::panic::set_hook(Box::new(|_| {}));
    let began = Instant::now();
    let mut coverage = Coverage::default();
    let mut failures: Vec<Failure> = Vec::new();
    for seed in from..from + seeds {
        match run(seed) {
            Ok(reached) => coverage.merge(&reached),
            Err(failure) => {
                let wanted = until.as_deref().is_none_or(|name| failure.invariant() == Some(name));
                failures.push(failure);
                if wanted && !keep_going {
                    break;
                }
            }
        }
    }
    drop(std::panic::take_hook());
    let took_s = began.elapsed().as_secs_f64();
    println!("{coverage}");
    for failure in &failures {
        println!("{failure}");
    }
    println!("{}", coverage.summary());
    println!(
        "{} runs in {took_s:.1} s: {:.0} seeds per second",
        coverage.runs,
        coverage.runs as f64 / took_s
    );
    assert!(failures.is_empty(), "{} of {seeds} seeds failed; the first: {}", failures.len(), failures[0]);
    if seeds >= SEEDS {
        let missing = coverage.missing();
        assert!(missing.is_empty(), "not reached by {seeds} seeds: {missing:#?}");
    }
}
