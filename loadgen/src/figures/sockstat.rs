//! `/proc/net/sockstat`: what the kernel counts in this network namespace.

use std::fs;

use serde::Serialize;

/// TCP over IPv4 and IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sockstat {
    /// TCP sockets in use.
    pub tcp_inuse: u64,
    /// Orphans: closed by their process, not yet gone.
    pub tcp_orphan: u64,
    /// In TIME-WAIT.
    pub tcp_tw: u64,
    /// Allocated, whatever their state.
    pub tcp_alloc: u64,
    /// Pages in buffers, system-wide.
    pub tcp_mem_pages: u64,
}

/// Reads the counts; none without procfs.
pub fn read() -> Option<Sockstat> {
    let v4 = fs::read_to_string("/proc/net/sockstat").ok()?;
    let v6 = fs::read_to_string("/proc/net/sockstat6").unwrap_or_default();
    parse(&v4, &v6)
}

fn parse(v4: &str, v6: &str) -> Option<Sockstat> {
    let tcp = v4.lines().find_map(|line| line.strip_prefix("TCP:"))?;
    let tcp6 = v6.lines().find_map(|line| line.strip_prefix("TCP6:")).unwrap_or("");
    let field = |line: &str, name: &str| {
        let mut words = line.split_ascii_whitespace();
        words.find(|&word| word == name)?;
        words.next()?.parse::<u64>().ok()
    };
    Some(Sockstat {
        tcp_inuse: field(tcp, "inuse")? + field(tcp6, "inuse").unwrap_or(0),
        tcp_orphan: field(tcp, "orphan")?,
        tcp_tw: field(tcp, "tw")?,
        tcp_alloc: field(tcp, "alloc")?,
        tcp_mem_pages: field(tcp, "mem")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_count() {
        let v4 = "sockets: used 9\nTCP: inuse 5 orphan 1 tw 2 alloc 8 mem 3\nUDP: inuse 4 mem 1\n";
        let expected = Sockstat { tcp_inuse: 11, tcp_orphan: 1, tcp_tw: 2, tcp_alloc: 8, tcp_mem_pages: 3 };
        assert_eq!(parse(v4, "TCP6: inuse 6\n"), Some(expected));
        assert_eq!(parse("nothing", ""), None);
    }
}
