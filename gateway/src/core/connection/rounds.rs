//! When accepts are armed on a listener, and how many.
//!
//! An accept that waits in the kernel wakes the shard for its one client, however long the shard
//! would let completions gather, and that client's HELLO is still on its way then and takes another
//! turn. So accepts are armed in rounds. A round begins with as many as clients wait in the
//! listener's queue, or its shard's share of them; they come in together, most of them with their
//! HELLO, and until the round is over the next ones gather. If nobody waits when it begins, one
//! accept is armed, and whoever comes then is let in at once.

/// How long a round takes: what a client in a rush may wait for the others, in milliseconds.
const ROUND_MS: u64 = 4;

/// The accepts of one listener.
#[derive(Clone, Debug, Default)]
pub(super) struct Rounds {
    /// In the kernel, or to be cancelled there.
    armed: u32,
    /// To be armed as soon as there are slots for them.
    due: u32,
    /// Clients wait for those that are due.
    expected: bool,
    /// How many clients wait cannot be told: as many accepts as allowed are kept armed.
    blind: bool,
    /// The listener's queue is being looked at.
    looking: bool,
    /// When the round is over.
    ends_ms: u64,
}

impl Rounds {
    pub(super) const fn armed(&self) -> u32 {
        self.armed
    }

    pub(super) const fn due(&self) -> u32 {
        self.due
    }

    /// An accept that was due is armed. Returns whether a client waits for it.
    pub(super) fn arm(&mut self) -> bool {
        self.due -= 1;
        self.armed += 1;
        self.expected
    }

    /// An accept has ended, with a client or without.
    pub(super) fn ended(&mut self) {
        self.armed -= 1;
    }

    /// One more accept is due, whoever may wait.
    pub(super) fn look_again(&mut self) {
        self.due += 1;
    }

    /// Whether how many clients wait cannot be told.
    pub(super) const fn is_blind(&self) -> bool {
        self.blind
    }

    /// Whether the queue is being looked at.
    pub(super) const fn is_looking(&self) -> bool {
        self.looking
    }

    /// Whether the queue may be looked at for the next round: the last one is over, and so are its
    /// accepts.
    pub(super) const fn may_look(&self, now_ms: u64) -> bool {
        !self.looking && self.armed + self.due == 0 && now_ms >= self.ends_ms
    }

    /// The queue is being looked at; [`Self::begin`] follows.
    pub(super) fn look(&mut self) {
        self.looking = true;
    }

    /// Begins a round, in which at most `accepts_max` are armed. `waiting`: clients in the queue that
    /// are this shard's to take; none if that cannot be told.
    pub(super) fn begin(&mut self, now_ms: u64, waiting: Option<u32>, accepts_max: u32) {
        self.looking = false;
        self.blind = waiting.is_none();
        let waiting = waiting.unwrap_or(accepts_max);
        self.expected = waiting > 0 && !self.blind;
        self.due = waiting.clamp(1, accepts_max).saturating_sub(self.armed);
        // Whoever finds no accept in this round is not to wait for the next one.
        self.ends_ms = if waiting > accepts_max { now_ms } else { now_ms + ROUND_MS };
    }

    /// When the next round may begin, if no accept waits for a client until then.
    pub(super) fn rests_until_ms(&self) -> Option<u64> {
        (self.armed + self.due == 0 && !self.looking).then_some(self.ends_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u32 = 64;

    /// A listener's queue, and a kernel that gives each client to an accept at once.
    #[derive(Default)]
    struct Listener {
        rounds: Rounds,
        waiting: u32,
        turns: u32,
        came: u32,
    }

    impl Listener {
        /// Turns until there is nothing to do in this millisecond.
        fn settle(&mut self, now_ms: u64) {
            loop {
                if self.rounds.may_look(now_ms) {
                    self.rounds.look();
                    assert!(!self.rounds.may_look(now_ms), "one look at a time");
                    self.rounds.begin(now_ms, Some(self.waiting), MAX);
                }
                while self.rounds.due() > 0 {
                    self.rounds.arm();
                }
                let taken = self.waiting.min(self.rounds.armed());
                if taken == 0 {
                    return;
                }
                self.turns += 1;
                self.came += taken;
                self.waiting -= taken;
                (0..taken).for_each(|_| self.rounds.ended());
            }
        }

        /// For a second `per_ms` clients come in each millisecond. Returns how many waited at its
        /// end, at most.
        fn rush(&mut self, per_ms: u32) -> u32 {
            let mut waited = 0;
            for now_ms in 2_000..3_000 {
                for _ in 0..per_ms {
                    self.waiting += 1;
                    self.settle(now_ms);
                }
                waited = waited.max(self.waiting);
            }
            waited
        }
    }

    #[test]
    fn a_client_that_comes_alone_is_let_in_at_once_and_the_next_one_too() {
        let mut listener = Listener::default();
        listener.settle(0);
        for now_ms in (0..100).step_by(ROUND_MS as usize) {
            assert_eq!(listener.rounds.armed(), 1);
            listener.waiting = 1;
            listener.settle(now_ms);
            assert_eq!(listener.waiting, 0, "at {now_ms}");
            listener.settle(now_ms + ROUND_MS);
        }
    }

    #[test]
    fn in_a_rush_clients_come_in_together_and_wait_for_a_round_at_most() {
        for per_ms in [3, 30, 100] {
            let mut listener = Listener::default();
            listener.settle(0);
            let waited = listener.rush(per_ms);
            assert!(waited <= per_ms * ROUND_MS as u32, "{waited} waited, {per_ms} a millisecond");
            let came = listener.came;
            assert!(came >= 990 * per_ms, "{came} of {per_ms} a millisecond");
            // A turn a round, and one for each time that a round takes no more.
            let turns = 1_000 / ROUND_MS as u32 + came / MAX + 2;
            assert!(listener.turns <= turns, "{} turns, {per_ms} a millisecond", listener.turns);
        }
    }

    #[test]
    fn after_a_rush_one_accept_waits_in_the_kernel() {
        let mut listener = Listener::default();
        listener.settle(0);
        listener.rush(30);
        let rests_until_ms = listener.rounds.rests_until_ms().expect("nobody waits in the kernel");
        assert!((3_000..=3_000 + ROUND_MS).contains(&rests_until_ms));
        listener.settle(rests_until_ms);
        listener.settle(rests_until_ms + ROUND_MS);
        assert_eq!((listener.waiting, listener.rounds.armed()), (0, 1));
        assert_eq!(listener.rounds.rests_until_ms(), None);
    }

    #[test]
    fn where_the_queue_cannot_be_seen_as_many_as_allowed_are_kept_armed() {
        let mut rounds = Rounds::default();
        for _ in 0..3 {
            rounds.begin(7, None, MAX);
            assert!(rounds.is_blind());
            while rounds.due() > 0 {
                assert!(!rounds.arm());
            }
            assert_eq!(rounds.armed(), MAX);
            (0..5).for_each(|_| rounds.ended());
        }
    }
}
