//! How evenly keys come out over partitions, and partitions over workers.

use std::{iter, time::Instant};

use roost_protocol::hash::{PARTITIONS, mix, partition, rendezvous, worker_hash};

/// Fleets of differently named workers that each size is tried with.
const FLEETS: usize = 16;

/// Kinds of keys, and the key with a number.
type Kind = (&'static str, fn(u64) -> String);

/// Numbers in a row, what a hash or a random number gives, and subscribers of one mobile network.
const KINDS: [Kind; 3] = [
    ("user-N", |n| format!("user-{n}")),
    ("hex", |n| format!("{:016x}{:016x}", mix(n + 1), mix(!n))),
    ("phone", |n| format!("+49151{:08}", n * 97)),
];

/// How many of the keys with numbers below `keys` each partition has.
fn partition_loads(keys: u64, key: impl Fn(u64) -> String) -> Vec<u64> {
    let mut loads = vec![0; PARTITIONS as usize];
    for n in 0..keys {
        loads[usize::from(partition(key(n).as_bytes()))] += 1;
    }
    loads
}

/// Chi-squared by degree of freedom: 1 where keys fall as if by chance, with a standard deviation of
/// 0.011 for so many partitions.
fn chi_squared(loads: &[u64]) -> f64 {
    let mean = loads.iter().sum::<u64>() as f64 / loads.len() as f64;
    let squares: f64 = loads.iter().map(|&load| (load as f64 - mean).powi(2)).sum();
    squares / mean / (loads.len() - 1) as f64
}

/// Of the workers' loads in a fleet, relative to their mean: the standard deviation, and how much more
/// the busiest has.
fn imbalance(partition_loads: &[u64], fleet: usize, workers: usize) -> (f64, f64) {
    let names = (0..workers).map(|worker| format!("fleet-{fleet}-worker-{worker}"));
    let hashes: Vec<_> = names.map(|name| worker_hash(name.as_bytes())).enumerate().collect();
    let mut loads = vec![0; workers];
    for (partition, load) in iter::zip(0.., partition_loads) {
        loads[rendezvous(partition, hashes.iter().copied()).expect("a worker")] += load;
    }
    let mean = loads.iter().sum::<u64>() as f64 / workers as f64;
    let squares: f64 = loads.iter().map(|&load| (load as f64 / mean - 1.0).powi(2)).sum();
    let busiest = loads.iter().max().map_or(0.0, |&most| most as f64 / mean - 1.0);
    ((squares / workers as f64).sqrt(), busiest)
}

#[test]
fn keys_fall_into_partitions_as_if_by_chance() {
    for (kind, key) in KINDS {
        let chi_squared = chi_squared(&partition_loads(200_000, key));
        assert!((0.9..1.1).contains(&chi_squared), "{kind}: {chi_squared:.3}");
    }
}

/// What it takes to compute the owners of all partitions, for docs/performance.md:
/// `cargo test --release -p roost-protocol --test routing -- --ignored --nocapture price`.
#[test]
#[ignore = "prints a table"]
fn price() {
    println!("owners of {PARTITIONS} partitions, best of 50");
    println!("{:>8}{:>10}{:>10}{:>14}", "workers", "weights", "us", "ns a weight");
    for workers in [3, 32, 256] {
        let names = (0..workers).map(|worker| format!("worker-{worker}"));
        let hashes: Vec<_> = names.map(|name| worker_hash(name.as_bytes())).enumerate().collect();
        let mut owners = Vec::with_capacity(PARTITIONS as usize);
        let mut round = || {
            owners.clear();
            let began = Instant::now();
            owners.extend((0..PARTITIONS as u16).map_while(|p| rendezvous(p, hashes.iter().copied())));
            let elapsed = began.elapsed();
            assert_eq!(owners.len(), PARTITIONS as usize);
            elapsed.as_secs_f64() * 1e6
        };
        let best_us = (0..50).map(|_| round()).fold(f64::MAX, f64::min);
        let weights = workers as f64 * f64::from(PARTITIONS);
        println!("{workers:>8}{weights:>10}{best_us:>10.0}{:>14.2}", best_us * 1e3 / weights);
    }
}

/// The table of docs/performance.md:
/// `cargo test --release -p roost-protocol --test routing -- --ignored --nocapture spread`.
#[test]
#[ignore = "prints a table"]
fn spread() {
    println!("1,000,000 keys, {PARTITIONS} partitions, {FLEETS} fleets of each size, mean (worst fleet)");
    println!("{:<8}{:>8}{:>9}{:>18}{:>18}", "keys", "chi2/df", "workers", "stdev %", "busiest % over");
    for (kind, key) in KINDS {
        let loads = partition_loads(1_000_000, key);
        for workers in [3, 10, 32, 100] {
            let fleets: Vec<_> = (0..FLEETS).map(|fleet| imbalance(&loads, fleet, workers)).collect();
            let show = |figure: fn(&(f64, f64)) -> f64| {
                let figures = fleets.iter().map(figure);
                let mean = figures.clone().sum::<f64>() / FLEETS as f64;
                format!("{:.1} ({:.1})", mean * 100.0, figures.fold(0.0, f64::max) * 100.0)
            };
            println!(
                "{kind:<8}{:>8.3}{workers:>9}{:>18}{:>18}",
                chi_squared(&loads),
                show(|fleet| fleet.0),
                show(|fleet| fleet.1),
            );
            // By chance it is the root of workers / partitions: 7.8% for 100.
            let by_chance = (workers as f64 / f64::from(PARTITIONS)).sqrt();
            assert!(fleets.iter().all(|fleet| fleet.0 < 2.5 * by_chance), "{kind}: {fleets:?}");
        }
    }
}
