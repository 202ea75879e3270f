//! Memory that the kernel uses while an op is in flight. Nothing here moves while it does.

use std::{net::SocketAddr, ptr::NonNull};

/// A sockaddr as the kernel wants it.
#[repr(C)]
pub(super) union Address {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Address {
    pub(super) fn new(address: SocketAddr) -> (Self, u32) {
        match address {
            SocketAddr::V4(v4) => (
                Self {
                    v4: libc::sockaddr_in {
                        sin_family: libc::AF_INET as libc::sa_family_t,
                        sin_port: v4.port().to_be(),
                        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                        sin_zero: [0; 8],
                    },
                },
                size_of::<libc::sockaddr_in>() as u32,
            ),
            SocketAddr::V6(v6) => (
                Self {
                    v6: libc::sockaddr_in6 {
                        sin6_family: libc::AF_INET6 as libc::sa_family_t,
                        sin6_port: v6.port().to_be(),
                        sin6_flowinfo: v6.flowinfo(),
                        sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                        sin6_scope_id: v6.scope_id(),
                    },
                },
                size_of::<libc::sockaddr_in6>() as u32,
            ),
        }
    }
}

/// Sockaddrs of queued entries: filled one by one, cleared when the kernel has consumed them all
/// (it copies a sockaddr when it takes the entry: io_uring's "submit stable" since 5.5).
pub(super) struct Addresses {
    places: Vec<Address>,
}

impl Addresses {
    pub(super) fn new(places: usize) -> Self {
        Self { places: Vec::with_capacity(places) }
    }

    /// Keeps an address; none when full. The pointer is good until [`Self::clear`], because the
    /// vector never grows beyond the capacity it began with.
    pub(super) fn keep(&mut self, address: SocketAddr) -> Option<(*const libc::sockaddr, u32)> {
        if self.places.len() == self.places.capacity() {
            return None;
        }
        let (address, len) = Address::new(address);
        self.places.push(address);
        Some((std::ptr::from_ref(self.places.last().expect("just pushed")).cast(), len))
    }

    /// Heap bytes held.
    pub(super) const fn bytes(&self) -> u64 {
        (self.places.capacity() * size_of::<Address>()) as u64
    }

    pub(super) fn clear(&mut self) {
        self.places.clear();
    }
}

/// A pool of equal blocks for receives.
pub(super) struct Blocks {
    memory: NonNull<u8>,
    block_bytes: u32,
    blocks: u32,
    /// Blocks that no op and no caller has.
    free: Vec<u32>,
}

impl Blocks {
    pub(super) fn new(blocks: u32, block_bytes: u32) -> Self {
        let memory: Box<[u8]> = vec![0; blocks as usize * block_bytes as usize].into_boxed_slice();
        let memory = NonNull::new(Box::into_raw(memory).cast::<u8>()).expect("a box is not null");
        Self { memory, block_bytes, blocks, free: (0..blocks).rev().collect() }
    }

    pub(super) const fn block_bytes(&self) -> u32 {
        self.block_bytes
    }

    /// All memory of the pool, in bytes.
    pub(super) const fn bytes(&self) -> u64 {
        self.blocks as u64 * self.block_bytes as u64
    }

    /// Takes a block; none when all are in use.
    pub(super) fn take(&mut self) -> Option<u32> {
        self.free.pop()
    }

    /// Where a taken block lies.
    pub(super) fn address(&self, block: u32) -> *mut u8 {
        assert!(block < self.blocks);
        // SAFETY: the block lies within the allocation of blocks * block_bytes bytes.
        unsafe { self.memory.as_ptr().add(block as usize * self.block_bytes as usize) }
    }

    /// The first `len` bytes of a block whose receive has completed, then gives it back.
    pub(super) fn consume(&mut self, block: u32, len: usize, take: impl FnOnce(&[u8])) {
        assert!(len <= self.block_bytes as usize);
        // SAFETY: within the allocation (asserted here and in `address`), initialised with zeros
        // at the start, and the kernel has finished with it, since its completion was reaped.
        take(unsafe { std::slice::from_raw_parts(self.address(block), len) });
        self.free.push(block);
        debug_assert!(self.free.len() <= self.blocks as usize);
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        let len = self.bytes() as usize;
        // SAFETY: pointer and length are those of the boxed slice given up in `new`; the rings
        // that knew of it are dropped before (field order of `Bank`), and a receive here never
        // waits in the kernel (MSG_DONTWAIT): none can be under way.
        drop(unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(self.memory.as_ptr(), len)) });
    }
}

/// Bytes on their way out: the kernel reads them until the send's completion.
pub(super) struct Outgoing {
    chunks: Vec<Chunk>,
    free: Vec<u32>,
}

struct Chunk {
    slot: u32,
    bytes: Vec<u8>,
    sent: usize,
}

impl Outgoing {
    /// Chunks that stay allocated for re-use are cut to this, in bytes.
    const KEEP_BYTES: usize = 1024;

    pub(super) const fn new() -> Self {
        Self { chunks: Vec::new(), free: Vec::new() }
    }

    /// Copies bytes into a chunk and returns its index.
    pub(super) fn keep(&mut self, slot: u32, bytes: &[u8]) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.chunks.push(Chunk { slot, bytes: Vec::new(), sent: 0 });
            u32::try_from(self.chunks.len() - 1).expect("fewer chunks than slots")
        });
        let chunk = &mut self.chunks[index as usize];
        chunk.slot = slot;
        chunk.bytes.extend_from_slice(bytes);
        index
    }

    /// The chunk that this slot has in the kernel.
    pub(super) fn find(&self, slot: u32) -> Option<u32> {
        let at = self.chunks.iter().position(|chunk| chunk.slot == slot && !chunk.bytes.is_empty())?;
        Some(at as u32)
    }

    /// What is still to be sent. Stays where it is until [`Self::release`]: a chunk's heap
    /// memory does not move with the table.
    pub(super) fn rest(&self, index: u32) -> &[u8] {
        let chunk = &self.chunks[index as usize];
        &chunk.bytes[chunk.sent..]
    }

    /// Notes that `count` more bytes have left; true when that was all.
    pub(super) fn advance(&mut self, index: u32, count: usize) -> bool {
        let chunk = &mut self.chunks[index as usize];
        chunk.sent += count;
        assert!(chunk.sent <= chunk.bytes.len());
        chunk.sent == chunk.bytes.len()
    }

    /// Frees a chunk after its completion; returns how many bytes it had in all.
    pub(super) fn release(&mut self, index: u32) -> u32 {
        let chunk = &mut self.chunks[index as usize];
        let bytes = chunk.bytes.len() as u32;
        chunk.bytes.clear();
        chunk.bytes.shrink_to(Self::KEEP_BYTES);
        chunk.sent = 0;
        self.free.push(index);
        bytes
    }

    /// Heap bytes held.
    pub(super) fn bytes(&self) -> u64 {
        let held: usize = self.chunks.iter().map(|chunk| chunk.bytes.capacity() + size_of::<Chunk>()).sum();
        (held + self.free.capacity() * size_of::<u32>()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_is_sent_in_pieces_and_reused() {
        let mut outgoing = Outgoing::new();
        let index = outgoing.keep(7, b"abcdef");
        assert!(!outgoing.advance(index, 2));
        assert_eq!(outgoing.rest(index), b"cdef");
        assert_eq!((outgoing.find(7), outgoing.find(8)), (Some(index), None));
        assert!(outgoing.advance(index, 4));
        assert_eq!(outgoing.release(index), 6);
        assert_eq!(outgoing.keep(8, b"x"), index);
        assert_eq!(outgoing.rest(index), b"x");
    }

    #[test]
    fn blocks_run_out_and_come_back() {
        let mut blocks = Blocks::new(2, 16);
        let (a, _b) = (blocks.take().unwrap(), blocks.take().unwrap());
        assert_eq!(blocks.take(), None);
        blocks.consume(a, 3, |bytes| assert_eq!(bytes, [0, 0, 0]));
        assert_eq!(blocks.take(), Some(a));
    }

    #[test]
    fn addresses_never_move() {
        let mut addresses = Addresses::new(2);
        let (first, len) = addresses.keep("127.0.0.1:80".parse().unwrap()).unwrap();
        assert_eq!(len, 16);
        assert!(addresses.keep("[::1]:80".parse().unwrap()).is_some());
        assert!(addresses.keep("127.0.0.1:80".parse().unwrap()).is_none());
        assert_eq!(first, std::ptr::from_ref(&addresses.places[0]).cast());
    }
}
