//! Indices as types, so that none is taken for another.

use std::fmt;

use crate::core::stats::LINKS_MAX;

/// A connection's place in the shard's table of records: below 2^24, as tokens and ids hold it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u32);

impl Slot {
    /// The slot with this number.
    #[inline]
    pub const fn new(slot: u32) -> Self {
        Self(slot)
    }

    /// Its number, as ops, tokens and connection ids have it.
    #[inline]
    pub const fn get(self) -> u32 {
        self.0
    }

    /// Its place in a column of the table.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The slots from `from` on that are below `to`.
    pub fn range(from: u32, to: u32) -> impl DoubleEndedIterator<Item = Self> + ExactSizeIterator {
        (from..to).map(Self)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A link's place in the shard: below [`LINKS_MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkIndex(u8);

/// Which worker a connection belongs to, as its record holds it: the worker behind the link of the
/// same number, for as long as the link is that worker's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerIndex(u8);

const _: () = assert!(LINKS_MAX <= 1 << u8::BITS);

impl LinkIndex {
    /// The link with this number; none if there can be no such link.
    #[inline]
    pub const fn new(link: usize) -> Option<Self> {
        if link < LINKS_MAX { Some(Self(link as u8)) } else { None }
    }

    /// Its number, as ops and tokens have it.
    #[inline]
    pub const fn get(self) -> u16 {
        self.0 as u16
    }

    /// Its place in the list of links.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// The worker that it goes to.
    #[inline]
    pub const fn worker(self) -> WorkerIndex {
        WorkerIndex(self.0)
    }
}

impl fmt::Display for LinkIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl WorkerIndex {
    /// The worker with this number, as records and events have it.
    #[inline]
    pub const fn new(worker: u8) -> Self {
        Self(worker)
    }

    /// Its number.
    #[inline]
    pub const fn get(self) -> u8 {
        self.0
    }

    /// The link that goes to it.
    #[inline]
    pub const fn link(self) -> LinkIndex {
        LinkIndex(self.0)
    }
}

impl From<WorkerIndex> for usize {
    /// The place of its link.
    #[inline]
    fn from(worker: WorkerIndex) -> Self {
        worker.0.into()
    }
}

impl fmt::Display for WorkerIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_and_its_link_have_one_number() {
        let last = LinkIndex::new(LINKS_MAX - 1).expect("a link");
        assert_eq!(last.worker().link(), last);
        assert_eq!((last.index(), usize::from(last.get())), (LINKS_MAX - 1, LINKS_MAX - 1));
        assert_eq!(LinkIndex::new(LINKS_MAX), None);
        assert_eq!(WorkerIndex::new(7).link().worker().get(), 7);
    }
}
