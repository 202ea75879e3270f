//! The sweep against a plain list of deadlines: whoever stays silent is refused in time, and not
//! before, however many slots there are and whenever the loop is woken.

use std::sync::Arc;

use proptest::{collection::vec, prelude::*};

use crate::{
    core::{CoreConfig, Next, ShardCore, pool::specs, stats::ShardStats},
    op::{Op, Sock, errno},
    sim::Hands,
};

/// Ages are counted in ticks of one second: a time-out that is no multiple of it is rounded up.
const TICK_MS: u64 = 1_000;
/// What a deadline may be late by, beyond that: a tick, and a round over the table. It is never early.
const LATE_MS: u64 = TICK_MS + 1_000 + 50;

/// A shard whose clients connect and say nothing.
struct Silence {
    core: ShardCore,
    hands: Hands,
    /// When the clients of the backlog come, the last first.
    arrivals: Vec<u64>,
    /// When the client in each slot came, until it is refused.
    accepted_ms: Vec<Option<u64>>,
    /// How old connections were when they were refused.
    ages_ms: Vec<u64>,
}

impl Silence {
    fn new(clients: usize, handshake_timeout_ms: u32, mut arrivals: Vec<u64>) -> Self {
        let mut config = CoreConfig::lone(clients as u32, Vec::new());
        config.handshake_timeout_ms = handshake_timeout_ms;
        let hands = Hands::new(&specs(&config));
        let stats = Arc::new(ShardStats::default());
        arrivals.sort_unstable_by(|a, b| b.cmp(a));
        let core = ShardCore::new(config, 1_000, stats, Box::new(|bytes| bytes.fill(7)));
        Self { core, hands, arrivals, accepted_ms: vec![None; clients], ages_ms: Vec::new() }
    }

    /// Ends all ops that can end; gives whether there was one.
    fn complete_one(&mut self, now_ms: u64) -> bool {
        let due = self.arrivals.last().is_some_and(|&at| at <= now_ms);
        let ends = |op: Op| {
            !matches!(op, Op::Poll { .. } | Op::Accept { .. }) || due && matches!(op, Op::Accept { .. })
        };
        let Some((token, op)) = self.hands.take(|_, op| ends(op)) else { return false };
        let completion = match op {
            Op::Accept { slot, .. } => {
                self.arrivals.pop();
                self.accepted_ms[slot as usize] = Some(now_ms);
                self.hands.end((token, op), 0)
            }
            Op::Send { sock: Sock::Client(slot), .. } => {
                // GOAWAY; whoever is refused says nothing more.
                let accepted_ms = self.accepted_ms[slot as usize].take().expect("a client");
                self.ages_ms.push(now_ms - accepted_ms);
                self.hands.end_send((token, op), usize::MAX).0
            }
            Op::Recv { .. } => self.hands.end((token, op), -errno::EAGAIN),
            Op::Cancel { target, .. } => {
                if let Some(victim) = self.hands.take(|token, _| token == target) {
                    let ended = self.hands.end(victim, -errno::ECANCELED);
                    self.core.on_completion(&mut self.hands, ended);
                }
                self.hands.end((token, op), 0)
            }
            _ => self.hands.end((token, op), 0),
        };
        self.core.on_completion(&mut self.hands, completion);
        true
    }

    fn run(&mut self, gaps_ms: &[u64]) {
        let mut now_ms = 0;
        self.core.start(&mut self.hands, now_ms, self.accepted_ms.len() as u32);
        let mut gaps = gaps_ms.iter().cycle();
        while self.ages_ms.len() < self.accepted_ms.len() {
            self.core.begin_turn(now_ms);
            while self.complete_one(now_ms) {}
            let next = self.core.end_turn(&mut self.hands);
            while self.complete_one(now_ms) {}
            now_ms = match next {
                Next::Busy => now_ms,
                // The loop is woken by whatever comes, or when the core asked for it.
                Next::At(at_ms) => at_ms.min(now_ms + gaps.next().expect("not empty")).max(now_ms + 1),
            };
            assert!(now_ms < 120_000, "somebody is never refused");
        }
        self.core.check_invariants();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    #[test]
    fn whoever_stays_silent_is_refused_in_time(
        clients in prop_oneof![1..70usize, 2_050..2_500usize],
        timeout_ms in 500..9_000u32,
        spread_ms in 1..5_000u64,
        gaps_ms in vec(1..3_000u64, 1..8),
        salt in any::<u64>(),
    ) {
        let arrival = |i: u64| (i.wrapping_add(salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % spread_ms;
        let mut silence = Silence::new(clients, timeout_ms, (0..clients as u64).map(arrival).collect());
        silence.run(&gaps_ms);
        for age_ms in silence.ages_ms {
            let timeout_ms = u64::from(timeout_ms);
            prop_assert!(age_ms > timeout_ms, "refused after {age_ms} ms already");
            let most_ms = timeout_ms.next_multiple_of(TICK_MS) + LATE_MS;
            prop_assert!(age_ms <= most_ms, "refused after {age_ms} ms only");
        }
    }
}
