//! The driver: ops to rings, completions back.

use std::{
    io,
    marker::PhantomData,
    mem::ManuallyDrop,
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use io_uring::{cqueue, squeue};

use super::{
    accept::{self, Accepts},
    addresses::Connects,
    bank::{Bank, Counts},
    error::Error,
    features::Features,
    in_flight::{Held, InFlight, Record, STEP_KIND},
    links::Links,
    memory::Memory,
    ring::{Sizes, nofile},
    sockets::Sockets,
    sqe::{self, Bare, Descriptor},
};
use crate::op::{
    Block, Completion, Driver, Interest, Io, LinkAddress, Op, Peer, PoolSpec, Sock, Token, Wait, Waker,
};

/// Slots per ring at most. A ring finds a request to cancel through a hash of at most 256 buckets
/// (fewer for a small completion queue), so more slots make each cancel slower; and old kernels
/// take no file table above 2^15.
pub const RING_SLOTS_MAX: u32 = 1 << 14;

/// `user_data` kind of completions that nobody waits for. The others belong to `in_flight` and `bank`.
pub(super) const IGNORED: u8 = Token::DRIVER_KIND + 3;

/// What a driver is made with.
#[derive(Debug)]
pub struct Config {
    /// Client slots of the shard, 1 to 2^24.
    pub slots_max: u32,
    /// Slots per ring at most, 1 to [`RING_SLOTS_MAX`]; small values force a bank of many rings.
    /// Without meaning where [`Features::banks`] is false.
    pub ring_slots_max: u32,
    /// The classes of blocks.
    pub pools: Vec<PoolSpec>,
    /// Listening sockets, blocking (with O_NONBLOCK an accept fails instead of waiting). Options
    /// that clients are to have are set on them and inherited.
    pub listeners: Vec<OwnedFd>,
    /// Entries of each submission queue, a power of two.
    pub sq_entries: u32,
    /// Entries of each completion queue, a power of two. Raised to the slots of a ring on kernels
    /// without DEFER_TASKRUN.
    pub cq_entries: u32,
    /// How long a turn that may wait looks for completions before it sleeps, at most; zero: not at
    /// all. It does so only as long as it pays (`busy_poll`).
    pub busy_poll: Duration,
}

impl Config {
    /// Ops per ring and system call; 64 bytes each.
    pub const SQ_ENTRIES: u32 = 128;
    /// Room for completions; 16 bytes each.
    pub const CQ_ENTRIES: u32 = 2048;

    /// A configuration with the usual queue sizes.
    pub fn new(slots_max: u32, pools: Vec<PoolSpec>, listeners: Vec<OwnedFd>) -> Self {
        Self {
            slots_max,
            ring_slots_max: RING_SLOTS_MAX,
            pools,
            listeners,
            sq_entries: Self::SQ_ENTRIES,
            cq_entries: Self::CQ_ENTRIES,
            busy_poll: Duration::ZERO,
        }
    }
}

/// The io_uring driver of one shard. It stays on the thread that made it: the kernel accepts no
/// other (IORING_SETUP_SINGLE_ISSUER).
pub struct UringDriver {
    pub(super) bank: Bank,
    /// Holds the memory that ops in the kernel refer to, so it must go after the rings, and only
    /// when no such op is left. `Drop` (see `teardown`) sees to both.
    pub(super) state: ManuallyDrop<State>,
    /// Completions of ops that could not be given to the kernel.
    pub(super) refused: Vec<Completion>,
    listeners: Vec<OwnedFd>,
    accepts_wait_first: bool,
    pub(super) layout: Layout,
    _stays_on_its_thread: PhantomData<*const ()>,
}

/// How slots are spread over rings.
#[derive(Clone, Copy)]
pub(super) struct Layout {
    slots_max: u32,
    slots_per_ring: u32,
    /// Of a ring that has all its slots.
    sizes: Sizes,
}

/// What completions change.
pub(super) struct State {
    pub(super) in_flight: InFlight,
    pub(super) memory: Memory,
    pub(super) accepts: Accepts,
    pub(super) connects: Connects,
    pub(super) sockets: Sockets,
    pub(super) links: Links,
}

impl UringDriver {
    /// Makes a driver with its first ring. Panics if a number in `config` is out of its range.
    ///
    /// # Errors
    /// The kernel refuses a ring, its table, or memory; the text names cause and remedy.
    pub fn new(features: &Features, config: Config) -> Result<Self, Error> {
        let layout = Layout::new(features, &config);
        let state = State {
            in_flight: InFlight::new(),
            memory: Memory::new(&config.pools).map_err(Error::system("map the buffer pools"))?,
            accepts: Accepts::new(config.slots_max).map_err(Error::system("map the accepts' addresses"))?,
            connects: Connects::default(),
            sockets: Sockets::new(features.direct(), config.slots_max),
            links: Links::default(),
        };
        Ok(Self {
            bank: Bank::new(features, layout.sizes_of(0), config.busy_poll)?,
            state: ManuallyDrop::new(state),
            refused: Vec::new(),
            listeners: config.listeners,
            accepts_wait_first: features.accepts_wait_first(),
            layout,
            _stays_on_its_thread: PhantomData,
        })
    }

    /// What the rings have done and take.
    pub fn counts(&self) -> Counts {
        self.bank.counts()
    }

    fn descriptor(&self, sock: Sock) -> (u32, Descriptor) {
        match sock {
            Sock::Client(slot) => {
                let (ring, index) = self.layout.locate(slot);
                (ring, self.state.sockets.get(slot, index))
            }
            Sock::Link(link) => (0, self.state.links.get(link)),
        }
    }

    #[inline]
    fn push(&mut self, ring: u32, token: Token, entry: Bare) {
        self.bank.push_bare(ring, entry, token.to_bits());
    }

    /// Queues an op whose memory is released when its completion finds the record.
    ///
    /// # Safety
    /// What `held` names must keep the memory in `entry` valid until then.
    #[inline(always)]
    pub(super) unsafe fn push_held(&mut self, ring: u32, token: Token, held: Held, entry: squeue::Entry) {
        let user_data = self.state.in_flight.insert(Record { token, ring, held });
        // SAFETY: passed on to the caller.
        unsafe { self.bank.push(ring, entry.user_data(user_data)) };
    }

    fn submit_poll(&mut self, token: Token, sock: Sock, interest: Interest) {
        let (ring, descriptor) = self.descriptor(sock);
        self.push(ring, token, sqe::poll(descriptor, interest));
    }

    fn submit_receive(&mut self, token: Token, sock: Sock, block: Block, offset: u32, len: u32, wait: bool) {
        let (ring, descriptor) = self.descriptor(sock);
        if !wait {
            self.bank.press(ring);
        }
        let bytes = self.state.memory.start_receive(block, offset, len);
        let entry = sqe::receive(descriptor, bytes, len, wait);
        // SAFETY: the block is marked as the kernel's until the completion ends that, its
        // memory is mapped as long as the rings exist, and no reference to it is given
        // out meanwhile.
        unsafe { self.push_held(ring, token, Held::Block(block), entry) };
    }

    fn submit_send(&mut self, token: Token, sock: Sock, block: Block, offset: u32, len: u32, wait: bool) {
        let (ring, descriptor) = self.descriptor(sock);
        let bytes = self.state.memory.start_send(block, offset, len);
        let entry = sqe::send(descriptor, bytes, len, wait);
        // SAFETY: as for a receive, but the kernel only reads, so readers may share.
        unsafe { self.push_held(ring, token, Held::Block(block), entry) };
    }

    fn submit_accept(&mut self, token: Token, slot: u32, listener: u16, expected: bool) {
        let (ring, index) = self.layout.locate(slot);
        let listener = self.listeners[usize::from(listener)].as_raw_fd();
        let (cell, address, len) = self.state.accepts.start();
        let direct = self.state.sockets.is_direct().then_some(index);
        let entry = sqe::accept(listener, address, len, direct, self.accepts_wait_first && !expected);
        // SAFETY: the cell is this accept's alone until its completion finishes it, and stays
        // mapped as long as the rings exist.
        unsafe { self.push_held(ring, token, Held::Accept { cell, slot }, entry) };
    }

    fn count_waiting(&mut self, token: Token, listener: u16) {
        let waiting = self.listeners.get(usize::from(listener)).and_then(accept::waiting);
        let result = waiting.map_or(-libc::EOPNOTSUPP, |waiting| i32::try_from(waiting).unwrap_or(i32::MAX));
        self.refused.push(Completion::new(token, result));
    }

    fn submit_connect(&mut self, token: Token, link: u16) {
        let (descriptor, target) = match self.state.links.start_connect(link) {
            Ok(started) => started,
            Err(error) => {
                let result = -error.raw_os_error().unwrap_or(libc::EINVAL);
                self.refused.push(Completion::new(token, result));
                return;
            }
        };
        let entry = sqe::connect(descriptor, target.as_ptr().cast(), target.addr_len());
        // SAFETY: the link keeps its target where it is until the completion ends the connect.
        unsafe { self.push_held(0, token, Held::ConnectLink(link), entry) };
    }

    fn submit_shutdown(&mut self, token: Token, sock: Sock) {
        let (ring, descriptor) = self.descriptor(sock);
        self.push(ring, token, sqe::shutdown(descriptor));
    }

    fn submit_cancel(&mut self, token: Token, sock: Sock, target: Token) {
        let (ring, _) = self.descriptor(sock);
        let target = self.state.in_flight.user_data_of(target);
        self.push(ring, token, sqe::cancel(target));
    }

    fn submit_close(&mut self, token: Token, sock: Sock) {
        let (ring, descriptor) = match sock {
            Sock::Client(slot) => {
                let (ring, index) = self.layout.locate(slot);
                (ring, self.state.sockets.take(slot, index))
            }
            Sock::Link(link) => (0, self.state.links.take(link)),
        };
        self.push(ring, token, sqe::close(descriptor));
    }
}

impl Layout {
    /// The sizes of a ring that has all its slots.
    pub(super) fn sizes(&self) -> Sizes {
        self.sizes
    }

    pub(super) fn new(features: &Features, config: &Config) -> Self {
        assert!((1..=1 << 24).contains(&config.slots_max));
        assert!((1..=RING_SLOTS_MAX).contains(&config.ring_slots_max));
        let ring_slots_max = if features.banks() { config.ring_slots_max } else { config.slots_max };
        let mut slots_per_ring = ring_slots_max.min(config.slots_max);
        if let Some(nofile) = nofile().filter(|_| features.direct()) {
            // A table of direct descriptors may not be larger (io_uring_register(2)).
            slots_per_ring = slots_per_ring.min(u32::try_from(nofile).unwrap_or(u32::MAX)).max(1);
        }
        let cq_floor = if features.deferred() { 0 } else { slots_per_ring.next_power_of_two() };
        let sizes = Sizes {
            sq_entries: config.sq_entries,
            cq_entries: config.cq_entries.max(cq_floor),
            files: if features.direct() { slots_per_ring } else { 0 },
        };
        Self { slots_max: config.slots_max, slots_per_ring, sizes }
    }

    /// The ring of a client's slot, and which of its entries the slot is.
    pub(super) fn locate(&self, slot: u32) -> (u32, u32) {
        if slot < self.slots_per_ring {
            return (0, slot);
        }
        (slot / self.slots_per_ring, slot % self.slots_per_ring)
    }

    /// The slots on the first `rings` rings.
    fn slots_on(&self, rings: u32) -> u32 {
        rings.saturating_mul(self.slots_per_ring).min(self.slots_max)
    }

    /// The sizes of a ring; the last one's table may be smaller.
    fn sizes_of(&self, ring: u32) -> Sizes {
        let slots = self.slots_on(ring + 1) - self.slots_on(ring);
        Sizes { files: self.sizes.files.min(slots), ..self.sizes }
    }
}

impl State {
    pub(super) fn complete(&mut self, entry: &cqueue::Entry, completions: &mut Vec<Completion>) {
        let (token, mut result) = (Token::from_bits(entry.user_data()), entry.result());
        if token.kind() < Token::DRIVER_KIND {
            completions.push(Completion::new(token, result));
            return;
        }
        if token.kind() == IGNORED {
            return;
        }
        if token.kind() == STEP_KIND {
            self.in_flight.note_step(entry.user_data(), result);
            return;
        }
        let record = self.in_flight.remove(entry.user_data());
        let mut peer = Peer::default();
        match record.held {
            Held::Block(block) => self.memory.end(block),
            Held::ConnectLink(link) => result = self.links.end_connect(link, result),
            Held::Connect { cell, failed } => {
                self.connects.end(cell);
                if result == -libc::ECANCELED && failed != 0 {
                    result = failed;
                }
            }
            Held::Accept { cell, slot } => {
                peer = self.accepts.finish(cell, result >= 0).into();
                result = self.sockets.accepted(slot, result);
            }
        }
        completions.push(Completion { token: record.token, result, peer });
    }
}

impl Io for UringDriver {
    // Where the op is known at compile time this is a call with its fields in registers; an op that
    // went through memory would be read back wider than it was written, which stalls.
    #[inline(always)]
    fn submit(&mut self, token: Token, op: Op) {
        debug_assert!(token.kind() < Token::DRIVER_KIND, "{token:?} is the driver's");
        match op {
            Op::Poll { sock, interest } => self.submit_poll(token, sock, interest),
            Op::Recv { sock, block, offset, len, wait } => {
                self.submit_receive(token, sock, block, offset, len, wait);
            }
            Op::Send { sock, block, offset, len, wait } => {
                self.submit_send(token, sock, block, offset, len, wait);
            }
            Op::Accept { slot, listener, expected } => self.submit_accept(token, slot, listener, expected),
            Op::CountWaiting { listener } => self.count_waiting(token, listener),
            Op::Connect { link } => self.submit_connect(token, link),
            Op::Shutdown { sock } => self.submit_shutdown(token, sock),
            Op::Close { sock } => self.submit_close(token, sock),
            Op::Cancel { sock, target } => self.submit_cancel(token, sock, target),
        }
    }

    fn block(&self, block: Block) -> &[u8] {
        self.state.memory.bytes(block)
    }

    fn block_mut(&mut self, block: Block) -> &mut [u8] {
        self.state.memory.bytes_mut(block)
    }

    fn write(&mut self, block: Block, offset: u32, bytes: &[u8]) {
        self.state.memory.write(block, offset, bytes);
    }

    fn copy(&mut self, from: Block, from_offset: u32, len: u32, to: Block, to_offset: u32) {
        self.state.memory.copy(from, from_offset, len, to, to_offset);
    }
}

impl Driver for UringDriver {
    fn turn(&mut self, wait: Wait, completions: &mut Vec<Completion>) -> io::Result<()> {
        let wait = if self.refused.is_empty() { wait } else { Wait::No };
        completions.append(&mut self.refused);
        let Self { bank, state, .. } = self;
        if bank.turn(wait, &mut |entry| state.complete(entry, completions))? {
            completions.push(Completion::new(Token::WAKE, 0));
        }
        Ok(())
    }

    fn has_more(&mut self) -> bool {
        !self.refused.is_empty() || self.bank.has_more()
    }

    fn slots_started(&self) -> u32 {
        self.layout.slots_on(self.bank.rings())
    }

    fn start_slots(&mut self) -> io::Result<()> {
        if self.slots_started() < self.layout.slots_max {
            self.bank.start_ring(self.layout.sizes_of(self.bank.rings()))?;
        }
        Ok(())
    }

    fn slots_per_ring(&self) -> u32 {
        self.layout.slots_per_ring
    }

    fn close_listeners(&mut self) {
        self.listeners.clear();
    }

    fn set_link_address(&mut self, link: u16, address: LinkAddress) {
        self.state.links.set_address(link, address);
    }

    fn waker(&self) -> Waker {
        self.bank.waker()
    }
}
