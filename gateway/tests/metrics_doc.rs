//! docs/metrics.md has the table of all metrics: made from the names in the code, and compared
//! here. `ROOST_UPDATE_DOCS=1 cargo test -p roost-gateway --test metrics_doc` writes it anew.
#![forbid(unsafe_code)]

use std::{env, fs, path::PathBuf};

use roost_gateway::metrics::names::{FAMILIES, Kind};
use roost_protocol::Reason;

const BEGIN: &str = "<!-- made from gateway/src/metrics/names.rs: begin -->\n";
const END: &str = "<!-- end -->\n";

fn table() -> String {
    let mut table = String::from("| name | kind | labels | meaning |\n|---|---|---|---|\n");
    for family in FAMILIES {
        let (kind, suffix) = match family.kind {
            Kind::Counter => ("counter", "_total"),
            Kind::Gauge => ("gauge", ""),
            Kind::Histogram => ("histogram", ""),
        };
        let labels: Vec<_> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let row =
            format!("| `{}{suffix}` | {kind} | {} | {} |\n", family.name, labels.join(", "), family.help);
        table.push_str(&row);
    }
    let reasons: Vec<_> = Reason::ALL.iter().map(|reason| format!("`{reason}`")).collect();
    table.push_str(&format!("\nValues of `reason`: {}.\n", reasons.join(", ")));
    table
}

#[test]
fn the_list_of_metrics_is_that_of_the_code() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the begin of the table");
    let (found, after) = rest.split_once(END).expect("the end of the table");
    let expected = table();
    if env::var_os("ROOST_UPDATE_DOCS").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{expected}{END}{after}")).unwrap();
        return;
    }
    assert_eq!(found, expected, "docs/metrics.md is behind the code; write it anew with ROOST_UPDATE_DOCS=1");
}

#[test]
fn the_queries_name_metrics_that_exist() {
    let text =
        fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md")).unwrap();
    let (before, after) = (text.split_once(BEGIN).unwrap().0, text.split_once(END).unwrap().1);
    let names: Vec<String> = FAMILIES
        .iter()
        .flat_map(|family| match family.kind {
            Kind::Counter => vec![format!("{}_total", family.name)],
            Kind::Gauge => vec![family.name.to_owned()],
            Kind::Histogram => ["_bucket", "_sum", "_count"].map(|end| family.name.to_owned() + end).to_vec(),
        })
        .collect();
    let words = before.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let words = words.chain(after.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'));
    let used: Vec<_> =
        words.filter(|word| word.starts_with("roost_") || word.starts_with("process_")).collect();
    assert!(used.len() >= 10, "{used:?}");
    for word in used {
        assert!(names.iter().any(|name| name == word), "{word} is no metric");
    }
}
