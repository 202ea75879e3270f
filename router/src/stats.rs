//! What a worker counts: single-writer relaxed atomics, read by any thread.
//!
//! Only the worker's own thread writes, so an increment is a plain load and store. Readers see
//! each value whole, though not all values of one instant.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! stats {
    ($( $(#[doc = $doc:literal])* $name:ident = $label:literal: $kind:ident; )+) => {
        /// One figure of a worker.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Stat { $( $(#[doc = $doc])* $name, )+ }

        impl Stat {
            /// Every figure.
            pub const ALL: &'static [Stat] = &[ $( Stat::$name, )+ ];

            /// The key in JSON; in Prometheus text `roost_worker_` stands before it.
            pub const fn label(self) -> &'static str {
                match self { $( Stat::$name => $label, )+ }
            }

            /// Whether it only grows or is a level.
            pub const fn kind(self) -> StatKind {
                match self { $( Stat::$name => StatKind::$kind, )+ }
            }

            /// One line for people.
            pub const fn help(self) -> &'static str {
                match self { $( Stat::$name => concat!($($doc),*).trim_ascii(), )+ }
            }
        }
    };
}

/// Whether a figure only grows or is a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
}

stats! {
    /// Messages of clients that the handler has seen.
    MessagesHandled = "messages_handled": Counter;
    /// Messages queued to single clients.
    MessagesSent = "messages_sent": Counter;
    /// MULTICAST and BROADCAST frames queued.
    FanoutsSent = "fanouts_sent": Counter;
    /// Connections opened (OPEN).
    Opens = "opens": Counter;
    /// Of those: refused by the handler.
    Rejects = "rejects": Counter;
    /// Connections taken over from another worker (REOPEN).
    Reopens = "reopens": Counter;
    /// Connections that have gone, whatever the reason.
    Closes = "closes": Counter;
    /// Frames marked re-sent after a failover.
    ResentReceived = "resent_received": Counter;
    /// Frames that came again after a TCP break and had been handled already.
    DuplicatesDropped = "duplicates_dropped": Counter;
    /// Frames for connections that are not open here (they crossed a CLOSE).
    StaleFrames = "stale_frames": Counter;
    /// Sends that the handler was refused: receiver gone, a bound reached or payload too long.
    SendsRefused = "sends_refused": Counter;
    /// Connections refused or closed because their key has as many as it may.
    KeyLimited = "key_limited": Counter;
    /// Messages published on topics.
    Publishes = "publishes": Counter;
    /// Joins of topics that were refused.
    JoinsRefused = "joins_refused": Counter;
    /// RELAY frames received.
    RelaysReceived = "relays_received": Counter;
    /// RELAY frames queued.
    RelaysSent = "relays_sent": Counter;
    /// Frames set aside because the queue of the replies was full.
    FramesHeld = "frames_held": Counter;
    /// Acknowledgements sent.
    AcksSent = "acks_sent": Counter;
    /// Bytes received on links.
    LinkBytesReceived = "link_bytes_received": Counter;
    /// Bytes sent on links, re-sent ones included.
    LinkBytesSent = "link_bytes_sent": Counter;
    /// Reads from links that brought bytes.
    LinkReads = "link_reads": Counter;
    /// Writes to links.
    LinkWrites = "link_writes": Counter;
    /// Link sessions started.
    SessionsStarted = "sessions_started": Counter;
    /// TCP connections that took up an existing session.
    SessionsResumed = "sessions_resumed": Counter;
    /// Sessions given up because the gateway stayed away.
    SessionsExpired = "sessions_expired": Counter;
    /// Sessions discarded because the gateway began a new one.
    SessionsReplaced = "sessions_replaced": Counter;
    /// TCP connections of links that ended.
    LinkBreaks = "link_breaks": Counter;
    /// Of those: by a protocol error of the peer.
    LinkErrors = "link_errors": Counter;
    /// Handshakes that failed.
    LinksRefused = "links_refused": Counter;
    /// Links that are up.
    Links = "links": Gauge;
    /// Sessions, with and without a TCP connection.
    Sessions = "sessions": Gauge;
    /// Open connections.
    Connections = "connections": Gauge;
    /// Topics that have members.
    Topics = "topics": Gauge;
    /// Members of topics.
    TopicMembers = "topic_members": Gauge;
    /// Bytes that topics and their members count.
    TopicBytes = "topic_bytes": Gauge;
    /// Timers that are set.
    Timers = "timers": Gauge;
    /// Rounds of time-driven work, several a second; they stop with the worker's thread.
    Ticks = "ticks": Counter;
}

/// The figures of one worker.
#[derive(Debug)]
pub struct Stats([AtomicU64; Stat::ALL.len()]);

impl Default for Stats {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; Stat::ALL.len()])
    }
}

impl Stats {
    /// The value now.
    pub fn get(&self, stat: Stat) -> u64 {
        self.0[stat as usize].load(Relaxed)
    }

    /// Adds to a figure; only the worker's thread may.
    #[inline]
    pub(crate) fn add(&self, stat: Stat, count: u64) {
        let value = &self.0[stat as usize];
        value.store(value.load(Relaxed).wrapping_add(count), Relaxed);
    }

    /// Says how high a gauge stands; only the worker's thread may.
    #[inline]
    pub(crate) fn set(&self, stat: Stat, value: u64) {
        debug_assert!(stat.kind() == StatKind::Gauge, "{stat:?} counts");
        self.0[stat as usize].store(value, Relaxed);
    }

    /// Subtracts from a gauge; only the worker's thread may.
    #[inline]
    pub(crate) fn sub(&self, stat: Stat, count: u64) {
        debug_assert!(stat.kind() == StatKind::Gauge && self.get(stat) >= count, "{stat:?} below 0");
        self.add(stat, count.wrapping_neg());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_unique_and_explained() {
        let labels: std::collections::HashSet<_> = Stat::ALL.iter().map(|stat| stat.label()).collect();
        assert_eq!(labels.len(), Stat::ALL.len());
        assert!(Stat::ALL.iter().all(|stat| stat.help().ends_with(['.'])));
    }

    #[test]
    fn a_gauge_goes_up_and_down() {
        let stats = Stats::default();
        stats.add(Stat::Links, 3);
        stats.sub(Stat::Links, 2);
        assert_eq!(stats.get(Stat::Links), 1);
    }
}
