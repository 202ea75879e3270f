use std::time::Duration;

use super::*;
use crate::plan::Scenario;

fn plan(connections: u32, target: &str) -> Plan {
    Plan {
        scenario: Scenario::Echo,
        target: target.parse().unwrap(),
        connections,
        active: 0,
        rate: 0.0,
        payload_bytes: 64,
        duration: Duration::ZERO,
        heartbeat: Duration::ZERO,
        source: None,
        transport: TransportKind::Socket,
        threads: 1,
        connect_rate: 1.0,
        connecting_max: 1024,
        storm_connecting_max: 1024,
        warmup: 0,
        check_rate: 1.0,
        grace: Duration::ZERO,
        seed: 1,
        first_user: 0,
        key: None,
        window: 0,
        closed: false,
        failover: false,
        memory_floor: 1 << 30,
    }
}

const MACHINE: Machine = Machine {
    nofile: 20_000,
    ports: PortRange { first: 32_768, last: 60_999 },
    memory_free: Some(20 << 30),
    files: Some((1_000, 4_000_000)),
    somaxconn: Some(512),
    tcp_pressure_pages: Some(280_000),
    ehash_entries: Some(1 << 18),
};

fn plain() -> Descriptors {
    Descriptors::Plain { because: "it is old".to_owned() }
}

fn refused(
    connections: u32,
    target: &str,
    descriptors: Descriptors,
    sources: Option<&str>,
) -> Option<String> {
    let plan = plan(connections, target);
    let sources = sources.map(|cidr| Sources::spread(cidr.parse().unwrap(), u64::from(connections)));
    refusal(&plan, &socket_limits(&plan, &descriptors, sources.as_ref(), &MACHINE))
}

#[test]
fn a_million_fits_with_many_addresses_and_direct_descriptors() {
    assert_eq!(refused(1_000_000, "127.0.0.1:1", Descriptors::Direct, Some("127.0.0.0/8")), None);
}

#[test]
fn one_address_has_28232_ports() {
    let why = refused(28_233, "127.0.0.1:1", Descriptors::Direct, None).unwrap();
    assert!(why.contains("28232") && why.contains("ip_local_port_range"), "{why}");
    assert_eq!(refused(28_232, "127.0.0.1:1", Descriptors::Direct, None), None);
}

#[test]
fn plain_descriptors_are_capped_by_nofile_and_it_says_why() {
    let why = refused(19_937, "127.0.0.1:1", plain(), Some("127.0.0.0/8")).unwrap();
    assert!(why.contains("RLIMIT_NOFILE") && why.contains("it is old"), "{why}");
    assert_eq!(refused(19_936, "127.0.0.1:1", plain(), Some("127.0.0.0/8")), None);
}

#[test]
fn both_ends_on_one_machine_need_twice_the_memory_and_files() {
    let why = refused(2_500_000, "127.0.0.1:1", Descriptors::Direct, Some("127.0.0.0/8")).unwrap();
    assert!(why.contains("fs.file-max allows, 1999500"), "{why}");
    assert_eq!(refused(2_500_000, "10.0.0.1:1", Descriptors::Direct, Some("10.0.0.0/8")), None);
    let why = refused(8_000_000, "10.0.0.1:1", Descriptors::Direct, Some("10.0.0.0/8")).unwrap();
    assert!(why.contains("fs.file-max"), "{why}");
}

#[test]
fn what_slows_a_run_down_is_noted() {
    let plan = plan(1_100_000, "127.0.0.1:1");
    let text = render(&plan, &socket_limits(&plan, &Descriptors::Direct, None, &MACHINE), &MACHINE);
    assert!(
        text.contains("somaxconn = 512") && text.contains("262144 buckets") && text.contains("280000 pages"),
        "{text}"
    );
}
