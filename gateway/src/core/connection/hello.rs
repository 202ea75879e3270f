//! HELLO: a session begins, or the client waits for a worker that is up and has room.

use roost_protocol::{
    SessionRef,
    edge::{self, Hello, Split, Welcome},
    hash,
};

use super::{Connections, Greeting, Newcomer, Upstream, framing::Reply, lifecycle::State, receive::Frame};
use crate::{
    core::{
        context::Context,
        index::{Slot, WorkerIndex},
    },
    op::Io,
};

impl Connections {
    pub(super) fn on_hello(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        up: &mut impl Upstream,
        slot: Slot,
        frame: Frame,
    ) {
        let bytes = self.take_scratch(io, slot, frame);
        let greeting = match Hello::decode(&bytes[edge::HEADER_BYTES..]) {
            Ok(hello) => {
                let (peer, listener) = (self.table.peer(slot), self.cold(slot).listener());
                up.hello(io, ctx, &Newcomer { connection: self.id(slot), peer, listener, hello })
            }
            Err(error) => Greeting::Refuse(error.reason()),
        };
        self.scratch = bytes;
        match greeting {
            Greeting::Opening { worker, routing_hash } => self.begin_opening(ctx, slot, worker, routing_hash),
            Greeting::Wait => self.wait_for_worker(io, ctx, up, slot, frame),
            Greeting::Refuse(reason) => self.refuse(io, ctx, up, slot, reason),
        }
    }

    fn begin_opening(&mut self, ctx: &Context, slot: Slot, worker: WorkerIndex, routing_hash: u64) {
        self.table.forget_peer(slot);
        self.allow_first(ctx, slot);
        self.table.cold_mut(slot).set_routing_hash(routing_hash);
        let hot = self.table.hot_mut(slot);
        hot.set_worker(worker);
        hot.set_since_tick(ctx.tick());
        self.set_state(ctx, slot, State::Opening);
    }

    /// The worker has given the connection another routing hash than that of its key.
    pub(crate) fn rekey(&mut self, slot: Slot, routing_hash: u64) {
        self.table.cold_mut(slot).set_routing_hash(routing_hash);
    }

    /// The worker has accepted: the client is welcome.
    pub(crate) fn welcome(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        up: &mut impl Upstream,
        slot: Slot,
        session: SessionRef,
    ) {
        self.table.hot_mut(slot).accept(session);
        self.set_state(ctx, slot, State::Open);
        let welcome = Welcome {
            heartbeat_interval_ms: ctx.cfg.heartbeat_interval_ms,
            idle_timeout_ms: ctx.cfg.idle_timeout_ms,
            frame_bytes_max: ctx.cfg.frame_bytes_max,
            messages_per_s_max: ctx.cfg.messages_per_s_max,
            session,
        };
        self.queue_reply(io, ctx, up, slot, &Reply::Welcome(welcome));
    }

    /// The client waits with its HELLO in a spill. It is not read meanwhile, but its leaving is
    /// noticed, and the sweep ends its wait.
    fn wait_for_worker(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        up: &mut impl Upstream,
        slot: Slot,
        frame: Frame,
    ) {
        if let Frame::Block(span) = frame
            && !self.spill(io, ctx, up, slot, span)
        {
            return;
        }
        self.set_blocked(ctx, slot);
        up.waits(true);
        self.watch(io, slot);
    }

    /// The hash of the routing key in the HELLO that waits.
    pub(crate) fn waiting_hash(&mut self, io: &impl Io, ctx: &Context, slot: Slot) -> Option<u64> {
        let bytes = self.take_scratch(io, slot, Frame::Spill(self.spill_bytes(slot)));
        let hello = match edge::split(&bytes, ctx.cfg.frame_bytes_max) {
            Ok(Split::Frame { frame, .. }) => Hello::decode(&frame[edge::HEADER_BYTES..]).ok(),
            _ => None,
        };
        let routing_hash = hello.map(|hello| hash::routing_hash(hello.key));
        self.scratch = bytes;
        routing_hash
    }
}
