//! A panic ends the process for everybody. `docs/threat-model.md` lists each place in the parts that
//! bytes of clients and workers reach where one is written down, with the argument that it is not
//! reached; this test finds those that are not on the list, and those on the list that are gone.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

const DOC: &str = "docs/threat-model.md";
const PARTS: [&str; 3] = ["gateway/src/core", "gateway/src/event_loop", "ring/src"];
const WAYS: [&str; 5] = [".expect(", "panic!(", "unreachable!(", "todo!(", "unimplemented!("];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The code of all files below `folder` without comments and without tests.
fn sources(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("tests") {
                sources(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
            found.push((path, lines.collect::<Vec<_>>().join("\n")));
        }
    }
}

/// What the panics of this code say, but those that name an invariant of the simulation.
fn said(path: &Path, code: &str) -> BTreeSet<String> {
    assert!(!code.contains(".unwrap()"), "{}: `.unwrap()` does not say why it holds", path.display());
    let mut said = BTreeSet::new();
    for way in WAYS {
        for (at, _) in code.match_indices(way) {
            let rest = code[at + way.len()..].trim_start();
            let text = rest.strip_prefix('"').and_then(|rest| rest.split('"').next());
            let text = text.unwrap_or_else(|| panic!("{}: a {way} without words", path.display()));
            if !text.starts_with("invariant ") {
                said.insert(text.to_owned());
            }
        }
    }
    said
}

#[test]
fn every_panic_is_argued_for() {
    let mut found = Vec::new();
    for part in PARTS {
        sources(&root().join(part), &mut found);
    }
    assert!(found.len() > 40, "the sources are elsewhere");
    let said: BTreeSet<String> = found.iter().flat_map(|(path, code)| said(path, code)).collect();
    let doc = fs::read_to_string(root().join(DOC)).unwrap();
    let (_, rest) = doc.split_once("<!-- panics: begin -->").expect("the begin of the list");
    let (list, _) = rest.split_once("<!-- panics: end -->").expect("the end of the list");
    let sayings = list.lines().filter_map(|row| row.strip_prefix("| ")?.split(" | ").next());
    let argued: BTreeSet<String> =
        sayings.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(str::to_owned).collect();
    let missing: Vec<_> = said.difference(&argued).collect();
    let gone: Vec<_> = argued.difference(&said).collect();
    assert!(missing.is_empty() && gone.is_empty(), "{DOC}: not argued for {missing:#?}, gone {gone:#?}");
}
