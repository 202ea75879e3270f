//! What the simulation's shadow model may see of routing.

use std::collections::BTreeSet;

use super::Routing;
use crate::{
    core::{connection::Connections, context::Context, link::inspect::LinkView},
    op::Token,
};

impl Routing {
    /// Every link.
    pub(crate) fn link_views(&self, ctx: &Context) -> impl Iterator<Item = LinkView> {
        self.links.views(ctx)
    }

    /// The tokens of all ops on links that are believed to be in the kernel.
    pub(crate) fn ops_in_kernel(&self) -> impl Iterator<Item = Token> {
        self.links.ops_in_kernel()
    }

    /// Blocked connections that stand on no list from which they would ever be resumed.
    pub(crate) fn forgotten(&self, connections: &Connections) -> Vec<u32> {
        let lists = self.workers.iter().flat_map(|record| record.blocked.iter().chain(&record.holding));
        let listed: BTreeSet<(u32, u32)> = lists.copied().collect();
        connections.forgotten(|connection| listed.contains(&(connection.slot(), connection.generation())))
    }
}
