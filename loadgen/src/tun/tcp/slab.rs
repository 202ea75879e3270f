//! Pools that grow by the segment and never move: work records and the bytes on the way.

/// Entries that are allocated together.
const SEGMENT_ENTRIES: u32 = 1024;

/// Entries named by handles; 0 is no handle.
#[derive(Debug)]
pub(super) struct Slab<T> {
    segments: Vec<Box<[T]>>,
    free: Vec<u32>,
    /// Entries that were handed out at least once.
    high_water: u32,
}

impl<T: Clone + Default> Slab<T> {
    pub(super) const fn new() -> Self {
        Self { segments: Vec::new(), free: Vec::new(), high_water: 0 }
    }

    /// Hands out an entry in its default state.
    pub(super) fn alloc(&mut self) -> u32 {
        if let Some(handle) = self.free.pop() {
            return handle;
        }
        if self.high_water.is_multiple_of(SEGMENT_ENTRIES) {
            self.segments.push(vec![T::default(); SEGMENT_ENTRIES as usize].into_boxed_slice());
        }
        self.high_water += 1;
        self.high_water
    }

    pub(super) fn free(&mut self, handle: u32) {
        *self.get_mut(handle) = T::default();
        self.free.push(handle);
    }

    pub(super) fn get(&self, handle: u32) -> &T {
        let index = handle - 1;
        &self.segments[(index / SEGMENT_ENTRIES) as usize][(index % SEGMENT_ENTRIES) as usize]
    }

    pub(super) fn get_mut(&mut self, handle: u32) -> &mut T {
        let index = handle - 1;
        &mut self.segments[(index / SEGMENT_ENTRIES) as usize][(index % SEGMENT_ENTRIES) as usize]
    }

    /// Entries in use.
    pub(super) fn live(&self) -> usize {
        self.high_water as usize - self.free.len()
    }

    /// Heap bytes, those of free entries included.
    pub(super) fn heap_bytes(&self) -> usize {
        self.segments.len() * SEGMENT_ENTRIES as usize * size_of::<T>()
            + self.segments.capacity() * size_of::<Box<[T]>>()
            + self.free.capacity() * size_of::<u32>()
    }
}

const CHUNK_BYTES: usize = 124;

#[derive(Clone, Debug)]
struct Chunk {
    next: u32,
    bytes: [u8; CHUNK_BYTES],
}

impl Default for Chunk {
    fn default() -> Self {
        Self { next: 0, bytes: [0; CHUNK_BYTES] }
    }
}

const _: () = assert!(size_of::<Chunk>() == 128);

/// A byte queue in a chain of chunks; all zero when empty.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Queue {
    head: u32,
    tail: u32,
    len: u32,
    /// Bytes of the head chunk that are gone.
    skip: u8,
    /// Bytes of the tail chunk that are filled.
    used: u8,
}

impl Queue {
    pub(super) const fn len(&self) -> u32 {
        self.len
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// The bytes of all queues.
#[derive(Debug)]
pub(super) struct Chunks {
    slab: Slab<Chunk>,
}

impl Chunks {
    pub(super) const fn new() -> Self {
        Self { slab: Slab::new() }
    }

    pub(super) fn push(&mut self, queue: &mut Queue, mut bytes: &[u8]) {
        queue.len += bytes.len() as u32;
        while !bytes.is_empty() {
            if queue.tail == 0 || usize::from(queue.used) == CHUNK_BYTES {
                self.append_chunk(queue);
            }
            let used = usize::from(queue.used);
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK_BYTES - used));
            self.slab.get_mut(queue.tail).bytes[used..used + now.len()].copy_from_slice(now);
            queue.used += now.len() as u8;
            bytes = later;
        }
    }

    fn append_chunk(&mut self, queue: &mut Queue) {
        let chunk = self.slab.alloc();
        if queue.tail == 0 {
            queue.head = chunk;
        } else {
            self.slab.get_mut(queue.tail).next = chunk;
        }
        queue.tail = chunk;
        queue.used = 0;
    }

    /// Drops the first `count` bytes. Panics if there are fewer.
    pub(super) fn consume(&mut self, queue: &mut Queue, mut count: u32) {
        assert!(count <= queue.len, "more is consumed than there is");
        queue.len -= count;
        if queue.len == 0 {
            self.free_chain(queue.head);
            *queue = Queue::default();
            return;
        }
        while count > 0 {
            let left = CHUNK_BYTES as u32 - u32::from(queue.skip);
            if count < left {
                queue.skip += count as u8;
                return;
            }
            count -= left;
            let next = self.slab.get(queue.head).next;
            self.slab.free(queue.head);
            queue.head = next;
            queue.skip = 0;
        }
    }

    /// Drops everything.
    pub(super) fn clear(&mut self, queue: &mut Queue) {
        self.consume(queue, queue.len);
    }

    /// Copies bytes from `offset` on. Panics unless the queue holds them.
    pub(super) fn copy(&self, queue: &Queue, offset: u32, into: &mut [u8]) {
        assert!(offset as usize + into.len() <= queue.len as usize, "more is copied than there is");
        let mut at = offset as usize + usize::from(queue.skip);
        let mut chunk = queue.head;
        let mut filled = 0;
        while filled < into.len() {
            let entry = self.slab.get(chunk);
            if at < CHUNK_BYTES {
                let count = (CHUNK_BYTES - at).min(into.len() - filled);
                into[filled..filled + count].copy_from_slice(&entry.bytes[at..at + count]);
                filled += count;
                at = 0;
            } else {
                at -= CHUNK_BYTES;
            }
            chunk = entry.next;
        }
    }

    fn free_chain(&mut self, mut chunk: u32) {
        while chunk != 0 {
            let next = self.slab.get(chunk).next;
            self.slab.free(chunk);
            chunk = next;
        }
    }

    pub(super) fn live(&self) -> usize {
        self.slab.live()
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.slab.heap_bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Two queues in one pool against a plain deque each.
        #[test]
        fn queues_are_queues(
            steps in prop::collection::vec((any::<bool>(), any::<bool>(), 0usize..700, any::<prop::sample::Index>()), 1..60)
        ) {
            let mut chunks = Chunks::new();
            let mut queues = [Queue::default(); 2];
            let mut models = [VecDeque::<u8>::new(), VecDeque::new()];
            let mut next = 0u8;
            for (which, push, count, at) in steps {
                let (queue, model) = (&mut queues[usize::from(which)], &mut models[usize::from(which)]);
                if push {
                    let bytes: Vec<u8> = (0..count).map(|_| { next = next.wrapping_add(1); next }).collect();
                    chunks.push(queue, &bytes);
                    model.extend(&bytes);
                } else {
                    let count = count.min(model.len());
                    chunks.consume(queue, count as u32);
                    model.drain(..count);
                }
                prop_assert_eq!(queue.len() as usize, model.len());
                let offset = at.index(model.len() + 1);
                let mut copy = vec![0; model.len() - offset];
                chunks.copy(queue, offset as u32, &mut copy);
                prop_assert!(copy.iter().eq(model.range(offset..)));
            }
            for queue in &mut queues {
                chunks.clear(queue);
            }
            prop_assert_eq!(chunks.live(), 0, "chunks leaked");
        }
    }
}
