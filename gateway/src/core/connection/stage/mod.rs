//! What stands between a socket's bytes and frames, by listener.
//!
//! Bytes of a socket pass the stages of its listener where they were received, in place: first the PROXY
//! header, then the cipher. What a stage cannot use yet is kept under a handle in the table's third
//! column, which is mapped only where a listener has a stage, and stands in front of the next bytes
//! when they come. Bytes for a client are sealed when they are queued.
//!
//! * [`proxy`]: the PROXY header; [`header`] takes it off.
//! * [`cipher`]: bytes to bytes, both ways.

mod cipher;
mod header;
pub mod proxy;
#[cfg(any(test, feature = "sim"))]
pub mod xor;

use cipher::Opened;

use super::{Connections, Upstream, memory::Pile, record::flag};
use crate::{
    core::{
        config::CoreConfig,
        context::Context,
        index::Slot,
        listener::{Cipher, Framing, ListenerConfig},
        span::Span,
    },
    op::Io,
};

impl Connections {
    /// Whether clients of any listener pass a stage, or have a framing of their own.
    pub(super) fn is_staged(cfg: &CoreConfig) -> bool {
        cfg.listeners.iter().any(|listener| *listener != ListenerConfig::default())
    }

    /// The framing of a client's listener.
    #[inline]
    pub(super) fn framing(&self, ctx: &Context, slot: Slot) -> Framing {
        if !self.staged {
            return Framing::default();
        }
        ctx.cfg.framing(self.cold(slot).listener())
    }

    /// The cipher of a client's listener.
    #[inline]
    pub(super) fn cipher(&self, ctx: &Context, slot: Slot) -> Cipher {
        if !self.staged {
            return Cipher::None;
        }
        ctx.cfg.listeners[usize::from(self.cold(slot).listener())].cipher
    }

    /// Bytes that a client's stages keep: whoever receives for it leaves so much room in front.
    #[inline]
    pub(super) fn kept_bytes(&self, slot: Slot) -> u32 {
        match self.table.kept(slot) {
            0 => 0,
            kept => self.spills.bytes(kept),
        }
    }

    /// Takes what was received, behind room for what is kept, through the stages. Returns what is for
    /// the framing; none if nothing is yet, or the connection was closed.
    #[inline]
    pub(super) fn pass_stages(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        up: &mut impl Upstream,
        slot: Slot,
        span: Span,
    ) -> Option<Span> {
        if !self.staged {
            return Some(span);
        }
        self.run_stages(io, ctx, up, slot, span)
    }

    fn run_stages(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        up: &mut impl Upstream,
        slot: Slot,
        span: Span,
    ) -> Option<Span> {
        let (mut span, mut since) = self.take_kept(io, ctx, slot, span);
        if self.hot(slot).has(flag::PROXY) {
            span = self.take_header(io, ctx, up, slot, (span, since))?;
            since = ctx.tick();
        }
        let cipher = self.cipher(ctx, slot);
        if cipher == Cipher::None {
            return Some(span);
        }
        let bytes = &mut io.block_mut(span.block)[span.offset as usize..][..span.len as usize];
        match cipher.open(bytes) {
            Ok(Opened { plain_bytes, used_bytes }) => {
                let (plain, used) = (plain_bytes as u32, used_bytes as u32);
                let rest = Span { offset: span.offset + used, len: span.len - used, ..span };
                // A record that has been begun is to be whole in time, however slowly it comes.
                let since = if used == 0 { since } else { ctx.tick() };
                let is_kept = rest.len == 0 || self.keep(io, ctx, up, slot, (rest, since));
                (is_kept && plain > 0).then_some(Span { len: plain, ..span })
            }
            Err(reason) => {
                self.refuse(io, ctx, up, slot, reason);
                None
            }
        }
    }

    /// Puts what is kept in front of what was received. Says since when there has been something to
    /// keep.
    fn take_kept(&mut self, io: &mut impl Io, ctx: &mut Context, slot: Slot, span: Span) -> (Span, u16) {
        let kept = self.table.kept(slot);
        if kept == 0 {
            return (span, ctx.tick());
        }
        let (bytes, since) = (self.spills.bytes(kept), self.spills.since_tick(kept));
        let mut to = span.offset - bytes;
        for piece in self.spills.spans(kept, bytes) {
            io.copy(piece.block, piece.offset, piece.len, span.block, to);
            to += piece.len;
        }
        self.spills.discard(&mut ctx.pools, kept);
        self.table.set_kept(slot, 0);
        (Span { offset: span.offset - bytes, len: span.len + bytes, ..span }, since)
    }

    /// Keeps bytes for the stages; returns false if that closed the connection.
    fn keep(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        up: &mut impl Upstream,
        slot: Slot,
        (span, since): (Span, u16),
    ) -> bool {
        self.store(io, ctx, up, (slot, Pile::Stage), (span, since))
    }
}
