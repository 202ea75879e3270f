//! Frames go to clients: straight from where they stand, or by an outbox.
//!
//! At most one send of a connection is in the kernel. A send takes what the socket has room for
//! and never waits; what is left waits in the outbox for a poll to say that there is room.

use roost_protocol::Reason;

use super::{
    Connections, Upstream, framing::Reply, kind, lifecycle::State, memory::outbox_reserve_blocks,
    outbox::Exhausted, rank::FLOOR_BYTES, reason_of, record::flag,
};
use crate::{
    core::{context::Context, index::Slot, listener::Cipher, pool::Class, span::Span, stats::Stat},
    op::{Interest, Io, Op, Sock, errno},
};

impl Connections {
    /// Sends bytes that stand in a block, or queues them behind what is unsent.
    ///
    /// The block is held until they have left or been copied.
    pub(crate) fn queue_span(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        up: &mut impl Upstream,
        slot: Slot,
        span: Span,
    ) {
        let cipher = self.cipher(ctx, slot);
        if cipher != Cipher::None {
            let mut sealed = std::mem::take(&mut self.sealed);
            sealed.clear();
            cipher.seal(span.bytes(io), &mut sealed);
            self.queue_bytes(io, ctx, up, slot, &sealed, false);
            self.sealed = sealed;
            return;
        }
        ctx.stats.inc(Stat::ClientFramesSent);
        let hot = self.hot(slot);
        if hot.outbox() == 0 {
            ctx.pools.retain(span.block);
            self.open_outbox(io, ctx, slot, span);
            return;
        }
        let outbox = hot.outbox();
        if self.is_over_limit(ctx, slot, span.len) {
            return self.close_slow(io, ctx, up, slot);
        }
        if span.block.class() == Class::Fanout as usize && may_share(ctx) {
            self.outboxes.push_shared(&mut ctx.pools, outbox, span);
            return;
        }
        let keep = outbox_reserve_blocks(ctx);
        self.with_outbox_memory(io, ctx, up, (slot, span.len), |core, io, ctx| {
            core.outboxes.push_copy(io, &mut ctx.pools, outbox, span, keep)
        });
    }

    /// Says something of the gateway's own.
    pub(super) fn queue_reply(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        up: &mut impl Upstream,
        slot: Slot,
        reply: &Reply<'_>,
    ) {
        let mut bytes = std::mem::take(&mut self.reply);
        bytes.clear();
        self.framing(ctx, slot).encode(reply, &mut bytes);
        let cipher = self.cipher(ctx, slot);
        if cipher == Cipher::None {
            self.queue_bytes(io, ctx, up, slot, &bytes, true);
        } else {
            let mut sealed = std::mem::take(&mut self.sealed);
            sealed.clear();
            cipher.seal(&bytes, &mut sealed);
            self.queue_bytes(io, ctx, up, slot, &sealed, true);
            self.sealed = sealed;
        }
        self.reply = bytes;
    }

    /// Sends bytes that stand in no block. `own`: a small frame of the gateway's own, for which there is a
    /// reserve.
    fn queue_bytes(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        up: &mut impl Upstream,
        slot: Slot,
        bytes: &[u8],
        own: bool,
    ) {
        ctx.stats.inc(Stat::ClientFramesSent);
        if self.hot(slot).outbox() != 0 && self.is_over_limit(ctx, slot, bytes.len() as u32) {
            return self.close_slow(io, ctx, up, slot);
        }
        // The reserve is for a client that has next to nothing queued, and for who is told to go. The
        // last of it is for chunks that many share.
        let (hot, reserve) = (self.hot(slot), outbox_reserve_blocks(ctx));
        let small = hot.outbox() == 0 || self.outboxes.held(hot.outbox()) <= FLOOR_BYTES;
        let may_use = own && (small || hot.state() == State::Draining);
        let keep = if may_use { reserve / 4 } else { reserve };
        self.with_outbox_memory(io, ctx, up, (slot, bytes.len() as u32), |core, io, ctx| {
            let outbox = core.hot(slot).outbox();
            if outbox != 0 {
                return core.outboxes.push_bytes(io, &mut ctx.pools, outbox, bytes, keep);
            }
            let chunk_bytes = ctx.pools.block_bytes(Class::Outbox) as usize;
            let (first, rest) = bytes.split_at(bytes.len().min(chunk_bytes));
            // All or nothing: what is begun is sent.
            let more = rest.len().div_ceil(chunk_bytes) as u32;
            if more > 0 && ctx.pools.available(Class::Outbox) < more + 1 + keep {
                return Err(Exhausted);
            }
            let span = core.write_small(io, ctx, first)?;
            core.open_outbox(io, ctx, slot, span);
            if more > 0 {
                let outbox = core.hot(slot).outbox();
                core.outboxes.push_bytes(io, &mut ctx.pools, outbox, rest, 0)?;
            }
            Ok(())
        });
    }

    /// Writes a small frame behind the last one, and gives a hold on it.
    fn write_small(&mut self, io: &mut impl Io, ctx: &mut Context, bytes: &[u8]) -> Result<Span, Exhausted> {
        let len = bytes.len() as u32;
        let chunk_bytes = ctx.pools.block_bytes(Class::Outbox);
        let (block, offset) = match self.small {
            Some((block, taken)) if taken + len <= chunk_bytes => (block, taken),
            full => {
                let fresh = ctx.pools.alloc(Class::Outbox).ok_or(Exhausted)?;
                if let Some((block, _)) = full {
                    ctx.pools.release(block);
                }
                (fresh, 0)
            }
        };
        io.write(block, offset, bytes);
        ctx.pools.retain(block);
        self.small = Some((block, offset + len));
        Ok(Span { block, offset, len })
    }

    /// Gives the chunk of small frames back when all of them have left.
    pub(crate) fn release_small(&mut self, ctx: &mut Context) {
        if let Some((block, _)) = self.small
            && ctx.pools.holders(block) == 1
        {
            ctx.pools.release(block);
            self.small = None;
        }
    }

    fn open_outbox(&mut self, io: &mut impl Io, ctx: &Context, slot: Slot, span: Span) {
        self.table.hot_mut(slot).set_outbox(self.outboxes.open(slot, span, ctx.tick()));
        self.send_span(io, slot, span);
    }

    fn is_over_limit(&self, ctx: &Context, slot: Slot, more: u32) -> bool {
        self.outboxes.bytes(self.hot(slot).outbox()) + more > ctx.cfg.outbox_bytes_max
    }

    fn send_front(&mut self, io: &mut impl Io, slot: Slot) {
        let front = self.outboxes.front(self.hot(slot).outbox());
        self.send_span(io, slot, front);
    }

    /// Sends what is at the front of the client's outbox.
    #[inline]
    fn send_span(&mut self, io: &mut impl Io, slot: Slot, Span { block, offset, len }: Span) {
        let op = Op::Send { sock: Sock::Client(slot.get()), block, offset, len, wait: false };
        self.submit(io, slot, kind::SEND, op);
    }

    pub(super) fn on_send(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        up: &mut impl Upstream,
        slot: Slot,
        result: i32,
    ) {
        let hot = self.hot(slot);
        let (state, outbox) = (hot.state(), hot.outbox());
        if state == State::Closing {
            ctx.stats.add(Stat::ClientBytesSent, u64::from(result.max(0).cast_unsigned()));
            self.join(io, ctx, slot);
            return;
        }
        match result {
            0.. => {
                let offered = self.outboxes.front(outbox).len;
                ctx.stats.add(Stat::ClientBytesSent, u64::from(result.cast_unsigned()));
                let (sent, tick) = (result.cast_unsigned(), ctx.tick());
                if self.outboxes.advance(&mut ctx.pools, outbox, sent, tick) {
                    self.table.hot_mut(slot).set_outbox(0);
                    if state == State::Draining {
                        self.shut(io, ctx, slot);
                    }
                } else if sent < offered {
                    self.await_room(io, ctx, up, slot);
                } else {
                    self.send_front(io, slot);
                }
            }
            _ if matches!(-result, errno::EAGAIN | errno::EINTR | errno::ENOBUFS | errno::ENOMEM) => {
                self.await_room(io, ctx, up, slot);
            }
            _ => {
                self.set_flag(slot, flag::SHUT);
                match state {
                    State::Draining => self.stop(io, ctx, slot),
                    _ => self.close(io, ctx, up, slot, (reason_of(result), None)),
                }
            }
        }
    }

    /// The socket is full: hold the rest without pinning a link's buffer, or one of the last of the
    /// broadcasts' blocks, and wait for room.
    fn await_room(&mut self, io: &mut impl Io, ctx: &mut Context, up: &mut impl Upstream, slot: Slot) {
        ctx.stats.inc(Stat::ShortSends);
        let outbox = self.hot(slot).outbox();
        let sock = Sock::Client(slot.get());
        self.submit(io, slot, kind::POLL_OUT, Op::Poll { sock, interest: Interest::Writable });
        // The limit holds for what stays, not for what passes through in one turn.
        if self.outboxes.bytes(outbox) > ctx.cfg.outbox_bytes_max && self.hot(slot).state() != State::Draining
        {
            return self.close_slow(io, ctx, up, slot);
        }
        let front = self.outboxes.front(outbox);
        if front.block.class() == Class::Fanout as usize && may_share(ctx) {
            return;
        }
        let keep = outbox_reserve_blocks(ctx);
        self.with_outbox_memory(io, ctx, up, (slot, front.len), |core, io, ctx| {
            core.outboxes.detach(io, &mut ctx.pools, outbox, keep)
        });
    }

    pub(super) fn on_poll_out(&mut self, io: &mut impl Io, ctx: &mut Context, slot: Slot) {
        if self.hot(slot).state() == State::Closing {
            self.join(io, ctx, slot);
        } else {
            // Whatever the poll said, the send will say what is the matter.
            self.send_front(io, slot);
        }
    }

    pub(super) fn close_slow(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        up: &mut impl Upstream,
        slot: Slot,
    ) {
        // No GOAWAY: the socket takes nothing.
        self.set_flag(slot, flag::SHUT);
        if self.hot(slot).state() == State::Draining {
            self.stop(io, ctx, slot);
        } else {
            self.close(io, ctx, up, slot, (Reason::SlowConsumer, None));
        }
    }
}

/// Sharing pins the block of a broadcast: only while most of them are free.
fn may_share(ctx: &Context) -> bool {
    ctx.pools.available(Class::Fanout) > ctx.pools.in_use(Class::Fanout)
}
