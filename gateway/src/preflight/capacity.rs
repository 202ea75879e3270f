//! The arithmetic between what a machine has and what a connection costs. Pure.

use super::{
    cost::{
        FDS_ADMIN, FDS_BASE, FDS_EMBEDDED, FDS_PER_RING, HASH_CHAIN_MAX, KERNEL_BYTES, RESERVE_BYTES_MIN,
        RESERVE_DIVISOR, USER_BYTES, WORKERS_SPARE,
    },
    machine::Machine,
};
use crate::{
    config::Config,
    core::{CoreConfig, bounds::Bounds, stats::LINKS_MAX},
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
            fds: fds(config, shards),
            rings_besides: config.workers.is_empty().into(),
            memory_bytes: config.memory_bytes_max.value(),
            fixed_bytes: fixed_bytes(config, shards),
            listen_backlog: config.listen_backlog.into(),
        }
    }
}

/// Descriptors that are neither clients' nor rings': those that links, the admin side and a reload may
/// come to need. Clients never get them, since there are no more clients than what is left allows.
fn fds(config: &Config, shards: u64) -> u64 {
    let listeners = config.listen.len() as u64 * (shards + 1) + config.admin_listen.len() as u64;
    let links = match config.workers.len() as u64 {
        // Both ends of a link are here.
        0 => 2 * shards + FDS_EMBEDDED,
        workers => shards * (workers + WORKERS_SPARE).min(LINKS_MAX as u64).max(workers),
    };
    let admin = if config.admin_listen.is_empty() { 0 } else { FDS_ADMIN };
    FDS_BASE + listeners + links + admin
}

/// The most that pools and windows take, whatever the number of connections (`core::pool`): what
/// workers that may come later need is not counted.
fn fixed_bytes(config: &Config, shards: u64) -> u64 {
    let workers = config.workers.len().max(1) as u64;
    let frame = u64::from(config.frame_bytes_max);
    let receive = u64::from(CoreConfig::RX_BLOCKS * CoreConfig::RX_BLOCK_BYTES);
    let link = 2 * u64::from(config.link_window_bytes) + 4 * (2 * frame).max(256 * 1024);
    let shard = 7 * receive + FANOUT_BLOCKS * frame + workers * link;
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
mod tests {
    use super::{CONNECTIONS_MAX, Capacity, Demand, rings_for};
    use crate::{
        config::Config,
        core::{CoreConfig, config::WorkerConfig, pool},
        op::PoolSpec,
        preflight::machine::Machine,
    };

    const GIB: u64 = 1 << 30;

    /// The machine of the field notes.
    fn box_of_24_gib() -> Machine {
        Machine {
            cores: 2,
            nofile_soft: 20_000,
            nofile_hard: 20_000,
            nr_open: Some(1 << 20),
            file_max: Some(8_000_000),
            files_open: Some(1_000),
            memory_bytes: Some(24 * GIB),
            memory_free_bytes: Some(23 * GIB),
            page_bytes: 4096,
            somaxconn: Some(65_535),
            hash_buckets: Some(1 << 22),
            tcp_mem_pressure_pages: Some(1 << 20),
            ..Machine::default()
        }
    }

    fn demand(direct: bool) -> Demand {
        Demand::of(&Config::default(), 2, direct)
    }

    #[test]
    fn the_box_of_the_field_notes_holds_what_was_seen_there() {
        let capacity = Capacity::of(&box_of_24_gib(), &demand(true));
        // 5.0 million with a strict reserve, 5.5 at the end of the memory.
        assert!((5_000_000..5_500_000).contains(&capacity.reachable()), "{capacity:?}");
        assert!(capacity.limits[0].name.starts_with("memory, 23.0 GiB free"), "{capacity:?}");
        assert!(capacity.suffices() && capacity.warnings.is_empty(), "{capacity:?}");
    }

    #[test]
    fn with_plain_descriptors_nofile_is_the_capacity() {
        let capacity = Capacity::of(&box_of_24_gib(), &demand(false));
        let room = 20_000 - demand(false).fds - 2 * 2;
        assert!((room - 10..=room).contains(&capacity.reachable()), "{capacity:?}");
        assert!(capacity.limits[0].name.contains("RLIMIT_NOFILE"));
        assert!(capacity.limits[0].lift.contains("LimitNOFILE"));
    }

    #[test]
    fn a_million_slots_need_nothing_more_than_a_thousand_descriptors_when_direct() {
        let machine = Machine { nofile_soft: 1_024, ..box_of_24_gib() };
        let capacity = Capacity::of(&machine, &demand(true));
        let nofile = capacity.limits.iter().find(|limit| limit.name.contains("NOFILE")).unwrap();
        let rings = (1_024 - demand(true).fds) / 2 / 2 * 2;
        assert_eq!(nofile.connections, rings * 1_024);
        assert!(nofile.connections < capacity.reachable() + 1);
    }

    #[test]
    fn each_limit_can_be_the_tightest_and_says_how_to_lift_it() {
        let machine = Machine { file_max: Some(100_000), ..box_of_24_gib() };
        let capacity = Capacity::of(&machine, &demand(true));
        assert_eq!(capacity.reachable(), 100_000 - 1_000 - 40);
        assert!(capacity.limits[0].lift.contains("fs.file-max"));

        let machine = Machine { cgroup_free_bytes: Some(2 * GIB), ..box_of_24_gib() };
        let capacity = Capacity::of(&machine, &demand(true));
        assert!(capacity.limits[0].lift.contains("memory.max"), "{capacity:?}");
        assert!(capacity.reachable() < 2 * GIB / 4_224);

        let budget = Demand { memory_bytes: Some(GIB), ..demand(true) };
        let capacity = Capacity::of(&box_of_24_gib(), &budget);
        assert_eq!(capacity.reachable(), (GIB - budget.fixed_bytes) / 4_224);
        let nothing = Demand { memory_bytes: Some(budget.fixed_bytes - 1), ..budget };
        assert_eq!(Capacity::of(&box_of_24_gib(), &nothing).reachable(), 0);

        let endless = Machine { memory_free_bytes: Some(1 << 50), file_max: None, ..box_of_24_gib() };
        assert_eq!(Capacity::of(&endless, &demand(true)).reachable(), CONNECTIONS_MAX);
    }

    /// A gateway that is full keeps its links, its health and the redial of a worker that restarts.
    #[test]
    fn clients_leave_descriptors_for_links_admin_and_others() {
        let workers = (0..20).map(|i| format!("w{i}=unix:/run/w{i}").parse().unwrap()).collect();
        let config = Config { workers, ..Config::default() };
        let demand = Demand { shards: 4, ..Demand::of(&config, 4, false) };
        // Links to all workers from all shards, listeners and their copies, the admin side.
        assert!(demand.fds >= 20 * 4 + 5 + 65 + 3, "{demand:?}");
        let machine = Machine { nofile_soft: 512, inherited_fds: 10, ..box_of_24_gib() };
        let capacity = Capacity::of(&machine, &demand);
        let clients = capacity.reachable();
        assert!(clients > 100 && clients + demand.fds + 10 + 2 * 4 <= 512, "{clients} and {demand:?}");
        // More links than numbers: nothing is promised.
        let machine = Machine { nofile_soft: 128, ..machine };
        let capacity = Capacity::of(&machine, &demand);
        assert_eq!(capacity.reachable(), 0);
        let refusal = capacity.refusal(4).unwrap();
        assert!(refusal.contains("RLIMIT_NOFILE = 128") && refusal.contains("LimitNOFILE"), "{refusal}");
    }

    #[test]
    fn locked_memory_allows_whole_rings_on_each_shard() {
        let config = Config { ring_slots_max: 64, ..Config::default() };
        let demand = Demand { shards: 2, ..Demand::of(&config, 2, true) };
        let reachable = |rings_max| {
            let machine = Machine { rings_max, memlock_bytes: 256 << 10, ..box_of_24_gib() };
            Capacity::of(&machine, &demand)
        };
        // One is the worker's inside; of three left one would be of no use.
        for (rings, connections) in [(5, 4 * 64), (4, 2 * 64), (2, 0), (1, 0), (0, 0)] {
            let capacity = reachable(Some(rings));
            assert_eq!(capacity.reachable(), connections, "{rings} rings");
            let tightest = &capacity.limits[0];
            assert!(tightest.name.starts_with("RLIMIT_MEMLOCK = 256 KiB"), "{tightest:?}");
            assert!(tightest.lift.contains("ulimit memlock") && tightest.hard, "{tightest:?}");
            assert_eq!(capacity.refusal(2).is_some(), connections == 0);
            assert_eq!(rings_for(connections, &demand), if connections == 256 { 5 } else { 3 });
        }
        assert!(reachable(None).limits.iter().all(|limit| !limit.name.contains("MEMLOCK")));
    }

    #[test]
    fn no_room_or_more_than_the_kernel_allows_is_a_refusal() {
        let capacity = |machine: &Machine, wanted| {
            Capacity::of(machine, &Demand { connections: wanted, ..demand(true) })
        };
        assert_eq!(capacity(&box_of_24_gib(), None).refusal(2), None);
        // Memory may become free: that is a warning at the start.
        assert_eq!(capacity(&box_of_24_gib(), Some(6_000_000)).refusal(2), None);
        let full = Machine { cgroup_free_bytes: Some(0), cgroup_limit: "memory.high", ..box_of_24_gib() };
        let refusal = capacity(&full, None).refusal(2).unwrap();
        assert!(refusal.contains("on each of 2 shards") && refusal.contains("MemoryHigh="), "{refusal}");
        let refusal = capacity(&Machine { nofile_soft: 200, ..box_of_24_gib() }, Some(1_000_000)).refusal(2);
        assert!(refusal.unwrap().starts_with("connections_max = 1000000, but RLIMIT_NOFILE = 200"));
    }

    #[test]
    fn pools_are_reckoned_with_as_the_core_makes_them() {
        let config = Config::default();
        let worker = WorkerConfig { name: "a".to_owned(), secret: None };
        let core = CoreConfig {
            outbox_bytes_total: config.outbox_bytes_total / 2,
            spill_bytes_total: config.spill_bytes_total / 2,
            ..CoreConfig::lone(0, vec![worker])
        };
        let bytes = |pool: &PoolSpec| u64::from(pool.block_bytes) * u64::from(pool.blocks);
        let made = 2 * pool::specs(&core).iter().map(bytes).sum::<u64>();
        let reckoned = demand(true).fixed_bytes;
        // The core leaves room for more workers and for block ends.
        let spare =
            2 * CoreConfig::WORKERS_SPARE as u64 * (2 * u64::from(config.link_window_bytes) + (1 << 20));
        assert!((reckoned..reckoned + spare + (8 << 20)).contains(&made), "{made} made, {reckoned} reckoned");
    }

    #[test]
    fn a_wish_beyond_the_capacity_does_not_suffice() {
        let wish = |connections| Demand { connections: Some(connections), ..demand(true) };
        assert!(Capacity::of(&box_of_24_gib(), &wish(5_000_000)).suffices());
        let beyond = Capacity::of(&box_of_24_gib(), &wish(6_000_000));
        assert!(!beyond.suffices());
        assert_eq!(beyond.connections(), 6_000_000);
    }

    #[test]
    fn slow_settings_are_named() {
        let machine = Machine {
            somaxconn: Some(128),
            hash_buckets: Some(262_144),
            conntrack_max: Some(65_536),
            tcp_mem_pressure_pages: Some(1_000),
            ..box_of_24_gib()
        };
        let warnings = Capacity::of(&machine, &demand(true)).warnings.join("\n");
        for name in ["somaxconn = 128", "thash_entries=8388608", "conntrack_max = 65536", "tcp_mem = 1000"] {
            assert!(warnings.contains(name), "{name} in {warnings}");
        }
        let shared = Machine { hash_is_shared: true, ..machine };
        let warnings = Capacity::of(&shared, &demand(true)).warnings.join("\n");
        assert!(warnings.contains("tcp_child_ehash_entries") && !warnings.contains("thash_entries="));
    }
}
