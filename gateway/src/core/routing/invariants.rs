//! What must hold of routing between any two steps.

use roost_protocol::hash;

use super::Routing;
use crate::core::{connection::Connections, context::Context, index::Slot, record::flag};

impl Routing {
    /// Panics if an invariant does not hold, naming it.
    pub(crate) fn check_invariants(&self, ctx: &Context, connections: &Connections) {
        let mut waiting = 0;
        let mut routed = vec![0u32; self.workers.len()];
        for slot in Slot::range(0, connections.high_water()) {
            let hot = connections.hot(slot);
            waiting += u32::from(connections.awaits_worker(slot));
            if hot.has_session() {
                routed[usize::from(hot.worker())] += 1;
            }
            self.check_placement(connections, slot);
        }
        assert_eq!(
            waiting,
            self.waiting.total(),
            "invariant conservation: connections without a worker are counted"
        );
        let failovers = self.workers.iter().filter(|record| record.failover.is_some()).count();
        assert_eq!(
            failovers, self.failovers as usize,
            "invariant conservation: failovers under way are counted"
        );
        self.links.check_invariants(ctx, &routed, |index| self.is_left(index));
    }

    /// An open connection is with its owner, or will be: on its way, or before the walk that moves it.
    fn check_placement(&self, connections: &Connections, slot: Slot) {
        let hot = connections.hot(slot);
        let worker = hot.worker();
        if hot.has(flag::MOVING) {
            assert!(
                self.awaits_failover(worker, slot.get()) || self.link(worker).is_moving(connections.id(slot)),
                "invariant deadlines: slot {slot} is being moved and nobody looks how long"
            );
        } else if !self.is_failing_over() && hot.is_open() && self.is_elsewhere(connections, slot) {
            let record = self.record(worker);
            assert!(
                record.rebalance_again || record.rebalance.is_some_and(|cursor| cursor <= slot.get()),
                "invariant placement: slot {slot} stays with worker {worker}, which does not own it"
            );
        }
    }

    /// Whether another worker owns the connection: by the definition, not by the table of owners.
    fn is_elsewhere(&self, connections: &Connections, slot: Slot) -> bool {
        let stay = self.links.iter().filter(|(_, link)| link.is_routable());
        let stay = stay.map(|(index, link)| (index.worker(), link.worker_hash()));
        let partition = hash::partition_of(connections.cold(slot).routing_hash());
        hash::rendezvous(partition, stay).is_some_and(|owner| owner != connections.hot(slot).worker())
    }
}
