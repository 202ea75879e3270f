//! The network namespace in which the clients' devices and the servers under test meet.

use std::{fs::File, net::Ipv4Addr, os::fd::AsFd};

use anyhow::Context;
use rustix::{
    fs::{FlockOperation, flock},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use super::{
    device::configure,
    sys::{self, Ask},
    sysctl::{self, Restore},
};

/// The kernel's own limits of `tcp_child_ehash_entries`, and the size from which on it is worth
/// the trouble: below, the table shared by all namespaces does.
const HASH_BUCKETS_MAX: u32 = 1 << 24;
const HASH_BUCKETS_MIN: u32 = 1 << 18;
/// Descriptors of the system, besides one per connection.
const FILES_SPARE: i64 = 100_000;

/// The namespace that the calling thread has entered; what that thread starts, threads and
/// processes, is in it too. Dropping it leads the thread back and undoes what was changed
/// outside. A namespace we made ends with the last process and device in it.
#[derive(Debug)]
pub struct Namespace {
    home: File,
    _restore: Restore,
    notes: Vec<String>,
    own: bool,
}

impl Namespace {
    /// Makes a namespace fit for `connections` and enters it. Call it before other threads are
    /// started: they stay where they are.
    ///
    /// # Errors
    /// One line that names the cause and its remedy.
    pub fn create(connections: u32) -> anyhow::Result<Self> {
        let home = current()?;
        let mut notes = Vec::new();
        let mut restore = Restore::default();
        raise_system_limits(connections, &mut restore, &mut notes)?;
        unshare_with_hash_table(connections, &mut notes)?;
        let namespace = Self { home, _restore: restore, notes, own: true };
        configure("lo", Ask::Up)?;
        set_up_inside()?;
        Ok(namespace)
    }

    /// Enters a namespace that exists, by the name that `ip netns` knows it by or by the id of
    /// a process in it. Nothing in it is changed.
    ///
    /// # Errors
    /// One line that names the cause and its remedy.
    pub fn attach(name_or_pid: &str) -> anyhow::Result<Self> {
        let path = match name_or_pid.parse::<u32>() {
            Ok(pid) => format!("/proc/{pid}/ns/net"),
            Err(_) => format!("/run/netns/{name_or_pid}"),
        };
        let there = File::open(&path)
            .with_context(|| format!("network namespace {name_or_pid:?} ({path}; see `ip netns list`)"))?;
        let home = current()?;
        move_into_link_name_space(there.as_fd(), Some(LinkNameSpaceType::Network)).with_context(|| {
            format!("entering network namespace {name_or_pid:?}: it needs CAP_SYS_ADMIN (run as root)")
        })?;
        let notes = judge_settings();
        Ok(Self { home, _restore: Restore::default(), notes, own: false })
    }

    /// Gives the loopback interface a further address, for servers to listen on.
    pub(super) fn add_address(&self, address: Ipv4Addr) -> anyhow::Result<()> {
        configure("lo:roost", Ask::Address(address))?;
        configure("lo:roost", Ask::Mask(Ipv4Addr::BROADCAST))
    }

    /// Whether we made it.
    pub const fn is_own(&self) -> bool {
        self.own
    }

    /// What was set, or was found and should be otherwise; one line each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = move_into_link_name_space(self.home.as_fd(), Some(LinkNameSpaceType::Network)) {
            crate::say::note(format_args!("the way back to the first network namespace is lost: {error}"));
        }
    }
}

fn current() -> anyhow::Result<File> {
    File::open("/proc/thread-self/ns/net").context("/proc/thread-self/ns/net (is /proc mounted?)")
}

/// Open files and TCP memory are shared by all namespaces.
fn raise_system_limits(
    connections: u32,
    restore: &mut Restore,
    notes: &mut Vec<String>,
) -> anyhow::Result<()> {
    let connections = i64::from(connections);
    if let Some(files_max) = sysctl::read_number("fs.file-max") {
        let wanted = connections + FILES_SPARE;
        if files_max < wanted {
            let before = restore.change("fs.file-max", &wanted.to_string())?;
            notes.push(format!("fs.file-max: {before} -> {wanted} for the time of the run"));
        }
    }
    // Not visible in a namespace of someone's making.
    if let Some(pages) = sysctl::read("net.ipv4.tcp_mem") {
        let current: Vec<i64> = pages.split_whitespace().filter_map(|page| page.parse().ok()).collect();
        // Half a page for each: a message waiting to be read takes about 1,100 bytes.
        let wanted = [connections / 4, connections * 3 / 8, connections / 2];
        if current.len() == 3 && current[2] < wanted[2] {
            let wanted: Vec<String> = wanted
                .iter()
                .zip(&current)
                .map(|(wanted, current)| wanted.max(current).to_string())
                .collect();
            let wanted = wanted.join(" ");
            restore.change("net.ipv4.tcp_mem", &wanted)?;
            notes.push(format!(
                "net.ipv4.tcp_mem: {} -> {wanted} pages for the time of the run",
                current_text(&current)
            ));
        }
    }
    Ok(())
}

fn current_text(values: &[i64]) -> String {
    values.iter().map(i64::to_string).collect::<Vec<_>>().join(" ")
}

/// Makes the namespace, with a table of established connections of its own if there will be
/// many: with the shared one of 262,144 buckets lookups crawl through chains.
fn unshare_with_hash_table(connections: u32, notes: &mut Vec<String>) -> anyhow::Result<()> {
    const SETTING: &str = "net.ipv4.tcp_child_ehash_entries";
    let buckets = connections.next_power_of_two().clamp(HASH_BUCKETS_MIN, HASH_BUCKETS_MAX);
    let unshare = || {
        sys::new_network_namespace()
            .context("making a network namespace: it needs CAP_SYS_ADMIN (run as root)")
    };
    if sysctl::read(SETTING).is_none() {
        notes.push(format!("{SETTING}: this kernel has none (Linux 6.1 has), lookups will be slow"));
        return unshare();
    }
    // The setting is the whole parent namespace's: another generator that starts now must not
    // take our number for the one to put back.
    let lock = File::open("/proc/sys/net/ipv4/tcp_child_ehash_entries")?;
    flock(&lock, FlockOperation::LockExclusive).context("locking tcp_child_ehash_entries")?;
    let mut restore = Restore::default();
    let before = restore.change(SETTING, &buckets.to_string())?;
    unshare()?;
    drop(restore);
    drop(lock);
    notes
        .push(format!("{SETTING}: {before} -> {buckets} while the namespace was made, {before} again since"));
    let got = sysctl::read_number("net.ipv4.tcp_ehash_entries").unwrap_or(0);
    if got < i64::from(buckets) {
        notes
            .push(format!("the namespace got {got} hash buckets instead of {buckets}: lookups will be slow"));
    }
    Ok(())
}

/// Settings that belong to the namespace and end with it.
fn set_up_inside() -> anyhow::Result<()> {
    let backlog = (1 << 20).to_string();
    sysctl::write("net.core.somaxconn", &backlog)?;
    sysctl::write("net.ipv4.tcp_max_syn_backlog", &backlog)?;
    // A SYN cookie would hide that the backlog is full.
    sysctl::write("net.ipv4.tcp_syncookies", "0")?;
    for interface in ["all", "default"] {
        sysctl::write(&format!("net.ipv4.conf.{interface}.rp_filter"), "0")?;
    }
    // Devices without IPv6 send no router solicitations to the clients.
    if sysctl::read("net.ipv6.conf.default.disable_ipv6").is_some() {
        sysctl::write("net.ipv6.conf.default.disable_ipv6", "1")?;
    }
    Ok(())
}

/// What in a foreign namespace stands in the way of many connections.
fn judge_settings() -> Vec<String> {
    let mut notes = Vec::new();
    let mut expect = |name: &str, fits: fn(i64) -> bool, remedy: &str| {
        if let Some(value) = sysctl::read_number(name).filter(|&value| !fits(value)) {
            notes.push(format!("{name} is {value} in this namespace: {remedy}"));
        }
    };
    expect(
        "net.core.somaxconn",
        |value| value >= 65_536,
        "bursts of connects overflow the backlog; set 1048576",
    );
    expect(
        "net.ipv4.tcp_max_syn_backlog",
        |value| value >= 65_536,
        "bursts of SYNs are dropped; set 1048576",
    );
    expect(
        "net.ipv4.conf.all.rp_filter",
        |value| value != 1,
        "clients of a second device are dropped; set 0",
    );
    expect(
        "net.ipv4.tcp_ehash_entries",
        |value| value > 0,
        "it shares the system's hash table; set tcp_child_ehash_entries before making the namespace",
    );
    notes
}
