//! The PROXY header (v1 and v2) in front of HELLO, from trusted proxies only.

use roost_protocol::Reason;

use super::{Connections, Upstream, record::flag};
use crate::{
    core::{
        context::Context,
        index::Slot,
        proxy::{HEAD_BYTES, Verdict, parse},
        span::Span,
    },
    op::Io,
};

impl Connections {
    /// Handles bytes of a connection whose PROXY header is not complete. Returns what follows the
    /// header; none if more is needed or the connection was closed.
    pub(super) fn handle_proxy(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        up: &mut impl Upstream,
        slot: Slot,
        span: Span,
    ) -> Option<Span> {
        // The header may come in pieces: what came before stands in the spill.
        let spill = self.hot(slot).spill();
        let before = if spill == 0 { 0 } else { self.spills.bytes(spill) };
        let (mut head, mut filled) = ([0; HEAD_BYTES], 0);
        let mut add = |span: Span| {
            let bytes = span.bytes(io);
            let taken = bytes.len().min(HEAD_BYTES - filled);
            head[filled..][..taken].copy_from_slice(&bytes[..taken]);
            filled += taken;
        };
        if spill != 0 {
            self.spills.spans(spill, HEAD_BYTES as u32).for_each(&mut add);
        }
        add(span);
        match parse(&head[..filled], (before + span.len) as usize) {
            Verdict::Header { bytes, source } => {
                if spill != 0 {
                    self.spills.discard(&mut ctx.pools, spill);
                    self.table.hot_mut(slot).set_spill(0);
                }
                self.clear_flag(slot, flag::PROXY);
                // LOCAL (a health check of the proxy) carries no address: the proxy's stands.
                if let Some(source) = source {
                    self.table.keep_peer(slot, source);
                }
                if !self.admit_address(io, ctx, up, slot) {
                    return None;
                }
                let of_span = bytes as u32 - before;
                Some(Span { offset: span.offset + of_span, len: span.len - of_span, ..span })
            }
            Verdict::Incomplete => {
                self.spill(io, ctx, up, slot, span);
                None
            }
            Verdict::Refused => {
                self.refuse(io, ctx, up, slot, Reason::ProxyHeader);
                None
            }
        }
    }
}
