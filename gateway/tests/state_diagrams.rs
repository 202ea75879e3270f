//! docs/architecture.md has diagrams of what states may become: made from tables of transitions, and
//! compared here. `ROOST_UPDATE_DOCS=1 cargo test -p roost-gateway --test state_diagrams` writes it anew.
#![forbid(unsafe_code)]

use std::{env, fs, path::PathBuf};

use roost_gateway::core::{connection::lifecycle, link, transitions::diagram};

fn document() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/architecture.md")
}

/// The diagrams by the name of their marks. One test for all: two would race for the file.
#[test]
fn the_diagrams_are_those_of_the_tables() {
    let diagrams = [
        ("connection states", diagram(&lifecycle::TRANSITIONS)),
        ("link states", diagram(&link::TRANSITIONS)),
    ];
    for (name, expected) in diagrams {
        let (begin, end) = (format!("<!-- {name}: begin -->\n"), format!("<!-- {name}: end -->\n"));
        let text = fs::read_to_string(document()).expect("docs/architecture.md");
        let (before, rest) = text.split_once(&begin).expect("the begin of the diagram");
        let (found, after) = rest.split_once(&end).expect("the end of the diagram");
        if env::var_os("ROOST_UPDATE_DOCS").is_some() {
            let text = format!("{before}{begin}{expected}{end}{after}");
            fs::write(document(), text).expect("docs/architecture.md can be written");
        } else {
            assert_eq!(found, expected, "docs/architecture.md is behind: run this with ROOST_UPDATE_DOCS=1");
        }
    }
}
