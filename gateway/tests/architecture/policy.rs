//! What is allowed where. Change it only together with the design.

use crate::{
    Finding,
    imports::test_regions,
    source::{SourceFile, Token},
};

/// A part of the workspace with rules about what it may name.
pub(crate) struct Layer {
    /// Path prefix of its files.
    pub(crate) at: &'static str,
    /// Crates it may name, besides `core`, `alloc` and macros of the prelude.
    pub(crate) crates: &'static [&'static str],
    /// Modules of its own crate it may name.
    pub(crate) modules: &'static [&'static str],
    /// No descriptor, clock, randomness, thread or process.
    pub(crate) pure: bool,
}

/// The layers of the design. Tests within them may use more crates, but are as pure.
pub(crate) const LAYERS: &[Layer] = &[
    Layer {
        at: "protocol/src/",
        crates: &["std", "bytemuck", "bytes", "hmac", "sha2", "thiserror"],
        modules: &["auth", "edge", "hash", "id", "link", "reason", "wire"],
        pure: true,
    },
    Layer { at: "ring/src/op/", crates: &["std"], modules: &["op"], pure: true },
    Layer {
        at: "gateway/src/core/",
        // ipnet is a plain value, an address and a prefix length.
        crates: &["std", "bytes", "bytemuck", "ipnet", "roost_protocol"],
        modules: &["op", "core"],
        pure: true,
    },
    Layer {
        at: "ring/src/",
        // thiserror only for what it derives.
        crates: &["std", "io_uring", "rustix", "libc", "thiserror"],
        modules: &[
            "accept",
            "addresses",
            "bank",
            "busy_poll",
            "connect",
            "driver",
            "error",
            "features",
            "fit",
            "in_flight",
            "links",
            "memory",
            "op",
            "ring",
            "sockets",
            "sqe",
            "trial",
        ],
        pure: false,
    },
    Layer {
        at: "gateway/src/event_loop/",
        crates: &["std", "bytes", "crossbeam_channel", "rustix", "roost_protocol", "tracing"],
        modules: &["op", "core", "ring", "event_loop"],
        pure: false,
    },
];

/// Crates that must not know each other at all: (path prefix, crates that it may not name).
pub(crate) const STRANGERS: &[(&str, &[&str])] = &[
    ("protocol/", &["roost_gateway", "roost_ring", "roost_router", "roost_loadgen"]),
    ("ring/src/", &["roost_gateway", "roost_router", "roost_loadgen", "roost_protocol"]),
    ("router/src/", &["roost_gateway", "roost_loadgen"]),
    ("loadgen/src/", &["roost_gateway", "roost_router"]),
    ("gateway/src/", &["roost_loadgen"]),
];

/// What a pure layer may not name: paths below `std`, and names wherever they come from.
pub(crate) const IMPURE_STD: &[&str] = &["fs", "thread", "process", "env", "os"];
/// Names that mean a clock, a socket, randomness or output.
pub(crate) const IMPURE_NAMES: &[&str] = &[
    "Instant",
    "SystemTime",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "RandomState",
    "stdin",
    "stdout",
    "stderr",
    "println",
    "eprintln",
    "print",
    "eprint",
    "dbg",
    "thread_local",
];

/// The only places where `unsafe` may stand in programs: the ring driver, and the system calls that
/// make a TUN device.
pub(crate) const UNSAFE_PLACES: &[&str] = &[
    "ring/src/accept.rs",
    "ring/src/bank.rs",
    "ring/src/connect.rs",
    "ring/src/driver.rs",
    "ring/src/memory.rs",
    "ring/src/ring.rs",
    "ring/src/sqe.rs",
    "ring/src/teardown.rs",
    "ring/src/trial.rs",
    "loadgen/src/tun/sys.rs",
];

/// Macros that panic where nobody reads, and wait where somebody reads slowly: programs say what
/// they have to say by `roost_router::shell` and `roost_loadgen::say`.
pub(crate) const PANICKING_OUTPUT: &[&str] = &["print", "println", "eprint", "eprintln", "dbg"];
/// Where they may stand in what ships: tools for whoever looks for a failure of a simulation.
pub(crate) const PANICKING_OUTPUT_PLACES: &[&str] = &["gateway/src/sim/"];

/// Checks that nothing that ships prints by a macro, test code and examples left aside.
pub(crate) fn check_output(file: &SourceFile) -> Vec<Finding> {
    let ships = file.path.split('/').nth(1) == Some("src");
    if !ships || PANICKING_OUTPUT_PLACES.iter().any(|place| file.path.starts_with(place)) {
        return Vec::new();
    }
    let tests = test_regions(file);
    let words = file.tokens.iter().enumerate().zip(file.tokens.iter().skip(1));
    words
        .filter(|((index, (token, _)), (next, _))| {
            let macro_name = token.word().is_some_and(|word| PANICKING_OUTPUT.contains(&word));
            macro_name && *next == Token::Mark('!') && !tests[*index]
        })
        .map(|((_, (token, line)), _)| {
            Finding::new(file, *line, format!("{}! outside tests", token.word().unwrap_or_default()))
        })
        .collect()
}

/// Folders whose files every crate may take in: the one of the crate that all of them know.
pub(crate) const SHARED_FILES: &[&str] = &["protocol/"];

/// Checks that files taken in by `include_str!` and its like are of the own crate, or shared.
pub(crate) fn check_included(file: &SourceFile) -> Vec<Finding> {
    let own = file.path.split('/').next().unwrap_or_default();
    let mut findings = Vec::new();
    for (index, text) in &file.strings {
        let macro_name = index.checked_sub(3).and_then(|at| file.tokens[at].0.word());
        if file.is_test() || !macro_name.is_some_and(|name| name.starts_with("include")) {
            continue;
        }
        let mut taken: Vec<&str> = file.path.split('/').collect();
        taken.pop();
        for part in text.split('/') {
            match part {
                ".." => drop(taken.pop()),
                "." => {}
                part => taken.push(part),
            }
        }
        let taken = taken.join("/");
        if taken.split('/').next() != Some(own) && !SHARED_FILES.iter().any(|at| taken.starts_with(at)) {
            findings.push(Finding::new(
                file,
                file.tokens[*index].1,
                format!("{own} must not take in {taken}"),
            ));
        }
    }
    findings
}

/// Lines after which a file should have been split by concept.
pub(crate) const FILE_LINES_MAX: usize = 500;
/// Longer files, and why.
pub(crate) const LONG_FILES: &[(&str, &str)] = &[];

/// Checks the length of a file.
pub(crate) fn check_length(file: &SourceFile) -> Vec<Finding> {
    let lines = file.lines;
    if lines <= FILE_LINES_MAX || LONG_FILES.iter().any(|(path, _)| *path == file.path) {
        return Vec::new();
    }
    vec![Finding::new(file, lines, format!("{lines} lines, more than {FILE_LINES_MAX}: split it by concept"))]
}
