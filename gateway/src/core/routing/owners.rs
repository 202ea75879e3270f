//! Which worker owns each partition: a table, so that routing takes one look-up, however many workers
//! there are.
//!
//! When the workers that are up change, the table is forgotten and learnt anew, a bounded part per turn:
//! a weight for each worker and partition. What it does not hold is computed for whoever asks
//! ([`Routing::owner`]), so no answer is of workers that were up before.

use roost_protocol::hash::{self, PARTITIONS};

use super::Routing;
use crate::core::{context::Context, index::WorkerIndex, link::Link};

/// The owners of the first partitions: of all of them, once they are learnt. 16 KiB.
#[derive(Debug)]
pub(super) struct Owners {
    known: Vec<WorkerIndex>,
}

impl Owners {
    /// A table that holds nothing yet.
    pub(super) fn new() -> Self {
        Self { known: Vec::with_capacity(PARTITIONS as usize) }
    }

    /// The owner of a partition; none if it is not in the table.
    #[inline]
    pub(super) fn get(&self, partition: u16) -> Option<WorkerIndex> {
        self.known.get(usize::from(partition)).copied()
    }

    /// Other workers are up than before.
    pub(super) fn forget(&mut self) {
        self.known.clear();
    }

    /// Whether the table holds every partition.
    pub(super) fn is_whole(&self) -> bool {
        self.known.len() == PARTITIONS as usize
    }

    /// Adds further partitions, for at most `weights` weights, but one partition at least. `workers` are
    /// all that are up, with the hashes of their names: the same ones since the table was forgotten.
    fn learn(&mut self, workers: &[(WorkerIndex, u64)], weights: u32) {
        let from = self.known.len() as u32;
        let more = (weights / (workers.len() as u32).max(1)).max(1);
        let to = (from + more).min(PARTITIONS);
        let owner = |partition: u32| hash::rendezvous(partition as u16, workers.iter().copied());
        self.known.extend((from..to).map_while(owner));
    }

    /// How many partitions each of `workers` owns, of those that are known.
    fn counts(&self, workers: usize) -> Vec<u32> {
        let mut counts = vec![0; workers];
        for &worker in &self.known {
            counts[usize::from(worker)] += 1;
        }
        counts
    }
}

impl Routing {
    /// The worker for a routing hash among those that are up, of which none wants to leave.
    pub(super) fn route(&self, routing_hash: u64) -> Option<WorkerIndex> {
        self.route_any(routing_hash).filter(|&worker| self.link(worker).is_routable())
    }

    /// Like [`Self::route`], but a worker that wants to leave is better than none.
    pub(super) fn route_any(&self, routing_hash: u64) -> Option<WorkerIndex> {
        self.owner(hash::partition_of(routing_hash))
    }

    /// The owner of a partition: as the table has it, else by the definition.
    pub(crate) fn owner(&self, partition: u16) -> Option<WorkerIndex> {
        self.owners.get(partition).or_else(|| hash::rendezvous(partition, self.workers_up()))
    }

    /// The workers that own partitions, with the hashes of their names: those that are up; if all of them
    /// want to leave, these.
    pub(super) fn workers_up(&self) -> impl Iterator<Item = (WorkerIndex, u64)> {
        let some_stay = self.links.iter().any(|(_, link)| link.is_routable());
        let is_up = move |link: &Link| if some_stay { link.is_routable() } else { link.takes_frames() };
        let up = self.links.iter().filter(move |(_, link)| is_up(link));
        up.map(|(index, link)| (index.worker(), link.worker_hash()))
    }

    /// Learns a bounded part of the table of owners, if it is not whole. Returns whether more is left.
    pub(super) fn run_owners(&mut self, ctx: &Context) -> bool {
        if self.owners.is_whole() {
            return false;
        }
        let workers: Vec<_> = self.workers_up().collect();
        self.owners.learn(&workers, ctx.cfg.bounds.weights);
        if self.owners.is_whole() || workers.is_empty() {
            let counts = self.owners.counts(self.workers.len());
            for (index, link) in self.links.iter() {
                link.publish_partitions(counts[index.index()]);
            }
        }
        !self.owners.is_whole() && !workers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::stats::LINKS_MAX;

    fn workers(count: usize) -> Vec<(WorkerIndex, u64)> {
        let name = |worker: usize| format!("worker-{worker}");
        (0..count).map(|i| (WorkerIndex::new(i as u8), hash::worker_hash(name(i).as_bytes()))).collect()
    }

    #[test]
    fn a_table_is_learnt_in_parts_and_is_right_before_it_is_whole() {
        let workers = workers(5);
        let mut owners = Owners::new();
        let mut parts = 0;
        while !owners.is_whole() {
            let known = owners.known.len();
            assert_eq!(owners.get(known as u16), None);
            // 1,000 weights are enough for 200 partitions.
            owners.learn(&workers, 1_000);
            assert_eq!(owners.known.len(), (known + 200).min(PARTITIONS as usize));
            let last = owners.known.len() as u16 - 1;
            assert_eq!(owners.get(last), hash::rendezvous(last, workers.iter().copied()));
            parts += 1;
        }
        assert_eq!(parts, 82);
        assert_eq!(owners.counts(5).iter().sum::<u32>(), PARTITIONS);
        assert!(owners.counts(5).iter().all(|&count| count > 3_000), "{:?}", owners.counts(5));
        let capacity = owners.known.capacity();
        owners.forget();
        assert_eq!((owners.get(0), owners.is_whole()), (None, false));
        assert_eq!(owners.known.capacity(), capacity, "it is not allocated again");
    }

    #[test]
    fn without_workers_nothing_is_learnt_and_one_partition_always_is() {
        let mut owners = Owners::new();
        owners.learn(&[], 1_000);
        assert_eq!(owners.get(0), None);
        owners.learn(&workers(LINKS_MAX), 1);
        assert_eq!(owners.known.len(), 1);
    }
}
