//! What the machine says of its limits.

use std::{fs, path::Path, str::FromStr};

/// The ephemeral ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    /// First.
    pub first: u16,
    /// Last.
    pub last: u16,
}

/// Limits of this machine; none where they cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// RLIMIT_NOFILE, raised to the hard limit.
    pub nofile: u64,
    /// `net.ipv4.ip_local_port_range`.
    pub ports: PortRange,
    /// MemFree and page cache, in bytes. MemAvailable would count the inodes of sockets as
    /// reclaimable, which they are not while the sockets live.
    pub memory_free: Option<u64>,
    /// Open files and their maximum, system-wide.
    pub files: Option<(u64, u64)>,
    /// `net.core.somaxconn`.
    pub somaxconn: Option<u64>,
    /// `net.ipv4.tcp_mem`: pages in socket buffers from which on TCP saves memory.
    pub tcp_pressure_pages: Option<u64>,
    /// Buckets of the table of established connections in this namespace.
    pub ehash_entries: Option<u64>,
}

impl Machine {
    /// Reads them.
    pub fn read(nofile: u64) -> Self {
        Self {
            nofile,
            // The kernel's default where it may not be read.
            ports: read_ports().unwrap_or(PortRange { first: 32_768, last: 60_999 }),
            memory_free: memory_free(),
            files: fs::read_to_string("/proc/sys/fs/file-nr").ok().and_then(|text| files(&text)),
            somaxconn: number("/proc/sys/net/core/somaxconn"),
            tcp_pressure_pages: fs::read_to_string("/proc/sys/net/ipv4/tcp_mem")
                .ok()
                .and_then(|text| text.split_ascii_whitespace().nth(1)?.parse().ok()),
            ehash_entries: number::<i64>("/proc/sys/net/ipv4/tcp_ehash_entries").map(i64::unsigned_abs),
        }
    }
}

fn number<T: FromStr>(path: impl AsRef<Path>) -> Option<T> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn read_ports() -> Option<PortRange> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
    let mut words = text.split_ascii_whitespace();
    Some(PortRange { first: words.next()?.parse().ok()?, last: words.next()?.parse().ok()? })
}

/// MemFree and page cache now, in bytes; none where it cannot be read.
pub fn memory_free() -> Option<u64> {
    parse_memory_free(&fs::read_to_string("/proc/meminfo").ok()?)
}

fn parse_memory_free(meminfo: &str) -> Option<u64> {
    let kib = |label: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(label))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    // Shared memory is counted as cached, but cannot be dropped.
    Some((kib("MemFree:")? + (kib("Cached:")? + kib("Buffers:")?).saturating_sub(kib("Shmem:")?)) << 10)
}

fn files(file_nr: &str) -> Option<(u64, u64)> {
    let mut words = file_nr.split_ascii_whitespace();
    let used = words.next()?.parse().ok()?;
    Some((used, words.nth(1)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_memory_is_what_can_be_had() {
        let text = "MemTotal: 9 kB\nMemFree:  100 kB\nBuffers: 10 kB\nCached:  50 kB\nSwapCached: 7 kB\nShmem: 20 kB\n";
        assert_eq!(parse_memory_free(text), Some(140 << 10));
        assert_eq!(files("832\t0\t9223372036854775807\n"), Some((832, 9_223_372_036_854_775_807)));
    }

    #[test]
    fn this_machine_can_be_read() {
        let machine = Machine::read(1024);
        assert!(machine.ports.first < machine.ports.last);
        assert!(machine.memory_free.unwrap() > 0);
    }
}
