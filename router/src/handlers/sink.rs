//! Swallows every message.

use roost_protocol::SessionRef;

use crate::{
    core::{Context, Handler, Opened},
    id::Client,
};

/// Swallows every message; [`crate::Stat::MessagesHandled`] counts them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sink;

impl Handler for Sink {
    fn finds_clients_by_key(&self) -> bool {
        false
    }

    fn on_open(&mut self, ctx: &mut Context<'_>, client: Client, opened: Opened<'_>) {
        if let Opened::New(opening) = opened {
            ctx.accept(client, SessionRef(opening.routing_hash));
        }
    }

    fn on_message(&mut self, _ctx: &mut Context<'_>, _client: Client, _payload: &[u8], _resent: bool) {}
}
