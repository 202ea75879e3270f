//! Admission: how many connections an address may hold, and how fast the shard takes new ones.
//!
//! Both work in fixed memory, whatever the load.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use roost_protocol::hash::mix;

/// Bits that name a cell: so many a connection's record has for it.
pub(crate) const CELL_BITS: u32 = 20;
/// The greatest cell.
pub(crate) const CELL_MAX: u32 = (1 << CELL_BITS) - 1;
/// Cells per bucket: an address can be counted in any of them.
const WAYS: usize = 4;
/// Bits of a cell that count; the rest tell addresses apart.
const COUNT_BITS: u32 = 24;
const COUNT: u64 = (1 << COUNT_BITS) - 1;

/// Connections per IPv4 address or IPv6 /64, in one array for the whole process.
///
/// A bucket whose cells are all taken by other addresses admits without counting: the array
/// never refuses anybody for what others do. Touched at accept and close only.
#[derive(Debug)]
pub struct PerIp {
    buckets: Box<[[AtomicU64; WAYS]]>,
    /// Keyed, so that nobody outside can aim at a bucket.
    seed: u64,
    /// The most connections of one address; 0: no limit.
    max: AtomicU32,
    loopback: bool,
}

/// What became of an address that asks for admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Counted in this cell, which is never 0; to be given back at close.
    Counted(u32),
    /// Admitted, but there is no cell for it.
    Untracked,
    /// Not subject to the limit.
    Exempt,
    /// It holds as many as it may.
    Refused,
}

impl PerIp {
    /// An array of `buckets` (a power of two), for at most `max` connections per address.
    pub fn new(buckets: usize, seed: u64, max: u32, loopback: bool) -> Arc<Self> {
        assert!(buckets.is_power_of_two() && buckets * WAYS <= CELL_MAX as usize);
        let buckets = (0..buckets).map(|_| Default::default()).collect();
        Arc::new(Self { buckets, seed, max: AtomicU32::new(max), loopback })
    }

    /// Changes the limit; connections beyond a lower one stay.
    pub fn set_max(&self, max: u32) {
        self.max.store(max, Relaxed);
    }

    pub(crate) fn admit(&self, ip: IpAddr) -> Admission {
        let max = u64::from(self.max.load(Relaxed)).min(COUNT);
        if max == 0 || (!self.loopback && ip.to_canonical().is_loopback()) {
            return Admission::Exempt;
        }
        let hash = mix(self.network(ip) ^ self.seed);
        let index = hash as usize & (self.buckets.len() - 1);
        // Never 0, so that an empty cell is nobody's.
        let tag = (hash >> COUNT_BITS | 1) << COUNT_BITS;
        let mut free = None;
        for (way, cell) in self.buckets[index].iter().enumerate() {
            let handle = (index * WAYS + way + 1) as u32;
            let value = cell.load(Relaxed);
            if value & !COUNT == tag {
                let taken = cell.try_update(Relaxed, Relaxed, |value| {
                    (value & !COUNT == tag && value & COUNT < max).then_some(value + 1)
                });
                match taken {
                    Ok(_) => return Admission::Counted(handle),
                    Err(value) if value & !COUNT == tag => return Admission::Refused,
                    // The last connection of the address has just gone.
                    Err(_) => {}
                }
            }
            if value == 0 && free.is_none() {
                free = Some((cell, handle));
            }
        }
        match free {
            Some((cell, handle)) if cell.compare_exchange(0, tag | 1, Relaxed, Relaxed).is_ok() => {
                Admission::Counted(handle)
            }
            _ => Admission::Untracked,
        }
    }

    /// Gives back what [`Self::admit`] counted.
    pub(crate) fn release(&self, handle: u32) {
        let index = handle as usize - 1;
        let cell = &self.buckets[index / WAYS][index % WAYS];
        let released = cell.try_update(Relaxed, Relaxed, |value| match value & COUNT {
            0 => None,
            1 => Some(0),
            _ => Some(value - 1),
        });
        assert!(released.is_ok(), "invariant budget: a cell is released once a connection");
    }

    /// Connections counted, over all addresses.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn counted(&self) -> u64 {
        self.buckets.iter().flatten().map(|cell| cell.load(Relaxed) & COUNT).sum()
    }

    /// What counts as one address: all of IPv4, the first 64 bits of IPv6.
    fn network(&self, ip: IpAddr) -> u64 {
        match ip.to_canonical() {
            IpAddr::V4(ip) => u64::from(u32::from(ip)) | 1 << 63,
            IpAddr::V6(ip) => mix((u128::from(ip) >> 64) as u64),
        }
    }
}

/// How many connections the process may hold, over all shards.
#[derive(Debug)]
pub struct Cap {
    held: AtomicU32,
    max: u32,
}

impl Cap {
    /// A cap of `max` connections.
    pub fn new(max: u32) -> Arc<Self> {
        Arc::new(Self { held: AtomicU32::new(0), max })
    }

    /// Counts one more; false if there are as many as may be.
    pub(crate) fn take(&self) -> bool {
        self.held.try_update(Relaxed, Relaxed, |held| (held < self.max).then_some(held + 1)).is_ok()
    }

    /// Connections counted.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn held(&self) -> u32 {
        self.held.load(Relaxed)
    }

    /// One that was counted has gone.
    pub(crate) fn give_back(&self) {
        let before = self.held.fetch_sub(1, Relaxed);
        assert!(before > 0, "invariant budget: only what was taken is given back");
    }
}

/// A token bucket: so many per second, at most a tenth of a second's worth at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ramp {
    per_s: u32,
    /// In thousandths.
    tokens: u64,
    updated_ms: u64,
}

impl Ramp {
    /// A ramp of `per_s`; 0: no limit.
    pub(crate) fn new(per_s: u32) -> Self {
        Self { per_s, tokens: 0, updated_ms: 0 }
    }

    pub(crate) const fn per_s(&self) -> u32 {
        self.per_s
    }

    /// Whether one may pass now.
    pub(crate) fn take(&mut self, now_ms: u64) -> bool {
        if self.per_s == 0 {
            return true;
        }
        let burst = u64::from(self.per_s) * 100;
        let elapsed_ms = now_ms - self.updated_ms.min(now_ms);
        self.tokens = (self.tokens + elapsed_ms * u64::from(self.per_s)).min(burst.max(1000));
        self.updated_ms = now_ms;
        match self.tokens.checked_sub(1000) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }

    /// When the next may pass, after a refusal.
    pub(crate) fn next_ms(&self) -> u64 {
        self.updated_ms + (1000 - self.tokens.min(999)).div_ceil(u64::from(self.per_s.max(1))).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::{Admission, PerIp, Ramp};

    #[test]
    fn an_address_is_refused_beyond_its_limit_and_only_then() {
        let per_ip = PerIp::new(16, 7, 2, false);
        let a = "192.0.2.1".parse().unwrap();
        let Admission::Counted(cell) = per_ip.admit(a) else { panic!("first") };
        assert_eq!(per_ip.admit(a), Admission::Counted(cell));
        assert_eq!(per_ip.admit(a), Admission::Refused);
        assert!(matches!(per_ip.admit("192.0.2.2".parse().unwrap()), Admission::Counted(_)));
        per_ip.release(cell);
        assert_eq!(per_ip.admit(a), Admission::Counted(cell));
        per_ip.set_max(0);
        assert_eq!(per_ip.admit(a), Admission::Exempt);
    }

    #[test]
    fn a_v6_network_counts_as_one_and_loopback_not_at_all() {
        let per_ip = PerIp::new(16, 7, 1, false);
        assert!(matches!(per_ip.admit("2001:db8::1".parse().unwrap()), Admission::Counted(_)));
        assert_eq!(per_ip.admit("2001:db8::2".parse().unwrap()), Admission::Refused);
        assert!(matches!(per_ip.admit("2001:db8:0:1::1".parse().unwrap()), Admission::Counted(_)));
        for loopback in ["127.3.2.1", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(per_ip.admit(loopback.parse().unwrap()), Admission::Exempt);
        }
    }

    #[test]
    fn a_full_bucket_admits_untracked() {
        let per_ip = PerIp::new(1, 7, 1, true);
        let outcomes: Vec<_> = (0..6u8).map(|i| per_ip.admit([192, 0, 2, i].into())).collect();
        assert_eq!(outcomes.iter().filter(|o| matches!(o, Admission::Counted(_))).count(), 4);
        assert_eq!(outcomes[4..], [Admission::Untracked; 2]);
    }

    #[test]
    fn a_ramp_passes_its_rate() {
        let mut ramp = Ramp::new(500);
        let passed = (0..10_000).filter(|&now_ms| ramp.take(now_ms)).count();
        assert!((4_990..=5_050).contains(&passed), "{passed}");
        assert!(!ramp.take(10_000) || ramp.next_ms() > 10_000);
    }
}
