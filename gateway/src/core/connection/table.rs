//! The connection table: records mapped lazily, free slots chained through their own records.

use std::net::SocketAddr;

use bytemuck::Zeroable;

use super::{
    peer,
    record::{Cold, Hot},
};
use crate::core::index::Slot;

/// All records of a shard. Slots of one ring are handed out lowest first, and a slot that was
/// never used costs no memory.
pub(crate) struct Table {
    hot: Box<[Hot]>,
    cold: Box<[Cold]>,
    /// Handles of what stages keep, 0 for nothing; empty where no listener has a stage.
    kept: Box<[u32]>,
    rings: Vec<FreeList>,
    slots_per_ring: u32,
    live: u32,
    /// Slots below this have been used.
    high_water: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct FreeList {
    /// Slot + 1 of the first freed slot.
    head: u32,
    /// Slots of the ring that were used at least once.
    used: u32,
    /// Slots of the ring in all.
    slots: u32,
    free: u32,
}

impl Table {
    /// A table of `slots` free slots in rings of `slots_per_ring`. `staged`: with the column for stages.
    pub(crate) fn new(slots: u32, slots_per_ring: u32, staged: bool) -> Self {
        assert!(slots > 0 && slots_per_ring > 0);
        let rings = (0..slots.div_ceil(slots_per_ring))
            .map(|ring| {
                let slots = slots_per_ring.min(slots - ring * slots_per_ring);
                FreeList { head: 0, used: 0, slots, free: slots }
            })
            .collect();
        Self {
            // Zeroed pages come from the kernel on first touch: memory follows use.
            hot: bytemuck::zeroed_slice_box(slots as usize),
            cold: bytemuck::zeroed_slice_box(slots as usize),
            kept: bytemuck::zeroed_slice_box(if staged { slots as usize } else { 0 }),
            rings,
            slots_per_ring,
            live: 0,
            high_water: 0,
        }
    }

    /// Takes a free slot of `ring`.
    pub(crate) fn alloc(&mut self, ring: u32) -> Option<Slot> {
        let list = &mut self.rings[ring as usize];
        let slot = if list.head != 0 {
            let slot = list.head - 1;
            let hot = &mut self.hot[slot as usize];
            list.head = hot.next_free();
            hot.set_next_free(0);
            slot
        } else if list.used < list.slots {
            list.used += 1;
            ring * self.slots_per_ring + list.used - 1
        } else {
            return None;
        };
        list.free -= 1;
        self.live += 1;
        self.high_water = self.high_water.max(slot + 1);
        Some(Slot::new(slot))
    }

    /// Gives a slot back and bumps its generation. Panics unless the record is clean: a slot
    /// that keeps an op bit or a buffer would leak them to the next client.
    pub(crate) fn free(&mut self, slot: Slot) {
        let hot = &mut self.hot[slot.index()];
        assert_eq!(hot.ops(), 0, "invariant free-slot-clean: slot {slot} is freed with ops in the kernel");
        let kept = self.kept.get(slot.index()).copied().unwrap_or(0);
        assert_eq!(
            (hot.outbox(), hot.spill(), kept),
            (0, 0, 0),
            "invariant free-slot-clean: slot {slot} is freed with buffers"
        );
        let list = &mut self.rings[(slot.get() / self.slots_per_ring) as usize];
        hot.free();
        hot.set_next_free(list.head);
        self.cold[slot.index()] = Cold::zeroed();
        list.head = slot.get() + 1;
        list.free += 1;
        self.live -= 1;
    }

    /// The first part of a record; none of a slot that is not there.
    #[inline]
    pub(crate) fn get(&self, slot: Slot) -> Option<&Hot> {
        self.hot.get(slot.index())
    }

    /// The same, to change it.
    #[inline]
    pub(crate) fn get_mut(&mut self, slot: Slot) -> Option<&mut Hot> {
        self.hot.get_mut(slot.index())
    }

    #[inline]
    pub(crate) fn hot(&self, slot: Slot) -> &Hot {
        &self.hot[slot.index()]
    }

    #[inline]
    pub(crate) fn hot_mut(&mut self, slot: Slot) -> &mut Hot {
        &mut self.hot[slot.index()]
    }

    /// Something of the slot's record, to have it in the cache; of a slot that is not there, nothing.
    #[inline]
    pub(crate) fn touch(&self, slot: u32) -> u32 {
        self.hot.get(slot as usize).map_or(0, Hot::generation)
    }

    pub(crate) fn cold(&self, slot: Slot) -> &Cold {
        &self.cold[slot.index()]
    }

    pub(crate) fn cold_mut(&mut self, slot: Slot) -> &mut Cold {
        &mut self.cold[slot.index()]
    }

    /// Handle of the bytes that a connection's stages keep; 0: none.
    #[inline]
    pub(crate) fn kept(&self, slot: Slot) -> u32 {
        self.kept.get(slot.index()).copied().unwrap_or(0)
    }

    /// Only where a listener has a stage can there be any.
    pub(crate) fn set_kept(&mut self, slot: Slot, handle: u32) {
        if let Some(kept) = self.kept.get_mut(slot.index()) {
            *kept = handle;
        }
    }

    /// The address of a client that has sent no HELLO yet.
    pub(crate) fn peer(&self, slot: Slot) -> Option<SocketAddr> {
        peer::get(self.hot(slot), self.cold(slot))
    }

    /// Keeps the address of a client that has sent no HELLO yet.
    pub(crate) fn keep_peer(&mut self, slot: Slot, peer: SocketAddr) {
        peer::keep(&mut self.hot[slot.index()], &mut self.cold[slot.index()], peer);
    }

    /// Forgets the address, before OPEN overwrites it.
    pub(crate) fn forget_peer(&mut self, slot: Slot) {
        peer::forget(&mut self.hot[slot.index()], &mut self.cold[slot.index()]);
    }

    pub(crate) fn slots(&self) -> u32 {
        self.hot.len() as u32
    }

    /// Slots that are not free.
    pub(crate) fn live(&self) -> u32 {
        self.live
    }

    pub(crate) fn high_water(&self) -> u32 {
        self.high_water
    }

    pub(crate) fn free_in(&self, ring: u32) -> u32 {
        self.rings[ring as usize].free
    }

    pub(crate) fn ring_of(&self, slot: u32) -> u32 {
        slot / self.slots_per_ring
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_column_for_stages_is_there_only_where_a_listener_has_one() {
        let (mut plain, mut staged) = (Table::new(9, 3, false), Table::new(9, 3, true));
        assert_eq!((plain.kept.len(), staged.kept.len()), (0, 9));
        for table in [&mut plain, &mut staged] {
            let slot = table.alloc(1).expect("a slot");
            table.set_kept(slot, 7);
        }
        assert_eq!((plain.kept(Slot::new(3)), staged.kept(Slot::new(3))), (0, 7));
    }
}
