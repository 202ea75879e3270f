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

use crate::{
    core::{
        event::{Event, LinkDownCause},
        link::{LinkState, Session},
        shard::{ShardCore, kind, links::NO_CONNECTION},
        span::Span,
        stats::Stat,
    },
    op::{Io, errno},
};

/// How long a worker that drained may take to say so again on a new TCP connection (SPEC.md 3.9).
const DRAINING_GRACE_MS: u64 = 1_000;

/// How long a worker has to read LINK_REFUSE and to close, in milliseconds.
pub(super) const REFUSE_LINGER_MS: u64 = 1_000;

impl ShardCore {
    pub(super) fn on_link_connect(&mut self, io: &mut impl Io, index: usize, result: i32) {
        if result < 0 {
            if result == -errno::EDESTADDRREQ {
                self.links[index].addresses = 0;
            }
            return self.break_link(io, index, LinkDownCause::Dial { errno: -result });
        }
        let mut nonce = [0; NONCE_BYTES];
        self.ctx.fill_random(&mut nonce);
        let link = &mut self.links[index];
        let known = link.session.filter(|_| !link.lost);
        let hello = LinkHello {
            shard: u16::from(self.ctx.cfg.shard),
            shards: self.ctx.cfg.shards,
            gateway: self.ctx.cfg.gateway,
            nonce,
            expected_worker: known.map_or(InstanceId::NONE, |session| session.worker),
            received_position: known.map_or(0, |session| session.received),
            window_bytes: self.ctx.cfg.link_window_bytes,
            frame_bytes_max: self.ctx.cfg.frame_bytes_max,
        };
        link.state = LinkState::Handshaking;
        handshake::encode_frame(LinkType::LinkHello, &hello.encode_payload(), &mut link.control);
        link.hello = Some(hello);
        self.receive_link(io, index);
        self.flush_link(io, index);
    }

    /// A frame before the link is up. Whether it is to be handled like any other, the link being up now.
    pub(super) fn on_handshake_frame(
        &mut self,
        io: &mut impl Io,
        index: usize,
        header: Header,
        payload: Span,
    ) -> Result<bool, LinkError> {
        let bytes = io.block(payload.block)[payload.offset as usize..][..payload.len as usize].to_vec();
        let frame = Frame::decode(&header, &bytes, self.ctx.cfg.frame_bytes_max)?;
        let proving = self.links[index].state == LinkState::Proving;
        match frame {
            Frame::LinkRefuse(refusal) => {
                self.ctx.stats.inc(Stat::LinkErrors);
                self.break_link(io, index, LinkDownCause::RefusedByWorker(refusal));
                Ok(false)
            }
            Frame::LinkWelcome(welcome) if !proving => {
                let rx = &self.links[index].rx;
                if rx.filled > payload.offset + payload.len {
                    // It has not seen LINK_PROOF.
                    return Err(LinkError::Unexpected(header.link_type));
                }
                self.on_welcome(io, index, welcome, &bytes);
                Ok(false)
            }
            _ if proving && header.link_type.is_from_worker() => {
                self.on_link_up(io, index)?;
                Ok(true)
            }
            _ => Err(LinkError::Unexpected(header.link_type)),
        }
    }

    /// LINK_WELCOME: the worker's proof is checked, and whether what it says can be.
    fn on_welcome(&mut self, io: &mut impl Io, index: usize, welcome: LinkWelcome, payload: &[u8]) {
        let link = &self.links[index];
        let hello = link.hello.as_ref().expect("LINK_HELLO comes first").encode_payload();
        let proven = &payload[..LinkWelcome::PROVEN_BYTES];
        let secret = link.secret.as_deref();
        let proof = match (secret, welcome.proof) {
            (None, _) => None,
            (Some(secret), Some(proof)) if auth::verify(secret, Side::Worker, &hello, proven, &proof) => {
                Some(auth::prove(secret, Side::Gateway, &hello, proven))
            }
            (Some(_), proof) => {
                let refusal = proof.map_or(Refusal::SecretRequired, |_| Refusal::SecretWrong);
                return self.refuse_link(io, index, refusal, LinkDownCause::RefusedByGateway(refusal));
            }
        };
        if welcome.resumed {
            let expected = link.session.filter(|session| session.worker == welcome.worker && !link.lost);
            if expected.is_none() || !link.tx.may_resume(welcome.received_position) {
                // Whatever session the worker means, this one it cannot go on with.
                self.links[index].hopeless = link.session.is_some();
                return self.refuse_link(io, index, Refusal::Malformed, LinkDownCause::WrongResume);
            }
        }
        if let Some(other) = self.other_link_to(index, welcome.worker) {
            // The worker has one session per shard: LINK_PROOF here would end that of the other link.
            if self.links[other].retired {
                // The worker has got another name; the old one makes room once all is settled.
                self.links[other].yields = true;
            } else {
                let pauses_ms = self.ctx.cfg.link_hold_ms;
                self.links[index].hold.given_up(self.ctx.now_ms, 0, pauses_ms);
            }
            let cause = LinkDownCause::SameWorker { other: other as u8 };
            return self.refuse_link(io, index, Refusal::AlreadyLinked, cause);
        }
        if !welcome.resumed && self.links[index].session.is_some() {
            self.links[index].lost = true;
            if self.links[index].hold.is_next_held() && self.others_serve(index) {
                // Not once more: the others take what it had.
                return self.break_link(io, index, LinkDownCause::HeldDown);
            }
        }
        let link = &mut self.links[index];
        let payload = LinkProof { proof }.encode_payload();
        handshake::encode_frame(LinkType::LinkProof, &payload, &mut link.control);
        // Whoever accepts the proof answers this at the latest.
        link.control.extend(Header::new(LinkType::Ping, NO_CONNECTION, 0).encode());
        link.pinged_at_ms = self.ctx.now_ms;
        link.welcome = Some(welcome);
        link.state = LinkState::Proving;
        self.flush_link(io, index);
    }

    /// Another link that has a session with this worker, or is about to have.
    fn other_link_to(&self, index: usize, worker: InstanceId) -> Option<usize> {
        self.links.iter().enumerate().position(|(other, link)| {
            let session = link.session.map(|session| session.worker);
            let coming = link.welcome.as_ref().map(|welcome| welcome.worker);
            other != index && (session == Some(worker) || coming == Some(worker))
        })
    }

    /// The worker has said something after LINK_PROOF: the session goes on or starts anew.
    fn on_link_up(&mut self, io: &mut impl Io, index: usize) -> Result<(), LinkError> {
        let link = &mut self.links[index];
        let welcome = link.welcome.take().expect("LINK_WELCOME comes first");
        link.state = LinkState::Up;
        (link.up_at_ms, link.heard_at_ms) = (self.ctx.now_ms, self.ctx.now_ms);
        link.told.clear();
        link.failures = 0;
        link.undrains_at_ms =
            (link.draining && welcome.resumed).then_some(self.ctx.now_ms + DRAINING_GRACE_MS);
        // A worker may grant more than is kept for it here.
        let window_bytes = welcome.window_bytes.min(self.ctx.cfg.link_window_bytes);
        self.ctx.events.push(Event::LinkUp { worker: index as u8, resumed: welcome.resumed });
        if welcome.resumed {
            let session = link.session.as_mut().expect("looked at when LINK_WELCOME came");
            session.acknowledged();
            session.window_bytes = window_bytes;
            link.tx.resume(&mut self.ctx.pools, welcome.received_position)?;
            link.moves.touch(self.ctx.now_ms);
            self.ctx.stats.inc(Stat::LinkResumes);
        } else {
            if link.session.is_some() {
                // Another instance, or one that has forgotten: its connections must be reopened.
                self.fail_session(io, index);
            }
            let link = &mut self.links[index];
            link.session = Some(Session::new(welcome.worker, window_bytes));
            link.began_at_ms = self.ctx.now_ms;
            (link.draining, link.lost) = (false, false);
            self.ctx.stats.inc(Stat::LinkSessionsStarted);
            self.start_rebalance();
        }
        Ok(())
    }

    /// Refuses the handshake, and says so before the connection is closed.
    pub(super) fn refuse_link(
        &mut self,
        io: &mut impl Io,
        index: usize,
        refusal: Refusal,
        cause: LinkDownCause,
    ) {
        self.ctx.stats.inc(Stat::LinkErrors);
        self.tell_down(index, cause, false);
        let link = &mut self.links[index];
        link.welcome = None;
        link.control.extend(refusal.encode());
        link.state = LinkState::Refusing;
        link.since_ms = self.ctx.now_ms;
        link.rx.stalled = false;
        self.throw_away(io, index);
        self.flush_link(io, index);
    }

    /// Something of a link that is being refused has ended. The worker is given time to read
    /// LINK_REFUSE: to close a socket with unread input would take it back.
    pub(super) fn on_refusing(&mut self, io: &mut impl Io, index: usize, kind: u8, result: i32) {
        match kind {
            kind::LINK_RECV if result > 0 => self.throw_away(io, index),
            kind::LINK_RECV | kind::LINK_SEND if result <= 0 => self.end_refusal(io, index),
            _ => {}
        }
    }

    /// Receives, and does not look at it.
    fn throw_away(&mut self, io: &mut impl Io, index: usize) {
        let rx = &mut self.links[index].rx;
        (rx.filled, rx.handled) = (0, 0);
        self.receive_link(io, index);
    }

    /// LINK_REFUSE is sent as far as it can be.
    pub(super) fn end_refusal(&mut self, io: &mut impl Io, index: usize) {
        self.links[index].state = LinkState::Closing;
        self.join_link(io, index);
    }
}
