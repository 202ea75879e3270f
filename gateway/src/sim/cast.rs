//! All actors of a run: clients, workers, and chaos.

use std::collections::BTreeMap;

use crate::sim::{
    client::Client,
    driver::Actors,
    kernel::{Dial, World},
    ledger::Ledger,
    rng::Rng,
    worker::Worker,
};

/// Actor numbers: chaos, then workers (by what arrives, by timer), then clients (likewise).
pub const CHAOS: u32 = 0;
/// Ends absences.
const RETURNS: u32 = 1;
const WORKERS: u32 = 1_000;
const WORKER_TIMERS: u32 = 2_000;
const CLIENTS: u32 = 100_000;
const CLIENT_TIMERS: u32 = 200_000;

/// The actors of worker `index`: what arrives, timer.
pub const fn worker_actors(index: u32) -> (u32, u32) {
    (WORKERS + index, WORKER_TIMERS + index)
}

/// The actor of client `index` for what arrives.
pub const fn client_actor(index: u32) -> u32 {
    CLIENTS + index
}

/// What chaos does to workers, each per mille of its wake-ups.
#[derive(Clone, Debug)]
pub struct Chaos {
    /// Pause between wake-ups in microseconds.
    pub pace_us: (u64, u64),
    /// Kill one; it comes back after a while.
    pub kills: u32,
    /// Break its TCP connections, by RST or FIN.
    pub cuts: u32,
    /// Stop it for a while.
    pub pauses: u32,
    /// Make it forget its sessions.
    pub forgets: u32,
    /// Make it write garbage.
    pub garbage: u32,
    /// Make it say DRAINING.
    pub drains: u32,
    /// Let it live and answer no CLOSED(moved) until it is restarted.
    pub mutes: u32,
    /// Its address refuses or swallows connects for a while.
    pub unreachable: u32,
    /// For a while it dies at every REOPEN, or refuses every proof, or is what another worker's name
    /// leads to as well.
    pub oddities: u32,
    /// How long an absence lasts, in microseconds.
    pub absence_us: (u64, u64),
}

impl Chaos {
    /// Nothing ever happens, at this pace.
    pub const fn none(pace_us: (u64, u64)) -> Self {
        let (kills, cuts, pauses, forgets, garbage, drains) = (0, 0, 0, 0, 0, 0);
        let (mutes, unreachable, oddities, absence_us) = (0, 0, 0, (1, 1));
        Self {
            pace_us,
            kills,
            cuts,
            pauses,
            forgets,
            garbage,
            drains,
            mutes,
            unreachable,
            oddities,
            absence_us,
        }
    }
}

/// Everybody.
#[derive(Debug)]
pub struct Cast {
    /// The clients.
    pub clients: Vec<Client>,
    /// The workers.
    pub workers: Vec<Worker>,
    /// The books.
    pub ledger: Ledger,
    /// Faults are over: workers are well, clients finish and leave.
    pub calm: bool,
    /// What chaos did, how often.
    pub deeds: BTreeMap<&'static str, u64>,
    chaos: Chaos,
    rng: Rng,
    /// When absences end: time and worker.
    returns: Vec<(u64, usize)>,
}

impl Cast {
    /// Nobody has acted yet.
    pub fn new(clients: Vec<Client>, workers: Vec<Worker>, chaos: Chaos, rng: Rng) -> Self {
        Self {
            clients,
            workers,
            ledger: Ledger::default(),
            calm: false,
            deeds: BTreeMap::new(),
            chaos,
            rng,
            returns: Vec::new(),
        }
    }

    /// Arranges everybody's first turn.
    pub fn start(&mut self, world: &mut World) {
        world.wake_actor_at(0, CHAOS);
        for index in 0..self.workers.len() as u32 {
            world.wake_actor_at(0, WORKER_TIMERS + index);
        }
        for (index, client) in self.clients.iter().enumerate() {
            world.wake_actor_at(client.starts_at_us(), CLIENT_TIMERS + index as u32);
        }
    }

    /// Ends all troubles of the workers.
    pub fn calm_down(&mut self, world: &mut World) {
        self.calm = true;
        self.returns.clear();
        for worker in &mut self.workers {
            worker.paused_until_us = 0;
            (worker.dies_at_reopen, worker.died, worker.refuses_proofs) = (false, false, false);
            if worker.twin.take().is_some() {
                worker.kill(world);
            }
            if worker.drains || worker.mute {
                worker.kill(world);
            }
            if !worker.alive {
                worker.restart(world);
            }
            world.endpoints[worker.index].dial = Dial::Accept;
        }
        for index in 0..self.workers.len() as u32 {
            world.wake_actor_at(world.now_us(), WORKERS + index);
        }
    }

    fn end_absences(&mut self, world: &mut World) {
        let now_us = world.now_us();
        let (due, later) = std::mem::take(&mut self.returns).into_iter().partition(|&(at, _)| at <= now_us);
        self.returns = later;
        let due: Vec<(u64, usize)> = due;
        for (_, index) in due {
            if self.workers[index].alive {
                world.endpoints[index].dial = Dial::Accept;
            } else {
                self.workers[index].restart(world);
            }
            world.note(|| format!("chaos  worker {index} is back"));
        }
    }

    fn run_chaos(&mut self, world: &mut World) {
        if self.calm {
            return;
        }
        let index = self.rng.index(self.workers.len());
        self.trouble(world, index);
        let pause = self.rng.log_range(self.chaos.pace_us.0, self.chaos.pace_us.1);
        world.wake_actor_at(world.now_us() + pause, CHAOS);
    }

    /// A worker becomes odd, for the rest of the troubles.
    fn oddity(&mut self, world: &mut World, index: usize) {
        let other = self.rng.index(self.workers.len());
        let deed = match self.rng.below(3) {
            0 => {
                self.workers[index].dies_at_reopen = true;
                "dies at every REOPEN"
            }
            1 => {
                self.workers[index].refuses_proofs = true;
                self.workers[index].cut(world, true);
                "refuses proofs"
            }
            _ if other != index && self.workers[other].alive && self.workers[other].twin.is_none() => {
                self.workers[other].kill(world);
                self.returns.retain(|&(_, returning)| returning != other);
                self.workers[index].twin = Some(other);
                world.endpoints[other].dial = Dial::Accept;
                "has two names"
            }
            _ => return,
        };
        *self.deeds.entry(deed).or_default() += 1;
        world.note(|| format!("chaos  worker {index} {deed}"));
    }

    /// Who was killed by a REOPEN comes back at once, and dies at the next.
    fn restart_the_dead(&mut self, world: &mut World) {
        for worker in self.workers.iter_mut().filter(|worker| worker.died && !worker.alive) {
            worker.died = false;
            worker.restart(world);
        }
    }

    fn trouble(&mut self, world: &mut World, index: usize) {
        if self.workers[index].alive && self.rng.chance(self.chaos.oddities) {
            return self.oddity(world, index);
        }
        let Self { chaos, rng, workers, deeds, returns, .. } = self;
        let worker = &mut workers[index];
        if !worker.alive {
            return;
        }
        let absence_us = rng.log_range(chaos.absence_us.0, chaos.absence_us.1);
        let back_at_us = world.now_us() + absence_us;
        let mut deed = None;
        if rng.chance(chaos.kills) {
            worker.kill(world);
            returns.push((back_at_us, index));
            world.wake_actor_at(back_at_us, RETURNS);
            deed = Some("kill");
        } else if rng.chance(chaos.cuts) {
            let reset = rng.chance(500);
            worker.cut(world, reset);
            deed = Some(if reset { "cut by RST" } else { "cut by FIN" });
        } else if rng.chance(chaos.pauses) {
            worker.paused_until_us = back_at_us;
            world.wake_actor_at(back_at_us, WORKERS + index as u32);
            deed = Some("pause");
        } else if rng.chance(chaos.forgets) {
            worker.forget(world);
            deed = Some("forget");
        } else if rng.chance(chaos.garbage) {
            worker.spoil();
            deed = Some("garbage");
        } else if rng.chance(chaos.drains) {
            worker.drain();
            deed = Some("DRAINING");
        } else if rng.chance(chaos.unreachable) {
            let reset = rng.chance(500);
            world.endpoints[index].dial = if rng.chance(500) { Dial::Refuse } else { Dial::BlackHole };
            worker.cut(world, reset);
            returns.push((back_at_us, index));
            world.wake_actor_at(back_at_us, RETURNS);
            deed = Some("unreachable");
        } else if chaos.mutes > 0 && rng.chance(chaos.mutes) {
            worker.mute = true;
            deed = Some("no MOVED any more");
        }
        if let Some(deed) = deed {
            *deeds.entry(deed).or_default() += 1;
            world.note(|| format!("chaos  {deed} of worker {index} for {absence_us} us"));
        }
    }
}

impl Actors for Cast {
    fn wake(&mut self, world: &mut World, actor: u32) {
        let Self { clients, workers, ledger, calm, .. } = self;
        match actor {
            CLIENT_TIMERS.. => {
                clients[(actor - CLIENT_TIMERS) as usize].tick(world, ledger, *calm, actor);
            }
            CLIENTS.. => clients[(actor - CLIENTS) as usize].wake(world, ledger, *calm),
            WORKER_TIMERS.. => {
                self.restart_the_dead(world);
                let Self { workers, ledger, calm, .. } = self;
                workers[(actor - WORKER_TIMERS) as usize].tick(world, ledger, *calm);
            }
            WORKERS.. => workers[(actor - WORKERS) as usize].wake(world, ledger, *calm),
            RETURNS => self.end_absences(world),
            _ => self.run_chaos(world),
        }
    }
}
