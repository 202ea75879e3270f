//! One seed: a whole shard, run from its start until nobody is left.

use std::{
    cell::RefCell,
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::Arc,
};

use roost_protocol::Reason;

use crate::{
    core::{
        Command, CoreConfig, link::LinkState, pool, record::State, shard::inspect::LinkView,
        stats::ShardStats,
    },
    event_loop::{Clock, Request, Shard, ShardHandle, Target, channel},
    op::{Block, Driver, LinkAddress},
    sim::{
        cast::{Cast, worker_actors},
        client::Ended,
        coverage::Coverage,
        driver::{Actors, FakeDriver},
        invariants,
        kernel::{Dial, Endpoint, World},
        rng::Rng,
        scenario::{Ask, Scenario},
        shadow::Shadow,
        worker::Worker,
    },
};

/// Turns of one run; more is a livelock.
const TURNS_MAX: u64 = 2_000_000;
/// Turns without a completion at one instant; more is a livelock.
const IDLE_TURNS_MAX: u64 = 20_000;
/// Turns between two poisonings of what nobody holds.
const POISON_EVERY: u64 = 3;
/// Virtual time from the end of troubles to the end of the run, at most.
const CALM_US_MAX: u64 = 600_000_000;

/// A run that broke an invariant.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// What was violated, and the last things that happened.
    pub what: String,
}

impl Failure {
    /// The invariant that was violated; none for a panic that names none.
    pub fn invariant(&self) -> Option<&'static str> {
        invariants::named_in(&self.what)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { seed, what } = self;
        let invariant = self.invariant().unwrap_or("none named");
        write!(f, "seed {seed} violates {invariant}\n{what}\nreplay: ROOST_SIM_SEED={seed}")
    }
}

/// Runs a seed to its end.
pub fn run(seed: u64) -> Result<Coverage, Failure> {
    let outcome = catch_unwind(AssertUnwindSafe(|| Run::new(seed).finish()));
    outcome
        .unwrap_or_else(|panic| {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()))
                .unwrap_or_else(|| "a panic without words".into());
            Err(text)
        })
        .map_err(|what| Failure { seed, what })
}

/// Virtual time as the shard sees it.
struct VirtualClock(Rc<RefCell<World>>);

impl Clock for VirtualClock {
    fn now_ns(&mut self) -> u64 {
        self.0.borrow().now_us() * 1_000
    }

    /// Always busy, so that completions gather where the scenario lets them.
    fn cpu_ns(&mut self) -> u64 {
        self.now_ns()
    }
}

struct Run {
    scenario: Scenario,
    world: Rc<RefCell<World>>,
    cast: Rc<RefCell<Cast>>,
    shard: Shard<FakeDriver, VirtualClock>,
    handle: ShardHandle,
    shadow: Shadow,
    asks: VecDeque<(u64, Ask)>,
    rng: Rng,
    /// Which workers a reload names: a stream of its own, so that all else stays as it was.
    reloads: Rng,
    turns: u64,
    /// The links as the trace knows them.
    traced: Vec<LinkView>,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut scenario = Scenario::draw(seed);
        let config = scenario.config.clone();
        let slots = (config.slots_max, scenario.slots_per_ring);
        let faults = scenario.faults.clone();
        let mut world = World::new(scenario.fork(), config.listeners.len() as u16, slots.0, slots.1, faults);
        world.client_buffers = scenario.client_buffers;
        world.link_buffers = scenario.link_buffers;
        world.latency_us = scenario.latency_us;
        world.backlog_max = scenario.backlog_max;
        world.trace = std::env::var_os("ROOST_SIM_TRACE").is_some();
        let mut workers = Vec::new();
        for (index, habits) in scenario.habits.clone().into_iter().enumerate() {
            let actors = worker_actors(index as u32);
            world.endpoints.push(Endpoint {
                address: address(&scenario.config.workers[index].name),
                dial: Dial::Accept,
                accepted: VecDeque::new(),
                owner: actors.0,
            });
            workers.push(Worker::new(index, actors, habits, scenario.fork()));
        }
        let clients = scenario.clients();
        let listeners: Vec<_> = clients.iter().map(|client| (client.id, client.listener)).collect();
        let mut cast = Cast::new(clients, workers, scenario.chaos.clone(), scenario.fork());
        let limits = &scenario.config;
        cast.ledger.on_rate_limit(limits.messages_per_s_max, limits.control_frames_per_s_max);
        for (client, listener) in listeners {
            cast.ledger.on_client(client, listener);
        }
        cast.start(&mut world);
        let world = Rc::new(RefCell::new(world));
        let cast = Rc::new(RefCell::new(cast));
        let actors: Rc<RefCell<dyn Actors>> = cast.clone();
        let mut driver = FakeDriver::new(Rc::clone(&world), actors, &pool::specs(&config), slots);
        for (index, worker) in (0..).zip(&config.workers) {
            driver.set_link_address(index, address(&worker.name));
        }
        let stats = Arc::new(ShardStats::default());
        let (sender, receiver) = channel();
        let handle = ShardHandle::new(sender, driver.waker(), Arc::clone(&stats));
        let mut entropy = scenario.fork();
        let shard = Shard::new(
            config,
            driver,
            VirtualClock(Rc::clone(&world)),
            stats,
            Box::new(move |bytes| entropy.fill(bytes)),
            receiver,
        )
        .gathering_us(scenario.gather_us_max);
        Self {
            asks: scenario.asks.clone().into(),
            rng: scenario.fork(),
            reloads: Rng::new(seed.rotate_left(17)),
            scenario,
            world,
            cast,
            shard,
            handle,
            shadow: Shadow::default(),
            turns: 0,
            traced: Vec::new(),
        }
    }

    fn finish(mut self) -> Result<Coverage, String> {
        let calm_at_us = self.scenario.calm_at_us;
        self.turn_until(|run| run.now_us() >= calm_at_us)?;
        self.calm_down();
        let deadline_us = self.now_us() + CALM_US_MAX;
        self.turn_until(|run| run.all_ended() || run.now_us() >= deadline_us)?;
        self.check_liveness()?;
        self.give_up();
        let deadline_us = self.now_us() + CALM_US_MAX;
        self.turn_until(|run| run.is_quiet() || run.now_us() >= deadline_us)?;
        self.check_quiet()?;
        self.shadow.check_end(self.shard.core());
        self.shadow.finish(self.shard.core());
        Ok(self.coverage())
    }

    fn now_us(&self) -> u64 {
        self.world.borrow().now_us()
    }

    fn turn_until(&mut self, done: impl Fn(&Self) -> bool) -> Result<(), String> {
        let mut stuck = (0, 0);
        while !done(self) {
            self.ask_due();
            if let Err(error) = self.shard.turn() {
                // The loop ends when a ring cannot be started; a restarted process would go on.
                if self.scenario.faults.start_slots_error == 0 {
                    return Err(format!("the driver failed: {error}"));
                }
            }
            self.turns += 1;
            self.check()?;
            let now_ms = self.now_us() / 1_000;
            stuck = if stuck.0 == now_ms { (now_ms, stuck.1 + 1) } else { (now_ms, 0) };
            if stuck.1 > IDLE_TURNS_MAX || self.turns > TURNS_MAX {
                return Err("invariant no-livelock: the loop turns and time stands still".into());
            }
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), String> {
        self.shadow.check(self.shard.core(), &self.world.borrow());
        self.world.borrow_mut().forget_receives();
        if self.world.borrow().trace {
            self.trace_links();
        }
        if self.turns.is_multiple_of(POISON_EVERY) {
            let touched = self.shard.driver_mut().memory().touched();
            let core = self.shard.core();
            let free: Vec<Block> = touched.into_iter().filter(|&block| core.is_free_block(block)).collect();
            self.shard.driver_mut().memory_mut().poison(&free);
            self.check_hashes()?;
        }
        if let Some(violation) = self.world.borrow_mut().violations.pop() {
            return Err(violation);
        }
        let cast = self.cast.borrow();
        for view in self.shard.core().link_views().filter(|view| view.state == LinkState::Up) {
            let worker = view.session.expect("a link that is up has a session");
            let accepted = cast.workers.iter().any(|each| each.proven.contains(&worker));
            if !accepted {
                return Err(format!(
                    "invariant link-up: {view:?} is up, and its worker has accepted no LINK_PROOF"
                ));
            }
        }
        if let Some(violation) = cast.ledger.violations.first() {
            return Err(violation.clone());
        }
        for client in &cast.clients {
            let broken = match client.ended {
                _ if !client.profile.is_well_behaved() => None,
                Some(Ended::Goaway(reason)) if !self.scenario.excuses(reason) => Some(reason.label()),
                Some(Ended::Eof) if self.scenario.comfortable => Some("FIN"),
                Some(Ended::Reset) if self.scenario.comfortable => Some("RST"),
                _ => None,
            };
            // One that closed by itself sees the gateway's FIN too.
            if let Some(broken) = broken.filter(|_| !client.left()) {
                return Err(format!(
                    "invariant clients-stay: {} lost its connection by {broken}",
                    client.describe(&cast.ledger)
                ));
            }
        }
        Ok(())
    }

    /// An open connection is routed by the hash that its session was accepted with.
    fn check_hashes(&self) -> Result<(), String> {
        let cast = self.cast.borrow();
        for view in self.shard.core().slot_views().filter(|view| view.state == State::Open) {
            let accepted = cast.ledger.hash_of(view.session);
            if accepted != Some(view.routing_hash) {
                return Err(format!(
                    "invariant placement: {view:x?} was accepted with the routing hash {accepted:x?}"
                ));
            }
        }
        Ok(())
    }

    fn trace_links(&mut self) {
        let links: Vec<LinkView> = self.shard.core().link_views().collect();
        for (index, link) in links.iter().enumerate() {
            if self.traced.get(index) != Some(link) {
                self.world.borrow().note(|| format!("link {index}: {link:?}"));
            }
        }
        self.traced = links;
    }

    fn ask_due(&mut self) {
        while self.asks.front().is_some_and(|&(at, _)| at <= self.now_us()) {
            let (_, ask) = self.asks.pop_front().expect("just seen");
            let request = match ask {
                Ask::Sample => {
                    let (reply, _) = crossbeam_channel::unbounded();
                    Request::Sample { from_slot: 0, count: 1_000, reply }
                }
                Ask::Close => {
                    let known = self.shard.core().sample(0, 1_000);
                    if known.is_empty() {
                        continue;
                    }
                    let connection = known[self.rng.index(known.len())].connection;
                    Request::Command(Command::Close { connection, reason: Reason::AdminClosed })
                }
                Ask::Rescan => Request::Command(Command::Rescan),
                Ask::Configure => {
                    let config = self.other_config();
                    self.shadow.reloads();
                    configure(config, self.reloads.range(1, 2) as u8)
                }
                Ask::CloseListeners => {
                    let (closed, _) = crossbeam_channel::unbounded();
                    Request::CloseListeners(closed)
                }
                Ask::Drain(over_ms) => {
                    Request::Command(Command::Drain { over_ms, to: Arc::from("b.example:7400") })
                }
            };
            self.world.borrow().note(|| format!("ask    {request:?}"));
            self.handle.send(request);
        }
    }

    /// The configuration with a worker or a limit changed.
    fn other_config(&mut self) -> CoreConfig {
        let mut config = self.scenario.config.clone();
        if config.workers.len() > 1 && self.rng.chance(700) {
            config.workers.remove(self.rng.index(config.workers.len()));
        }
        if self.reloads.chance(500) {
            // Several at once, and in another order: those that come back find each other's links.
            for at in 1..config.workers.len() {
                config.workers.swap(at, self.reloads.index(at + 1));
            }
            config.workers.truncate(1 + self.reloads.index(config.workers.len()));
        }
        if !self.scenario.comfortable {
            config.idle_timeout_ms = self.rng.log_range(1_000, 60_000) as u32;
            config.messages_per_s_max = self.rng.below(20) as u32;
            let limits = (config.messages_per_s_max, config.control_frames_per_s_max);
            self.cast.borrow_mut().ledger.on_rate_limit(limits.0, limits.1);
        }
        config
    }

    fn calm_down(&mut self) {
        self.asks.clear();
        // Two queues' worth for one worker needs what queues share.
        let calm = CoreConfig { link_shared_percent: 100, ..self.scenario.config.clone() };
        self.shadow.reloads();
        self.handle.send(configure(calm, 1));
        let mut world = self.world.borrow_mut();
        world.note(|| "calm".into());
        world.faults = world.faults.calmed();
        self.cast.borrow_mut().calm_down(&mut world);
    }

    fn all_ended(&self) -> bool {
        self.cast.borrow().clients.iter().all(|client| client.ended.is_some())
    }

    /// Whoever is still there must have a reason to be.
    fn check_liveness(&self) -> Result<(), String> {
        let cast = self.cast.borrow();
        for client in cast.clients.iter().filter(|client| client.ended.is_none()) {
            if !self.scenario.faults.ordered_release {
                return Err(format!("invariant liveness: {} is stuck", client.describe(&cast.ledger)));
            }
        }
        Ok(())
    }

    fn give_up(&mut self) {
        let mut world = self.world.borrow_mut();
        for client in &mut self.cast.borrow_mut().clients {
            if client.ended.is_none() {
                client.give_up(&mut world);
            }
        }
    }

    fn is_quiet(&self) -> bool {
        let core = self.shard.core();
        let [rx, outbox, spill, _, link_tx, fanout] = core.blocks_in_use();
        core.connections() == 0
            && (rx, outbox, spill, link_tx, fanout) == (0, 0, 0, 0, 0)
            && core
                .link_views()
                .filter(|link| !link.vacant)
                .all(|link| link.session.is_some() && !link.failing_over && link.resend_bytes == 0)
            && self.cast.borrow().workers.iter().all(|worker| worker.connections().next().is_none())
    }

    fn check_quiet(&self) -> Result<(), String> {
        if self.is_quiet() {
            return Ok(());
        }
        let core = self.shard.core();
        let cast = self.cast.borrow();
        let left: Vec<_> = cast.workers.iter().map(|worker| worker.connections().count()).collect();
        let live: Vec<_> = core
            .slot_views()
            .filter(|view| !matches!(view.state, crate::core::record::State::Free))
            .filter(|view| !matches!(view.state, crate::core::record::State::Accepting))
            .collect();
        Err(format!(
            "invariant liveness: the shard does not come to rest: {} connections {live:?}, blocks in use {:?}, \
             links {:?}, connections left at workers {left:?}; {}",
            core.connections(),
            core.blocks_in_use(),
            core.link_views().collect::<Vec<_>>(),
            cast.workers.iter().map(Worker::describe).collect::<Vec<_>>().join(", "),
        ))
    }

    fn coverage(self) -> Coverage {
        let mut coverage = self.shadow.coverage;
        let (world, cast) = (self.world.borrow(), self.cast.borrow());
        coverage.runs = 1;
        coverage.turns = self.turns;
        coverage.virtual_us = world.now_us();
        coverage.handled = (cast.ledger.handled, cast.ledger.handled_resent);
        coverage.delivered = cast.ledger.delivered;
        coverage.faults = world.fault_counts.clone();
        coverage.faults.extend(&cast.deeds);
        coverage
    }
}

/// A reload as the shell asks for it, with the workers at this one of their hosts' addresses.
fn configure(config: CoreConfig, host: u8) -> Request {
    let target = |name: &str| (name.to_owned(), Target::Address(address_at(host, name)));
    let targets = config.workers.iter().map(|worker| target(&worker.name)).collect();
    Request::Configure(Box::new(config), targets)
}

/// Where a worker of this name listens, whichever link goes there.
fn address(name: &str) -> LinkAddress {
    address_at(1, name)
}

/// The same, at another address of its host.
fn address_at(host: u8, name: &str) -> LinkAddress {
    let port = name.rsplit_once('-').and_then(|(_, number)| number.parse::<u16>().ok());
    LinkAddress::Tcp(([127, 0, 0, host], 7_000 + port.expect("worker-NUMBER")).into())
}
