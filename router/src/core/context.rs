//! What a handler can do.

use std::fmt;

use roost_protocol::{
    ConnectionId, Reason, SessionRef,
    edge::{self, FrameType},
    hash::routing_hash,
    link::{Header, LinkType, header::FLAG_ALL},
};

use super::{
    connections::Phase,
    directory::Clients,
    registry::{Link, Registry},
};
use crate::{
    id::{Client, LinkId},
    stats::{Stat, Stats},
};

const NO_CONNECTION: ConnectionId = ConnectionId::from_bits(0);
/// Bytes of a MULTICAST payload before the ids.
const COUNT_BYTES: usize = 4;
const ID_BYTES: usize = 8;

/// Why nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The connection is not open here.
    #[error("the connection is not open")]
    Closed,
    /// The gateway is away and its queue is full.
    #[error("the link is down and its queue is full")]
    Full,
    /// The payload is longer than the gateway's `frame_bytes_max`.
    #[error("the payload is longer than the gateway allows")]
    TooLong,
}

/// A handler's way to its clients, for the time of one call.
///
/// Everything is queued and leaves in order per link; nothing blocks. When a queue grows beyond
/// `pending_bytes_max`, the worker stops handling the frames that fill it until the gateway has
/// caught up.
pub struct Context<'a> {
    pub(super) registry: &'a mut Registry,
    pub(super) stats: &'a Stats,
    /// The link whose frame is being handled; none while the worker itself closes connections.
    pub(super) current: Option<LinkId>,
    /// Another thread pushes: it waits for queues as the frames of a link do.
    pub(super) outside: bool,
    pub(super) pending_bytes_max: usize,
}

impl Context<'_> {
    /// Opens the session of a client that asked for one. `session` must mean the same to every
    /// worker of the fleet. Does nothing if the client has gone or has been answered.
    pub fn accept(&mut self, client: Client, session: SessionRef) {
        let Some(link) = self.registry.get_mut(client.link) else { return };
        if link.connections.open(client.connection, session) {
            let header = Header::new(LinkType::Accept, client.connection, 8);
            link.session.push(header, &[&session.0.to_be_bytes()]);
            self.registry.note_sent(self.current, client.link);
        }
    }

    /// Refuses a client that asked for a session; [`crate::Handler::on_close`] will not be called
    /// for it. Does nothing if the client has gone or its session is open. [`Reason::Moved`], which
    /// a worker must not give, becomes [`Reason::WorkerRejected`].
    pub fn reject(&mut self, client: Client, reason: Reason, retry_after_ms: u32) {
        let Some(link) = self.registry.get_mut(client.link) else { return };
        if link.connections.phase(client.connection) == Some(Phase::Pending) {
            self.registry.remove_connection(client);
            let link = self.registry.get_mut(client.link).expect("it was just there");
            let reason = if reason == Reason::Moved { Reason::WorkerRejected } else { reason };
            let header = Header::new(LinkType::Reject, client.connection, 4).reason(reason);
            link.session.push(header, &[&retry_after_ms.to_be_bytes()]);
            self.registry.note_sent(self.current, client.link);
            self.stats.add(Stat::Rejects, 1);
            self.stats.sub(Stat::Connections, 1);
        }
    }

    /// Sends a message to a client.
    #[inline]
    pub fn send(&mut self, client: Client, payload: &[u8]) -> Result<(), SendError> {
        self.send_parts(client, &[payload])
    }

    /// Sends a message that is the concatenation of `parts`.
    #[inline]
    pub fn send_parts(&mut self, client: Client, parts: &[&[u8]]) -> Result<(), SendError> {
        let sent = self.try_send(client, parts);
        self.stats.add(if sent.is_ok() { Stat::MessagesSent } else { Stat::SendsRefused }, 1);
        sent
    }

    #[inline]
    fn try_send(&mut self, client: Client, parts: &[&[u8]]) -> Result<(), SendError> {
        let link = self.registry.get_mut(client.link).ok_or(SendError::Closed)?;
        if link.connections.phase(client.connection) != Some(Phase::Open) {
            return Err(SendError::Closed);
        }
        let edge_header = message_header(link, parts)?;
        self.admit(client.link)?;
        let link = self.registry.get_mut(client.link).expect("it was just there");
        let payload_bytes = edge_header.len() + parts.iter().map(|part| part.len()).sum::<usize>();
        let header = Header::new(LinkType::Data, client.connection, payload_bytes as u32);
        match *parts {
            [payload] => link.session.push(header, &[&edge_header, payload]),
            _ => {
                let mut all: Vec<&[u8]> = Vec::with_capacity(1 + parts.len());
                all.push(&edge_header);
                all.extend(parts);
                link.session.push(header, &all);
            }
        }
        self.registry.note_sent(self.current, client.link);
        Ok(())
    }

    /// Sends one message to many clients. Returns how many it was queued for: those that are open
    /// here, whose gateway takes payloads of this size and has room.
    pub fn multicast(&mut self, clients: &[Client], payload: &[u8]) -> usize {
        let mut clients: Vec<Client> = clients.to_vec();
        clients.sort_unstable_by_key(|client| (client.link.index, client.link.serial, client.connection));
        clients.dedup();
        let mut queued = 0;
        for group in clients.chunk_by(|a, b| a.link == b.link) {
            queued += self.multicast_on(group[0].link, group, payload).unwrap_or(0);
        }
        self.stats.add(Stat::SendsRefused, (clients.len() - queued) as u64);
        queued
    }

    fn multicast_on(&mut self, id: LinkId, group: &[Client], payload: &[u8]) -> Result<usize, SendError> {
        let link = self.registry.get_mut(id).ok_or(SendError::Closed)?;
        let edge_header = message_header(link, &[payload])?;
        self.admit(id)?;
        let link = self.registry.get_mut(id).expect("it was just there");
        let ids: Vec<u8> = group
            .iter()
            .filter(|client| link.connections.phase(client.connection) == Some(Phase::Open))
            .flat_map(|client| client.connection.to_bits().to_be_bytes())
            .collect();
        let fixed_bytes = COUNT_BYTES + edge_header.len() + payload.len();
        let ids_bytes_max = (link.session.payload_out_bytes_max() - fixed_bytes) / ID_BYTES * ID_BYTES;
        for ids in ids.chunks(ids_bytes_max) {
            let count = (ids.len() / ID_BYTES) as u32;
            let header = Header::new(LinkType::Multicast, NO_CONNECTION, (fixed_bytes + ids.len()) as u32);
            link.session.push(header, &[&count.to_be_bytes(), ids, &edge_header, payload]);
            self.stats.add(Stat::FanoutsSent, 1);
        }
        self.registry.note_sent(self.current, id);
        Ok(ids.len() / ID_BYTES)
    }

    /// Sends one message to all connections of all gateways that have a link here: with
    /// `all_workers` whatever worker serves them, else only those served here. Returns over how
    /// many links it was sent.
    pub fn broadcast(&mut self, payload: &[u8], all_workers: bool) -> usize {
        let mut links = 0;
        for id in self.registry.ids() {
            match self.broadcast_on(id, payload, all_workers) {
                Ok(()) => links += 1,
                Err(_) => self.stats.add(Stat::SendsRefused, 1),
            }
        }
        links
    }

    fn broadcast_on(&mut self, id: LinkId, payload: &[u8], all_workers: bool) -> Result<(), SendError> {
        let link = self.registry.get_mut(id).ok_or(SendError::Closed)?;
        let edge_header = message_header(link, &[payload])?;
        self.admit(id)?;
        let payload_bytes = (edge_header.len() + payload.len()) as u32;
        let mut header = Header::new(LinkType::Broadcast, NO_CONNECTION, payload_bytes);
        header.flags = if all_workers { FLAG_ALL } else { 0 };
        let link = self.registry.get_mut(id).expect("it was just there");
        link.session.push(header, &[&edge_header, payload]);
        self.stats.add(Stat::FanoutsSent, 1);
        self.registry.note_sent(self.current, id);
        Ok(())
    }

    /// Hands a payload, the concatenation of `parts`, to the worker that serves `routing_hash`,
    /// by way of the gateway whose frame is being handled. It is lost when that gateway knows no
    /// worker that is up, or the worker's queue is full: who must know should ask for an answer.
    pub fn relay(&mut self, routing_hash: u64, parts: &[&[u8]]) -> Result<(), SendError> {
        let sent = self.try_relay(routing_hash, parts);
        self.stats.add(if sent.is_ok() { Stat::RelaysSent } else { Stat::SendsRefused }, 1);
        sent
    }

    fn try_relay(&mut self, routing_hash: u64, parts: &[&[u8]]) -> Result<(), SendError> {
        let id = self.current.ok_or(SendError::Closed)?;
        let link = self.registry.get_mut(id).ok_or(SendError::Closed)?;
        let payload_bytes = 8 + parts.iter().map(|part| part.len()).sum::<usize>();
        if payload_bytes > link.session.payload_out_bytes_max() {
            return Err(SendError::TooLong);
        }
        let hash = routing_hash.to_be_bytes();
        let mut all: Vec<&[u8]> = Vec::with_capacity(1 + parts.len());
        all.push(&hash);
        all.extend(parts);
        link.session.push(Header::new(LinkType::Relay, NO_CONNECTION, payload_bytes as u32), &all);
        self.registry.note_sent(self.current, id);
        Ok(())
    }

    /// Closes a connection. Nothing can be sent to it any more;
    /// [`on_close`](crate::Handler::on_close) follows when the gateway has done it. Does nothing
    /// if it is not open. [`Reason::Moved`], which a worker must not give, becomes
    /// [`Reason::WorkerClosed`].
    pub fn close(&mut self, client: Client, reason: Reason, retry_after_ms: u32) {
        let Some(link) = self.registry.get_mut(client.link) else { return };
        if link.connections.shut(client.connection) {
            let reason = if reason == Reason::Moved { Reason::WorkerClosed } else { reason };
            let header = Header::new(LinkType::Close, client.connection, 4).reason(reason);
            link.session.push(header, &[&retry_after_ms.to_be_bytes()]);
            self.registry.note_sent(self.current, client.link);
            self.registry.leave_key(client);
        }
    }

    /// The open connections here whose clients stated `key` in HELLO, oldest first. Connections of
    /// other workers are not among them: [`Self::relay`] reaches those.
    ///
    /// None where [`Handler::finds_clients_by_key`](crate::Handler::finds_clients_by_key) says no.
    ///
    /// ```
    /// # use roost_router::{Context, SendError};
    /// fn notify(ctx: &mut Context<'_>, key: &[u8]) -> Result<(), SendError> {
    ///     for client in ctx.clients_of(key) {
    ///         ctx.send(client, b"you have mail")?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn clients_of(&self, key: &[u8]) -> Clients {
        self.clients_of_hash(routing_hash(key))
    }

    /// As [`Self::clients_of`], for the key with this routing hash ([`Opening::routing_hash`],
    /// [`Reopen::routing_hash`](roost_protocol::link::Reopen::routing_hash)).
    ///
    /// [`Opening::routing_hash`]: crate::Opening::routing_hash
    pub fn clients_of_hash(&self, routing_hash: u64) -> Clients {
        self.registry.clients_of(routing_hash)
    }

    /// Sends a message to all open connections of a key here. Returns to how many it was queued.
    ///
    /// # Errors
    /// It was queued to none: [`SendError::Closed`] where the key has no open connection here, else what
    /// the first of them refused it with.
    pub fn send_to_key(&mut self, key: &[u8], payload: &[u8]) -> Result<usize, SendError> {
        self.send_parts_to_hash(routing_hash(key), &[payload])
    }

    /// As [`Self::send_to_key`], for a routing hash and the concatenation of `parts`.
    pub fn send_parts_to_hash(&mut self, routing_hash: u64, parts: &[&[u8]]) -> Result<usize, SendError> {
        let (mut queued, mut refused) = (0, SendError::Closed);
        for client in self.clients_of_hash(routing_hash) {
            match self.send_parts(client, parts) {
                Ok(()) => queued += 1,
                Err(error) if refused == SendError::Closed => refused = error,
                Err(_) => {}
            }
        }
        if queued > 0 { Ok(queued) } else { Err(refused) }
    }

    /// The session reference of a connection that was accepted.
    pub fn session(&self, client: Client) -> Option<SessionRef> {
        self.registry.get(client.link)?.connections.session(client.connection)
    }

    /// The longest message that the client's gateway takes, in bytes; none if it has gone.
    pub fn message_bytes_max(&self, client: Client) -> Option<u32> {
        Some(self.registry.get(client.link)?.session.frame_bytes_max())
    }

    /// Whether a link's queue takes more, where the frame being handled came over another one:
    /// replies on the same link are always taken, for its frames stop being handled.
    #[inline]
    fn admit(&mut self, to: LinkId) -> Result<(), SendError> {
        if self.current == Some(to) {
            return Ok(());
        }
        let link = self.registry.get(to).ok_or(SendError::Closed)?;
        if link.session.pending_bytes() <= self.pending_bytes_max {
            return Ok(());
        }
        if !link.session.is_flowing() {
            return Err(SendError::Full);
        }
        match self.current {
            Some(current) => self.registry.wait_for(current, to),
            None if self.outside => self.registry.pushes_wait_for(to),
            None => return Err(SendError::Full),
        }
        Ok(())
    }
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("current", &self.current).finish_non_exhaustive()
    }
}

/// The edge header of a MESSAGE with this payload, if the gateway takes one so long.
#[inline]
fn message_header(link: &Link, parts: &[&[u8]]) -> Result<[u8; edge::HEADER_BYTES], SendError> {
    let bytes = parts.iter().map(|part| part.len()).sum::<usize>();
    if bytes > link.session.frame_bytes_max() as usize {
        return Err(SendError::TooLong);
    }
    Ok(edge::Header { frame_type: FrameType::Message, payload_bytes: bytes as u32 }.encode())
}
