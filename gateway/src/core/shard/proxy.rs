//! The PROXY header (v1 and v2) in front of HELLO, from trusted proxies only.

use std::net::SocketAddr;

use proxy_header::{Error, ParseConfig, ProxyHeader};
use roost_protocol::Reason;

use crate::{
    core::{outbox::Span, record::flag, shard::ShardCore},
    op::Io,
};

/// Longest header: v2 with the longest address and a fair share of extensions.
const HEADER_BYTES_MAX: u32 = 2_048;

impl ShardCore {
    /// Whether a listener expects a PROXY header, and from whom.
    pub(super) fn expects_proxy(&self, listener: u16) -> bool {
        self.cfg.proxy_listeners.contains(&listener)
    }

    pub(super) fn trusts_proxy(&self, peer: Option<SocketAddr>) -> bool {
        peer.is_some_and(|peer| {
            let ip = peer.ip().to_canonical();
            self.cfg.proxy_trusted.iter().any(|net| net.contains(&ip))
        })
    }

    /// Handles bytes of a connection whose PROXY header is not complete. Returns what follows the
    /// header; none if more is needed or the connection was closed.
    pub(super) fn handle_proxy(&mut self, io: &mut impl Io, slot: u32, span: Span) -> Option<Span> {
        // The header may come in pieces: what came before stands in the spill.
        let spill = self.hot(slot).spill;
        let before = if spill == 0 { 0 } else { self.spills.bytes(spill) };
        let mut bytes = std::mem::take(&mut self.scratch);
        bytes.clear();
        let mut add = |span: Span| {
            bytes.extend(&io.block(span.block)[span.offset as usize..][..span.len as usize]);
        };
        if spill != 0 {
            self.spills.walk(spill, before, &mut add);
        }
        add(span);
        let parsed = ProxyHeader::parse(&bytes, ParseConfig::default())
            .map(|(header, len)| (header.proxied_address().map(|address| address.source), len as u32));
        let too_long = bytes.len() as u32 > HEADER_BYTES_MAX;
        self.scratch = bytes;
        match parsed {
            Ok((source, len)) => {
                if spill != 0 {
                    self.spills.discard(&mut self.pools, spill);
                    self.table.hot_mut(slot).spill = 0;
                }
                self.clear_flag(slot, flag::PROXY);
                // LOCAL (a health check of the proxy) carries no address: the proxy's stands.
                if let Some(source) = source {
                    self.keep_peer(slot, source);
                }
                if !self.admit_address(io, slot) {
                    return None;
                }
                let of_span = len - before;
                Some(Span { offset: span.offset + of_span, len: span.len - of_span, ..span })
            }
            Err(Error::BufferTooShort) if !too_long => {
                self.spill(io, slot, span);
                None
            }
            Err(_) => {
                self.refuse(io, slot, Reason::ProxyHeader);
                None
            }
        }
    }
}
