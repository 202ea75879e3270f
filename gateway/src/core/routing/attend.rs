//! Links are looked at once per turn: what is due on them, and whether their sessions have ended.

use super::{Routing, WorkerRecord};
use crate::{
    core::{connection::Connections, context::Context, index::LinkIndex, record::flag},
    op::Io,
};

impl Routing {
    /// Dials the workers whose turn it is, probes silent links, and gives up the dead.
    pub(crate) fn attend_links(&mut self, io: &mut impl Io, ctx: &mut Context, connections: &Connections) {
        for index in self.links.indices() {
            let link = &mut self.links[index];
            link.note_unread(ctx.now_ms);
            if link.is_calm(ctx) {
                continue;
            }
            link.drop_moves(|connection| {
                connections.find(connection).is_some_and(|slot| connections.hot(slot).has(flag::MOVING))
            });
            link.judge_moves(ctx);
            if link.judge_draining(ctx) {
                self.start_rebalance();
            }
            if let Some(unacked) = self.links.end_gone_session(io, ctx, index) {
                self.fail_over(ctx, connections, index.worker(), &unacked);
            }
            let had_session = self.links[index].has_session();
            self.links.attend(io, ctx, index);
            if had_session && !self.links[index].has_session() {
                // Of one that is removed, which counted as up if all others want to leave.
                self.owners.forget();
            }
            if self.links.may_vacate(index) && self.is_left(index) {
                self.links.vacate(ctx, index);
                self.workers[index.index()] = WorkerRecord::new();
            }
        }
    }

    /// Gives up the link with the most of what queues share, when that is nearly used up.
    pub(crate) fn shed_links(&mut self, ctx: &mut Context) {
        self.links.shed(ctx);
    }

    /// Whether no connection waits for the link's worker, and no broadcast is under way to its own.
    pub(super) fn is_left(&self, index: LinkIndex) -> bool {
        let worker = index.worker();
        let broadcasting = self.broadcasts.iter().any(|broadcast| broadcast.only_worker == Some(worker));
        self.record(worker).blocked_count() == 0 && !broadcasting
    }

    /// When links or connections without a worker next need attention.
    pub(crate) fn next_deadline_ms(&self, ctx: &Context) -> u64 {
        let links_ms = self.links.next_deadline_ms(ctx);
        let no_worker_ms = self.no_worker_due_ms(ctx).unwrap_or(u64::MAX);
        links_ms.min(no_worker_ms).max(ctx.now_ms + 1)
    }
}
