//! A running gateway: SIGTERM and SIGINT drain, a second one hurries, SIGHUP reloads, and a
//! successor may call.

use std::thread;

use anyhow::{Result, bail};

use super::{
    configured_workers, core_config,
    handover::Successor,
    named,
    running::{LOOK, Running},
};
use crate::{
    config::{Changes, Config, Environment, check, load},
    preflight,
    ring::Features,
};

impl Running<'_> {
    /// Starts to serve, and serves until the gateway has drained. A signal is looked at in every state
    /// of that, and not waited for, so that a shard that died is noticed, too.
    ///
    /// # Errors
    /// It cannot serve, or a shard has ended.
    pub(super) fn serve(&mut self, features: &Features) -> Result<()> {
        loop {
            if self.signals.ends() > 0 {
                return self.end();
            }
            if self.signals.take_reload() {
                self.reload();
            }
            if let Err(error) = self.enter(features) {
                if self.serves() {
                    // Those who came here meanwhile are told; the predecessor has the others.
                    self.drain(true, "")?;
                }
                return Err(error);
            }
            if self.hand_over() {
                // Clients come back to the same address, and find the successor there.
                return self.drain(true, "");
            }
            if self.fleet.has_ended() {
                bail!("a shard has ended unexpectedly; the log has more");
            }
            thread::sleep(LOOK);
        }
    }

    /// The end was asked for.
    fn end(&mut self) -> Result<()> {
        if !self.serves() {
            tracing::info!("ended by a signal before it served");
            return Ok(());
        }
        // A predecessor that hears of the end goes on.
        let predecessor_serves = self.predecessor.take().is_some();
        let successor_serves = self.successor.as_ref().is_some_and(Successor::serves);
        let others_serve = predecessor_serves || successor_serves;
        let to = self.config.drain_to.clone();
        self.drain(others_serve, if others_serve { "" } else { to.as_str() })
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
        if changes.live.is_empty() && changes.at_start.is_empty() {
            tracing::info!("SIGHUP: no key has changed; the files that keys name were read again");
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
}
