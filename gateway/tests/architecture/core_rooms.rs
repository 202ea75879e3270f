//! The order of the rooms of the gateway's core: who may name, and so call, whom.
//!
//! A room's state is private to it, so whoever changes it names the room: an import or a path is what
//! a call across a border needs.

use crate::{
    Finding,
    imports::{self, is_module},
    source::SourceFile,
};

/// Path prefix of the core's files.
const AT: &str = "gateway/src/core/";

/// The rooms, from the bottom up. A room may name those that stand before it, and itself.
const ROOMS: &[&str] = &[
    "transitions",
    "bounds",
    "stats",
    "index",
    "span",
    "limits",
    "listener",
    "config",
    "event",
    "pool",
    "context",
    "connection",
    "link",
    "routing",
    "shard",
];

/// Rooms that stand side by side: neither may name the other.
const STRANGERS: (&str, &str) = ("connection", "link");

/// What `core` itself gives under another name, and the room that it stands in.
const NAMES: &[(&str, &str)] = &[
    ("record", "connection"),
    ("proxy", "connection"),
    ("CoreConfig", "config"),
    ("ListenerConfig", "listener"),
    ("Entropy", "context"),
    ("Redial", "link"),
    ("Command", "shard"),
    ("ConnectionInfo", "shard"),
    ("Next", "shard"),
    ("ShardCore", "shard"),
];

fn place(room: &str) -> Option<usize> {
    ROOMS.iter().position(|name| *name == room)
}

/// Checks that a file of the core names only rooms below its own.
pub(crate) fn check(file: &SourceFile) -> Vec<Finding> {
    let module = file.module();
    let [first, own, ..] = &module[..] else { return Vec::new() };
    if !file.path.starts_with(AT) || first != "core" || file.is_test() {
        return Vec::new();
    }
    let Some(own_place) = place(own) else {
        return vec![Finding::new(file, 1, format!("core::{own} has no place in ROOMS"))];
    };
    let mut findings = Vec::new();
    for named in imports::paths(file).iter().filter(|named| !named.test) {
        let [first, core, other, ..] = &named.segments[..] else { continue };
        if first != "crate" || core != "core" {
            continue;
        }
        let alias = NAMES.iter().find(|(name, _)| name == other).map(|(_, room)| *room);
        let other = alias.unwrap_or(other);
        if other == own {
            continue;
        }
        let strangers = [own.as_str(), other] == [STRANGERS.0, STRANGERS.1]
            || [own.as_str(), other] == [STRANGERS.1, STRANGERS.0];
        let rule = match place(other) {
            Some(_) if strangers => format!("core::{own} and core::{other} must not know each other"),
            Some(other_place) if other_place < own_place => continue,
            Some(_) => format!("core::{own} stands below core::{other} and must not name it"),
            None if is_module(other) => format!("core::{other} has no place in ROOMS"),
            None => format!("core::{other}: name it by its room"),
        };
        findings.push(Finding::new(file, named.line, rule));
    }
    findings
}

/// Rooms of the table that no file belongs to.
pub(crate) fn stale(sources: &[SourceFile]) -> Vec<String> {
    let is_there = |room: &str| {
        sources.iter().any(|file| {
            file.path.starts_with(AT) && file.module().get(1).is_some_and(|module| module == room)
        })
    };
    let rooms = ROOMS.iter().filter(|room| !is_there(room));
    rooms.map(|room| format!("core::{room}: strike it off ROOMS")).collect()
}
