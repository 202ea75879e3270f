//! Bytes of a worker become frames, which are handled in the order in which they arrive.

use roost_protocol::{
    edge,
    link::{self, Header, LinkError, LinkType, Refusal, Split, body, handshake, header::HEADER_BYTES},
};

use super::{Link, LinkState, Links, state::kind, state::op_bit};
use crate::{
    core::{
        config::CoreConfig, context::Context, event::LinkDownCause, index::LinkIndex, pool::Class,
        span::Span, stats::Stat,
    },
    op::{Block, Io, Op, errno},
};

/// Answers to PINGs that a link may hold unsent, in bytes, before further ones are left out.
const PONGS_BYTES_MAX: usize = 16 * 1024;

/// What is received on a link.
#[derive(Debug, Default)]
pub(super) struct Rx {
    /// The block that receives, or whose frames are being handled.
    pub(super) block: Option<Block>,
    /// Bytes received into the block.
    pub(super) filled: u32,
    /// Of those, handled.
    pub(super) handled: u32,
    /// Frames stand in the block, but handling waits (for a broadcast to end, or for its turn).
    pub(super) stalled: bool,
}

/// What comes next on a link.
pub(crate) enum Arrival {
    /// A frame about connections, and its payload. [`Link::handled`], [`Link::stall`] or
    /// [`Links::on_error`] is to follow.
    Frame(Header, Span),
    /// The link is up, and its worker begins a session. [`Links::end_session`] is to follow if there is
    /// one, then [`Links::begin_session`].
    NewSession,
    /// Frames are left for the next turn: as many have been handled as are at a stretch.
    More,
    /// Nothing that could be handled now.
    Nothing,
}

impl Links {
    /// The next frame that the link's owner has to handle. `left`: how many frames may still be handled
    /// at a stretch.
    #[inline]
    pub(crate) fn next_frame(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        index: LinkIndex,
        left: &mut u32,
    ) -> Arrival {
        // Nearly all frames are this: in the block as a whole, on a link that is up, about connections.
        if *left > 0
            && let Some((header, payload)) = self[index].first_routed(io, &ctx.cfg)
        {
            *left -= 1;
            return Arrival::Frame(header, payload);
        }
        self.next_of_any(io, ctx, index, left)
    }

    /// The same, whatever stands first.
    #[inline(never)]
    fn next_of_any(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        index: LinkIndex,
        left: &mut u32,
    ) -> Arrival {
        loop {
            match self.take_frame(io, ctx, index, left) {
                Ok(Some(arrival)) => return arrival,
                Ok(None) => {}
                Err(error) => {
                    self[index].on_error(io, ctx, error);
                    return Arrival::Nothing;
                }
            }
        }
    }

    /// Takes a frame out of the link's block. Returns none if the link has handled it itself.
    fn take_frame(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        index: LinkIndex,
        left: &mut u32,
    ) -> Result<Option<Arrival>, LinkError> {
        let link = &mut self[index];
        if matches!(link.state, LinkState::Closing | LinkState::Refusing) {
            return Ok(Some(Arrival::Nothing));
        }
        if *left == 0 {
            link.rx.stalled = true;
            return Ok(Some(Arrival::More));
        }
        let rx = &link.rx;
        let block = rx.block.expect("frames stand in a block");
        let bytes = &io.block(block)[rx.handled as usize..rx.filled as usize];
        let payload_bytes_max = match link.state {
            LinkState::Handshaking => handshake::PAYLOAD_BYTES_MAX,
            _ => ctx.cfg.link_payload_bytes_max(),
        };
        let header = match link::split(bytes, payload_bytes_max)? {
            Split::Frame { header, .. } => header,
            Split::Need { .. } => {
                if link.recycle_block(io, ctx) {
                    link.receive(io, ctx);
                }
                return Ok(Some(Arrival::Nothing));
            }
        };
        let offset = rx.handled + HEADER_BYTES as u32;
        let payload = Span { block, offset, len: header.payload_bytes };
        if link.state != LinkState::Up {
            if self.on_handshake_frame(io, ctx, index, header, payload)? {
                // The frame is handled like any other from now on.
                return Ok(self[index].is_new().then_some(Arrival::NewSession));
            }
            *left -= 1;
            let link = &mut self[index];
            if !matches!(link.state, LinkState::Closing | LinkState::Refusing) {
                link.handled(header, ctx.now_ms);
            }
            return Ok(None);
        }
        *left -= 1;
        if link.on_own_frame(io, ctx, header, payload)? {
            link.handled(header, ctx.now_ms);
            return Ok(None);
        }
        Ok(Some(Arrival::Frame(header, payload)))
    }

    /// Goes on with a link whose frames had to wait, or that had no receive block. Returns whether
    /// there are frames to be handled.
    pub(crate) fn resume(&mut self, io: &mut impl Io, ctx: &mut Context, index: LinkIndex) -> bool {
        let link = &mut self[index];
        if !link.state.is_connected() {
            return false;
        }
        let stalled = std::mem::take(&mut link.rx.stalled);
        if !stalled && link.ops & op_bit::RECV == 0 && link.rx.block.is_none() {
            link.receive(io, ctx);
        }
        stalled
    }

    /// Whether frames that have arrived wait to be handled, on any link.
    pub(crate) fn is_stalled(&self) -> bool {
        self.links.iter().any(|link| link.rx.stalled)
    }

    /// The worker has broken the link protocol.
    pub(crate) fn on_error(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        index: LinkIndex,
        error: LinkError,
    ) {
        self[index].on_error(io, ctx, error);
    }
}

impl Link {
    /// The frame that stands first, if the link is up, and the frame is whole and about connections.
    #[inline]
    fn first_routed(&self, io: &impl Io, cfg: &CoreConfig) -> Option<(Header, Span)> {
        if self.state != LinkState::Up {
            return None;
        }
        let rx = &self.rx;
        let block = rx.block.expect("frames stand in a block");
        let rest = Span { block, offset: rx.handled, len: rx.filled - rx.handled };
        let Ok(Split::Frame { header, .. }) = link::split(rest.bytes(io), cfg.link_payload_bytes_max())
        else {
            return None;
        };
        let payload = Span { block, offset: rx.handled + HEADER_BYTES as u32, len: header.payload_bytes };
        header.link_type.is_sequenced().then_some((header, payload))
    }

    /// The frame that stands first has been handled.
    #[inline]
    pub(crate) fn handled(&mut self, header: Header, now_ms: u64) {
        self.rx.handled += header.frame_bytes() as u32;
        if let Some(session) = &mut self.session
            && header.link_type.is_sequenced()
        {
            session.handled(header.frame_bytes() as u32, now_ms);
        }
    }

    /// The frame that stands first has to wait for a later turn.
    pub(crate) fn stall(&mut self) {
        self.rx.stalled = true;
    }

    /// Handles a frame that is about the link itself. Returns whether it was such a frame.
    #[inline]
    fn on_own_frame(
        &mut self,
        io: &impl Io,
        ctx: &mut Context,
        header: Header,
        payload: Span,
    ) -> Result<bool, LinkError> {
        match header.link_type {
            LinkType::Ack => {
                let position = body::decode_u64(payload.bytes(io))?;
                let before = self.tx.acked_frames();
                self.tx.on_ack(&mut ctx.pools, position)?;
                self.moves.acknowledged(before, position, ctx.now_ms);
            }
            LinkType::Ping | LinkType::Pong if payload.len > edge::PING_BYTES_MAX as u32 => {
                return Err(LinkError::Malformed);
            }
            LinkType::Ping => {
                let pong = Header::new(LinkType::Pong, header.connection, payload.len);
                // Who does not read its answers needs no more of them.
                if self.control.len() < PONGS_BYTES_MAX {
                    self.control.extend(pong.encode());
                    self.control.extend(payload.bytes(io));
                }
            }
            LinkType::Pong => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// A receive has ended. Returns whether there are bytes to handle.
    pub(super) fn on_recv(&mut self, io: &mut impl Io, ctx: &mut Context, result: i32) -> bool {
        match result {
            1.. => {
                ctx.stats.add(Stat::LinkBytesReceived, u64::from(result.cast_unsigned()));
                self.rx.filled += result.cast_unsigned();
                if self.state == LinkState::Up {
                    self.heard_at_ms = ctx.now_ms;
                }
                return true;
            }
            _ if matches!(-result, errno::EINTR | errno::EAGAIN) => self.receive(io, ctx),
            0 => {
                let left = self.draining && self.connections == 0 && self.tx.lag_frames() == 0;
                self.break_off(io, ctx, if left { LinkDownCause::Left } else { LinkDownCause::Eof });
            }
            _ => self.break_off(io, ctx, LinkDownCause::Io { errno: -result }),
        }
        false
    }

    /// Receives behind what stands in the block already.
    pub(super) fn receive(&mut self, io: &mut impl Io, ctx: &mut Context) {
        if self.rx.block.is_none() {
            // All blocks may be held by sends of this very turn; `resume` tries again.
            self.rx.block = ctx.pools.alloc(Class::LinkRx);
        }
        let Some(block) = self.rx.block else { return };
        let offset = self.rx.filled;
        let len = ctx.pools.block_bytes(Class::LinkRx) - offset;
        let sock = self.sock();
        self.submit(io, kind::RECV, Op::Recv { sock, block, offset, len, wait: true });
    }

    /// Moves the incomplete rest to the front of a block that no send is using. Returns whether
    /// there was one.
    fn recycle_block(&mut self, io: &mut impl Io, ctx: &mut Context) -> bool {
        let (rx, pools) = (&mut self.rx, &mut ctx.pools);
        let block = rx.block.expect("frames stand in a block");
        let (from, len) = (rx.handled, rx.filled - rx.handled);
        if pools.holders(block) == 1 {
            if from > 0 && len > 0 {
                let rest = Span { block, offset: from, len }.bytes(io).to_vec();
                io.write(block, 0, &rest);
            }
        } else if let Some(fresh) = pools.alloc(Class::LinkRx) {
            if len > 0 {
                io.copy(block, from, len, fresh, 0);
            }
            pools.release(block);
            rx.block = Some(fresh);
        } else {
            // Every block is being sent from: the sends end with this turn, then it goes on.
            rx.stalled = true;
            return false;
        }
        (rx.handled, rx.filled) = (0, len);
        true
    }

    fn on_error(&mut self, io: &mut impl Io, ctx: &mut Context, error: LinkError) {
        if self.state != LinkState::Up {
            let refusal = match error {
                LinkError::Version(_) => Refusal::Version,
                _ => Refusal::Malformed,
            };
            return self.refuse(io, ctx, refusal, LinkDownCause::Protocol(error));
        }
        ctx.stats.inc(Stat::LinkErrors);
        // The same frame again after a resume: this session will not get any further.
        let position = self.session.map(|session| session.received());
        self.poisoned = position.is_some() && position == self.error_position;
        self.error_position = position;
        self.break_off(io, ctx, LinkDownCause::Protocol(error));
    }
}
