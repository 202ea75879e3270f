//! What this machine can hold for a run, and which setting stops it: said before it starts.

mod limits;

use std::fmt::Write;

pub use limits::{Machine, PortRange, memory_free};

use crate::{
    cli::TransportKind,
    plan::Plan,
    socket::{Descriptors, Sources},
};

/// One limit and what it allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// What it is.
    pub name: String,
    /// Clients it allows; none: it is not known here.
    pub clients: Option<u64>,
    /// The arithmetic, and how to raise it.
    pub because: String,
}

/// Kernel bytes of one end of an idle connection, parked on a poll: the floor that was measured
/// on Linux 6.18 (3,890) and the poll (263).
const KERNEL_BYTES_PER_SOCKET: u64 = 4_153;
/// User-space bytes of a client here, tables and rings included.
const USER_BYTES_PER_CLIENT: u64 = 64;
/// Descriptors that are no sockets: rings, eventfds, logs.
const OTHER_DESCRIPTORS: u64 = 64;

/// The limits of a run with kernel sockets.
pub fn socket_limits(
    plan: &Plan,
    held: &Descriptors,
    sources: Option<&Sources>,
    machine: &Machine,
) -> Vec<Limit> {
    let mut limits =
        vec![descriptors(held, machine), ports(sources, machine), memory(plan, ends(plan), machine)];
    limits.extend(file_max(plan, machine));
    limits
}

/// The limits of a run with clients in user space: the server's sockets are all there is. What
/// else limits them (files, TCP memory), the namespace raises itself.
pub fn tun_limits(plan: &Plan, machine: &Machine) -> Vec<Limit> {
    vec![memory(plan, 1, machine)]
}

fn descriptors(held: &Descriptors, machine: &Machine) -> Limit {
    let nofile = machine.nofile;
    match held {
        Descriptors::Direct => Limit {
            name: "RLIMIT_NOFILE".to_owned(),
            clients: Some(
                nofile.saturating_sub(OTHER_DESCRIPTORS) / 2
                    * u64::from(roost_ring::RING_SLOTS_MAX.min(nofile as u32)),
            ),
            because: format!(
                "{nofile} descriptors, 2 per ring of up to 16,384 sockets, which take none themselves"
            ),
        },
        Descriptors::Plain { because } => Limit {
            name: "RLIMIT_NOFILE".to_owned(),
            clients: Some(nofile.saturating_sub(OTHER_DESCRIPTORS)),
            because: format!(
                "{nofile} descriptors, one per socket, because {because}; raise it with `ulimit -n`"
            ),
        },
    }
}

fn ports(sources: Option<&Sources>, machine: &Machine) -> Limit {
    let PortRange { first, last } = machine.ports;
    let ports = u64::from(last.saturating_sub(first)) + 1;
    let (addresses, from) = match sources {
        Some(sources) => (sources.addresses_max(), sources.cidr().to_string()),
        None => (1, "the one address the kernel chooses".to_owned()),
    };
    Limit {
        name: "ports".to_owned(),
        clients: Some(addresses.saturating_mul(ports)),
        because: format!(
            "{ports} ports ({first}-{last}) to one target from each of {addresses} addresses of {from}; \
             widen net.ipv4.ip_local_port_range or --source"
        ),
    }
}

/// Kernel sockets per connection on this machine.
fn ends(plan: &Plan) -> u64 {
    if plan.target.ip().is_loopback() { 2 } else { 1 }
}

fn memory(plan: &Plan, ends: u64, machine: &Machine) -> Limit {
    let each = ends * (KERNEL_BYTES_PER_SOCKET + USER_BYTES_PER_CLIENT);
    let free = machine.memory_free;
    Limit {
        name: "memory".to_owned(),
        clients: free.map(|free| free.saturating_sub(plan.memory_floor) / each),
        because: format!(
            "{} MiB free or page cache, less {} MiB kept (--memory-floor-mib), at {each} bytes per client{}",
            free.map_or_else(|| "unknown".to_owned(), |free| (free >> 20).to_string()),
            plan.memory_floor >> 20,
            if ends == 2 { ", both ends of the connection being on this machine" } else { "" }
        ),
    }
}

fn file_max(plan: &Plan, machine: &Machine) -> Option<Limit> {
    let (used, most) = machine.files?;
    let ends = ends(plan);
    Some(Limit {
        name: "fs.file-max".to_owned(),
        clients: Some(most.saturating_sub(used) / ends),
        because: format!(
            "{most} open files system-wide, {used} in use; every socket counts, direct descriptors too"
        ),
    })
}

/// The report: all limits, and the lowest.
pub fn render(plan: &Plan, limits: &[Limit], machine: &Machine) -> String {
    let mut text = String::new();
    for limit in limits {
        let clients = limit.clients.map_or_else(|| "unknown".to_owned(), |clients| clients.to_string());
        let _ = writeln!(text, "  {:<14} {clients:>12}  {}", limit.name, limit.because);
    }
    for note in notes(plan, machine) {
        let _ = writeln!(text, "  note           {note}");
    }
    text
}

/// Settings that slow a run down or thin it out, without stopping it.
fn notes(plan: &Plan, machine: &Machine) -> Vec<String> {
    let mut notes = Vec::new();
    if plan.target.ip().is_loopback()
        && let Some(somaxconn) = machine.somaxconn
        && somaxconn < plan.connecting_max
    {
        notes.push(format!(
            "net.core.somaxconn = {somaxconn} is below the {} connects under way at a time: what it drops comes \
             back after a second",
            plan.connecting_max
        ));
    }
    if let Some(pages) = machine.tcp_pressure_pages
        && u64::from(plan.connections) > pages
    {
        notes.push(format!(
            "net.ipv4.tcp_mem begins to save at {pages} pages in socket buffers: more clients than that with a \
             message unread at the same time are slowed down"
        ));
    }
    if let Some(buckets) = machine.ehash_entries
        && u64::from(plan.connections) > 4 * buckets
        && plan.transport == TransportKind::Socket
    {
        notes.push(format!(
            "{buckets} buckets for established connections: with {} of them every look-up walks a chain (boot with \
             thash_entries=, or use a network namespace with net.ipv4.tcp_child_ehash_entries)",
            plan.connections
        ));
    }
    notes
}

/// The limit that does not allow the run, if any.
pub fn refusal(plan: &Plan, limits: &[Limit]) -> Option<String> {
    let wanted = u64::from(plan.connections);
    let lowest = limits
        .iter()
        .filter(|limit| limit.clients.is_some_and(|clients| clients < wanted))
        .min_by_key(|limit| limit.clients)?;
    Some(format!(
        "{wanted} clients are more than {} allows, {}: {} (--force runs it all the same)",
        lowest.name,
        lowest.clients.unwrap_or(0),
        lowest.because
    ))
}

#[cfg(test)]
mod tests;
