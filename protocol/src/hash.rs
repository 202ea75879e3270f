//! The routing hash of a key, its partition, and the rendezvous choice of a worker for a partition
//! (SPEC.md, part 2).
//!
//! All of it is fixed for ever: every gateway that sees the same workers up must send the same user
//! to the same worker. Applications partition their own data by the same numbers.

/// Partitions of the keys, 2^14. A worker owns partitions, and a key with its partition.
pub const PARTITIONS: u32 = 1 << PARTITION_BITS;

/// Bits of a routing hash that are the partition: the top ones.
const PARTITION_BITS: u32 = 14;

/// Bits of a routing hash below the partition: they tell keys apart and route nothing.
const KEY_BITS: u32 = u64::BITS - PARTITION_BITS;

/// The finaliser of SplitMix64: a bijection on u64 that mixes every input bit into every output
/// bit.
pub const fn mix(mut x: u64) -> u64 {
    x ^= x >> 30;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 27;
    x = x.wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// FNV-1a of 32 bits and of 64 bits, in one pass over the bytes
/// (<https://datatracker.ietf.org/doc/html/draft-eastlake-fnv>).
const fn fnv1a(bytes: &[u8]) -> (u32, u64) {
    let mut short: u32 = 0x811c_9dc5;
    let mut long: u64 = 0xcbf2_9ce4_8422_2325;
    let mut i = 0;
    while i < bytes.len() {
        short = (short ^ bytes[i] as u32).wrapping_mul(0x0100_0193);
        long = (long ^ bytes[i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        i += 1;
    }
    (short, long)
}

/// The partition of a key, below [`PARTITIONS`]: FNV-1a of 32 bits, modulo [`PARTITIONS`].
///
/// The mapping `{{partition(16384,1)}}` of nats-server computes the same number of the same bytes:
/// `getHashPartition` in its `server/subject_transform.go` is `fnv.New32a` modulo the first argument.
/// So streams and subjects can follow the workers.
pub const fn partition(key: &[u8]) -> u16 {
    (fnv1a(key).0 % PARTITIONS) as u16
}

/// The partition that a routing hash states, below [`PARTITIONS`]: its top 14 bits. It is all of a
/// routing hash that decides where a connection or a RELAY goes.
pub const fn partition_of(routing_hash: u64) -> u16 {
    (routing_hash >> KEY_BITS) as u16
}

/// The routing hash of a key: its [`partition`] in the top 14 bits, below it 50 bits of [`mix`] of FNV-1a
/// of 64 bits, which tell keys of one partition apart.
pub const fn routing_hash(key: &[u8]) -> u64 {
    let (short, long) = fnv1a(key);
    ((short % PARTITIONS) as u64) << KEY_BITS | mix(long) >> PARTITION_BITS
}

/// The hash of a worker's name, as [`weight`] takes it: [`mix`] of FNV-1a of 64 bits.
pub const fn worker_hash(name: &[u8]) -> u64 {
    mix(fnv1a(name).1)
}

/// The weight of a worker for a partition; the worker with the greatest weight owns the partition.
///
/// It is equal for two workers only where their hashes are, since [`mix`] is a bijection.
pub const fn weight(partition: u16, worker_hash: u64) -> u64 {
    mix(mix(partition as u64 + 1) ^ worker_hash)
}

/// Which of these workers owns a partition: greatest [`weight`]; of workers with equal hashes, the last.
/// None if there are no workers.
///
/// `workers` yields, for every worker that is up, what it is to be called and the [`worker_hash`] of its
/// name.
pub fn rendezvous<I: Copy>(partition: u16, workers: impl IntoIterator<Item = (I, u64)>) -> Option<I> {
    workers.into_iter().max_by_key(|&(_, worker)| weight(partition, worker)).map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::{PARTITIONS, partition, partition_of, rendezvous, routing_hash, worker_hash};

    #[test]
    fn a_routing_hash_states_the_partition() {
        for key in 0..10_000_u32 {
            let key = key.to_be_bytes();
            assert_eq!(partition_of(routing_hash(&key)), partition(&key));
            assert!(u32::from(partition(&key)) < PARTITIONS);
        }
        assert_eq!(partition_of(u64::MAX), (PARTITIONS - 1) as u16);
        assert_eq!(partition_of(u64::MAX >> 14), 0);
    }

    #[test]
    fn removing_a_worker_moves_only_its_own_partitions() {
        let workers: Vec<(usize, u64)> =
            ["a", "b", "c", "d"].iter().map(|name| worker_hash(name.as_bytes())).enumerate().collect();
        let mut counts = [0_u32; 4];
        for partition in 0..PARTITIONS as u16 {
            let owner = rendezvous(partition, workers.iter().copied()).unwrap();
            counts[owner] += 1;
            let without_last = rendezvous(partition, workers[..3].iter().copied()).unwrap();
            assert!(owner == without_last || owner == 3);
        }
        // A quarter is 4,096, with a standard deviation of 55.
        assert!(counts.iter().all(|&n| (3_850..4_350).contains(&n)), "{counts:?}");
        assert_eq!(rendezvous::<usize>(1, []), None);
    }

    #[test]
    fn the_low_bits_tell_keys_of_a_partition_apart() {
        let mut hashes: Vec<u64> =
            (0..1_000_000).map(|user| routing_hash(format!("user-{user}").as_bytes())).collect();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), 1_000_000);
    }
}
