//! What a handler can do.

use std::fmt;

use roost_protocol::{
    ConnectionId, SessionRef,
    edge::{self, FrameType},
    hash::routing_hash,
    link::{
        HEADER_BYTES, Header, LinkType,
        header::{FLAG_ALL, FLAG_DIRECT, FLAG_TEXT},
    },
};

use super::{
    budget::{Budget, Limit},
    connections::Phase,
    directory::Clients,
    registry::{Link, Registry},
    timers::Timers,
};
use crate::{
    config::WorkerConfig,
    id::{Client, LinkId, Origin},
    session::Gateway,
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
    /// A bound is reached, and this one says which.
    #[error("{}", .0.text())]
    Full(Limit),
    /// The payload is longer than the gateway's `frame_bytes_max`.
    #[error("the payload is longer than the gateway allows")]
    TooLong,
}

/// A handler's way to its clients, for the time of one call.
///
/// Everything is queued and leaves in order per link; nothing blocks. When a queue grows beyond
/// `pending_bytes_max`, the worker stops handling the frames that fill it until the gateway has
/// caught up.
///
/// One call may queue [`call_bytes_max`](WorkerConfig::call_bytes_max) bytes in all, link headers included,
/// and one frame on each link in any case. So no link's queue grows beyond `pending_bytes_max` and the larger
/// of `call_bytes_max` and one frame. What is beyond is refused with [`SendError::Full`]. Answers that the
/// protocol asks for (accept, reject, close) are never refused, nor counted.
///
/// ```
/// # use roost_router::{Client, Context, Limit, SendError};
/// /// Sends what fits into this call, and gives back where to go on.
/// fn send_history(ctx: &mut Context<'_>, client: Client, messages: &[Vec<u8>]) -> usize {
///     let refused = messages.iter().position(|message| {
///         matches!(ctx.send(client, message), Err(SendError::Full(Limit::Queue | Limit::Call)))
///     });
///     refused.unwrap_or(messages.len())
/// }
/// ```
pub struct Context<'a> {
    pub(super) registry: &'a mut Registry,
    pub(super) stats: &'a Stats,
    pub(super) timers: &'a mut Timers,
    pub(super) config: &'a WorkerConfig,
    pub(super) budget: Budget,
    /// The link whose frame is being handled; none while the worker itself closes connections.
    pub(super) current: Option<LinkId>,
    /// Another thread pushes: it waits for queues as the frames of a link do.
    pub(super) outside: bool,
    /// The message being handled is marked as text.
    pub(super) text: bool,
}

impl Context<'_> {
    /// Sends a message to a client.
    ///
    /// ```
    /// # use roost_router::{Client, Context, SendError};
    /// fn greet(ctx: &mut Context<'_>, client: Client, name: &str) -> Result<(), SendError> {
    ///     ctx.send(client, b"hello")?;
    ///     ctx.send_parts(client, &[b"you are ", name.as_bytes()])
    /// }
    /// ```
    ///
    /// # Errors
    /// The connection is not open here, the payload is too long for its gateway, or a bound is reached. What
    /// is refused is counted in [`Stat::SendsRefused`].
    #[inline]
    pub fn send(&mut self, client: Client, payload: &[u8]) -> Result<(), SendError> {
        self.send_parts(client, &[payload])
    }

    /// Sends a message that is the concatenation of `parts`.
    #[inline]
    pub fn send_parts(&mut self, client: Client, parts: &[&[u8]]) -> Result<(), SendError> {
        self.send_flagged(client, 0, parts)
    }

    /// Sends a message that is marked as text, for framings that tell it from bytes. A client of the
    /// edge protocol gets it like any other.
    pub fn send_text(&mut self, client: Client, text: &str) -> Result<(), SendError> {
        self.send_flagged(client, FLAG_TEXT, &[text.as_bytes()])
    }

    #[inline]
    fn send_flagged(&mut self, client: Client, flags: u8, parts: &[&[u8]]) -> Result<(), SendError> {
        let sent = self.try_send(client, flags, parts);
        self.stats.add(if sent.is_ok() { Stat::MessagesSent } else { Stat::SendsRefused }, 1);
        sent
    }

    #[inline]
    fn try_send(&mut self, client: Client, flags: u8, parts: &[&[u8]]) -> Result<(), SendError> {
        let link = self.registry.get_mut(client.link).ok_or(SendError::Closed)?;
        if link.connections.phase(client.connection) != Some(Phase::Open) {
            return Err(SendError::Closed);
        }
        let edge_header = message_header(link, parts)?;
        let payload_bytes = edge_header.len() + parts.iter().map(|part| part.len()).sum::<usize>();
        self.admit(client.link, HEADER_BYTES + payload_bytes)?;
        let link = self.registry.get_mut(client.link).expect("it was just there");
        let header = Header::new(LinkType::Data, client.connection, payload_bytes as u32).flags(flags);
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
    /// here, whose gateway takes payloads of this size and has room. A call of many clients may take more
    /// than [`call_bytes_max`](WorkerConfig::call_bytes_max): it is queued for as many of them as fit.
    ///
    /// ```
    /// # use roost_router::{Client, Context};
    /// fn tell(ctx: &mut Context<'_>, players: &[Client]) -> bool {
    ///     ctx.multicast(players, b"your turn") == players.len()
    /// }
    /// ```
    pub fn multicast(&mut self, clients: &[Client], payload: &[u8]) -> usize {
        self.multicast_flagged(clients, 0, payload)
    }

    /// As [`Self::multicast`], marked as text; see [`Self::send_text`].
    pub fn multicast_text(&mut self, clients: &[Client], text: &str) -> usize {
        self.multicast_flagged(clients, FLAG_TEXT, text.as_bytes())
    }

    fn multicast_flagged(&mut self, clients: &[Client], flags: u8, payload: &[u8]) -> usize {
        let mut clients: Vec<Client> = clients.to_vec();
        clients.sort_unstable_by_key(|client| (client.link.index, client.link.serial, client.connection));
        clients.dedup();
        let mut queued = 0;
        for group in clients.chunk_by(|a, b| a.link == b.link) {
            let ids: Vec<u8> = group
                .iter()
                .filter(|&&client| self.registry.is_open(client))
                .flat_map(|client| client.connection.to_bits().to_be_bytes())
                .collect();
            queued += self.multicast_on(group[0].link, &ids, flags, payload).unwrap_or(0);
        }
        self.stats.add(Stat::SendsRefused, (clients.len() - queued) as u64);
        queued
    }

    /// Sends one message to the open connections of a link with these ids. Gives how many of them it was
    /// queued for: fewer than all where a bound was reached on the way.
    pub(super) fn multicast_on(
        &mut self,
        id: LinkId,
        ids: &[u8],
        flags: u8,
        payload: &[u8],
    ) -> Result<usize, SendError> {
        let link = self.registry.get(id).ok_or(SendError::Closed)?;
        let edge_header = message_header(link, &[payload])?;
        let fixed_bytes = COUNT_BYTES + edge_header.len() + payload.len();
        let ids_bytes_max = (link.session.payload_out_bytes_max() - fixed_bytes) / ID_BYTES * ID_BYTES;
        let mut queued = 0;
        for ids in ids.chunks(ids_bytes_max) {
            let payload_bytes = fixed_bytes + ids.len();
            match self.admit(id, HEADER_BYTES + payload_bytes) {
                Ok(()) => {}
                Err(error) if queued == 0 => return Err(error),
                Err(_) => break,
            }
            let link = self.registry.get_mut(id).expect("it was just there");
            let count = ids.len() / ID_BYTES;
            let header = Header::new(LinkType::Multicast, NO_CONNECTION, payload_bytes as u32).flags(flags);
            link.session.push(header, &[&(count as u32).to_be_bytes(), ids, &edge_header, payload]);
            self.stats.add(Stat::FanoutsSent, 1);
            queued += count;
        }
        self.registry.note_sent(self.current, id);
        Ok(queued)
    }

    /// Sends one message to all connections of all gateways that have a link here: with
    /// `all_workers` whatever worker serves them, else only those served here. Returns over how
    /// many links it was sent.
    ///
    /// ```
    /// # use roost_router::Context;
    /// fn announce(ctx: &mut Context<'_>) -> usize {
    ///     ctx.broadcast(b"maintenance at noon", true)
    /// }
    /// ```
    pub fn broadcast(&mut self, payload: &[u8], all_workers: bool) -> usize {
        self.broadcast_flagged(0, payload, all_workers)
    }

    /// As [`Self::broadcast`], marked as text; see [`Self::send_text`].
    pub fn broadcast_text(&mut self, text: &str, all_workers: bool) -> usize {
        self.broadcast_flagged(FLAG_TEXT, text.as_bytes(), all_workers)
    }

    fn broadcast_flagged(&mut self, flags: u8, payload: &[u8], all_workers: bool) -> usize {
        let flags = if all_workers { flags | FLAG_ALL } else { flags };
        let mut links = 0;
        for id in self.registry.ids() {
            match self.broadcast_on(id, flags, payload) {
                Ok(()) => links += 1,
                Err(_) => self.stats.add(Stat::SendsRefused, 1),
            }
        }
        links
    }

    fn broadcast_on(&mut self, id: LinkId, flags: u8, payload: &[u8]) -> Result<(), SendError> {
        let link = self.registry.get_mut(id).ok_or(SendError::Closed)?;
        let edge_header = message_header(link, &[payload])?;
        let payload_bytes = edge_header.len() + payload.len();
        self.admit(id, HEADER_BYTES + payload_bytes)?;
        let header = Header::new(LinkType::Broadcast, NO_CONNECTION, payload_bytes as u32).flags(flags);
        let link = self.registry.get_mut(id).expect("it was just there");
        link.session.push(header, &[&edge_header, payload]);
        self.stats.add(Stat::FanoutsSent, 1);
        self.registry.note_sent(self.current, id);
        Ok(())
    }

    /// Hands a payload, the concatenation of `parts`, to the worker that serves `routing_hash`,
    /// by way of the gateway whose frame is being handled. It is lost when that gateway knows no
    /// worker that is up, or the worker's queue is full: who must know should ask for an answer.
    ///
    /// ```
    /// # use roost_router::{Context, SendError};
    /// # use roost_protocol::hash::routing_hash;
    /// fn pass_on(ctx: &mut Context<'_>, key: &[u8], payload: &[u8]) -> Result<(), SendError> {
    ///     ctx.relay(routing_hash(key), &[b"note: ", payload])
    /// }
    /// ```
    ///
    /// # Errors
    /// No frame is being handled ([`SendError::Closed`]), the payload is too long, or a bound is reached.
    pub fn relay(&mut self, routing_hash: u64, parts: &[&[u8]]) -> Result<(), SendError> {
        let over = self.current.ok_or(SendError::Closed);
        self.relay_over(over, Header::new(LinkType::Relay, NO_CONNECTION, 0), routing_hash, parts)
    }

    /// Hands a payload, the concatenation of `parts`, to the very session of a worker that relayed
    /// something here: `origin` of [`on_relay`](crate::Handler::on_relay). It is lost when that session
    /// has ended, or its queue is full.
    pub fn relay_back(&mut self, origin: Origin, parts: &[&[u8]]) -> Result<(), SendError> {
        let header = Header::new(LinkType::Relay, ConnectionId::from_bits(origin.session), 0);
        self.relay_over(Ok(origin.link), header.flags(FLAG_DIRECT), 0, parts)
    }

    /// Hands a payload, the concatenation of `parts`, to all other workers that have a link with the
    /// gateway shard whose frame is being handled. It is lost for those whose queue is full.
    pub fn relay_all(&mut self, parts: &[&[u8]]) -> Result<(), SendError> {
        let over = self.current.ok_or(SendError::Closed);
        self.relay_over(over, Header::new(LinkType::Relay, NO_CONNECTION, 0).flags(FLAG_ALL), 0, parts)
    }

    fn relay_over(
        &mut self,
        over: Result<LinkId, SendError>,
        header: Header,
        routing_hash: u64,
        parts: &[&[u8]],
    ) -> Result<(), SendError> {
        let sent = over.and_then(|id| self.try_relay(id, header, routing_hash, parts));
        self.stats.add(if sent.is_ok() { Stat::RelaysSent } else { Stat::SendsRefused }, 1);
        sent
    }

    fn try_relay(
        &mut self,
        id: LinkId,
        mut header: Header,
        routing_hash: u64,
        parts: &[&[u8]],
    ) -> Result<(), SendError> {
        let link = self.registry.get(id).ok_or(SendError::Closed)?;
        let payload_bytes = 8 + parts.iter().map(|part| part.len()).sum::<usize>();
        if payload_bytes > link.session.payload_out_bytes_max() {
            return Err(SendError::TooLong);
        }
        self.admit(id, HEADER_BYTES + payload_bytes)?;
        header.payload_bytes = payload_bytes as u32;
        let hash = routing_hash.to_be_bytes();
        let mut all: Vec<&[u8]> = Vec::with_capacity(1 + parts.len());
        all.push(&hash);
        all.extend(parts);
        let link = self.registry.get_mut(id).expect("it was just there");
        link.session.push(header, &all);
        self.registry.note_sent(self.current, id);
        Ok(())
    }

    /// The open connections here whose clients stated `key` in HELLO, or were accepted as of its
    /// routing hash, oldest first. Connections of other workers are not among them: [`Self::relay`]
    /// reaches those.
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

    /// The longest message, in bytes, that every gateway with a session here takes, as
    /// [`Self::broadcast`] needs it; none where no gateway has one.
    pub fn message_bytes_max_of_all(&self) -> Option<u32> {
        self.registry.iter().map(|link| link.session.frame_bytes_max()).min()
    }

    /// What the client's gateway states of itself; none if it has gone.
    pub fn gateway(&self, client: Client) -> Option<&Gateway> {
        Some(self.registry.get(client.link)?.session.gateway())
    }

    /// Whether the message being handled is marked as text. One of a client that speaks the edge
    /// protocol never is.
    pub const fn is_text(&self) -> bool {
        self.text
    }

    /// Shows how large topics are.
    pub(super) fn note_topics(&self) {
        let topics = &self.registry.topics;
        self.stats.set(Stat::Topics, topics.count() as u64);
        self.stats.set(Stat::TopicMembers, topics.members() as u64);
        self.stats.set(Stat::TopicBytes, topics.bytes() as u64);
    }

    /// Takes room for a frame on a link. Replies to the gateway whose frame is being handled have what a
    /// call may queue, since its frames stop being handled; so has who waits for the gateway.
    #[inline]
    pub(super) fn admit(&mut self, to: LinkId, frame_bytes: usize) -> Result<(), SendError> {
        let link = self.registry.get_mut(to).ok_or(SendError::Closed)?;
        if !self.budget.allows(frame_bytes, link.last_call) {
            return Err(SendError::Full(Limit::Call));
        }
        if link.session.pending_bytes() > self.config.pending_bytes_max {
            return self.admit_over(to, frame_bytes);
        }
        link.last_call = self.budget.call;
        self.budget.spend(frame_bytes);
        Ok(())
    }

    /// As [`Self::admit`], where the queue has as much as it should have.
    fn admit_over(&mut self, to: LinkId, frame_bytes: usize) -> Result<(), SendError> {
        let bytes_max = self.config.pending_bytes_max.saturating_add(self.config.call_bytes_max);
        let link = self.registry.get_mut(to).ok_or(SendError::Closed)?;
        let has_room = link.session.pending_bytes().saturating_add(frame_bytes) <= bytes_max;
        let is_reply = self.current == Some(to);
        let waits = is_reply || (self.current.is_some() || self.outside) && link.session.is_flowing();
        if !has_room || !waits {
            return Err(SendError::Full(Limit::Queue));
        }
        link.last_call = self.budget.call;
        self.budget.spend(frame_bytes);
        match self.current {
            Some(_) if is_reply => {}
            Some(current) => self.registry.wait_for(current, to),
            None => self.registry.pushes_wait_for(to),
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
