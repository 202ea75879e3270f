//! Which worker has which link. A link's index is a worker's identity within the shard: records,
//! broadcasts and ops know their worker by it. So it goes to another worker only when nothing of the
//! last one is left.

use std::sync::Arc;

use super::{Link, LinkState, Links, TxQueue};
use crate::core::{
    config::WorkerConfig,
    context::Context,
    event::Event,
    index::LinkIndex,
    pool::{Class, link_tx_own_blocks},
};

impl Links {
    /// Gives each worker of the configuration a link, and retires the links of all others.
    pub(crate) fn configure(&mut self, ctx: &mut Context) {
        let named = std::mem::take(&mut ctx.cfg.workers);
        for link in &mut self.links {
            link.removed = link.vacant || !named.iter().any(|worker| worker.name == **link.name());
        }
        let mut left_out = 0;
        for worker in &named {
            match self.index_of(&worker.name) {
                Some(index) => self[index].secret.clone_from(&worker.secret),
                None => left_out += u32::from(!self.take_link(ctx, worker)),
            }
        }
        if left_out > 0 {
            ctx.events.push(Event::NoLink { workers: left_out });
        }
        ctx.cfg.workers = named;
        let links = self.links.iter().filter(|link| !link.vacant).count();
        ctx.pools.allow(&ctx.cfg, links);
    }

    /// A link for a new worker; false if all have a worker, or what is left of one.
    fn take_link(&mut self, ctx: &Context, worker: &WorkerConfig) -> bool {
        let vacant = self.iter().find(|(_, link)| link.vacant).map(|(index, _)| index);
        let Some(index) = vacant.or_else(|| LinkIndex::new(self.links.len())) else { return false };
        let tx = TxQueue::new(ctx.pools.block_bytes(Class::LinkTx), link_tx_own_blocks(&ctx.cfg));
        let mut link = Link::new(index, worker, tx);
        ctx.stats.set_link(index.index(), Some(Arc::clone(&link.stats)));
        match self.links.get_mut(index.index()) {
            Some(vacant) => {
                // So that no late completion of the last worker's ops is taken for the new one's.
                link.generation = vacant.generation;
                *vacant = link;
            }
            None => self.links.push(link),
        }
        true
    }

    /// Whether nothing is left here of a worker that is removed, and others may say so too: see
    /// [`Self::vacate`].
    pub(crate) fn may_vacate(&self, index: LinkIndex) -> bool {
        self[index].is_left() && !self[index].vacant
    }

    /// Lets a removed worker's link go when nothing of the worker is left; at the end of a turn, when
    /// all that happened on it has been said.
    pub(crate) fn vacate(&mut self, ctx: &Context, index: LinkIndex) {
        self[index].vacant = true;
        ctx.stats.set_link(index.index(), None);
    }

    /// The link of the worker with this name.
    pub(crate) fn index_of(&self, name: &str) -> Option<LinkIndex> {
        self.iter().find(|(_, link)| !link.vacant && **link.name() == *name).map(|(index, _)| index)
    }
}

impl Link {
    /// Whether the worker is no longer named, and nothing that it was given or has said is left.
    pub(super) fn is_left(&self) -> bool {
        self.removed
            && self.state == LinkState::Down
            && self.ops == 0
            && self.session.is_none()
            && !self.failing_over
            && self.connections == 0
            && self.overflow.is_empty()
            && self.resend.is_empty()
            && self.tx.retained_bytes() == 0
    }
}
