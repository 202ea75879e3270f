//! Replays the committed corpus of the link state machine, so that what fuzzing once found stays
//! found, and demands that the corpus reaches what there is.
//!
//! `ROOST_GROW_CORPUS=N cargo test -p roost-gateway --test link_machine -- --ignored` looks for
//! inputs that reach more, N at a time, and writes them to the corpus; libFuzzer does the same from
//! `gateway/fuzz`, guided by the code that an input runs.
#![forbid(unsafe_code)]

mod body;

use std::{
    collections::BTreeSet,
    env, fs,
    panic::catch_unwind,
    path::{Path, PathBuf},
};

use body::{Seen, link_machine};
use roost_gateway::sim::Rng;
use roost_protocol::{hash::routing_hash, link::LinkType};

/// What the corpus must reach, beside every command in every state of a link.
const MUST_SEE: [&str; 28] = [
    "Blocked",
    "ConnectionsMoved",
    "FanoutDeliveries",
    "FramesResent",
    "LinkBreaks",
    "LinkErrors",
    "LinkFailovers",
    "LinkFramesStale",
    "LinkResumes",
    "MessagesDelivered",
    "RelaysDropped",
    "RelaysForwarded",
    "Down -> Connecting",
    "Connecting -> Handshaking",
    "Connecting -> Closing",
    "Handshaking -> Proving",
    "Handshaking -> Refusing",
    "Proving -> Up",
    "Refusing -> Closing",
    "Handshaking -> Closing",
    "Up -> Closing",
    "Closing -> Down",
    "the gateway says LinkHello",
    "the gateway says LinkProof",
    "the gateway says Open",
    "the gateway says Reopen",
    "the gateway says Closed",
    "the gateway says Ack",
];

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/link_machine")
}

fn inputs() -> Vec<(PathBuf, Vec<u8>)> {
    let dir = corpus();
    let entries = fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[test]
fn the_corpus_keeps_the_invariants_and_reaches_everything() {
    let mut seen = Seen::new();
    for (path, input) in inputs() {
        let reached = catch_unwind(|| link_machine(&input));
        seen.extend(reached.unwrap_or_else(|_| panic!("{} fails", path.display())));
    }
    let missing: Vec<_> = MUST_SEE.iter().filter(|&&what| !seen.contains(what)).collect();
    assert!(missing.is_empty(), "the corpus does not reach {missing:?}; it reaches {seen:#?}");
}

#[test]
fn random_scripts_keep_the_invariants() {
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let mut input = vec![0; rng.log_range(2, 2_000) as usize];
        rng.fill(&mut input);
        if let Err(panic) = catch_unwind(|| link_machine(&input)) {
            let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            panic!("script {seed} fails: {text}");
        }
    }
}

#[test]
#[ignore = "writes to the corpus"]
fn grow() {
    let tries: u64 =
        env::var("ROOST_GROW_CORPUS").expect("ROOST_GROW_CORPUS says how many to try").parse().unwrap();
    let mut pool: Vec<Vec<u8>> = inputs().into_iter().map(|(_, input)| input).collect();
    let mut seen: BTreeSet<String> = pool.iter().flat_map(|input| link_machine(input)).collect();
    let mut rng = Rng::new(routing_hash(format!("{} {tries}", pool.len()).as_bytes()));
    for _ in 0..tries {
        let mut input = if pool.is_empty() { Vec::new() } else { pool[rng.index(pool.len())].clone() };
        for _ in 0..rng.range(1, 6) {
            mutate(&mut rng, &pool, &mut input);
        }
        input.truncate(600);
        let reached = link_machine(&input);
        if reached.iter().any(|what| !seen.contains(what)) {
            seen.extend(reached);
            let name = format!("found-{:012x}", routing_hash(&input) >> 16);
            fs::write(corpus().join(name), &input).unwrap();
            pool.push(input);
        }
    }
    println!("{} inputs reach {}", pool.len(), seen.len());
}

fn mutate(rng: &mut Rng, pool: &[Vec<u8>], input: &mut Vec<u8>) {
    let at = rng.index(input.len() + 1) & !1;
    match rng.below(7) {
        0 if at < input.len() => input[at] = rng.draw() as u8,
        1 if at < input.len() => drop(input.drain(at..(at + 2).min(input.len()))),
        2 if !pool.is_empty() => {
            let other = &pool[rng.index(pool.len())];
            let from = rng.index(other.len() + 1) & !1;
            input.truncate(at);
            input.extend(&other[from..]);
        }
        3 => {
            // What gets a link up, of which chance alone makes little.
            let link = (rng.below(2) as u8) << 4;
            input.extend([
                link,
                0,
                link | 7,
                3,
                link | 1,
                rng.draw() as u8,
                link | 5,
                0,
                link | 7,
                3,
                link | 5,
                0,
            ]);
        }
        4 => {
            // And what opens a connection.
            let link = (rng.below(2) as u8) << 4;
            let accept = LinkType::ALL.iter().position(|&known| known == LinkType::Accept).unwrap() as u8;
            let (who, whom) = (rng.draw() as u8, rng.draw() as u8);
            input.extend([11, who, link | 7, 3, link | 2, 1, accept, whom, link | 5, 0]);
        }
        _ => {
            let command = [rng.draw() as u8, rng.draw() as u8];
            drop(input.splice(at..at, command));
        }
    }
}
