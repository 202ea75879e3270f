//! What a shard counts: single-writer relaxed atomics, summed by whoever reads them.
//!
//! Only the shard's own thread writes, so an increment is a plain load and store; readers on
//! other threads see each value whole, though not all values of one instant.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use roost_protocol::Reason;

macro_rules! stats {
    ($( $(#[$doc:meta])* $name:ident: $kind:ident, )+) => {
        /// One figure of a shard.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Stat { $( $(#[$doc])* $name, )+ }

        impl Stat {
            /// Every figure.
            pub const ALL: &'static [Stat] = &[ $( Stat::$name, )+ ];

            /// Whether it only grows or is a level.
            pub const fn kind(self) -> StatKind {
                match self { $( Stat::$name => StatKind::$kind, )+ }
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
    /// Connections in any state between accept and close.
    Connections: Gauge,
    /// Of those: no complete HELLO yet.
    ConnectionsHandshaking: Gauge,
    /// Of those: OPEN sent, no answer from the worker yet.
    ConnectionsOpening: Gauge,
    /// Of those: the session is open.
    ConnectionsOpen: Gauge,
    /// Of those: GOAWAY queued or sent.
    ConnectionsDraining: Gauge,
    /// Of those: being cancelled, joined and closed.
    ConnectionsClosing: Gauge,
    /// Of those: not read because their link's window is full or no worker is up.
    ConnectionsBlocked: Gauge,
    /// Slots with a ring behind them.
    SlotsStarted: Gauge,
    /// Slots this shard may use in all.
    SlotsMax: Gauge,
    /// Connections accepted.
    Accepts: Counter,
    /// Accepts that failed (out of descriptors or memory).
    AcceptErrors: Counter,
    /// Accepts in the kernel.
    AcceptsArmed: Gauge,
    /// Connections closed, whatever the reason; the reasons stand in [`ShardStats::closes`].
    Closes: Counter,
    /// Bytes received from clients.
    ClientBytesReceived: Counter,
    /// Bytes sent to clients.
    ClientBytesSent: Counter,
    /// Whole frames received from clients, PING included.
    ClientFramesReceived: Counter,
    /// Whole frames queued to clients, PONG included.
    ClientFramesSent: Counter,
    /// MESSAGE frames forwarded to workers.
    MessagesForwarded: Counter,
    /// MESSAGE frames of workers delivered to a client's socket or outbox.
    MessagesDelivered: Counter,
    /// PINGs answered.
    PingsAnswered: Counter,
    /// Bytes received on links.
    LinkBytesReceived: Counter,
    /// Bytes sent on links, re-sent ones included.
    LinkBytesSent: Counter,
    /// Frames of workers for connections that are gone or belong to another worker.
    LinkFramesStale: Counter,
    /// Frames sent to another worker after a failover, marked re-sent.
    FramesResent: Counter,
    /// RELAY frames passed on.
    RelaysForwarded: Counter,
    /// RELAY frames dropped: no worker is up, or the owner's queue is over its limit.
    RelaysDropped: Counter,
    /// RELAY frames dropped: the session that they answer is gone.
    RelaysOriginGone: Counter,
    /// Connections that a worker gave another routing hash when it accepted them.
    ConnectionsRekeyed: Counter,
    /// Fan-out deliveries (MULTICAST and BROADCAST), one per receiver.
    FanoutDeliveries: Counter,
    /// Links that came up with a session that went on.
    LinkResumes: Counter,
    /// Links that came up with a new session.
    LinkSessionsStarted: Counter,
    /// Link TCP connections that broke or failed to come up.
    LinkBreaks: Counter,
    /// Link protocol errors by workers.
    LinkErrors: Counter,
    /// Sessions given up after `link_failover_ms` or an unknown instance.
    LinkFailovers: Counter,
    /// Of those: for the memory that a link's queue took.
    LinkOverruns: Counter,
    /// Connections moved to another worker by failover or move.
    ConnectionsMoved: Counter,
    /// Links that are up.
    LinksUp: Gauge,
    /// Bytes in outboxes.
    OutboxBytes: Gauge,
    /// Outboxes in use.
    Outboxes: Gauge,
    /// Bytes of memory held by outbox chunks.
    OutboxPoolBytes: Gauge,
    /// Bytes of incomplete frames.
    SpillBytes: Gauge,
    /// Connections with an incomplete frame.
    Spills: Gauge,
    /// Bytes of memory held by spill chunks.
    SpillPoolBytes: Gauge,
    /// Bytes retained on links until acknowledged, queued ones included.
    LinkRetainedBytes: Gauge,
    /// Times a connection was put on a blocked list.
    Blocked: Counter,
    /// Times a receive had to wait for a receive buffer.
    RxPoolWaits: Counter,
    /// Times a client had sent more frames than are handled at a stretch, and went on later.
    ReadsPostponed: Counter,
    /// Sends that took only a part, or nothing, of what was offered.
    ShortSends: Counter,
    /// Completions whose slot or link had moved on to another generation.
    LateCompletions: Counter,
    /// Connections that per-IP accounting could not track (full bucket).
    PerIpUntracked: Counter,
    /// Turns of the shard loop.
    LoopTurns: Counter,
    /// Completions reaped.
    Completions: Counter,
    /// Nanoseconds the loop spent working, from reaping to submitting.
    LoopBusyNs: Counter,
}

/// Links per shard at a time, those of workers that are leaving included: an index fits a byte.
pub const LINKS_MAX: usize = 256;

/// The state of the link to one worker, as published. A worker that comes into the place of one
/// that has left has figures of its own.
#[derive(Debug)]
pub struct LinkStats {
    /// The worker's name.
    pub worker: Arc<str>,
    /// 0 absent, 1 down, 2 connecting, 3 handshaking, 4 up, 5 closing.
    pub state: AtomicU64,
    /// 1 while the worker says DRAINING.
    pub draining: AtomicU64,
    /// What the worker grants, in bytes.
    pub window_bytes: AtomicU64,
    /// Queued or not yet acknowledged, in bytes.
    pub retained_bytes: AtomicU64,
    /// Sequenced frames queued or not yet acknowledged: the link's lag in frames.
    pub lag_frames: AtomicU64,
    /// Connections routed over the link.
    pub connections: AtomicU64,
    /// Connections blocked by the link.
    pub blocked: AtomicU64,
    /// Partitions of keys that the worker owns, when they were last all known.
    pub partitions: AtomicU64,
    /// Attempts to bring it up that have failed since it was up.
    pub failures: AtomicU64,
    /// TCP connections that broke or did not come up; only grows.
    pub breaks: AtomicU64,
    /// Sessions given up; only grows.
    pub failovers: AtomicU64,
}

impl LinkStats {
    /// Figures of a link that has not been dialled yet.
    pub fn new(worker: &str) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            worker: Arc::from(worker),
            state: zero(),
            draining: zero(),
            window_bytes: zero(),
            retained_bytes: zero(),
            lag_frames: zero(),
            connections: zero(),
            blocked: zero(),
            partitions: zero(),
            failures: zero(),
            breaks: zero(),
            failovers: zero(),
        }
    }
}

/// Buckets of the loop-turn histogram: bucket i counts turns below 2^i microseconds (and not
/// below 2^(i-1)); the last takes the rest.
pub const LOOP_BUCKETS: usize = 24;

/// The figures of one shard.
#[derive(Debug)]
pub struct ShardStats {
    values: [AtomicU64; Stat::ALL.len()],
    closes: [AtomicU64; 256],
    /// Loop-turn times: from reaping completions to submitting what they caused.
    pub loop_turn_us: [AtomicU64; LOOP_BUCKETS],
    /// The links, by index; none where the last worker has left. Locked only to look up or to change
    /// who is there, never while figures are read or written.
    links: RwLock<Vec<Option<Arc<LinkStats>>>>,
    /// Configurations that the shard has taken since its start, and runs with.
    pub configured: AtomicU64,
    /// Whether each connection takes a descriptor of the process; said once, at start.
    pub plain_descriptors: AtomicBool,
}

impl Default for ShardStats {
    fn default() -> Self {
        Self {
            values: [const { AtomicU64::new(0) }; Stat::ALL.len()],
            closes: [const { AtomicU64::new(0) }; 256],
            loop_turn_us: [const { AtomicU64::new(0) }; LOOP_BUCKETS],
            links: RwLock::default(),
            configured: AtomicU64::new(0),
            plain_descriptors: AtomicBool::new(false),
        }
    }
}

impl ShardStats {
    /// The value now.
    pub fn get(&self, stat: Stat) -> u64 {
        self.values[stat as usize].load(Relaxed)
    }

    /// The links that there are.
    pub fn links(&self) -> Vec<Arc<LinkStats>> {
        self.links.read().unwrap_or_else(PoisonError::into_inner).iter().flatten().cloned().collect()
    }

    /// Who is at this index from now on; none: nobody. Only the shard's own thread may.
    pub fn set_link(&self, index: usize, link: Option<Arc<LinkStats>>) {
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        if links.len() <= index {
            links.resize(index + 1, None);
        }
        links[index] = link;
    }

    /// Connections closed for this reason.
    pub fn closes(&self, reason: Reason) -> u64 {
        self.closes[usize::from(reason.code())].load(Relaxed)
    }

    /// Adds; only the shard's own thread may.
    #[inline]
    pub fn add(&self, stat: Stat, count: u64) {
        bump(&self.values[stat as usize], count);
    }

    /// Adds one.
    #[inline]
    pub fn inc(&self, stat: Stat) {
        self.add(stat, 1);
    }

    /// Takes one off a gauge. Panics below zero: a broken invariant.
    #[inline]
    pub fn dec(&self, stat: Stat) {
        self.sub(stat, 1);
    }

    /// Takes off a gauge. Panics below zero: a broken invariant.
    #[inline]
    pub fn sub(&self, stat: Stat, count: u64) {
        let cell = &self.values[stat as usize];
        let value = cell.load(Relaxed).checked_sub(count);
        cell.store(value.unwrap_or_else(|| panic!("gauge {stat:?} below zero")), Relaxed);
    }

    /// Sets a gauge.
    pub fn set(&self, stat: Stat, value: u64) {
        self.values[stat as usize].store(value, Relaxed);
    }

    /// Counts a close and its reason.
    pub fn count_close(&self, reason: Reason) {
        self.inc(Stat::Closes);
        bump(&self.closes[usize::from(reason.code())], 1);
    }

    /// Files a loop turn.
    pub fn count_turn(&self, busy_ns: u64) {
        self.inc(Stat::LoopTurns);
        self.add(Stat::LoopBusyNs, busy_ns);
        let bucket = (u64::BITS - (busy_ns / 1_000).leading_zeros()) as usize;
        bump(&self.loop_turn_us[bucket.min(LOOP_BUCKETS - 1)], 1);
    }
}

/// Adds to a cell that only the calling thread writes.
#[inline]
pub(crate) fn bump(cell: &AtomicU64, count: u64) {
    cell.store(cell.load(Relaxed).wrapping_add(count), Relaxed);
}
