//! The routing hash of a key and the rendezvous choice of a worker (SPEC.md, "Routing").
//!
//! Both are fixed for ever: every gateway that sees the same workers up must send the same user
//! to the same worker.

/// The finaliser of SplitMix64: a bijection on u64 that mixes every input bit into every output
/// bit.
pub const fn mix(mut x: u64) -> u64 {
    x ^= x >> 30;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 27;
    x = x.wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// The routing hash of a key or of a worker's name: FNV-1a over the bytes, then [`mix`].
pub const fn routing_hash(bytes: &[u8]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        i += 1;
    }
    mix(hash)
}

/// The weight of a worker for a key; the worker with the greatest weight gets the key.
pub const fn weight(key_hash: u64, worker_hash: u64) -> u64 {
    mix(key_hash ^ worker_hash)
}

/// The index of the worker that owns a key: greatest weight, ties to the smaller worker hash.
///
/// `workers` yields the index and the [`routing_hash`] of the name of every worker that is up.
pub fn rendezvous<I: Copy>(key_hash: u64, workers: impl IntoIterator<Item = (I, u64)>) -> Option<I> {
    workers
        .into_iter()
        .max_by_key(|&(_, worker)| (weight(key_hash, worker), std::cmp::Reverse(worker)))
        .map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::{rendezvous, routing_hash};

    #[test]
    fn removing_a_worker_moves_only_its_own_keys() {
        let workers: Vec<(usize, u64)> =
            ["a", "b", "c", "d"].iter().map(|n| routing_hash(n.as_bytes())).enumerate().collect();
        let mut counts = [0u32; 4];
        for key in 0..10_000u32 {
            let hash = routing_hash(&key.to_be_bytes());
            let owner = rendezvous(hash, workers.iter().copied()).unwrap();
            counts[owner] += 1;
            let without_last = rendezvous(hash, workers[..3].iter().copied()).unwrap();
            assert!(owner == without_last || owner == 3);
        }
        assert!(counts.iter().all(|&n| (2_200..2_800).contains(&n)), "{counts:?}");
        assert_eq!(rendezvous::<usize>(1, []), None);
    }
}
