//! How a link comes up: LINK_HELLO, LINK_WELCOME, LINK_PROOF, and the worker's first frame; or how
//! either side refuses.
//!
//! Nothing of the gateway's sessions changes before that first frame: only it shows that the worker has
//! accepted LINK_PROOF. Until then a link is not up, and the pauses between dials grow.

use roost_protocol::{
    InstanceId,
    auth::{self, Side},
    link::{
        Frame, Header, LinkError, LinkHello, LinkProof, LinkType, LinkWelcome, Refusal, handshake,
        handshake::NONCE_BYTES,
    },
};

use super::{Link, LinkState, Links, NO_CONNECTION, Session, state::kind};
use crate::{
    core::{
        context::Context,
        event::{Event, LinkDownCause},
        index::LinkIndex,
        span::Span,
        stats::Stat,
    },
    op::{Io, errno},
};

/// How long a worker that drained may take to say so again on a new TCP connection (SPEC.md 3.9).
const DRAINING_GRACE_MS: u64 = 1_000;

/// How long a worker has to read LINK_REFUSE and to close, in milliseconds.
pub(super) const REFUSE_LINGER_MS: u64 = 1_000;

impl Links {
    /// A frame before the link is up. Whether it is to be handled like any other, the link being up now.
    pub(super) fn on_handshake_frame(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        index: LinkIndex,
        header: Header,
        payload: Span,
    ) -> Result<bool, LinkError> {
        let bytes = payload.bytes(io).to_vec();
        let frame = Frame::decode(&header, &bytes, ctx.cfg.frame_bytes_max)?;
        let link = &mut self[index];
        let proving = link.state == LinkState::Proving;
        match frame {
            Frame::LinkRefuse(refusal) => {
                ctx.stats.inc(Stat::LinkErrors);
                link.break_off(io, ctx, LinkDownCause::RefusedByWorker(refusal));
                Ok(false)
            }
            Frame::LinkWelcome(welcome) if !proving => {
                if link.rx.filled > payload.offset + payload.len {
                    // It has not seen LINK_PROOF.
                    return Err(LinkError::Unexpected(header.link_type));
                }
                self.on_welcome(io, ctx, index, welcome, &bytes);
                Ok(false)
            }
            _ if proving && header.link_type.is_from_worker() => {
                link.come_up(ctx)?;
                Ok(true)
            }
            _ => Err(LinkError::Unexpected(header.link_type)),
        }
    }

    /// LINK_WELCOME: the worker's proof is checked, and whether what it says can be.
    fn on_welcome(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        index: LinkIndex,
        welcome: LinkWelcome,
        payload: &[u8],
    ) {
        let link = &mut self[index];
        let proof = match link.prove(&welcome, payload) {
            Ok(proof) => proof,
            Err(refusal) => {
                return link.refuse(io, ctx, refusal, LinkDownCause::RefusedByGateway(refusal));
            }
        };
        if welcome.resumed {
            let expected =
                link.session.filter(|session| session.worker == welcome.worker && !link.session_lost);
            if expected.is_none() || !link.tx.may_resume(welcome.received_position) {
                // Whatever session the worker means, this one it cannot go on with.
                link.poisoned = link.session.is_some();
                return link.refuse(io, ctx, Refusal::Malformed, LinkDownCause::WrongResume);
            }
        }
        if let Some(other) = self.other_link_to(index, welcome.worker) {
            // The worker has one session per shard: LINK_PROOF here would end that of the other link.
            if self[other].removed {
                // The worker has got another name; the old one makes room once all is settled.
                self[other].makes_way = true;
            } else {
                self[index].hold.given_up(ctx.now_ms, 0, ctx.cfg.link_hold_ms);
            }
            let cause = LinkDownCause::SameWorker { other: other.worker().get() };
            return self[index].refuse(io, ctx, Refusal::AlreadyLinked, cause);
        }
        if !welcome.resumed && self[index].session.is_some() {
            self[index].session_lost = true;
            if self[index].hold.is_next_held() && self.others_serve(index) {
                // Not once more: the others take what it had.
                return self[index].break_off(io, ctx, LinkDownCause::HeldDown);
            }
        }
        let link = &mut self[index];
        let payload = LinkProof { proof }.encode_payload();
        handshake::encode_frame(LinkType::LinkProof, &payload, &mut link.control);
        // Whoever accepts the proof answers this at the latest.
        link.control.extend(Header::new(LinkType::Ping, NO_CONNECTION, 0).encode());
        link.pinged_at_ms = ctx.now_ms;
        link.welcome = Some(welcome);
        link.set_state(LinkState::Proving);
        link.flush(io, ctx);
    }

    /// Another link that has a session with this worker, or is about to have.
    fn other_link_to(&self, index: LinkIndex, worker: InstanceId) -> Option<LinkIndex> {
        let mut others = self.iter().filter(|&(other, _)| other != index);
        let found = others.find(|(_, link)| {
            let session = link.session.map(|session| session.worker);
            let coming = link.welcome.as_ref().map(|welcome| welcome.worker);
            session == Some(worker) || coming == Some(worker)
        });
        found.map(|(other, _)| other)
    }
}

impl Link {
    /// The TCP connection is there, or not.
    pub(super) fn on_connect(&mut self, io: &mut impl Io, ctx: &mut Context, result: i32) {
        if result < 0 {
            if result == -errno::EDESTADDRREQ {
                self.addresses = 0;
            }
            return self.break_off(io, ctx, LinkDownCause::Dial { errno: -result });
        }
        let mut nonce = [0; NONCE_BYTES];
        ctx.fill_random(&mut nonce);
        let known = self.session.filter(|_| !self.session_lost);
        let hello = LinkHello {
            shard: u16::from(ctx.cfg.shard),
            shards: ctx.cfg.shards,
            gateway: ctx.cfg.gateway,
            nonce,
            expected_worker: known.map_or(InstanceId::NONE, |session| session.worker),
            received_position: known.map_or(0, |session| session.received()),
            window_bytes: ctx.cfg.link_window_bytes,
            frame_bytes_max: ctx.cfg.frame_bytes_max,
            capabilities: 0,
            link_failover_ms: ctx.cfg.link_failover_ms,
            link_keepalive_ms: ctx.cfg.link_keepalive_ms,
            idle_timeout_ms: ctx.cfg.idle_timeout_ms,
            messages_per_s_max: ctx.cfg.messages_per_s_max,
        };
        self.set_state(LinkState::Handshaking);
        handshake::encode_frame(LinkType::LinkHello, &hello.encode_payload(), &mut self.control);
        self.hello = Some(hello);
        self.receive(io, ctx);
        self.flush(io, ctx);
    }

    /// Checks the worker's proof, and gives the gateway's; none without a secret.
    fn prove(
        &self,
        welcome: &LinkWelcome,
        payload: &[u8],
    ) -> Result<Option<[u8; auth::PROOF_BYTES]>, Refusal> {
        let Some(secret) = self.secret.as_deref() else { return Ok(None) };
        let hello = self.hello.as_ref().expect("LINK_HELLO comes first").encode_payload();
        let proven = &payload[..LinkWelcome::PROVEN_BYTES];
        let proof = welcome.proof.ok_or(Refusal::SecretRequired)?;
        if !auth::verify(secret, Side::Worker, &hello, proven, &proof) {
            return Err(Refusal::SecretWrong);
        }
        Ok(Some(auth::prove(secret, Side::Gateway, &hello, proven)))
    }

    /// The worker has said something after LINK_PROOF: the link is up. The session goes on, or
    /// [`Self::is_new`].
    fn come_up(&mut self, ctx: &mut Context) -> Result<(), LinkError> {
        let welcome = self.welcome.as_ref().expect("LINK_WELCOME comes first");
        let (resumed, position) = (welcome.resumed, welcome.received_position);
        self.set_state(LinkState::Up);
        (self.up_at_ms, self.heard_at_ms) = (ctx.now_ms, ctx.now_ms);
        self.reported.clear();
        self.failures = 0;
        self.undrains_at_ms = (self.draining && resumed).then_some(ctx.now_ms + DRAINING_GRACE_MS);
        ctx.events.push(Event::LinkUp { worker: self.index.worker().get(), resumed });
        if resumed {
            let window_bytes = self.take_window_bytes(ctx);
            let session = self.session.as_mut().expect("looked at when LINK_WELCOME came");
            session.acknowledged();
            session.window_bytes = window_bytes;
            self.tx.resume(&mut ctx.pools, position)?;
            self.moves.touch(ctx.now_ms);
            ctx.stats.inc(Stat::LinkResumes);
        }
        Ok(())
    }

    /// Whether the worker begins a session, and [`Links::begin_session`] is to follow.
    pub(super) fn is_new(&self) -> bool {
        self.welcome.is_some()
    }

    /// See [`Links::begin_session`]. `origin`: what the session is known by.
    pub(super) fn begin_session(&mut self, ctx: &mut Context, origin: u64) {
        let worker = self.welcome.as_ref().expect("LINK_WELCOME comes first").worker;
        let window_bytes = self.take_window_bytes(ctx);
        self.session = Some(Session::new(worker, origin, window_bytes));
        self.began_at_ms = ctx.now_ms;
        (self.draining, self.session_lost) = (false, false);
        ctx.stats.inc(Stat::LinkSessionsStarted);
    }

    /// What the worker grants in LINK_WELCOME, which has had its effect.
    fn take_window_bytes(&mut self, ctx: &Context) -> u32 {
        let granted_bytes = self.welcome.take().map_or(0, |welcome| welcome.window_bytes);
        // A worker may grant more than is kept for it here.
        granted_bytes.min(ctx.cfg.link_window_bytes)
    }

    /// Refuses the handshake, and says so before the connection is closed.
    pub(super) fn refuse(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        refusal: Refusal,
        cause: LinkDownCause,
    ) {
        ctx.stats.inc(Stat::LinkErrors);
        self.report_down(ctx, cause, false);
        self.welcome = None;
        self.control.extend(refusal.encode());
        self.set_state(LinkState::Refusing);
        self.since_ms = ctx.now_ms;
        self.rx.stalled = false;
        self.throw_away(io, ctx);
        self.flush(io, ctx);
    }

    /// Something of a link that is being refused has ended. The worker is given time to read
    /// LINK_REFUSE: to close a socket with unread input would take it back.
    pub(super) fn on_refusing(&mut self, io: &mut impl Io, ctx: &mut Context, kind: u8, result: i32) {
        match kind {
            kind::RECV if result > 0 => self.throw_away(io, ctx),
            kind::RECV | kind::SEND if result <= 0 => self.end_refusal(io),
            _ => {}
        }
    }

    /// Receives, and does not look at it.
    fn throw_away(&mut self, io: &mut impl Io, ctx: &mut Context) {
        (self.rx.filled, self.rx.handled) = (0, 0);
        self.receive(io, ctx);
    }

    /// LINK_REFUSE is sent as far as it can be.
    pub(super) fn end_refusal(&mut self, io: &mut impl Io) {
        self.set_state(LinkState::Closing);
        self.join(io);
    }
}
