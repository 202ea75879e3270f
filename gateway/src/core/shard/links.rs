//! Links are dialled, kept alive, flushed, and go down; how they come up stands in `link_up`.

use std::sync::atomic::Ordering::Relaxed;

use roost_protocol::link::{Header, LinkType};

use crate::{
    core::{
        event::{Event, LinkDownCause, LinkStep},
        index::WorkerIndex,
        link::{Link, LinkState, link_bit},
        pool::Class,
        shard::{ShardCore, dial::connect_ms_max, kind, link_up},
        span::Span,
        stats::{Stat, bump},
    },
    op::{Io, Op, Sock, Token},
};

/// How long an acknowledgement waits for data to ride on: alone it is a send for us and a wake-up
/// for the worker, per message if those come one at a time. SPEC.md 3.4 allows 20.
const ACK_DELAY_MS: u64 = 5;
/// It does not wait once this part of the window is handled and not acknowledged.
const ACK_WINDOW_SHARE: u32 = 4;

pub(super) const NO_CONNECTION: roost_protocol::ConnectionId = roost_protocol::ConnectionId::from_bits(0);

impl ShardCore {
    fn link_token(&self, kind: u8, index: usize) -> Token {
        Token::new(kind, index as u32, self.links[index].generation)
    }

    pub(super) fn submit_link(&mut self, io: &mut impl Io, index: usize, kind: u8, op: Op) {
        let token = self.link_token(kind, index);
        let bit = link_op_bit(kind);
        let link = &mut self.links[index];
        assert_eq!(link.ops & bit, 0, "invariant op-bits: at most one op of a kind per link");
        link.ops |= bit;
        io.submit(token, op);
    }

    pub(super) fn on_link_completion(&mut self, io: &mut impl Io, token: Token, result: i32) {
        let index = token.index() as usize;
        if index >= self.links.len() || self.links[index].generation != token.generation() {
            self.ctx.stats.inc(Stat::LateCompletions);
            return;
        }
        let link = &mut self.links[index];
        let bit = link_op_bit(token.kind());
        assert!(
            link.ops & bit != 0,
            "invariant op-bits: {token:?} completes an op that is not in the kernel"
        );
        link.ops &= !bit;
        if token.kind() == kind::LINK_SEND {
            // Even while closing: what TCP has taken must be known before the session resumes.
            self.on_link_sent(index, result);
        }
        if token.kind() == kind::LINK_CLOSE {
            return self.on_link_closed(index);
        }
        match self.links[index].state {
            LinkState::Closing => return self.join_link(io, index),
            LinkState::Refusing => return self.on_refusing(io, index, token.kind(), result),
            _ => {}
        }
        match token.kind() {
            kind::LINK_CONNECT => self.on_link_connect(io, index, result),
            kind::LINK_RECV => self.on_link_recv(io, index, result),
            kind::LINK_SEND if result <= 0 => {
                self.break_link(io, index, LinkDownCause::Io { errno: -result });
            }
            _ => {}
        }
    }

    /// Whether a link's worker is to be given up.
    pub(super) fn is_gone(&self, link: &Link) -> bool {
        let silent_ms = self.ctx.now_ms.saturating_sub(link.heard_at_ms);
        silent_ms >= u64::from(self.ctx.cfg.link_failover_ms)
            || link.hopeless
            || link.overrun
            || link.moves_overdue
            // While the handshake lasts, the worker's new session may replace the lost one.
            || link.lost && link.state != LinkState::Proving
            || link.yields && link.retired && link.tx.lag_frames() == 0
    }

    /// Whether a worker that is held down is to be left alone: somebody else must serve meanwhile.
    pub(super) fn is_held(&self, index: usize) -> bool {
        self.ctx.now_ms < self.links[index].hold.until_ms() && self.others_serve(index)
    }

    /// Whether connections can go elsewhere.
    pub(super) fn others_serve(&self, index: usize) -> bool {
        let mut others = self.links.iter().enumerate().filter(|&(other, _)| other != index);
        others.any(|(_, link)| link.state == LinkState::Up && link.is_routable())
    }

    /// Dials the workers whose turn it is, probes silent links, and gives up the dead.
    pub(super) fn dial_due(&mut self, io: &mut impl Io) {
        for index in 0..self.links.len() {
            let link = &mut self.links[index];
            if link.state == LinkState::Up && link.ops & link_bit::RECV == 0 {
                // Its frames wait for us (for a broadcast to end, for a block, for their turn): who is
                // not read is not silent.
                link.heard_at_ms = self.ctx.now_ms;
            }
            self.judge_moves(index);
            self.judge_draining(index);
            let silent_ms = self.ctx.now_ms.saturating_sub(self.links[index].heard_at_ms);
            let gone = self.is_gone(&self.links[index]);
            if self.links[index].session.is_some() && gone && self.links[index].state == LinkState::Refusing {
                // Nothing that the session retains is in the kernel, and LINK_REFUSE is to arrive.
                self.fail_session(io, index);
            }
            if self.links[index].session.is_some() && gone {
                // Fencing: what a worker that was only stopped says later must not be heard. And
                // the kernel may still be sending from what the session retains: join first.
                let link = &self.links[index];
                let cause = match () {
                    () if link.hopeless => LinkDownCause::Hopeless,
                    () if link.moves_overdue => LinkDownCause::MovesOverdue,
                    () if link.yields && link.retired => LinkDownCause::Retired,
                    () => LinkDownCause::Silent(u32::try_from(silent_ms).unwrap_or(u32::MAX)),
                };
                self.break_link(io, index, cause);
                if self.links[index].state == LinkState::Down {
                    self.fail_session(io, index);
                }
            }
            let keepalive_ms = u64::from(self.keepalive_ms());
            let handshake_ms = self.ctx.cfg.handshake_timeout_ms;
            let held = self.links[index].state == LinkState::Down && self.is_held(index);
            let link = &mut self.links[index];
            let is_done = link.tx.lag_frames() == 0 && link.resend.is_empty();
            if link.retired && link.connections == 0 && is_done {
                self.break_link(io, index, LinkDownCause::Retired);
                let link = &mut self.links[index];
                if link.state == LinkState::Down && link.session.take().is_some() {
                    // Named again, the worker gets a new session, which counts anew.
                    link.tx.salvage(io, &mut self.ctx.pools);
                }
                self.vacate_link(index);
                continue;
            }
            match link.state {
                // What was of one that is retired has gone elsewhere, or will.
                LinkState::Down if held || link.retired && link.session.is_none() => {}
                LinkState::Down if self.ctx.now_ms >= link.retry_at_ms && link.addresses > 0 => {
                    link.state = LinkState::Connecting;
                    link.since_ms = self.ctx.now_ms;
                    self.submit_link(io, index, kind::LINK_CONNECT, Op::Connect { link: index as u16 });
                }
                LinkState::Connecting
                    if self.ctx.now_ms >= link.since_ms + connect_ms_max(handshake_ms, link) =>
                {
                    self.break_link(io, index, LinkDownCause::Late(LinkStep::Connect));
                }
                LinkState::Handshaking | LinkState::Proving
                    if self.ctx.now_ms >= link.since_ms + u64::from(self.ctx.cfg.handshake_timeout_ms) =>
                {
                    let welcomed = link.state == LinkState::Proving;
                    let step = if welcomed { LinkStep::FirstFrame } else { LinkStep::Welcome };
                    self.break_link(io, index, LinkDownCause::Late(step));
                }
                LinkState::Refusing if self.ctx.now_ms >= link.since_ms + link_up::REFUSE_LINGER_MS => {
                    self.end_refusal(io, index);
                }
                LinkState::Up
                    if silent_ms >= keepalive_ms && self.ctx.now_ms >= link.pinged_at_ms + keepalive_ms =>
                {
                    if link.pinged_at_ms > link.heard_at_ms && self.ctx.cfg.link_keepalive_ms > 0 {
                        // The path may be dead where the worker is not: there is still time to
                        // resume the session over another connection.
                        let silent_ms = u32::try_from(silent_ms).unwrap_or(u32::MAX);
                        self.break_link(io, index, LinkDownCause::Silent(silent_ms));
                        continue;
                    }
                    link.pinged_at_ms = self.ctx.now_ms;
                    link.control.extend(Header::new(LinkType::Ping, NO_CONNECTION, 0).encode());
                }
                _ => {}
            }
        }
    }

    /// A silent link is probed a few times before its worker counts as gone.
    fn keepalive_ms(&self) -> u32 {
        let own_ms = match self.ctx.cfg.link_keepalive_ms {
            0 => u32::MAX,
            own_ms => own_ms,
        };
        own_ms.min(self.ctx.cfg.link_failover_ms / 4).max(1)
    }

    /// When a link next needs attention.
    pub(super) fn next_link_deadline(&self) -> u64 {
        let keepalive_ms = u64::from(self.keepalive_ms());
        let failover_ms = u64::from(self.ctx.cfg.link_failover_ms);
        let mut at = self.no_worker_due_ms().unwrap_or(u64::MAX);
        for (index, link) in self.links.iter().enumerate() {
            if link.state == LinkState::Up {
                at = at.min(link.moves.due_ms(self.ctx.cfg.link_failover_ms).unwrap_or(u64::MAX));
                at = at.min(link.undrains_at_ms.unwrap_or(u64::MAX));
            }
            at = at.min(match link.state {
                LinkState::Down if link.retired && link.session.is_none() => u64::MAX,
                LinkState::Down if link.addresses == 0 => u64::MAX,
                // Sooner if the others stop serving; but then there is a turn.
                LinkState::Down if self.is_held(index) => link.retry_at_ms.max(link.hold.until_ms()),
                LinkState::Down => link.retry_at_ms,
                LinkState::Connecting => {
                    link.since_ms + connect_ms_max(self.ctx.cfg.handshake_timeout_ms, link)
                }
                LinkState::Handshaking | LinkState::Proving => {
                    link.since_ms + u64::from(self.ctx.cfg.handshake_timeout_ms)
                }
                LinkState::Refusing => link.since_ms + link_up::REFUSE_LINGER_MS,
                LinkState::Up => (link.heard_at_ms.max(link.pinged_at_ms)) + keepalive_ms,
                LinkState::Closing => u64::MAX,
            });
            if link.session.is_some() && link.state != LinkState::Closing {
                at = at.min(link.heard_at_ms + failover_ms);
            }
            // With a send in the kernel, or one to come before it, its completion is waited for.
            let sends = link.ops & link_bit::SEND != 0 || link.tx.holds_unsequenced();
            if link.state == LinkState::Up && !sends {
                at = at.min(self.ack_due_ms(link).unwrap_or(u64::MAX));
            }
        }
        at.max(self.ctx.now_ms + 1)
    }

    /// Receives behind what stands in the block already.
    pub(super) fn receive_link(&mut self, io: &mut impl Io, index: usize) {
        if self.links[index].rx.block.is_none() {
            // All blocks may be held by sends of this very turn; `run_stalled_links` tries again.
            self.links[index].rx.block = self.ctx.pools.alloc(Class::LinkRx);
        }
        let rx = &self.links[index].rx;
        let Some(block) = rx.block else { return };
        let offset = rx.filled;
        let len = self.ctx.pools.block_bytes(Class::LinkRx) - offset;
        let sock = Sock::Link(index as u16);
        self.submit_link(io, index, kind::LINK_RECV, Op::Recv { sock, block, offset, len, wait: true });
    }

    /// Sends what waits, on every link.
    pub(super) fn flush_links(&mut self, io: &mut impl Io) {
        for index in 0..self.links.len() {
            self.flush_link(io, index);
        }
    }

    pub(super) fn flush_link(&mut self, io: &mut impl Io, index: usize) {
        let link = &mut self.links[index];
        if !link.state.is_connected() || link.ops & link_bit::SEND != 0 {
            return;
        }
        let up = link.state == LinkState::Up;
        let window_bytes = link.session.map_or(0, |session| session.window_bytes);
        if up {
            self.acknowledge(io, index);
        }
        let link = &mut self.links[index];
        // The handshake comes before anything that an older connection may have broken off.
        let at_boundary = !up || link.tx.is_at_boundary();
        if link.control_send.is_none() && !link.control.is_empty() && at_boundary {
            let Some(block) = self.ctx.pools.alloc(Class::LinkTx) else { return };
            let len = link.control.len().min(self.ctx.pools.block_bytes(Class::LinkTx) as usize);
            io.write(block, 0, &link.control[..len]);
            link.control.drain(..len);
            link.control_send = Some((block, 0, len as u32));
        }
        let span = match link.control_send {
            Some((block, offset, len)) => Span { block, offset, len },
            None if !up => return,
            None => match link.tx.next_send(window_bytes) {
                Some(span) => span,
                None => return,
            },
        };
        let Span { block, offset, len } = span;
        let sock = Sock::Link(index as u16);
        self.submit_link(io, index, kind::LINK_SEND, Op::Send { sock, block, offset, len, wait: true });
    }

    /// Acknowledges what has been handled, in order with earlier acknowledgements.
    fn acknowledge(&mut self, io: &mut impl Io, index: usize) {
        let Some(due_ms) = self.ack_due_ms(&self.links[index]) else { return };
        let due = self.ctx.now_ms >= due_ms;
        let link = &mut self.links[index];
        let session = link.session.as_mut().expect("a session owes it");
        let header = Header::new(LinkType::Ack, NO_CONNECTION, 8);
        let position = session.received.to_be_bytes();
        // Behind data that goes out now the acknowledgement costs no send of its own; behind data
        // that the window holds back it would wait for ever.
        let room = u64::from(session.window_bytes).saturating_sub(link.tx.retained_bytes());
        let rides = !link.tx.is_all_sent()
            && room >= header.frame_bytes() as u64
            && link.tx.fits(&self.ctx.pools, header.frame_bytes() as u32);
        let control_waits = !link.control.is_empty() || link.control_send.is_some();
        if rides && (link.tx.holds_unsequenced() || !control_waits) {
            link.tx.begin(io, &mut self.ctx.pools, header);
            link.tx.put_bytes(io, &mut self.ctx.pools, &position);
        } else if !link.tx.holds_unsequenced() && (due || control_waits) {
            link.control.extend(header.encode());
            link.control.extend(position);
        } else {
            // It may wait for data to ride on; or an older one is on its way in the queue, and must
            // not be overtaken.
            return;
        }
        session.acknowledged();
    }

    /// When what a link has handled is to be acknowledged at the latest, with nothing to ride on;
    /// none if the worker knows of everything.
    fn ack_due_ms(&self, link: &Link) -> Option<u64> {
        let session = link.session.as_ref().filter(|session| session.owes_ack())?;
        // A worker must not have to wait for credit because of us.
        let much = session.unacked_bytes >= u64::from(self.ctx.cfg.link_window_bytes / ACK_WINDOW_SHARE);
        Some(if much { 0 } else { session.unacked_since_ms + ACK_DELAY_MS })
    }

    fn on_link_sent(&mut self, index: usize, result: i32) {
        let Ok(sent) = u32::try_from(result) else { return };
        self.ctx.stats.add(Stat::LinkBytesSent, u64::from(sent));
        let link = &mut self.links[index];
        match link.control_send {
            Some((block, _, len)) if len == sent => {
                self.ctx.pools.release(block);
                link.control_send = None;
            }
            Some((block, offset, len)) => link.control_send = Some((block, offset + sent, len - sent)),
            None => link.tx.on_sent(&mut self.ctx.pools, sent),
        }
    }

    /// The TCP connection is of no more use; the session stays.
    pub(super) fn break_link(&mut self, io: &mut impl Io, index: usize, cause: LinkDownCause) {
        let link = &mut self.links[index];
        if matches!(link.state, LinkState::Down | LinkState::Closing) {
            return;
        }
        let was_up = link.state == LinkState::Up;
        if was_up && self.ctx.now_ms - link.up_at_ms >= u64::from(self.ctx.cfg.link_redial_ms.1) {
            // One that comes up only to go down again is not dialled as if all were well.
            link.backoff_ms = 0;
        }
        self.tell_down(index, cause, was_up);
        self.links[index].state = LinkState::Closing;
        self.join_link(io, index);
    }

    /// Counts and tells that a link's TCP connection is gone, or did not come up.
    pub(super) fn tell_down(&mut self, index: usize, cause: LinkDownCause, was_up: bool) {
        let link = &mut self.links[index];
        link.failed = !was_up;
        // Without an address it was not dialled at all; whoever looks for one says why there is none.
        if was_up || link.addresses > 0 {
            self.ctx.stats.inc(Stat::LinkBreaks);
            bump(&link.stats.breaks, 1);
            if let Some(failures) = link.is_news(cause) {
                self.ctx.events.push(Event::LinkDown { worker: index as u8, cause, was_up, failures });
            }
        }
    }

    pub(super) fn join_link(&mut self, io: &mut impl Io, index: usize) {
        let ops = self.links[index].ops;
        let sock = Sock::Link(index as u16);
        if ops == 0 {
            self.submit_link(io, index, kind::LINK_CLOSE, Op::Close { sock });
        } else if ops & link_bit::CANCEL == 0 {
            let target = match ops {
                _ if ops & link_bit::CONNECT != 0 => kind::LINK_CONNECT,
                _ if ops & link_bit::RECV != 0 => kind::LINK_RECV,
                _ => kind::LINK_SEND,
            };
            let target = self.link_token(target, index);
            self.submit_link(io, index, kind::LINK_CANCEL, Op::Cancel { sock, target });
        }
    }

    fn on_link_closed(&mut self, index: usize) {
        let link = &mut self.links[index];
        assert_eq!(link.ops, 0, "invariant join-before-close: a link is closed only when its ops are joined");
        link.state = LinkState::Down;
        link.generation = link.generation.wrapping_add(1);
        (link.hello, link.welcome) = (None, None);
        link.control.clear();
        if let Some((block, ..)) = link.control_send.take() {
            self.ctx.pools.release(block);
        }
        if let Some(block) = link.rx.block.take() {
            self.ctx.pools.release(block);
        }
        link.rx = crate::core::link::Rx::default();
        self.arrange_redial(index);
    }

    pub(super) fn publish_links(&self) {
        let mut up = 0;
        let mut retained = 0;
        for link in self.links.iter().filter(|link| !link.vacant) {
            let stats = &*link.stats;
            up += u64::from(link.state == LinkState::Up);
            retained += link.tx.retained_bytes() + link.resend.bytes();
            stats.state.store(link.state as u64, Relaxed);
            stats.draining.store(u64::from(link.draining), Relaxed);
            stats.window_bytes.store(link.session.map_or(0, |s| u64::from(s.window_bytes)), Relaxed);
            stats.retained_bytes.store(link.tx.retained_bytes() + link.resend.bytes(), Relaxed);
            stats.lag_frames.store(link.tx.lag_frames(), Relaxed);
            stats.connections.store(u64::from(link.connections), Relaxed);
            stats.blocked.store((link.blocked.len() + link.holding.len()) as u64, Relaxed);
            stats.failures.store(u64::from(link.failures), Relaxed);
        }
        self.ctx.stats.set(Stat::LinksUp, up);
        self.ctx.stats.set(Stat::LinkRetainedBytes, retained + self.salvage.bytes());
    }

    pub(super) fn link(&self, worker: WorkerIndex) -> &Link {
        &self.links[usize::from(worker)]
    }
}

fn link_op_bit(kind: u8) -> u8 {
    match kind {
        kind::LINK_CONNECT => link_bit::CONNECT,
        kind::LINK_RECV => link_bit::RECV,
        kind::LINK_SEND => link_bit::SEND,
        kind::LINK_CANCEL => link_bit::CANCEL,
        kind::LINK_CLOSE => link_bit::CLOSE,
        other => panic!("no link op has kind {other}"),
    }
}
