//! The lines for people.

use std::{fmt::Write as _, net::SocketAddr};

use super::{Capacity, Limit, Weighed, start::Findings};
use crate::config::{Config, Loaded};

/// What was found out about the kernel's io_uring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Kernel {
    /// One line: the tier and what it means.
    pub(super) summary: String,
    /// A line per feature.
    pub(super) findings: Vec<String>,
}

/// What `check` has found.
#[derive(Debug)]
pub(super) struct Seen<'a> {
    pub(super) loaded: &'a Loaded,
    /// Problems of the configuration, which have been printed.
    pub(super) wrong: usize,
    /// The kernel's release.
    pub(super) release: String,
    /// What its io_uring has, or why there is none.
    pub(super) kernel: Result<Kernel, String>,
    /// None without io_uring.
    pub(super) weighed: Option<Weighed>,
    pub(super) findings: Findings,
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
    let tightest = &capacity.limits[0];
    let limit = match capacity.wanted {
        Some(wanted) if capacity.suffices() => format!("limited by connections_max = {wanted}"),
        Some(_) => format!("wanted, but {} allows {}", tightest.name, grouped(tightest.connections)),
        None => format!("limited by {}", tightest.name),
    };
    let _ = writeln!(text, "  capacity   {holds} connections, {limit}");
    for warning in &capacity.warnings {
        let _ = writeln!(text, "  note       {warning}");
    }
    text
}

/// The output of `roost-gateway check`, and whether all is well.
pub(super) fn check(seen: &Seen<'_>) -> (String, bool) {
    let Seen { loaded, wrong, release, kernel, weighed, findings } = seen;
    let mut text = String::new();
    let _ = writeln!(text, "# configuration\n{}", loaded.to_toml());
    for warning in &loaded.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    let mut faults = findings.faults.clone();
    let mut warnings = findings.warnings.clone();
    match kernel {
        Ok(kernel) => {
            let _ = writeln!(text, "# kernel {release}\n{}", kernel.summary);
            for finding in &kernel.findings {
                let _ = writeln!(text, "  {finding}");
            }
        }
        Err(refusal) => {
            let _ = writeln!(text, "# kernel {release}");
            faults.push(refusal.clone());
        }
    }
    // Without what was refused nobody knows what is to be held.
    let weighed = weighed.as_ref().filter(|_| *wrong == 0);
    if let Some(weighed) = weighed {
        text.push_str(&capacity_lines(&loaded.config, weighed));
        if let Some(fault) = capacity_fault(weighed) {
            // What a running gateway takes is there for its successor.
            match weighed.capacity.limits[0].shared && findings.beside_gateway {
                true => warnings.push(format!("{fault} (beside the running gateway, which has its share)")),
                false => faults.push(fault),
            }
        }
    }
    let _ = writeln!(text, "\n# start");
    for note in &findings.notes {
        let _ = writeln!(text, "  {note}");
    }
    for warning in &warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    for fault in &faults {
        let _ = writeln!(text, "fault: {fault}");
    }
    let _ = writeln!(text, "\n{}", verdict(&faults, *wrong, weighed));
    (text, faults.is_empty() && *wrong == 0)
}

fn capacity_lines(config: &Config, weighed: &Weighed) -> String {
    let Weighed { machine, demand, capacity } = weighed;
    let mut text = String::new();
    let quota = machine.cpu_quota.map_or(String::new(), |thousandths| {
        format!(", CPU quota {}.{:03}", thousandths / 1_000, thousandths % 1_000)
    });
    let _ = writeln!(text, "\n# shards\n{}, {} cores may be used{quota}", demand.shards, machine.cores);
    let _ = writeln!(text, "\n# capacity\n{}", capacity_line(capacity));
    let _ = writeln!(text, "  {:>12}  limit; how to lift it", "connections");
    for limit in &capacity.limits {
        let _ = writeln!(text, "  {:>12}  {}; {}", grouped(limit.connections), limit.name, limit.lift);
    }
    let _ = writeln!(text, "  A load generator on the same machine takes as much memory again.");
    for warning in &capacity.warnings {
        let _ = writeln!(text, "warning: {warning}");
    }
    text.push_str(&advice(config, demand.shards, capacity));
    text
}

/// Why the configured capacity cannot be had, or none at all.
fn capacity_fault(weighed: &Weighed) -> Option<String> {
    let capacity = &weighed.capacity;
    let Limit { name, connections, lift, .. } = &capacity.limits[0];
    match capacity.wanted {
        Some(wanted) if !capacity.suffices() => {
            Some(format!("connections_max = {wanted} cannot be reached, {name} allows {connections}; {lift}"))
        }
        _ => capacity.refusal(weighed.demand.shards),
    }
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

fn verdict(faults: &[String], wrong: usize, weighed: Option<&Weighed>) -> String {
    let configuration = match wrong {
        0 => String::new(),
        _ => format!("{wrong} in the configuration, and "),
    };
    match (faults, weighed) {
        ([], Some(weighed)) => {
            format!("ok: {} connections can be held", grouped(weighed.capacity.connections()))
        }
        ([fault], _) if wrong == 0 => format!("not ok: {fault}"),
        _ => {
            format!("not ok: {configuration}{} faults above: the gateway would not start here", faults.len())
        }
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
    use super::{Addresses, Findings, Kernel, Seen, Weighed, banner, check, grouped};
    use crate::{
        config::{Environment, Loaded, Options, load},
        machine::Machine,
        preflight::{Capacity, Demand},
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
        Kernel { summary: "io_uring tier direct".to_owned(), findings: vec!["one".to_owned()] }
    }

    fn seen(loaded: &Loaded, machine: Machine, findings: Findings) -> (String, bool) {
        let demand = Demand::of(&loaded.config, 2, true);
        let capacity = Capacity::of(&machine, &demand);
        let weighed = Some(Weighed { machine, demand, capacity });
        let release = "6.18".to_owned();
        check(&Seen { loaded, wrong: 0, release, kernel: Ok(kernel()), weighed, findings })
    }

    fn checked(setting: &[(&str, &str)]) -> (String, bool) {
        seen(&loaded(setting), machine(), Findings::default())
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
    fn check_fails_where_there_is_no_room_at_all() {
        let machine = Machine { cgroup_free_bytes: Some(0), ..machine() };
        let (text, ok) = seen(&loaded(&[]), machine, Findings::default());
        let last = text.lines().last().unwrap();
        assert!(!ok && last.starts_with("not ok: no room for a connection on each of 2 shards"), "{text}");
    }

    #[test]
    fn check_says_all_faults_at_once() {
        let faults = vec!["the secret".to_owned(), "the directory".to_owned()];
        let warnings = vec!["a name".to_owned()];
        let findings = Findings { faults, warnings, ..Findings::default() };
        let (text, ok) = seen(&loaded(&[("connections_max", "2000000")]), machine(), findings);
        assert!(!ok, "{text}");
        for line in [
            "warning: a name",
            "fault: the secret",
            "fault: the directory",
            "fault: connections_max = 2000000",
        ] {
            assert!(text.lines().any(|found| found.starts_with(line)), "{line} in {text}");
        }
        assert!(text.ends_with("not ok: 3 faults above: the gateway would not start here\n"), "{text}");
    }

    /// A checked reload meets the memory that the running gateway has taken.
    #[test]
    fn memory_that_a_running_gateway_has_is_no_fault() {
        let machine = Machine { memory_free_bytes: Some(0), ..machine() };
        let beside = Findings { beside_gateway: true, ..Findings::default() };
        let (text, ok) = seen(&loaded(&[]), machine.clone(), beside.clone());
        assert!(ok && text.contains("warning: no room for a connection"), "{text}");
        let machine = Machine { nofile_soft: 50, ..machine };
        let (text, ok) = seen(&loaded(&[]), machine, beside);
        assert!(!ok && text.contains("RLIMIT_NOFILE = 50"), "descriptors are each process's own: {text}");
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
        let loaded = loaded(&[]);
        let kernel = Err("io_uring is refused: seccomp".to_owned());
        let (release, findings) = ("6.18".to_owned(), Findings::default());
        let (text, ok) = check(&Seen { loaded: &loaded, wrong: 0, release, kernel, weighed: None, findings });
        assert!(!ok && text.ends_with("not ok: io_uring is refused: seccomp\n"), "{text}");
    }

    #[test]
    fn the_banner_says_where_what_and_how_much() {
        let (clients, admin) = (["127.0.0.1:7400".parse().unwrap()], ["127.0.0.1:7401".parse().unwrap()]);
        let addresses = Addresses { clients: &clients, admin: &admin, workers: &[] };
        let said = |loaded: &Loaded| {
            let capacity = Capacity::of(&machine(), &Demand::of(&loaded.config, 2, true));
            banner(&loaded.config, "6.18: tier direct", 12_345, &capacity, &addresses)
        };
        let text = said(&loaded(&[]));
        for part in [
            "127.0.0.1:7400",
            "one inside (echo)",
            "http://127.0.0.1:7401/",
            "tier direct",
            "12,345 connections, limited by memory",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let text = said(&loaded(&[("connections_max", "12345")]));
        assert!(text.contains("12,345 connections, limited by connections_max = 12345"), "{text}");
        let text = said(&loaded(&[("connections_max", "9000000")]));
        assert!(text.contains(" connections, wanted, but memory, 3072 MiB free"), "{text}");
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
