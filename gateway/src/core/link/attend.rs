//! What is due on a link, looked at once per turn: dials, probes, deadlines, the end of sessions.

use roost_protocol::link::{Header, LinkType};

use super::{Link, LinkState, Links, NO_CONNECTION, handshake::REFUSE_LINGER_MS, state::op_bit};
use crate::{
    core::{
        config::CoreConfig,
        context::Context,
        event::{Event, LinkDownCause, LinkStep},
        index::LinkIndex,
        stats::{Stat, bump},
    },
    op::Io,
};

impl Links {
    /// Gives up a link's session if its worker is gone, as soon as nothing of it is in the kernel.
    /// Returns what [`Self::end_session`] does.
    pub(crate) fn end_gone_session(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        index: LinkIndex,
    ) -> Option<Vec<u8>> {
        let link = &mut self[index];
        if link.session.is_none() || !link.is_gone(&ctx.cfg, ctx.now_ms) {
            return None;
        }
        // In a refusal nothing that the session retains is in the kernel, and LINK_REFUSE is to arrive.
        if link.state != LinkState::Refusing {
            // Fencing: what a worker that was only stopped says later must not be heard. And
            // the kernel may still be sending from what the session retains: join first.
            let cause = match () {
                () if link.poisoned => LinkDownCause::Poisoned,
                () if link.moves_overdue => LinkDownCause::MovesOverdue,
                () if link.makes_way && link.removed => LinkDownCause::Removed,
                () => LinkDownCause::Silent(link.silent_ms(ctx.now_ms)),
            };
            link.break_off(io, ctx, cause);
            if link.state != LinkState::Down {
                return None;
            }
        }
        Some(self.end_session(io, ctx, index))
    }

    /// Ends a link's session. Returns the whole frames that its worker had not acknowledged, one behind
    /// the other: they and the worker's connections go to others. Until [`Link::end_failover`] the link
    /// takes no frames.
    pub(crate) fn end_session(&mut self, io: &impl Io, ctx: &mut Context, index: LinkIndex) -> Vec<u8> {
        let worker = index.worker().get();
        let others_serve = self.others_serve(index);
        let link = &mut self[index];
        ctx.stats.inc(Stat::LinkFailovers);
        bump(&link.stats.failovers, 1);
        ctx.events.push(Event::Failover { worker, connections: link.connections });
        // To lose an idle worker costs nobody anything; and one that makes room is not at fault.
        let at_fault = (link.connections > 0 || link.tx.lag_frames() > 0) && !link.makes_way;
        let lasted_ms = ctx.now_ms - link.began_at_ms;
        if at_fault
            && let Some(pause_ms) = link.hold.given_up(ctx.now_ms, lasted_ms, ctx.cfg.link_hold_ms)
            && others_serve
        {
            ctx.events.push(Event::HeldDown { worker, times: link.hold.times(), pause_ms });
        }
        link.session = None;
        (link.error_position, link.poisoned, link.overrun) = (None, false, false);
        (link.session_lost, link.makes_way, link.moves_overdue) = (false, false, false);
        link.moves.clear();
        link.failing_over = true;
        let mut unacked = link.tx.take_unacked(io, &mut ctx.pools);
        unacked.append(&mut link.overflow);
        unacked.append(&mut link.resend.take());
        unacked
    }

    /// Whether a worker that is held down is to be left alone: somebody else must serve meanwhile.
    fn is_held(&self, index: LinkIndex, now_ms: u64) -> bool {
        now_ms < self[index].hold.until_ms() && self.others_serve(index)
    }

    /// Dials the worker if it is its turn, probes a silent one, and breaks off what takes too long.
    pub(crate) fn attend(&mut self, io: &mut impl Io, ctx: &mut Context, index: LinkIndex) {
        let held = self[index].state == LinkState::Down && self.is_held(index, ctx.now_ms);
        let link = &mut self[index];
        if link.is_done() {
            link.break_off(io, ctx, LinkDownCause::Removed);
            if link.state == LinkState::Down && link.session.take().is_some() {
                // Named again, the worker gets a new session, which counts anew.
                link.tx.take_unacked(io, &mut ctx.pools);
            }
            return;
        }
        if ctx.now_ms < link.due_ms(&ctx.cfg) {
            return;
        }
        match link.state {
            LinkState::Down if held => {}
            LinkState::Down => link.connect(io, ctx.now_ms),
            LinkState::Connecting => link.break_off(io, ctx, LinkDownCause::Late(LinkStep::Connect)),
            LinkState::Handshaking => link.break_off(io, ctx, LinkDownCause::Late(LinkStep::Welcome)),
            LinkState::Proving => link.break_off(io, ctx, LinkDownCause::Late(LinkStep::FirstFrame)),
            LinkState::Refusing => link.end_refusal(io),
            LinkState::Up => link.probe(io, ctx),
            LinkState::Closing => {}
        }
    }

    /// When a link next needs attention.
    pub(crate) fn next_deadline_ms(&self, ctx: &Context) -> u64 {
        let (cfg, now_ms) = (&ctx.cfg, ctx.now_ms);
        let deadline = |(index, link): (LinkIndex, &Link)| {
            let mut at = link.due_ms(cfg);
            if link.state == LinkState::Down && self.is_held(index, now_ms) {
                // Sooner if the others stop serving; but then there is a turn.
                at = at.max(link.hold.until_ms());
            }
            if link.state == LinkState::Up {
                at = at.min(link.moves.due_ms(cfg.link_failover_ms).unwrap_or(u64::MAX));
                at = at.min(link.undrains_at_ms.unwrap_or(u64::MAX));
                at = at.min(link.lone_ack_due_ms(cfg).unwrap_or(u64::MAX));
            }
            if link.session.is_some() && link.state != LinkState::Closing {
                at = at.min(link.heard_at_ms + u64::from(cfg.link_failover_ms));
            }
            at
        };
        self.iter().map(deadline).min().unwrap_or(u64::MAX)
    }
}

impl Link {
    /// How long the worker has not been heard, in milliseconds.
    fn silent_ms(&self, now_ms: u64) -> u32 {
        u32::try_from(now_ms.saturating_sub(self.heard_at_ms)).unwrap_or(u32::MAX)
    }

    /// Whether the worker is to be given up.
    pub(super) fn is_gone(&self, cfg: &CoreConfig, now_ms: u64) -> bool {
        self.silent_ms(now_ms) >= cfg.link_failover_ms
            || self.poisoned
            || self.overrun
            || self.moves_overdue
            // While the handshake lasts, the worker's new session may replace the lost one.
            || self.session_lost && self.state != LinkState::Proving
            || self.makes_way && self.removed && self.tx.lag_frames() == 0
    }

    /// Whether nothing is to be done for the link in this turn: it is up and wanted, its worker has been
    /// heard lately, and nothing is awaited of it.
    pub(crate) fn is_calm(&self, ctx: &Context) -> bool {
        let marked = self.removed
            | self.poisoned
            | self.overrun
            | self.moves_overdue
            | self.session_lost
            | self.makes_way;
        self.state == LinkState::Up
            && !marked
            && self.moves.len() == 0
            && self.undrains_at_ms.is_none()
            // A worker is probed long before it counts as gone; but who was, may be by now.
            && ctx.now_ms < self.heard_at_ms.max(self.pinged_at_ms) + u64::from(keepalive_ms(&ctx.cfg))
            && self.silent_ms(ctx.now_ms) < ctx.cfg.link_failover_ms
    }

    /// Whether the worker is no longer named, has no connections, and has all that was for it.
    fn is_done(&self) -> bool {
        self.removed && self.connections == 0 && self.tx.lag_frames() == 0 && self.resend.is_empty()
    }

    /// Who is not read is not silent: frames may wait for a broadcast to end, for a block, for their turn.
    pub(crate) fn note_unread(&mut self, now_ms: u64) {
        if self.state == LinkState::Up && self.ops & op_bit::RECV == 0 {
            self.heard_at_ms = now_ms;
        }
    }

    /// Gives a worker up that does not answer for a connection that it was to let go: its client is
    /// not read.
    pub(crate) fn judge_moves(&mut self, ctx: &Context) {
        let due_ms = self.moves.due_ms(ctx.cfg.link_failover_ms);
        // Without a TCP connection it cannot answer; how long that may last has its own limit.
        self.moves_overdue |=
            self.state == LinkState::Up && due_ms.is_some_and(|due_ms| ctx.now_ms >= due_ms);
    }

    /// The worker wants to leave. Returns whether that is new.
    pub(crate) fn start_draining(&mut self, ctx: &mut Context) -> bool {
        self.undrains_at_ms = None;
        self.set_draining(ctx, true)
    }

    /// DRAINING holds for the TCP connection that it came on. A worker that goes on draining says so
    /// again; until it could have, it is believed to. Returns whether it no longer is.
    pub(crate) fn judge_draining(&mut self, ctx: &mut Context) -> bool {
        let due = self.state == LinkState::Up && self.undrains_at_ms.is_some_and(|at_ms| ctx.now_ms >= at_ms);
        if due {
            self.undrains_at_ms = None;
        }
        due && self.set_draining(ctx, false)
    }

    fn set_draining(&mut self, ctx: &mut Context, draining: bool) -> bool {
        let changed = std::mem::replace(&mut self.draining, draining) != draining;
        if changed {
            ctx.events.push(Event::Draining { worker: self.index.worker().get(), draining });
        }
        changed
    }

    /// When something of the TCP connection is due, whatever becomes of the session.
    fn due_ms(&self, cfg: &CoreConfig) -> u64 {
        match self.state {
            // What was of one that is removed has gone elsewhere, or will.
            LinkState::Down if self.removed && self.session.is_none() => u64::MAX,
            LinkState::Down if self.addresses == 0 => u64::MAX,
            LinkState::Down => self.retry_at_ms,
            LinkState::Connecting => self.since_ms + self.connect_ms_max(cfg.handshake_timeout_ms),
            LinkState::Handshaking | LinkState::Proving => {
                self.since_ms + u64::from(cfg.handshake_timeout_ms)
            }
            LinkState::Refusing => self.since_ms + REFUSE_LINGER_MS,
            LinkState::Up => self.heard_at_ms.max(self.pinged_at_ms) + u64::from(keepalive_ms(cfg)),
            LinkState::Closing => u64::MAX,
        }
    }

    /// The link is silent: the worker is asked whether it lives, or has not answered that.
    fn probe(&mut self, io: &mut impl Io, ctx: &mut Context) {
        if self.pinged_at_ms > self.heard_at_ms && ctx.cfg.link_keepalive_ms > 0 {
            // The path may be dead where the worker is not: there is still time to
            // resume the session over another connection.
            return self.break_off(io, ctx, LinkDownCause::Silent(self.silent_ms(ctx.now_ms)));
        }
        self.pinged_at_ms = ctx.now_ms;
        self.control.extend(Header::new(LinkType::Ping, NO_CONNECTION, 0).encode());
    }
}

/// A silent link is probed a few times before its worker counts as gone.
fn keepalive_ms(cfg: &CoreConfig) -> u32 {
    let own_ms = match cfg.link_keepalive_ms {
        0 => u32::MAX,
        own_ms => own_ms,
    };
    own_ms.min(cfg.link_failover_ms / 4).max(1)
}
