//! What is sent next on a link, and when frames of its worker are acknowledged.

use roost_protocol::link::{Header, LinkType};

use super::{Link, LinkState, NO_CONNECTION, state::kind, state::op_bit};
use crate::{
    core::{config::CoreConfig, context::Context, pool::Class, span::Span, stats::Stat},
    op::{Io, Op},
};

/// How long an acknowledgement waits for data to ride on: alone it is a send for us and a wake-up
/// for the worker, per message if those come one at a time. SPEC.md 3.4 allows 20.
const ACK_DELAY_MS: u64 = 5;
/// It does not wait once this part of the window is handled and not acknowledged.
const ACK_WINDOW_SHARE: u32 = 4;

impl Link {
    /// Sends what waits, if no send is in the kernel.
    pub(super) fn flush(&mut self, io: &mut impl Io, ctx: &mut Context) {
        if !self.state.is_connected() || self.ops & op_bit::SEND != 0 {
            return;
        }
        let up = self.state == LinkState::Up;
        let window_bytes = self.session.map_or(0, |session| session.window_bytes);
        if up {
            self.acknowledge(io, ctx);
        }
        // The handshake comes before anything that an older connection may have broken off.
        let at_boundary = !up || self.tx.is_at_boundary();
        if self.control_send.is_none() && !self.control.is_empty() && at_boundary {
            let Some(block) = ctx.pools.alloc(Class::LinkTx) else { return };
            let len = self.control.len().min(ctx.pools.block_bytes(Class::LinkTx) as usize);
            io.write(block, 0, &self.control[..len]);
            self.control.drain(..len);
            self.control_send = Some((block, 0, len as u32));
        }
        let span = match self.control_send {
            Some((block, offset, len)) => Span { block, offset, len },
            None if !up => return,
            None => match self.tx.next_send(window_bytes) {
                Some(span) => span,
                None => return,
            },
        };
        let Span { block, offset, len } = span;
        let sock = self.sock();
        self.submit(io, kind::SEND, Op::Send { sock, block, offset, len, wait: true });
    }

    /// TCP has taken so many bytes, or the send has failed.
    pub(super) fn on_sent(&mut self, ctx: &mut Context, result: i32) {
        let Ok(sent) = u32::try_from(result) else { return };
        ctx.stats.add(Stat::LinkBytesSent, u64::from(sent));
        match self.control_send {
            Some((block, _, len)) if len == sent => {
                ctx.pools.release(block);
                self.control_send = None;
            }
            Some((block, offset, len)) => self.control_send = Some((block, offset + sent, len - sent)),
            None => self.tx.on_sent(&mut ctx.pools, sent),
        }
    }

    /// Acknowledges what has been handled, in order with earlier acknowledgements.
    fn acknowledge(&mut self, io: &mut impl Io, ctx: &mut Context) {
        let Some(due_ms) = self.ack_due_ms(&ctx.cfg) else { return };
        let due = ctx.now_ms >= due_ms;
        let session = self.session.as_mut().expect("a session owes it");
        let header = Header::new(LinkType::Ack, NO_CONNECTION, 8);
        let position = session.received().to_be_bytes();
        // Behind data that goes out now the acknowledgement costs no send of its own; behind data
        // that the window holds back it would wait for ever.
        let room = u64::from(session.window_bytes).saturating_sub(self.tx.retained_bytes());
        let rides = !self.tx.is_all_sent()
            && room >= header.frame_bytes() as u64
            && self.tx.fits(&ctx.pools, header.frame_bytes() as u32);
        let control_waits = !self.control.is_empty() || self.control_send.is_some();
        if rides && (self.tx.holds_unsequenced() || !control_waits) {
            self.tx.begin(io, &mut ctx.pools, header);
            self.tx.put_bytes(io, &mut ctx.pools, &position);
        } else if !self.tx.holds_unsequenced() && (due || control_waits) {
            self.control.extend(header.encode());
            self.control.extend(position);
        } else {
            // It may wait for data to ride on; or an older one is on its way in the queue, and must
            // not be overtaken.
            return;
        }
        session.acknowledged();
    }

    /// When what the link has handled is to be acknowledged at the latest, with nothing to ride on;
    /// none if the worker knows of everything.
    fn ack_due_ms(&self, cfg: &CoreConfig) -> Option<u64> {
        let session = self.session.as_ref().filter(|session| session.owes_ack())?;
        // A worker must not have to wait for credit because of us.
        let much = session.unacked_bytes() >= u64::from(cfg.link_window_bytes / ACK_WINDOW_SHARE);
        Some(if much { 0 } else { session.unacked_since_ms() + ACK_DELAY_MS })
    }

    /// When an acknowledgement is to be sent alone; none while a send is in the kernel, or one is to come
    /// before it: their completions are waited for.
    pub(super) fn lone_ack_due_ms(&self, cfg: &CoreConfig) -> Option<u64> {
        let sends = self.ops & op_bit::SEND != 0 || self.tx.holds_unsequenced();
        if sends { None } else { self.ack_due_ms(cfg) }
    }
}
