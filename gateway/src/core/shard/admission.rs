//! Admission: memory is asked for where bytes are appended, and nowhere else.
//!
//! * A link's queue takes what can wait (OPEN, what clients send) while it has less than a window. What
//!   cannot wait (REOPEN, CLOSED, frames of a failed worker) it takes from its own blocks, then from
//!   those that all queues share. When these are used up the link that has the most of them is given
//!   up, and what was for its worker goes where its connections go.
//! * When the pool of outboxes or of spills is used up, the connection that holds the most pays; the
//!   one that asks does only if it is that one.

use roost_protocol::{Reason, link::Header};

use crate::{
    core::{
        CoreConfig, event::Event, outbox::Exhausted, record::State, shard::ShardCore, span::Span, stats::Stat,
    },
    op::Io,
};

/// Where the payload of a link frame stands.
pub(super) enum Payload<'a> {
    Bytes(&'a [u8]),
    Span(Span),
    /// At the front of the spill with this handle.
    Spill(u32),
}

impl ShardCore {
    /// Appends a frame to a link's queue. Never fails: where there is no memory the link is given up,
    /// and the frame goes where the link's connections go.
    #[inline]
    pub(super) fn append(&mut self, io: &mut impl Io, index: usize, header: Header, payload: Payload<'_>) {
        let link = &mut self.links[index];
        if link.overrun || !link.tx.fits(&self.ctx.pools, header.frame_bytes() as u32) {
            return self.strand(io, index, header, payload);
        }
        let (tx, pools) = (&mut link.tx, &mut self.ctx.pools);
        tx.begin(io, pools, header);
        match payload {
            Payload::Bytes(bytes) => tx.put_bytes(io, pools, bytes),
            Payload::Span(span) => tx.put_span(io, pools, span),
            Payload::Spill(handle) => {
                self.spills.walk(handle, header.payload_bytes, |span| tx.put_span(io, pools, span));
            }
        }
    }

    /// Keeps a frame for which a link's queue has no room until the link is given up.
    #[cold]
    fn strand(&mut self, io: &impl Io, index: usize, header: Header, payload: Payload<'_>) {
        self.overrun(index);
        if !header.link_type.is_sequenced() {
            return;
        }
        let stranded = &mut self.links[index].stranded;
        stranded.extend(header.encode());
        let mut add = |span: Span| {
            stranded.extend(&io.block(span.block)[span.offset as usize..][..span.len as usize]);
        };
        match payload {
            Payload::Bytes(bytes) => stranded.extend(bytes),
            Payload::Span(span) => add(span),
            Payload::Spill(handle) => self.spills.walk(handle, header.payload_bytes, add),
        }
    }

    /// A link's session is to be given up for the memory that its queue takes.
    fn overrun(&mut self, index: usize) {
        if !std::mem::replace(&mut self.links[index].overrun, true) {
            self.ctx.stats.inc(Stat::LinkOverruns);
            self.ctx.events.push(Event::LinkOverrun { worker: index as u8 });
        }
    }

    /// Gives up the link with the most of what queues share, when that is nearly used up.
    pub(super) fn shed_links(&mut self) {
        if !self.ctx.pools.link_tx_is_tight() || self.links.iter().any(|link| link.overrun) {
            return;
        }
        let most = (0..self.links.len()).max_by_key(|&index| self.links[index].tx.blocks_beyond());
        if let Some(index) = most {
            self.overrun(index);
        }
    }

    /// Blocks of the pool of outboxes that only the gateway's own small frames may take.
    pub(super) fn outbox_reserve_blocks(&self) -> u32 {
        let bytes = CoreConfig::outbox_reserve_bytes(self.ctx.cfg.outbox_bytes_total);
        (bytes / u64::from(CoreConfig::CHUNK_BYTES)) as u32
    }

    /// Runs `queue`, which asks for so many bytes of the pool of outboxes, until there is memory for
    /// it: whoever holds the most is closed, and that may be the connection itself.
    pub(super) fn with_outbox_memory<I: Io>(
        &mut self,
        io: &mut I,
        slot: u32,
        asked_bytes: u32,
        mut queue: impl FnMut(&mut Self, &mut I) -> Result<(), Exhausted>,
    ) {
        while queue(self, io).is_err() {
            let outbox = self.hot(slot).outbox();
            let held = if outbox == 0 { 0 } else { self.outboxes.held(outbox) };
            let payer = match self.outboxes.largest() {
                Some((victim, most)) if victim != slot && most > held + asked_bytes => victim,
                _ => slot,
            };
            #[cfg(any(test, feature = "sim"))]
            self.check_payer(payer, (slot, asked_bytes), |hot| match hot.outbox() {
                0 => 0,
                outbox => self.outboxes.held(outbox),
            });
            // No GOAWAY: its socket takes nothing, and it may stand in the middle of a frame.
            match self.hot(payer).state() {
                State::Draining => self.stop(io, payer),
                _ => self.close(io, payer, Reason::MemoryBudget, None),
            }
            if payer == slot {
                return;
            }
        }
    }

    /// Keeps bytes of a connection whose frames are incomplete or wait. Whoever holds the most is
    /// closed if there is no memory; returns false if that is the connection itself.
    pub(super) fn spill(&mut self, io: &mut impl Io, slot: u32, span: Span) -> bool {
        let owner = (slot, self.tick());
        loop {
            let handle = self.hot(slot).spill();
            if let Ok(handle) = self.spills.push(io, &mut self.ctx.pools, handle, owner, span) {
                self.table.hot_mut(slot).set_spill(handle);
                return true;
            }
            let held = if handle == 0 { 0 } else { self.spills.bytes(handle) };
            let payer = match self.spills.largest() {
                Some((victim, most)) if victim != slot && most > held + span.len => victim,
                _ => slot,
            };
            #[cfg(any(test, feature = "sim"))]
            self.check_payer(payer, (slot, span.len), |hot| match hot.spill() {
                0 => 0,
                spill => self.spills.bytes(spill),
            });
            self.refuse(io, payer, Reason::MemoryBudget);
            if payer == slot {
                return false;
            }
        }
    }
}
