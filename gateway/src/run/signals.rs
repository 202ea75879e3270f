//! A running gateway: SIGTERM and SIGINT drain, a second one hurries, SIGHUP reloads, and a
//! successor may call.

use std::{
    os::fd::OwnedFd,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use super::{Fleet, configured_workers, core_config, handover, named, names::Names};
use crate::{
    admin::Admin,
    config::{Changes, Config, Environment, Options, check, load},
    core::{Command, CoreConfig, stats::Stat},
    logging::LevelHandle,
    preflight,
};

/// How often signals, successors and the progress of a drain are looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How much longer than `drain_ms` a drain may take: sockets linger, links flush.
const GRACE: Duration = Duration::from_secs(3);

/// Everything that signals act on.
pub(super) struct Running<'a> {
    pub(super) config: Config,
    pub(super) core: CoreConfig,
    pub(super) connections_max: u32,
    pub(super) fleet: &'a Fleet,
    pub(super) names: &'a Names,
    pub(super) listeners: &'a [OwnedFd],
    pub(super) will: Option<handover::Will>,
    /// Whom this process has succeeded, until it has let go of the listeners.
    pub(super) predecessor: Option<handover::Predecessor>,
    /// Who has succeeded this process, until it has let go of the listeners.
    pub(super) heir: Option<handover::Heir>,
    /// None while a successor takes over: it wants the same addresses.
    pub(super) admin: Option<Admin>,
    pub(super) options: &'a Options,
    pub(super) log_level: &'a LevelHandle,
}

impl Running<'_> {
    /// Serves signals until the gateway has drained.
    pub(super) fn serve(&mut self) -> Result<()> {
        let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("signals cannot be caught")?;
        loop {
            // Looked at, not waited for, so that a shard that died is noticed, too.
            for signal in signals.pending() {
                match signal {
                    SIGHUP => self.reload(),
                    _ => {
                        let to = self.config.drain_to.clone();
                        return self.drain(&mut signals, to.as_str());
                    }
                }
            }
            if let Some(heir) = self.will.as_ref().and_then(handover::Will::heir)
                && self.hand_over(heir)
            {
                // Clients come back to the same address, and find the successor there.
                return self.drain(&mut signals, "");
            }
            if self.predecessor.as_mut().is_some_and(handover::Predecessor::has_let_go) {
                self.predecessor = None;
                self.fleet.command(&Command::Nudge);
            }
            if self.fleet.has_ended() {
                bail!("a shard has ended unexpectedly; the log has more");
            }
            thread::sleep(LOOK);
        }
    }

    /// Reads the configuration again and runs with what can change; a bad one changes nothing.
    fn reload(&mut self) {
        let read = match load(self.options, &Environment::of_process()) {
            Ok(read) => read,
            Err(error) => return tracing::error!("SIGHUP: nothing changes: {error}"),
        };
        let changes = Changes::between(&self.config, &read.config);
        // What waits for a restart stays as it was, and may contradict what would change now.
        if let Some((keys, message)) = check::contradictions(&changes.config).first() {
            return tracing::error!("SIGHUP: nothing changes: before a restart, {}: {message}", keys[0]);
        }
        if changes.config.workers.is_empty() != self.config.workers.is_empty() {
            return tracing::error!(
                "SIGHUP: nothing changes: between a worker inside and workers outside lies a restart"
            );
        }
        for change in &changes.at_start {
            tracing::warn!("SIGHUP: {change} waits for a restart");
        }
        if let Err(error) = self.apply(&changes.config) {
            return tracing::error!("SIGHUP: nothing changes: {error:#}");
        }
        for change in &changes.live {
            tracing::info!("SIGHUP: {change}");
        }
        self.log_level.set(changes.config.log_level);
        self.config = changes.config;
    }

    fn apply(&mut self, config: &Config) -> Result<()> {
        let workers = configured_workers(config)?;
        self.fleet.check_room(&workers)?;
        preflight::check_reload(config, self.core.shards, self.connections_max, self.fleet.direct())?;
        let mut core = core_config(config, self.core.shards, self.connections_max, &workers)?;
        if workers.is_empty() {
            core.workers.clone_from(&self.core.workers);
        }
        // What stands for this run stays.
        core.gateway = self.core.gateway;
        core.slots_max = self.core.slots_max;
        if let Some(per_ip) = &self.core.per_ip {
            per_ip.set_max(config.per_ip_max);
            core.per_ip = Some(per_ip.clone());
        }
        self.fleet.configure(&core, &workers);
        self.names.want(named(&workers));
        self.core = core;
        Ok(())
    }

    /// Returns whether a successor has taken over.
    fn hand_over(&mut self, mut heir: handover::Heir) -> bool {
        tracing::info!("a successor asks for the listeners");
        self.admin = None;
        let Err(error) = heir.hand_over(self.listeners) else {
            self.heir = Some(heir);
            return true;
        };
        tracing::error!(%error, "the hand-over failed; this process goes on");
        match Admin::start(&self.config, self.fleet.control()) {
            Ok(admin) => self.admin = Some(admin),
            Err(error) => tracing::error!("no metrics from here on: {error:#}"),
        }
        false
    }

    fn drain(&mut self, signals: &mut Signals, to: &str) -> Result<()> {
        let to: Arc<str> = Arc::from(to);
        if let Some(admin) = &self.admin {
            admin.set_ready(false);
        }
        let over_ms = self.drain_over_ms();
        tracing::info!(over_ms, connections = self.fleet.sum(Stat::Connections), "draining");
        self.fleet.command(&Command::Drain { over_ms, to: to.clone() });
        let mut until = Instant::now() + Duration::from_millis(u64::from(over_ms)) + GRACE;
        let mut hurried = false;
        while Instant::now() < until {
            let left = self.fleet.sum(Stat::Connections);
            let armed = self.fleet.sum(Stat::AcceptsArmed);
            if armed == 0 {
                self.heir = None;
            }
            if left == 0 && armed == 0 && self.fleet.sum(Stat::LinkRetainedBytes) == 0 {
                tracing::info!("drained");
                return Ok(());
            }
            if signals.pending().any(|signal| signal != SIGHUP) && !hurried {
                tracing::info!(left, "hurrying");
                hurried = true;
                self.fleet.command(&Command::Drain { over_ms: 0, to: to.clone() });
                until = Instant::now() + GRACE;
            }
            thread::sleep(LOOK);
        }
        let left = self.fleet.sum(Stat::Connections);
        tracing::warn!(left, "the drain's time is over: the rest is closed");
        Ok(())
    }

    /// Over how long GOAWAYs are spread: `drain_ms`, or longer where the rate asks for it.
    fn drain_over_ms(&self) -> u32 {
        let at_rate_ms = match self.config.drain_rate_per_s {
            0 => 0,
            rate => self.fleet.sum(Stat::Connections) * 1000 / u64::from(rate),
        };
        self.config.drain_ms.max(u32::try_from(at_rate_ms).unwrap_or(u32::MAX))
    }
}
