//! The checks tried on samples: what they must find, and what they must not.

use crate::{
    Finding, core_rooms, imports,
    policy::{self, FILE_LINES_MAX},
    rooms,
    source::{SourceFile, Token},
    unsafety,
};

fn rules(findings: &[Finding]) -> Vec<&str> {
    findings.iter().map(|finding| finding.rule.as_str()).collect()
}

fn imports_of(path: &str, text: &str) -> Vec<String> {
    let file = SourceFile::new(path, text);
    rules(&imports::check(&file)).into_iter().map(str::to_owned).collect()
}

const CORE: &str = "gateway/src/core/link/window.rs";

#[test]
fn a_forbidden_import_is_found_however_it_is_written() {
    for text in [
        "use crate::ring::Ring;",
        "use crate::{op::Op, ring::Ring};",
        "pub(crate) use crate::{core::{self, Table}, shard as other};",
        "use super::super::super::ring::Ring;",
        "fn f() { crate::ring::detect() }",
        "use tokio::net::TcpStream as S;",
        "use ::rustix::io;",
        "fn f() -> libc::c_int { 0 }",
        "use std::{time::Instant};",
        "use std::{collections::VecDeque, fs};",
        "fn f() { std::thread::yield_now() }",
        "fn f() { println!(\"{}\", 1) }",
        "mod inner { use super::super::super::super::config::Config; }",
        "use roost_loadgen::run;",
    ] {
        assert!(!imports_of(CORE, text).is_empty(), "not found: {text}");
    }
}

#[test]
fn what_is_allowed_is_not_reported() {
    for text in [
        "use crate::{core::{Table, pool::Pool}, op::{Io, Op}};",
        "use super::super::outbox::Outbox;",
        "use std::{collections::VecDeque, net::SocketAddr, time::Duration}; use bytes::Bytes;",
        "use roost_protocol::{edge, link::Frame}; fn f() { edge::encode(); Frame::new(); u32::MAX; }",
        "// use crate::ring::Ring;\n/* use libc::c_int; /* nested */ std::fs::read */",
        "const TEXT: &str = \"use crate::ring::Ring; std::fs\"; const R: &str = r#\"libc::x\"#;",
        "#[cfg(test)] mod tests { use proptest::prelude::*; use std::time::Instant; use crate::sim::Fake; }",
        "fn f(x: &Y) -> bool { x.stdout }",
        "use std::mem; fn f() { mem::take(&mut 1); core::mem::swap(); }",
        "fn f() { size_of::<u8>(); x.collect::<Vec<_>>(); }\n#[allow(clippy::cast_possible_wrap)] fn g() {}",
        "fn f<'a>(x: &'a str) -> char { 'u' }",
    ] {
        assert_eq!(imports_of(CORE, text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn a_test_region_ends_with_its_item() {
    let text = "#[cfg(test)] use std::fs; #[cfg(test)] mod tests { fn f() { std::fs::x() } }\nuse std::fs;";
    assert_eq!(imports_of(CORE, text).len(), 1);
    assert_eq!(imports_of(CORE, "#[cfg(not(test))] use std::fs;").len(), 1);
}

#[test]
fn crates_that_must_not_know_each_other() {
    assert_eq!(
        imports_of("router/src/lib.rs", "use roost_gateway::core;"),
        ["router/src/ must not know roost_gateway"]
    );
    assert_eq!(imports_of("loadgen/src/a/b.rs", "fn f() { roost_router::x::y() }").len(), 1);
    assert_eq!(imports_of("loadgen/src/a/b.rs", "use roost_protocol::edge;").len(), 0);
    assert_eq!(imports_of("ring/src/a.rs", "use roost_gateway::core::Table;").len(), 2);
    assert_eq!(imports_of("ring/src/op/a.rs", "use crate::ring::Ring;").len(), 1);
}

#[test]
fn use_trees_and_relative_paths_are_resolved() {
    let text = "use super::{a, b::{self, c as d}, *};\nuse self::e::f;";
    let file = SourceFile::new("gateway/src/core/link/mod.rs", text);
    let found: Vec<String> = imports::paths(&file).iter().map(|named| named.segments.join("::")).collect();
    assert_eq!(
        found,
        [
            "crate::core::a",
            "crate::core::b::self",
            "crate::core::b::c",
            "crate::core",
            "crate::core::link::e::f"
        ]
    );
}

#[test]
fn unsafe_is_found_outside_its_places_and_without_an_argument() {
    let check = |path: &str, text: &str| unsafety::check(&SourceFile::new(path, text)).len();
    let ring = "ring/src/ring.rs";
    assert_eq!(check("gateway/src/core/mod.rs", "fn f() {\n// SAFETY: no.\nunsafe { g() } }"), 1);
    assert_eq!(check("router/src/lib.rs", "unsafe impl Send for X {}"), 2);
    assert_eq!(check(ring, "fn f() { unsafe { g() } }"), 1);
    assert_eq!(check(ring, "fn f() {\n    // SAFETY: g has no rules.\n    unsafe { g() }\n}"), 0);
    assert_eq!(
        check(
            ring,
            "fn f() {\n    // SAFETY: stands above\n    // and goes on.\n    let x =\n        unsafe { g() };\n}"
        ),
        0
    );
    assert_eq!(check(ring, "fn f() {\n    // SAFETY: of another.\n    h();\n    unsafe { g() };\n}"), 1);
    assert_eq!(check(ring, "// SAFETY: X is a number.\n#[rustfmt::skip]\nunsafe impl Send for X {}"), 0);
    assert_eq!(check(ring, "unsafe fn f() {}"), 1);
    assert_eq!(check(ring, "/// # Safety\n/// None.\nunsafe fn f() {}"), 0);
    assert_eq!(check("loadgen/src/run.rs", "// unsafe { }\nconst A: &str = \"unsafe { }\";"), 0);
    assert_eq!(check("gateway/tests/x.rs", "fn f() { unsafe { g() } }"), 1);
}

#[test]
fn lint_levels_are_checked() {
    let root = |path: &str, text: &str| unsafety::check_root(&SourceFile::new(path, text)).len();
    assert_eq!(root("router/src/lib.rs", "//! x\n#![forbid(unsafe_code)]\n"), 0);
    assert_eq!(root("router/src/lib.rs", "#![deny(unsafe_code)]"), 1);
    assert_eq!(root("router/src/lib.rs", "// #![forbid(unsafe_code)]"), 1);
    assert_eq!(root("router/src/lib.rs", "#[forbid(unsafe_code)] mod x;"), 1);
    assert_eq!(root("router/src/other.rs", ""), 0);
    assert_eq!(root("ring/src/lib.rs", "#![deny(unsafe_code)]"), 0);
    assert_eq!(root("gateway/src/lib.rs", "#![deny(unsafe_code)]"), 1);
    assert_eq!(root("loadgen/src/main.rs", "#![deny(unsafe_code)]"), 1);
    assert_eq!(root("protocol/src/bin/tool.rs", ""), 1);

    let allow = |path: &str, text: &str| unsafety::check(&SourceFile::new(path, text)).len();
    assert_eq!(allow("ring/src/lib.rs", "#[allow(unsafe_code)]\nmod ring;"), 0);
    assert_eq!(allow("ring/src/lib.rs", "#[allow(unsafe_code)]\npub mod op;"), 1);
    assert_eq!(allow("gateway/src/admin/mod.rs", "#![allow(unsafe_code)]"), 1);
}

#[test]
fn a_room_that_names_one_above_it_is_found() {
    let found = |path: &str, text: &str| rules(&rooms::check(&SourceFile::new(path, text))).join("; ");
    let session = "router/src/session/marks.rs";
    assert_eq!(found(session, "use crate::id::LinkId; use super::Position;"), "");
    assert_eq!(
        found(session, "use crate::{id::LinkId, core::Handler};"),
        "session stands below core and must not name it"
    );
    assert!(!found(session, "use super::super::server::Worker;").is_empty());
    assert!(!found(session, "fn f() { crate::server::serve() }").is_empty());
    assert_eq!(found(session, "use crate::LinkId;"), "crate::LinkId: name it by its room");
    assert_eq!(found(session, "#[cfg(test)] mod tests { use crate::server::Worker; }"), "");
    assert!(!found("loadgen/src/progress.rs", "use crate::run::Point;").is_empty());
    assert!(!found("gateway/src/preflight/start.rs", "use crate::run;").is_empty());
    assert_eq!(found("gateway/src/new/mod.rs", ""), "gateway/src/new has no place in HOUSES");
    assert_eq!(found("router/src/main.rs", "use roost_router::shell;"), "");
}

#[test]
fn a_door_lets_only_its_items_through() {
    let found = |text: &str| rooms::check(&SourceFile::new("gateway/src/config/check.rs", text)).len();
    assert_eq!(found("use crate::ring::FeaturesMax; use crate::ring::{RING_SLOTS_MAX};"), 0);
    assert_eq!(found("use crate::ring::{FeaturesMax, UringDriver};"), 1);
    assert_eq!(found("use crate::ring; fn f() -> u32 { ring::RING_SLOTS_MAX }"), 1);
    assert_eq!(found("use roost_ring::UringDriver; use roost_protocol::edge;"), 1);
}

#[test]
fn a_circle_of_files_is_found() {
    let circles = |files: &[(&str, &str)]| {
        let files: Vec<_> = files.iter().map(|(path, text)| SourceFile::new(path, text)).collect();
        rooms::circles(&files)
    };
    let names = |name: &str| format!("use super::{name}::X;");
    let two = [
        ("router/src/core/a.rs", &*names("b")),
        ("router/src/core/b.rs", "use crate::core::{c::Y, a::X};"),
        ("router/src/core/c.rs", ""),
    ];
    assert_eq!(circles(&two), ["router/src/: core::a, core::b name each other in a circle"]);
    let three = [two[0], ("router/src/core/b.rs", &*names("c")), ("router/src/core/c.rs", "use super::a;")];
    assert_eq!(circles(&three), ["router/src/: core::a, core::b, core::c name each other in a circle"]);
    assert!(
        circles(&[two[0], ("router/src/core/b.rs", "#[cfg(test)] mod tests { use crate::core::a::X; }")])
            .is_empty()
    );
    assert!(
        circles(&[("router/src/core/mod.rs", "use a::X;"), ("router/src/core/a.rs", "use super::Core;")])
            .is_empty()
    );
}

#[test]
fn a_file_of_a_stranger_is_found() {
    let found = |path: &str, text: &str| policy::check_included(&SourceFile::new(path, text)).len();
    let page = "const A: &str = include_str!(\"../../../gateway/assets/plot.js\");";
    assert_eq!(found("loadgen/src/report/html.rs", page), 1);
    assert_eq!(found("gateway/src/admin/routes.rs", page), 0);
    assert_eq!(found("loadgen/src/report/html.rs", "include_str!(\"../../../protocol/assets/plot.js\")"), 0);
    assert_eq!(found("loadgen/src/report/html.rs", "f(\"../../../gateway/assets/plot.js\")"), 0);
}

#[test]
fn a_macro_that_prints_is_found() {
    let found = |path: &str, text: &str| policy::check_output(&SourceFile::new(path, text)).len();
    for path in ["gateway/src/run/mod.rs", "router/src/main.rs", "loadgen/src/app.rs", "protocol/src/lib.rs"]
    {
        assert_eq!(found(path, "fn f() { println!(\"x\"); std::eprint!(\"x\"); dbg!(1); }"), 3, "{path}");
    }
    assert_eq!(
        found("router/src/main.rs", "fn f() { x.print(); print(1); writeln!(y, \"print!\"); } // print!(1)"),
        0
    );
    assert_eq!(found("router/src/main.rs", "#[cfg(test)] mod tests { fn f() { println!(\"x\"); } }"), 0);
    for path in ["router/examples/flood.rs", "gateway/tests/x.rs", "gateway/src/sim/run.rs"] {
        assert_eq!(found(path, "fn f() { println!(\"x\") }"), 0, "{path}");
    }
}

#[test]
fn a_long_file_is_found() {
    let text = "//\n".repeat(FILE_LINES_MAX + 1);
    assert_eq!(policy::check_length(&SourceFile::new("gateway/src/x.rs", &text)).len(), 1);
    let text = "//\n".repeat(FILE_LINES_MAX);
    assert_eq!(policy::check_length(&SourceFile::new("gateway/src/x.rs", &text)).len(), 0);
}

#[test]
fn literals_and_comments_are_no_code() {
    let text = "let a = b'\\''; let b = br##\"unsafe \"# \"##; let c = 'x'; let d: &'static str = \"\\\"unsafe\"; // unsafe\n\
                let e = 1..2; let f = 0x1f_u32; let r#type = c\"unsafe\"; /* unsafe */ end";
    let file = SourceFile::new("x/src/y.rs", text);
    assert!(!file.has_unsafe());
    assert_eq!(file.tokens.last(), Some(&(Token::Word("end".to_owned()), 2)));
}

#[test]
fn a_border_within_the_core_is_held_against_imports_and_calls() {
    let found = |path: &str, text: &str| {
        let file = SourceFile::new(&format!("gateway/src/core/{path}"), text);
        rules(&core_rooms::check(&file)).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    // Two mutations of the real rooms: an import, and a call by its path.
    assert_eq!(
        found("link/attend.rs", "use crate::{core::{connection::Connections, context::Context}, op::Io};"),
        ["core::link and core::connection must not know each other"]
    );
    assert_eq!(
        found("connection/close.rs", "fn f() { crate::core::routing::Routing::flush(); }"),
        ["core::connection stands below core::routing and must not name it"]
    );
    for (path, text) in [
        ("link/rx.rs", "use crate::core::record::flag;"),
        ("link/rx.rs", "use super::super::routing::Routing;"),
        ("routing/mod.rs", "use crate::core::{ShardCore, link::Links};"),
        ("connection/mod.rs", "fn f(links: &mut crate::core::link::Links) {}"),
        ("pool.rs", "use crate::core::context::Context;"),
        ("nook/mod.rs", "// nothing"),
    ] {
        assert_eq!(found(path, text).len(), 1, "{path}: {text}");
    }
    for (path, text) in [
        (
            "routing/moves.rs",
            "use crate::core::{connection::Connections, link::{self, Piece}, record::flag};",
        ),
        ("link/rx.rs", "use super::{Link, state::kind}; use crate::core::{CoreConfig, pool::Class};"),
        ("connection/mod.rs", "#[cfg(test)] mod tests { use crate::core::link::Links; }"),
        ("tests/tx.rs", "use crate::core::{link::tx::TxQueue, connection::Connections};"),
        ("mod.rs", "pub use shard::ShardCore;"),
        ("shard/mod.rs", "use crate::core::{connection::Connections, link, routing::Routing};"),
    ] {
        assert_eq!(found(path, text), Vec::<String>::new(), "{path}");
    }
}
