//! The arithmetic between what a machine has and what a connection costs. Pure.

use super::cost::{
    FDS_ADMIN, FDS_BASE, FDS_EMBEDDED, FDS_PER_RING, HASH_CHAIN_MAX, KERNEL_BYTES, RESERVE_BYTES_MIN,
    RESERVE_DIVISOR, USER_BYTES, WORKERS_SPARE,
};
use crate::{
    config::{Config, FullPolicy},
    core::{CoreConfig, bounds::Bounds, stats::LINKS_MAX},
    machine::Machine,
    ring::RING_SLOTS_MAX,
};

/// Connections that ids, tables and tokens can name.
pub const CONNECTIONS_MAX: u64 = 1 << 24;

/// Payloads of broadcasts that a shard keeps at once.
const FANOUT_BLOCKS: u64 = Bounds::GATEWAY.fanout_blocks as u64;

/// What the configuration asks of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// The configured maximum; none: as many as can be had.
    pub connections: Option<u64>,
    /// Shards.
    pub shards: u64,
    /// Slots of one ring, as configured.
    pub ring_slots_max: u64,
    /// Whether clients take no file descriptors.
    pub direct: bool,
    /// Descriptors of the process that are neither clients' nor rings'.
    pub fds: u64,
    /// Rings of the process that are no shard's.
    pub rings_besides: u64,
    /// The operator's memory budget.
    pub memory_bytes: Option<u64>,
    /// Memory of the pools and windows, which does not grow with the connections.
    pub fixed_bytes: u64,
    /// The backlog asked of listen(2).
    pub listen_backlog: u64,
}

impl Demand {
    /// What `config` asks of a machine with `cores`, `direct` as the feature tier has it.
    pub fn of(config: &Config, cores: usize, direct: bool) -> Self {
        let shards = config.shards.value().map_or(cores as u64, u64::from).clamp(1, 256);
        Self {
            connections: config.connections_max.value().map(u64::from),
            shards,
            ring_slots_max: config.ring_slots_max.min(RING_SLOTS_MAX).into(),
            direct,
            fds: fds(config, shards, WORKERS_SPARE) + telling(config, shards, direct),
            rings_besides: config.workers.is_empty().into(),
            memory_bytes: config.memory_bytes_max.value(),
            fixed_bytes: fixed_bytes(config, shards),
            listen_backlog: config.listen_backlog.into(),
        }
    }
}

/// Descriptors that are neither clients' nor rings': those that links, the admin side and a reload may
/// come to need. Clients never get them, since there are no more clients than what is left allows.
fn fds(config: &Config, shards: u64, workers_spare: u64) -> u64 {
    let listeners = config.listen.len() as u64 * (shards + 1) + config.admin_listen.len() as u64;
    let links = match config.workers.len() as u64 {
        // Both ends of a link are here.
        0 => 2 * shards + FDS_EMBEDDED,
        workers => shards * (workers + workers_spare).min(LINKS_MAX as u64).max(workers),
    };
    let admin = if config.admin_listen.is_empty() { 0 } else { FDS_ADMIN };
    FDS_BASE + listeners + links + admin
}

/// Clients per shard that are told to go elsewhere at a time, where each takes a descriptor.
pub const TELLING_PLAIN: u32 = 16;

/// Descriptors of clients who are being refused, beside those who are held.
fn telling(config: &Config, shards: u64, direct: bool) -> u64 {
    match config.full {
        FullPolicy::Refuse if !direct => shards * u64::from(TELLING_PLAIN),
        _ => 0,
    }
}

/// Whether a gateway with so many shards and slots has descriptors for the workers of `config`, as a
/// reload brings them; none are spared for yet others.
///
/// # Errors
/// How many are missing, and the remedy.
pub fn check_links(
    config: &Config,
    shards: u64,
    slots: u64,
    direct: bool,
    nofile: u64,
) -> Result<(), String> {
    let demand = Demand { shards, ..Demand::of(config, 1, direct) };
    let clients = if direct { 0 } else { slots };
    let others = fds(config, shards, 0) + telling(config, shards, direct);
    let needed = others + clients + FDS_PER_RING * rings_for(slots, &demand);
    if needed <= nofile {
        return Ok(());
    }
    Err(format!(
        "workers: {} workers and {slots} connections on {shards} shards may need {needed} descriptors, and \
         RLIMIT_NOFILE is {nofile}: name fewer, or raise it or lower connections_max and restart",
        config.workers.len()
    ))
}

/// The most that pools and windows take, whatever the number of connections (`core::pool`): what
/// workers that may come later need is not counted, nor are 80 bytes a slot of what links share.
fn fixed_bytes(config: &Config, shards: u64) -> u64 {
    let workers = config.workers.len().max(1) as u64;
    let frame = u64::from(config.frame_bytes_max);
    let receive = u64::from(CoreConfig::RX_BLOCKS * CoreConfig::RX_BLOCK_BYTES);
    // A window of its own, and one of what all links share, with a quarter for whoever asks while the
    // largest is being given up.
    let windows = u64::from(config.link_window_bytes) * 9 / 4;
    let link = windows + 3 * frame + 4 * (2 * frame).max(256 * 1024);
    let shard = receive + FANOUT_BLOCKS * frame + workers * link;
    config.outbox_bytes_total + config.spill_bytes_total + shards * shard
}

/// One thing that bounds the number of connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The setting and its value.
    pub name: String,
    /// How many connections it allows.
    pub connections: u64,
    /// Whether the kernel refuses connections beyond it; otherwise they work until the memory
    /// ends, or as long as others leave room.
    pub hard: bool,
    /// Whether what a running gateway takes is missing here, and is free once that has ended.
    pub shared: bool,
    /// How to lift it.
    pub lift: String,
}

/// What the machine can hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Everything that bounds the number, the tightest first. Never empty.
    pub limits: Vec<Limit>,
    /// What does not bound the number but makes a large one slow or fragile, with the remedy.
    pub warnings: Vec<String>,
    /// The configured maximum.
    pub wanted: Option<u64>,
}

impl Capacity {
    /// Weighs `demand` against `machine`.
    pub fn of(machine: &Machine, demand: &Demand) -> Self {
        let mut limits = vec![
            Limit {
                name: "connection ids (24 bits)".to_owned(),
                connections: CONNECTIONS_MAX,
                hard: true,
                shared: false,
                lift: "run a second gateway".to_owned(),
            },
            descriptors(machine, demand),
        ];
        limits.extend(locked(machine, demand));
        limits.extend(memory(machine, demand));
        limits.extend(files(machine));
        limits.sort_by_key(|limit| limit.connections);
        let mut capacity = Self { limits, warnings: Vec::new(), wanted: demand.connections };
        capacity.warnings = warnings(machine, demand, capacity.connections());
        capacity
    }

    /// The most connections that the machine can hold.
    pub fn reachable(&self) -> u64 {
        self.limits[0].connections
    }

    /// How many the gateway is started with: the configured maximum, or all that can be had.
    pub fn connections(&self) -> u64 {
        self.wanted.unwrap_or(self.reachable())
    }

    /// Whether the configured maximum can be reached.
    pub fn suffices(&self) -> bool {
        self.wanted.is_none_or(|wanted| wanted <= self.reachable())
    }

    /// Why no gateway would start here with so many shards: more is wanted than the kernel allows, or
    /// there is not a connection for each shard. None: one would.
    pub fn refusal(&self, shards: u64) -> Option<String> {
        let Limit { name, connections, hard, lift, .. } = &self.limits[0];
        match self.wanted {
            Some(wanted) if *hard && *connections < wanted => {
                Some(format!("connections_max = {wanted}, but {name} allows {connections}: {lift}"))
            }
            _ if self.connections() < shards => Some(format!(
                "no room for a connection on each of {shards} shards, {name} allows {connections}: {lift}"
            )),
            _ => None,
        }
    }
}

/// Rings for so many connections, each shard having its share of both.
fn rings_for(connections: u64, demand: &Demand) -> u64 {
    let share = connections.div_ceil(demand.shards).max(1);
    demand.shards * share.div_ceil(demand.ring_slots_max) + demand.rings_besides
}

/// The rings that a start with this capacity may come to make.
pub(super) fn rings_wanted(capacity: &Capacity, demand: &Demand) -> u64 {
    rings_for(capacity.connections().min(capacity.reachable()), demand)
}

/// What locked memory allows; none where rings are not charged to it, or as many fit as are wanted.
fn locked(machine: &Machine, demand: &Demand) -> Option<Limit> {
    let rings = machine.rings_max?;
    let a_shard = rings.saturating_sub(demand.rings_besides) / demand.shards;
    Some(Limit {
        name: format!(
            "RLIMIT_MEMLOCK = {} KiB, which leaves room for {rings} rings (tried; all processes of this user \
             share it)",
            machine.memlock_bytes / 1024
        ),
        connections: (demand.shards * a_shard).saturating_mul(demand.ring_slots_max).min(CONNECTIONS_MAX),
        hard: true,
        shared: true,
        lift: "raise it (ulimit -l, LimitMEMLOCK=infinity, docker's --ulimit memlock=-1)".to_owned(),
    })
}

fn descriptors(machine: &Machine, demand: &Demand) -> Limit {
    let nofile = machine.nofile_soft;
    let slots = demand.ring_slots_max.min(nofile).max(1);
    let others = demand.fds + machine.inherited_fds;
    let connections = if demand.direct {
        // Each ring's table may have as many slots as the limit; rings themselves take numbers.
        let a_shard = nofile.saturating_sub(others) / FDS_PER_RING / demand.shards;
        (demand.shards * a_shard).saturating_mul(slots)
    } else {
        // x connections take x numbers and those of x / slots rings, each shard rounding up.
        let free = nofile.saturating_sub(others + FDS_PER_RING * demand.shards);
        (u128::from(free) * u128::from(slots) / u128::from(slots + FDS_PER_RING)) as u64
    };
    let lift = match machine.nr_open {
        Some(nr_open) if machine.nofile_hard >= nr_open => {
            "raise fs.nr_open, then the limit on open files (LimitNOFILE=, ulimit -n)"
        }
        _ if demand.direct => "raise the limit on open files (LimitNOFILE=, ulimit -n)",
        _ => {
            "raise the limit on open files (LimitNOFILE=, ulimit -n), or run a kernel after 6.12, \
             where clients need none"
        }
    };
    let kind = if demand.direct { "ring tables" } else { "a descriptor per client" };
    Limit {
        name: format!("RLIMIT_NOFILE = {nofile} ({kind}, {others} for links, admin and others)"),
        connections: connections.min(CONNECTIONS_MAX),
        hard: true,
        shared: false,
        lift: lift.to_owned(),
    }
}

fn memory(machine: &Machine, demand: &Demand) -> Option<Limit> {
    let reserve = |total: u64| (total / RESERVE_DIVISOR).max(RESERVE_BYTES_MIN);
    let (name, bytes, lift) = match (demand.memory_bytes, machine.memory_free_bytes) {
        (Some(budget), _) => {
            (format!("memory_bytes_max = {}", mib(budget)), budget, "raise memory_bytes_max".to_owned())
        }
        (None, Some(free)) => {
            let group = machine.cgroup_free_bytes.filter(|&group| group < free);
            let total = machine.memory_bytes.unwrap_or(free);
            match group {
                Some(group) => (
                    format!("memory control group, {} left", mib(group)),
                    group.saturating_sub(reserve(group)),
                    match machine.cgroup_limit {
                        "memory.high" => "raise the group's memory.high (MemoryHigh=)".to_owned(),
                        _ => "raise the group's limit (memory.max, MemoryMax=)".to_owned(),
                    },
                ),
                None => (
                    format!("memory, {} free", mib(free)),
                    free.saturating_sub(reserve(total)),
                    "add memory, or stop what else uses it".to_owned(),
                ),
            }
        }
        (None, None) => return None,
    };
    let connections = bytes.saturating_sub(demand.fixed_bytes) / (KERNEL_BYTES + USER_BYTES);
    let pools = mib(demand.fixed_bytes);
    Some(Limit {
        name: format!("{name} ({} bytes per connection, {pools} for pools)", KERNEL_BYTES + USER_BYTES),
        connections,
        hard: false,
        shared: demand.memory_bytes.is_none(),
        lift,
    })
}

fn files(machine: &Machine) -> Option<Limit> {
    let (max, open) = (machine.file_max?, machine.files_open.unwrap_or(0));
    Some(Limit {
        name: format!("fs.file-max = {max} ({open} open)"),
        connections: max.saturating_sub(open + FDS_BASE),
        hard: false,
        shared: true,
        lift: "raise fs.file-max (kernel-tuning/tune)".to_owned(),
    })
}

fn warnings(machine: &Machine, demand: &Demand, connections: u64) -> Vec<String> {
    let mut warnings = Vec::new();
    // A sixteenth of all clients at once is a storm; more than listen() asks for is of no use.
    let backlog = demand.listen_backlog.min((connections / 16).next_power_of_two().max(4_096));
    if let Some(somaxconn) = machine.somaxconn.filter(|&value| value < backlog) {
        warnings.push(format!(
            "net.core.somaxconn = {somaxconn} caps listen_backlog: of {backlog} connects at once most would \
             wait a second or more; raise it (kernel-tuning/tune)"
        ));
    }
    if let Some(buckets) = machine.hash_buckets.filter(|&buckets| connections > buckets * HASH_CHAIN_MAX) {
        let how = if machine.hash_is_shared {
            "write net.ipv4.tcp_child_ehash_entries in the parent before this network namespace is made"
        } else {
            "boot with thash_entries="
        };
        warnings.push(format!(
            "{buckets} buckets of established connections for {connections}: every packet walks long \
             chains; {how}{}",
            if machine.hash_is_shared { String::new() } else { connections.next_power_of_two().to_string() }
        ));
    }
    if let Some(max) = machine.conntrack_max.filter(|&max| max < connections) {
        warnings.push(format!(
            "net.netfilter.nf_conntrack_max = {max}: where a firewall rule tracks connections, further \
             ones are dropped; exempt the port (notrack) or raise it"
        ));
    }
    if let Some(pages) = machine.tcp_mem_pressure_pages {
        // One page of data for one connection in ten, at least.
        let wanted = connections / 10;
        if pages < wanted {
            warnings.push(format!(
                "net.ipv4.tcp_mem = {pages} pages before pressure: less than a page for one connection in \
                 ten; raise it (kernel-tuning/tune)"
            ));
        }
    }
    if !demand.direct && machine.nofile_soft < machine.nofile_hard {
        warnings
            .push("the soft limit on open files is below the hard one and could not be raised".to_owned());
    }
    warnings
}

/// Bytes for people.
pub(super) fn mib(bytes: u64) -> String {
    const MIB: u64 = 1024 * 1024;
    match bytes / MIB {
        mib if mib >= 10 * 1024 => format!("{:.1} GiB", bytes as f64 / (1024 * MIB) as f64),
        mib => format!("{mib} MiB"),
    }
}

#[cfg(test)]
mod tests;
