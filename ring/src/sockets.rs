//! Which descriptor stands behind a client's slot.

use super::sqe::Descriptor;

/// The clients' descriptors of one driver.
pub(super) enum Sockets {
    /// Slot `s` is entry `s % slots_per_ring` in the table of its ring.
    Direct,
    /// A column with fd + 1 of each slot's client, 0 for none. Zeroed pages, so slots that were
    /// never used cost nothing.
    Plain(Vec<i32>),
}

impl Sockets {
    pub(super) fn new(direct: bool, slots_max: u32) -> Self {
        if direct { Self::Direct } else { Self::Plain(vec![0; slots_max as usize]) }
    }

    pub(super) fn is_direct(&self) -> bool {
        matches!(self, Self::Direct)
    }

    /// The descriptor of `slot`, which is entry `index` of its ring.
    pub(super) fn get(&self, slot: u32, index: u32) -> Descriptor {
        match self {
            Self::Direct => Descriptor::Direct(index),
            // An empty slot is fd -1: EBADF.
            Self::Plain(column) => Descriptor::Plain(column[slot as usize] - 1),
        }
    }

    /// As [`Self::get`]; the descriptor is the caller's to close.
    pub(super) fn take(&mut self, slot: u32, index: u32) -> Descriptor {
        match self {
            Self::Direct => Descriptor::Direct(index),
            Self::Plain(column) => Descriptor::Plain(std::mem::take(&mut column[slot as usize]) - 1),
        }
    }

    /// Notes what an accept into `slot` returned. Returns the result that the core is to see.
    pub(super) fn accepted(&mut self, slot: u32, result: i32) -> i32 {
        match self {
            Self::Plain(column) if result >= 0 => {
                let entry = &mut column[slot as usize];
                assert_eq!(*entry, 0, "accepted into slot {slot}, which is not free");
                *entry = result + 1;
                0
            }
            _ => result,
        }
    }

    /// Notes the plain descriptor of a socket that was made for `slot`. Panics if the slot has one.
    pub(super) fn put(&mut self, slot: u32, fd: i32) {
        self.accepted(slot, fd);
    }

    /// All plain descriptors, which are the caller's to close.
    pub(super) fn take_all(&mut self, slots: u32) -> impl Iterator<Item = i32> {
        let column = match self {
            Self::Direct => &mut [][..],
            // What lies beyond the started slots was never touched and is to stay so.
            Self::Plain(column) => &mut column[..slots as usize],
        };
        column.iter_mut().filter(|entry| **entry != 0).map(|entry| std::mem::take(entry) - 1)
    }
}
