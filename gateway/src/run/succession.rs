//! The two ends of a hand-over as states of the control loop: neither waits for the other, and a signal
//! is served in each of them.

use std::{
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    handover::{Offer, Predecessor, Progress, Said, TRIAL},
    running::{Entry, Running},
};
use crate::{
    core::{Command, stats::Stat},
    preflight::{self, GivenBack},
    ring::Features,
};

/// How long a predecessor may take to say that this process may serve.
const GO_WITHIN: Duration = Duration::from_secs(10);

impl Running<'_> {
    pub(super) fn serves(&self) -> bool {
        matches!(self.entry, Entry::Serves { .. })
    }

    /// Goes on with this process's own start.
    ///
    /// # Errors
    /// It cannot serve, or must not: the predecessor goes on.
    pub(super) fn enter(&mut self, features: &Features) -> Result<()> {
        let Some(predecessor) = &mut self.predecessor else {
            return if self.serves() { Ok(()) } else { self.open(features) };
        };
        match predecessor.said() {
            Said::Nothing => {}
            Said::Go if matches!(self.entry, Entry::Asks { .. }) => self.serve_clients()?,
            Said::Go => bail!("the running gateway speaks out of turn"),
            Said::Released => return self.inherit(features),
            Said::No(reason) => bail!("the running gateway goes on: {reason}"),
        }
        let now = Instant::now();
        match &mut self.entry {
            Entry::WaitsForWorker { until } => {
                let until = *until;
                if self.fleet.every_shard_has(Stat::LinksUp) {
                    self.listen()?;
                    self.say_banner(features).context("the banner cannot be written to standard output")?;
                    self.predecessor.as_mut().map(Predecessor::ready);
                    self.entry = Entry::Asks { until: now + GO_WITHIN };
                } else if now >= until {
                    bail!(
                        "no worker was up within handover_worker_wait_ms = {}: start a worker that this gateway \
                         can reach, or correct `workers`; the running gateway serves on",
                        self.config.handover_worker_wait_ms
                    );
                }
            }
            Entry::Asks { until } if now >= *until => {
                bail!(
                    "the running gateway has not answered within {GO_WITHIN:?}; this process leaves it alone"
                );
            }
            Entry::Serves { since, said_alive: said @ false } if since.elapsed() >= TRIAL => {
                *said = true;
                self.predecessor.as_mut().map(Predecessor::alive);
            }
            Entry::Asks { .. } | Entry::Serves { .. } => {}
        }
        Ok(())
    }

    /// There is no predecessor: serves at once.
    fn open(&mut self, features: &Features) -> Result<()> {
        self.listen()?;
        if let Err(error) = self.say_banner(features) {
            tracing::warn!(%error, "the banner cannot be written to standard output");
        }
        self.serve_clients()
    }

    /// The predecessor does not accept any more, or is gone.
    fn inherit(&mut self, features: &Features) -> Result<()> {
        self.predecessor = None;
        if !self.serves() {
            tracing::warn!("the running gateway has ended before this process was ready; it serves now");
            self.open(features)?;
        }
        let inherited = std::mem::take(&mut self.admin_sockets.inherited);
        self.admin.as_mut().map(|admin| admin.serve(inherited)).transpose()?;
        // A wake-up that was meant for an accept of the predecessor may be lost.
        self.fleet.command(&Command::Rescan);
        tracing::info!("the predecessor has let go: this process serves alone");
        Ok(())
    }

    fn serve_clients(&mut self) -> Result<()> {
        let own = std::mem::take(&mut self.admin_sockets.own);
        self.admin.as_mut().map(|admin| admin.serve(own)).transpose()?;
        self.fleet.command(&Command::StartAccepting);
        self.entry = Entry::Serves { since: Instant::now(), said_alive: false };
        // Only a service manager listens to this; without one it does nothing. It follows the process
        // that serves, which it need not have started itself.
        let main = sd_notify::NotifyState::MainPid(std::process::id());
        drop(sd_notify::notify(&[main, sd_notify::NotifyState::Ready]));
        Ok(())
    }

    /// From here on clients can connect: whatever this start could have failed at is done.
    fn listen(&self) -> Result<()> {
        self.listeners.iter().try_for_each(|listener| listener.start(&self.config))?;
        self.admin_sockets.own.iter().try_for_each(crate::admin::listen)
    }

    fn say_banner(&self, features: &Features) -> std::io::Result<()> {
        let clients: Vec<_> = self.listeners.iter().map(|listener| listener.address).collect();
        let names: Vec<_> = self.config.workers.iter().map(ToString::to_string).collect();
        let admin = self.admin_sockets.addresses();
        let capacity = (self.connections_max, &self.capacity);
        // A full disk or a closed pipe is a reason to leave the running gateway alone, and none not to serve.
        let must_be_read = self.predecessor.is_some();
        preflight::banner(&self.config, features, capacity, &clients, &admin, &names, must_be_read)
    }

    /// Goes on with the start of a successor. Returns whether it has taken over.
    pub(super) fn hand_over(&mut self) -> bool {
        if !self.serves() || self.predecessor.is_some() {
            return false;
        }
        // One that has ended makes room for those who call now.
        let lives = self.look_at_successor();
        if !lives {
            self.answer_callers();
        }
        lives
    }

    fn answer_callers(&mut self) {
        let callers = self.server.as_mut().map(|server| server.successors()).unwrap_or_default();
        for mut caller in callers {
            if self.successor.is_some() {
                caller.refuse("another process is succeeding it");
                continue;
            }
            tracing::info!("a successor asks for the listeners");
            match caller.offer(&self.offer(), &self.sockets()) {
                Ok(()) => self.successor = Some(caller),
                Err(error) => tracing::error!("the hand-over failed: {error:#}; this process goes on"),
            }
        }
    }

    /// Whether the successor has served for long enough.
    fn look_at_successor(&mut self) -> bool {
        let Some(successor) = &mut self.successor else { return false };
        match successor.progress() {
            Progress::Waits => false,
            Progress::Serves => {
                tracing::info!(
                    "the successor serves; this process does, too, until it has done so for a moment"
                );
                false
            }
            Progress::Lives => true,
            Progress::Failed(why) => {
                tracing::error!("the hand-over failed: {why}; this process goes on");
                self.successor = None;
                // It may have taken a wake-up with it.
                self.fleet.command(&Command::Rescan);
                false
            }
        }
    }

    fn offer(&self) -> Offer {
        let connections = self.fleet.sum(Stat::Connections);
        let capacity = self.config.connections_max.value().is_none().then_some(self.connections_max);
        Offer {
            listeners: self.listeners.iter().map(|listener| listener.offered).collect(),
            admin_listeners: self.admin.as_ref().map_or(0, |admin| admin.listeners().len()),
            gives_back: GivenBack::of_this_process(connections, capacity),
            ..Offer::default()
        }
    }

    /// In the order of the offer.
    fn sockets(&self) -> Vec<BorrowedFd<'_>> {
        let clients = self.listeners.iter().map(|listener| listener.socket.as_fd());
        let admin = self.admin.iter().flat_map(|admin| admin.listeners()).map(AsFd::as_fd);
        clients.chain(admin).chain(self.server.iter().map(|server| server.socket())).collect()
    }
}
