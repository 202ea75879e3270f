//! What a seed means: configuration, clients, workers, chaos and faults of one run.

use std::net::SocketAddr;

use roost_protocol::{InstanceId, Reason};

use crate::{
    core::{
        CoreConfig,
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
    Nudge,
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
    /// Draws the run of a seed.
    pub fn draw(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let comfortable = rng.chance(400);
        let mut faults = Faults::swarm(&mut rng);
        let mut config = draw_config(&mut rng, comfortable);
        let mut calm_at_us = rng.log_range(300_000, 30_000_000);
        if comfortable {
            // What would excuse a lost client must not happen.
            (faults.accept_drops, faults.accept_error) = (0, faults.accept_error.min(50));
            faults.ordered_release = false;
        }
        let crowd = rng.chance(10);
        if crowd {
            // More clients that speak at once than there are receive buffers.
            config.slots_max = 4 * CoreConfig::RX_BLOCKS + 64;
            (faults.completion_late, faults.completion_delay_us, faults.reap_max) = (1_000, 20_000, 256);
            calm_at_us = calm_at_us.min(1_000_000);
        }
        // A stream of its own, so that all other seeds stay as they were.
        let mut starving = Rng::new(!seed);
        if starving.chance(250) {
            // Hardly a receive buffer for all, and each held for as long as its completion is late.
            config.rx_blocks = starving.log_range(1, 4) as u32;
            faults.completion_late = faults.completion_late.max(300);
            faults.completion_delay_us = faults.completion_delay_us.max(starving.log_range(500, 20_000));
            faults.shutdown_delay_us = faults.shutdown_delay_us.max(20_000);
        }
        // A stream of its own, too.
        let mut limits = Rng::new(seed.rotate_left(48) ^ !0);
        if !comfortable && limits.chance(200) {
            config.control_frames_per_s_max = limits.log_range(1, 20) as u32;
        }
        config.bounds = draw_bounds(&mut Rng::new(seed.rotate_left(16) ^ !0));
        let mut tight = Rng::new(seed.rotate_left(48) ^ !0);
        if tight.chance(400) {
            // Link queues share next to nothing: whatever is admitted by a sum that ought to hold, or
            // taken from slack, shows.
            config.link_shared_percent = tight.pick(&[0, 0, 1, 10]);
            config.link_tx_block_bytes = tight.log_range(512, 4_096) as u32;
        }
        let mut manners = Manners {
            frame_bytes_max: config.frame_bytes_max,
            think_us: (rng.log_range(50, 5_000), rng.log_range(10_000, 1_000_000)),
            ping_us: rng.log_range(50_000, 20_000_000),
            message_bytes_max: rng.log_range(9, u64::from(config.frame_bytes_max)) as u32,
            patience_us: 5_000_000,
            proxy_listener: config.proxy_listeners.first().copied(),
        };
        let secret = rng.chance(300).then(|| b"a secret".to_vec());
        for worker in &mut config.workers {
            worker.secret.clone_from(&secret);
        }
        let mut habits: Vec<Habits> =
            config.workers.iter().map(|_| draw_habits(&mut rng, comfortable, &secret)).collect();
        let mut asks = draw_asks(&mut rng, comfortable, calm_at_us);
        if config.rx_blocks < CoreConfig::RX_BLOCKS && starving.chance(500) {
            // Sent away while they speak, and while others hold the buffers.
            asks.push((starving.below(calm_at_us), Ask::Drain(starving.below(1_000) as u32)));
            asks.sort_by_key(|&(at, _)| at);
        }
        let small = |rng: &mut Rng| (rng.log_range(64, 4_096), rng.log_range(4_096, 262_144));
        let slots_per_ring = rng.log_range(2, 64).min(u64::from(config.slots_max)) as u32;
        let mut chaos = draw_chaos(&mut rng);
        chaos.mutes = Rng::new(seed.rotate_left(24) ^ !0).pick(&[0, 0, 50, 300]);
        let mut odd = Rng::new(seed.rotate_left(17) ^ 0x5eed);
        if odd.chance(250) {
            chaos.oddities = odd.log_range(20, 300) as u32;
            config.link_hold_ms = (odd.log_range(20, 500) as u32, odd.log_range(500, 20_000) as u32);
        }
        let mut hoarding = Rng::new(seed.rotate_left(56) ^ !0);
        if !comfortable && hoarding.chance(150) {
            // Incomplete frames of several clients do not fit the pool, and some hold more than others.
            config.frame_bytes_max = hoarding.log_range(4_096, 8_192) as u32;
            config.spill_bytes_total = hoarding.log_range(6_144, 24_576);
            manners.frame_bytes_max = config.frame_bytes_max;
            manners.message_bytes_max = config.frame_bytes_max;
        }
        let mut leaving = Rng::new(seed.rotate_left(40) ^ !0);
        if leaving.chance(100) {
            // Workers let connections go, and die before they have acknowledged what they had handled.
            (chaos.drains, chaos.kills, chaos.cuts) = (500, 500, 0);
            habits.iter_mut().for_each(|habits| habits.acknowledges = 20);
            manners.think_us = (50, 20_000);
            calm_at_us = calm_at_us.max(5_000_000);
        }
        let mut latency_max_us = 50_000;
        let mut stopping = Rng::new(seed.rotate_left(32) ^ !0);
        let stopped_full = stopping.chance(100);
        if stopped_full {
            // Workers are stopped (SIGSTOP) until they are given up, and with more to read than
            // their sockets take: the kernel still sends what the session retains. No probe may
            // find the link dead before that.
            config.link_failover_ms = stopping.log_range(200, 1_000) as u32;
            config.link_keepalive_ms = 0;
            manners.think_us = (50, 20_000);
            calm_at_us = calm_at_us.max(5_000_000);
            // And nothing else may break it first.
            chaos = Chaos { pauses: 500, absence_us: (1_500_000, 5_000_000), ..Chaos::none(chaos.pace_us) };
            // Nor may a single frame take so long, 64 bytes a round trip, that its worker is given
            // up meanwhile, again and again.
            latency_max_us = 300;
        }
        Self {
            seed,
            comfortable,
            slots_per_ring,
            faults,
            habits,
            chaos,
            calm_at_us,
            asks,
            client_buffers: [small(&mut rng), small(&mut rng)],
            link_buffers: [
                small(&mut rng),
                if stopped_full { (64, stopping.log_range(65, 512)) } else { small(&mut rng) },
            ],
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
            gather_us_max: if rng.chance(500) { 0 } else { rng.log_range(20, 5_000) as u32 },
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
            let listener = rng.below(u64::from(self.config.listeners)) as u16;
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
        config.listeners = 2;
        config.proxy_listeners = vec![1];
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
        let asks = [Ask::Sample, Ask::Nudge, Ask::Configure, Ask::Configure, Ask::Close];
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
