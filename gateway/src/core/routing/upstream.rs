//! What connections ask and say: where a HELLO goes, whether a message may, and that they have ended.

use std::iter;

use roost_protocol::{
    ConnectionId, Reason, edge, hash,
    link::{Header, LinkType, Open},
};

use super::Routing;
use crate::{
    core::{
        config::NoWorkerPolicy,
        connection::{Ended, Greeting, Newcomer, Upstream},
        context::Context,
        index::WorkerIndex,
        link::Piece,
        span::Span,
    },
    op::Io,
};

impl Upstream for Routing {
    fn hello(&mut self, io: &mut impl Io, ctx: &mut Context, newcomer: &Newcomer<'_>) -> Greeting {
        let Newcomer { connection, peer, listener, ref hello } = *newcomer;
        let routing_hash = hash::routing_hash(hello.key);
        let Some(worker) = self.route_any(routing_hash) else {
            return match ctx.cfg.no_worker {
                NoWorkerPolicy::Refuse => Greeting::Refuse(Reason::NoWorker),
                NoWorkerPolicy::Wait => Greeting::Wait,
            };
        };
        let link = &mut self.links[worker.link()];
        if !link.has_credit() {
            // Clients may come and go for as long as a worker hangs: what its link retains must not grow
            // with each.
            self.record_mut(worker).may_be_awaited = true;
            return Greeting::Wait;
        }
        let framing = ctx.cfg.framing(listener).on_links();
        // As long as the payload, and not as it may be: the allocator is quick with what is short.
        let fixed_bytes = Open::PLAIN_BYTES_MAX - edge::KEY_BYTES_MAX - edge::TOKEN_BYTES_MAX;
        let mut payload = Vec::with_capacity(fixed_bytes + hello.key.len() + hello.token.len());
        // A client of a plain listener has made no request, and has shown no certificate.
        let open = Open { routing_hash, framing, peer, key: hello.key, token: hello.token, meta: b"" };
        open.encode_payload(&mut payload);
        let header = Header::new(LinkType::Open, connection, payload.len() as u32).aux(listener);
        link.add_connection();
        link.append(io, ctx, header, iter::once(Piece::Bytes(&payload)));
        Greeting::Opening { worker, routing_hash }
    }

    fn waits(&mut self, waits: bool) {
        self.waiting.count(waits);
    }

    #[inline]
    fn may_forward(&self, worker: WorkerIndex) -> bool {
        !self.is_failing_over() && self.link(worker).has_credit()
    }

    fn may_read(&self, worker: WorkerIndex) -> bool {
        self.may_forward(worker) && self.record(worker).holding.is_empty()
    }

    #[inline]
    fn message(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        (connection, worker): (ConnectionId, WorkerIndex),
        bytes: u32,
        spans: impl Iterator<Item = Span>,
    ) {
        let header = Header::new(LinkType::Data, connection, bytes);
        let link = &mut self.links[worker.link()];
        debug_assert!(
            link.has_credit(),
            "invariant admission: a message is appended to a queue that has no room"
        );
        link.append(io, ctx, header, spans.map(Piece::Span));
    }

    fn block(&mut self, worker: WorkerIndex, connection: ConnectionId, holding: bool) {
        let record = self.record_mut(worker);
        let list = if holding { &mut record.holding } else { &mut record.blocked };
        list.push_back((connection.slot(), connection.generation()));
    }

    /// Tells the worker, once, that the connection is gone.
    fn ended(&mut self, io: &mut impl Io, ctx: &mut Context, ended: Ended) {
        let Ended { connection, worker, moving, reason } = ended;
        self.links[worker.link()].remove_connection();
        if moving {
            return;
        }
        // Of one whose worker failed, or whose OPEN is still to be sent, no worker has heard yet.
        let unheard = self.awaits_failover(worker, connection.slot())
            || self.unsent_opens.remove(&connection.to_bits());
        if !unheard {
            let header = Header::new(LinkType::Closed, connection, 0).reason(reason);
            self.links[worker.link()].append(io, ctx, header, iter::empty());
        }
    }
}
