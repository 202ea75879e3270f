//! One timer wheel for all connections, and the estimate of the round-trip time they share.

/// Microseconds of a tick.
const TICK_US: u64 = 10_000;
/// Ticks that the wheel reaches ahead; longer timers are carried around it.
const SLOTS: u32 = 1024;

/// The tick that a moment is in. Ticks begin at 1: 0 stands for no tick.
pub(super) const fn tick_of(now_us: u64) -> u32 {
    (now_us / TICK_US) as u32 + 1
}

/// A duration in ticks, rounded up so that no timer is early.
pub(super) const fn ticks(duration_us: u64) -> u32 {
    duration_us.div_ceil(TICK_US) as u32 + 1
}

/// Who is to be looked at in which tick. Entries are never removed, only found stale: most
/// timers are cancelled within microseconds of being set.
#[derive(Debug)]
pub(super) struct Wheel {
    slots: Box<[Vec<u32>]>,
    /// The next tick to be visited.
    next: u32,
    entries: usize,
}

impl Wheel {
    pub(super) fn new() -> Self {
        Self { slots: vec![Vec::new(); SLOTS as usize].into_boxed_slice(), next: 1, entries: 0 }
    }

    /// Puts a client down for `tick`, or for the nearest tick that the wheel reaches; says which.
    pub(super) fn insert(&mut self, client: u32, tick: u32) -> u32 {
        let tick = tick.clamp(self.next, self.next + SLOTS - 1);
        self.slots[(tick % SLOTS) as usize].push(client);
        self.entries += 1;
        tick
    }

    /// The clients of the next tick that has come by `now`, and that tick. Hand the list back to
    /// [`Self::recycle`].
    pub(super) fn take_due(&mut self, now: u32) -> Option<(u32, Vec<u32>)> {
        if self.entries == 0 {
            self.next = self.next.max(now + 1);
        }
        while self.next <= now {
            let tick = self.next;
            self.next += 1;
            let slot = &mut self.slots[(tick % SLOTS) as usize];
            if !slot.is_empty() {
                self.entries -= slot.len();
                return Some((tick, std::mem::take(slot)));
            }
        }
        None
    }

    /// Takes a visited list back, so that its memory is used again.
    pub(super) fn recycle(&mut self, tick: u32, mut list: Vec<u32>) {
        list.clear();
        let slot = &mut self.slots[(tick % SLOTS) as usize];
        if slot.is_empty() {
            *slot = list;
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.entries == 0
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.slots.iter().map(|slot| slot.capacity() * size_of::<u32>() + size_of::<Vec<u32>>()).sum()
    }
}

/// Round-trip time and retransmission timeout (RFC 6298), estimated over all connections of a
/// share: they have the same peer and the same path (RFC 9040 allows the sharing).
#[derive(Clone, Copy, Debug)]
pub(super) struct RoundTrip {
    smoothed_us: u64,
    variation_us: u64,
}

impl RoundTrip {
    /// Before the first measurement (RFC 6298 section 2.1), and always for a SYN.
    pub(super) const RTO_INITIAL_US: u64 = 1_000_000;
    /// Linux's floor, below the RFC's 1 s: the peer is on the same machine.
    pub(super) const RTO_MIN_US: u64 = 200_000;
    /// The ceiling, back-off included (RFC 6298 section 2.5).
    pub(super) const RTO_MAX_US: u64 = 60_000_000;

    pub(super) const fn new() -> Self {
        Self { smoothed_us: 0, variation_us: 0 }
    }

    pub(super) fn sample(&mut self, round_trip_us: u64) {
        let measured = round_trip_us.max(1);
        if self.smoothed_us == 0 {
            self.smoothed_us = measured;
            self.variation_us = measured / 2;
        } else {
            self.variation_us = (3 * self.variation_us + self.smoothed_us.abs_diff(measured)) / 4;
            self.smoothed_us = (7 * self.smoothed_us + measured) / 8;
        }
    }

    /// The timeout after `backoff` doublings.
    pub(super) fn rto_us(&self, backoff: u8) -> u64 {
        let rto = if self.smoothed_us == 0 {
            Self::RTO_INITIAL_US
        } else {
            (self.smoothed_us + 4 * self.variation_us.max(TICK_US / 4)).max(Self::RTO_MIN_US)
        };
        Self::backed_off(rto, backoff)
    }

    /// The timeout of a SYN after `backoff` doublings.
    pub(super) fn syn_rto_us(backoff: u8) -> u64 {
        Self::backed_off(Self::RTO_INITIAL_US, backoff)
    }

    fn backed_off(rto_us: u64, backoff: u8) -> u64 {
        (rto_us << backoff.min(20)).min(Self::RTO_MAX_US)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(wheel: &mut Wheel, now: u32) -> Vec<(u32, u32)> {
        let mut due = Vec::new();
        while let Some((tick, list)) = wheel.take_due(now) {
            due.extend(list.iter().map(|&client| (tick, client)));
            wheel.recycle(tick, list);
        }
        due
    }

    #[test]
    fn entries_come_when_due_and_once() {
        let mut wheel = Wheel::new();
        assert_eq!(wheel.insert(7, 5), 5);
        assert_eq!(wheel.insert(8, 3), 3);
        assert_eq!(drain(&mut wheel, 2), []);
        assert_eq!(drain(&mut wheel, 5), [(3, 8), (5, 7)]);
        assert_eq!(drain(&mut wheel, 9), []);
        assert!(wheel.is_empty());
    }

    #[test]
    fn the_far_future_is_reached_in_steps_and_the_past_is_next() {
        let mut wheel = Wheel::new();
        wheel.take_due(100);
        assert_eq!(wheel.insert(1, u32::MAX), 101 + SLOTS - 1);
        assert_eq!(wheel.insert(2, 5), 101);
        assert_eq!(drain(&mut wheel, 100 + SLOTS), [(101, 2), (100 + SLOTS, 1)]);
    }

    #[test]
    fn a_long_stall_loses_nothing() {
        let mut wheel = Wheel::new();
        (1..=SLOTS).for_each(|tick| assert_eq!(wheel.insert(tick, tick), tick));
        assert_eq!(drain(&mut wheel, 50 * SLOTS).len(), SLOTS as usize);
    }

    #[test]
    fn no_timer_is_early() {
        for (now_us, duration_us) in [(0, 200_000), (9_999, 200_000), (123_456, 1)] {
            let due_us = u64::from(tick_of(now_us) + ticks(duration_us) - 1) * TICK_US;
            assert!(due_us >= now_us + duration_us);
        }
    }

    #[test]
    fn the_timeout_follows_the_round_trip() {
        let mut rtt = RoundTrip::new();
        assert_eq!(rtt.rto_us(0), 1_000_000);
        assert_eq!(rtt.rto_us(2), 4_000_000);
        (0..100).for_each(|_| rtt.sample(100));
        assert_eq!(rtt.rto_us(0), RoundTrip::RTO_MIN_US);
        rtt.sample(2_000_000);
        assert!(rtt.rto_us(0) > 2_000_000, "one slow round trip widens the variation");
        assert_eq!(rtt.rto_us(200), RoundTrip::RTO_MAX_US);
    }
}
