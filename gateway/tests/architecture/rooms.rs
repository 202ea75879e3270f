//! The order of the rooms of each crate, and that no two files name each other in a circle.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Finding,
    imports::{self, is_module},
    source::SourceFile,
};

/// The rooms of a crate: its modules right below the root.
pub(crate) struct House {
    /// Path prefix of its files.
    pub(crate) at: &'static str,
    /// Other crates that the root gives the rooms under a name of its own; each room may name them.
    pub(crate) guests: &'static [&'static str],
    /// From the bottom up. A room may name those that stand before it, and no other.
    pub(crate) rooms: &'static [&'static str],
}

pub(crate) const HOUSES: &[House] = &[
    House {
        at: "ring/src/",
        guests: &[],
        rooms: &[
            "op",
            "error",
            "busy_poll",
            "sqe",
            "trial",
            "features",
            "ring",
            "bank",
            "in_flight",
            "memory",
            "accept",
            "addresses",
            "sockets",
            "links",
            "driver",
            "connect",
            "fit",
            "teardown",
        ],
    },
    House {
        at: "router/src/",
        guests: &[],
        rooms: &[
            "id", "config", "stats", "secret", "listen", "shell", "session", "core", "handlers", "server",
            "metrics", "api",
        ],
    },
    House {
        at: "loadgen/src/",
        guests: &[],
        rooms: &[
            "say",
            "payload",
            "schedule",
            "latency",
            "exchange",
            "client",
            "transport",
            "socket",
            "tun",
            "figures",
            "tally",
            "cli",
            "plan",
            "preflight",
            "load",
            "fleet",
            "restart",
            "found",
            "report",
            "progress",
            "run",
            "scenario",
            "app",
        ],
    },
    House {
        at: "gateway/src/",
        guests: &["op", "ring"],
        rooms: &[
            "core",
            "event_loop",
            "sim",
            "machine",
            "config",
            "logging",
            "metrics",
            "preflight",
            "admin",
            "run",
        ],
    },
];

/// Rooms that may name only these items of another room: (path prefix, other room, items).
pub(crate) const DOORS: &[(&str, &str, &[&str])] = &[
    ("gateway/src/config/", "ring", &["FeaturesMax", "RING_SLOTS_MAX"]),
    ("gateway/src/config/", "event_loop", &["Target"]),
    ("gateway/src/config/", "op", &["LinkAddress"]),
    ("gateway/src/admin/", "event_loop", &["Request", "ShardHandle"]),
];

/// Checks that a file names only rooms below its own, each by its name, and only what a door lets through.
pub(crate) fn check(file: &SourceFile) -> Vec<Finding> {
    let Some(house) = HOUSES.iter().find(|house| file.path.starts_with(house.at)) else { return Vec::new() };
    let module = file.module();
    let Some(own) = module.first() else { return Vec::new() };
    let place = |room: &str| house.rooms.iter().position(|name| *name == room);
    let Some(own_place) = place(own) else {
        return vec![Finding::new(file, 1, format!("{}{own} has no place in HOUSES", house.at))];
    };
    let mut findings = Vec::new();
    let mut find = |line, rule| findings.push(Finding::new(file, line, rule));
    for named in imports::paths(file).iter().filter(|named| !named.test) {
        let (other, items) = match &named.segments[..] {
            [first, other, items @ ..] if first == "crate" && other != own => (other.as_str(), items),
            [first, items @ ..] if first.starts_with("roost_") => (&first["roost_".len()..], items),
            _ => continue,
        };
        if named.segments[0] == "crate" && !house.guests.contains(&other) {
            match place(other) {
                Some(other_place) if other_place < own_place => {}
                Some(_) => find(named.line, format!("{own} stands below {other} and must not name it")),
                None if is_module(other) => {
                    find(named.line, format!("{}{other} has no place in HOUSES", house.at));
                }
                None => find(named.line, format!("crate::{other}: name it by its room")),
            }
        }
        let doors = DOORS.iter().filter(|(at, room, _)| file.path.starts_with(at) && *room == other);
        for (_, room, door) in doors {
            if !items.iter().any(|item| door.contains(&item.as_str())) {
                find(named.line, format!("{own} may name only {} of {room}", door.join(" and ")));
            }
        }
    }
    findings
}

/// Rooms of the table that no file belongs to.
pub(crate) fn stale(sources: &[SourceFile]) -> Vec<String> {
    let is_there = |house: &House, room: &str| {
        let inside = |file: &SourceFile| file.module().first().is_some_and(|first| first == room);
        sources.iter().any(|file| file.path.starts_with(house.at) && inside(file))
    };
    HOUSES
        .iter()
        .flat_map(|house| house.rooms.iter().map(move |room| (house, room)))
        .filter(|(house, room)| !is_there(house, room))
        .map(|(house, room)| format!("{}{room}: strike it off HOUSES", house.at))
        .collect()
}

/// Circles of files that name each other, one finding for each. A module and those inside it are one
/// family and may: circles are looked for between strangers.
pub(crate) fn circles(sources: &[SourceFile]) -> Vec<String> {
    HOUSES.iter().flat_map(|house| circles_in(house, sources)).collect()
}

fn circles_in(house: &House, sources: &[SourceFile]) -> Vec<String> {
    // The rooms of the core have rules of their own.
    let in_core = |file: &SourceFile| file.path.starts_with("gateway/src/core/");
    let files =
        sources.iter().filter(|file| file.path.starts_with(house.at) && !file.is_test() && !in_core(file));
    let files: BTreeMap<Vec<String>, &SourceFile> =
        files.map(|file| (file.module(), file)).filter(|(module, _)| !module.is_empty()).collect();
    let mut edges: BTreeMap<&[String], BTreeSet<&[String]>> = BTreeMap::new();
    for (module, file) in &files {
        let named = imports::paths(file);
        for named in named.iter().filter(|named| !named.test && named.segments[0] == "crate") {
            let path = &named.segments[1..];
            let Some((other, _)) = (1..=path.len()).rev().find_map(|end| files.get_key_value(&path[..end]))
            else {
                continue;
            };
            if !module.starts_with(other) && !other.starts_with(module) {
                edges.entry(module.as_slice()).or_default().insert(other.as_slice());
            }
        }
    }
    let mut found = BTreeSet::new();
    for start in edges.keys() {
        if let Some(mut circle) = way(&edges, start, start) {
            circle.sort_unstable();
            found.insert(format!("{}: {} name each other in a circle", house.at, circle.join(", ")));
        }
    }
    found.into_iter().collect()
}

/// The shortest way along the edges from `start` to `end`, if there is one.
fn way(
    edges: &BTreeMap<&[String], BTreeSet<&[String]>>,
    start: &[String],
    end: &[String],
) -> Option<Vec<String>> {
    let mut seen = BTreeSet::new();
    let mut ways = vec![vec![start]];
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            for &next in edges.get(way[way.len() - 1]).into_iter().flatten() {
                if next == end {
                    return Some(way.iter().map(|module| module.join("::")).collect());
                }
                if seen.insert(next) {
                    longer.push([way.as_slice(), &[next]].concat());
                }
            }
        }
        ways = longer;
    }
    None
}
