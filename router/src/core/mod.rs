//! A whole worker, sans-IO: its sessions, its handler, and what the frames mean.
//!
//! The server tells it what happened ([`Core::hello`], [`Core::proof`], [`Core::receive`],
//! [`Core::detach`], [`Core::tick`]) and asks which links have something to send
//! ([`Core::take_dirty`], [`Core::fill`]).

mod budget;
mod connections;
mod context;
mod directory;
mod handler;
mod outside;
mod presence;
mod publish;
mod registry;
mod sessions;
#[cfg(test)]
mod tests;
mod time;
mod timers;
mod topics;

use std::sync::Arc;

use roost_protocol::{
    InstanceId,
    link::{
        self, Header, LinkError, LinkHello, LinkType, Relay, Split, body,
        handshake::NONCE_BYTES,
        header::{FLAG_RESENT, FLAG_TEXT},
    },
};

use budget::Budget;
pub use budget::Limit;
pub use context::{Context, SendError};
pub use directory::Clients;
pub use handler::{Closed, Handler, Opened, Opening};
use registry::{Peer, Registry};
use timers::Timers;
pub use timers::{TimerId, TimersFull};
pub use topics::{JoinError, TOPIC_NAME_BYTES_MAX};

use crate::{
    config::WorkerConfig,
    id::{Client, LinkId, Origin},
    session::{
        Disposition, Due, Position,
        handshake::{self, Handshake, Identity, Resumed},
    },
    stats::{Stat, Stats},
};

/// Bytes of frames set aside that are handled at a time, before other links get their turn.
const HELD_SLICE_BYTES: usize = 256 * 1024;

/// How long a draining worker waits for a gateway whose TCP connection is broken: some redials.
const DRAIN_AWAY_MS: u64 = 5_000;

/// One TCP connection of a session; outlived by the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The session.
    pub link: LinkId,
    epoch: u32,
}

/// Why a TCP connection does not carry a link (any more).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkFailure {
    /// The handshake failed; the peer is told.
    #[error("refused: {0}")]
    Refused(#[from] link::Refusal),
    /// The peer broke the protocol.
    #[error("protocol error: {0}")]
    Protocol(#[from] LinkError),
    /// Another TCP connection carries the session now.
    #[error("superseded by a newer connection of the same gateway shard")]
    Superseded,
    /// The session changed between LINK_WELCOME and LINK_PROOF.
    #[error("the session changed during the handshake")]
    Raced,
    /// There are `sessions_max` sessions.
    #[error("as many sessions as allowed")]
    TooManySessions,
}

/// A worker without its sockets.
#[derive(Debug)]
pub struct Core<H> {
    config: WorkerConfig,
    instance: InstanceId,
    handler: H,
    registry: Registry,
    stats: Arc<Stats>,
    timers: Timers,
    draining: bool,
    /// Links whose TCP connection is dead or useless.
    broken: Vec<LinkId>,
}

impl<H: Handler> Core<H> {
    /// A worker without sessions. `instance` must be random.
    pub fn new(config: WorkerConfig, instance: InstanceId, handler: H, stats: Arc<Stats>) -> Self {
        let by_key = handler.finds_clients_by_key() || config.connections_per_key_max > 0;
        Self {
            instance,
            registry: Registry::new(by_key, config.topic_bytes_max),
            timers: Timers::new(config.timers_max, handler.tick_ms()),
            config,
            handler,
            stats,
            draining: false,
            broken: Vec::new(),
        }
    }

    fn identity(&self) -> Identity<'_> {
        Identity {
            worker: self.instance,
            secret: self.config.secret.as_deref(),
            window_bytes: self.config.window_bytes,
        }
    }

    /// LINK_HELLO has arrived on a new TCP connection: the handshake, and the frame to answer
    /// with. Changes nothing yet, for the peer has not proved anything.
    pub fn hello(
        &self,
        payload: &[u8],
        nonce: [u8; NONCE_BYTES],
    ) -> Result<(Handshake, Vec<u8>), LinkFailure> {
        let hello = handshake::read_hello(payload)?;
        let resumed = self.resumable(&hello);
        if resumed.is_none() && self.registry.len() >= self.config.sessions_max {
            return Err(LinkFailure::TooManySessions);
        }
        Ok(Handshake::welcome(&self.identity(), hello, payload, resumed, nonce))
    }

    fn resumable(&self, hello: &LinkHello) -> Option<Resumed> {
        if hello.expected_worker != self.instance {
            return None;
        }
        let link = self.registry.get(self.registry.find(peer_of(hello))?)?;
        let position = link.session.resume_position(hello)?;
        Some(Resumed { link: link.id, epoch: link.epoch, position })
    }

    /// LINK_PROOF has arrived: from now on this TCP connection carries the session, and an
    /// earlier one does not.
    pub fn proof(
        &mut self,
        handshake: &Handshake,
        payload: &[u8],
        now_ms: u64,
    ) -> Result<Attachment, LinkFailure> {
        self.time_is(now_ms);
        handshake.verify(&self.identity(), payload)?;
        let peer = peer_of(&handshake.hello);
        // The answer must still be the same. Only the position may have gone on: what the last TCP
        // connection has brought meanwhile is known as duplicate when it comes again.
        let same = |now: Resumed, then: Resumed| (now.link, now.epoch) == (then.link, then.epoch);
        let link = match (handshake.resumed, self.resumable(&handshake.hello)) {
            (Some(then), Some(now)) if same(now, then) => {
                self.stats.add(Stat::SessionsResumed, 1);
                then.link
            }
            (Some(_), _) | (None, Some(_)) => return Err(LinkFailure::Raced),
            (None, None) => {
                if let Some(known) = self.registry.find(peer) {
                    self.stats.add(Stat::SessionsReplaced, 1);
                    self.discard(known);
                } else if self.registry.len() >= self.config.sessions_max {
                    return Err(LinkFailure::TooManySessions);
                }
                self.stats.add(Stat::SessionsStarted, 1);
                self.stats.add(Stat::Sessions, 1);
                self.registry.insert(peer, now_ms)
            }
        };
        let stated = handshake.resumed.map_or(Position::default(), |resumed| resumed.position);
        let mut hello = handshake.hello;
        if handshake.resumed.is_none() {
            hello.received_position = 0;
        }
        let draining = self.draining;
        let entry = self.registry.get_mut(link).expect("it was found or made");
        if !entry.session.is_attached() {
            self.stats.add(Stat::Links, 1);
        }
        let attached = entry.session.attach(&hello, stated, handshake.window_bytes, now_ms);
        assert!(attached, "the position was checked");
        if draining {
            entry.session.push_draining();
        }
        entry.epoch = entry.epoch.wrapping_add(1);
        let epoch = entry.epoch;
        self.registry.mark_dirty(link);
        Ok(Attachment { link, epoch })
    }

    /// Bytes have arrived on a link. Returns how many were taken: all whole frames. The rest must
    /// come again in front of what arrives next.
    pub fn receive(
        &mut self,
        attachment: Attachment,
        bytes: &[u8],
        now_ms: u64,
    ) -> Result<usize, LinkFailure> {
        self.time_is(now_ms);
        let id = attachment.link;
        let entry = self.current(attachment)?;
        entry.session.note_received(now_ms);
        let payload_bytes_max = entry.session.payload_bytes_max();
        let (mut rest, mut acked) = (bytes, false);
        let mut blocked = self.registry.is_blocked(id, self.config.pending_bytes_max);
        while let Split::Frame { header, payload } = link::split(rest, payload_bytes_max)? {
            rest = &rest[header.frame_bytes()..];
            let entry = self.registry.get_mut(id).expect("a link stays while it is received from");
            match entry.session.receive(&header, payload, blocked)? {
                Disposition::Handle => {
                    self.handle(id, &header, payload)?;
                    blocked = self.registry.is_blocked(id, self.config.pending_bytes_max);
                }
                Disposition::Held => self.stats.add(Stat::FramesHeld, 1),
                Disposition::Duplicate => self.stats.add(Stat::DuplicatesDropped, 1),
                Disposition::Done => acked |= header.link_type == LinkType::Ack,
            }
        }
        self.registry.mark_handled(id);
        if acked && self.registry.len() > 1 {
            self.registry.mark_all_owing_dirty();
        }
        Ok(bytes.len() - rest.len())
    }

    /// Handles frames that were set aside and need not wait any more, a bounded number. Says
    /// whether there are more.
    pub fn pump(&mut self) -> bool {
        let mut more = false;
        for id in self.registry.ids() {
            if !self.registry.get(id).is_some_and(|link| link.session.has_held())
                || self.registry.is_blocked(id, self.config.pending_bytes_max)
            {
                continue;
            }
            more |= self.pump_link(id);
        }
        more
    }

    fn pump_link(&mut self, id: LinkId) -> bool {
        let entry = self.registry.get_mut(id).expect("the caller looked");
        let payload_bytes_max = entry.session.payload_bytes_max();
        let held = entry.session.take_held();
        let (mut taken, mut blocked) = (0, false);
        while taken < held.len().min(HELD_SLICE_BYTES) && !blocked {
            let Ok(Split::Frame { header, payload }) = link::split(&held[taken..], payload_bytes_max) else {
                unreachable!("only whole frames that decode are set aside");
            };
            taken += header.frame_bytes();
            if let Err(error) = self.handle(id, &header, payload) {
                tracing::warn!(%error, "a gateway broke the link protocol");
                self.stats.add(Stat::LinkErrors, 1);
                self.broken.push(id);
                return false;
            }
            blocked = self.registry.is_blocked(id, self.config.pending_bytes_max);
        }
        let more = taken < held.len() && !blocked;
        self.registry.get_mut(id).expect("handling discards no link").session.put_held(held, taken);
        self.registry.mark_handled(id);
        more
    }

    /// Acts on a sequenced frame of the gateway.
    fn handle(&mut self, link: LinkId, header: &Header, payload: &[u8]) -> Result<(), LinkError> {
        let client = Client { link, connection: header.connection };
        let resent = header.flags & FLAG_RESENT != 0;
        if resent {
            self.stats.add(Stat::ResentReceived, 1);
        }
        match header.link_type {
            LinkType::Data => self.handle_data(client, header, payload)?,
            LinkType::Open => self.handle_open(client, header, payload)?,
            LinkType::Closed if !payload.is_empty() => return Err(LinkError::Malformed),
            LinkType::Closed => self.handle_closed(client, header.aux_reason()),
            LinkType::Reopen => self.handle_reopen(client, payload)?,
            LinkType::Relay => {
                let Relay { routing_hash, payload } = Relay::decode(payload)?;
                self.stats.add(Stat::RelaysReceived, 1);
                let origin = Origin { link, session: header.origin() };
                let (handler, mut ctx) = self.call(Some(link));
                handler.on_relay(&mut ctx, origin, routing_hash, payload);
            }
            other => return Err(LinkError::Unexpected(other)),
        }
        let entry = self.registry.get_mut(link).expect("handling discards no link");
        entry.session.frame_handled(header.frame_bytes());
        Ok(())
    }

    #[inline]
    fn handle_data(&mut self, client: Client, header: &Header, frame: &[u8]) -> Result<(), LinkError> {
        let entry = self.registry.get(client.link).expect("frames come over live links");
        let payload = body::message_payload(frame, entry.session.frame_bytes_max())?;
        if entry.connections.phase(client.connection) != Some(connections::Phase::Open) {
            self.stats.add(Stat::StaleFrames, 1);
            return Ok(());
        }
        self.stats.add(Stat::MessagesHandled, 1);
        let (handler, mut ctx) = self.call(Some(client.link));
        ctx.text = header.flags & FLAG_TEXT != 0;
        handler.on_message(&mut ctx, client, payload, header.flags & FLAG_RESENT != 0);
        Ok(())
    }

    /// Moves to `out` what the link may send now. Empty if there is nothing. Err if the
    /// attachment is not the present one.
    pub fn fill(
        &mut self,
        attachment: Attachment,
        out: &mut Vec<u8>,
        out_bytes_max: usize,
    ) -> Result<(), LinkFailure> {
        self.current(attachment)?;
        if self.registry.fill(attachment.link, out, out_bytes_max) {
            self.stats.add(Stat::AcksSent, 1);
        }
        Ok(())
    }

    /// The links that have something to send since the last call.
    pub fn take_dirty(&mut self) -> Vec<LinkId> {
        self.registry.take_dirty()
    }

    /// Whether frames are set aside on any link.
    pub fn has_held(&self) -> bool {
        self.registry.iter().any(|link| link.session.has_held())
    }

    /// The TCP connection is gone. Does nothing if it was not the present one of its session.
    pub fn detach(&mut self, attachment: Attachment, now_ms: u64) {
        if let Ok(entry) = self.current(attachment) {
            entry.session.detach(now_ms);
            self.stats.sub(Stat::Links, 1);
            // Acknowledgements elsewhere may have waited for this one.
            self.registry.mark_all_owing_dirty();
        }
    }

    /// Time has passed: probes silent links, ends expired sessions.
    pub fn tick(&mut self, now_ms: u64) {
        self.time_is(now_ms);
        let (keepalive_ms, session_ttl_ms) = (self.config.keepalive_ms, self.config.session_ttl_ms);
        for id in self.registry.ids() {
            let entry = self.registry.get_mut(id).expect("only this loop discards links");
            match entry.session.tick(now_ms, keepalive_ms, session_ttl_ms) {
                Due::Nothing => {}
                Due::Write => self.registry.mark_dirty(id),
                Due::Break => self.broken.push(id),
                Due::Expired => {
                    self.stats.add(Stat::SessionsExpired, 1);
                    self.discard(id);
                }
            }
        }
    }

    /// The links whose TCP connection is dead or useless and should be closed.
    pub fn take_broken(&mut self) -> Vec<LinkId> {
        std::mem::take(&mut self.broken)
    }

    /// Asks all gateways, now and when they link up later, to move their connections away.
    pub fn start_draining(&mut self) {
        if std::mem::replace(&mut self.draining, true) {
            return;
        }
        for id in self.registry.ids() {
            self.registry.get_mut(id).expect("it was just there").session.push_draining();
            self.registry.mark_dirty(id);
        }
    }

    /// Whether nothing is left to do here: no connection is open, and whatever was received or
    /// queued has been acknowledged. Gateways that have been away for a while are not waited for;
    /// they fail over.
    pub fn is_drained(&self, now_ms: u64) -> bool {
        self.registry.iter().all(|link| match link.session.detached_ms(now_ms) {
            None => link.connections.count() == 0 && link.session.is_settled(),
            Some(away_ms) => link.connections.count() == 0 || away_ms >= DRAIN_AWAY_MS,
        })
    }

    /// Whether this is the TCP connection that carries its session.
    pub fn is_current(&self, attachment: Attachment) -> bool {
        self.registry
            .get(attachment.link)
            .is_some_and(|link| link.epoch == attachment.epoch && link.session.is_attached())
    }

    fn current(&mut self, attachment: Attachment) -> Result<&mut registry::Link, LinkFailure> {
        self.registry
            .get_mut(attachment.link)
            .filter(|link| link.epoch == attachment.epoch && link.session.is_attached())
            .ok_or(LinkFailure::Superseded)
    }

    /// Ends a session: its connections have gone elsewhere or nowhere.
    fn discard(&mut self, id: LinkId) {
        loop {
            let entry = self.registry.get_mut(id).expect("the caller knows the link");
            let Some(connection) = entry.connections.any() else { break };
            let client = Client { link: id, connection };
            let session = self.registry.remove_connection(client).flatten();
            self.stats.add(Stat::Closes, 1);
            self.stats.sub(Stat::Connections, 1);
            let (handler, mut ctx) = self.call(None);
            ctx.note_topics();
            handler.on_close(&mut ctx, client, session, Closed::Lost);
        }
        let entry = self.registry.get(id).expect("the caller knows the link");
        if entry.session.is_attached() {
            self.stats.sub(Stat::Links, 1);
        }
        self.registry.remove(id);
        self.stats.sub(Stat::Sessions, 1);
        self.registry.mark_all_owing_dirty();
    }

    #[inline]
    fn call(&mut self, current: Option<LinkId>) -> (&mut H, Context<'_>) {
        let budget = Budget::new(self.registry.begin_call(), self.config.call_bytes_max);
        let ctx = Context {
            registry: &mut self.registry,
            stats: &self.stats,
            timers: &mut self.timers,
            config: &self.config,
            budget,
            current,
            outside: false,
            text: false,
        };
        (&mut self.handler, ctx)
    }
}

fn peer_of(hello: &LinkHello) -> Peer {
    Peer { gateway: hello.gateway, shard: hello.shard }
}
