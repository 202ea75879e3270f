//! The shard loop: reap completions, let the core act, submit, wait. One thread each.
//!
//! Generic over the driver and the clock, so that the simulation runs this very loop.
#![forbid(unsafe_code)]

mod control;
mod dial;
mod log;
mod pace;
mod served;

use std::{io, time::Duration};

pub use control::{Request, ShardHandle, channel};
use crossbeam_channel::{Receiver, Sender};
pub use dial::{Dials, LookUp, Target};
use pace::Pace;
use rustix::time::{ClockId, clock_gettime};
use served::Served;

use crate::{
    core::{Command, CoreConfig, Entropy, Next, ShardCore, event::Event, stats::ShardStats},
    op::{Completion, Driver, Token, Wait},
};
use std::sync::Arc;

/// A monotonic clock.
pub trait Clock {
    /// Nanoseconds since some fixed point; never goes back.
    fn now_ns(&mut self) -> u64;

    /// Nanoseconds of processor time that the calling thread has taken so far.
    fn cpu_ns(&mut self) -> u64;
}

/// The system's monotonic clock.
#[derive(Clone, Copy, Debug)]
pub struct MonotonicClock(std::time::Instant);

impl Default for MonotonicClock {
    fn default() -> Self {
        Self(std::time::Instant::now())
    }
}

impl Clock for MonotonicClock {
    fn now_ns(&mut self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }

    fn cpu_ns(&mut self) -> u64 {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
    }
}

/// Whether the loop goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Running {
    /// Another turn is due.
    Yes,
    /// [`Request::Stop`] came.
    No,
}

/// One shard: its core, its driver, and what the shell sends it.
pub struct Shard<D, C> {
    core: ShardCore,
    driver: D,
    clock: C,
    requests: Receiver<Request>,
    completions: Vec<Completion>,
    events: Vec<Event>,
    next: Next,
    pace: Pace,
    served: Served,
    dials: Dials,
    /// Whom to tell that the listeners are closed.
    closes_listeners: Vec<Sender<()>>,
    /// When the last turn ended.
    ended_ns: u64,
}

impl<D: Driver, C: Clock> Shard<D, C> {
    /// Starts the core on the driver: accepts are armed and links dialled at the first turn.
    pub fn new(
        cfg: CoreConfig,
        mut driver: D,
        mut clock: C,
        stats: Arc<ShardStats>,
        entropy: Entropy,
        requests: Receiver<Request>,
    ) -> Self {
        let mut core = ShardCore::new(cfg, driver.slots_per_ring(), stats, entropy);
        let now_ns = clock.now_ns();
        let slots_started = driver.slots_started();
        core.start(&mut driver, now_ns / 1_000_000, slots_started);
        Self {
            core,
            driver,
            clock,
            requests,
            completions: Vec::with_capacity(1024),
            events: Vec::new(),
            next: Next::Busy,
            pace: Pace::new(0),
            served: Served::new(now_ns / 1_000_000),
            dials: Dials::default(),
            closes_listeners: Vec::new(),
            ended_ns: now_ns,
        }
    }

    /// Lets completions gather for at most so many microseconds while the shard is busy; 0: never.
    pub fn gathering_us(mut self, gather_us_max: u32) -> Self {
        self.pace = Pace::new(gather_us_max);
        self
    }

    /// Dials workers where these say.
    pub fn dialling(mut self, dials: Dials) -> Self {
        self.dials = dials;
        self
    }

    /// Turns until [`Request::Stop`].
    pub fn run(&mut self) -> io::Result<()> {
        while self.turn()? == Running::Yes {}
        Ok(())
    }

    /// One turn: waits as long as the core allows, then acts on what has completed.
    pub fn turn(&mut self) -> io::Result<Running> {
        let wait = match self.next {
            Next::Busy => Wait::No,
            Next::At(at_ms) => {
                let at_ns = self.served.real_ms(at_ms).saturating_mul(1_000_000);
                let at_most = Duration::from_nanos(at_ns.saturating_sub(self.ended_ns));
                match self.pace.gather(self.ended_ns, &mut self.clock) {
                    Duration::ZERO => Wait::AtMost(at_most),
                    gather => Wait::Gather { at_most, gather },
                }
            }
        };
        self.driver.turn(wait, &mut self.completions)?;
        let began_ns = self.clock.now_ns();
        // All deadlines are the core's: they count the time in which it was served.
        self.core.begin_turn(self.served.begin(began_ns / 1_000_000));
        if let Some(pause_ms) = self.served.take_pause_ms() {
            self.core.on_pause(pause_ms);
        }
        let mut running = Running::Yes;
        self.core.stats().add(crate::core::stats::Stat::Completions, self.completions.len() as u64);
        self.core.fetch_records(&self.completions);
        for completion in self.completions.drain(..) {
            if completion.token == Token::WAKE {
                continue;
            }
            self.core.on_completion(&mut self.driver, completion);
        }
        while let Ok(request) = self.requests.try_recv() {
            match request {
                Request::Configure(cfg, targets) => {
                    self.core.on_command(&mut self.driver, Command::Configure(cfg));
                    self.dials.configure(&mut self.core, &mut self.driver, targets);
                }
                Request::Addresses(host, addresses) => {
                    self.dials.answer(&mut self.core, &mut self.driver, &host, &addresses);
                }
                Request::Command(command) => self.core.on_command(&mut self.driver, command),
                // Whoever asked may have gone.
                Request::LookUp(connection, reply) => drop(reply.send(self.core.look_up(connection))),
                Request::Sample { from_slot, count, reply } => {
                    drop(reply.send(self.core.sample(from_slot, count)));
                }
                Request::CloseListeners(closed) => {
                    self.core.on_command(&mut self.driver, Command::StopAccepting);
                    self.closes_listeners.push(closed);
                }
                Request::Stop => running = Running::No,
            }
        }
        if self.core.wants_slots() {
            if let Err(error) = self.driver.start_slots() {
                // Those that are connected stay; the rest waits in the backlog.
                tracing::error!(%error, "no further ring; trying again");
                self.core.on_slots_refused();
            }
            self.core.set_slots_started(self.driver.slots_started());
        }
        self.next = self.core.end_turn(&mut self.driver);
        if !self.closes_listeners.is_empty() && self.core.accepts_armed() == 0 {
            self.driver.close_listeners();
            for closed in self.closes_listeners.drain(..) {
                // Whoever asked may have gone.
                let _ = closed.send(());
            }
        }
        let next_ms = match self.next {
            Next::Busy => None,
            Next::At(at_ms) => Some(at_ms),
        };
        let catching_up = self.served.is_catching_up();
        self.served.end(next_ms, catching_up && (self.core.is_behind() || self.driver.has_more()));
        self.log_events();
        let (dials, driver) = (&mut self.dials, &mut self.driver);
        self.core.take_broken(|index, failed| dials.broken(driver, index, failed));
        self.ended_ns = self.clock.now_ns();
        self.core.stats().count_turn(self.ended_ns - began_ns);
        Ok(running)
    }

    fn log_events(&mut self) {
        let events = &mut self.events;
        let dropped = self.core.take_events(|event| events.push(event));
        for event in events.drain(..) {
            log::write(&self.core, &self.dials, event);
        }
        if dropped > 0 {
            tracing::debug!(dropped, "more happened in one turn than is logged");
        }
    }

    /// The core, for tests.
    pub fn core(&self) -> &ShardCore {
        &self.core
    }

    /// The driver, for tests.
    pub fn driver_mut(&mut self) -> &mut D {
        &mut self.driver
    }
}
