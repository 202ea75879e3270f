//! What `/proc` says of this process and of the kernel's sockets (proc(5)). What cannot be read
//! is none, never zero.

use std::fs;

use rustix::process::{Resource, getrlimit};

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Figures {
    pub(super) cpu_s: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) fds_open: Option<u64>,
    pub(super) fds_max: Option<u64>,
    pub(super) started_s: Option<u64>,
    pub(super) tcp_sockets: Option<u64>,
    pub(super) slab_bytes: Option<u64>,
}

impl Figures {
    /// The figures as of now; `fds_open` is counted elsewhere.
    pub(super) fn read(fds_open: Option<u64>) -> Self {
        let stat = Stat::read();
        let ticks_per_s = rustix::param::clock_ticks_per_second();
        Self {
            cpu_s: stat.map(|stat| stat.cpu_ticks as f64 / ticks_per_s as f64),
            resident_bytes: kib("/proc/self/status", "VmRSS").map(|kib| kib * 1024),
            fds_open,
            fds_max: getrlimit(Resource::Nofile).current,
            started_s: stat.and_then(|stat| Some(boot_s()? + stat.start_ticks / ticks_per_s)),
            tcp_sockets: tcp_sockets(),
            slab_bytes: kib("/proc/meminfo", "Slab").map(|kib| kib * 1024),
        }
    }
}

#[derive(Clone, Copy)]
struct Stat {
    cpu_ticks: u64,
    start_ticks: u64,
}

impl Stat {
    fn read() -> Option<Self> {
        let text = fs::read_to_string("/proc/self/stat").ok()?;
        // The name in parentheses may hold spaces; field 3 follows it.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self { cpu_ticks: field(14)? + field(15)?, start_ticks: field(22)? })
    }
}

fn boot_s() -> Option<u64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn kib(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.trim().strip_suffix(" kB")?.parse().ok()
}

/// Sockets in use, of both families: those of IPv6 stand in a file of their own.
fn tcp_sockets() -> Option<u64> {
    let count = |path: &str, prefix: &str| -> Option<u64> {
        let text = fs::read_to_string(path).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(prefix))?;
        line.split_whitespace().skip_while(|word| *word != "inuse").nth(1)?.parse().ok()
    };
    let v4 = count("/proc/net/sockstat", "TCP:")?;
    Some(v4 + count("/proc/net/sockstat6", "TCP6:").unwrap_or(0))
}
