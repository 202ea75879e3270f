//! The driver: ops to rings, completions back, and whose turn it is.

use std::{
    collections::VecDeque,
    io,
    marker::PhantomData,
    mem::ManuallyDrop,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
    sync::{Arc, atomic::AtomicU64},
};

use io_uring::{cqueue, squeue};
use rustix::event::{EventfdFlags, eventfd};

use super::{
    Error, Features,
    accept::Accepts,
    in_flight::{Held, InFlight, Record},
    links::Links,
    memory::Memory,
    ring::{Ring, Sizes, nofile},
    sockets::Sockets,
    sqe::{self, Descriptor},
};
use crate::op::{Block, Completion, Driver, Io, LinkAddress, Op, PoolSpec, Sock, Token, Wait, Waker};

/// Slots per ring at most. A ring finds a request to cancel through a hash of at most 256 buckets
/// (fewer for a small completion queue), so more slots make each cancel slower; and old kernels
/// take no file table above 2^15.
pub const RING_SLOTS_MAX: u32 = 1 << 14;

/// Completions that one [`Driver::turn`] returns at most, those apart that never reached the
/// kernel.
pub(super) const COMPLETIONS_PER_TURN: usize = 1024;
/// Of those, what is kept for ring 0, so that busy clients do not hold up links and waker.
const RING_0_SHARE: usize = 256;

/// `user_data` kinds of the driver's own ops; [`Token::DRIVER_KIND`] itself is taken by
/// `in_flight`.
const RING_WOKE: u8 = Token::DRIVER_KIND + 1;
const SHARD_WOKE: u8 = Token::DRIVER_KIND + 2;
/// Completions that nobody waits for.
pub(super) const IGNORED: u8 = Token::DRIVER_KIND + 3;

/// Where the kernel puts the counters of the eventfds that it reads for us. Nobody looks at them;
/// being static, no read in the kernel can outlive it.
static EVENTFD_SINK: AtomicU64 = AtomicU64::new(0);

/// What a driver is made with.
#[derive(Debug)]
pub struct Config {
    /// Client slots of the shard, 1 to 2^24.
    pub slots_max: u32,
    /// Slots per ring at most, 1 to [`RING_SLOTS_MAX`]; small values force a bank of many rings.
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
        }
    }
}

/// The io_uring driver of one shard. It stays on the thread that made it: the kernel accepts no
/// other (IORING_SETUP_SINGLE_ISSUER).
pub struct UringDriver {
    pub(super) rings: Vec<BankRing>,
    /// Holds the memory that ops in the kernel refer to, so it must go after the rings, and only
    /// when no such op is left. `Drop` (see `teardown`) sees to both.
    pub(super) state: ManuallyDrop<State>,
    /// Rings other than ring 0 with something to submit or to reap, next first.
    ready: VecDeque<u32>,
    /// Completions of ops that could not be given to the kernel.
    refused: Vec<Completion>,
    listeners: Vec<OwnedFd>,
    waker: Arc<OwnedFd>,
    features: Features,
    slots_max: u32,
    slots_per_ring: u32,
    sq_entries: u32,
    cq_entries: u32,
    _stays_on_its_thread: PhantomData<*const ()>,
}

/// One ring of the bank.
pub(super) struct BankRing {
    pub(super) ring: Ring,
    /// Signalled by the kernel when this ring has completions. None for ring 0, which waits.
    eventfd: Option<OwnedFd>,
    /// It is in [`UringDriver::ready`].
    ready: bool,
}

/// What completions change.
pub(super) struct State {
    pub(super) in_flight: InFlight,
    pub(super) memory: Memory,
    pub(super) accepts: Accepts,
    pub(super) sockets: Sockets,
    pub(super) links: Links,
    /// Rings whose eventfd has fired in this turn.
    woken: Vec<u32>,
    /// The waker's eventfd has fired in this turn.
    shard_woken: bool,
}

impl UringDriver {
    /// Makes a driver with its first ring. Panics if a number in `config` is out of its range.
    ///
    /// # Errors
    /// The kernel refuses a ring, its table, or memory; the text names cause and remedy.
    pub fn new(features: &Features, config: Config) -> Result<Self, Error> {
        assert!((1..=1 << 24).contains(&config.slots_max));
        assert!((1..=RING_SLOTS_MAX).contains(&config.ring_slots_max));
        let mut slots_per_ring = config.ring_slots_max.min(config.slots_max);
        if let Some(nofile) = nofile().filter(|_| features.direct()) {
            // A table of direct descriptors may not be larger (io_uring_register(2)).
            slots_per_ring = slots_per_ring.min(u32::try_from(nofile).unwrap_or(u32::MAX)).max(1);
        }
        let state = State {
            in_flight: InFlight::new(),
            memory: Memory::new(&config.pools).map_err(Error::system("map the buffer pools"))?,
            accepts: Accepts::new(config.slots_max).map_err(Error::system("map the accepts' addresses"))?,
            sockets: Sockets::new(features.direct(), config.slots_max),
            links: Links::default(),
            woken: Vec::new(),
            shard_woken: false,
        };
        let waker = eventfd(0, EventfdFlags::CLOEXEC).map_err(Error::system("make an eventfd"))?;
        let mut driver = Self {
            rings: Vec::new(),
            state: ManuallyDrop::new(state),
            ready: VecDeque::new(),
            refused: Vec::new(),
            listeners: config.listeners,
            waker: Arc::new(waker),
            features: features.clone(),
            slots_max: config.slots_max,
            slots_per_ring,
            sq_entries: config.sq_entries,
            cq_entries: config.cq_entries,
            _stays_on_its_thread: PhantomData,
        };
        driver.start_ring()?;
        driver.arm_eventfd(driver.waker.as_raw_fd(), SHARD_WOKE, 0);
        Ok(driver)
    }

    fn start_ring(&mut self) -> Result<(), Error> {
        let index = self.rings.len() as u32;
        let slots = (self.slots_max - index * self.slots_per_ring).min(self.slots_per_ring);
        let cq_floor = if self.features.deferred() { 0 } else { slots.next_power_of_two() };
        let sizes = Sizes {
            sq_entries: self.sq_entries,
            cq_entries: self.cq_entries.max(cq_floor),
            files: if self.features.direct() { slots } else { 0 },
        };
        let ring = Ring::start(&self.features, sizes)?;
        if index == 0 {
            self.rings.push(BankRing { ring, eventfd: None, ready: false });
            return Ok(());
        }
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC).map_err(Error::system("make an eventfd"))?;
        let raw = eventfd.as_raw_fd();
        ring.register_eventfd(raw)?;
        self.rings.push(BankRing { ring, eventfd: Some(eventfd), ready: false });
        self.arm_eventfd(raw, RING_WOKE, index);
        // What completed before the eventfd was registered signalled nobody.
        self.schedule(index);
        Ok(())
    }

    /// Has ring 0 wait for an eventfd and reset it. One op does both, so a wake costs no further
    /// system call. The fd of a ring itself must not be polled: with DEFER_TASKRUN that hangs.
    fn arm_eventfd(&mut self, eventfd: i32, kind: u8, index: u32) {
        let user_data = Token::new(kind, 0, index).to_bits();
        let entry = sqe::read_eventfd(eventfd, EVENTFD_SINK.as_ptr()).user_data(user_data);
        // SAFETY: the only memory is the static sink, an atomic that anybody may write to.
        unsafe { self.rings[0].ring.push(&entry) };
    }

    /// Has [`Self::visit_ready`] look at a ring; ring 0 is looked at in any case.
    fn schedule(&mut self, index: u32) {
        let ring = &mut self.rings[index as usize];
        if index != 0 && !ring.ready {
            ring.ready = true;
            self.ready.push_back(index);
        }
    }

    /// The ring of a client's slot, and which of its entries the slot is.
    fn locate(&self, slot: u32) -> (u32, u32) {
        (slot / self.slots_per_ring, slot % self.slots_per_ring)
    }

    fn descriptor(&self, sock: Sock) -> (u32, Descriptor) {
        match sock {
            Sock::Client(slot) => {
                let (ring, index) = self.locate(slot);
                (ring, self.state.sockets.get(slot, index))
            }
            Sock::Link(link) => (0, self.state.links.get(link)),
        }
    }

    /// Queues an op that refers to no memory.
    fn push(&mut self, ring: u32, token: Token, entry: squeue::Entry) {
        // SAFETY: no memory is involved.
        unsafe { self.push_as(ring, token.to_bits(), entry) };
    }

    /// Queues an op whose memory is released when its completion finds the record.
    ///
    /// # Safety
    /// What `held` names must keep the memory in `entry` valid until then.
    unsafe fn push_held(&mut self, ring: u32, token: Token, held: Held, entry: squeue::Entry) {
        let user_data = self.state.in_flight.insert(Record { token, ring, held });
        // SAFETY: passed on to the caller.
        unsafe { self.push_as(ring, user_data, entry) };
    }

    /// # Safety
    /// As [`Ring::push`].
    unsafe fn push_as(&mut self, ring: u32, user_data: u64, entry: squeue::Entry) {
        // SAFETY: passed on to the caller.
        unsafe { self.rings[ring as usize].ring.push(&entry.user_data(user_data)) };
        self.schedule(ring);
    }

    fn submit_accept(&mut self, token: Token, slot: u32, listener: u16) {
        let (ring, index) = self.locate(slot);
        let listener = self.listeners[usize::from(listener)].as_raw_fd();
        let (cell, address, len) = self.state.accepts.start();
        let direct = self.state.sockets.is_direct().then_some(index);
        let entry = sqe::accept(listener, address, len, direct);
        // SAFETY: the cell is this accept's alone until its completion finishes it, and stays
        // mapped as long as the rings exist.
        unsafe { self.push_held(ring, token, Held::Accept { cell, slot }, entry) };
    }

    fn submit_connect(&mut self, token: Token, link: u16) {
        let (descriptor, target) = match self.state.links.start_connect(link) {
            Ok(started) => started,
            Err(error) => {
                let result = -error.raw_os_error().unwrap_or(libc::EINVAL);
                self.refused.push(Completion { token, result });
                return;
            }
        };
        let entry = sqe::connect(descriptor, target.as_ptr().cast(), target.addr_len());
        // SAFETY: the link keeps its target where it is until the completion ends the connect.
        unsafe { self.push_held(0, token, Held::Connect(link), entry) };
    }

    fn submit_close(&mut self, token: Token, sock: Sock) {
        let (ring, descriptor) = match sock {
            Sock::Client(slot) => {
                let (ring, index) = self.locate(slot);
                (ring, self.state.sockets.take(slot, index))
            }
            Sock::Link(link) => (0, self.state.links.take(link)),
        };
        self.push(ring, token, sqe::close(descriptor));
    }

    /// Submits to and reaps from rings that have something, each once, until `completions` is
    /// `limit` long.
    fn visit_ready(&mut self, completions: &mut Vec<Completion>, limit: usize) -> io::Result<()> {
        for waiting in (1..=self.ready.len()).rev() {
            let room = limit.saturating_sub(completions.len());
            if room == 0 {
                break;
            }
            let index = self.ready.pop_front().expect("as many as there were");
            let ring = &mut self.rings[index as usize];
            ring.ready = false;
            ring.ring.submit()?;
            reap(&mut ring.ring, &mut self.state, completions, room.div_ceil(waiting))?;
            if ring.ring.has_more() || ring.ring.unsubmitted() > 0 {
                self.schedule(index);
            }
        }
        Ok(())
    }

    /// Re-arms eventfds that fired, and has their rings looked at.
    fn serve_wakes(&mut self, completions: &mut Vec<Completion>) {
        if std::mem::take(&mut self.state.shard_woken) {
            completions.push(Completion { token: Token::WAKE, result: 0 });
            self.arm_eventfd(self.waker.as_raw_fd(), SHARD_WOKE, 0);
        }
        while let Some(index) = self.state.woken.pop() {
            let eventfd = self.rings[index as usize].eventfd.as_ref().expect("only such rings wake");
            self.arm_eventfd(eventfd.as_raw_fd(), RING_WOKE, index);
            self.schedule(index);
        }
    }
}

/// Takes completions off a ring until there are none, or `room` are taken.
fn reap(
    ring: &mut Ring,
    state: &mut State,
    completions: &mut Vec<Completion>,
    room: usize,
) -> io::Result<()> {
    let mut left = room;
    loop {
        let reaped = ring.reap(left, |entry| state.complete(entry, completions));
        left -= reaped;
        if left == 0 || !ring.has_more() {
            return Ok(());
        }
        // The kernel works off deferred work in slices; the next one needs another call.
        ring.submit()?;
        if reaped == 0 && !ring.has_completions() {
            return Ok(());
        }
    }
}

impl State {
    pub(super) fn complete(&mut self, entry: &cqueue::Entry, completions: &mut Vec<Completion>) {
        let (token, mut result) = (Token::from_bits(entry.user_data()), entry.result());
        if token.kind() < Token::DRIVER_KIND {
            completions.push(Completion { token, result });
            return;
        }
        let Some(record) = self.in_flight.remove(entry.user_data()) else {
            match token.kind() {
                RING_WOKE => self.woken.push(token.generation()),
                SHARD_WOKE => self.shard_woken = true,
                IGNORED => {}
                kind => unreachable!("no op has kind {kind:#x}"),
            }
            return;
        };
        match record.held {
            Held::Block(block) => self.memory.end(block),
            Held::Connect(link) => self.links.end_connect(link),
            Held::Accept { cell, slot } => {
                let address = self.accepts.finish(cell, result >= 0);
                if result >= 0 {
                    self.accepts.remember(slot, address);
                }
                result = self.sockets.accepted(slot, result);
            }
        }
        completions.push(Completion { token: record.token, result });
    }
}

impl Io for UringDriver {
    fn submit(&mut self, token: Token, op: Op) {
        debug_assert!(token.kind() < Token::DRIVER_KIND, "{token:?} is the driver's");
        match op {
            Op::Poll { sock, interest } => {
                let (ring, descriptor) = self.descriptor(sock);
                self.push(ring, token, sqe::poll(descriptor, interest));
            }
            Op::Recv { sock, block, offset, len, wait } => {
                let (ring, descriptor) = self.descriptor(sock);
                let bytes = self.state.memory.start_receive(block, offset, len);
                let entry = sqe::receive(descriptor, bytes, len, wait);
                // SAFETY: the block is marked as the kernel's until the completion ends that, its
                // memory is mapped as long as the rings exist, and no reference to it is given
                // out meanwhile.
                unsafe { self.push_held(ring, token, Held::Block(block), entry) };
            }
            Op::Send { sock, block, offset, len, wait } => {
                let (ring, descriptor) = self.descriptor(sock);
                let bytes = self.state.memory.start_send(block, offset, len);
                let entry = sqe::send(descriptor, bytes, len, wait);
                // SAFETY: as for a receive, but the kernel only reads, so readers may share.
                unsafe { self.push_held(ring, token, Held::Block(block), entry) };
            }
            Op::Accept { slot, listener } => self.submit_accept(token, slot, listener),
            Op::Connect { link } => self.submit_connect(token, link),
            Op::Shutdown { sock } => {
                let (ring, descriptor) = self.descriptor(sock);
                self.push(ring, token, sqe::shutdown(descriptor));
            }
            Op::Close { sock } => self.submit_close(token, sock),
            Op::Cancel { sock, target } => {
                let (ring, _) = self.descriptor(sock);
                let target = self.state.in_flight.user_data_of(target);
                self.push(ring, token, sqe::cancel(target));
            }
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

    fn accepted_peer(&self, slot: u32) -> Option<SocketAddr> {
        self.state.accepts.recall(slot)
    }
}

impl Driver for UringDriver {
    fn turn(&mut self, wait: Wait, completions: &mut Vec<Completion>) -> io::Result<()> {
        let start = completions.len();
        completions.append(&mut self.refused);
        let limit = completions.len() + COMPLETIONS_PER_TURN;
        self.visit_ready(completions, limit - RING_0_SHARE)?;

        let busy = completions.len() > start || !self.ready.is_empty();
        let ring = &mut self.rings[0].ring;
        match wait {
            Wait::AtMost(timeout) if !busy && !ring.has_completions() => ring.wait(timeout)?,
            _ => ring.submit()?,
        }
        let room = limit.saturating_sub(completions.len());
        reap(ring, &mut self.state, completions, room)?;
        self.serve_wakes(completions);
        self.visit_ready(completions, limit)
    }

    fn slots_started(&self) -> u32 {
        (self.rings.len() as u32).saturating_mul(self.slots_per_ring).min(self.slots_max)
    }

    fn start_slots(&mut self) -> io::Result<()> {
        if self.slots_started() < self.slots_max {
            self.start_ring()?;
        }
        Ok(())
    }

    fn slots_per_ring(&self) -> u32 {
        self.slots_per_ring
    }

    fn set_link_address(&mut self, link: u16, address: LinkAddress) {
        self.state.links.set_address(link, address);
    }

    fn waker(&self) -> Waker {
        let eventfd = Arc::clone(&self.waker);
        Waker::new(move || {
            // Fails only if the counter would overflow: then it is non-zero, and wakes.
            let _ = rustix::io::write(&*eventfd, &1u64.to_ne_bytes());
        })
    }
}
