//! The rules that hold the layers apart, as tests: who may import whom, where `unsafe` may stand,
//! how long a file may get. The checks read the sources as tokens, so neither comments nor
//! strings nor formatting can fool them; each check is itself tried on samples that must fail.
#![forbid(unsafe_code)]

mod core_rooms;
mod imports;
mod policy;
mod rooms;
mod samples;
mod source;
mod unsafety;

use std::{
    fs,
    path::{Path, PathBuf},
};

use source::SourceFile;

/// A broken rule: where, and which.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    place: String,
    rule: String,
}

impl Finding {
    fn new(file: &SourceFile, line: usize, rule: impl Into<String>) -> Self {
        Self { place: format!("{}:{line}", file.path), rule: rule.into() }
    }
}

#[test]
fn layers_import_only_what_they_may() {
    report(check_all(imports::check));
}

#[test]
fn rooms_of_the_core_name_only_those_below() {
    report(check_all(core_rooms::check));
}

#[test]
fn rooms_name_only_rooms_below_them() {
    report(check_all(rooms::check));
}

#[test]
fn no_files_name_each_other_in_a_circle() {
    let circles = rooms::circles(&sources());
    assert!(circles.is_empty(), "{circles:#?}");
}

#[test]
fn no_crate_takes_files_of_a_crate_that_it_must_not_know() {
    report(check_all(policy::check_included));
}

#[test]
fn unsafe_stands_only_in_ring_drivers_and_each_block_argues() {
    report(check_all(unsafety::check));
}

#[test]
fn every_crate_root_forbids_or_denies_unsafe() {
    report(check_all(unsafety::check_root));
}

#[test]
fn nothing_that_ships_prints_by_a_macro() {
    report(check_all(policy::check_output));
}

#[test]
fn files_stay_short() {
    report(check_all(policy::check_length));
}

#[test]
fn the_exceptions_are_still_needed() {
    let sources = sources();
    let mut stale = Vec::new();
    for path in policy::LONG_FILES.iter().map(|(path, _)| path) {
        match sources.iter().find(|file| file.path == *path) {
            Some(file) if file.lines > policy::FILE_LINES_MAX => {}
            _ => stale.push(format!("{path}: strike it off LONG_FILES")),
        }
    }
    for place in policy::UNSAFE_PLACES {
        if !sources.iter().any(|file| file.path.starts_with(place) && file.has_unsafe()) {
            stale.push(format!("{place}: strike it off UNSAFE_PLACES"));
        }
    }
    for layer in policy::LAYERS {
        if !sources.iter().any(|file| file.path.starts_with(layer.at)) {
            stale.push(format!("{}: no such layer", layer.at));
        }
    }
    stale.extend(core_rooms::stale(&sources));
    stale.extend(rooms::stale(&sources));
    assert!(stale.is_empty(), "{stale:#?}");
}

fn check_all(check: impl Fn(&SourceFile) -> Vec<Finding>) -> Vec<Finding> {
    sources().iter().flat_map(check).collect()
}

fn report(findings: Vec<Finding>) {
    let lines: Vec<String> =
        findings.iter().map(|finding| format!("{}: {}", finding.place, finding.rule)).collect();
    assert!(lines.is_empty(), "{} findings:\n{}", lines.len(), lines.join("\n"));
}

/// Every Rust file of the workspace's crates.
fn sources() -> Vec<SourceFile> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut files = Vec::new();
    for member in ["protocol", "ring", "gateway", "router", "loadgen"] {
        for part in ["src", "tests", "benches", "examples", "fuzz"] {
            collect(&root.join(member).join(part), &mut files);
        }
    }
    files.sort();
    assert!(files.len() > 50, "only {} files found: is this the workspace?", files.len());
    files
        .iter()
        .map(|path| {
            let name = path.strip_prefix(root).expect("within the workspace").to_string_lossy();
            SourceFile::new(&name, &fs::read_to_string(path).expect("a readable source file"))
        })
        .collect()
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries {
        let path = entry.expect("a directory entry").path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}
