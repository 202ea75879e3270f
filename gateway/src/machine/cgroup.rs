//! What control groups leave of memory and CPU, for both versions of the interface (cgroup-v2.rst,
//! cgroup-v1/memory.rst, sched-bwc.rst).

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Memory that a control group still allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// Bytes until the group's limit; page cache that can be dropped at once counts as free.
    pub(super) bytes: u64,
    /// The file with the limit, such as `memory.high`.
    pub(super) limit: &'static str,
}

/// Files of one version: limits, what is used, and the line of memory.stat with cache that is not in use.
struct Memory {
    limits: &'static [&'static str],
    usage: &'static str,
    inactive_file: &'static str,
}

/// From `memory.high` on, the group's processes are throttled and made to reclaim: to count on more
/// is to count on standing still.
const MEMORY_V2: Memory = Memory {
    limits: &["memory.max", "memory.high"],
    usage: "memory.current",
    inactive_file: "inactive_file",
};
const MEMORY_V1: Memory = Memory {
    limits: &["memory.limit_in_bytes"],
    usage: "memory.usage_in_bytes",
    inactive_file: "total_inactive_file",
};

/// The least that the process's group and those above it still allow; none: no group limits it.
/// `membership` is `/proc/self/cgroup`.
pub(super) fn memory_room(root: &Path, membership: &str) -> Option<Room> {
    let v2 = groups(root, membership, "", "sys/fs/cgroup").into_iter().map(|group| (group, MEMORY_V2));
    let v1 = groups(root, membership, "memory", "sys/fs/cgroup/memory")
        .into_iter()
        .map(|group| (group, MEMORY_V1));
    let rooms = v2.chain(v1).flat_map(|(group, files)| {
        let used = number(&group.join(files.usage)).map(|usage| {
            let cache = stat(&group.join("memory.stat"), files.inactive_file).unwrap_or(0);
            usage.saturating_sub(cache)
        });
        files.limits.iter().filter_map(move |&limit| {
            // The old interface says "no limit" as a huge number.
            let bytes = number(&group.join(limit)).filter(|&bytes| bytes < 1 << 60)?;
            Some(Room { bytes: bytes.saturating_sub(used?), limit })
        })
    });
    rooms.min_by_key(|room| room.bytes)
}

/// The CPU time that the process's group and those above it allow, in thousandths of a core; none: no
/// group limits it.
pub(super) fn cpu_quota(root: &Path, membership: &str) -> Option<u64> {
    let v2 = groups(root, membership, "", "sys/fs/cgroup").into_iter().filter_map(|group| {
        let text = fs::read_to_string(group.join("cpu.max")).ok()?;
        let mut words = text.split_whitespace().map(|word| word.parse::<u64>().ok());
        Some((words.next()??, words.next()??))
    });
    let v1 = groups(root, membership, "cpu", "sys/fs/cgroup/cpu").into_iter().filter_map(|group| {
        // -1 for no limit is no u64.
        Some((number(&group.join("cpu.cfs_quota_us"))?, number(&group.join("cpu.cfs_period_us"))?))
    });
    v2.chain(v1).filter(|&(_, period)| period > 0).map(|(quota, period)| quota * 1_000 / period).min()
}

/// The directories of the process's group with this controller ("": the unified hierarchy) and of all
/// above it.
fn groups(root: &Path, membership: &str, controller: &str, base: &str) -> Vec<PathBuf> {
    let base = root.join(base);
    let named = |line: &str| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, group) = (parts.next()?, parts.next()?);
        controllers.split(',').any(|name| name == controller).then(|| group.to_owned())
    };
    let group = membership.lines().find_map(named);
    // A container may see its own group at the top of the mount, whatever the path says.
    let group = group.as_deref().map(|group| Path::new(group.trim_start_matches('/')));
    group.map_or(Vec::new(), |group| group.ancestors().map(|group| base.join(group)).collect())
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A line of memory.stat.
fn stat(path: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::{Room, cpu_quota, memory_room};

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    const BOTH: &str = "4:cpu,memory:/a/b\n0::/x/y\n";

    fn room(root: &Path) -> Option<(u64, &'static str)> {
        memory_room(root, BOTH).map(|Room { bytes, limit }| (bytes, limit))
    }

    #[test]
    fn the_tightest_group_counts_in_both_versions() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let v1 = "sys/fs/cgroup/memory";
        write(root, &format!("{v1}/a/b/memory.limit_in_bytes"), "9223372036854771712\n");
        write(root, &format!("{v1}/a/b/memory.usage_in_bytes"), "5\n");
        assert_eq!(room(root), None);
        write(root, &format!("{v1}/a/memory.limit_in_bytes"), "1000\n");
        write(root, &format!("{v1}/a/memory.usage_in_bytes"), "100\n");
        assert_eq!(room(root), Some((900, "memory.limit_in_bytes")));
        write(root, "sys/fs/cgroup/x/y/memory.max", "max\n");
        write(root, "sys/fs/cgroup/x/y/memory.current", "1\n");
        assert_eq!(room(root), Some((900, "memory.limit_in_bytes")));
        write(root, "sys/fs/cgroup/x/memory.max", "50\n");
        write(root, "sys/fs/cgroup/x/memory.current", "60\n");
        assert_eq!(room(root), Some((0, "memory.max")));
    }

    /// The machine's page cache counts as free, and so does the group's.
    #[test]
    fn cache_that_can_be_dropped_is_not_used() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        write(root, "sys/fs/cgroup/x/memory.max", "1000\n");
        write(root, "sys/fs/cgroup/x/memory.current", "900\n");
        write(
            root,
            "sys/fs/cgroup/x/memory.stat",
            "anon 100\nfile 800\ninactive_file 700\nactive_file 100\n",
        );
        assert_eq!(room(root), Some((800, "memory.max")));
        let v1 = "sys/fs/cgroup/memory";
        write(root, &format!("{v1}/memory.limit_in_bytes"), "500\n");
        write(root, &format!("{v1}/memory.usage_in_bytes"), "450\n");
        write(root, &format!("{v1}/memory.stat"), "inactive_file 9\ntotal_inactive_file 350\n");
        assert_eq!(room(root), Some((400, "memory.limit_in_bytes")));
    }

    #[test]
    fn a_group_that_is_throttled_has_no_room() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        write(root, "sys/fs/cgroup/x/y/memory.max", "8000\n");
        write(root, "sys/fs/cgroup/x/y/memory.high", "2000\n");
        write(root, "sys/fs/cgroup/x/y/memory.current", "100\n");
        assert_eq!(room(root), Some((1_900, "memory.high")));
        // A parent's counts, too.
        write(root, "sys/fs/cgroup/memory.high", "1000\n");
        write(root, "sys/fs/cgroup/memory.current", "300\n");
        assert_eq!(room(root), Some((700, "memory.high")));
    }

    #[test]
    fn cpu_quotas_are_thousandths_of_a_core() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert_eq!(cpu_quota(root, BOTH), None);
        write(root, "sys/fs/cgroup/x/y/cpu.max", "max 100000\n");
        write(root, "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "-1\n");
        write(root, "sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000\n");
        assert_eq!(cpu_quota(root, BOTH), None);
        write(root, "sys/fs/cgroup/x/cpu.max", "250000 100000\n");
        assert_eq!(cpu_quota(root, BOTH), Some(2_500));
        write(root, "sys/fs/cgroup/cpu/a/b/cpu.cfs_quota_us", "50000\n");
        write(root, "sys/fs/cgroup/cpu/a/b/cpu.cfs_period_us", "100000\n");
        assert_eq!(cpu_quota(root, BOTH), Some(500));
    }
}
