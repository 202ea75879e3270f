//! Frames for a worker are appended to its link's queue, and memory is asked for there and nowhere else.
//!
//! A queue takes what can wait (OPEN, what clients send) while it has less than a window. What cannot wait
//! (REOPEN, CLOSED, frames of a failed worker) it takes from its own blocks, then from those that all
//! queues share. When these are used up the link that has the most of them is given up, and what was for
//! its worker goes where its connections go.

use std::iter;

use roost_protocol::link::Header;

use super::{Link, Links};
use crate::{
    core::{context::Context, event::Event, span::Span, stats::Stat},
    op::Io,
};

/// A piece of a frame's payload.
pub(crate) enum Piece<'a> {
    /// Bytes.
    Bytes(&'a [u8]),
    /// Bytes in a block.
    Span(Span),
}

impl Link {
    /// Appends a frame to the queue. Never fails: where there is no memory the link is given up, and
    /// the frame goes where the link's connections go.
    #[inline]
    pub(crate) fn append<'a>(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        header: Header,
        payload: impl Iterator<Item = Piece<'a>>,
    ) {
        if self.overrun || !self.tx.fits(&ctx.pools, header.frame_bytes() as u32) {
            return self.keep_overflow(io, ctx, header, payload);
        }
        let (tx, pools) = (&mut self.tx, &mut ctx.pools);
        tx.begin(io, pools, header);
        for piece in payload {
            match piece {
                Piece::Bytes(bytes) => tx.put_bytes(io, pools, bytes),
                Piece::Span(span) => tx.put_span(io, pools, span),
            }
        }
    }

    /// Appends a frame that may be dropped: if the queue has less than two windows, and memory is not
    /// short. Returns whether it was appended. Nothing is where frames cannot be queued for the session.
    pub(crate) fn append_or_drop(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        header: Header,
        payload: Span,
    ) -> bool {
        let window_bytes = self.session.map_or(0, |session| session.window_bytes);
        let much = self.tx.retained_bytes() + u64::from(payload.len) > 2 * u64::from(window_bytes);
        let fits = self.tx.fits(&ctx.pools, header.frame_bytes() as u32) && !ctx.pools.link_tx_is_tight();
        if much || !fits || self.overrun || !self.takes_frames() {
            return false;
        }
        self.append(io, ctx, header, iter::once(Piece::Span(payload)));
        true
    }

    /// Keeps a frame for which the queue has no room until the link is given up.
    #[cold]
    fn keep_overflow<'a>(
        &mut self,
        io: &impl Io,
        ctx: &mut Context,
        header: Header,
        payload: impl Iterator<Item = Piece<'a>>,
    ) {
        self.overrun(ctx);
        if !header.link_type.is_sequenced() {
            return;
        }
        self.overflow.extend(header.encode());
        for piece in payload {
            match piece {
                Piece::Bytes(bytes) => self.overflow.extend(bytes),
                Piece::Span(span) => self.overflow.extend(span.bytes(io)),
            }
        }
    }

    /// The session is to be given up for the memory that the queue takes.
    fn overrun(&mut self, ctx: &mut Context) {
        if !std::mem::replace(&mut self.overrun, true) {
            ctx.stats.inc(Stat::LinkOverruns);
            ctx.events.push(Event::LinkOverrun { worker: self.index.worker().get() });
        }
    }
}

impl Links {
    /// Gives up the link with the most of what queues share, when that is nearly used up.
    pub(crate) fn shed(&mut self, ctx: &mut Context) {
        if !ctx.pools.link_tx_is_tight() || self.links.iter().any(|link| link.overrun) {
            return;
        }
        if let Some(most) = self.links.iter_mut().max_by_key(|link| link.tx.blocks_beyond()) {
            most.overrun(ctx);
        }
    }
}
