//! The fake driver: the same traits as the io_uring driver, over the simulated world.

use std::{
    cell::RefCell,
    io,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use crate::{
    op::{Block, Completion, Driver, Io, LinkAddress, Op, PoolSpec, Token, Wait, Waker},
    sim::{kernel::World, memory::Memory},
};

/// Events that one turn may run without the time going on; more is a livelock of the simulation.
const EVENTS_PER_TURN_MAX: u32 = 1_000_000;

/// The simulated clients and workers. They act when they are woken.
pub trait Actors {
    /// It is this actor's turn: something arrived for it, or the time it asked for has come.
    fn wake(&mut self, world: &mut World, actor: u32);
}

/// No actors: the test itself acts between turns.
#[derive(Debug)]
pub struct NoActors;

impl Actors for NoActors {
    fn wake(&mut self, _: &mut World, _: u32) {}
}

/// A [`Driver`] whose kernel and network are simulated. Time passes within [`Driver::turn`], and with
/// each op that is submitted ([`Faults::op_us`](crate::sim::faults::Faults::op_us)).
pub struct FakeDriver {
    world: Rc<RefCell<World>>,
    actors: Rc<RefCell<dyn Actors>>,
    blocks: Memory,
    /// Submitted, not yet executed.
    queue: Vec<u64>,
    slots_started: u32,
    slots: u32,
    slots_per_ring: u32,
    woken: Arc<AtomicBool>,
}

impl std::fmt::Debug for FakeDriver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeDriver").field("slots_started", &self.slots_started).finish_non_exhaustive()
    }
}

impl FakeDriver {
    /// A driver over `world` with the first ring started.
    pub fn new(
        world: Rc<RefCell<World>>,
        actors: Rc<RefCell<dyn Actors>>,
        pools: &[PoolSpec],
        (slots, slots_per_ring): (u32, u32),
    ) -> Self {
        Self {
            world,
            actors,
            blocks: Memory::new(pools),
            queue: Vec::new(),
            slots_started: slots.min(slots_per_ring),
            slots,
            slots_per_ring,
            woken: Arc::new(AtomicBool::new(false)),
        }
    }

    /// The blocks.
    pub fn memory_mut(&mut self) -> &mut Memory {
        &mut self.blocks
    }

    /// The blocks.
    pub fn memory(&self) -> &Memory {
        &self.blocks
    }

    /// The world.
    pub fn world(&self) -> &Rc<RefCell<World>> {
        &self.world
    }

    fn flush(&mut self) {
        for serial in std::mem::take(&mut self.queue) {
            self.world.borrow_mut().execute(&mut self.blocks, serial);
        }
    }

    /// Runs everything that is due. Actors may cause more that is due at once.
    fn run_due(&mut self) {
        let mut events = 0;
        let mut world = self.world.borrow_mut();
        while world.next_event_at().is_some_and(|at| at <= world.now_us()) {
            if let Some(actor) = world.run_event(&mut self.blocks) {
                self.actors.borrow_mut().wake(&mut world, actor);
            }
            events += 1;
            assert!(events < EVENTS_PER_TURN_MAX, "invariant no-livelock: the world runs in circles");
        }
    }
}

impl Io for FakeDriver {
    fn submit(&mut self, token: Token, op: Op) {
        if let Op::Accept { slot, .. } = op {
            assert!(slot < self.slots_started, "slot {slot} has no ring");
        }
        match op {
            Op::Recv { block, offset, len, .. } => self.blocks.start_receive(block, offset, len),
            Op::Send { block, offset, len, .. } => self.blocks.start_send(block, offset, len),
            _ => {}
        }
        let mut world = self.world.borrow_mut();
        let serial = world.submit(token, op);
        self.queue.push(serial);
        let done_us = world.now_us() + world.faults.op_us;
        world.advance_to(done_us);
        let per_mille = world.faults.flush_early;
        let early = world.roll(per_mille, "early flush");
        drop(world);
        if early {
            self.flush();
        }
    }

    fn block(&self, block: Block) -> &[u8] {
        self.blocks.bytes(block)
    }

    fn block_mut(&mut self, block: Block) -> &mut [u8] {
        self.blocks.bytes_mut(block)
    }

    fn write(&mut self, block: Block, offset: u32, bytes: &[u8]) {
        self.blocks.write(block, offset, bytes);
    }
}

impl Driver for FakeDriver {
    fn turn(&mut self, wait: Wait, completions: &mut Vec<Completion>) -> io::Result<()> {
        self.flush();
        let micros = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let (deadline_us, gather_until_us) = {
            let mut world = self.world.borrow_mut();
            let mut now_us = world.now_us() + world.faults.turn_us;
            if let Some(jump_us) = world.roll_jump() {
                now_us += jump_us;
            }
            world.advance_to(now_us);
            match wait {
                Wait::No => (now_us, now_us),
                Wait::AtMost(limit) => (now_us.saturating_add(micros(limit)), now_us),
                Wait::Gather { at_most, gather } => {
                    let gather_until_us = now_us.saturating_add(micros(gather.min(at_most)));
                    (now_us.saturating_add(micros(at_most)), gather_until_us)
                }
            }
        };
        loop {
            self.run_due();
            let mut world = self.world.borrow_mut();
            if self.woken.swap(false, SeqCst) {
                completions.push(Completion::new(Token::WAKE, 0));
            }
            if world.has_posted() {
                world.reap(&mut self.blocks, completions);
            }
            let per_mille = world.faults.early_return;
            let gathers = completions.len() < Wait::GATHERED && world.now_us() < gather_until_us;
            if !completions.is_empty() && !gathers || world.roll(per_mille, "early return") {
                return Ok(());
            }
            let until_us = if completions.is_empty() { deadline_us } else { gather_until_us };
            match world.next_event_at() {
                Some(at_us) if at_us <= until_us => world.advance_to(at_us),
                _ => {
                    world.advance_to(until_us);
                    return Ok(());
                }
            }
        }
    }

    fn has_more(&mut self) -> bool {
        self.world.borrow().has_posted()
    }

    fn slots_started(&self) -> u32 {
        self.slots_started
    }

    fn start_slots(&mut self) -> io::Result<()> {
        let mut world = self.world.borrow_mut();
        let per_mille = world.faults.start_slots_error;
        if self.slots_started < self.slots && world.roll(per_mille, "no memory for a ring") {
            return Err(io::Error::from_raw_os_error(crate::op::errno::ENOMEM));
        }
        self.slots_started = self.slots.min(self.slots_started + self.slots_per_ring);
        Ok(())
    }

    fn slots_per_ring(&self) -> u32 {
        self.slots_per_ring
    }

    fn close_listeners(&mut self) {
        self.world.borrow_mut().close_listeners();
    }

    fn set_link_address(&mut self, link: u16, address: LinkAddress) {
        self.world.borrow_mut().set_link_address(link, address);
    }

    fn waker(&self) -> Waker {
        let woken = Arc::clone(&self.woken);
        Waker::new(move || woken.store(true, SeqCst))
    }
}
