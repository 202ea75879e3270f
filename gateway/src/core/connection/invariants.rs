//! What must hold of connections between any two steps. Walks the whole table: for simulations and
//! tests.

use super::{
    Connections,
    lifecycle::State,
    record::{bit, flag},
};
use crate::core::{context::Context, index::Slot, stats::Stat};

impl Connections {
    /// Panics if an invariant does not hold, naming it.
    pub(crate) fn check_invariants(&self, ctx: &Context) {
        let mut states = [0u64; State::ALL.len()];
        let (mut outbox_bytes, mut outboxes) = (0u64, 0);
        let (mut spill_bytes, mut spills) = (0u64, 0);
        let mut blocked = 0;
        for slot in Slot::range(0, self.high_water()) {
            let hot = self.hot(slot);
            states[hot.state() as usize] += 1;
            if hot.outbox() != 0 {
                outboxes += 1;
                outbox_bytes += u64::from(self.outboxes.bytes(hot.outbox()));
                let closing = hot.state() == State::Closing;
                let sends = usize::from(hot.ops() & bit::SEND != 0);
                assert!(
                    self.outboxes.link_buffers(hot.outbox()) <= sends,
                    "invariant link-buffer-let-go: slot {slot} keeps a link's receive buffer"
                );
                assert!(
                    closing || hot.ops() & (bit::SEND | bit::POLL_OUT) != 0,
                    "invariant outbox-sums: slot {slot}: an outbox is always on its way"
                );
            }
            if hot.spill() != 0 {
                spills += 1;
                spill_bytes += u64::from(self.spills.bytes(hot.spill()));
            }
            if self.table.kept(slot) != 0 {
                spills += 1;
                spill_bytes += u64::from(self.kept_bytes(slot));
                assert_ne!(hot.state(), State::Free, "invariant free-slot-clean: slot {slot} keeps bytes");
            }
            blocked += u64::from(hot.has(flag::BLOCKED));
            self.check_reading(slot);
            if hot.state() == State::Free {
                assert_eq!(
                    (hot.ops(), hot.outbox(), hot.spill()),
                    (0, 0, 0),
                    "invariant free-slot-clean: slot {slot}"
                );
            }
        }
        let live = u64::from(self.high_water()) - states[State::Free as usize];
        assert_eq!(
            live,
            u64::from(self.table.live()),
            "invariant conservation: live slots are those not free"
        );
        assert_eq!(outbox_bytes, self.outboxes.bytes_total(), "invariant outbox-sums: the bytes of all");
        assert_eq!(outboxes, self.outboxes.count(), "invariant outbox-sums: every outbox has an owner");
        assert_eq!(spill_bytes, self.spills.bytes_total(), "invariant spill-sums: the bytes of all");
        assert_eq!(spills, self.spills.count(), "invariant spill-sums: every spill has an owner");
        assert_eq!(
            blocked,
            ctx.stats.get(Stat::ConnectionsBlocked),
            "invariant conservation: blocked connections are counted"
        );
        let accepting = (states[State::Accepting as usize], u64::from(self.accepts_armed()));
        assert_eq!(accepting.0, accepting.1, "invariant conservation: accepts in the kernel are counted");
        let closed: u64 = roost_protocol::Reason::ALL.iter().map(|&reason| ctx.stats.closes(reason)).sum();
        assert_eq!(
            closed,
            ctx.stats.get(Stat::Closes),
            "invariant conservation: close reasons sum to closed"
        );
        let ending = states[State::Draining as usize] + states[State::Closing as usize];
        let alive = live - states[State::Accepting as usize] - ending;
        assert_eq!(
            ctx.stats.get(Stat::Accepts) - closed,
            alive,
            "invariant conservation: accepted - closed = alive"
        );
    }

    /// A connection that reads is waiting for input in exactly one place. One whose HELLO waits for
    /// a worker is watched instead, or will be when its accept's cancel is through; later, the watch
    /// may still be there until it is cancelled.
    fn check_reading(&self, slot: Slot) {
        let hot = self.hot(slot);
        if self.awaits_worker(slot) {
            let watched =
                matches!(hot.ops() & (bit::POLL_IN | bit::RECV | bit::CANCEL), bit::POLL_IN | bit::CANCEL);
            assert!(watched, "invariant reads-in-one-place: slot {slot}: nobody would notice its end");
            return;
        }
        let in_kernel = hot.ops() & (bit::POLL_IN | bit::RECV) != 0;
        let waits = hot.flags() & (flag::BLOCKED | flag::RX_WAIT) != 0;
        // The end of a watch that was called off may be overtaken by that of its cancel. That it is
        // no poll for input can be seen from outside only.
        let unwatched = hot.ops() & bit::POLL_IN != 0 && (hot.ops() & bit::CANCEL != 0 || waits);
        if hot.reads() && !unwatched {
            assert!(
                in_kernel != waits,
                "invariant reads-in-one-place: slot {slot} waits for input nowhere, or twice"
            );
        }
        // One that is sent away need not wait before its sending side is shut.
        assert!(
            hot.state() != State::Draining || !(in_kernel && waits),
            "invariant reads-in-one-place: slot {slot} is sent away and waits for input twice"
        );
    }
}
