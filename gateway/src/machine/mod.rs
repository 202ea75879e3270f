//! What the kernel says about limits and memory, and what control groups ([`cgroup`]) leave of it.

mod cgroup;

use std::{fs, io, path::Path, thread};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limits and the memory of a machine, as far as they bound connections. What could not be
/// read is `None`, never zero.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Kernel release, as uname(2) has it; for people only, nothing depends on it.
    pub kernel: String,
    /// Cores that this process may use: its affinity (cpuset), less what a CPU quota takes.
    pub cores: usize,
    /// The CPU quota of the control group, in thousandths of a core; none: there is no quota.
    pub cpu_quota: Option<u64>,
    /// Soft RLIMIT_NOFILE; `u64::MAX` for no limit.
    pub nofile_soft: u64,
    /// Hard RLIMIT_NOFILE.
    pub nofile_hard: u64,
    /// fs.nr_open: what the hard limit can be raised to.
    pub nr_open: Option<u64>,
    /// fs.file-max: open files of the whole machine, direct descriptors among them.
    pub file_max: Option<u64>,
    /// Open files now.
    pub files_open: Option<u64>,
    /// Bytes of memory in all.
    pub memory_bytes: Option<u64>,
    /// Bytes free or in the page cache. Not MemAvailable: that counts socket inodes as
    /// reclaimable and over-reports by gigabytes once there are many sockets.
    pub memory_free_bytes: Option<u64>,
    /// Bytes that the memory control group still allows; none: no group limits it.
    pub cgroup_free_bytes: Option<u64>,
    /// The group's file with the limit, such as `memory.high`; empty where no group limits it.
    pub cgroup_limit: &'static str,
    /// Descriptors that are open before anything has been opened here, beyond the standard streams:
    /// whoever started this process left them.
    pub inherited_fds: u64,
    /// RLIMIT_MEMLOCK in bytes, raised; `u64::MAX` for no limit.
    pub memlock_bytes: u64,
    /// Rings that can be had at once, as tried; none: as many as are wanted.
    pub rings_max: Option<u64>,
    /// net.ipv4.tcp_mem: pages for data in sockets, the point of pressure.
    pub tcp_mem_pressure_pages: Option<u64>,
    /// Bytes of a page.
    pub page_bytes: u64,
    /// net.core.somaxconn.
    pub somaxconn: Option<u64>,
    /// net.ipv4.tcp_max_syn_backlog.
    pub syn_backlog: Option<u64>,
    /// Buckets of the established hash (net.ipv4.tcp_ehash_entries).
    pub hash_buckets: Option<u64>,
    /// Whether the buckets are those of the initial network namespace.
    pub hash_is_shared: bool,
    /// net.netfilter.nf_conntrack_max, where connections are tracked at all.
    pub conntrack_max: Option<u64>,
}

impl Machine {
    /// Reads this machine, after [`raise_nofile`].
    pub fn read() -> Self {
        let limit = getrlimit(Resource::Nofile);
        Self {
            kernel: kernel(),
            inherited_fds: open_fds(),
            nofile_soft: limit.current.unwrap_or(u64::MAX),
            nofile_hard: limit.maximum.unwrap_or(u64::MAX),
            memlock_bytes: getrlimit(Resource::Memlock).current.unwrap_or(u64::MAX),
            page_bytes: rustix::param::page_size() as u64,
            cores: cores(),
            ..Self::from_files(Path::new("/"))
        }
    }

    /// The part that stands in files, below `root`.
    fn from_files(root: &Path) -> Self {
        let proc = |path: &str| fs::read_to_string(root.join("proc").join(path)).ok();
        let sysctl = |path: &str| -> Option<Vec<i64>> {
            let text = proc(&format!("sys/{path}"))?;
            text.split_whitespace().map(|word| word.parse().ok()).collect()
        };
        let first = |path: &str| u64::try_from(*sysctl(path)?.first()?).ok();
        let meminfo = proc("meminfo").unwrap_or_default();
        let kib = |name: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
        };
        let membership = proc("self/cgroup").unwrap_or_default();
        let room = cgroup::memory_room(root, &membership);
        let buckets = sysctl("net/ipv4/tcp_ehash_entries").and_then(|values| values.first().copied());
        Self {
            nr_open: first("fs/nr_open"),
            file_max: first("fs/file-max"),
            files_open: first("fs/file-nr"),
            memory_bytes: kib("MemTotal"),
            memory_free_bytes: kib("MemFree").map(|free| {
                let cache = kib("Cached").unwrap_or(0) + kib("Buffers").unwrap_or(0);
                free + cache.saturating_sub(kib("Shmem").unwrap_or(0))
            }),
            cgroup_free_bytes: room.as_ref().map(|room| room.bytes),
            cgroup_limit: room.map_or("", |room| room.limit),
            cpu_quota: cgroup::cpu_quota(root, &membership),
            tcp_mem_pressure_pages: sysctl("net/ipv4/tcp_mem")
                .and_then(|values| u64::try_from(*values.get(1)?).ok()),
            somaxconn: first("net/core/somaxconn"),
            syn_backlog: first("net/ipv4/tcp_max_syn_backlog"),
            // Negative: this namespace shares the table of the initial one (ip-sysctl.rst).
            hash_buckets: buckets.map(i64::unsigned_abs),
            hash_is_shared: buckets.is_some_and(|buckets| buckets < 0),
            conntrack_max: first("net/netfilter/nf_conntrack_max"),
            ..Self::default()
        }
    }
}

/// The kernel's release, for people.
pub fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// The soft limit on open files; `u64::MAX` for none.
pub fn nofile() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Raises the soft limit on open files to the hard one. Returns the limit now in force.
///
/// # Errors
/// What setrlimit(2) says; the old limit stays.
pub fn raise_nofile() -> io::Result<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    }
    Ok(limit.maximum.unwrap_or(u64::MAX))
}

/// Raises the soft limit on locked memory to the hard one: rings may count against it.
///
/// # Errors
/// What setrlimit(2) says; the old limit stays.
pub fn raise_memlock() -> io::Result<()> {
    let limit = getrlimit(Resource::Memlock);
    if limit.current != limit.maximum {
        setrlimit(Resource::Memlock, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    }
    Ok(())
}

/// Cores that this process may use: those of its affinity (sched_getaffinity(2), which a cpuset
/// narrows), and no more than the CPU quota of its control group pays for, rounded down: a thread beyond
/// that would only make all of them wait for the next period.
pub fn cores() -> usize {
    // The standard library knows affinity and most quotas.
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    cores_within(cores, cgroup::cpu_quota(Path::new("/"), &membership))
}

fn cores_within(cores: usize, quota: Option<u64>) -> usize {
    let paid = quota.map_or(cores, |thousandths| usize::try_from(thousandths / 1_000).unwrap_or(cores));
    cores.min(paid).max(1)
}

/// Descriptors beyond the standard streams that are open now; 0 where it cannot be read.
pub fn open_fds() -> u64 {
    let open = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as u64;
    // The standard streams, and the directory that is being read.
    open.saturating_sub(4)
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::{Machine, cores_within};

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn reads_what_is_there_and_leaves_the_rest_unknown() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert_eq!(Machine::from_files(root), Machine::default());
        let meminfo = "MemTotal: 1000 kB\nMemFree: 500 kB\nBuffers: 10 kB\nCached: 100 kB\nSwapCached: 7 kB\nShmem: 60 kB\n";
        write(root, "proc/meminfo", meminfo);
        write(root, "proc/sys/fs/file-nr", "123\t0\t2466165\n");
        write(root, "proc/sys/net/ipv4/tcp_mem", "10\t20\t30\n");
        write(root, "proc/sys/net/ipv4/tcp_ehash_entries", "-262144\n");
        let machine = Machine::from_files(root);
        assert_eq!(machine.memory_bytes, Some(1000 * 1024));
        assert_eq!(machine.memory_free_bytes, Some(550 * 1024));
        assert_eq!(machine.files_open, Some(123));
        assert_eq!(machine.tcp_mem_pressure_pages, Some(20));
        assert_eq!((machine.hash_buckets, machine.hash_is_shared), (Some(262_144), true));
        assert_eq!(machine.file_max, None);
    }

    #[test]
    fn a_quota_is_cores_rounded_down_and_never_none() {
        for (cores, quota, expected) in
            [(8, None, 8), (8, Some(2_500), 2), (2, Some(64_000), 2), (4, Some(300), 1)]
        {
            assert_eq!(cores_within(cores, quota), expected, "{cores} {quota:?}");
        }
    }

    #[test]
    fn this_machine_has_memory_cores_and_a_file_limit() {
        let machine = Machine::read();
        assert!(machine.cores > 0 && machine.nofile_soft > 0 && machine.page_bytes >= 4096);
        assert!(machine.memory_free_bytes < machine.memory_bytes);
        assert!(!machine.kernel.is_empty());
    }
}
