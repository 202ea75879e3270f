//! The PROXY header (v1 and v2) in front of HELLO, from trusted proxies only.

use std::net::SocketAddr;

use roost_protocol::Reason;

use crate::{
    core::{
        proxy::{HEAD_BYTES, Verdict, parse},
        record::flag,
        shard::ShardCore,
        span::Span,
    },
    op::Io,
};

impl ShardCore {
    /// Whether a listener expects a PROXY header, and from whom.
    pub(super) fn expects_proxy(&self, listener: u16) -> bool {
        self.ctx.cfg.proxy_listeners.contains(&listener)
    }

    pub(super) fn trusts_proxy(&self, peer: Option<SocketAddr>) -> bool {
        peer.is_some_and(|peer| {
            let ip = peer.ip().to_canonical();
            self.ctx.cfg.proxy_trusted.iter().any(|net| net.contains(&ip))
        })
    }

    /// Handles bytes of a connection whose PROXY header is not complete. Returns what follows the
    /// header; none if more is needed or the connection was closed.
    pub(super) fn handle_proxy(&mut self, io: &mut impl Io, slot: u32, span: Span) -> Option<Span> {
        // The header may come in pieces: what came before stands in the spill.
        let spill = self.hot(slot).spill();
        let before = if spill == 0 { 0 } else { self.spills.bytes(spill) };
        let (mut head, mut filled) = ([0; HEAD_BYTES], 0);
        let mut add = |span: Span| {
            let bytes = &io.block(span.block)[span.offset as usize..][..span.len as usize];
            let taken = bytes.len().min(HEAD_BYTES - filled);
            head[filled..][..taken].copy_from_slice(&bytes[..taken]);
            filled += taken;
        };
        if spill != 0 {
            self.spills.walk(spill, HEAD_BYTES as u32, &mut add);
        }
        add(span);
        match parse(&head[..filled], (before + span.len) as usize) {
            Verdict::Header { bytes, source } => {
                if spill != 0 {
                    self.spills.discard(&mut self.ctx.pools, spill);
                    self.table.hot_mut(slot).set_spill(0);
                }
                self.clear_flag(slot, flag::PROXY);
                // LOCAL (a health check of the proxy) carries no address: the proxy's stands.
                if let Some(source) = source {
                    self.table.keep_peer(slot, source);
                }
                if !self.admit_address(io, slot) {
                    return None;
                }
                let of_span = bytes as u32 - before;
                Some(Span { offset: span.offset + of_span, len: span.len - of_span, ..span })
            }
            Verdict::Incomplete => {
                self.spill(io, slot, span);
                None
            }
            Verdict::Refused => {
                self.refuse(io, slot, Reason::ProxyHeader);
                None
            }
        }
    }
}
