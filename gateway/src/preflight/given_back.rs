//! What the end of a running gateway makes free for its successor, which reckons while the clients
//! of the old one still hold their memory.

use std::fs;

use serde::{Deserialize, Serialize};

use super::{Capacity, cost::KERNEL_BYTES};
use crate::machine::Machine;

/// What a process holds that is to end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenBack {
    /// Connections of clients.
    pub connections: u64,
    /// Its own memory, in bytes (VmRSS, proc(5)).
    pub memory_bytes: u64,
    /// Its control groups, as `/proc/self/cgroup` has them: memory comes back to these.
    pub groups: String,
    /// The connections that it reckoned with `auto` at its start; none if they were configured.
    pub capacity: Option<u32>,
}

impl GivenBack {
    /// What this process holds.
    pub fn of_this_process(connections: u64, capacity: Option<u32>) -> Self {
        Self { connections, memory_bytes: resident_bytes(), groups: groups(), capacity }
    }

    /// Counts it as free already.
    pub(super) fn add_to(&self, machine: &mut Machine) {
        let bytes = self.memory_bytes.saturating_add(self.connections.saturating_mul(KERNEL_BYTES));
        let free = |bytes_free: u64| bytes_free.saturating_add(bytes);
        machine.memory_free_bytes =
            machine.memory_free_bytes.map(|is| free(is).min(machine.memory_bytes.unwrap_or(u64::MAX)));
        if self.groups == groups() {
            machine.cgroup_free_bytes = machine.cgroup_free_bytes.map(free);
        }
        machine.files_open = machine.files_open.map(|open| open.saturating_sub(self.connections));
    }

    /// The connections for a successor: no fewer than its predecessor had room for by its own
    /// reckoning, unless the kernel refuses so many. What the one gave to its clients, and what others
    /// took for a while meanwhile, is not to bound the next one for its whole life.
    pub(super) fn at_least(&self, capacity: &Capacity) -> u64 {
        let hard = capacity.limits.iter().filter(|limit| limit.hard).map(|limit| limit.connections).min();
        match (capacity.wanted, self.capacity) {
            (None, Some(had)) => capacity.reachable().max(u64::from(had).min(hard.unwrap_or(0))),
            _ => capacity.connections(),
        }
    }
}

fn groups() -> String {
    fs::read_to_string("/proc/self/cgroup").unwrap_or_default()
}

fn resident_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Config, preflight::Demand};

    const GIB: u64 = 1 << 30;

    fn machine(free: u64) -> Machine {
        Machine {
            cores: 2,
            nofile_soft: 20_000,
            nofile_hard: 20_000,
            file_max: Some(8_000_000),
            files_open: Some(1_000),
            memory_bytes: Some(24 * GIB),
            memory_free_bytes: Some(free),
            ..Machine::default()
        }
    }

    fn reckoned(machine: &Machine, config: &Config, given_back: &GivenBack) -> u64 {
        let mut machine = machine.clone();
        given_back.add_to(&mut machine);
        given_back.at_least(&Capacity::of(&machine, &Demand::of(config, 2, true)))
    }

    #[test]
    fn a_successor_has_the_room_that_its_predecessors_clients_leave() {
        let config = Config::default();
        let alone = reckoned(&machine(9 * GIB), &config, &GivenBack::default());
        let held = GivenBack { connections: 1_400_000, memory_bytes: 90_000_000, ..GivenBack::default() };
        let beside = Machine {
            memory_free_bytes: Some(9 * GIB - 1_400_000 * KERNEL_BYTES - 90_000_000),
            files_open: Some(1_401_000),
            ..machine(0)
        };
        assert!(reckoned(&beside, &config, &GivenBack::default()) < alone / 4);
        assert_eq!(reckoned(&beside, &config, &held), alone);
    }

    #[test]
    fn it_has_no_less_than_its_predecessor_reckoned_unless_the_kernel_refuses() {
        let config = Config::default();
        let had = GivenBack { capacity: Some(1_700_000), ..GivenBack::default() };
        assert_eq!(reckoned(&machine(3 * GIB), &config, &had), 1_700_000);
        let few = Machine { nofile_soft: 66, ..machine(3 * GIB) };
        let hard = Capacity::of(&few, &Demand::of(&config, 2, true)).limits[0].connections;
        assert_eq!(reckoned(&few, &config, &had), hard);
        let configured = Config { connections_max: crate::config::Auto::Value(77), ..Config::default() };
        assert_eq!(reckoned(&machine(3 * GIB), &configured, &had), 77);
    }

    #[test]
    fn this_process_has_memory() {
        assert!(GivenBack::of_this_process(0, None).memory_bytes > 100_000);
    }
}
