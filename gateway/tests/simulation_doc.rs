//! docs/simulation.md lists the invariants and the mutants: the first table and what there
//! is to reach are made from the code, the second table from what `scripts/mutants --json` wrote, and all are compared here.
//! `ROOST_UPDATE_DOCS=1 cargo test -p roost-gateway --test simulation_doc` writes them anew.
#![forbid(unsafe_code)]

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
};

use roost_gateway::sim::{coverage::Coverage, invariants::INVARIANTS};

const DOC: &str = "docs/simulation.md";
const RESULTS: &str = "docs/results/mutants.json";
const RESULTS_TABLE: &str = "docs/results/README.md";
const PATCHES: &str = "gateway/mutants";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Compares what stands between the marks named `mark` with `expected`, or writes it.
fn compare(mark: &str, expected: &str) {
    let (begin, end) = (format!("<!-- {mark}: begin -->\n"), format!("<!-- {mark}: end -->\n"));
    let doc = text(DOC);
    let (before, rest) = doc.split_once(&begin).expect("the begin of the table");
    let (found, after) = rest.split_once(&end).expect("the end of the table");
    if env::var_os("ROOST_UPDATE_DOCS").is_some() {
        fs::write(root().join(DOC), format!("{before}{begin}{expected}{end}{after}")).unwrap();
    } else {
        assert_eq!(found, expected, "{DOC} is behind; write it anew with ROOST_UPDATE_DOCS=1");
    }
}

/// Names that the sources under `folder` say to be violated.
fn said(folder: &Path, names: &mut BTreeMap<String, PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            said(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs")
            && !path.ends_with("sim/invariants.rs")
        {
            let source = fs::read_to_string(&path).unwrap();
            let words = source.match_indices("invariant ").map(|(at, found)| &source[at + found.len()..]);
            let named = words.filter_map(|rest| rest.split_once(':')).map(|(name, _)| name);
            let plain = |name: &&str| name.chars().all(|c| c.is_ascii_lowercase() || c == '-');
            // The books say just `NAME: ...`, and put `invariant` before it later.
            let booked = INVARIANTS.iter().map(|&(name, _)| name);
            let booked = booked.filter(|name| source.contains(&format!("\"{name}: ")));
            names.extend(named.filter(plain).chain(booked).map(|name| (name.to_owned(), path.clone())));
        }
    }
}

/// The head of each patch: what it breaks, and which invariant must be named.
fn patches() -> BTreeMap<String, (String, String)> {
    let head = |text: &str, key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or_else(|| panic!("a patch without {key}")).to_owned()
    };
    fs::read_dir(root().join(PATCHES))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, (head(&text, "breaks: "), head(&text, "invariant: ")))
        })
        .collect()
}

/// What the simulation's seeds have to reach: all that there is, as a sweep of many seeds says it.
fn everything() -> String {
    let nothing = Coverage::default().summary();
    let line = nothing.lines().next().expect("a line of what was reached").trim_start_matches("reached: ");
    let full = |part: &str| match part.split_once(" of ") {
        Some(("0", rest)) => {
            let count = rest.split(' ').next().expect("a number");
            format!("{count} of {rest}")
        }
        _ => panic!("{part:?} does not begin with `0 of`"),
    };
    format!("reached: {}", line.split(", ").map(full).collect::<Vec<_>>().join(", "))
}

/// All of them in one test: two that write the same file would race.
#[test]
fn the_tables_are_those_of_the_code_and_of_the_results() {
    let rows = INVARIANTS.iter().map(|(name, meaning)| format!("| `{name}` | {meaning} |\n"));
    compare("invariants", &format!("| invariant | meaning |\n|---|---|\n{}", rows.collect::<String>()));

    let results: serde_json::Value = serde_json::from_str(&text(RESULTS)).unwrap();
    let mut table =
        String::from("| mutant | breaks | named | seed | build s | run s |\n|---|---|---|---|---|---|\n");
    let mut tried = BTreeMap::new();
    for row in results["mutants"].as_array().expect("a list of mutants") {
        let field = |name: &str| row[name].as_str().expect(name).to_owned();
        assert_eq!(row["verdict"], "ok", "{row}");
        tried.insert(field("mutant"), (field("breaks"), field("invariant")));
        table.push_str(&format!(
            "| `{}` | {} | `{}` | {} | {:.1} | {:.1} |\n",
            field("mutant"),
            field("breaks"),
            field("invariant"),
            row["seed"].as_u64().expect("the seed that named it"),
            row["build_s"].as_f64().expect("seconds"),
            row["run_s"].as_f64().expect("seconds"),
        ));
    }
    assert_eq!(tried, patches(), "{RESULTS} is not about the patches in {PATCHES}: run scripts/mutants");
    compare("mutants", &table);
    compare("coverage", &format!("```\n{}\n```\n", everything()));

    // Prose and the table of results name numbers, too.
    let count = format!("all {} mutants", tried.len());
    assert!(text(DOC).to_lowercase().contains(&count), "{DOC} does not say `{count}`");
    let count = format!("{} of {} mutants", tried.len(), tried.len());
    assert!(text(RESULTS_TABLE).contains(&count), "{RESULTS_TABLE} does not say `{count}`");
}

#[test]
fn what_the_code_says_to_be_violated_is_on_the_list() {
    let mut names = BTreeMap::new();
    for folder in ["core", "event_loop", "sim"] {
        said(&root().join("gateway/src").join(folder), &mut names);
    }
    let known: BTreeSet<&str> = INVARIANTS.iter().map(|&(name, _)| name).collect();
    let said: BTreeSet<&str> = names.keys().map(String::as_str).collect();
    assert_eq!(said, known, "said in {names:#?}");
    for (name, (_, invariant)) in patches() {
        assert!(known.contains(invariant.as_str()), "{name}: no invariant is called {invariant}");
    }
}
