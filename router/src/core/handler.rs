//! What an application implements.

use std::net::SocketAddr;

use roost_protocol::{Reason, SessionRef, link::Reopen};

use super::Context;
use crate::id::Client;

/// An application behind a worker. Called on the worker's thread, one frame at a time: a call
/// that blocks holds up every link.
///
/// A frame of a gateway is acknowledged only after its call has returned, and after what the call
/// sent on the same link. So a frame is handled at least once, whatever dies; and exactly once as
/// long as worker and gateway live, however often TCP breaks between them.
///
/// Presence of a client, as these calls tell it:
///
/// | what happened | call |
/// |---|---|
/// | it connected, and asks for a session | [`on_open`](Self::on_open) |
/// | it came from another worker, which may have died | [`on_reopen`](Self::on_reopen) |
/// | it has gone, with the reason | [`on_close`](Self::on_close) |
/// | it went on to another worker | [`on_close`](Self::on_close) with [`Reason::Moved`] |
pub trait Handler: 'static {
    /// A client wants a session. Answer with [`Context::accept`] or [`Context::reject`]; messages
    /// to the client may follow the former at once. The answer may also be given in a later call,
    /// but should the worker die in between, the client is closed with `handshake_timeout`.
    fn on_open(&mut self, ctx: &mut Context<'_>, client: Client, opening: &Opening<'_>);

    /// A message of an open connection. `resent` is set when it may have been handled before by
    /// another worker, which died or stayed away before it acknowledged it.
    fn on_message(&mut self, ctx: &mut Context<'_>, client: Client, payload: &[u8], resent: bool);

    /// A connection has gone, or moved to another worker ([`Reason::Moved`]; also when the
    /// gateway gave up the link session or stayed away for `session_ttl_ms`). `session` is what it
    /// was accepted with, if it was. Called exactly once for every connection that was opened or
    /// reopened and not rejected; nothing can be sent to it any more.
    fn on_close(
        &mut self,
        ctx: &mut Context<'_>,
        client: Client,
        session: Option<SessionRef>,
        reason: Reason,
    ) {
        let _ = (ctx, client, session, reason);
    }

    /// A connection that another worker had; `reopen.session` is what that one accepted it with.
    /// It is open: send, or [`Context::close`] it.
    fn on_reopen(&mut self, ctx: &mut Context<'_>, client: Client, reopen: &Reopen);

    /// Whether [`Context::clients_of`] is to find clients; asked once, before the first call. Costs
    /// memory per connection: 8 bytes and an entry in a hash table.
    fn finds_clients_by_key(&self) -> bool {
        true
    }

    /// A payload that a worker relayed to whoever serves `routing_hash`.
    fn on_relay(&mut self, ctx: &mut Context<'_>, routing_hash: u64, payload: &[u8]) {
        let _ = (ctx, routing_hash, payload);
    }
}

/// What a client stated in HELLO, and where it came from.
#[derive(Clone, Copy, Debug)]
pub struct Opening<'a> {
    /// [`roost_protocol::hash::routing_hash`] of the key.
    pub routing_hash: u64,
    /// The client's address; none where it came over a Unix socket.
    pub peer: Option<SocketAddr>,
    /// The routing key.
    pub key: &'a [u8],
    /// The auth token.
    pub token: &'a [u8],
    /// The index of the gateway's listener.
    pub listener: u16,
}
