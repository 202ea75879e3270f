//! Giving everything back when a driver is dropped.
//!
//! Closing a ring returns at once, while the kernel ends its ops later, in a thread of its own.
//! An op that still receives then would write to memory that was unmapped, or worse, has become
//! somebody else's. So a driver first cancels every op that holds memory and reaps until none is
//! left. Parked polls hold none: the kernel may end those in its own time.

use std::{
    mem::ManuallyDrop,
    os::fd::{FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use super::{
    driver::{IGNORED, UringDriver},
    sqe,
};
use crate::op::{Driver, Token};

/// How long to wait. A cancelled socket op ends within microseconds; only one that a kernel
/// worker is running right now takes longer.
const DEADLINE: Duration = Duration::from_secs(2);
/// How long to wait at a time.
const STEP: Duration = Duration::from_millis(5);

impl Drop for UringDriver {
    fn drop(&mut self) {
        let joined = self.join();
        let slots = self.slots_started();
        for fd in self.state.sockets.take_all(slots) {
            // SAFETY: the column owned the descriptor, and has just given it up.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
        // Rings before memory: with them goes the last way to start anything.
        self.bank.close();
        if joined {
            // SAFETY: `state` is not used again; this is the end of `self`.
            unsafe { ManuallyDrop::drop(&mut self.state) };
        }
        // Otherwise the kernel may still write to that memory: it stays mapped for good, rather
        // than becoming somebody else's.
    }
}

impl UringDriver {
    /// Cancels and reaps until no op holds memory. False if some op does not end in time.
    fn join(&mut self) -> bool {
        let deadline = Instant::now() + DEADLINE;
        let mut ignored = Vec::new();
        let targets: Vec<_> = self.state.in_flight.all().collect();
        for (ring, target) in targets {
            self.bank.push_bare(ring, sqe::cancel(target), Token::new(IGNORED, 0, 0).to_bits());
        }
        loop {
            let Self { bank, state, .. } = self;
            if bank.flush(&mut |entry| state.complete(entry, &mut ignored)).is_err() {
                return false;
            }
            ignored.clear();
            let Some((ring, _)) = self.state.in_flight.all().next() else { return true };
            if Instant::now() > deadline || self.bank.wait_for(ring, STEP).is_err() {
                return false;
            }
        }
    }
}
