//! The table against a plain list of slots.

use proptest::{collection::vec, prelude::*};

use roost_protocol::SessionRef;

use crate::core::{
    connection::table::Table,
    index::{Slot, WorkerIndex},
    record::State,
};

/// What the model knows of a slot.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    taken: bool,
    used: bool,
    generation: u32,
}

proptest! {
    #[test]
    fn a_slot_has_one_user_at_a_time_and_a_new_generation_for_each(
        (slots, per_ring) in (1..40u32, 1..12u32),
        choice_of_column in any::<bool>(),
        actions in vec((any::<bool>(), any::<u32>()), 1..300),
    ) {
        let mut table = Table::new(slots, per_ring, choice_of_column);
        let mut model = vec![Used::default(); slots as usize];
        let rings = slots.div_ceil(per_ring);
        for (allocates, choice) in actions {
            let ring = choice % rings;
            let of_ring = |slot: usize| slot as u32 / per_ring == ring;
            if allocates {
                let free = (0..model.len()).filter(|&slot| of_ring(slot) && !model[slot].taken).count();
                let fresh = (0..model.len()).find(|&slot| of_ring(slot) && !model[slot].used);
                match table.alloc(ring) {
                    None => prop_assert_eq!(free, 0, "a full ring has no free slot"),
                    Some(slot) => {
                        let known = &mut model[slot.index()];
                        prop_assert!(of_ring(slot.index()) && !known.taken, "slot {} is taken", slot);
                        // Memory follows use: the lowest of those that were never used.
                        prop_assert!(known.used || fresh == Some(slot.index()), "slot {} is fresh", slot);
                        (known.taken, known.used) = (true, true);
                        let hot = table.hot_mut(slot);
                        prop_assert_eq!((hot.state(), hot.ops(), hot.outbox(), hot.spill()), (State::Free, 0, 0, 0));
                        prop_assert_eq!(hot.generation(), known.generation);
                        for state in [State::Accepting, State::Handshaking, State::Opening] {
                            hot.set_state(state);
                        }
                        hot.accept(SessionRef(choice.into()));
                        hot.set_flag(0xff);
                        hot.set_worker(WorkerIndex::new(3));
                        hot.set_state(State::Closing);
                        let cold = table.cold_mut(slot);
                        cold.set_routing_hash(u64::from(choice));
                        cold.set_listener(1);
                    }
                }
            } else {
                let taken: Vec<usize> = (0..model.len()).filter(|&slot| model[slot].taken).collect();
                let Some(&slot) = taken.get(choice as usize % taken.len().max(1)) else { continue };
                table.free(Slot::new(slot as u32));
                model[slot].taken = false;
                model[slot].generation += 1;
                let (hot, cold) = (table.hot(Slot::new(slot as u32)), table.cold(Slot::new(slot as u32)));
                prop_assert_eq!((hot.flags(), hot.worker(), cold.routing_hash()), (0, WorkerIndex::new(0), 0));
                prop_assert_eq!((cold.listener(), hot.since_tick()), (0, 0));
            }
            prop_assert_eq!(table.live() as usize, model.iter().filter(|slot| slot.taken).count());
            let high_water = model.iter().rposition(|slot| slot.used).map_or(0, |last| last + 1);
            prop_assert_eq!(table.high_water() as usize, high_water);
            for ring in 0..rings {
                let of_ring = |slot: &usize| *slot as u32 / per_ring == ring;
                let free = (0..model.len()).filter(of_ring).filter(|&slot| !model[slot].taken).count();
                prop_assert_eq!(table.free_in(ring) as usize, free);
            }
        }
    }
}
