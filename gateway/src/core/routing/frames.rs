//! What workers say about connections, in the order in which it arrives.

use roost_protocol::{
    ConnectionId, Reason,
    edge::{self, FrameType},
    link::{Accept, Ending, Header, LinkError, LinkType, Relay, body, header},
};

use super::Routing;
use crate::{
    core::{
        config::CoreConfig,
        connection::Connections,
        context::Context,
        index::{LinkIndex, Slot, WorkerIndex},
        link::Arrival,
        record::{State, flag},
        span::Span,
        stats::Stat,
    },
    op::Io,
};

/// What became of a link frame.
enum Handled {
    Done,
    /// It must wait; nothing was done.
    Stalled,
}

impl Routing {
    /// Goes on with links whose frames had to wait, and with those that had no receive block.
    /// Returns whether frames are left that wait for nothing but their turn.
    pub(crate) fn run_stalled_links(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        connections: &mut Connections,
    ) -> bool {
        let mut busy = false;
        for link in self.links.indices() {
            if self.links.resume(io, ctx, link) {
                busy |= self.handle_frames(io, ctx, connections, link);
            }
        }
        busy
    }

    /// Handles what stands in the link's block, and receives behind it. Returns whether there is
    /// more than is handled at a stretch: then [`Self::run_stalled_links`] goes on.
    pub(super) fn handle_frames(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        connections: &mut Connections,
        link: LinkIndex,
    ) -> bool {
        let mut left = ctx.cfg.bounds.link_frames;
        loop {
            match self.links.next_frame(io, ctx, link, &mut left) {
                Arrival::Frame(header, payload) => {
                    match self.handle_frame(io, ctx, connections, link.worker(), header, payload) {
                        Ok(Handled::Done) => self.links[link].handled(header, ctx.now_ms),
                        Ok(Handled::Stalled) => {
                            self.links[link].stall();
                            return false;
                        }
                        Err(error) => {
                            self.links.on_error(io, ctx, link, error);
                            return false;
                        }
                    }
                }
                Arrival::NewSession => self.begin_session(io, ctx, connections, link),
                Arrival::More => return true,
                Arrival::Nothing => return false,
            }
        }
    }

    /// A worker is there, with a session that begins: another instance, or one that has forgotten. Its
    /// connections must be reopened.
    fn begin_session(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        connections: &Connections,
        link: LinkIndex,
    ) {
        if self.links[link].has_session() {
            let unacked = self.links.end_session(io, ctx, link);
            self.fail_over(ctx, connections, link.worker(), &unacked);
        }
        self.links.begin_session(ctx, link);
        self.start_rebalance();
    }

    fn handle_frame(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        connections: &mut Connections,
        worker: WorkerIndex,
        header: Header,
        payload: Span,
    ) -> Result<Handled, LinkError> {
        match header.link_type {
            LinkType::Data => {
                check_message(io, &ctx.cfg, payload)?;
                let routed = self.find_routed(connections, worker, header.connection);
                deliver(io, ctx, connections, self, (routed, Stat::MessagesDelivered), payload);
            }
            LinkType::Accept => {
                self.on_accept(io, ctx, connections, (worker, header.connection), payload)?;
            }
            LinkType::Reject | LinkType::Close => {
                self.on_ending(io, ctx, connections, (worker, header), payload)?;
            }
            LinkType::Moved if payload.len > 0 => return Err(LinkError::Malformed),
            LinkType::Moved => match self.find_routed(connections, worker, header.connection) {
                Some(slot) if connections.hot(slot).has(flag::MOVING) => {
                    self.finish_move(io, ctx, connections, slot);
                }
                _ => count_stale(ctx),
            },
            LinkType::Multicast => self.on_multicast(io, ctx, connections, worker, payload)?,
            LinkType::Broadcast => {
                check_message(io, &ctx.cfg, payload)?;
                let only_worker = (header.flags & header::FLAG_ALL == 0).then_some(worker);
                if !self.begin_broadcast(io, ctx, payload, only_worker) {
                    return Ok(Handled::Stalled);
                }
            }
            LinkType::Relay => self.on_relay(io, ctx, (worker, header), payload)?,
            LinkType::Draining if payload.len > 0 => return Err(LinkError::Malformed),
            LinkType::Draining => {
                if self.links[worker.link()].start_draining(ctx) {
                    self.start_rebalance();
                }
            }
            other => return Err(LinkError::Unexpected(other)),
        }
        Ok(Handled::Done)
    }

    /// The connection that a frame of this worker is about, if it is this worker's. One that the
    /// worker had before it failed is not, until it has been given back.
    #[inline]
    fn find_routed(
        &self,
        connections: &Connections,
        worker: WorkerIndex,
        connection: ConnectionId,
    ) -> Option<Slot> {
        let slot = connections.find(connection)?;
        let hot = connections.hot(slot);
        let is_its_own = hot.has_session() && hot.worker() == worker;
        // Who speaks has a session.
        let awaits = self.failovers > 0 && self.awaits_failover(worker, slot.get());
        (is_its_own && !awaits).then_some(slot)
    }

    /// ACCEPT: the client is welcome. The worker may give the connection another routing hash, by which
    /// it may be another worker's: then it moves there at once (SPEC.md 3.6).
    fn on_accept(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        connections: &mut Connections,
        (worker, connection): (WorkerIndex, ConnectionId),
        payload: Span,
    ) -> Result<(), LinkError> {
        // The edge protocol has no subprotocols: one that is stated is not told to the client.
        let Accept { session, routing_hash, .. } = Accept::decode(payload.bytes(io))?;
        let unsent = self.unsent_opens.contains(&connection.to_bits());
        match self.find_routed(connections, worker, connection) {
            Some(slot) if connections.hot(slot).state() == State::Opening && !unsent => {
                let of_open = connections.cold(slot).routing_hash();
                let rekeyed = routing_hash.filter(|&routing_hash| routing_hash != of_open);
                if let Some(routing_hash) = rekeyed {
                    ctx.stats.inc(Stat::ConnectionsRekeyed);
                    connections.rekey(slot, routing_hash);
                }
                connections.welcome(io, ctx, self, slot, session);
                self.settle(io, ctx, connections, (slot, rekeyed.is_some()));
            }
            _ => count_stale(ctx),
        }
        Ok(())
    }

    /// REJECT or CLOSE: the client is told what the worker has for it.
    fn on_ending(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        connections: &mut Connections,
        (worker, header): (WorkerIndex, Header),
        payload: Span,
    ) -> Result<(), LinkError> {
        // A copy: blocks change hands while a connection is closed.
        let mut copy = [0; Ending::PAYLOAD_BYTES_MAX];
        let copy = copy.get_mut(..payload.len as usize).ok_or(LinkError::Malformed)?;
        copy.copy_from_slice(payload.bytes(io));
        let ending = Ending::decode(copy)?;
        match self.find_routed(connections, worker, header.connection) {
            Some(slot) => connections.close(io, ctx, self, slot, (close_reason(header), Some(ending))),
            None => count_stale(ctx),
        }
        Ok(())
    }

    fn on_multicast(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        connections: &mut Connections,
        worker: WorkerIndex,
        payload: Span,
    ) -> Result<(), LinkError> {
        let (ids, frame) = body::split_multicast(payload.bytes(io))?;
        let ids_offset = payload.offset + 4;
        let frame =
            Span { block: payload.block, offset: ids_offset + ids.len() as u32, len: frame.len() as u32 };
        let count = ids.len() as u32 / 8;
        check_message(io, &ctx.cfg, frame)?;
        for i in 0..count {
            let id = &io.block(payload.block)[(ids_offset + i * 8) as usize..][..8];
            let id = u64::from_be_bytes(id.try_into().expect("8 bytes"));
            let routed = self.find_routed(connections, worker, ConnectionId::from_bits(id));
            deliver(io, ctx, connections, self, (routed, Stat::FanoutDeliveries), frame);
        }
        Ok(())
    }

    /// RELAY goes to the worker that owns the hash, which may be the one that sent it; or to the session
    /// that it names; or to all other workers. Two workers that wait for each other to read would wait for
    /// ever: so it is dropped rather than kept.
    fn on_relay(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        (from, header): (WorkerIndex, Header),
        payload: Span,
    ) -> Result<(), LinkError> {
        let Relay { routing_hash, .. } = Relay::decode(payload.bytes(io))?;
        let Some(origin) = self.link(from).origin() else {
            ctx.stats.inc(Stat::RelaysDropped);
            return Ok(());
        };
        let flags = header.flags & (header::FLAG_ALL | header::FLAG_DIRECT);
        let passed_on =
            Header::new(LinkType::Relay, ConnectionId::from_bits(origin), payload.len).flags(flags);
        let mut pass = |routing: &mut Self, to: Option<LinkIndex>| {
            let passed =
                to.is_some_and(|link| routing.links[link].append_or_drop(io, ctx, passed_on, payload));
            ctx.stats.inc(if passed { Stat::RelaysForwarded } else { Stat::RelaysDropped });
        };
        if flags & header::FLAG_ALL != 0 {
            for link in self.links.indices().filter(|link| link.worker() != from) {
                if self.links[link].has_session() {
                    pass(self, Some(link));
                }
            }
        } else if flags & header::FLAG_DIRECT != 0 {
            match self.links.with_origin(header.origin()) {
                Some(link) => pass(self, Some(link)),
                None => ctx.stats.inc(Stat::RelaysOriginGone),
            }
        } else {
            let owner = self.route_any(routing_hash).map(WorkerIndex::link);
            pass(self, owner);
        }
        Ok(())
    }
}

/// Sends a MESSAGE to a connection if it is there and open, and counts it.
#[inline]
fn deliver(
    io: &mut impl Io,
    ctx: &mut Context,
    connections: &mut Connections,
    routing: &mut Routing,
    (routed, stat): (Option<Slot>, Stat),
    message: Span,
) {
    match routed {
        Some(slot) if connections.hot(slot).is_open() => {
            ctx.stats.inc(stat);
            connections.queue_span(io, ctx, routing, slot, message);
        }
        _ => count_stale(ctx),
    }
}

fn count_stale(ctx: &Context) {
    ctx.stats.inc(Stat::LinkFramesStale);
}

/// What a worker wants delivered must be one whole MESSAGE.
fn check_message(io: &impl Io, cfg: &CoreConfig, payload: Span) -> Result<(), LinkError> {
    let bytes = payload.bytes(io);
    let Some(&head) = bytes.first_chunk::<{ edge::HEADER_BYTES }>() else {
        return Err(LinkError::Malformed);
    };
    match edge::Header::decode(head, cfg.frame_bytes_max) {
        Ok(header) if header.frame_type == FrameType::Message && header.frame_bytes() == bytes.len() => {
            Ok(())
        }
        _ => Err(LinkError::Malformed),
    }
}

/// The reason that REJECT or CLOSE states, or that of its type.
fn close_reason(header: Header) -> Reason {
    let default = match header.link_type {
        LinkType::Reject => Reason::WorkerRejected,
        _ => Reason::WorkerClosed,
    };
    match header.aux_reason() {
        stated if header.aux != 0 && stated.may_be_stated() => stated,
        _ => default,
    }
}
