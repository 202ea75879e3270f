//! What the kernel counts in the namespace: the figures that a report shows.

use std::{collections::BTreeMap, fs, net::SocketAddrV4};

use anyhow::Context;

/// Of /proc/net/sockstat, the line on TCP (Documentation/networking, net/ipv4/proc.c).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sockstat {
    /// Sockets in any state but TIME-WAIT and closed; of this namespace.
    pub in_use: u64,
    /// Sockets that no process owns any more; of all namespaces.
    pub orphans: u64,
    /// Connections in TIME-WAIT; of this namespace.
    pub time_wait: u64,
    /// Sockets allocated; of all namespaces.
    pub allocated: u64,
    /// Pages in buffers; of all namespaces.
    pub memory_pages: u64,
}

/// Reads the counts of the calling thread's network namespace.
///
/// # Errors
/// If /proc does not have them.
pub fn sockstat() -> anyhow::Result<Sockstat> {
    parse_sockstat(&net_file("sockstat")?).context("/proc/thread-self/net/sockstat has no line on TCP")
}

/// Reads the counters that netstat(8) shows (RetransSegs, ListenDrops, ...), by `Group.Name`.
///
/// # Errors
/// If /proc does not have them.
pub fn counters() -> anyhow::Result<BTreeMap<String, i64>> {
    let mut all = parse_counters(&net_file("snmp")?);
    all.extend(parse_counters(&net_file("netstat")?));
    Ok(all)
}

/// Whether someone listens where connections to `target` arrive.
pub(super) fn is_listening(target: SocketAddrV4) -> anyhow::Result<bool> {
    let tables = [net_file("tcp")?, net_file("tcp6").unwrap_or_default()];
    Ok(tables.iter().any(|table| has_listener(table, target)))
}

/// Packets that the device dropped since nobody read them in time.
pub(super) fn queue_drops(device: &str) -> Option<u64> {
    parse_queue_drops(&net_file("dev").ok()?, device)
}

/// /proc/net itself leads to the namespace of the process's first thread.
fn net_file(name: &str) -> anyhow::Result<String> {
    let path = format!("/proc/thread-self/net/{name}");
    fs::read_to_string(&path).with_context(|| path.clone())
}

fn parse_sockstat(text: &str) -> Option<Sockstat> {
    let line = text.lines().find_map(|line| line.strip_prefix("TCP: "))?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let value =
        |name| words.chunks_exact(2).find(|pair| pair[0] == name).and_then(|pair| pair[1].parse().ok());
    Some(Sockstat {
        in_use: value("inuse")?,
        orphans: value("orphan")?,
        time_wait: value("tw")?,
        allocated: value("alloc")?,
        memory_pages: value("mem")?,
    })
}

fn parse_counters(text: &str) -> BTreeMap<String, i64> {
    let lines: Vec<&str> = text.lines().collect();
    let mut counters = BTreeMap::new();
    for pair in lines.chunks_exact(2) {
        let (Some((group, names)), Some((_, values))) = (pair[0].split_once(':'), pair[1].split_once(':'))
        else {
            continue;
        };
        for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
            if let Ok(value) = value.parse() {
                counters.insert(format!("{group}.{name}"), value);
            }
        }
    }
    counters
}

/// Lines as "sl local_address rem_address st ...", addresses as words in the machine's order.
fn has_listener(table: &str, target: SocketAddrV4) -> bool {
    const LISTEN: &str = "0A";
    table.lines().skip(1).any(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (Some(local), Some(_), Some(state)) = (words.next(), words.next(), words.next()) else {
            return false;
        };
        let Some((address, port)) = local.split_once(':') else { return false };
        let here = format!("{:08X}", u32::from_ne_bytes(target.ip().octets()));
        let any = address.bytes().all(|digit| digit == b'0');
        state == LISTEN && u16::from_str_radix(port, 16) == Ok(target.port()) && (any || address == here)
    })
}

fn parse_queue_drops(table: &str, device: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.trim().strip_prefix(device)?.strip_prefix(':'))?;
    // Eight columns on receiving, then bytes, packets, errs, drop of sending.
    line.split_whitespace().nth(11)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockstat_is_read_by_name() {
        let text =
            "sockets: used 18\nTCP: inuse 5000000 orphan 1 tw 3 alloc 5000021 mem 214\nUDP: inuse 0 mem 0\n";
        let expected =
            Sockstat { in_use: 5_000_000, orphans: 1, time_wait: 3, allocated: 5_000_021, memory_pages: 214 };
        assert_eq!(parse_sockstat(text), Some(expected));
        assert_eq!(parse_sockstat("TCP: inuse 5"), None);
    }

    #[test]
    fn counters_come_in_pairs_of_lines() {
        let text = "Tcp: MaxConn RetransSegs\nTcp: -1 7\nTcpExt: ListenDrops\nTcpExt: 3\n";
        let counters = parse_counters(text);
        assert_eq!(counters["Tcp.RetransSegs"], 7);
        assert_eq!(counters["Tcp.MaxConn"], -1);
        assert_eq!(counters["TcpExt.ListenDrops"], 3);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn listeners_are_told_from_connections() {
        let table = "  sl  local_address rem_address   st\n   0: 0100640A:1B58 00000000:0000 0A 00000000:00000000\n   1: 00000000:1B59 00000000:0000 0A\n   2: 0100640A:1B5A 0200640A:0400 01\n";
        let listens = |target: &str| has_listener(table, target.parse().unwrap());
        assert!(listens("10.100.0.1:7000"));
        assert!(!listens("10.100.0.2:7000"));
        assert!(listens("10.100.0.2:7001"), "a listener on any address");
        assert!(!listens("10.100.0.1:7002"), "a connection is no listener");
        let v6 =
            "sl\n   0: 00000000000000000000000000000000:1B58 00000000000000000000000000000000:0000 0A 0:0\n";
        assert!(has_listener(v6, "10.100.0.1:7000".parse().unwrap()));
    }

    #[test]
    fn queue_drops_are_found_by_device() {
        let table = "Inter-|   Receive |  Transmit\n face |bytes\n    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13\nroost0: 1 2 3 4 5 6 7 8 9 10 11 42 13 14\n";
        assert_eq!(parse_queue_drops(table, "roost0"), Some(42));
        assert_eq!(parse_queue_drops(table, "roost"), None);
    }
}
