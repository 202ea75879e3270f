//! Many rings behind one table of slots.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    time::Duration,
};

use io_uring::{opcode, squeue, types};
use rustix::event::{self, PollFd, PollFlags, Timespec, epoll};

use super::{
    Completion, Descriptors, Features, Kind, Tag,
    memory::{Address, Blocks, Outgoing},
    queue::Queue,
};

/// Slots of one ring: one table must stay within RLIMIT_NOFILE and 2^15 (old kernels), and a
/// ring's cancel hash has at most 256 buckets.
pub const SLOTS_PER_RING: u32 = 16_384;

/// What a bank is made for.
#[derive(Clone, Copy, Debug)]
pub struct BankConfig {
    /// Slots in all; rings are set up as slots are first used.
    pub slots: u32,
    /// Slots of one ring, at most [`SLOTS_PER_RING`].
    pub slots_per_ring: u32,
    /// Where connects go.
    pub target: SocketAddr,
    /// Receives that can be under way at a time.
    pub recv_blocks: u32,
    /// Bytes of one receive.
    pub recv_block_bytes: u32,
}

/// Counters of a bank; they only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BankCounts {
    /// Rings set up.
    pub rings: u64,
    /// `io_uring_enter` calls.
    pub enters: u64,
    /// Waits for several rings.
    pub waits: u64,
    /// Ops submitted.
    pub ops: u64,
    /// Sends that the kernel took only in part.
    pub short_sends: u64,
}

/// The rings of one thread. Field order matters: rings go before the memory they use.
pub struct Bank {
    pub(super) queues: Vec<Queue>,
    blocks: Blocks,
    outgoing: Outgoing,
    features: Features,
    pub(super) config: BankConfig,
    pub(super) target: Box<(Address, u32)>,
    /// Slot to fd; empty with direct descriptors.
    pub(super) fds: Vec<i32>,
    hub: OwnedFd,
    hub_events: Vec<epoll::Event>,
    /// Reaped, not yet handed out.
    pub(super) ready: VecDeque<Completion>,
    scratch: Vec<(Tag, i32)>,
    /// Connect chains of which a step before the connect failed.
    setup_errors: Vec<(u32, i32)>,
    /// Why the next ring could not be set up.
    failed: Option<io::Error>,
    counts: BankCounts,
}

/// No file in this slot.
pub(super) const NO_FD: i32 = -1;
/// Completions handed out per turn.
const TURN_COMPLETIONS_MAX: usize = 2048;

pub(super) static ONE: i32 = 1;
static LINGER_NONE: libc::linger = libc::linger { l_onoff: 1, l_linger: 0 };

/// Builds an entry for a slot's socket, whichever way it is held.
macro_rules! on_slot {
    ($bank:ident, $slot:expr, |$fd:ident| $entry:expr) => {
        match $bank.features.descriptors {
            Descriptors::Direct => {
                let $fd = types::Fixed($slot % $bank.config.slots_per_ring);
                $entry
            }
            Descriptors::Plain => {
                let $fd = types::Fd($bank.fds[$slot as usize]);
                $entry
            }
        }
    };
}

impl Bank {
    /// A bank with its first ring, on the thread that will use it.
    ///
    /// # Errors
    /// When a ring cannot be set up.
    pub fn new(features: &Features, config: BankConfig) -> io::Result<Self> {
        assert!((1..=SLOTS_PER_RING).contains(&config.slots_per_ring));
        let fds = match features.descriptors {
            Descriptors::Direct => Vec::new(),
            Descriptors::Plain => vec![NO_FD; config.slots as usize],
        };
        let mut bank = Self {
            queues: Vec::new(),
            blocks: Blocks::new(config.recv_blocks, config.recv_block_bytes),
            outgoing: Outgoing::new(),
            features: features.clone(),
            config,
            target: Box::new(Address::new(config.target)),
            fds,
            hub: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            hub_events: Vec::with_capacity(64),
            ready: VecDeque::new(),
            scratch: Vec::new(),
            setup_errors: Vec::new(),
            failed: None,
            counts: BankCounts::default(),
        };
        bank.start_ring()?;
        Ok(bank)
    }

    /// Connects the slot, which must be empty, from `source` (port 0: the kernel chooses).
    ///
    /// A ring that cannot be set up for it fails the next [`Self::turn`].
    pub fn connect(&mut self, slot: u32, source: Option<SocketAddr>) {
        if !self.start_slot(slot) {
            return;
        }
        match self.features.descriptors {
            Descriptors::Direct => self.connect_direct(slot, source),
            Descriptors::Plain => self.connect_plain(slot, source),
        }
    }

    /// Accepts the next connection of `listener` (a blocking socket) into the slot.
    pub fn accept(&mut self, slot: u32, listener: BorrowedFd<'_>) {
        if !self.start_slot(slot) {
            return;
        }
        let accept =
            opcode::Accept::new(types::Fd(listener.as_raw_fd()), std::ptr::null_mut(), std::ptr::null_mut());
        let entry = match self.features.descriptors {
            Descriptors::Direct => accept.file_index(Some(self.destination(slot))).build(),
            Descriptors::Plain => accept.build(),
        };
        // SAFETY: no memory is pointed to.
        unsafe { self.push(slot, &entry.user_data(Tag::new(Kind::Accept, slot).to_bits())) };
    }

    /// Waits once for any of these poll(2) bits; errors and hang-ups always count.
    pub fn poll(&mut self, slot: u32, bits: i16) {
        let entry =
            on_slot!(self, slot, |fd| opcode::PollAdd::new(fd, u32::from(bits.cast_unsigned())).build());
        // SAFETY: a poll points to no memory.
        unsafe { self.push(slot, &entry.user_data(Tag::new(Kind::Poll, slot).to_bits())) };
    }

    /// Receives what is there, at most one block; false when no block is free now.
    #[must_use]
    pub fn recv(&mut self, slot: u32) -> bool {
        let Some(block) = self.blocks.take() else { return false };
        let (address, len) = (self.blocks.address(block), self.blocks.block_bytes());
        let entry =
            on_slot!(self, slot, |fd| opcode::Recv::new(fd, address, len).flags(libc::MSG_DONTWAIT).build());
        let tag = Tag::with_block(Kind::Recv, slot, block);
        // SAFETY: the block is taken from the pool until its completion is consumed.
        unsafe { self.push(slot, &entry.user_data(tag.to_bits())) };
        true
    }

    /// Sends all of `bytes`; only when no other send of this slot is in the kernel.
    pub fn send(&mut self, slot: u32, bytes: &[u8]) {
        let chunk = self.outgoing.keep(slot, bytes);
        self.push_send(slot, chunk);
    }

    /// Asks to end the slot's op of this kind that is in the kernel. The cancelled op's own
    /// completion follows, perhaps with success.
    pub fn cancel(&mut self, slot: u32, kind: Kind) {
        let target = match kind {
            // A send's name contains its chunk; looking for it is fine, since this is rare.
            Kind::Send => self.outgoing.find(slot).map(|chunk| Tag::with_block(kind, slot, chunk)),
            Kind::Poll | Kind::Connect | Kind::Accept => Some(Tag::new(kind, slot)),
            _ => panic!("{kind:?} never waits in the kernel"),
        };
        let Some(target) = target else { return };
        let entry = opcode::AsyncCancel::new(target.to_bits()).build();
        // SAFETY: a cancel points to no memory.
        unsafe { self.push(slot, &entry.user_data(Tag::new(Kind::Aside, slot).to_bits())) };
    }

    /// Makes the close that follows a reset.
    pub fn linger_none(&mut self, slot: u32) {
        let (value, len) = (std::ptr::from_ref(&LINGER_NONE).cast(), size_of::<libc::linger>() as u32);
        match self.features.descriptors {
            Descriptors::Direct => {
                let entry = opcode::SetSockOpt::new(
                    types::Fixed(slot % self.config.slots_per_ring),
                    libc::SOL_SOCKET as u32,
                    libc::SO_LINGER as u32,
                    value,
                    len,
                )
                .build();
                // SAFETY: the option's value is a static.
                unsafe { self.push(slot, &entry.user_data(Tag::new(Kind::Aside, slot).to_bits())) };
            }
            Descriptors::Plain => {
                // SAFETY: the option's value is a static of the given length. A failure only
                // means that the connection ends by FIN.
                unsafe {
                    libc::setsockopt(self.fds[slot as usize], libc::SOL_SOCKET, libc::SO_LINGER, value, len);
                }
            }
        }
    }

    /// Closes the slot's socket. Only when no op of the slot is in the kernel.
    pub fn close(&mut self, slot: u32) {
        let entry = on_slot!(self, slot, |fd| opcode::Close::new(fd).build());
        // SAFETY: a close points to no memory.
        unsafe { self.push(slot, &entry.user_data(Tag::new(Kind::Close, slot).to_bits())) };
    }

    /// Hands over what a [`Kind::Recv`] completion brought and frees its block. Must be called
    /// once for each, whatever its result.
    pub fn take_received(&mut self, completion: &Completion, take: impl FnOnce(&[u8])) {
        assert_eq!(completion.kind, Kind::Recv);
        self.blocks.consume(completion.block, usize::try_from(completion.result).unwrap_or(0), take);
    }

    /// Bytes of one receive at most.
    pub const fn recv_block_bytes(&self) -> u32 {
        self.blocks.block_bytes()
    }

    /// Submits what is queued, waits up to `wait` for something to complete, and appends at most
    /// some thousands of completions to `out`.
    ///
    /// # Errors
    /// When a ring fails.
    pub fn turn(&mut self, wait: Duration, out: &mut Vec<Completion>) -> io::Result<()> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let mut has_more = false;
        for ring in 0..self.queues.len() {
            if self.queues[ring].has_work() {
                self.enter(ring, Duration::ZERO)?;
                // Nobody signals that, so to wait would be in vain.
                has_more |= self.queues[ring].has_work();
            }
        }
        if self.ready.is_empty() && !wait.is_zero() && !has_more {
            self.wait(wait)?;
        }
        out.extend(self.ready.drain(..self.ready.len().min(TURN_COMPLETIONS_MAX)));
        Ok(())
    }

    /// Counters so far.
    pub fn counts(&self) -> BankCounts {
        BankCounts {
            rings: self.queues.len() as u64,
            enters: self.queues.iter().map(|queue| queue.enters).sum(),
            ..self.counts
        }
    }

    /// User-space bytes held: pools, tables and the queues shared with the kernel.
    pub fn user_bytes(&self) -> u64 {
        let queues = self.queues.iter().map(Queue::user_bytes).sum::<u64>();
        queues + self.blocks.bytes() + self.outgoing.bytes() + (self.fds.capacity() * size_of::<i32>()) as u64
    }

    /// Makes the slot's ring exist; false if it cannot be had.
    fn start_slot(&mut self, slot: u32) -> bool {
        assert!(slot < self.config.slots);
        while self.failed.is_none() && self.queues.len() <= self.ring_of(slot) {
            self.failed = self.start_ring().err();
        }
        self.failed.is_none()
    }

    fn start_ring(&mut self) -> io::Result<()> {
        let first = self.queues.len() as u32 * self.config.slots_per_ring;
        let slots = (self.config.slots - first).min(self.config.slots_per_ring);
        let queue = Queue::new(&self.features, slots)?;
        if self.features.descriptors == Descriptors::Direct {
            queue.register_slots(slots)?;
        }
        // Edge-triggered, so that nobody has to read the eventfd.
        epoll::add(
            &self.hub,
            queue.wake_fd(),
            epoll::EventData::new_u64(self.queues.len() as u64),
            epoll::EventFlags::IN | epoll::EventFlags::ET,
        )?;
        self.queues.push(queue);
        Ok(())
    }

    pub(super) const fn ring_of(&self, slot: u32) -> usize {
        (slot / self.config.slots_per_ring) as usize
    }

    pub(super) fn destination(&self, slot: u32) -> types::DestinationSlot {
        types::DestinationSlot::try_from_slot_target(slot % self.config.slots_per_ring)
            .expect("a small number")
    }

    fn push_send(&mut self, slot: u32, chunk: u32) {
        let bytes = self.outgoing.rest(chunk);
        let (address, len) =
            (bytes.as_ptr(), u32::try_from(bytes.len()).expect("frames are smaller than 4 GiB"));
        // MSG_WAITALL: newer kernels go on until all is sent; on older ones `reaped` does.
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let entry = on_slot!(self, slot, |fd| opcode::Send::new(fd, address, len).flags(flags).build());
        let tag = Tag::with_block(Kind::Send, slot, chunk);
        // SAFETY: the chunk keeps its memory until its completion has been reaped.
        unsafe { self.push(slot, &entry.user_data(tag.to_bits())) };
    }

    /// # Safety
    /// As [`Queue::push`].
    pub(super) unsafe fn push(&mut self, slot: u32, entry: &squeue::Entry) {
        let ring = self.ring_of(slot);
        self.make_room(ring, 1);
        self.counts.ops += 1;
        // SAFETY: passed on to the caller.
        unsafe { self.queues[ring].push(entry) };
    }

    /// Submits until there is room for `entries` more. A chain must not be cut by a submit, so it
    /// makes room for all its entries first.
    pub(super) fn make_room(&mut self, ring: usize, entries: usize) {
        while self.queues[ring].room() < entries {
            self.enter(ring, Duration::ZERO).expect("a ring that took entries before takes more");
        }
    }

    fn wait(&mut self, wait: Duration) -> io::Result<()> {
        if self.queues.len() == 1 {
            return self.enter(0, wait);
        }
        self.counts.waits += 1;
        // The epoll_wait(2) at hand counts in milliseconds, too coarse for a schedule: poll the
        // epoll with ppoll(2), then collect without waiting.
        let timeout = Timespec::try_from(wait).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        match event::poll(&mut [PollFd::new(&self.hub, PollFlags::IN)], Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(()),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        self.hub_events.clear();
        let buffer = rustix::buffer::spare_capacity(&mut self.hub_events);
        epoll::wait(&self.hub, buffer, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        let fired = std::mem::take(&mut self.hub_events);
        for event in &fired {
            let ring = event.data.u64() as usize;
            if self.queues[ring].is_ready() {
                self.enter(ring, Duration::ZERO)?;
            }
        }
        self.hub_events = fired;
        Ok(())
    }

    fn enter(&mut self, ring: usize, wait: Duration) -> io::Result<()> {
        self.queues[ring].enter(wait)?;
        // Copied out first: acting on a completion may push and enter again.
        let mut reaped = std::mem::take(&mut self.scratch);
        self.queues[ring].reap(|user_data, result| reaped.push((Tag::from_bits(user_data), result)));
        for (tag, result) in reaped.drain(..) {
            self.reaped(tag, result);
        }
        self.scratch = reaped;
        Ok(())
    }

    fn reaped(&mut self, tag: Tag, mut result: i32) {
        let Tag { kind, block, slot } = tag;
        let mut send_bytes = 0;
        match kind {
            Kind::Setup => {
                // The rest of the chain is cancelled in turn; the first failure is the cause.
                if result != -libc::ECANCELED {
                    self.setup_errors.push((slot, result));
                }
                return;
            }
            // Cancels and options run at once and say nothing that the op they are about does not.
            Kind::Aside => return,
            Kind::Connect if result == -libc::ECANCELED => {
                if let Some(at) = self.setup_errors.iter().position(|&(failed, _)| failed == slot) {
                    result = self.setup_errors.swap_remove(at).1;
                }
            }
            Kind::Accept if result >= 0 && self.features.descriptors == Descriptors::Plain => {
                self.fds[slot as usize] = result;
            }
            Kind::Send => {
                if result > 0 && !self.outgoing.advance(block, result.unsigned_abs() as usize) {
                    self.counts.short_sends += 1;
                    self.push_send(slot, block);
                    return;
                }
                send_bytes = self.outgoing.release(block);
            }
            Kind::Close if self.features.descriptors == Descriptors::Plain => self.fds[slot as usize] = NO_FD,
            _ => {}
        }
        self.ready.push_back(Completion { slot, kind, result, block, send_bytes });
    }
}

impl Drop for Bank {
    fn drop(&mut self) {
        for &fd in self.fds.iter().filter(|&&fd| fd != NO_FD) {
            // SAFETY: the bank made this descriptor and nobody else has it.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
        }
    }
}
