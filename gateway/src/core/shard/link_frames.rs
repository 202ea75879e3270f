//! What workers say: frames of a link, handled in the order in which they arrive.

use roost_protocol::{
    Reason, SessionRef,
    edge::{self, FrameType},
    link::{self, Header, LinkError, LinkType, Refusal, Relay, Split, body, handshake, header},
};

use crate::{
    core::{
        event::LinkDownCause,
        index::Slot,
        link::LinkState,
        pool::Class,
        record::{State, flag},
        shard::{ShardCore, admission::Payload, fanout},
        span::Span,
        stats::Stat,
    },
    op::{Io, errno},
};

/// What became of a link frame.
enum Handled {
    Done,
    /// It must wait; nothing was done.
    Stalled,
}

/// Answers to PINGs that a link may hold unsent, in bytes, before further ones are left out.
const PONGS_BYTES_MAX: usize = 16 * 1024;

impl ShardCore {
    pub(super) fn on_link_recv(&mut self, io: &mut impl Io, index: usize, result: i32) {
        match result {
            1.. => {
                self.ctx.stats.add(Stat::LinkBytesReceived, u64::from(result.cast_unsigned()));
                let link = &mut self.links[index];
                link.rx.filled += result.cast_unsigned();
                if link.state == LinkState::Up {
                    link.heard_at_ms = self.ctx.now_ms;
                }
                // What is left stays for the end of the turn.
                self.handle_link_bytes(io, index);
            }
            _ if matches!(-result, errno::EINTR | errno::EAGAIN) => self.receive_link(io, index),
            0 => {
                let link = &self.links[index];
                let left = link.draining && link.connections == 0 && link.tx.lag_frames() == 0;
                self.break_link(io, index, if left { LinkDownCause::Left } else { LinkDownCause::Eof });
            }
            _ => self.break_link(io, index, LinkDownCause::Io { errno: -result }),
        }
    }

    /// Goes on with links whose frames had to wait, and with those that had no receive block.
    /// Returns whether frames are left that wait for nothing but their turn.
    pub(super) fn run_stalled_links(&mut self, io: &mut impl Io) -> bool {
        let mut busy = false;
        for index in 0..self.links.len() {
            let link = &self.links[index];
            if !link.state.is_connected() {
                continue;
            }
            if link.rx.stalled {
                self.links[index].rx.stalled = false;
                busy |= self.handle_link_bytes(io, index);
            } else if link.ops & crate::core::link::link_bit::RECV == 0 && link.rx.block.is_none() {
                self.receive_link(io, index);
            }
        }
        busy
    }

    /// Handles what stands in the link's block, and receives behind it. Returns whether there is
    /// more than is handled at a stretch: then `run_stalled_links` goes on.
    fn handle_link_bytes(&mut self, io: &mut impl Io, index: usize) -> bool {
        self.handle_link_frames(io, index).unwrap_or_else(|error| {
            self.on_link_error(io, index, error);
            false
        })
    }

    fn handle_link_frames(&mut self, io: &mut impl Io, index: usize) -> Result<bool, LinkError> {
        for _ in 0..self.ctx.cfg.bounds.link_frames {
            let rx = &self.links[index].rx;
            let block = rx.block.expect("frames stand in a block");
            let bytes = &io.block(block)[rx.handled as usize..rx.filled as usize];
            let payload_bytes_max = match self.links[index].state {
                LinkState::Handshaking => handshake::PAYLOAD_BYTES_MAX,
                _ => self.ctx.cfg.link_payload_bytes_max(),
            };
            let (header, frame_bytes) = match link::split(bytes, payload_bytes_max)? {
                Split::Frame { header, .. } => (header, header.frame_bytes() as u32),
                Split::Need { .. } => {
                    if self.recycle_link_block(io, index) {
                        self.receive_link(io, index);
                    }
                    return Ok(false);
                }
            };
            let offset = rx.handled + header::HEADER_BYTES as u32;
            let payload = Span { block, offset, len: header.payload_bytes };
            if let Handled::Stalled = self.handle_link_frame(io, index, header, payload)? {
                self.links[index].rx.stalled = true;
                return Ok(false);
            }
            let link = &mut self.links[index];
            if matches!(link.state, LinkState::Closing | LinkState::Refusing) {
                return Ok(false);
            }
            link.rx.handled += frame_bytes;
            if let Some(session) = &mut link.session
                && header.link_type.is_sequenced()
            {
                session.handled(frame_bytes, self.ctx.now_ms);
            }
        }
        self.links[index].rx.stalled = true;
        Ok(true)
    }

    /// Moves the incomplete rest to the front of a block that no send is using. Returns whether
    /// there was one.
    fn recycle_link_block(&mut self, io: &mut impl Io, index: usize) -> bool {
        let rx = &mut self.links[index].rx;
        let block = rx.block.expect("frames stand in a block");
        let (from, len) = (rx.handled, rx.filled - rx.handled);
        if self.ctx.pools.holders(block) == 1 {
            if from > 0 && len > 0 {
                let rest = io.block(block)[from as usize..][..len as usize].to_vec();
                io.write(block, 0, &rest);
            }
        } else if let Some(fresh) = self.ctx.pools.alloc(Class::LinkRx) {
            if len > 0 {
                io.copy(block, from, len, fresh, 0);
            }
            self.ctx.pools.release(block);
            rx.block = Some(fresh);
        } else {
            // Every block is being sent from: the sends end with this turn, then it goes on.
            rx.stalled = true;
            return false;
        }
        (rx.handled, rx.filled) = (0, len);
        true
    }

    fn on_link_error(&mut self, io: &mut impl Io, index: usize, error: LinkError) {
        if self.links[index].state != LinkState::Up {
            let refusal = match error {
                LinkError::Version(_) => Refusal::Version,
                _ => Refusal::Malformed,
            };
            return self.refuse_link(io, index, refusal, LinkDownCause::Protocol(error));
        }
        self.ctx.stats.inc(Stat::LinkErrors);
        // The same frame again after a resume: this session will not get any further.
        let link = &mut self.links[index];
        let position = link.session.map(|session| session.received);
        link.hopeless = position.is_some() && position == link.error_position;
        link.error_position = position;
        self.break_link(io, index, LinkDownCause::Protocol(error));
    }

    fn handle_link_frame(
        &mut self,
        io: &mut impl Io,
        index: usize,
        header: Header,
        payload: Span,
    ) -> Result<Handled, LinkError> {
        if self.links[index].state != LinkState::Up && !self.on_handshake_frame(io, index, header, payload)? {
            return Ok(Handled::Done);
        }
        match header.link_type {
            LinkType::Data => self.on_data(io, index, header, payload)?,
            LinkType::Ack => {
                let position = body::decode_u64(bytes_of(io, payload))?;
                let link = &mut self.links[index];
                let before = link.tx.acked_frames();
                link.tx.on_ack(&mut self.ctx.pools, position)?;
                link.moves.acknowledged(before, position, self.ctx.now_ms);
            }
            LinkType::Accept => {
                let session = SessionRef(body::decode_u64(bytes_of(io, payload))?);
                self.on_accepted(io, index, header, session);
            }
            LinkType::Reject | LinkType::Close => {
                let retry_after_ms = body::decode_retry_after_ms(bytes_of(io, payload))?;
                self.on_worker_close(io, index, header, retry_after_ms);
            }
            LinkType::Moved if payload.len > 0 => return Err(LinkError::Malformed),
            LinkType::Moved => self.on_moved(io, index, header),
            LinkType::Multicast => self.on_multicast(io, index, payload)?,
            LinkType::Broadcast => return self.on_broadcast(io, index, header, payload),
            LinkType::Relay => self.on_relay(io, payload)?,
            LinkType::Draining if payload.len > 0 => return Err(LinkError::Malformed),
            LinkType::Draining => self.on_draining(index),
            LinkType::Ping | LinkType::Pong if payload.len > edge::PING_BYTES_MAX as u32 => {
                return Err(LinkError::Malformed);
            }
            LinkType::Ping => {
                let pong = Header::new(LinkType::Pong, header.connection, payload.len);
                let link = &mut self.links[index];
                // Who does not read its answers needs no more of them.
                if link.control.len() < PONGS_BYTES_MAX {
                    link.control.extend(pong.encode());
                    link.control.extend(&bytes_of(io, payload)[..pong.payload_bytes as usize]);
                }
            }
            LinkType::Pong => {}
            other => return Err(LinkError::Unexpected(other)),
        }
        Ok(Handled::Done)
    }

    /// The connection that a frame of this worker is about, if it is this worker's. One that the
    /// worker had before it failed is not, until it has been given back.
    fn find_routed(&self, index: usize, header: Header) -> Option<Slot> {
        let slot = self.connections.find(header.connection)?;
        let hot = self.hot(slot);
        (hot.has_session() && usize::from(hot.worker()) == index && !self.awaits_failover(slot))
            .then_some(slot)
    }

    fn count_stale(&self) {
        self.ctx.stats.inc(Stat::LinkFramesStale);
    }

    fn on_data(
        &mut self,
        io: &mut impl Io,
        index: usize,
        header: Header,
        payload: Span,
    ) -> Result<(), LinkError> {
        self.check_message(io, payload)?;
        match self.find_routed(index, header) {
            Some(slot) if self.hot(slot).is_open() => {
                self.ctx.stats.inc(Stat::MessagesDelivered);
                self.queue_span(io, slot, payload);
            }
            _ => self.count_stale(),
        }
        Ok(())
    }

    /// What a worker wants delivered must be one whole MESSAGE.
    fn check_message(&self, io: &impl Io, payload: Span) -> Result<(), LinkError> {
        let bytes = bytes_of(io, payload);
        let Some(&head) = bytes.first_chunk::<{ edge::HEADER_BYTES }>() else {
            return Err(LinkError::Malformed);
        };
        match edge::Header::decode(head, self.ctx.cfg.frame_bytes_max) {
            Ok(header) if header.frame_type == FrameType::Message && header.frame_bytes() == bytes.len() => {
                Ok(())
            }
            _ => Err(LinkError::Malformed),
        }
    }

    fn on_accepted(&mut self, io: &mut impl Io, index: usize, header: Header, session: SessionRef) {
        let unsent = self.unsent_opens.contains(&header.connection.to_bits());
        match self.find_routed(index, header) {
            Some(slot) if self.hot(slot).state() == State::Opening && !unsent => {
                self.connections.welcome(io, &mut self.ctx, up!(self), slot, session);
                self.settle(io, slot);
            }
            _ => self.count_stale(),
        }
    }

    fn on_worker_close(&mut self, io: &mut impl Io, index: usize, header: Header, retry_after_ms: u32) {
        let Some(slot) = self.find_routed(index, header) else { return self.count_stale() };
        let default = match header.link_type {
            LinkType::Reject => Reason::WorkerRejected,
            _ => Reason::WorkerClosed,
        };
        let reason = match header.aux_reason() {
            stated if header.aux != 0 && stated.may_be_stated() => stated,
            _ => default,
        };
        self.close(io, slot, reason, Some(retry_after_ms));
    }

    fn on_multicast(&mut self, io: &mut impl Io, index: usize, payload: Span) -> Result<(), LinkError> {
        let (ids, frame) = body::split_multicast(bytes_of(io, payload))?;
        let ids_offset = payload.offset + 4;
        let frame =
            Span { block: payload.block, offset: ids_offset + ids.len() as u32, len: frame.len() as u32 };
        let count = ids.len() as u32 / 8;
        self.check_message(io, frame)?;
        for i in 0..count {
            let id = &io.block(payload.block)[(ids_offset + i * 8) as usize..][..8];
            let id = u64::from_be_bytes(id.try_into().expect("8 bytes"));
            let connection = roost_protocol::ConnectionId::from_bits(id);
            let header = Header::new(LinkType::Multicast, connection, 0);
            match self.find_routed(index, header) {
                Some(slot) if self.hot(slot).is_open() => {
                    self.ctx.stats.inc(Stat::FanoutDeliveries);
                    self.queue_span(io, slot, frame);
                }
                _ => self.count_stale(),
            }
        }
        Ok(())
    }

    fn on_broadcast(
        &mut self,
        io: &mut impl Io,
        index: usize,
        header: Header,
        payload: Span,
    ) -> Result<Handled, LinkError> {
        self.check_message(io, payload)?;
        let Some(block) = self.ctx.pools.alloc(Class::Fanout) else { return Ok(Handled::Stalled) };
        io.copy(payload.block, payload.offset, payload.len, block, 0);
        self.fanouts.push_back(fanout::Fanout {
            span: Span { block, offset: 0, len: payload.len },
            only_worker: (header.flags & header::FLAG_ALL == 0).then_some(index as u8),
            cursor: 0,
        });
        Ok(Handled::Done)
    }

    /// RELAY goes to the worker that owns the hash, which may be the one that sent it.
    fn on_relay(&mut self, io: &mut impl Io, payload: Span) -> Result<(), LinkError> {
        let relay = Relay::decode(bytes_of(io, payload))?;
        let Some(worker) = self.route_any(relay.routing_hash) else {
            self.ctx.stats.inc(Stat::RelaysDropped);
            return Ok(());
        };
        let none = roost_protocol::ConnectionId::from_bits(0);
        let header = Header::new(LinkType::Relay, none, payload.len);
        let link = &self.links[usize::from(worker)];
        let window_bytes = link.session.map_or(0, |session| session.window_bytes);
        let much = link.tx.retained_bytes() + u64::from(payload.len) > 2 * u64::from(window_bytes);
        let fits =
            link.tx.fits(&self.ctx.pools, header.frame_bytes() as u32) && !self.ctx.pools.link_tx_is_tight();
        if much || !fits || link.overrun {
            // Two workers that wait for each other to read would wait for ever.
            self.ctx.stats.inc(Stat::RelaysDropped);
            return Ok(());
        }
        self.append(io, usize::from(worker), header, Payload::Span(payload));
        self.ctx.stats.inc(Stat::RelaysForwarded);
        Ok(())
    }

    fn on_moved(&mut self, io: &mut impl Io, index: usize, header: Header) {
        match self.find_routed(index, header) {
            Some(slot) if self.hot(slot).has(flag::MOVING) => self.finish_move(io, slot),
            _ => self.count_stale(),
        }
    }
}

fn bytes_of(io: &impl Io, span: Span) -> &[u8] {
    &io.block(span.block)[span.offset as usize..][..span.len as usize]
}
