//! The lines for people.

use std::{fmt::Write as _, net::SocketAddr};

use super::{Capacity, Demand, Machine};
use crate::config::{Config, Loaded};

/// What was found out about the kernel's io_uring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kernel {
    /// One line: the tier and what it means.
    pub(super) summary: String,
    /// A line per feature.
    pub(super) findings: Vec<String>,
    /// Whether clients take no file descriptors.
    pub(super) direct: bool,
}

/// Who is where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses<'a> {
    /// Where clients connect, as bound.
    pub(super) clients: &'a [SocketAddr],
    /// Where the page and the metrics are, as bound.
    pub(super) admin: &'a [SocketAddr],
    /// The workers as configured; none: one runs inside.
    pub(super) workers: &'a [String],
}

/// The lines at start: where it listens, what the kernel has, what the machine can hold and what
/// limits that.
pub(super) fn banner(
    config: &Config,
    kernel: &str,
    connections_max: u32,
    capacity: &Capacity,
    addresses: &Addresses<'_>,
) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "roost-gateway {}", env!("CARGO_PKG_VERSION"));
    let _ = writeln!(text, "  clients    {}", joined(addresses.clients));
    let workers = if addresses.workers.is_empty() {
        format!("one inside ({})", config.embedded_handler)
    } else {
        joined(addresses.workers)
    };
    let _ = writeln!(text, "  workers    {workers}");
    if let [first, ..] = addresses.admin {
        let _ = writeln!(text, "  page       http://{first}/ (metrics at /metrics)");
    }
    let _ = writeln!(text, "  kernel     {kernel}");
    let holds = grouped(connections_max.into());
    let limit = match capacity.wanted {
        Some(wanted) if capacity.suffices() => format!("connections_max = {wanted}"),
        _ => capacity.limits[0].name.clone(),
    };
    let _ = writeln!(text, "  capacity   {holds} connections, limited by {limit}");
    for warning in &capacity.warnings {
        let _ = writeln!(text, "  note       {warning}");
    }
    text
}

/// The output of `roost-gateway check`, and whether all is well.
pub(super) fn check(loaded: &Loaded, machine: &Machine, kernel: &Result<Kernel, String>) -> (String, bool) {
    let mut text = String::new();
    let _ = writeln!(text, "# configuration\n{}", loaded.to_toml());
    for warning in &loaded.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    let kernel = match kernel {
        Ok(kernel) => kernel,
        Err(refusal) => {
            let _ = writeln!(text, "# kernel {}\n{refusal}\n", machine.kernel);
            let _ = writeln!(text, "not ok: the gateway would not start here");
            return (text, false);
        }
    };
    let _ = writeln!(text, "# kernel {}\n{}", machine.kernel, kernel.summary);
    for finding in &kernel.findings {
        let _ = writeln!(text, "  {finding}");
    }
    let demand = Demand::of(&loaded.config, machine.cores, kernel.direct);
    let capacity = Capacity::of(machine, &demand);
    let _ = writeln!(text, "\n# capacity\n{}", capacity_line(&capacity));
    let _ = writeln!(text, "  {:>12}  limit; how to lift it", "connections");
    for limit in &capacity.limits {
        let _ = writeln!(text, "  {:>12}  {}; {}", grouped(limit.connections), limit.name, limit.lift);
    }
    let _ = writeln!(text, "  A load generator on the same machine takes as much memory again.");
    for warning in &capacity.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    text.push_str(&advice(&loaded.config, demand.shards, &capacity));
    let _ = writeln!(text, "\n{}", verdict(&capacity));
    (text, capacity.suffices())
}

fn capacity_line(capacity: &Capacity) -> String {
    let tightest = &capacity.limits[0];
    let reachable = grouped(capacity.reachable());
    match capacity.wanted {
        Some(wanted) => format!(
            "{} connections wanted; this machine can hold {reachable}, limited by {}",
            grouped(wanted),
            tightest.name
        ),
        None => format!("{reachable} connections, limited by {}", tightest.name),
    }
}

fn verdict(capacity: &Capacity) -> String {
    let tightest = &capacity.limits[0];
    match capacity.wanted {
        Some(wanted) if !capacity.suffices() => format!(
            "not ok: connections_max = {wanted} cannot be reached, {} allows {}; {}",
            tightest.name, tightest.connections, tightest.lift
        ),
        _ => format!("ok: {} connections can be held", grouped(capacity.connections())),
    }
}

/// Values for the limits that are off by default, as a start.
fn advice(config: &Config, shards: u64, capacity: &Capacity) -> String {
    let connections = capacity.connections().min(capacity.reachable());
    let mut text = String::new();
    let mut say = |key: &str, value: u64, why: &str| {
        if text.is_empty() {
            text.push_str("\n# limits that are off; a start for a gateway on the internet\n");
        }
        let _ = writeln!(text, "{:<32} # {why}", format!("{key} = {value}"));
    };
    if config.per_ip_max == 0 {
        let share = (connections / 100).clamp(50, 10_000);
        say(
            "per_ip_max",
            share,
            "1% of the capacity, so that no address takes it all; carriers share addresses",
        );
    }
    if config.accept_ramp_per_s == 0 {
        say(
            "accept_ramp_per_s",
            5_000 * shards,
            "5,000 per shard leaves a core most of its time for traffic",
        );
    }
    if config.messages_per_s_max == 0 {
        say("messages_per_s_max", 50, "more than a person causes; measure your own clients");
    }
    text
}

fn joined<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// `1234567` as `1,234,567`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Addresses, Kernel, banner, check, grouped};
    use crate::{
        config::{Environment, Loaded, Options, load},
        preflight::{Capacity, Demand, Machine},
    };

    fn loaded(setting: &[(&str, &str)]) -> Loaded {
        let set = setting.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
        load(&Options { set, ..Options::default() }, &Environment::default()).unwrap()
    }

    fn machine() -> Machine {
        Machine {
            kernel: "6.18".to_owned(),
            cores: 2,
            nofile_soft: 20_000,
            nofile_hard: 20_000,
            memory_bytes: Some(4 << 30),
            memory_free_bytes: Some(3 << 30),
            ..Machine::default()
        }
    }

    fn kernel() -> Kernel {
        Kernel { summary: "io_uring tier direct".to_owned(), findings: vec!["one".to_owned()], direct: true }
    }

    fn checked(setting: &[(&str, &str)]) -> (String, bool) {
        check(&loaded(setting), &machine(), &Ok(kernel()))
    }

    #[test]
    fn check_passes_what_fits_and_fails_what_does_not() {
        let (text, ok) = checked(&[("connections_max", "100000")]);
        assert!(ok && text.ends_with("ok: 100,000 connections can be held\n"), "{text}");
        assert!(
            text.contains("connections_max = 100000 ") && text.contains("# --set connections_max"),
            "{text}"
        );
        let (text, ok) = checked(&[("connections_max", "2000000")]);
        assert!(
            !ok && text.contains("not ok: connections_max = 2000000 cannot be reached, memory, "),
            "{text}"
        );
    }

    #[test]
    fn check_recommends_only_limits_that_are_off() {
        let (text, _) = checked(&[("per_ip_max", "7")]);
        assert!(!text.contains("per_ip_max = 50") && text.contains("accept_ramp_per_s = 10000"), "{text}");
        let (text, _) =
            checked(&[("per_ip_max", "7"), ("accept_ramp_per_s", "1"), ("messages_per_s_max", "1")]);
        assert!(!text.contains("limits that are off"), "{text}");
    }

    #[test]
    fn check_fails_where_io_uring_is_refused_and_says_why() {
        let (text, ok) = check(&loaded(&[]), &machine(), &Err("io_uring is refused: seccomp".to_owned()));
        assert!(!ok && text.contains("seccomp") && text.ends_with("would not start here\n"), "{text}");
    }

    #[test]
    fn the_banner_says_where_what_and_how_much() {
        let loaded = loaded(&[]);
        let capacity = Capacity::of(&machine(), &Demand::of(&loaded.config, 2, true));
        let (clients, admin) = (["127.0.0.1:7400".parse().unwrap()], ["127.0.0.1:7401".parse().unwrap()]);
        let addresses = Addresses { clients: &clients, admin: &admin, workers: &[] };
        let text = banner(&loaded.config, "6.18: tier direct", 12_345, &capacity, &addresses);
        for part in [
            "127.0.0.1:7400",
            "one inside (echo)",
            "http://127.0.0.1:7401/",
            "tier direct",
            "limited by memory",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
