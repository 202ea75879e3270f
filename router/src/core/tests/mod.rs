//! The core against a strict model of a gateway, byte by byte where it matters.

mod bounds;
mod fences;
mod keys;
#[path = "../../../tests/support/peer.rs"]
#[allow(dead_code, unreachable_pub, missing_docs)]
mod peer;
mod pressure;
mod pushes;
mod random;
mod time;
mod topics;
mod traffic;
mod wire;

use std::{cell::RefCell, collections::HashSet, rc::Rc, sync::Arc};

use roost_protocol::{ConnectionId, InstanceId, Reason, SessionRef, link::Open};

use super::*;
use peer::Peer;

/// A worker and what goes on at its TCP connections.
struct Rig<H> {
    core: Core<H>,
    stats: Arc<Stats>,
    now_ms: u64,
    nonce: u8,
    /// Links whose writer is awake. A writer that finds nothing to write sleeps until it is woken:
    /// whoever forgets to wake it stalls the link.
    awake: HashSet<LinkId>,
}

/// One TCP connection between a [`Peer`] and the core of a [`Rig`].
#[derive(Default)]
struct Wire {
    to_worker: Vec<u8>,
    to_gateway: Vec<u8>,
    /// What the worker has read and not taken.
    unread: Vec<u8>,
    stage: WireStage,
}

#[derive(Default)]
enum WireStage {
    #[default]
    Down,
    Hello,
    Proof(Handshake),
    Up(Attachment),
}

impl<H: Handler> Rig<H> {
    fn new(config: WorkerConfig, handler: H) -> Self {
        let stats = Arc::<Stats>::default();
        let core = Core::new(config, InstanceId([0xee; 16]), handler, stats.clone());
        Self { core, stats, now_ms: 0, nonce: 0, awake: HashSet::new() }
    }

    fn dial(&mut self, peer: &mut Peer, wire: &mut Wire) {
        self.cut(peer, wire);
        peer.connected();
        wire.stage = WireStage::Hello;
    }

    fn cut(&mut self, peer: &mut Peer, wire: &mut Wire) {
        self.cut_worker_side(wire);
        peer.disconnected();
    }

    /// The worker notices the end of a connection that its gateway may have left long ago.
    fn cut_worker_side(&mut self, wire: &mut Wire) {
        if let WireStage::Up(attachment) = std::mem::take(wire).stage {
            self.core.detach(attachment, self.now_ms);
        }
    }

    /// The gateway writes what it has.
    fn gateway_writes(&mut self, peer: &mut Peer, wire: &mut Wire) {
        wire.to_worker.extend(peer.fill());
    }

    /// The gateway reads at most `bytes_max` bytes.
    fn gateway_reads(&mut self, peer: &mut Peer, wire: &mut Wire, bytes_max: usize) {
        let bytes = bytes_max.min(wire.to_gateway.len());
        peer.feed(&wire.to_gateway.drain(..bytes).collect::<Vec<_>>());
    }

    /// The worker writes about `bytes_max` bytes.
    fn worker_writes(&mut self, wire: &mut Wire, bytes_max: usize) {
        if let WireStage::Up(attachment) = wire.stage {
            self.awake.extend(self.core.take_dirty());
            let before = wire.to_gateway.len();
            // A connection that was superseded has nothing to say.
            if self.awake.contains(&attachment.link)
                && self.core.fill(attachment, &mut wire.to_gateway, bytes_max).is_ok()
                && wire.to_gateway.len() == before
            {
                self.awake.remove(&attachment.link);
            }
        }
    }

    /// The worker reads at most `bytes_max` bytes and does what they ask for.
    fn worker_reads(&mut self, wire: &mut Wire, bytes_max: usize) -> Result<(), LinkFailure> {
        let bytes = bytes_max.min(wire.to_worker.len());
        if bytes == 0 {
            return Ok(());
        }
        wire.unread.extend(wire.to_worker.drain(..bytes));
        loop {
            let frame_payload = |unread: &mut Vec<u8>| match link::split(unread, 256).unwrap() {
                Split::Need { .. } => None,
                Split::Frame { header, payload } => {
                    let payload = payload.to_vec();
                    unread.drain(..header.frame_bytes());
                    Some(payload)
                }
            };
            match &wire.stage {
                WireStage::Down => return Ok(()),
                WireStage::Hello => {
                    let Some(payload) = frame_payload(&mut wire.unread) else { return Ok(()) };
                    self.nonce = self.nonce.wrapping_add(1);
                    let (handshake, welcome) = self.core.hello(&payload, [self.nonce; NONCE_BYTES])?;
                    wire.to_gateway.extend(welcome);
                    wire.stage = WireStage::Proof(handshake);
                }
                WireStage::Proof(handshake) => {
                    let Some(payload) = frame_payload(&mut wire.unread) else { return Ok(()) };
                    let attachment = self.core.proof(handshake, &payload, self.now_ms)?;
                    wire.stage = WireStage::Up(attachment);
                }
                WireStage::Up(attachment) => {
                    let taken = self.core.receive(*attachment, &wire.unread, self.now_ms)?;
                    wire.unread.drain(..taken);
                    return Ok(());
                }
            }
        }
    }

    /// Moves everything in both directions until nothing moves any more.
    fn settle(&mut self, peer: &mut Peer, wire: &mut Wire) {
        self.settle_all(&mut [(peer, wire)]);
    }

    fn settle_all(&mut self, links: &mut [(&mut Peer, &mut Wire)]) {
        for _ in 0..100_000 {
            let mut moved = false;
            for (peer, wire) in &mut *links {
                self.gateway_writes(peer, wire);
                moved |= !wire.to_worker.is_empty();
                self.worker_reads(wire, usize::MAX).unwrap();
                while self.core.pump() {}
                self.worker_writes(wire, usize::MAX);
                moved |= !wire.to_gateway.is_empty();
                self.gateway_reads(peer, wire, usize::MAX);
            }
            if !moved {
                return;
            }
        }
        panic!("livelock: bytes never cease to move");
    }

    /// A gateway shard whose link is up.
    fn link_up(&mut self, mut peer: Peer) -> (Peer, Wire) {
        let mut wire = Wire::default();
        self.dial(&mut peer, &mut wire);
        self.settle(&mut peer, &mut wire);
        assert!(peer.is_up());
        (peer, wire)
    }
}

/// What a [`Recorder`] saw.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Open(Vec<u8>),
    Message(Vec<u8>, bool),
    Close(Option<SessionRef>, Closed),
    Reopen(u64),
    Relay(u64, Vec<u8>),
}

type Act = Box<dyn FnMut(&mut Context<'_>, Client, &[u8])>;

/// Accepts everybody, notes everything, and does what `act` says on messages.
#[derive(Clone)]
struct Recorder {
    events: Rc<RefCell<Vec<Event>>>,
    act: Rc<RefCell<Act>>,
}

impl Recorder {
    fn new(act: impl FnMut(&mut Context<'_>, Client, &[u8]) + 'static) -> Self {
        Self { events: Rc::default(), act: Rc::new(RefCell::new(Box::new(act))) }
    }

    fn note(&self, event: Event) {
        self.events.borrow_mut().push(event);
    }

    fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.events.borrow_mut())
    }
}

impl Handler for Recorder {
    fn on_open(&mut self, ctx: &mut Context<'_>, client: Client, opened: Opened<'_>) {
        match opened {
            Opened::New(opening) => {
                self.note(Event::Open(opening.key.to_vec()));
                ctx.accept(client, SessionRef(opening.routing_hash));
            }
            Opened::Moved(reopen) => self.note(Event::Reopen(reopen.session.0)),
        }
    }

    fn on_message(&mut self, ctx: &mut Context<'_>, client: Client, payload: &[u8], resent: bool) {
        self.note(Event::Message(payload.to_vec(), resent));
        (self.act.borrow_mut())(ctx, client, payload);
    }

    fn on_close(
        &mut self,
        _ctx: &mut Context<'_>,
        _client: Client,
        session: Option<SessionRef>,
        closed: Closed,
    ) {
        self.note(Event::Close(session, closed));
    }

    fn on_relay(&mut self, _ctx: &mut Context<'_>, _: Origin, routing_hash: u64, payload: &[u8]) {
        self.note(Event::Relay(routing_hash, payload.to_vec()));
    }
}

fn echo(ctx: &mut Context<'_>, client: Client, payload: &[u8]) {
    ctx.send(client, payload).unwrap();
}
