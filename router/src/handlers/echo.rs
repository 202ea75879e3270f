//! Sends every message back to its sender.

use roost_protocol::SessionRef;

use crate::{
    core::{Context, Handler, Opened},
    id::Client,
};

/// Sends every message back to its sender.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo;

impl Handler for Echo {
    fn finds_clients_by_key(&self) -> bool {
        false
    }

    fn on_open(&mut self, ctx: &mut Context<'_>, client: Client, opened: Opened<'_>) {
        if let Opened::New(opening) = opened {
            ctx.accept(client, SessionRef(opening.routing_hash));
        }
    }

    fn on_message(&mut self, ctx: &mut Context<'_>, client: Client, payload: &[u8], _resent: bool) {
        // Refused only if it is longer than the gateway takes, which therefore did not bring it.
        let _ = ctx.send(client, payload);
    }
}
