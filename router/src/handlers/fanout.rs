//! Echo, and on request fan-out: for measuring it.

use std::collections::HashMap;

use roost_protocol::SessionRef;

use crate::{
    core::{Closed, Context, Handler, Opened},
    id::Client,
};

/// First byte of a message that is to be broadcast to the connections served by this worker.
pub const OP_BROADCAST: u8 = b'B';
/// First byte of a message that is to be broadcast to the connections of all workers.
pub const OP_BROADCAST_ALL: u8 = b'A';
/// First byte of a message that is to be multicast; a count u32 follows, then the body.
pub const OP_MULTICAST: u8 = b'M';

/// Sends messages back, except those that begin with an op: their body goes to many connections.
/// The sender is one of them where it is served here.
#[derive(Debug, Default)]
pub struct Fanout {
    clients: Vec<Client>,
    positions: HashMap<Client, usize>,
}

impl Handler for Fanout {
    fn finds_clients_by_key(&self) -> bool {
        false
    }

    fn on_open(&mut self, ctx: &mut Context<'_>, client: Client, opened: Opened<'_>) {
        if let Opened::New(opening) = opened {
            ctx.accept(client, SessionRef(opening.routing_hash));
        }
        self.insert(client);
    }

    fn on_close(
        &mut self,
        _ctx: &mut Context<'_>,
        client: Client,
        _session: Option<SessionRef>,
        _closed: Closed,
    ) {
        let Some(position) = self.positions.remove(&client) else { return };
        self.clients.swap_remove(position);
        if let Some(&moved) = self.clients.get(position) {
            self.positions.insert(moved, position);
        }
    }

    fn on_message(&mut self, ctx: &mut Context<'_>, client: Client, payload: &[u8], _resent: bool) {
        match *payload {
            [OP_BROADCAST, ref body @ ..] => {
                ctx.broadcast(body, false);
            }
            [OP_BROADCAST_ALL, ref body @ ..] => {
                ctx.broadcast(body, true);
            }
            [OP_MULTICAST, a, b, c, d, ref body @ ..] => {
                let count = u32::from_be_bytes([a, b, c, d]) as usize;
                ctx.multicast(&self.clients[..count.min(self.clients.len())], body);
            }
            _ => {
                // The gateway takes a message as long as the one it brought.
                let _ = ctx.send(client, payload);
            }
        }
    }
}

impl Fanout {
    fn insert(&mut self, client: Client) {
        self.positions.entry(client).or_insert_with(|| {
            self.clients.push(client);
            self.clients.len() - 1
        });
    }
}
