//! The first stage: the PROXY header (v1 and v2) in front of everything else, from trusted proxies only.

use roost_protocol::Reason;

use super::{
    super::{Connections, Upstream, record::flag},
    proxy::{HEAD_BYTES, Verdict, parse},
};
use crate::{
    core::{context::Context, index::Slot, span::Span},
    op::Io,
};

impl Connections {
    /// Takes the header off the first bytes of a connection, all of which stand in `span`. Returns what
    /// follows the header; none if more is needed or the connection was closed.
    pub(super) fn take_header(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        up: &mut impl Upstream,
        slot: Slot,
        (span, since): (Span, u16),
    ) -> Option<Span> {
        let all = span.bytes(io);
        match parse(&all[..all.len().min(HEAD_BYTES)], all.len()) {
            Verdict::Header { bytes, source } => {
                self.clear_flag(slot, flag::PROXY);
                // LOCAL (a health check of the proxy) carries no address: the proxy's stands.
                if let Some(source) = source {
                    self.table.keep_peer(slot, source);
                }
                let bytes = bytes as u32;
                let rest = Span { offset: span.offset + bytes, len: span.len - bytes, ..span };
                self.admit_address(io, ctx, up, slot).then_some(rest)
            }
            Verdict::Incomplete => {
                self.keep(io, ctx, up, slot, (span, since));
                None
            }
            Verdict::Refused => {
                self.refuse(io, ctx, up, slot, Reason::ProxyHeader);
                None
            }
        }
    }
}
