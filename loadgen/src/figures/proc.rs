//! `/proc/PID`: memory, CPU time and open descriptors of a process.

use std::fs;

use serde::Serialize;

/// Figures of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Process {
    /// Proportional set size, in bytes (`smaps_rollup`).
    pub pss_bytes: Option<u64>,
    /// Private dirty memory, in bytes (`smaps_rollup`).
    pub private_dirty_bytes: Option<u64>,
    /// User CPU time, in milliseconds.
    pub user_ms: Option<u64>,
    /// System CPU time, in milliseconds.
    pub system_ms: Option<u64>,
    /// Open file descriptors.
    pub open_fds: Option<u64>,
}

impl Process {
    /// Reads a process.
    pub fn read(pid: u32) -> Self {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok();
        let times = stat.as_deref().and_then(cpu_ticks);
        let ms = |ticks: u64| ticks * 1000 / rustix::param::clock_ticks_per_second();
        Self {
            pss_bytes: rollup.as_deref().and_then(|text| rollup_bytes(text, "Pss:")),
            private_dirty_bytes: rollup.as_deref().and_then(|text| rollup_bytes(text, "Private_Dirty:")),
            user_ms: times.map(|(user, _)| ms(user)),
            system_ms: times.map(|(_, system)| ms(system)),
            open_fds: fs::read_dir(format!("/proc/{pid}/fd")).ok().map(|entries| entries.count() as u64),
        }
    }

    /// Reads several processes and adds them up; none without any.
    pub fn read_sum(pids: &[u32]) -> Self {
        let mut all = pids.iter().map(|&pid| Self::read(pid));
        let Some(first) = all.next() else { return Self::default() };
        all.fold(first, |a, b| {
            let add = |a: Option<u64>, b: Option<u64>| Some(a? + b?);
            Self {
                pss_bytes: add(a.pss_bytes, b.pss_bytes),
                private_dirty_bytes: add(a.private_dirty_bytes, b.private_dirty_bytes),
                user_ms: add(a.user_ms, b.user_ms),
                system_ms: add(a.system_ms, b.system_ms),
                open_fds: add(a.open_fds, b.open_fds),
            }
        })
    }

    /// User and system CPU time together, in milliseconds.
    pub fn cpu_ms(&self) -> Option<u64> {
        Some(self.user_ms? + self.system_ms?)
    }
}

/// A line of `smaps_rollup`, such as `Pss:  123 kB`, in bytes.
fn rollup_bytes(text: &str, label: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kb| kb * 1024)
}

/// utime and stime of `/proc/PID/stat`, in ticks: fields 14 and 15; the command in field 2 may
/// contain anything, but nothing after its closing parenthesis has one.
fn cpu_ticks(stat: &str) -> Option<(u64, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_command_name_does_not_shift_the_fields() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 110 0 0 0 31 42 0 0 20 0 1 0 100 5 6";
        assert_eq!(cpu_ticks(stat), Some((31, 42)));
    }

    #[test]
    fn rollup_lines_are_not_mixed_up() {
        let text = "Rss:  900 kB\nPss:                 123 kB\nPss_Dirty:  7 kB\nPrivate_Dirty:   5 kB\n";
        assert_eq!(rollup_bytes(text, "Pss:"), Some(123 * 1024));
        assert_eq!(rollup_bytes(text, "Private_Dirty:"), Some(5 * 1024));
        assert_eq!(rollup_bytes(text, "Swap:"), None);
    }

    #[test]
    fn this_process_can_be_read_and_no_process_is_none() {
        let own = Process::read(std::process::id());
        assert!(own.pss_bytes.unwrap() > 0 && own.open_fds.unwrap() >= 3 && own.cpu_ms().is_some());
        assert_eq!(Process::read(u32::MAX), Process::default());
        assert_eq!(Process::read_sum(&[]), Process::default());
        assert_eq!(Process::read_sum(&[std::process::id(), u32::MAX]).pss_bytes, None);
    }
}
