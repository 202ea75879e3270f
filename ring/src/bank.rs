//! A bank of rings that one thread drives, and how each gets its turn.
//!
//! Only ring 0 waits in the kernel. Every other ring is *asleep* or *awake*, much like a network
//! interface between interrupts and polling:
//!
//! - asleep: the kernel signals the ring's eventfd when there is something to reap, and ring 0
//!   has a read of that eventfd in the kernel, so the wait ends;
//! - awake: signals are off, and every turn looks whether there is something.
//!
//! Signals and our own submissions wake a ring. It goes to sleep after [`QUIET_TURNS`] turns with
//! nothing to do, and always before the bank waits. So a busy ring costs neither signals nor
//! reads, and an idle one costs no look. The fd of a ring must not be polled itself: with
//! DEFER_TASKRUN that hangs.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use io_uring::{cqueue, squeue};
use rustix::event::{EventfdFlags, eventfd};

use super::{
    busy_poll::{BusyPoll, Waiting},
    error::Error,
    features::Features,
    ring::{Ring, Sizes},
    sqe::{self, Bare},
};
use crate::op::{Token, Wait, Waker};

/// Completions that one turn takes at most.
const COMPLETIONS_PER_TURN: usize = 1024;
/// Of those, what is kept for ring 0, so that busy clients do not hold up links and waker.
const RING_0_SHARE: usize = 256;
/// Turns without work after which a ring goes to sleep while others are busy.
const QUIET_TURNS: u8 = 4;

/// `user_data` kinds of the bank's own ops, which never leave it.
const RING_WOKE: u8 = Token::DRIVER_KIND + 1;
const BANK_WOKE: u8 = Token::DRIVER_KIND + 2;

/// Where the kernel puts the counters of the eventfds that it reads for us. Nobody looks at them;
/// being static, no read in the kernel can outlive it.
static EVENTFD_SINK: AtomicU64 = AtomicU64::new(0);

/// What the rings of a driver have done and take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rings started.
    pub rings: u32,
    /// Calls of io_uring_enter(2); only grows.
    pub enters: u64,
    /// Times that ops found a submission queue full; only grows.
    pub full_queues: u64,
    /// Submits before which the kernel kept completions for which their queue had no room; only grows.
    pub overflows: u64,
    /// Bytes of queues that are shared with the kernel.
    pub queue_bytes: u64,
}

/// The rings of one driver.
pub(super) struct Bank {
    features: Features,
    rings: Vec<BankRing>,
    /// Rings but the first with something to submit or to reap, next first.
    ready: VecDeque<u32>,
    /// Rings but the first that do not signal.
    awake: Vec<u32>,
    /// The next ring that [`Self::audit`] looks at.
    audited: usize,
    /// What was queued on ring 0 since it last submitted completes at once and leads to more:
    /// letting completions gather would only put that off.
    is_pressing: bool,
    busy_poll: BusyPoll,
    /// Wakes ring 0 from other threads.
    waker: Arc<OwnedFd>,
}

struct BankRing {
    ring: Ring,
    /// Signalled by the kernel while the ring is asleep. None for ring 0.
    eventfd: Option<OwnedFd>,
    /// It is in [`Bank::ready`].
    is_ready: bool,
    /// It is in [`Bank::awake`].
    is_awake: bool,
    /// Ring 0 has a read of the eventfd in the kernel.
    is_armed: bool,
    /// Turns without work.
    quiet: u8,
}

/// What ring 0 reaped for the bank itself.
#[derive(Default)]
struct Wakes {
    rings: Vec<u32>,
    bank: bool,
}

impl Bank {
    /// A bank with one ring, that looks for completions for at most `busy_poll` before it sleeps.
    pub(super) fn new(features: &Features, sizes: Sizes, busy_poll: Duration) -> Result<Self, Error> {
        let waker = eventfd(0, EventfdFlags::CLOEXEC).map_err(Error::system("make an eventfd"))?;
        let mut bank = Self {
            features: features.clone(),
            // What tried out the kernel before this may not have given all its memory back.
            rings: vec![BankRing::new(Ring::start_patiently(features, sizes)?, None)],
            ready: VecDeque::new(),
            awake: Vec::new(),
            audited: 0,
            is_pressing: false,
            busy_poll: BusyPoll::new(busy_poll),
            waker: Arc::new(waker),
        };
        bank.arm(bank.waker.as_raw_fd(), BANK_WOKE, 0);
        Ok(bank)
    }

    /// Starts a further ring.
    pub(super) fn start_ring(&mut self, sizes: Sizes) -> Result<(), Error> {
        let mut ring = Ring::start(&self.features, sizes)?;
        let eventfd = eventfd(0, EventfdFlags::CLOEXEC).map_err(Error::system("make an eventfd"))?;
        ring.register_eventfd(eventfd.as_raw_fd())?;
        // Rings are born awake; going to sleep, they look for what came before any signal.
        ring.set_signals(false);
        let mut ring = BankRing::new(ring, Some(eventfd));
        ring.is_awake = true;
        self.awake.push(self.rings.len() as u32);
        self.rings.push(ring);
        Ok(())
    }

    pub(super) fn rings(&self) -> u32 {
        self.rings.len() as u32
    }

    /// What the rings have done and take.
    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts { rings: self.rings(), ..Counts::default() };
        for BankRing { ring, .. } in &self.rings {
            let of_ring = ring.counts();
            counts.enters += of_ring.enters;
            counts.full_queues += of_ring.full;
            counts.overflows += of_ring.overflows;
            counts.queue_bytes += ring.queue_bytes();
        }
        counts
    }

    pub(super) fn waker(&self) -> Waker {
        let eventfd = Arc::clone(&self.waker);
        Waker::new(move || {
            // Fails only if the counter would overflow: then it is non-zero, and wakes.
            let _ = rustix::io::write(&*eventfd, &1u64.to_ne_bytes());
        })
    }

    /// Says that the next entry queued on this ring completes at once and leads to more.
    pub(super) fn press(&mut self, ring: u32) {
        self.is_pressing |= ring == 0;
    }

    /// Queues an entry on a ring.
    ///
    /// # Safety
    /// As [`Ring::push`].
    #[inline(always)]
    pub(super) unsafe fn push(&mut self, ring: u32, entry: squeue::Entry) {
        // SAFETY: passed on to the caller.
        unsafe { self.rings[ring as usize].ring.push(entry) };
        self.make_ready(ring);
    }

    /// Queues entries that are linked.
    ///
    /// # Safety
    /// As [`Ring::push_linked`].
    pub(super) unsafe fn push_linked(&mut self, ring: u32, entries: &[squeue::Entry]) {
        // SAFETY: passed on to the caller.
        unsafe { self.rings[ring as usize].ring.push_linked(entries) };
        self.make_ready(ring);
    }

    /// Queues an entry that refers to no memory.
    #[inline]
    pub(super) fn push_bare(&mut self, ring: u32, entry: Bare, user_data: u64) {
        // SAFETY: there is no memory that could become invalid.
        unsafe { self.push(ring, entry.with(user_data)) };
    }

    /// Submits what is queued, waits if there is nothing else to do, and hands over what has
    /// completed, at most [`COMPLETIONS_PER_TURN`]. True if the waker was used.
    pub(super) fn turn(&mut self, wait: Wait, take: &mut impl FnMut(&cqueue::Entry)) -> io::Result<bool> {
        let mut left = COMPLETIONS_PER_TURN;
        self.look_at_awake();
        self.audit(1);
        left -= self.visit_ready(left - RING_0_SHARE, take)?;
        let is_idle = left == COMPLETIONS_PER_TURN && self.ready.is_empty();
        let is_pressing = std::mem::take(&mut self.is_pressing);
        match wait {
            Wait::AtMost(timeout) if is_idle => self.rest(timeout)?,
            Wait::Gather { at_most, gather } if is_idle && self.fall_asleep() => {
                if !is_pressing {
                    self.rings[0].ring.wait(Wait::GATHERED, gather.min(at_most))?;
                }
                if !self.rings[0].ring.has_completions() {
                    self.wait(at_most)?;
                }
            }
            _ => self.rings[0].ring.submit()?,
        }
        let mut wakes = Wakes::default();
        left -= reap(&mut self.rings[0].ring, left, &mut |entry| wakes.take(entry, take))?;
        self.serve(&wakes);
        self.visit_ready(left, take)?;
        Ok(wakes.bank)
    }

    /// Whether there is something to reap.
    pub(super) fn has_more(&mut self) -> bool {
        self.look_around()
    }

    /// Submits to ring 0, and waits until some ring has a completion: awake at first, then asleep.
    fn rest(&mut self, timeout: Duration) -> io::Result<()> {
        let Some(waiting) = self.busy_poll.begin() else { return self.sleep_for(timeout) };
        if self.busy_poll.is_worth_while() {
            self.rings[0].ring.submit()?;
            // What completes at once says nothing about how long a wait would take.
            if self.look_around() {
                return Ok(());
            }
        }
        if !self.look_on(waiting, timeout) {
            self.sleep_for(waiting.left_of(timeout))?;
        }
        self.busy_poll.end(waiting);
        Ok(())
    }

    /// Looks around for as long as that pays. True if there is something.
    fn look_on(&mut self, waiting: Waiting, timeout: Duration) -> bool {
        while self.busy_poll.goes_on(waiting, timeout) {
            std::hint::spin_loop();
            if self.look_around() {
                return true;
            }
        }
        false
    }

    /// Submits to ring 0, and waits with all rings asleep.
    fn sleep_for(&mut self, timeout: Duration) -> io::Result<()> {
        if self.fall_asleep() { self.wait(timeout) } else { self.rings[0].ring.submit() }
    }

    /// Whether there is something to reap; rings that have it are ready then. Rings that are asleep
    /// tell ring 0.
    fn look_around(&mut self) -> bool {
        for position in 0..self.awake.len() {
            let index = self.awake[position];
            if self.rings[index as usize].ring.has_more() {
                self.make_ready(index);
            }
        }
        !self.ready.is_empty() || self.rings[0].ring.has_more()
    }

    /// Submits to ring 0, and waits until it has a completion.
    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        let is_timed_out = !self.rings[0].ring.wait(1, timeout)?;
        if is_timed_out {
            self.audit(self.rings.len());
        }
        Ok(())
    }

    /// Submits everything and hands over all that has completed, without waiting or bounds. For
    /// the end of a bank.
    pub(super) fn flush(&mut self, take: &mut impl FnMut(&cqueue::Entry)) -> io::Result<()> {
        for BankRing { ring, .. } in &mut self.rings {
            ring.submit()?;
            reap(ring, usize::MAX, &mut |entry| Wakes::default().take(entry, take))?;
        }
        Ok(())
    }

    /// Waits for a completion of this ring, which is not handed over. For the end of a bank.
    pub(super) fn wait_for(&mut self, ring: u32, timeout: Duration) -> io::Result<()> {
        self.rings[ring as usize].ring.wait(1, timeout).map(drop)
    }

    /// Closes all rings. What is in their kernel side ends some time later.
    pub(super) fn close(&mut self) {
        self.rings.clear();
    }

    /// Has ring 0 wait for an eventfd and reset it: one op for both, so a wake costs no system
    /// call of its own.
    fn arm(&mut self, eventfd: i32, kind: u8, index: u32) {
        let user_data = Token::new(kind, 0, index).to_bits();
        let entry = sqe::read_eventfd(eventfd, EVENTFD_SINK.as_ptr()).user_data(user_data);
        // SAFETY: the only memory is the static sink, an atomic that anybody may write to.
        unsafe { self.rings[0].ring.push(entry) };
    }

    /// Queues a ring to be visited, and wakes it. Ring 0 is visited in every turn.
    #[inline]
    fn make_ready(&mut self, index: u32) {
        if index != 0 && !self.rings[index as usize].is_ready {
            self.call_on(index);
        }
    }

    fn call_on(&mut self, index: u32) {
        let ring = &mut self.rings[index as usize];
        ring.is_ready = true;
        ring.quiet = 0;
        self.ready.push_back(index);
        if !ring.is_awake {
            ring.is_awake = true;
            ring.ring.set_signals(false);
            self.awake.push(index);
        }
    }

    /// Finds work on rings that do not signal, and sends those to sleep that have had none for
    /// long.
    fn look_at_awake(&mut self) {
        for position in (0..self.awake.len()).rev() {
            let index = self.awake[position];
            let ring = &mut self.rings[index as usize];
            if ring.is_ready {
                continue;
            }
            if ring.ring.has_more() {
                self.make_ready(index);
                continue;
            }
            ring.quiet = ring.quiet.saturating_add(1);
            if ring.quiet >= QUIET_TURNS && self.sleep(index) {
                self.awake.swap_remove(position);
            }
        }
    }

    /// Sends all rings to sleep. False if one cannot, because it has work.
    fn fall_asleep(&mut self) -> bool {
        while let Some(index) = self.awake.pop() {
            if !self.sleep(index) {
                self.awake.push(index);
                self.make_ready(index);
                return false;
            }
        }
        true
    }

    /// Has a ring signal from now on. False, and nothing, if it has work; the caller takes it off
    /// the list.
    fn sleep(&mut self, index: u32) -> bool {
        let ring = &mut self.rings[index as usize];
        ring.ring.set_signals(true);
        if ring.ring.has_more() {
            ring.ring.set_signals(false);
            return false;
        }
        ring.is_awake = false;
        if !ring.is_armed {
            ring.is_armed = true;
            let eventfd = ring.eventfd.as_ref().expect("ring 0 is never awake").as_raw_fd();
            self.arm(eventfd, RING_WOKE, index);
        }
        true
    }

    /// Looks at some rings whatever they are said to be, all in turn.
    ///
    /// No signal is known to get lost. But whether one can, when a ring falls asleep just then,
    /// hangs on barriers inside the kernel that are not part of any contract; this makes it cost
    /// a moment's delay instead of a client that is never heard again.
    fn audit(&mut self, rings: usize) {
        for _ in 0..rings {
            self.audited = (self.audited + 1) % self.rings.len();
            if self.rings[self.audited].ring.has_more() {
                self.make_ready(self.audited as u32);
            }
        }
    }

    /// Submits to and reaps from the rings that are ready, each once. Returns how many
    /// completions there were, at most `room`.
    fn visit_ready(&mut self, room: usize, take: &mut impl FnMut(&cqueue::Entry)) -> io::Result<usize> {
        let mut left = room;
        for waiting in (1..=self.ready.len()).rev() {
            if left == 0 {
                break;
            }
            let index = self.ready.pop_front().expect("as many as there were");
            let ring = &mut self.rings[index as usize];
            ring.is_ready = false;
            ring.ring.submit()?;
            // A fair share, so that nobody at the end of the queue goes without for long.
            left -= reap(&mut ring.ring, left.div_ceil(waiting), take)?;
            if ring.ring.has_more() || ring.ring.unsubmitted() > 0 {
                self.make_ready(index);
            }
        }
        Ok(room - left)
    }

    /// Wakes the rings that signalled, and re-arms the waker.
    fn serve(&mut self, wakes: &Wakes) {
        if wakes.bank {
            self.arm(self.waker.as_raw_fd(), BANK_WOKE, 0);
        }
        for &index in &wakes.rings {
            self.rings[index as usize].is_armed = false;
            self.make_ready(index);
        }
    }
}

impl BankRing {
    fn new(ring: Ring, eventfd: Option<OwnedFd>) -> Self {
        Self { ring, eventfd, is_ready: false, is_awake: false, is_armed: false, quiet: 0 }
    }
}

impl Wakes {
    /// Keeps what is for the bank, and passes on the rest.
    fn take(&mut self, entry: &cqueue::Entry, pass_on: &mut impl FnMut(&cqueue::Entry)) {
        let token = Token::from_bits(entry.user_data());
        match token.kind() {
            RING_WOKE => self.rings.push(token.generation()),
            BANK_WOKE => self.bank = true,
            _ => pass_on(entry),
        }
    }
}

/// Takes completions off a ring until there are none, at most `room`. Returns how many.
fn reap(ring: &mut Ring, room: usize, take: &mut impl FnMut(&cqueue::Entry)) -> io::Result<usize> {
    let mut left = room;
    loop {
        let reaped = ring.reap(left, &mut *take);
        left -= reaped;
        if left == 0 || !ring.has_more() {
            return Ok(room - left);
        }
        // The kernel works off deferred work in slices; the next one needs another call.
        ring.submit()?;
        if reaped == 0 && !ring.has_completions() {
            return Ok(room - left);
        }
    }
}
