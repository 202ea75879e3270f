//! Who holds the most: entries in classes by size, so that the largest is found without a walk over
//! all of them.

/// Sizes up to this many bytes stand in no class: whoever holds no more pays for nobody.
pub(crate) const FLOOR_BYTES: u32 = 2 * 1024;
/// Four classes for each doubling: entries of one class differ by a quarter at most.
const CLASSES: usize = 1 + 4 * (32 - FLOOR_BYTES.ilog2() as usize);
/// Entries of the highest class that are compared.
const LOOKS: usize = 32;

#[derive(Clone, Copy, Debug, Default)]
struct Node {
    prev: u32,
    next: u32,
}

/// Entries, named by handles that are never 0, in a list for each class. Which class an entry is in
/// its owner remembers: most are in none, and that should cost nothing here.
#[derive(Debug)]
pub(crate) struct Ranks {
    heads: [u32; CLASSES],
    nodes: Vec<Node>,
}

impl Ranks {
    pub(crate) const fn new() -> Self {
        Self { heads: [0; CLASSES], nodes: Vec::new() }
    }

    /// Moves an entry from its class to the one of its present size, which is returned; 0: in none.
    pub(crate) fn place(&mut self, handle: u32, class: u8, bytes: u32) -> u8 {
        let to = class_of(bytes);
        if to == class {
            return class;
        }
        if class != 0 {
            self.unlink(handle, class);
        }
        if to != 0 {
            self.link(handle, to);
        }
        to
    }

    /// The largest entry, as `bytes` has it: of a crowd of about the same size, one of the largest.
    pub(crate) fn largest(&self, bytes: impl Fn(u32) -> u32) -> Option<u32> {
        let head = *self.heads.iter().rev().find(|&&head| head != 0)?;
        let some = |handle: u32| (handle != 0).then_some(handle);
        std::iter::successors(Some(head), |&handle| some(self.nodes[handle as usize - 1].next))
            .take(LOOKS)
            .max_by_key(|&handle| bytes(handle))
    }

    fn link(&mut self, handle: u32, class: u8) {
        let at = handle as usize - 1;
        if at >= self.nodes.len() {
            self.nodes.resize(at + 1, Node::default());
        }
        let head = std::mem::replace(&mut self.heads[usize::from(class)], handle);
        self.nodes[at] = Node { prev: 0, next: head };
        if head != 0 {
            self.nodes[head as usize - 1].prev = handle;
        }
    }

    fn unlink(&mut self, handle: u32, class: u8) {
        let Node { prev, next } = std::mem::take(&mut self.nodes[handle as usize - 1]);
        match prev {
            0 => self.heads[usize::from(class)] = next,
            _ => self.nodes[prev as usize - 1].next = next,
        }
        if next != 0 {
            self.nodes[next as usize - 1].prev = prev;
        }
    }
}

fn class_of(bytes: u32) -> u8 {
    if bytes <= FLOOR_BYTES {
        return 0;
    }
    let log = bytes.ilog2();
    let quarter = (bytes >> (log - 2)) & 3;
    (1 + 4 * (log - FLOOR_BYTES.ilog2()) + quarter) as u8
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn the_largest_is_found_whoever_comes_and_goes(
            changes in vec((1..200u32, prop_oneof![0..5_000u32, 0..=u32::MAX]), 1..400)
        ) {
            let mut ranks = Ranks::new();
            let mut entries = [(0u8, 0u32); 201];
            for (handle, bytes) in changes {
                let (class, held) = &mut entries[handle as usize];
                *class = ranks.place(handle, *class, bytes);
                *held = bytes;
                let most = entries.iter().map(|&(_, bytes)| bytes).max().unwrap_or(0);
                match ranks.largest(|handle| entries[handle as usize].1) {
                    Some(largest) => {
                        let found = u64::from(entries[largest as usize].1);
                        prop_assert!(found + found / 4 >= u64::from(most), "{found} is not near {most}");
                    }
                    None => prop_assert!(most <= FLOOR_BYTES),
                }
            }
        }
    }
}
