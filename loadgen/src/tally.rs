//! What is counted.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// Counts of one load thread, or of all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Connections that were not established, by errno.
    pub connect_failed: BTreeMap<i32, u64>,
    /// Connections refused by GOAWAY before WELCOME, by reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// Of those, without a retry-after.
    pub refused_without_retry_after: u64,
    /// Established connections that ended against the plan, by reason.
    pub disconnected: BTreeMap<&'static str, u64>,
    /// Connections that ended because the scenario wanted it.
    pub left: u64,
    /// Sessions opened (WELCOME received), reconnects included.
    pub opened: u64,
    /// MESSAGE frames sent.
    pub messages_sent: u64,
    /// MESSAGE frames received.
    pub messages_received: u64,
    /// Messages that the schedule wanted.
    pub scheduled: u64,
    /// Of those, sent.
    pub scheduled_sent: u64,
    /// Heartbeats that were due.
    pub heartbeats_due: u64,
    /// PING frames sent.
    pub heartbeats_sent: u64,
    /// How late the latest of them was sent, in nanoseconds.
    pub heartbeat_late_ns_max: u64,
    /// PONG frames with the right content.
    pub heartbeats_answered: u64,
    /// PINGs outstanding when the client left on purpose.
    pub heartbeats_cut_off: u64,
    /// Replies that never came though the connection stood.
    pub lost: u64,
    /// Replies that came again.
    pub duplicated: u64,
    /// Replies that came again in a run with an announced failover.
    pub duplicated_after_failover: u64,
    /// Replies that came after a later one.
    pub reordered: u64,
    /// Messages of somebody else.
    pub misdelivered: u64,
    /// Messages whose content nobody sent.
    pub corrupted: u64,
    /// Replies outstanding when their connection ended.
    pub cut_off: u64,
    /// Established connections of slow readers that ended, by reason.
    pub slow_disconnected: BTreeMap<&'static str, u64>,
    /// Deliveries that the worker reported as impossible: user offline.
    pub offline: u64,
    /// Deliveries that the worker refused: congested, too long.
    pub delivery_refused: u64,
    /// Deliveries that the worker acknowledged.
    pub acknowledged: u64,
    /// Frames that break the protocol.
    pub protocol_errors: u64,
}

impl Tally {
    /// Adds another thread's counts.
    pub fn merge(&mut self, other: &Self) {
        fn merge_map<K: Copy + Ord>(into: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
            for (&key, &count) in from {
                *into.entry(key).or_default() += count;
            }
        }
        merge_map(&mut self.connect_failed, &other.connect_failed);
        merge_map(&mut self.refused, &other.refused);
        merge_map(&mut self.disconnected, &other.disconnected);
        merge_map(&mut self.slow_disconnected, &other.slow_disconnected);
        // Every field by name: a new one that is forgotten here does not compile.
        let Self {
            connect_failed: _,
            refused: _,
            disconnected: _,
            slow_disconnected: _,
            refused_without_retry_after,
            left,
            opened,
            messages_sent,
            messages_received,
            scheduled,
            scheduled_sent,
            heartbeats_due,
            heartbeats_sent,
            heartbeat_late_ns_max,
            heartbeats_answered,
            heartbeats_cut_off,
            lost,
            duplicated,
            duplicated_after_failover,
            reordered,
            misdelivered,
            corrupted,
            cut_off,
            offline,
            delivery_refused,
            acknowledged,
            protocol_errors,
        } = self;
        *heartbeat_late_ns_max = other.heartbeat_late_ns_max.max(*heartbeat_late_ns_max);
        for (into, from) in [
            (refused_without_retry_after, other.refused_without_retry_after),
            (left, other.left),
            (opened, other.opened),
            (messages_sent, other.messages_sent),
            (messages_received, other.messages_received),
            (scheduled, other.scheduled),
            (scheduled_sent, other.scheduled_sent),
            (heartbeats_due, other.heartbeats_due),
            (heartbeats_sent, other.heartbeats_sent),
            (heartbeats_answered, other.heartbeats_answered),
            (heartbeats_cut_off, other.heartbeats_cut_off),
            (duplicated_after_failover, other.duplicated_after_failover),
            (lost, other.lost),
            (duplicated, other.duplicated),
            (reordered, other.reordered),
            (misdelivered, other.misdelivered),
            (corrupted, other.corrupted),
            (cut_off, other.cut_off),
            (offline, other.offline),
            (delivery_refused, other.delivery_refused),
            (acknowledged, other.acknowledged),
            (protocol_errors, other.protocol_errors),
        ] {
            *into += from;
        }
    }

    /// Connections that were not established.
    pub fn connect_failed_total(&self) -> u64 {
        self.connect_failed.values().sum()
    }

    /// Connections that ended against the plan.
    pub fn disconnected_total(&self) -> u64 {
        self.disconnected.values().sum()
    }
}

/// Where one load thread stands: written by it alone, read by anybody.
#[derive(Debug, Default)]
pub struct Status {
    /// Connections between connect and WELCOME.
    pub connecting: AtomicU64,
    /// Sessions open now.
    pub open: AtomicU64,
    /// Lowest `open` since the hold began; meaningless before.
    pub open_min: AtomicU64,
    /// Sessions still to be closed on purpose.
    pub leaving: AtomicU64,
    /// Connections not established, so far.
    pub connect_failed: AtomicU64,
    /// Refused by GOAWAY, so far.
    pub refused: AtomicU64,
    /// Of the refused, those without retry-after.
    pub refused_without_retry_after: AtomicU64,
    /// Messages that the worker reported as undeliverable.
    pub undeliverable: AtomicU64,
    /// Clients that wait for their time to connect again.
    pub waiting: AtomicU64,
    /// Ended against the plan, so far.
    pub disconnected: AtomicU64,
    /// Sessions opened, so far.
    pub opened: AtomicU64,
    /// MESSAGE frames sent, so far.
    pub sent: AtomicU64,
    /// MESSAGE frames received, so far.
    pub received: AtomicU64,
    /// PINGs sent, so far.
    pub pings_sent: AtomicU64,
    /// Replies outstanding, without those of slow readers.
    pub outstanding: AtomicU64,
    /// Replies of slow readers outstanding.
    pub slow_outstanding: AtomicU64,
    /// Sessions of slow readers that have ended.
    pub slow_closed: AtomicU64,
    /// Messages that schedule and check still have to send.
    pub to_send: AtomicU64,
    /// PINGs without PONG yet.
    pub pings_outstanding: AtomicU64,
    /// Clients open now that have had a PONG since they opened.
    pub answered: AtomicU64,
    /// CPU time of the thread, in nanoseconds.
    pub cpu_ns: AtomicU64,
    /// Time that the thread was ready to run and waited for a core, in nanoseconds.
    pub core_wait_ns: AtomicU64,
    /// Commands carried out (begun), so far.
    pub commands: AtomicU64,
}

/// A copy of [`Status`], summed over threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of Status")]
pub struct Snapshot {
    pub connecting: u64,
    pub open: u64,
    pub open_min: u64,
    pub leaving: u64,
    pub connect_failed: u64,
    pub refused: u64,
    pub refused_without_retry_after: u64,
    pub undeliverable: u64,
    pub waiting: u64,
    pub disconnected: u64,
    pub opened: u64,
    pub sent: u64,
    pub received: u64,
    pub pings_sent: u64,
    pub outstanding: u64,
    pub slow_outstanding: u64,
    pub slow_closed: u64,
    pub to_send: u64,
    pub pings_outstanding: u64,
    pub answered: u64,
    pub cpu_ns: u64,
    /// The busiest single thread's CPU time.
    pub cpu_ns_max: u64,
    /// CPU time and waiting for a core, of the thread that had most of both.
    pub wanted_ns_max: u64,
}

impl Snapshot {
    /// Adds one thread's status.
    pub fn add(&mut self, status: &Status) {
        self.connecting += status.connecting.load(Relaxed);
        self.open += status.open.load(Relaxed);
        self.open_min += status.open_min.load(Relaxed);
        self.leaving += status.leaving.load(Relaxed);
        self.connect_failed += status.connect_failed.load(Relaxed);
        self.refused += status.refused.load(Relaxed);
        self.refused_without_retry_after += status.refused_without_retry_after.load(Relaxed);
        self.undeliverable += status.undeliverable.load(Relaxed);
        self.waiting += status.waiting.load(Relaxed);
        self.disconnected += status.disconnected.load(Relaxed);
        self.opened += status.opened.load(Relaxed);
        self.sent += status.sent.load(Relaxed);
        self.received += status.received.load(Relaxed);
        self.slow_outstanding += status.slow_outstanding.load(Relaxed);
        self.slow_closed += status.slow_closed.load(Relaxed);
        self.pings_sent += status.pings_sent.load(Relaxed);
        self.outstanding += status.outstanding.load(Relaxed);
        self.to_send += status.to_send.load(Relaxed);
        self.pings_outstanding += status.pings_outstanding.load(Relaxed);
        self.answered += status.answered.load(Relaxed);
        let cpu_ns = status.cpu_ns.load(Relaxed);
        self.cpu_ns += cpu_ns;
        self.cpu_ns_max = self.cpu_ns_max.max(cpu_ns);
        self.wanted_ns_max = self.wanted_ns_max.max(cpu_ns + status.core_wait_ns.load(Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_and_numbers_add_up() {
        let mut a = Tally { lost: 1, connect_failed: [(111, 2)].into(), ..Tally::default() };
        let b = Tally { lost: 2, connect_failed: [(111, 1), (110, 5)].into(), ..Tally::default() };
        a.merge(&b);
        assert_eq!((a.lost, a.connect_failed_total()), (3, 8));
    }
}
