//! Replays the committed fuzz corpus, so that what fuzzing once found stays found.

use std::{fs, path::Path};

use roost_protocol::link::LinkType;

use crate::bodies::{self, Seen};

/// Replays a corpus; gives how many inputs it has and all that they reached.
fn replay(name: &str, body: fn(&[u8]) -> Seen) -> (usize, Seen) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut seen = Seen::new();
    let mut count = 0;
    for entry in fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
        let path = entry.unwrap().path();
        let input = fs::read(&path).unwrap();
        let result = std::panic::catch_unwind(|| body(&input));
        seen.extend(result.unwrap_or_else(|_| panic!("{} fails", path.display())));
        count += 1;
    }
    (count, seen)
}

#[test]
fn edge_corpus_reaches_every_type_and_error() {
    let (count, seen) = replay("edge", bodies::edge);
    let types = ["Hello", "Welcome", "Message", "Ping", "Pong", "Goaway", "Close"];
    let errors = ["ReservedBits", "UnknownType", "Oversize", "Malformed", "Version"];
    let all: Seen = types.iter().chain(&errors).map(ToString::to_string).collect();
    assert_eq!(seen, all, "from {count} inputs");
}

#[test]
fn link_corpus_reaches_every_type_and_error() {
    let (count, seen) = replay("link", bodies::link);
    let errors = ["UnknownType", "ReservedFlags", "Oversize", "Malformed", "Version"];
    let types = LinkType::ALL.iter().map(|link_type| format!("{link_type:?}"));
    let all: Seen = types.chain(errors.iter().map(ToString::to_string)).collect();
    assert_eq!(seen, all, "from {count} inputs");
}
