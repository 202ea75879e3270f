//! Which worker has which link. A link's index is a worker's identity within the shard: records,
//! broadcasts and ops know their worker by it. So it goes to another worker only when nothing of the
//! last one is left.

use std::sync::Arc;

use crate::core::{
    config::{CoreConfig, WorkerConfig},
    event::Event,
    link::{Link, tx::TxQueue},
    pool::{Class, link_tx_own_blocks},
    shard::ShardCore,
    stats::LINKS_MAX,
};

impl ShardCore {
    pub(super) fn configure(&mut self, mut cfg: CoreConfig) {
        assert_eq!(cfg.listeners, self.ctx.cfg.listeners, "listeners are made at start");
        (cfg.slots_max, cfg.cap) = (self.ctx.cfg.slots_max, self.ctx.cfg.cap.take());
        self.connections.set_accept_ramp(cfg.accept_ramp_per_s);
        let limits = |cfg: &CoreConfig| (cfg.messages_per_s_max, cfg.control_frames_per_s_max);
        let changed = limits(&cfg) != limits(&self.ctx.cfg);
        self.ctx.cfg = cfg;
        if changed {
            self.connections.allow_anew(&self.ctx);
        }
        self.link_workers();
        self.configured += 1;
        self.start_rebalance();
    }

    /// Gives each worker of the configuration a link, and retires the links of all others.
    pub(super) fn link_workers(&mut self) {
        let named = std::mem::take(&mut self.ctx.cfg.workers);
        for link in &mut self.links {
            link.retired = link.vacant || !named.iter().any(|worker| worker.name == link.name());
        }
        let mut left_out = 0;
        for worker in &named {
            match self.worker_index(&worker.name) {
                Some(index) => self.links[usize::from(index)].secret.clone_from(&worker.secret),
                None => left_out += u32::from(!self.take_link(worker)),
            }
        }
        if left_out > 0 {
            self.ctx.events.push(Event::NoLink { workers: left_out });
        }
        self.ctx.cfg.workers = named;
        let links = self.links.iter().filter(|link| !link.vacant).count();
        self.ctx.pools.allow(&self.ctx.cfg, links);
    }

    /// A link for a new worker; false if all have a worker, or what is left of one.
    fn take_link(&mut self, worker: &WorkerConfig) -> bool {
        let tx = TxQueue::new(self.ctx.pools.block_bytes(Class::LinkTx), link_tx_own_blocks(&self.ctx.cfg));
        let mut link = Link::new(worker, tx);
        let index = match self.links.iter().position(|link| link.vacant) {
            Some(index) => {
                // So that no late completion of the last worker's ops is taken for the new one's.
                link.generation = self.links[index].generation;
                index
            }
            None if self.links.len() < LINKS_MAX => self.links.len(),
            None => return false,
        };
        self.ctx.stats.set_link(index, Some(Arc::clone(&link.stats)));
        match self.links.get_mut(index) {
            Some(vacant) => *vacant = link,
            None => self.links.push(link),
        }
        true
    }

    /// Lets a retired worker's link go when nothing of the worker is left; at the end of a turn, when
    /// all that happened on it has been said.
    pub(super) fn vacate_link(&mut self, index: usize) {
        if self.links[index].is_left() && !self.links[index].vacant && !self.is_broadcasting(index) {
            self.links[index].vacant = true;
            self.ctx.stats.set_link(index, None);
        }
    }

    /// Whether a broadcast to the connections of this worker only is under way.
    pub(super) fn is_broadcasting(&self, index: usize) -> bool {
        self.fanouts.iter().any(|fanout| fanout.only_worker.is_some_and(|only| usize::from(only) == index))
    }

    /// The name of the worker behind a link.
    pub fn worker_name(&self, index: u8) -> &str {
        self.links[usize::from(index)].name()
    }

    /// The link of the worker with this name.
    pub fn worker_index(&self, name: &str) -> Option<u16> {
        let found = self.links.iter().position(|link| !link.vacant && link.name() == name);
        found.map(|index| index as u16)
    }
}
