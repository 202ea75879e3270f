//! When a link is dialled. Which addresses there are is the shell's business, and how many of them the
//! core's: it dials one after the other without a pause, and pauses when none of them has answered.

use super::{Hold, Link, LinkState, Rx, state::kind, state::op_bit};
use crate::{
    core::{
        context::Context,
        event::{Event, LinkDownCause},
        stats::{Stat, bump},
    },
    op::{Io, Op},
};

/// Least time that a connect may take, in milliseconds, however many addresses there are: a lost SYN is
/// sent again after a second.
const CONNECT_MS_MIN: u32 = 1_500;

/// Causes of failed attempts that are remembered, at most.
const CAUSES_MAX: u32 = 8;
/// Failed attempts after which one of a known cause is news again; then after twice as many, and so on.
const FAILURES_AGAIN: u32 = 8;

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

impl Link {
    /// Dials.
    pub(super) fn connect(&mut self, io: &mut impl Io, now_ms: u64) {
        self.set_state(LinkState::Connecting);
        self.since_ms = now_ms;
        self.submit(io, kind::CONNECT, Op::Connect { link: self.index.get() });
    }

    /// When a connect is given up at the latest, in milliseconds from its begin: the last address must
    /// have its turn within the time of one handshake, if possible.
    pub(super) fn connect_ms_max(&self, handshake_timeout_ms: u32) -> u64 {
        let part_ms = handshake_timeout_ms / self.addresses.max(1);
        u64::from(part_ms.max(CONNECT_MS_MIN).min(handshake_timeout_ms))
    }

    /// Says how many addresses the driver gives the link in turn; 0: none is known yet, and it is not
    /// dialled until there is one.
    pub(super) fn set_addresses(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        count: usize,
        redial: Redial,
    ) {
        let first_ms = u64::from(ctx.cfg.link_redial_ms.0);
        let was_lost = self.addresses == 0 && count > 0;
        self.addresses = u32::try_from(count).unwrap_or(u32::MAX);
        self.tries = 0;
        if redial == Redial::Now {
            // What failed at the last address says nothing of the new one.
            self.hold = Hold::default();
        }
        let redial = if was_lost { Redial::Now } else { redial };
        let within_ms = match redial {
            Redial::InTurn => return,
            Redial::Soon => first_ms,
            Redial::Now => 0,
        };
        if self.state == LinkState::Down {
            self.retry_at_ms = self.retry_at_ms.min(ctx.now_ms + within_ms);
            self.backoff_ms = 0;
        } else if redial == Redial::Now {
            self.readdressed = true;
            self.break_off(io, ctx, LinkDownCause::Moved);
        }
    }

    /// The TCP connection is of no more use; the session stays.
    pub(super) fn break_off(&mut self, io: &mut impl Io, ctx: &mut Context, cause: LinkDownCause) {
        if matches!(self.state, LinkState::Down | LinkState::Closing) {
            return;
        }
        let was_up = self.state == LinkState::Up;
        if was_up && ctx.now_ms - self.up_at_ms >= u64::from(ctx.cfg.link_redial_ms.1) {
            // One that comes up only to go down again is not dialled as if all were well.
            self.backoff_ms = 0;
        }
        self.report_down(ctx, cause, was_up);
        self.set_state(LinkState::Closing);
        self.join(io);
    }

    /// Counts and tells that the TCP connection is gone, or did not come up.
    pub(super) fn report_down(&mut self, ctx: &mut Context, cause: LinkDownCause, was_up: bool) {
        self.failed = !was_up;
        // Without an address it was not dialled at all; whoever looks for one says why there is none.
        if was_up || self.addresses > 0 {
            ctx.stats.inc(Stat::LinkBreaks);
            bump(&self.stats.breaks, 1);
            if let Some(failures) = self.is_news(cause) {
                let worker = self.index.worker().get();
                ctx.events.push(Event::LinkDown { worker, cause, was_up, failures });
            }
        }
    }

    /// A worker that cannot be reached is dialled for ever: it is news when the cause changes, and now
    /// and then. Gives, if it is, how many attempts have failed since the link was up.
    fn is_news(&mut self, cause: LinkDownCause) -> Option<u32> {
        if self.state == LinkState::Up {
            return Some(0);
        }
        self.failures = self.failures.saturating_add(1);
        if self.reported.contains(&cause) {
            let again = self.failures >= FAILURES_AGAIN && self.failures.is_power_of_two();
            return again.then_some(self.failures);
        }
        // Each address may fail in its own way.
        self.reported.truncate((self.addresses.clamp(1, CAUSES_MAX) - 1) as usize);
        self.reported.push_front(cause);
        Some(self.failures)
    }

    /// Cancels what waits in the kernel, or closes the socket when nothing does.
    pub(super) fn join(&mut self, io: &mut impl Io) {
        let sock = self.sock();
        if self.ops == 0 {
            self.submit(io, kind::CLOSE, Op::Close { sock });
        } else if self.ops & op_bit::CANCEL == 0 {
            let target = match self.ops {
                ops if ops & op_bit::CONNECT != 0 => kind::CONNECT,
                ops if ops & op_bit::RECV != 0 => kind::RECV,
                _ => kind::SEND,
            };
            let target = self.token(target);
            self.submit(io, kind::CANCEL, Op::Cancel { sock, target });
        }
    }

    /// The socket is closed: says when the link is dialled again.
    pub(super) fn on_closed(&mut self, ctx: &mut Context) {
        assert_eq!(self.ops, 0, "invariant join-before-close: a link is closed only when its ops are joined");
        self.set_state(LinkState::Down);
        self.generation = self.generation.wrapping_add(1);
        (self.hello, self.welcome) = (None, None);
        self.control.clear();
        if let Some((block, ..)) = self.control_send.take() {
            ctx.pools.release(block);
        }
        if let Some(block) = self.rx.block.take() {
            ctx.pools.release(block);
        }
        self.rx = Rx::default();
        self.arrange_redial(ctx);
    }

    fn arrange_redial(&mut self, ctx: &mut Context) {
        let jitter = ctx.random_below(1000);
        let (first, longest) = ctx.cfg.link_redial_ms;
        if std::mem::take(&mut self.readdressed) {
            // What the last address had to wait for is not the next one's fault.
            (self.retry_at_ms, self.backoff_ms, self.tries) = (ctx.now_ms, 0, 0);
            return;
        }
        self.tries = if self.failed { self.tries + 1 } else { 0 };
        if self.failed && self.tries < self.addresses {
            // There is another address, which may be well.
            self.retry_at_ms = ctx.now_ms + 1;
            return;
        }
        self.tries = 0;
        self.backoff_ms = (self.backoff_ms * 2).clamp(first, longest);
        // Jittered down by up to half, so that shards and gateways do not dial in step.
        let pause = u64::from(self.backoff_ms) * u64::from(1000 - jitter / 2) / 1000;
        self.retry_at_ms = ctx.now_ms + pause.max(1);
    }
}
