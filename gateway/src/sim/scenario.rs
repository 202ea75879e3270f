//! What a seed means: configuration, clients, workers, chaos and faults of one run.

mod classes;

use std::net::SocketAddr;

use roost_protocol::{InstanceId, Reason};

use self::classes::{Drawn, starve, turn_us_max};
use crate::{
    core::{
        CoreConfig, ListenerConfig,
        bounds::Bounds,
        config::{NoWorkerPolicy, WorkerConfig},
        limits::{Cap, PerIp},
    },
    sim::{
        cast::{Chaos, client_actor},
        client::{Client, Manners, Profile},
        faults::Faults,
        rng::Rng,
        worker::Habits,
    },
};

/// What the shell asks of the shard during a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Close a connection by hand.
    Close,
    /// List connections.
    Sample,
    /// Look at the listeners once more.
    Rescan,
    /// Change limits and workers.
    Configure,
    /// Stop accepting and close the listeners.
    CloseListeners,
    /// Drain over this many milliseconds.
    Drain(u32),
}

/// One run, as its seed decides.
#[derive(Debug)]
pub struct Scenario {
    /// The seed.
    pub seed: u64,
    /// Limits are generous and nothing gives cause to close a well-behaved client: none may be.
    pub comfortable: bool,
    /// The core's configuration.
    pub config: CoreConfig,
    /// Slots per ring.
    pub slots_per_ring: u32,
    /// The kernel's temper.
    pub faults: Faults,
    /// How each worker behaves.
    pub habits: Vec<Habits>,
    /// What happens to workers.
    pub chaos: Chaos,
    /// When the troubles end, in microseconds.
    pub calm_at_us: u64,
    /// What the shell asks, and when.
    pub asks: Vec<(u64, Ask)>,
    /// Sizes of socket buffers: client up, client down.
    pub client_buffers: [(u64, u64); 2],
    /// Sizes of link buffers: up, down.
    pub link_buffers: [(u64, u64); 2],
    /// One-way delay in microseconds.
    pub latency_us: (u64, u64),
    /// How long completions may gather before a turn.
    pub gather_us_max: u32,
    /// Clients that wait unaccepted, at most.
    pub backlog_max: usize,
    /// What clients share.
    pub manners: Manners,
    clients: usize,
    /// All clients come at once.
    crowd: bool,
    rng: Rng,
}

impl Scenario {
    /// Draws the run of a seed. Each class of runs draws from a stream of its own, so that a new class
    /// leaves the others' seeds as they were.
    pub fn draw(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let comfortable = rng.chance(400);
        let mut faults = Faults::swarm(&mut rng);
        let mut config = draw_config(&mut rng, comfortable);
        let calm_at_us = rng.log_range(300_000, 30_000_000);
        if comfortable {
            // What would excuse a lost client must not happen.
            (faults.accept_drops, faults.accept_error) = (0, faults.accept_error.min(50));
            faults.ordered_release = false;
        }
        let crowd = rng.chance(10);
        // What the classes below may change is drawn before what follows from it.
        let mut drawn = Drawn { seed, comfortable, calm_at_us, latency_max_us: 50_000, link_down: None };
        if crowd {
            drawn.crowd(&mut config, &mut faults);
        }
        let mut starving = Rng::new(!seed);
        let starves = starving.chance(250);
        if starves {
            starve(&mut starving, &mut config, &mut faults);
        }
        drawn.limits(&mut config);
        config.bounds = draw_bounds(&mut Rng::new(seed.rotate_left(16) ^ !0));
        drawn.tight_queues(&mut config);
        let ciphered = drawn.ciphers(&mut config);
        let mut manners = Manners {
            frame_bytes_max: config.frame_bytes_max,
            think_us: (rng.log_range(50, 5_000), rng.log_range(10_000, 1_000_000)),
            ping_us: rng.log_range(50_000, 20_000_000),
            message_bytes_max: rng.log_range(9, u64::from(config.frame_bytes_max)) as u32,
            patience_us: 5_000_000,
            proxy_listener: (0..).zip(&config.listeners).find(|(_, of)| of.proxy).map(|(index, _)| index),
            ciphered,
        };
        let secret = rng.chance(300).then(|| b"a secret".to_vec());
        for worker in &mut config.workers {
            worker.secret.clone_from(&secret);
        }
        let mut habits: Vec<Habits> =
            config.workers.iter().map(|_| draw_habits(&mut rng, comfortable, &secret)).collect();
        let mut asks = draw_asks(&mut rng, comfortable, drawn.calm_at_us);
        if starves && starving.chance(500) {
            // Sent away while they speak, and while others hold the buffers.
            let at_us = starving.below(drawn.calm_at_us);
            asks.push((at_us, Ask::Drain(starving.below(1_000) as u32)));
            asks.sort_by_key(|&(at, _)| at);
        }
        let small = |rng: &mut Rng| (rng.log_range(64, 4_096), rng.log_range(4_096, 262_144));
        let slots_per_ring = rng.log_range(2, 64).min(u64::from(config.slots_max)) as u32;
        let mut chaos = draw_chaos(&mut rng);
        drawn.odd_workers(&mut config, &mut chaos);
        drawn.hoarders(&mut config, &mut manners);
        drawn.leavers(&mut chaos, &mut habits, &mut manners);
        drawn.stopped_workers(&mut config, &mut chaos, &mut manners);
        drawn.talkers(&mut habits);
        let client_buffers = [small(&mut rng), small(&mut rng)];
        let link_buffers = [small(&mut rng), drawn.link_down.unwrap_or_else(|| small(&mut rng))];
        let turn_us_max = turn_us_max(&config, link_buffers[1].0);
        drawn.slow_turns(turn_us_max, &mut faults);
        let Drawn { calm_at_us, latency_max_us, .. } = drawn;
        Self {
            seed,
            comfortable,
            slots_per_ring,
            faults,
            habits,
            chaos,
            calm_at_us,
            asks,
            client_buffers,
            link_buffers,
            latency_us: (rng.log_range(1, 50), rng.log_range(50, 50_000).min(latency_max_us)),
            backlog_max: if crowd { 512 } else { rng.log_range(1, 64) as usize },
            manners,
            clients: if crowd {
                4 * CoreConfig::RX_BLOCKS as usize + 64
            } else {
                rng.log_range(1, 48) as usize
            },
            crowd,
            config,
            // A part of a frame may take as long as completions gather.
            gather_us_max: if rng.chance(500) { 0 } else { rng.log_range(20, 5_000).min(turn_us_max) as u32 },
            rng,
        }
    }

    /// The clients.
    pub fn clients(&mut self) -> Vec<Client> {
        let rng = &mut self.rng;
        // Each seed has its own mix of tempers.
        let tempers: Vec<Profile> =
            (0..rng.range(1, 5)).map(|_| Profile::ALL[rng.index(Profile::ALL.len())]).collect();
        let addresses = rng.log_range(1, 100);
        let client = |index: usize| {
            let profile = if rng.chance(400) { Profile::Steady } else { rng.pick(&tempers) };
            let listener = rng.below(self.config.listeners.len() as u64) as u16;
            let host = rng.below(addresses);
            let text = match rng.below(10) {
                0..6 => Some(format!("10.0.0.{host}:4000")),
                6..9 => Some(format!("[2001:db8::{host:x}]:4000")),
                _ => None,
            };
            let addr: Option<SocketAddr> = text.map(|text| text.parse().expect("an address"));
            let starts_at_us = if self.crowd { 0 } else { rng.below(self.calm_at_us * 3 / 4) };
            Client::new(
                index as u32 + 1,
                client_actor(index as u32),
                profile,
                (listener, addr),
                self.manners.clone(),
                starts_at_us,
                rng.fork(),
            )
        };
        (0..self.clients).map(client).collect()
    }

    /// An independent stream for a part of the run.
    pub fn fork(&mut self) -> Rng {
        self.rng.fork()
    }

    /// Whether a well-behaved client may hear this reason in this run.
    pub fn excuses(&self, reason: Reason) -> bool {
        let asked = |wanted: fn(&Ask) -> bool| self.asks.iter().any(|(_, ask)| wanted(ask));
        match reason {
            Reason::Drain => asked(|ask| matches!(ask, Ask::Drain(_))),
            Reason::AdminClosed => asked(|ask| matches!(ask, Ask::Close)),
            _ => !self.comfortable,
        }
    }
}

fn draw_config(rng: &mut Rng, comfortable: bool) -> CoreConfig {
    let names = rng.range(1, 4);
    let workers = (0..names).map(|i| WorkerConfig { name: format!("worker-{i}"), secret: None }).collect();
    let slots_max = rng.log_range(2, 64) as u32;
    let mut config = CoreConfig::lone(slots_max, workers);
    config.counts_waiting = true;
    let mut gateway = [0; 16];
    rng.fill(&mut gateway);
    config.gateway = InstanceId(gateway);
    config.accepts_max = rng.log_range(1, 16) as u32;
    config.frame_bytes_max = rng.log_range(64, 8_192) as u32;
    config.link_window_bytes = rng.log_range(512, 262_144) as u32;
    config.link_failover_ms = rng.log_range(200, 5_000) as u32;
    config.link_redial_ms = (rng.log_range(1, 50) as u32, rng.log_range(50, 1_000) as u32);
    config.link_keepalive_ms = if rng.chance(800) { rng.log_range(50, 10_000) as u32 } else { 0 };
    config.heartbeat_interval_ms = rng.log_range(500, 60_000) as u32;
    config.linger_ms = rng.log_range(500, 3_000) as u32;
    if comfortable {
        config.handshake_timeout_ms = 900_000;
        config.idle_timeout_ms = 0;
        config.frame_timeout_ms = 900_000;
        config.write_timeout_ms = 900_000;
        return config;
    }
    config.handshake_timeout_ms = rng.log_range(500, 20_000) as u32;
    config.idle_timeout_ms = if rng.chance(700) { rng.log_range(2_000, 60_000) as u32 } else { 0 };
    config.frame_timeout_ms = rng.log_range(500, 20_000) as u32;
    config.write_timeout_ms = rng.log_range(500, 20_000) as u32;
    config.outbox_bytes_max = rng.log_range(64, 262_144) as u32;
    config.outbox_bytes_total = rng.log_range(2_048, 1 << 20);
    config.spill_bytes_total = rng.log_range(2_048, 1 << 20);
    config.messages_per_s_max = if rng.chance(300) { rng.log_range(1, 20) as u32 } else { 0 };
    config.no_worker = if rng.chance(500) { NoWorkerPolicy::Refuse } else { NoWorkerPolicy::Wait };
    config.cap = rng.chance(300).then(|| Cap::new(slots_max.div_ceil(2)));
    config.accept_ramp_per_s = if rng.chance(200) { rng.log_range(2, 200) as u32 } else { 0 };
    if rng.chance(300) {
        config.per_ip = Some(PerIp::new(2, rng.draw(), rng.range(1, 3) as u32, true));
    }
    if rng.chance(250) {
        config.listeners.push(ListenerConfig { proxy: true, ..ListenerConfig::default() });
        if rng.chance(800) {
            config.proxy_trusted = vec!["10.0.0.0/8".parse().expect("a network")];
        }
    }
    config
}

/// What a gateway uses, or so little that no walk ends in the turn in which it began.
fn draw_bounds(rng: &mut Rng) -> Bounds {
    if rng.chance(400) {
        return Bounds::GATEWAY;
    }
    // Each small one only in some runs: together they would hide what only one of them shows.
    let mut draw = |usual: u32| if rng.chance(300) { usual } else { rng.log_range(1, 4) as u32 };
    let usual = Bounds::GATEWAY;
    Bounds {
        routing_visits: draw(usual.routing_visits),
        resumes: draw(usual.resumes),
        moving: draw(usual.moving),
        resends: draw(usual.resends),
        drain_visits: draw(usual.drain_visits),
        fanout_visits: draw(usual.fanout_visits),
        fanout_blocks: draw(usual.fanout_blocks),
        link_frames: draw(usual.link_frames),
        client_frames: draw(usual.client_frames),
        shutdowns: draw(usual.shutdowns),
        sweep_slice: draw(usual.sweep_slice),
        // Not so few that the table of owners were never whole; and drawn last.
        weights: rng.log_range(2_048, u64::from(usual.weights)) as u32,
    }
}

fn draw_habits(rng: &mut Rng, comfortable: bool, secret: &Option<Vec<u8>>) -> Habits {
    let mut dose = |rare: u32, frequent: u32| rng.pick(&[0, 0, rare, frequent]);
    let (pushes, fans_out, relays, pings) = (dose(50, 600), dose(10, 200), dose(10, 200), dose(20, 300));
    let (closes, rejects) = if comfortable { (0, 0) } else { (dose(2, 50), dose(20, 400)) };
    Habits {
        read_bytes_max: rng.log_range(256, 1 << 20) as usize,
        window_bytes: rng.log_range(512, 262_144) as u32,
        acknowledges: rng.range(50, 1_000) as u32,
        pace_us: (rng.log_range(100, 2_000), rng.log_range(2_000, 60_000)),
        volunteers: rng.log_range(0, 400) as u32,
        pushes,
        fans_out,
        relays,
        relays_all: 0,
        answers: 0,
        rekeys: 0,
        words: 0,
        closes,
        rejects,
        pings,
        secret: secret.clone(),
    }
}

fn draw_chaos(rng: &mut Rng) -> Chaos {
    let mut dose = |rare: u32, frequent: u32| rng.pick(&[0, 0, rare, frequent]);
    Chaos {
        kills: dose(50, 300),
        cuts: dose(100, 500),
        pauses: dose(50, 300),
        forgets: dose(30, 200),
        garbage: dose(30, 200),
        drains: dose(30, 200),
        unreachable: dose(30, 200),
        mutes: 0,
        oddities: 0,
        pace_us: (rng.log_range(1_000, 50_000), rng.log_range(100_000, 3_000_000)),
        absence_us: (rng.log_range(1_000, 100_000), rng.log_range(200_000, 15_000_000)),
    }
}

fn draw_asks(rng: &mut Rng, comfortable: bool, calm_at_us: u64) -> Vec<(u64, Ask)> {
    let mut drawn = Vec::new();
    for _ in 0..rng.below(5) {
        let asks = [Ask::Sample, Ask::Rescan, Ask::Configure, Ask::Configure, Ask::Close];
        let ask = rng.pick(&asks[..if comfortable { 4 } else { 5 }]);
        drawn.push((rng.below(calm_at_us), ask));
    }
    match rng.below(20) {
        0 => drawn.push((rng.below(calm_at_us), Ask::CloseListeners)),
        1 | 2 => {
            let over_ms = if rng.chance(300) { 0 } else { rng.log_range(1, 10_000) as u32 };
            let at_us = rng.below(calm_at_us);
            drawn.push((at_us, Ask::Drain(over_ms)));
            // Sooner or later the shell closes the listeners; until then whoever comes is told to go.
            if rng.chance(500) {
                drawn.push((at_us + rng.below(calm_at_us - at_us), Ask::CloseListeners));
            }
        }
        _ => {}
    }
    drawn.sort_by_key(|&(at, _)| at);
    drawn
}
