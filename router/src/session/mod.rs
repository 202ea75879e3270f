//! One link session as the worker sees it, sans-IO.
//!
//! A session outlives its TCP connections: [`Session::attach`] and [`Session::detach`] mark their
//! coming and going, and a position says how many sequenced frames each side has handled since
//! the session began. What the worker sends is kept until the gateway has acknowledged it
//! (`retained`); what the gateway sends is acknowledged once it has been handled and what the
//! handling sent has gone out (`marks`).

mod gateway;
pub mod handshake;
mod marks;
mod retained;
#[cfg(test)]
mod tests;

use roost_protocol::{
    ConnectionId,
    edge::PING_BYTES_MAX,
    link::{self, HEADER_BYTES, Header, LinkError, LinkHello, LinkType, body},
};

pub use gateway::Gateway;
pub(crate) use marks::Barrier;
use marks::Marks;
pub use marks::Position;
use retained::{OutOfRange, Retained};

/// Bytes of unsequenced answers (PONG) that may wait; a peer that lets more pile up is broken.
const CONTROL_BYTES_MAX: usize = 64 * 1024;
/// A gateway that takes nothing of what waits for it for so long, in milliseconds, is not waited for.
const STALL_MS: u64 = 1_000;
const NO_CONNECTION: ConnectionId = ConnectionId::from_bits(0);

/// One link session: what survives TCP breaks.
#[derive(Debug)]
pub struct Session {
    /// Sequenced frames of the gateway that have been handled.
    handled: Position,
    retained: Retained,
    marks: Marks,
    /// Sequenced frames that arrived while the handler was held back; whole, in order.
    held: Held,
    /// What the gateway states, in its last LINK_HELLO.
    gateway: Gateway,
    /// What the gateway grants, from its last LINK_HELLO.
    window_out_bytes: usize,
    /// Up to where the gateway had acknowledged, and when that last changed.
    progress: (u64, u64),
    stalled: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    /// No TCP connection, since this time.
    Detached { since_ms: u64 },
    /// A TCP connection carries the session.
    Attached(Attached),
}

/// What belongs to one TCP connection.
#[derive(Debug)]
struct Attached {
    /// Sequenced frames received, counted from the session's beginning.
    received: Position,
    /// The last position that was acknowledged.
    acknowledged: Position,
    /// What the gateway may send without acknowledgement.
    window_in_bytes: u64,
    /// An ACK of what was stated is yet to be sent, before all else: it tells the gateway that
    /// LINK_PROOF was accepted, so that the link is up.
    greets: bool,
    /// Unsequenced frames to send.
    control: Vec<u8>,
    received_ms: u64,
    /// When a PING was sent, if nothing was heard since.
    probed_ms: Option<u64>,
}

/// Frames set aside.
#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    taken_bytes: usize,
}

/// What to do with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Hand it to the handler now, then call [`Session::frame_handled`].
    Handle,
    /// It has been set aside.
    Held,
    /// It was handled on an earlier TCP connection: drop it.
    Duplicate,
    /// It was about the link itself and is done with.
    Done,
}

/// What the time asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// Something was queued: write.
    Write,
    /// The TCP connection is dead: close it.
    Break,
    /// The session is over.
    Expired,
}

impl Session {
    /// A session that begins now, without a TCP connection yet.
    pub fn new(now_ms: u64) -> Self {
        Self {
            handled: Position::default(),
            retained: Retained::default(),
            marks: Marks::default(),
            held: Held::default(),
            gateway: Gateway::default(),
            window_out_bytes: 0,
            progress: (0, now_ms),
            stalled: false,
            state: State::Detached { since_ms: now_ms },
        }
    }

    /// What LINK_WELCOME may state as received, given what LINK_HELLO states; none if that is not
    /// a position that this session can go on from.
    ///
    /// This is the position up to which the gateway has all replies. More may have been handled;
    /// those frames will come again and be dropped as duplicates. To state them as received would
    /// let the gateway forget frames whose replies a dying worker could still take with it.
    pub fn resume_position(&self, hello: &LinkHello) -> Option<Position> {
        let known = self.retained.known().contains(&hello.received_position);
        known.then(|| self.marks.settled(hello.received_position))
    }

    /// A TCP connection takes the session up, after a handshake in which the worker stated
    /// `stated` as received and granted `window_bytes`. False, and nothing has changed, if the
    /// gateway's position is not one that the session can go on from.
    pub fn attach(&mut self, hello: &LinkHello, stated: Position, window_bytes: u32, now_ms: u64) -> bool {
        debug_assert!(stated.frames <= self.handled.frames);
        if self.retained.resume(hello.received_position).is_err() {
            return false;
        }
        self.marks.resume(self.retained.acked(), stated);
        self.held = Held::default();
        self.gateway = Gateway::of(hello);
        self.window_out_bytes = hello.window_bytes as usize;
        self.progress = (self.retained.acked(), now_ms);
        self.stalled = false;
        self.state = State::Attached(Attached {
            received: stated,
            acknowledged: stated,
            window_in_bytes: u64::from(window_bytes),
            greets: true,
            control: Vec::new(),
            received_ms: now_ms,
            probed_ms: None,
        });
        true
    }

    /// The TCP connection is gone. Frames that were set aside are forgotten: they have not been
    /// handled, so the gateway will send them again.
    pub fn detach(&mut self, now_ms: u64) {
        self.held = Held::default();
        self.state = State::Detached { since_ms: now_ms };
    }

    /// Whether the gateway is there and takes what is queued for it, so that others may wait for it.
    pub fn is_flowing(&self) -> bool {
        self.is_attached() && !self.stalled
    }

    /// Whether a TCP connection carries the session now.
    pub fn is_attached(&self) -> bool {
        matches!(self.state, State::Attached(_))
    }

    /// How long there has been no TCP connection; none if there is one.
    pub fn detached_ms(&self, now_ms: u64) -> Option<u64> {
        match self.state {
            State::Detached { since_ms } => Some(now_ms.saturating_sub(since_ms)),
            State::Attached(_) => None,
        }
    }

    /// Bytes arrived: the gateway is there.
    pub fn note_received(&mut self, now_ms: u64) {
        if let State::Attached(attached) = &mut self.state {
            attached.received_ms = now_ms;
            attached.probed_ms = None;
        }
    }

    /// Takes a frame off the TCP connection. With `hold`, sequenced frames are set aside, for the
    /// handler is held back; frames about the link are acted on in any case.
    ///
    /// Panics if no TCP connection is attached.
    #[inline]
    pub fn receive(&mut self, header: &Header, payload: &[u8], hold: bool) -> Result<Disposition, LinkError> {
        let State::Attached(attached) = &mut self.state else { panic!("received on a detached session") };
        if !header.link_type.is_sequenced() {
            self.receive_control(header, payload)?;
            return Ok(Disposition::Done);
        }
        attached.received.frames += 1;
        attached.received.bytes += header.frame_bytes() as u64;
        // A gateway that sends other bytes again than it had sent may get below what it had
        // acknowledged: that harms nobody.
        let outstanding_bytes = attached.received.bytes.saturating_sub(attached.acknowledged.bytes);
        if outstanding_bytes > attached.window_in_bytes {
            return Err(LinkError::WindowExceeded);
        }
        if attached.received.frames <= self.handled.frames {
            return Ok(Disposition::Duplicate);
        }
        if hold || !self.held.is_empty() {
            self.held.bytes.extend_from_slice(&header.encode());
            self.held.bytes.extend_from_slice(payload);
            return Ok(Disposition::Held);
        }
        Ok(Disposition::Handle)
    }

    fn receive_control(&mut self, header: &Header, payload: &[u8]) -> Result<(), LinkError> {
        let State::Attached(attached) = &mut self.state else { unreachable!("the caller checked") };
        match header.link_type {
            LinkType::Ack => {
                let position = body::decode_u64(payload)?;
                self.retained.ack(position).map_err(|OutOfRange { from, to }| LinkError::AckOutOfRange {
                    acked: position,
                    from,
                    to,
                })?;
                self.marks.peer_acked(position);
            }
            LinkType::Ping => {
                if payload.len() > PING_BYTES_MAX {
                    return Err(LinkError::Malformed);
                }
                if attached.control.len() > CONTROL_BYTES_MAX {
                    return Err(LinkError::WindowExceeded);
                }
                let pong = Header::new(LinkType::Pong, NO_CONNECTION, payload.len() as u32);
                attached.control.extend_from_slice(&pong.encode());
                attached.control.extend_from_slice(payload);
            }
            LinkType::Pong if payload.len() > PING_BYTES_MAX => return Err(LinkError::Malformed),
            LinkType::Pong => {}
            other => return Err(LinkError::Unexpected(other)),
        }
        Ok(())
    }

    /// The handler has returned for the next frame, of `frame_bytes` bytes.
    #[inline]
    pub fn frame_handled(&mut self, frame_bytes: usize) {
        self.handled.frames += 1;
        self.handled.bytes += frame_bytes as u64;
    }

    /// What has been handled may be acknowledged once everything queued so far has been sent, and
    /// `barriers` on other sessions are passed. Called once per batch.
    pub(crate) fn mark_handled(&mut self, barriers: Vec<Barrier>) {
        self.marks.push(self.handled, self.retained.end(), barriers);
    }

    /// Takes the frames that were set aside; give back what was not handled with
    /// [`Self::put_held`].
    pub fn take_held(&mut self) -> Vec<u8> {
        let mut held = std::mem::take(&mut self.held);
        if held.taken_bytes > 0 {
            held.bytes.drain(..held.taken_bytes);
        }
        held.bytes
    }

    /// Gives back frames of [`Self::take_held`], of which `taken_bytes` have been handled.
    pub fn put_held(&mut self, bytes: Vec<u8>, taken_bytes: usize) {
        debug_assert!(self.held.bytes.is_empty(), "nothing is received meanwhile");
        if taken_bytes < bytes.len() {
            self.held = Held { bytes, taken_bytes };
        }
    }

    /// Whether frames are set aside.
    pub fn has_held(&self) -> bool {
        !self.held.is_empty()
    }

    /// Queues a sequenced frame whose payload is the concatenation of `parts`.
    #[inline]
    pub fn push(&mut self, header: Header, parts: &[&[u8]]) {
        debug_assert!(header.link_type.is_sequenced());
        self.retained.push(header, parts);
    }

    /// Queues DRAINING, where there is a TCP connection to send it on.
    pub fn push_draining(&mut self) {
        if let State::Attached(attached) = &mut self.state {
            attached.control.extend_from_slice(&Header::new(LinkType::Draining, NO_CONNECTION, 0).encode());
        }
    }

    /// Moves to `out` what may be sent now: the next sequenced frames within the window and about
    /// `out_bytes_max` bytes, then the acknowledgement that they allow, then what else there is.
    /// `passed` says whether a barrier on another session is passed. Returns whether an
    /// acknowledgement is among it.
    pub(crate) fn fill(
        &mut self,
        out: &mut Vec<u8>,
        out_bytes_max: usize,
        passed: impl Fn(Barrier) -> bool,
    ) -> bool {
        let State::Attached(attached) = &mut self.state else { return false };
        if std::mem::take(&mut attached.greets) {
            out.extend_from_slice(&Header::new(LinkType::Ack, NO_CONNECTION, 8).encode());
            out.extend_from_slice(&attached.acknowledged.frames.to_be_bytes());
        }
        self.retained.fill(out, out_bytes_max, self.window_out_bytes);
        let position = self.marks.advance(self.retained.sent(), attached.received.frames, passed);
        if let Some(position) = position {
            attached.acknowledged = position;
            out.extend_from_slice(&Header::new(LinkType::Ack, NO_CONNECTION, 8).encode());
            out.extend_from_slice(&position.frames.to_be_bytes());
        }
        out.append(&mut attached.control);
        position.is_some()
    }

    /// What the passing of time asks for. 0 turns `keepalive_ms` off; without a `session_ttl_ms` the
    /// gateway's own times say how long the session is kept.
    pub fn tick(&mut self, now_ms: u64, keepalive_ms: u64, session_ttl_ms: Option<u64>) -> Due {
        if let State::Detached { since_ms } = self.state {
            let session_ttl_ms = session_ttl_ms.unwrap_or_else(|| self.gateway.session_ttl_ms());
            let expired = now_ms.saturating_sub(since_ms) >= session_ttl_ms;
            return if expired { Due::Expired } else { Due::Nothing };
        }
        let acked = self.retained.acked();
        if acked != self.progress.0 || self.pending_bytes() == 0 {
            self.progress = (acked, now_ms);
        }
        self.stalled = now_ms.saturating_sub(self.progress.1) >= STALL_MS;
        let State::Attached(attached) = &mut self.state else { unreachable!("it was just there") };
        if keepalive_ms == 0 || now_ms.saturating_sub(attached.received_ms) < keepalive_ms {
            return Due::Nothing;
        }
        // Reckoned from the PING, so that a worker that was stopped for a while does not take its
        // own absence for the gateway's.
        if let Some(probed_ms) = attached.probed_ms {
            let given_up = now_ms.saturating_sub(probed_ms) >= keepalive_ms;
            return if given_up { Due::Break } else { Due::Nothing };
        }
        attached.probed_ms = Some(now_ms);
        attached.control.extend_from_slice(&Header::new(LinkType::Ping, NO_CONNECTION, 0).encode());
        Due::Write
    }

    /// Bytes queued beyond what has been sent.
    #[inline]
    pub fn pending_bytes(&self) -> usize {
        self.retained.pending_bytes()
    }

    /// Frames queued since the session began: the position of the next.
    pub fn queued_position(&self) -> u64 {
        self.retained.end()
    }

    /// Frames that the gateway has acknowledged.
    pub fn acked_position(&self) -> u64 {
        self.retained.acked()
    }

    /// Whether there may be something to write.
    pub fn wants_to_send(&self) -> bool {
        let control = matches!(&self.state, State::Attached(attached) if attached.greets || !attached.control.is_empty());
        control || self.pending_bytes() > 0 || self.owes_ack()
    }

    /// Whether frames have been handled and not acknowledged yet.
    pub fn owes_ack(&self) -> bool {
        match &self.state {
            State::Attached(attached) => attached.acknowledged.frames < self.handled.frames,
            State::Detached { .. } => false,
        }
    }

    /// Whether both directions are settled: nothing queued, nothing unacknowledged.
    pub fn is_settled(&self) -> bool {
        !self.owes_ack() && !self.has_held() && self.retained.acked() == self.retained.end()
    }

    /// The longest payload of an edge MESSAGE that the gateway takes, in bytes.
    #[inline]
    pub fn frame_bytes_max(&self) -> u32 {
        self.gateway.frame_bytes_max
    }

    /// What the gateway states of itself.
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// The longest payload of a link frame, in bytes.
    #[inline]
    pub fn payload_bytes_max(&self) -> u32 {
        link::payload_bytes_max(self.gateway.frame_bytes_max)
    }

    /// The longest payload of a link frame that the gateway's window lets through, in bytes.
    pub fn payload_out_bytes_max(&self) -> usize {
        (self.payload_bytes_max() as usize).min(self.window_out_bytes - HEADER_BYTES)
    }
}

impl Held {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}
