//! How connections come and go.

use roost_protocol::{
    Reason, SessionRef,
    link::{Header, LinkError, LinkType, Open, Reopen},
};

use super::{Closed, Core, Handler, Opened, Opening};
use crate::{id::Client, stats::Stat};

impl<H: Handler> Core<H> {
    pub(super) fn handle_open(
        &mut self,
        client: Client,
        header: &Header,
        payload: &[u8],
    ) -> Result<(), LinkError> {
        let Open { routing_hash, framing, peer, key, token, meta } = Open::decode(payload)?;
        self.begin(client, routing_hash)?;
        self.stats.add(Stat::Opens, 1);
        let opening = Opening { routing_hash, peer, key, token, listener: header.aux, framing, meta };
        let (handler, mut ctx) = self.call(Some(client.link));
        if ctx.refuses_newest(client) {
            ctx.reject_for_key(client);
        } else {
            handler.on_open(&mut ctx, client, Opened::New(opening));
        }
        Ok(())
    }

    pub(super) fn handle_reopen(&mut self, client: Client, payload: &[u8]) -> Result<(), LinkError> {
        let reopen = Reopen::decode(payload)?;
        self.begin(client, reopen.routing_hash)?;
        let entry = self.registry.get_mut(client.link).expect("frames come over live links");
        entry.connections.open(client.connection, reopen.session);
        self.registry.opened(client);
        self.stats.add(Stat::Reopens, 1);
        let (handler, mut ctx) = self.call(Some(client.link));
        if ctx.is_key_over(client, 0) {
            // What has opened here since its worker was another's is younger, and stays.
            ctx.close_for_key(client);
            self.registry.remove_connection(client);
            self.stats.add(Stat::Closes, 1);
            self.stats.sub(Stat::Connections, 1);
        } else {
            handler.on_open(&mut ctx, client, Opened::Moved(reopen));
        }
        Ok(())
    }

    /// Enters a connection that the gateway announces.
    fn begin(&mut self, client: Client, routing_hash: u64) -> Result<(), LinkError> {
        let entry = self.registry.get_mut(client.link).expect("frames come over live links");
        if !entry.connections.is_for(client.connection) {
            return Err(LinkError::Malformed);
        }
        if let Some(replaced) = entry.connections.replaced_by(client.connection) {
            self.registry.leave_all(Client { connection: replaced, ..client });
        }
        let entry = self.registry.get_mut(client.link).expect("frames come over live links");
        let replaced = entry.connections.insert(client.connection);
        self.registry.set_key(client, routing_hash);
        self.stats.add(Stat::Connections, 1);
        if let Some((connection, session)) = replaced {
            // The gateway says CLOSED before it uses a slot again; let one that does not do as
            // little harm as possible.
            tracing::warn!(?connection, "a gateway used a slot again without CLOSED");
            self.ended(Client { connection, ..client }, session, Closed::Ended(Reason::Internal));
        }
        Ok(())
    }

    pub(super) fn handle_closed(&mut self, client: Client, reason: Reason) {
        if let Some(session) = self.registry.remove_connection(client) {
            let closed = if reason == Reason::Moved { Closed::Moved } else { Closed::Ended(reason) };
            self.ended(client, session, closed);
        }
        if reason == Reason::Moved {
            // Answered for unknown connections too: the gateway waits for it.
            let entry = self.registry.get_mut(client.link).expect("handling discards no link");
            entry.session.push(Header::new(LinkType::Moved, client.connection, 0), &[]);
            self.registry.mark_dirty(client.link);
        }
    }

    fn ended(&mut self, client: Client, session: Option<SessionRef>, closed: Closed) {
        self.stats.add(Stat::Closes, 1);
        self.stats.sub(Stat::Connections, 1);
        let (handler, mut ctx) = self.call(Some(client.link));
        ctx.note_topics();
        handler.on_close(&mut ctx, client, session, closed);
    }
}
