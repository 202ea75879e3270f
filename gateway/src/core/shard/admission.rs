//! Admission: memory is asked for where bytes are appended, and nowhere else.
//!
//! A link's queue takes what can wait (OPEN, what clients send) while it has less than a window. What
//! cannot wait (REOPEN, CLOSED, frames of a failed worker) it takes from its own blocks, then from
//! those that all queues share. When these are used up the link that has the most of them is given
//! up, and what was for its worker goes where its connections go.

use roost_protocol::link::Header;

use crate::{
    core::{
        context::Context, event::Event, index::WorkerIndex, link::Link, shard::ShardCore, span::Span,
        stats::Stat,
    },
    op::Io,
};

/// Where a part of the payload of a link frame stands.
pub(super) enum Payload<'a> {
    Bytes(&'a [u8]),
    Span(Span),
}

/// Appends a frame to a link's queue. Never fails: where there is no memory the link is given up,
/// and the frame goes where the link's connections go.
#[inline]
pub(super) fn append<'a>(
    link: &mut Link,
    worker: WorkerIndex,
    ctx: &mut Context,
    io: &mut impl Io,
    header: Header,
    payload: impl Iterator<Item = Payload<'a>>,
) {
    if link.overrun || !link.tx.fits(&ctx.pools, header.frame_bytes() as u32) {
        return strand(link, worker, ctx, io, header, payload);
    }
    let (tx, pools) = (&mut link.tx, &mut ctx.pools);
    tx.begin(io, pools, header);
    for part in payload {
        match part {
            Payload::Bytes(bytes) => tx.put_bytes(io, pools, bytes),
            Payload::Span(span) => tx.put_span(io, pools, span),
        }
    }
}

/// Keeps a frame for which a link's queue has no room until the link is given up.
#[cold]
fn strand<'a>(
    link: &mut Link,
    worker: WorkerIndex,
    ctx: &mut Context,
    io: &impl Io,
    header: Header,
    payload: impl Iterator<Item = Payload<'a>>,
) {
    overrun(link, worker, ctx);
    if !header.link_type.is_sequenced() {
        return;
    }
    link.stranded.extend(header.encode());
    for part in payload {
        match part {
            Payload::Bytes(bytes) => link.stranded.extend(bytes),
            Payload::Span(span) => link.stranded.extend(span.bytes(io)),
        }
    }
}

/// A link's session is to be given up for the memory that its queue takes.
fn overrun(link: &mut Link, worker: WorkerIndex, ctx: &mut Context) {
    if !std::mem::replace(&mut link.overrun, true) {
        ctx.stats.inc(Stat::LinkOverruns);
        ctx.events.push(Event::LinkOverrun { worker: worker.get() });
    }
}

impl ShardCore {
    /// Appends a frame to a link's queue: see [`append`].
    pub(super) fn append(&mut self, io: &mut impl Io, index: usize, header: Header, payload: Payload<'_>) {
        let worker = WorkerIndex::new(index as u8);
        append(&mut self.links[index], worker, &mut self.ctx, io, header, std::iter::once(payload));
    }

    /// Gives up the link with the most of what queues share, when that is nearly used up.
    pub(super) fn shed_links(&mut self) {
        if !self.ctx.pools.link_tx_is_tight() || self.links.iter().any(|link| link.overrun) {
            return;
        }
        let most = (0..self.links.len()).max_by_key(|&index| self.links[index].tx.blocks_beyond());
        if let Some(index) = most {
            overrun(&mut self.links[index], WorkerIndex::new(index as u8), &mut self.ctx);
        }
    }
}
