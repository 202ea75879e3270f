//! Opening, refusing and ending the sessions of clients.

use roost_protocol::{
    Reason, SessionRef,
    link::{Accept, Ending, Header, LinkType},
};

use super::{connections::Phase, context::Context};
use crate::{
    config::KeyPolicy,
    id::{Client, LinkId},
    stats::Stat,
};

/// What a client is told whose key has too many connections.
const KEY_IS_FULL: Ending<'static> =
    Ending { retry_after_ms: 0, code: 0, text: "too many connections of one key" };

impl Context<'_> {
    /// Opens the session of a client that asked for one. `session` must mean the same to every
    /// worker of the fleet. Does nothing if the client has gone or has been answered.
    ///
    /// Where its key has [`connections_per_key_max`](crate::WorkerConfig::connections_per_key_max) open
    /// connections here, its oldest one is closed, or this one is refused, as the configuration says. One that
    /// is refused here, after [`on_open`](crate::Handler::on_open), is told of by [`on_close`](crate::Handler::on_close).
    ///
    /// ```
    /// # use roost_router::{Client, Context, Opening};
    /// # use roost_protocol::{Reason, SessionRef};
    /// fn let_in(ctx: &mut Context<'_>, client: Client, opening: &Opening<'_>) {
    ///     if opening.token == b"open sesame" {
    ///         ctx.accept(client, SessionRef(opening.routing_hash));
    ///     } else {
    ///         ctx.reject(client, Reason::WorkerRejected, 0);
    ///     }
    /// }
    /// ```
    pub fn accept(&mut self, client: Client, session: SessionRef) {
        self.accept_with(client, &Accept::new(session));
    }

    /// As [`Self::accept`], and the connection belongs to this routing hash from now on, whatever key
    /// the client stated: to the user behind a token, say. If another worker owns the hash, the
    /// connection moves there at once: [`Handler::on_close`](crate::Handler::on_close) follows here with
    /// [`Closed::Moved`](crate::Closed::Moved), and that worker gets
    /// [`Handler::on_open`](crate::Handler::on_open) with [`Opened::Moved`](crate::Opened::Moved).
    pub fn accept_as(&mut self, client: Client, session: SessionRef, routing_hash: u64) {
        self.accept_with(client, &Accept { routing_hash: Some(routing_hash), ..Accept::new(session) });
    }

    /// As [`Self::accept`], with all that ACCEPT may state.
    ///
    /// Panics if there is a subprotocol that is no token or is too long, or without a routing hash.
    pub fn accept_with(&mut self, client: Client, accept: &Accept<'_>) {
        let Some(link) = self.registry.get(client.link) else { return };
        if link.connections.phase(client.connection) != Some(Phase::Pending) {
            return;
        }
        if let Some(routing_hash) = accept.routing_hash {
            self.registry.set_key(client, routing_hash);
        }
        let refused = self.refuses_newest(client);
        let Some(link) = self.registry.get_mut(client.link) else { return };
        if refused {
            link.connections.refuse(client.connection, accept.session);
            let header = Header::new(LinkType::Reject, client.connection, 0);
            self.push_ending(header, client.link, Reason::WorkerRejected, &KEY_IS_FULL);
            self.stats.add(Stat::KeyLimited, 1);
            return;
        }
        link.connections.open(client.connection, accept.session);
        let mut payload = Vec::new();
        accept.encode_payload(&mut payload);
        let header = Header::new(LinkType::Accept, client.connection, payload.len() as u32);
        link.session.push(header, &[&payload]);
        self.registry.note_sent(self.current, client.link);
        self.registry.opened(client);
        self.close_oldest(client);
    }

    /// Whether the key of a connection that would open has as many as it may, and those stay.
    pub(super) fn refuses_newest(&self, client: Client) -> bool {
        self.config.connections_per_key_policy == KeyPolicy::RefuseNewest && self.is_key_over(client, 1)
    }

    /// Whether the key of `client` has more open connections than it may, with `further` ones.
    pub(super) fn is_key_over(&self, client: Client, further: usize) -> bool {
        let connections_max = self.config.connections_per_key_max;
        connections_max > 0
            && self
                .registry
                .key(client)
                .is_some_and(|key| self.registry.count_of(key).0 + further > connections_max)
    }

    /// `client` has opened: the oldest connections of its key go.
    fn close_oldest(&mut self, client: Client) {
        while self.is_key_over(client, 0) {
            let oldest = self.registry.key(client).and_then(|key| self.registry.count_of(key).1);
            let Some(oldest) = oldest.filter(|&oldest| oldest != client) else { return };
            self.close_for_key(oldest);
        }
    }

    /// Closes a connection whose key has too many.
    pub(super) fn close_for_key(&mut self, client: Client) {
        self.stats.add(Stat::KeyLimited, 1);
        self.close_with(client, Reason::WorkerClosed, &KEY_IS_FULL);
    }

    /// Refuses a connection whose key has too many, before the handler hears of it.
    pub(super) fn reject_for_key(&mut self, client: Client) {
        self.stats.add(Stat::KeyLimited, 1);
        self.reject_with(client, Reason::WorkerRejected, &KEY_IS_FULL);
    }

    /// Refuses a client that asked for a session; [`crate::Handler::on_close`] will not be called
    /// for it. Does nothing if the client has gone or its session is open. [`Reason::Moved`], which
    /// a worker must not give, becomes [`Reason::WorkerRejected`].
    pub fn reject(&mut self, client: Client, reason: Reason, retry_after_ms: u32) {
        self.reject_with(client, reason, &Ending::after_ms(retry_after_ms));
    }

    /// As [`Self::reject`], with a close code and a text of the application's own.
    ///
    /// Panics if the code is neither 0 nor within [`CLOSE_CODES`](roost_protocol::edge::CLOSE_CODES), or the
    /// text has more than [`CLOSE_TEXT_BYTES_MAX`](roost_protocol::edge::CLOSE_TEXT_BYTES_MAX) bytes.
    pub fn reject_with(&mut self, client: Client, reason: Reason, ending: &Ending<'_>) {
        let Some(link) = self.registry.get_mut(client.link) else { return };
        if link.connections.phase(client.connection) == Some(Phase::Pending) {
            self.registry.remove_connection(client);
            let reason = if reason == Reason::Moved { Reason::WorkerRejected } else { reason };
            self.push_ending(
                Header::new(LinkType::Reject, client.connection, 0),
                client.link,
                reason,
                ending,
            );
            self.stats.add(Stat::Rejects, 1);
            self.stats.sub(Stat::Connections, 1);
        }
    }

    /// REJECT or CLOSE, over a link that was just there.
    fn push_ending(&mut self, mut header: Header, to: LinkId, reason: Reason, ending: &Ending<'_>) {
        let mut payload = Vec::new();
        ending.encode_payload(&mut payload);
        header.payload_bytes = payload.len() as u32;
        let link = self.registry.get_mut(to).expect("it was just there");
        link.session.push(header.reason(reason), &[&payload]);
        self.registry.note_sent(self.current, to);
    }

    /// Closes a connection. Nothing can be sent to it any more;
    /// [`on_close`](crate::Handler::on_close) follows when the gateway has done it. Does nothing
    /// if it is not open. [`Reason::Moved`], which a worker must not give, becomes
    /// [`Reason::WorkerClosed`].
    ///
    /// ```
    /// # use roost_router::{Client, Context};
    /// # use roost_protocol::Reason;
    /// fn hang_up(ctx: &mut Context<'_>, client: Client) {
    ///     let _ = ctx.send(client, b"goodbye");
    ///     ctx.close(client, Reason::WorkerClosed, 5_000); // come back in 5 s
    /// }
    /// ```
    pub fn close(&mut self, client: Client, reason: Reason, retry_after_ms: u32) {
        self.close_with(client, reason, &Ending::after_ms(retry_after_ms));
    }

    /// As [`Self::close`], with a close code and a text of the application's own.
    ///
    /// Panics if the code is neither 0 nor within [`CLOSE_CODES`](roost_protocol::edge::CLOSE_CODES), or the
    /// text has more than [`CLOSE_TEXT_BYTES_MAX`](roost_protocol::edge::CLOSE_TEXT_BYTES_MAX) bytes.
    pub fn close_with(&mut self, client: Client, reason: Reason, ending: &Ending<'_>) {
        let Some(link) = self.registry.get_mut(client.link) else { return };
        if link.connections.shut(client.connection) {
            let reason = if reason == Reason::Moved { Reason::WorkerClosed } else { reason };
            self.push_ending(Header::new(LinkType::Close, client.connection, 0), client.link, reason, ending);
            self.registry.leave_all(client);
            self.note_topics();
        }
    }
}
