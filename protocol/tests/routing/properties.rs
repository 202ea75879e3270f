//! Property tests of the routing of part 2. `PROPTEST_CASES` widens them.

use std::collections::BTreeSet;

use proptest::{
    collection::{btree_set, vec},
    prelude::*,
    sample::Index,
};
use roost_protocol::{
    edge::KEY_BYTES_MAX,
    hash::{PARTITIONS, partition, partition_of, rendezvous, routing_hash, weight, worker_hash},
};

fn hashes(names: &BTreeSet<String>) -> Vec<(usize, u64)> {
    names.iter().map(|name| worker_hash(name.as_bytes())).enumerate().collect()
}

proptest! {
    /// the owner does not depend on the order of the workers, and nobody outweighs it.
    #[test]
    fn the_owner_has_the_greatest_weight(
        partition in 0..PARTITIONS as u16,
        names in btree_set("[a-z]{1,8}", 1..9),
    ) {
        let workers = hashes(&names);
        let owner = rendezvous(partition, workers.iter().copied()).unwrap();
        prop_assert_eq!(rendezvous(partition, workers.iter().rev().copied()), Some(owner));
        let own = weight(partition, workers[owner].1);
        let others = workers.iter().filter(|&&(index, _)| index != owner);
        prop_assert!(others.copied().all(|(_, other)| weight(partition, other) < own));
    }

    /// A worker that goes gives only its own partitions away; read the other way round, one that comes
    /// takes partitions for itself only.
    #[test]
    fn a_partition_moves_only_with_a_worker_that_gains_or_loses_it(
        partition in 0..PARTITIONS as u16,
        names in btree_set("[a-z]{1,8}", 2..9),
        gone in any::<Index>(),
    ) {
        let workers = hashes(&names);
        let gone = gone.index(workers.len());
        let with = rendezvous(partition, workers.iter().copied()).unwrap();
        let without = rendezvous(partition, workers.iter().copied().filter(|(index, _)| *index != gone));
        if with == gone {
            prop_assert!(without.is_some_and(|owner| owner != gone));
        } else {
            prop_assert_eq!(without, Some(with));
        }
    }

    /// the top 14 bits of a routing hash are its key's partition, and nothing else of it routes.
    #[test]
    fn only_the_top_bits_of_a_routing_hash_route(
        key in vec(any::<u8>(), 0..=KEY_BYTES_MAX),
        low in any::<u64>(),
    ) {
        let hash = routing_hash(&key);
        prop_assert_eq!(partition_of(hash), partition(&key));
        prop_assert_eq!(partition_of(hash >> 50 << 50 | low >> 14), partition(&key));
        prop_assert_eq!(u64::from(partition_of(low)), low >> 50);
    }
}
