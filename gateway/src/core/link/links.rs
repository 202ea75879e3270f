//! All links of a shard, and what happens when an op of one completes.

use std::{
    ops::{Index, IndexMut},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use super::{Link, LinkState, Redial, state, state::kind};
use crate::{
    core::{
        context::Context,
        event::LinkDownCause,
        index::LinkIndex,
        stats::{LinkStats, Stat},
    },
    op::{Io, Token},
};

/// Whether a token is that of an op on a link.
#[inline]
pub(crate) fn is_link_op(token: Token) -> bool {
    token.kind() >= kind::CONNECT
}

/// The links of a shard, by index.
#[derive(Debug, Default)]
pub(crate) struct Links {
    pub(super) links: Vec<Link>,
    /// Links whose TCP connection has gone since [`Self::take_broken`] was last called.
    broken: Vec<LinkIndex>,
    /// Sessions that have begun, on all links.
    sessions: u64,
}

impl Index<LinkIndex> for Links {
    type Output = Link;

    #[inline]
    fn index(&self, index: LinkIndex) -> &Link {
        &self.links[index.index()]
    }
}

impl IndexMut<LinkIndex> for Links {
    #[inline]
    fn index_mut(&mut self, index: LinkIndex) -> &mut Link {
        &mut self.links[index.index()]
    }
}

impl Links {
    /// The links there are, vacant ones included; the list does not shrink.
    pub(crate) fn indices(&self) -> impl Iterator<Item = LinkIndex> + use<> {
        (0..self.links.len()).map_while(LinkIndex::new)
    }

    /// Every link with its index.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (LinkIndex, &Link)> {
        self.links.iter().map(|link| (link.index, link))
    }

    /// Whether connections of this link's worker can go to another one that is up.
    pub(super) fn others_serve(&self, index: LinkIndex) -> bool {
        self.iter().any(|(other, link)| other != index && link.state == LinkState::Up && link.is_routable())
    }

    /// Acts on a completion. Returns the link if bytes have come on it: see [`Self::next_frame`].
    pub(crate) fn on_completion(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        token: Token,
        result: i32,
    ) -> Option<LinkIndex> {
        let link = self.links.get_mut(token.index() as usize);
        let Some(link) = link.filter(|link| link.generation == token.generation()) else {
            ctx.stats.inc(Stat::LateCompletions);
            return None;
        };
        let index = link.index;
        let bit = state::bit_of(token.kind());
        assert!(
            link.ops & bit != 0,
            "invariant op-bits: {token:?} completes an op that is not in the kernel"
        );
        link.ops &= !bit;
        if token.kind() == kind::SEND {
            // Even while closing: what TCP has taken must be known before the session resumes.
            link.on_sent(ctx, result);
        }
        if token.kind() == kind::CLOSE {
            self.on_closed(ctx, index);
            return None;
        }
        match (link.state, token.kind()) {
            (LinkState::Closing, _) => link.join(io),
            (LinkState::Refusing, kind) => link.on_refusing(io, ctx, kind, result),
            (_, kind::CONNECT) => link.on_connect(io, ctx, result),
            (_, kind::RECV) => return link.on_recv(io, ctx, result).then_some(index),
            (_, kind::SEND) if result <= 0 => {
                link.break_off(io, ctx, LinkDownCause::Io { errno: -result });
            }
            _ => {}
        }
        None
    }

    /// A session begins with the worker that the link has come up with. An older one has ended by
    /// [`Self::end_session`].
    pub(crate) fn begin_session(&mut self, ctx: &mut Context, index: LinkIndex) {
        self.sessions += 1;
        // Shard, number and link; no two sessions of a gateway share all three. What it is made of is
        // hidden, so that nobody counts on it, and so that another gateway's origins name nothing here.
        let hidden = ctx.cfg.gateway.0.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
        let plain = u64::from(ctx.cfg.shard) << 56 | (self.sessions << 24) >> 16 | u64::from(index.get());
        self[index].begin_session(ctx, plain ^ hidden);
    }

    /// The link whose worker's session has this origin, if there is one.
    pub(crate) fn with_origin(&self, origin: u64) -> Option<LinkIndex> {
        let is_its_own = |link: &&Link| link.session.is_some_and(|session| session.origin == origin);
        self.links.iter().find(is_its_own).map(|link| link.index)
    }

    fn on_closed(&mut self, ctx: &mut Context, index: LinkIndex) {
        self[index].on_closed(ctx);
        if !self.broken.contains(&index) {
            self.broken.push(index);
        }
    }

    /// Takes out the links whose TCP connection has gone, or did not come up, since the last call, and
    /// whether it had not come up: then the next address is to be tried.
    pub(crate) fn take_broken(&mut self, mut each: impl FnMut(u16, bool)) {
        for index in self.broken.drain(..) {
            each(index.get(), self.links[index.index()].failed);
        }
    }

    /// Says how many addresses the driver gives a link in turn; see [`Redial`].
    pub(crate) fn set_addresses(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        index: u16,
        count: usize,
        redial: Redial,
    ) {
        self.links[usize::from(index)].set_addresses(io, ctx, count, redial);
    }

    /// Sends what waits, on every link.
    pub(crate) fn flush(&mut self, io: &mut impl Io, ctx: &mut Context) {
        for link in &mut self.links {
            link.flush(io, ctx);
        }
    }

    /// Publishes the figures of links. `blocked`: connections that wait for one. Returns the bytes that
    /// all of them retain.
    pub(crate) fn publish(&self, ctx: &Context, blocked: impl Fn(LinkIndex) -> usize) -> u64 {
        let mut up = 0;
        let mut retained_bytes = 0;
        for (index, link) in self.iter().filter(|(_, link)| !link.vacant) {
            up += u64::from(link.state == LinkState::Up);
            retained_bytes += link.retained_bytes();
            link.publish(&link.stats);
            link.stats.blocked.store(blocked(index) as u64, Relaxed);
        }
        ctx.stats.set(Stat::LinksUp, up);
        retained_bytes
    }
}

impl Link {
    /// Bytes that are queued or not yet acknowledged, those included that wait to be sent again.
    pub(super) fn retained_bytes(&self) -> u64 {
        self.tx.retained_bytes() + self.resend.bytes()
    }

    fn publish(&self, stats: &Arc<LinkStats>) {
        stats.state.store(self.state as u64, Relaxed);
        stats.draining.store(u64::from(self.draining), Relaxed);
        stats.window_bytes.store(self.session.map_or(0, |s| u64::from(s.window_bytes)), Relaxed);
        stats.retained_bytes.store(self.retained_bytes(), Relaxed);
        stats.lag_frames.store(self.tx.lag_frames(), Relaxed);
        stats.connections.store(u64::from(self.connections), Relaxed);
        stats.failures.store(u64::from(self.failures), Relaxed);
    }
}
