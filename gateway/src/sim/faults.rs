//! How unkind the fake kernel is. Each seed draws its own mix, so that some runs are full of one
//! fault and free of another: a uniform mix would hide what only shows in the extremes.

use crate::sim::rng::Rng;

/// What a turn takes at least, in microseconds, so that a loop that never waits still sees time
/// go on.
const TURN_US: u64 = 5;

/// Probabilities per mille unless a unit says otherwise.
#[derive(Clone, Debug)]
pub struct Faults {
    /// A completion is posted late by up to this many microseconds.
    pub completion_delay_us: u64,
    /// How often a completion is late at all.
    pub completion_late: u32,
    /// Completions reaped together come in another order.
    pub reorder: u32,
    /// Completions reaped per turn, at most.
    pub reap_max: u64,
    /// A receive takes less than there is.
    pub short_recv: u32,
    /// A send takes less than there is room for.
    pub short_send: u32,
    /// A receive or send without waiting says `-EAGAIN` although it could proceed.
    pub spurious_again: u32,
    /// A receive or send fails for want of memory (`-ENOMEM`, `-ENOBUFS`), or with `-EINTR`.
    pub no_memory: u32,
    /// A poll fails with `-ENOMEM`.
    pub poll_error: u32,
    /// A poll reports input that is not there.
    pub poll_spurious: u32,
    /// An accept fails with `-ENFILE`, `-EMFILE` or `-ENOMEM`.
    pub accept_error: u32,
    /// Such an accept has taken the client from the backlog and drops it.
    pub accept_drops: u32,
    /// Others accept clients of the same backlog, too: more or fewer wait than it seems.
    pub backlog_shared: u32,
    /// How many clients wait cannot be told.
    pub backlog_unknown: bool,
    /// A cancel comes too late: `-EALREADY`, and the target ends by itself or with success.
    pub cancel_loses: u32,
    /// A connect fails.
    pub connect_error: u32,
    /// A shutdown takes up to this many microseconds in its kernel worker.
    pub shutdown_delay_us: u64,
    /// A turn returns before its deadline with nothing.
    pub early_return: u32,
    /// Ops are executed as soon as they are queued, not at the next turn.
    pub flush_early: u32,
    /// The process is stopped for up to `jump_us` before a turn returns; per million turns.
    pub jump_per_million: u32,
    /// See `jump_per_million`.
    pub jump_us: u64,
    /// What a turn takes, in microseconds, whatever it does.
    pub turn_us: u64,
    /// What each op takes that a turn submits, in microseconds.
    pub op_us: u64,
    /// Starting the next ring fails.
    pub start_slots_error: u32,
    /// Slots are released in order only: a close waits for every older request on a client socket
    /// of its ring (kernels up to 6.12 with direct descriptors).
    pub ordered_release: bool,
}

impl Faults {
    /// A kernel that never surprises.
    pub const fn calm() -> Self {
        Self {
            completion_delay_us: 0,
            completion_late: 0,
            reorder: 0,
            reap_max: 1024,
            short_recv: 0,
            short_send: 0,
            spurious_again: 0,
            no_memory: 0,
            poll_error: 0,
            poll_spurious: 0,
            accept_error: 0,
            accept_drops: 0,
            backlog_shared: 0,
            backlog_unknown: false,
            cancel_loses: 0,
            connect_error: 0,
            shutdown_delay_us: 0,
            early_return: 0,
            flush_early: 0,
            jump_per_million: 0,
            jump_us: 0,
            turn_us: TURN_US,
            op_us: 0,
            start_slots_error: 0,
            ordered_release: false,
        }
    }

    /// The mix of one seed: every fault is absent, rare or frequent.
    pub fn swarm(rng: &mut Rng) -> Self {
        let mut dose = |rare: u32, frequent: u32| match rng.below(4) {
            0 | 1 => 0,
            2 => rare,
            _ => frequent,
        };
        Self {
            completion_late: dose(100, 700),
            reorder: dose(200, 1000),
            short_recv: dose(50, 600),
            short_send: dose(50, 600),
            spurious_again: dose(10, 200),
            no_memory: dose(5, 100),
            poll_error: dose(5, 100),
            poll_spurious: dose(10, 300),
            accept_error: dose(10, 300),
            accept_drops: dose(100, 500),
            cancel_loses: dose(100, 900),
            connect_error: dose(50, 400),
            early_return: dose(5, 50),
            flush_early: dose(50, 500),
            jump_per_million: dose(100, 3_000),
            start_slots_error: dose(100, 500),
            backlog_shared: dose(50, 500),
            backlog_unknown: dose(0, 1) == 1,
            ordered_release: dose(0, 1) == 1 && rng.chance(200),
            completion_delay_us: rng.log_range(1, 20_000),
            shutdown_delay_us: rng.log_range(1, 50_000),
            reap_max: rng.log_range(1, 256),
            jump_us: rng.log_range(1_000, 40_000_000),
            turn_us: TURN_US,
            op_us: 0,
        }
    }

    /// What follows when the troubles end: nothing surprises any more, but a slow machine stays slow, and
    /// an old kernel old.
    pub const fn calmed(&self) -> Self {
        let Self { turn_us, op_us, ordered_release, .. } = *self;
        Self { turn_us, op_us, ordered_release, ..Self::calm() }
    }
}
