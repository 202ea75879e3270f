//! How much one turn does, and how much is under way at once.
//!
//! Every walk over the table goes on in the next turn where it stopped. A gateway walks thousands of
//! slots a turn and most tables in one; the simulation walks one to four, so that whatever can happen
//! in the middle of a walk does happen.

/// Bounds of a shard. Each is at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Slots that a failover, a rebalance or the search for waiting HELLOs visits per turn.
    pub routing_visits: u32,
    /// Weights of workers for partitions computed per turn, when the workers that are up have changed:
    /// 0.2 to 0.3 ms (docs/performance.md).
    pub weights: u32,
    /// Blocked connections resumed per link and turn; waiting HELLOs looked at per turn.
    pub resumes: u32,
    /// Connections of one worker whose MOVED is awaited at once.
    pub moving: u32,
    /// Frames of failed workers that find their new worker per turn, and that are sent again per link.
    pub resends: u32,
    /// Slots that a drain visits per turn.
    pub drain_visits: u32,
    /// Slots that broadcasts visit per turn.
    pub fanout_visits: u32,
    /// Broadcasts under way at once: blocks for their payloads. What changes while running has no
    /// effect, since the driver maps the blocks at start.
    pub fanout_blocks: u32,
    /// Frames of a link handled at a stretch. A block holds more than ten thousand small ones: a
    /// worker that says at once what it had held back would keep all other links and clients waiting.
    pub link_frames: u32,
    /// Frames of a client handled at a stretch: a receive buffer holds four thousand empty ones.
    pub client_frames: u32,
    /// Shutdowns in the kernel at once: each occupies a kernel worker thread.
    pub shutdowns: u32,
    /// Slots that the sweep visits per slice, unless a round of one slice per millisecond would take
    /// longer than a second.
    pub sweep_slice: u32,
}

impl Bounds {
    /// What a gateway uses.
    pub const GATEWAY: Self = Self {
        routing_visits: 2_048,
        weights: 65_536,
        resumes: 256,
        moving: 1_024,
        resends: 1_024,
        drain_visits: 4_096,
        fanout_visits: 1_024,
        fanout_blocks: 64,
        link_frames: 256,
        client_frames: 128,
        shutdowns: 32,
        sweep_slice: 2_048,
    };
}
