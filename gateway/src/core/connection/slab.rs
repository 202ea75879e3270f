//! A growing array with reuse: entries are named by a handle that is never 0.

/// Entries of `T`, reused last-in first-out, so that memory follows the high-water mark.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    entries: Vec<T>,
    free: Vec<u32>,
}

impl<T: Copy + Default> Slab<T> {
    pub(crate) const fn new() -> Self {
        Self { entries: Vec::new(), free: Vec::new() }
    }

    /// Stores an entry; the handle is never 0, so that 0 can mean "none" in a zeroed record.
    pub(crate) fn insert(&mut self, entry: T) -> u32 {
        if let Some(handle) = self.free.pop() {
            self.entries[handle as usize - 1] = entry;
            return handle;
        }
        self.entries.push(entry);
        u32::try_from(self.entries.len()).expect("fewer than 2^32 entries")
    }

    /// Takes an entry out.
    pub(crate) fn remove(&mut self, handle: u32) -> T {
        self.free.push(handle);
        std::mem::take(&mut self.entries[handle as usize - 1])
    }

    pub(crate) fn get(&self, handle: u32) -> &T {
        &self.entries[handle as usize - 1]
    }

    pub(crate) fn get_mut(&mut self, handle: u32) -> &mut T {
        &mut self.entries[handle as usize - 1]
    }

    /// Entries in use.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }
}
