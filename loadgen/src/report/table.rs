//! The result as a table for a terminal.

use std::{collections::BTreeMap, fmt::Write};

use super::result::{Percentiles, RunResult};

/// The table, with a verdict as its last lines.
pub fn render(result: &RunResult) -> String {
    let mut table = Table::default();
    let held = |count: Option<u64>| count.map_or_else(|| "not reached".to_owned(), |count| count.to_string());
    table.row(
        "connections",
        format!("{} requested, {} held", result.connections_requested, held(result.connections_held)),
    );
    table.row(
        "lowest while held",
        format!("{} for {:.0} s", held(result.connections_held_min), result.held_s),
    );
    table.row("connects failed", by_name(result.connect_failed, &result.connect_failed_by_error));
    table.row("refused", by_name(result.refused.values().sum(), &result.refused));
    table.row("disconnected", by_name(result.disconnected.values().sum(), &result.disconnected));
    let heartbeats = &result.heartbeats;
    table.row(
        "heartbeats",
        format!("{} due, {} sent, {} answered", heartbeats.due, heartbeats.sent, heartbeats.answered),
    );
    table.row("messages", format!("{} sent, {} received", result.messages_sent, result.messages_received));
    table.row(
        "checked",
        format!(
            "{} lost, {} duplicated, {} reordered, {} misdelivered, {} corrupted",
            result.lost, result.duplicated, result.reordered, result.misdelivered, result.corrupted
        ),
    );
    if let Some(check) = result.final_check {
        table.row(
            "final check",
            format!("{} of {} clients got their message back", check.answered, check.clients),
        );
    }
    table.row("latency", percentiles(result.latency_us, "from the intended send"));
    table.row("  uncorrected", percentiles(result.latency_uncorrected_us, "from the actual send"));
    table.row("  send lag", percentiles(result.send_lag_us, "how late the generator was"));
    table.row("session opening", percentiles(result.open_latency_us, "from connect to WELCOME"));
    let gateway = &result.gateway;
    table.row("gateway user memory", figure(gateway.user_bytes_per_connection, "bytes per connection"));
    table.row("gateway kernel memory", figure(gateway.kernel_bytes_per_connection, "bytes per connection"));
    table.row(
        "gateway CPU",
        format!(
            "{}, {} with heartbeats",
            figure(gateway.cpu_s_per_million_messages, "s per million messages"),
            figure(gateway.cpu_s_per_million_exchanges, "s")
        ),
    );
    table.row(
        "gateway descriptors",
        gateway.open_fds.map_or_else(|| NOT_READ.to_owned(), |fds| fds.to_string()),
    );
    table.row(
        "worker",
        format!(
            "{}, {} messages handled",
            figure(result.worker.user_bytes_per_connection, "bytes per connection"),
            result.worker.messages_handled.map_or_else(|| NOT_READ.to_owned(), |count| count.to_string())
        ),
    );
    let generator = &result.generator;
    table.row(
        "generator",
        format!(
            "{:.0} bytes per client, {} per connect, {} per message or heartbeat",
            generator.user_bytes_per_client,
            figure(generator.cpu_us_per_connection, "us CPU"),
            figure(generator.cpu_us_per_exchange, "us CPU")
        ),
    );
    for (name, value) in &result.extra {
        table.row(&name.replace('_', " "), value.to_string());
    }
    let mut text = table.text;
    let _ = writeln!(text, "clients: {}", generator.clients_are);
    match &generator.limited_because {
        Some(why) => writeln!(text, "limit:   the GENERATOR, not the server: {why}"),
        None => writeln!(text, "limit:   the generator kept its schedule"),
    }
    .expect("a string takes all");
    if result.failures.is_empty() {
        text += "verdict: clean\n";
    }
    for failure in &result.failures {
        let _ = writeln!(text, "verdict: FAILED: {failure}");
    }
    text
}

const NOT_READ: &str = "not read";

#[derive(Default)]
struct Table {
    text: String,
}

impl Table {
    fn row(&mut self, name: &str, value: String) {
        writeln!(self.text, "  {name:<22} {value}").expect("a string takes all");
    }
}

fn by_name(total: u64, names: &BTreeMap<String, u64>) -> String {
    let parts: Vec<_> = names.iter().map(|(name, count)| format!("{count} {name}")).collect();
    if parts.is_empty() { total.to_string() } else { format!("{total} ({})", parts.join(", ")) }
}

fn figure(value: Option<f64>, unit: &str) -> String {
    match value {
        None => format!("{NOT_READ} ({unit})"),
        Some(value) if value.abs() >= 100.0 => format!("{value:.0} {unit}"),
        Some(value) => format!("{value:.1} {unit}"),
    }
}

fn percentiles(percentiles: Option<Percentiles>, what: &str) -> String {
    percentiles.map_or_else(
        || "none timed".to_owned(),
        |p| format!("p50 {} us, p99 {} us, p99.9 {} us, max {} us ({what})", p.p50, p.p99, p.p999, p.max),
    )
}
