//! When a link is dialled. Which addresses there are is the shell's business, and how many of them the
//! core's: it dials one after the other without a pause, and pauses when none of them has answered.

use crate::{
    core::{
        event::LinkDownCause,
        link::{Link, LinkState, hold::Hold},
        shard::ShardCore,
    },
    op::Io,
};

/// Least time that a connect may take, in milliseconds, however many addresses there are: a lost SYN is
/// sent again after a second.
const CONNECT_MS_MIN: u32 = 1_500;

/// How soon a link goes to the addresses that it was just given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redial {
    /// When it is dialled again.
    InTurn,
    /// If it is down, after a first pause at the latest: there is somewhere new to go.
    Soon,
    /// At once; a connection that it has is broken off, and its session goes on over the next one if
    /// the worker is the same.
    Now,
}

/// When a connect is given up at the latest, in milliseconds from its begin: the last address must have
/// its turn within the time of one handshake, if possible.
pub(super) fn connect_ms_max(handshake_timeout_ms: u32, link: &Link) -> u64 {
    let part_ms = handshake_timeout_ms / link.addresses.max(1);
    u64::from(part_ms.max(CONNECT_MS_MIN).min(handshake_timeout_ms))
}

impl ShardCore {
    /// Says how many addresses the driver gives a link in turn; 0: none is known yet, and it is not
    /// dialled until there is one.
    pub fn set_addresses(&mut self, io: &mut impl Io, index: u16, count: usize, redial: Redial) {
        let first_ms = u64::from(self.ctx.cfg.link_redial_ms.0);
        let index = usize::from(index);
        let link = &mut self.links[index];
        let was_lost = link.addresses == 0 && count > 0;
        link.addresses = u32::try_from(count).unwrap_or(u32::MAX);
        link.tries = 0;
        if redial == Redial::Now {
            // What failed at the last address says nothing of the new one.
            link.hold = Hold::default();
        }
        let redial = if was_lost { Redial::Now } else { redial };
        let within_ms = match redial {
            Redial::InTurn => return,
            Redial::Soon => first_ms,
            Redial::Now => 0,
        };
        if link.state == LinkState::Down {
            link.retry_at_ms = link.retry_at_ms.min(self.ctx.now_ms + within_ms);
            link.backoff_ms = 0;
        } else if redial == Redial::Now {
            link.moved = true;
            self.break_link(io, index, LinkDownCause::Moved);
        }
    }

    /// Takes out the links whose TCP connection has gone, or did not come up, since the last call, and
    /// whether it had not come up: then the next address is to be tried.
    pub fn take_broken(&mut self, mut each: impl FnMut(u16, bool)) {
        for index in self.broken.drain(..) {
            each(index, self.links[usize::from(index)].failed);
        }
    }

    /// A link is down: says when it is dialled again.
    pub(super) fn arrange_redial(&mut self, index: usize) {
        let jitter = self.ctx.random_below(1000);
        if !self.broken.contains(&(index as u16)) {
            self.broken.push(index as u16);
        }
        let (first, longest) = self.ctx.cfg.link_redial_ms;
        let link = &mut self.links[index];
        if std::mem::take(&mut link.moved) {
            // What the last address had to wait for is not the next one's fault.
            (link.retry_at_ms, link.backoff_ms, link.tries) = (self.ctx.now_ms, 0, 0);
            return;
        }
        link.tries = if link.failed { link.tries + 1 } else { 0 };
        if link.failed && link.tries < link.addresses {
            // There is another address, which may be well.
            link.retry_at_ms = self.ctx.now_ms + 1;
            return;
        }
        link.tries = 0;
        link.backoff_ms = (link.backoff_ms * 2).clamp(first, longest);
        // Jittered down by up to half, so that shards and gateways do not dial in step.
        let pause = u64::from(link.backoff_ms) * u64::from(1000 - jitter / 2) / 1000;
        link.retry_at_ms = self.ctx.now_ms + pause.max(1);
    }
}
