//! The arithmetic of capacity.

use super::{CONNECTIONS_MAX, Capacity, Demand, check_links, rings_for};
use crate::{
    config::{Config, FullPolicy},
    core::{CoreConfig, config::WorkerConfig, pool},
    machine::Machine,
    op::PoolSpec,
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
fn a_reload_needs_descriptors_for_its_links() {
    let with = |count: usize| {
        let workers = (0..count).map(|i| format!("w{i}=unix:/run/w{i}").parse().unwrap()).collect();
        Config { workers, ..Config::default() }
    };
    // What a start with two workers promises leaves room for eight more, and not for many.
    let machine = Machine { nofile_soft: 1_000, ..box_of_24_gib() };
    let demand = Demand { shards: 4, ..Demand::of(&with(2), 4, false) };
    let slots = Capacity::of(&machine, &demand).reachable();
    for (count, is_room) in [(2, true), (10, true), (40, false)] {
        let checked = check_links(&with(count), 4, slots, false, 1_000);
        assert_eq!(checked.is_ok(), is_room, "{count}: {checked:?}");
    }
    let refusal = check_links(&with(40), 4, slots, false, 1_000).unwrap_err();
    assert!(refusal.contains("40 workers") && refusal.contains("RLIMIT_NOFILE is 1000"), "{refusal}");
    assert_eq!(check_links(&with(40), 4, 1_000_000, true, 1_000), Ok(()), "direct clients take none");
}

#[test]
fn clients_who_are_refused_leave_descriptors_too() {
    let config = Config { full: FullPolicy::Refuse, ..Config::default() };
    let fds = |config: &Config, direct| Demand { shards: 4, ..Demand::of(config, 4, direct) }.fds;
    assert_eq!(fds(&config, false), fds(&Config::default(), false) + 4 * 16);
    assert_eq!(fds(&config, true), fds(&Config::default(), true));
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
    let capacity =
        |machine: &Machine, wanted| Capacity::of(machine, &Demand { connections: wanted, ..demand(true) });
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
    let made = 2 * pool::specs_for(&core, 1).iter().map(bytes).sum::<u64>();
    let reckoned = demand(true).fixed_bytes;
    // The core leaves room for block ends.
    assert!((reckoned..reckoned + (4 << 20)).contains(&made), "{made} made, {reckoned} reckoned");
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
