//! The name of every metric, in one place. docs/metrics.md is made from this table.
//!
//! Names follow the conventions of Prometheus: a prefix, base units, `_total` on counters (added
//! when written).

use crate::core::stats::Stat;

/// A family of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// The name, without a counter's `_total`.
    pub name: &'static str,
    /// What kind of numbers.
    pub kind: Kind,
    /// What it says.
    pub help: &'static str,
    /// The labels of its members.
    pub labels: &'static [&'static str],
}

/// What kind of numbers a family has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, kind: Kind::Counter, help, labels }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, kind: Kind::Gauge, help, labels }
}

macro_rules! families {
    ($( $ident:ident = $kind:ident($name:literal, [$($label:literal),*], $help:literal); )+) => {
        $( #[doc = $help] pub const $ident: Family = $kind($name, &[$($label),*], $help); )+

        /// Every family, in the order of the output.
        pub const FAMILIES: &[Family] = &[$($ident),+];
    };
}

families! {
    BUILD_INFO = gauge("roost_build_info", ["version"], "1, with the version of the gateway.");
    READY = gauge("roost_ready", [], "1 while /readyz says so.");
    CONNECTIONS = gauge("roost_connections", ["shard"], "Connections between accept and close.");
    CONNECTIONS_BY_STATE =
        gauge("roost_connections_by_state", ["shard", "state"], "Connections by state; they sum to roost_connections.");
    CONNECTIONS_BLOCKED =
        gauge("roost_connections_blocked", ["shard"], "Connections that are not read: their link's window is full, or no worker is up.");
    SLOTS_STARTED = gauge("roost_slots_started", ["shard"], "Slots with a ring behind them.");
    SLOTS_MAX = gauge("roost_slots_max", ["shard"], "Slots that the shard may use in all.");
    ACCEPTS = counter("roost_accepts", ["shard"], "Connections accepted.");
    ACCEPT_ERRORS = counter("roost_accept_errors", ["shard"], "Accepts that failed, for want of descriptors or memory.");
    ACCEPTS_ARMED = gauge("roost_accepts_armed", ["shard"], "Accepts in the kernel.");
    CLOSES = counter("roost_closes", ["shard", "reason"], "Connections closed, by reason; they sum to accepted less held.");
    CLIENT_BYTES = counter("roost_client_bytes", ["shard", "direction"], "Bytes received from and sent to clients.");
    CLIENT_FRAMES = counter("roost_client_frames", ["shard", "direction"], "Whole frames received from and queued to clients, PING and PONG included.");
    MESSAGES_FORWARDED = counter("roost_messages_forwarded", ["shard"], "Messages of clients forwarded to workers.");
    MESSAGES_DELIVERED = counter("roost_messages_delivered", ["shard"], "Messages of workers delivered to a client's socket or outbox.");
    PINGS_ANSWERED = counter("roost_pings_answered", ["shard"], "Heartbeats answered.");
    FANOUT_DELIVERIES = counter("roost_fanout_deliveries", ["shard"], "Deliveries of multicasts and broadcasts, one per receiver.");
    BLOCKED = counter("roost_blocked", ["shard"], "Times a connection stopped being read for want of credit or a worker.");
    SHORT_SENDS = counter("roost_short_sends", ["shard"], "Sends to clients that took only a part of what was offered, or nothing.");
    RECEIVE_BUFFER_WAITS = counter("roost_receive_buffer_waits", ["shard"], "Receives that had to wait for a buffer.");
    READS_POSTPONED = counter("roost_reads_postponed", ["shard"], "Clients that had sent more frames than are handled at a stretch; they went on later.");
    PER_IP_UNTRACKED = counter("roost_per_ip_untracked", ["shard"], "Connections that per_ip_max could not track, for a full bucket; they were admitted.");
    LINKS_UP = gauge("roost_links_up", ["shard"], "Links that are up.");
    LINK_UP = gauge("roost_link_up", ["shard", "worker"], "1 while this link is up.");
    LINK_STATE = gauge("roost_link_state", ["shard", "worker"], "0 absent, 1 down, 2 connecting, 3 handshaking, 4 up, 5 closing, 6 proving (LINK_PROOF is sent, the first frame awaited), 7 refusing.");
    LINK_DRAINING = gauge("roost_link_draining", ["shard", "worker"], "1 while the worker asks to be left.");
    LINK_WINDOW = gauge("roost_link_window_bytes", ["shard", "worker"], "What the worker takes without acknowledgement.");
    LINK_RETAINED = gauge("roost_link_retained_bytes", ["shard", "worker"], "Queued or not yet acknowledged: the link's lag in bytes.");
    LINK_LAG_FRAMES = gauge("roost_link_lag_frames", ["shard", "worker"], "Frames queued or not yet acknowledged.");
    LINK_CONNECTIONS = gauge("roost_link_connections", ["shard", "worker"], "Connections routed over the link.");
    LINK_BLOCKED = gauge("roost_link_connections_blocked", ["shard", "worker"], "Connections that wait for credit of the link.");
    LINK_FAILURES = gauge("roost_link_attempts_failed", ["shard", "worker"], "Attempts to bring the link up that have failed since it was up; the log says why.");
    WORKER_PARTITIONS = gauge("roost_worker_partitions", ["shard", "worker"], "Partitions of keys that this worker owns, of 16,384.");
    WORKER_BREAKS = counter("roost_worker_link_breaks", ["shard", "worker"], "TCP connections to this worker that broke or did not come up.");
    WORKER_FAILOVERS = counter("roost_worker_failovers", ["shard", "worker"], "Sessions with this worker that were given up.");
    LINK_BYTES = counter("roost_link_bytes", ["shard", "direction"], "Bytes received and sent on links, repeated ones included.");
    LINK_BREAKS = counter("roost_link_breaks", ["shard"], "Link TCP connections that broke or did not come up.");
    LINK_RESUMES = counter("roost_link_resumes", ["shard"], "Links that came up and went on with their session.");
    LINK_SESSIONS = counter("roost_link_sessions", ["shard"], "Links that came up with a new session.");
    LINK_FAILOVERS = counter("roost_link_failovers", ["shard"], "Sessions given up: the worker stayed away or forgot.");
    LINK_OVERRUNS = counter("roost_link_overruns", ["shard"], "Sessions given up for the memory that waits for their worker.");
    LINK_ERRORS = counter("roost_link_protocol_errors", ["shard"], "Violations of the link protocol by workers.");
    LINK_FRAMES_STALE = counter("roost_link_frames_stale", ["shard"], "Frames of workers for connections that are gone or belong to another worker.");
    FRAMES_RESENT = counter("roost_link_frames_resent", ["shard"], "Frames sent to another worker after a failover, marked as sent again.");
    CONNECTIONS_MOVED = counter("roost_connections_moved", ["shard"], "Connections moved to another worker.");
    CONNECTIONS_REKEYED = counter("roost_connections_rekeyed", ["shard"], "Connections that their worker gave another routing hash when it accepted them.");
    RELAYS_FORWARDED = counter("roost_relays_forwarded", ["shard"], "Messages between workers passed on.");
    RELAYS_DROPPED = counter("roost_relays_dropped", ["shard"], "Messages between workers dropped: no worker up, or its queue full.");
    RELAYS_ORIGIN_GONE = counter("roost_relays_origin_gone", ["shard"], "Answers between workers dropped: the session that asked is gone.");
    OUTBOXES = gauge("roost_outboxes", ["shard"], "Clients with unsent data.");
    OUTBOX_BYTES = gauge("roost_outbox_bytes", ["shard"], "Unsent data for clients.");
    SPILLS = gauge("roost_spills", ["shard"], "Clients with an incomplete frame.");
    SPILL_BYTES = gauge("roost_spill_bytes", ["shard"], "Data of incomplete frames.");
    MEMORY = gauge("roost_memory_bytes", ["shard", "part"], "Memory held by part: outbox and spill chunks, frames retained for links.");
    LOOP_TURN = histogram("roost_loop_turn_seconds", ["shard"], "From reaping completions to submitting the operations they caused.");
    LOOP_BUSY = counter("roost_loop_busy_seconds", ["shard"], "Time the loop spent working.");
    COMPLETIONS = counter("roost_completions", ["shard"], "Completions reaped.");
    LATE_COMPLETIONS = counter("roost_late_completions", ["shard"], "Completions whose slot or link belongs to somebody else by now; ignored.");
    LOG_LINES = counter("roost_log_lines_left_out", ["cause"], "Lines left out of the log: over the rate of their level, no room in the queue, or not written.");
    KERNEL_SOCKETS = gauge("roost_kernel_tcp_sockets", [], "TCP sockets in this network namespace (/proc/net/sockstat).");
    KERNEL_SLAB = gauge("roost_kernel_slab_bytes", [], "Slab memory of the whole machine (/proc/meminfo).");
    BASELINE =
        gauge("roost_baseline_bytes", ["part"], "process_resident_memory_bytes and roost_kernel_slab_bytes at the start, to measure growth from.");
    PROCESS_CPU = counter("process_cpu_seconds", [], "User and system time of the process.");
    PROCESS_RESIDENT = gauge("process_resident_memory_bytes", [], "Resident memory of the process.");
    PROCESS_FDS = gauge("process_open_fds", [], "Open file descriptors of the process.");
    PROCESS_FDS_MAX = gauge("process_max_fds", [], "Soft limit on open file descriptors.");
    PROCESS_START = gauge("process_start_time_seconds", [], "When the process started, since 1970.");
}

const fn histogram(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family { name, kind: Kind::Histogram, help, labels }
}

/// Where a shard's figure goes: its family, and the value of the label besides `shard`.
///
/// None: the figure is written in another form (total closes are the sum of their reasons).
pub(super) const fn of(stat: Stat) -> Option<(Family, Option<&'static str>)> {
    Some(match stat {
        Stat::Connections => (CONNECTIONS, None),
        Stat::ConnectionsHandshaking => (CONNECTIONS_BY_STATE, Some("handshaking")),
        Stat::ConnectionsOpening => (CONNECTIONS_BY_STATE, Some("opening")),
        Stat::ConnectionsOpen => (CONNECTIONS_BY_STATE, Some("open")),
        Stat::ConnectionsDraining => (CONNECTIONS_BY_STATE, Some("draining")),
        Stat::ConnectionsClosing => (CONNECTIONS_BY_STATE, Some("closing")),
        Stat::ConnectionsBlocked => (CONNECTIONS_BLOCKED, None),
        Stat::SlotsStarted => (SLOTS_STARTED, None),
        Stat::SlotsMax => (SLOTS_MAX, None),
        Stat::Accepts => (ACCEPTS, None),
        Stat::AcceptErrors => (ACCEPT_ERRORS, None),
        Stat::AcceptsArmed => (ACCEPTS_ARMED, None),
        Stat::Closes => return None,
        Stat::ClientBytesReceived => (CLIENT_BYTES, Some("received")),
        Stat::ClientBytesSent => (CLIENT_BYTES, Some("sent")),
        Stat::ClientFramesReceived => (CLIENT_FRAMES, Some("received")),
        Stat::ClientFramesSent => (CLIENT_FRAMES, Some("sent")),
        Stat::MessagesForwarded => (MESSAGES_FORWARDED, None),
        Stat::MessagesDelivered => (MESSAGES_DELIVERED, None),
        Stat::PingsAnswered => (PINGS_ANSWERED, None),
        Stat::LinkBytesReceived => (LINK_BYTES, Some("received")),
        Stat::LinkBytesSent => (LINK_BYTES, Some("sent")),
        Stat::LinkFramesStale => (LINK_FRAMES_STALE, None),
        Stat::FramesResent => (FRAMES_RESENT, None),
        Stat::RelaysForwarded => (RELAYS_FORWARDED, None),
        Stat::RelaysDropped => (RELAYS_DROPPED, None),
        Stat::RelaysOriginGone => (RELAYS_ORIGIN_GONE, None),
        Stat::ConnectionsRekeyed => (CONNECTIONS_REKEYED, None),
        Stat::FanoutDeliveries => (FANOUT_DELIVERIES, None),
        Stat::LinkResumes => (LINK_RESUMES, None),
        Stat::LinkSessionsStarted => (LINK_SESSIONS, None),
        Stat::LinkBreaks => (LINK_BREAKS, None),
        Stat::LinkErrors => (LINK_ERRORS, None),
        Stat::LinkFailovers => (LINK_FAILOVERS, None),
        Stat::LinkOverruns => (LINK_OVERRUNS, None),
        Stat::ConnectionsMoved => (CONNECTIONS_MOVED, None),
        Stat::LinksUp => (LINKS_UP, None),
        Stat::OutboxBytes => (OUTBOX_BYTES, None),
        Stat::Outboxes => (OUTBOXES, None),
        Stat::OutboxPoolBytes => (MEMORY, Some("outbox")),
        Stat::SpillBytes => (SPILL_BYTES, None),
        Stat::Spills => (SPILLS, None),
        Stat::SpillPoolBytes => (MEMORY, Some("spill")),
        Stat::LinkRetainedBytes => (MEMORY, Some("link_retained")),
        Stat::Blocked => (BLOCKED, None),
        Stat::RxPoolWaits => (RECEIVE_BUFFER_WAITS, None),
        Stat::ReadsPostponed => (READS_POSTPONED, None),
        Stat::ShortSends => (SHORT_SENDS, None),
        Stat::LateCompletions => (LATE_COMPLETIONS, None),
        Stat::PerIpUntracked => (PER_IP_UNTRACKED, None),
        // The histogram counts turns and their time.
        Stat::LoopTurns => return None,
        Stat::Completions => (COMPLETIONS, None),
        Stat::LoopBusyNs => return None,
    })
}

/// The states of a link as published, by their number in [`LINK_STATE`].
pub const LINK_STATES: [&str; 8] =
    ["absent", "down", "connecting", "handshaking", "up", "closing", "proving", "refusing"];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{FAMILIES, Kind, of};
    use crate::core::stats::{Stat, StatKind};

    #[test]
    fn families_are_unique_conventional_and_cover_every_figure() {
        let mut names = HashSet::new();
        for family in FAMILIES {
            assert!(names.insert(family.name), "{} twice", family.name);
            assert!(!family.name.ends_with("_total") && family.help.ends_with('.'), "{}", family.name);
        }
        let mut members = HashSet::new();
        for &stat in Stat::ALL {
            if let Some((family, label)) = of(stat) {
                assert!(names.contains(family.name), "{stat:?}");
                let kind = if stat.kind() == StatKind::Counter { Kind::Counter } else { Kind::Gauge };
                assert_eq!(family.kind, kind, "{stat:?}");
                assert_eq!(family.labels.len(), 1 + usize::from(label.is_some()), "{stat:?}");
                assert!(members.insert((family.name, label)), "{stat:?} shares its name");
            }
        }
        assert!(FAMILIES.iter().filter(|family| family.kind == Kind::Histogram).count() == 1);
    }
}
