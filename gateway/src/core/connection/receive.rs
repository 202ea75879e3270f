//! Bytes of clients become frames, and frames go to a link.
//!
//! An idle connection is parked on a poll. When it wakes, its bytes are received into a shared
//! buffer and handled at once; only an incomplete frame stays, in a spill.

use roost_protocol::{
    Reason,
    edge::{self, FrameType},
};

use super::{
    Connections, Upstream,
    framing::{Begin, Reply},
    kind,
    lifecycle::State,
    reason_of,
    record::flag,
};
use crate::{
    core::{config::CoreConfig, context::Context, index::Slot, pool::Class, span::Span, stats::Stat},
    op::{Block, Interest, Io, Op, Sock, errno},
};

/// What a closed client may still send before its socket is closed, in bytes.
const DISCARD_BYTES_MAX: u64 = 64 * 1024;

/// Where a whole frame stands.
#[derive(Clone, Copy)]
pub(super) enum Frame {
    Block(Span),
    /// At the front of the connection's spill, this many bytes.
    Spill(u32),
}

impl Connections {
    /// Waits for input without holding any buffer.
    pub(super) fn park(&mut self, io: &mut impl Io, slot: Slot) {
        let sock = Sock::Client(slot.get());
        self.submit(io, slot, kind::POLL_IN, Op::Poll { sock, interest: Interest::Readable });
    }

    pub(super) fn on_poll_in(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        up: &mut impl Upstream,
        slot: Slot,
        result: i32,
    ) {
        let hot = self.hot(slot);
        match hot.state() {
            State::Closing => self.join(io, ctx, slot),
            // Whatever the poll said, the receive will say what there is.
            _ if !hot.has(flag::BLOCKED | flag::RX_WAIT) => self.read(io, ctx, up, slot),
            _ if self.awaits_worker(slot) => self.on_watch(io, ctx, up, slot, result),
            // The end of a watch that was called off; whoever resumes it reads it.
            _ => {}
        }
    }

    pub(super) fn on_recv(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        up: &mut impl Upstream,
        slot: Slot,
        result: i32,
    ) {
        let hot = self.hot(slot);
        let block = Block::new(Class::Rx as u8, hot.rx_block());
        match hot.state() {
            State::Closing => {
                ctx.pools.release(block);
                self.join(io, ctx, slot);
            }
            State::Draining => {
                ctx.pools.release(block);
                self.discard_input(io, ctx, slot, result);
            }
            _ if result > 0 => {
                self.hear(ctx, slot);
                let len = result.cast_unsigned();
                ctx.stats.add(Stat::ClientBytesReceived, u64::from(len));
                let offset = self.kept_bytes(slot);
                let full = offset + len == CoreConfig::RX_BLOCK_BYTES;
                match self.pass_stages(io, ctx, up, slot, Span { block, offset, len }) {
                    Some(span) => self.handle_received(io, ctx, up, slot, span, full),
                    None => {
                        ctx.pools.release(block);
                        self.go_on_reading(io, ctx, up, slot, full);
                    }
                }
            }
            _ => {
                ctx.pools.release(block);
                match result {
                    0 => self.close(io, ctx, up, slot, (Reason::ClientEof, None)),
                    _ if is_passing(result) => self.park(io, slot),
                    _ => {
                        self.set_flag(slot, flag::SHUT);
                        self.close(io, ctx, up, slot, (reason_of(result), None));
                    }
                }
            }
        }
    }

    /// Handles what was received, or the rest of it. The block is let go, or held until the rest is
    /// handled.
    pub(super) fn handle_received(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        up: &mut impl Upstream,
        slot: Slot,
        span: Span,
        full: bool,
    ) {
        match self.handle_bytes(io, ctx, up, slot, span) {
            None => {
                ctx.pools.release(span.block);
                self.go_on_reading(io, ctx, up, slot, full);
            }
            rest => self.postpone(ctx, slot, rest, full),
        }
    }

    /// Handles as many frames as may be at a stretch. Returns what is left for a later turn.
    fn handle_bytes(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        up: &mut impl Upstream,
        slot: Slot,
        mut rest: Span,
    ) -> Option<Span> {
        let framing = self.framing(ctx, slot);
        let mut frames_left = ctx.cfg.bounds.client_frames;
        // An incomplete frame comes first: complete it, and no more.
        while self.hot(slot).spill() != 0 && rest.len > 0 {
            let missing = self.spill_missing(io, ctx, up, slot)?;
            let take = missing.min(rest.len);
            if !self.spill(io, ctx, up, slot, Span { len: take, ..rest }) {
                return None;
            }
            rest.offset += take;
            rest.len -= take;
            if take == missing && !self.handle_spill(io, ctx, up, slot, &mut frames_left) {
                break;
            }
        }
        while rest.len > 0 && self.hot(slot).is_reading() && !self.held(ctx, up, slot) {
            if frames_left == 0 {
                return Some(rest);
            }
            frames_left -= 1;
            let bytes = rest.bytes(io);
            match framing.begin(bytes, ctx.cfg.frame_bytes_max) {
                Begin::Frame { frame_type, bytes } if bytes <= rest.len => {
                    let frame = Span { len: bytes, ..rest };
                    self.handle_frame(io, ctx, up, slot, frame_type, Frame::Block(frame));
                    rest.offset += bytes;
                    rest.len -= bytes;
                }
                Begin::Frame { .. } | Begin::Part { .. } => match self.refusal(ctx, slot, bytes) {
                    Some(reason) => {
                        self.refuse(io, ctx, up, slot, reason);
                        return None;
                    }
                    None => break,
                },
                Begin::Refused(reason) => {
                    let reason = self.refusal(ctx, slot, bytes).unwrap_or(reason);
                    self.refuse(io, ctx, up, slot, reason);
                    return None;
                }
            }
        }
        if rest.len > 0 && self.hot(slot).reads() {
            self.spill(io, ctx, up, slot, rest);
        }
        None
    }

    /// Bytes that the spill's first frame lacks; none after a bad header, which closes.
    fn spill_missing(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        up: &mut impl Upstream,
        slot: Slot,
    ) -> Option<u32> {
        let spill = self.hot(slot).spill();
        let (header, filled) = self.spills.peek_header(io, spill);
        match self.framing(ctx, slot).begin(&header[..filled], ctx.cfg.frame_bytes_max) {
            Begin::Part { bytes } | Begin::Frame { bytes, .. } => {
                Some(bytes.saturating_sub(self.spills.bytes(spill)))
            }
            Begin::Refused(reason) => {
                let reason = self.refusal(ctx, slot, &header).unwrap_or(reason);
                self.refuse(io, ctx, up, slot, reason);
                None
            }
        }
    }

    /// Handles the frames that are whole in the spill, at most `frames_left`. Returns whether the
    /// connection still reads.
    fn handle_spill(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        up: &mut impl Upstream,
        slot: Slot,
        frames_left: &mut u32,
    ) -> bool {
        while self.hot(slot).spill() != 0
            && *frames_left > 0
            && self.hot(slot).is_reading()
            && !self.held(ctx, up, slot)
        {
            let spill = self.hot(slot).spill();
            let (start, filled) = self.spills.peek_header(io, spill);
            // What stands behind a HELLO was kept before it was known what it may be.
            if let Some(reason) = self.refusal(ctx, slot, &start[..filled]) {
                self.refuse(io, ctx, up, slot, reason);
                return false;
            }
            let (frame_type, len) =
                match self.framing(ctx, slot).begin(&start[..filled], ctx.cfg.frame_bytes_max) {
                    Begin::Part { .. } => return true,
                    Begin::Frame { bytes, .. } if self.spills.bytes(spill) < bytes => return true,
                    Begin::Frame { frame_type, bytes } => (frame_type, bytes),
                    Begin::Refused(reason) => {
                        self.refuse(io, ctx, up, slot, reason);
                        return false;
                    }
                };
            *frames_left -= 1;
            self.handle_frame(io, ctx, up, slot, frame_type, Frame::Spill(len));
            // A close has discarded the spill; a HELLO that found no worker stays in it.
            if self.hot(slot).spill() == spill && self.hot(slot).is_reading() {
                if self.spills.consume(&mut ctx.pools, spill, len) {
                    self.table.hot_mut(slot).set_spill(0);
                } else {
                    self.spills.restart(spill, ctx.tick());
                }
            }
        }
        self.hot(slot).is_reading()
    }

    /// Why what begins like this is refused before it is complete, if it is: the first byte tells
    /// what it is, and the state whether that is allowed, before any of it is kept.
    fn refusal(&self, ctx: &Context, slot: Slot, start: &[u8]) -> Option<Reason> {
        let &code = start.first()?;
        match self.framing(ctx, slot).frame_type(code, ctx.cfg.frame_bytes_max) {
            Ok(frame_type) if is_allowed(frame_type, self.hot(slot).state()) => None,
            Ok(_) => Some(Reason::UnexpectedFrame),
            Err(reason) => Some(reason),
        }
    }

    fn handle_frame(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        up: &mut impl Upstream,
        slot: Slot,
        frame_type: FrameType,
        frame: Frame,
    ) {
        ctx.stats.inc(Stat::ClientFramesReceived);
        match (frame_type, self.hot(slot).state()) {
            (FrameType::Message, State::Open | State::Opening) => self.forward(io, ctx, up, slot, frame),
            (FrameType::Hello, State::Handshaking) => self.on_hello(io, ctx, up, slot, frame),
            (FrameType::Ping | FrameType::Pong, State::Open | State::Opening)
                if !self.take_control_allowance(ctx, slot) =>
            {
                self.refuse(io, ctx, up, slot, Reason::RateLimited);
            }
            (FrameType::Ping, State::Open | State::Opening) => {
                let ping = self.take_scratch(io, slot, frame);
                ctx.stats.inc(Stat::PingsAnswered);
                self.queue_reply(io, ctx, up, slot, &Reply::Pong(&ping[edge::HEADER_BYTES..]));
                self.scratch = ping;
            }
            (FrameType::Pong, State::Open | State::Opening) => {}
            (FrameType::Close, _) => self.close(io, ctx, up, slot, (Reason::ClientClosed, None)),
            _ => self.refuse(io, ctx, up, slot, Reason::UnexpectedFrame),
        }
    }

    /// MESSAGE goes to the link verbatim, header included.
    fn forward(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        up: &mut impl Upstream,
        slot: Slot,
        frame: Frame,
    ) {
        if ctx.cfg.messages_per_s_max > 0 && !self.take_allowance(ctx, slot) {
            return self.refuse(io, ctx, up, slot, Reason::RateLimited);
        }
        let whose = (self.id(slot), self.hot(slot).worker());
        match frame {
            Frame::Block(span) => up.message(io, ctx, whose, span.len, std::iter::once(span)),
            Frame::Spill(len) => {
                up.message(io, ctx, whose, len, self.spills.spans(self.hot(slot).spill(), len));
            }
        }
        ctx.stats.inc(Stat::MessagesForwarded);
    }

    /// The frame's bytes in the scratch buffer, which the caller must put back.
    pub(super) fn take_scratch(&mut self, io: &impl Io, slot: Slot, frame: Frame) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.scratch);
        bytes.clear();
        let mut add = |span: Span| bytes.extend(span.bytes(io));
        match frame {
            Frame::Block(span) => add(span),
            Frame::Spill(len) => self.spills.spans(self.hot(slot).spill(), len).for_each(add),
        }
        bytes
    }

    /// Handles frames that stand in the spill, then goes on with what the socket has.
    pub(super) fn handle_spilled(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        up: &mut impl Upstream,
        slot: Slot,
    ) {
        let mut frames_left = ctx.cfg.bounds.client_frames;
        let reads = self.handle_spill(io, ctx, up, slot, &mut frames_left);
        if reads && frames_left == 0 && self.hot(slot).spill() != 0 {
            self.postpone(ctx, slot, None, true);
        } else {
            self.go_on_reading(io, ctx, up, slot, true);
        }
    }

    /// After the sending side is shut: input is thrown away until the client ends or the limit.
    fn discard_input(&mut self, io: &mut impl Io, ctx: &mut Context, slot: Slot, result: i32) {
        match result {
            1.. => {
                let hot = self.table.hot_mut(slot);
                if hot.add_discarded_bytes(result.cast_unsigned()) > DISCARD_BYTES_MAX {
                    self.stop(io, ctx, slot);
                } else {
                    self.park(io, slot);
                }
            }
            // Closing with something unread would reset, and destroy the GOAWAY.
            _ if is_passing(result) => self.park(io, slot),
            _ => self.stop(io, ctx, slot),
        }
    }
}

/// Whether a client may send this now (SPEC.md 1.3).
const fn is_allowed(frame_type: FrameType, state: State) -> bool {
    match frame_type {
        FrameType::Message | FrameType::Ping | FrameType::Pong => {
            matches!(state, State::Opening | State::Open)
        }
        FrameType::Hello => matches!(state, State::Handshaking),
        FrameType::Close => true,
        FrameType::Welcome | FrameType::Goaway => false,
    }
}

/// Whether a receive failed for a reason that says nothing about the connection.
fn is_passing(result: i32) -> bool {
    matches!(-result, errno::EAGAIN | errno::EINTR | errno::ENOBUFS | errno::ENOMEM | errno::ECANCELED)
}
