//! One thread per shard, each with its own ring bank and core.

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use crossbeam_channel::{Receiver, unbounded};

use super::{Worker, listeners::Listening, names::Names};
use crate::{
    config::Config,
    core::{
        Command, CoreConfig, Entropy, pool,
        stats::{LINKS_MAX, ShardStats, Stat},
    },
    event_loop::{Dials, LookUp, MonotonicClock, Request, Shard, ShardHandle, Target, channel},
    op::Driver,
    ring::{self, Features, UringDriver},
};

/// All shards of the process.
#[derive(Debug)]
pub struct Fleet {
    handles: Vec<ShardHandle>,
    threads: Vec<JoinHandle<Result<()>>>,
    /// Configurations sent to each shard.
    configured: AtomicU64,
    /// Whether clients take no file descriptors.
    direct: bool,
}

/// How long a shard may take to run with a configuration; its turns are bounded and short.
const CONFIGURED_WITHIN: Duration = Duration::from_secs(1);

impl Fleet {
    /// Starts the shards, which dial their workers; returns when all of them run. They accept with
    /// [`Command::StartAccepting`].
    pub(super) fn start(
        config: &Config,
        features: &Features,
        core: &CoreConfig,
        workers: &[Worker],
        listeners: &[Listening],
        names: &Names,
    ) -> Result<Self> {
        let mut fleet = Self {
            handles: Vec::new(),
            threads: Vec::new(),
            configured: AtomicU64::new(0),
            direct: features.direct(),
        };
        for index in 0..core.shards {
            let core = CoreConfig { shard: index as u8, ..core.clone() };
            let plan = Plan {
                features: features.clone(),
                ring_slots_max: config.ring_slots_max,
                gather_us_max: config.gather_us_max,
                busy_poll_us_max: config.busy_poll_us_max,
                targets: targets(workers),
                look_up: names.look_up(),
                listeners: listeners.iter().map(|of| of.socket.try_clone()).collect::<Result<_, _>>()?,
                core,
            };
            let (started, start) = mpsc::channel();
            let thread = thread::Builder::new()
                .name(format!("shard-{index}"))
                // The loop needs little, and stacks count as memory per connection, too.
                .stack_size(256 * 1024)
                .spawn(move || plan.run(&started))
                .context("no thread for a shard")?;
            match start.recv() {
                Ok(handle) => fleet.handles.push(handle),
                Err(_) => {
                    let result = thread.join().map_err(|_| anyhow!("shard {index} panicked"))?;
                    fleet.stop()?;
                    return result.and(Err(anyhow!("shard {index} did not start"))).map(|()| unreachable!());
                }
            }
            fleet.threads.push(thread);
        }
        Ok(fleet)
    }

    /// The shards, for the admin side.
    pub fn control(&self) -> Vec<ShardHandle> {
        self.handles.clone()
    }

    /// Sums a figure over all shards.
    pub(super) fn sum(&self, stat: Stat) -> u64 {
        self.handles.iter().map(|handle| handle.stats().get(stat)).sum()
    }

    /// Whether this figure is above 0 on every shard.
    pub(super) fn every_shard_has(&self, stat: Stat) -> bool {
        self.handles.iter().all(|handle| handle.stats().get(stat) > 0)
    }

    /// Has every shard stop accepting and close its listeners. So many will say that they have.
    pub(super) fn close_listeners(&self) -> (Receiver<()>, usize) {
        let (closed, all_closed) = unbounded();
        for handle in &self.handles {
            handle.send(Request::CloseListeners(closed.clone()));
        }
        (all_closed, self.handles.len())
    }

    /// Sends a command to every shard.
    pub(super) fn command(&self, command: &Command) {
        for handle in &self.handles {
            handle.send(Request::Command(command.clone()));
        }
    }

    /// Runs every shard with this from now on.
    pub(super) fn configure(&self, core: &CoreConfig, workers: &[Worker]) {
        let targets = targets(workers);
        for (index, handle) in self.handles.iter().enumerate() {
            let core = CoreConfig { shard: index as u8, ..core.clone() };
            handle.send(Request::Configure(Box::new(core), targets.clone()));
        }
        self.configured.fetch_add(1, Relaxed);
    }

    /// Whether clients take no file descriptors.
    pub(super) fn direct(&self) -> bool {
        self.direct
    }

    /// Whether every shard can have a link to each of these workers, beside the links to workers that
    /// are leaving. What it says holds until the next [`Self::configure`]: workers only leave.
    ///
    /// # Errors
    /// There are too many, or a shard has not yet taken what it was last given.
    pub(super) fn check_room(&self, workers: &[Worker]) -> Result<()> {
        let until = Instant::now() + CONFIGURED_WITHIN;
        let sent = self.configured.load(Relaxed);
        for (index, handle) in self.handles.iter().enumerate() {
            let stats = handle.stats();
            while stats.configured.load(Relaxed) < sent {
                if Instant::now() > until {
                    bail!("shard {index} does not yet run with the last reload; send SIGHUP again");
                }
                thread::sleep(Duration::from_millis(1));
            }
            let is_named = |name: &str| workers.iter().any(|worker| worker.config.name == name);
            let mut others = stats.links();
            others.retain(|link| !is_named(&link.worker));
            if workers.len() + others.len() > LINKS_MAX {
                bail!(
                    "workers: {} are named, and {} that are not named any more, such as {:?}, still have links; \
                     a gateway has links to at most {LINKS_MAX} at a time: name fewer new ones, and more when \
                     those have left",
                    workers.len(),
                    others.len(),
                    &*others[0].worker
                );
            }
        }
        Ok(())
    }

    /// Whether a shard has ended by itself, which it should not.
    pub(super) fn has_ended(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Ends all shards and waits for them.
    pub(super) fn stop(self) -> Result<()> {
        for handle in &self.handles {
            handle.send(Request::Stop);
        }
        for thread in self.threads {
            thread.join().map_err(|_| anyhow!("a shard panicked"))??;
        }
        Ok(())
    }
}

/// Where the workers are, by name, in the order of the links that a shard starts with.
fn targets(workers: &[Worker]) -> Vec<(String, Target)> {
    workers.iter().map(|worker| (worker.config.name.clone(), worker.target.clone())).collect()
}

/// Makes the drivers of all shards and drops them again.
pub(super) fn rehearse(config: &Config, features: &Features, core: &CoreConfig) -> Result<()> {
    let make = |_| {
        let config = ring_config(config.ring_slots_max, config.busy_poll_us_max, core, Vec::new());
        Ok(UringDriver::new(features, config)?)
    };
    (0..core.shards).map(make).collect::<Result<Vec<_>>>().map(drop)
}

fn ring_config(
    slots_max: u32,
    busy_poll_us: u32,
    core: &CoreConfig,
    listeners: Vec<OwnedFd>,
) -> ring::Config {
    ring::Config {
        ring_slots_max: slots_max.min(ring::RING_SLOTS_MAX),
        busy_poll: Duration::from_micros(busy_poll_us.into()),
        ..ring::Config::new(core.slots_max, pool::specs(core), listeners)
    }
}

/// What a shard's thread starts from.
struct Plan {
    features: Features,
    ring_slots_max: u32,
    gather_us_max: u32,
    busy_poll_us_max: u32,
    targets: Vec<(String, Target)>,
    look_up: LookUp,
    listeners: Vec<OwnedFd>,
    core: CoreConfig,
}

impl Plan {
    /// The rings belong to the thread that makes them, so they are made here.
    fn run(self, started: &mpsc::Sender<ShardHandle>) -> Result<()> {
        let config = ring_config(self.ring_slots_max, self.busy_poll_us_max, &self.core, self.listeners);
        let mut driver = UringDriver::new(&self.features, config)?;
        let mut dials = Dials::new(self.look_up);
        dials.start(&mut driver, self.targets);
        let stats = Arc::new(ShardStats::default());
        stats.plain_descriptors.store(!self.features.direct(), Relaxed);
        let (sender, requests) = channel();
        let handle = ShardHandle::new(sender, driver.waker(), Arc::clone(&stats));
        let mut shard = Shard::new(self.core, driver, MonotonicClock::default(), stats, entropy(), requests)
            .gathering_us(self.gather_us_max)
            .dialling(dials);
        shard.turn().context("the ring failed")?;
        if started.send(handle).is_ok() {
            shard.run().context("the ring failed")?;
        }
        Ok(())
    }
}

fn entropy() -> Entropy {
    Box::new(|bytes| getrandom::fill(bytes).expect("the system's random generator does not fail"))
}
