//! What connections see of workers: where a HELLO goes, and whether a message may.

use std::collections::BTreeSet;

use roost_protocol::{
    ConnectionId, Reason, hash,
    link::{Header, LinkType, Open},
};

use super::{
    admission::{Payload, append},
    failover::awaits_failover,
    routing::route_any,
};
use crate::{
    core::{
        config::NoWorkerPolicy,
        connection::{Ended, Greeting, Newcomer, Upstream},
        context::Context,
        index::WorkerIndex,
        link::Link,
        span::Span,
    },
    op::Io,
};

/// What there is of a shard besides its connections.
pub(super) struct Up<'a> {
    pub(super) links: &'a mut Vec<Link>,
    pub(super) unsent_opens: &'a mut BTreeSet<u64>,
    pub(super) homeless: &'a mut u32,
    /// Connections are being given to other workers, or it is not yet known who has what they had sent.
    pub(super) fails_over: bool,
}

impl Upstream for Up<'_> {
    fn hello(&mut self, io: &mut impl Io, ctx: &mut Context, newcomer: &Newcomer<'_>) -> Greeting {
        let Newcomer { connection, peer, listener, ref hello } = *newcomer;
        let routing_hash = hash::routing_hash(hello.key);
        let Some(worker) = route_any(self.links, routing_hash) else {
            return match ctx.cfg.no_worker {
                NoWorkerPolicy::Refuse => Greeting::Refuse(Reason::NoWorker),
                NoWorkerPolicy::Wait => Greeting::Wait,
            };
        };
        let link = &mut self.links[usize::from(worker)];
        if !link.has_credit() {
            // Clients may come and go for as long as a worker hangs: what its link retains must not grow
            // with each.
            link.awaited = true;
            return Greeting::Wait;
        }
        let mut payload = Vec::with_capacity(Open::PAYLOAD_BYTES_MAX);
        Open { routing_hash, peer, key: hello.key, token: hello.token }.encode_payload(&mut payload);
        let header = Header::new(LinkType::Open, connection, payload.len() as u32).aux(listener);
        link.connections += 1;
        append(link, worker, ctx, io, header, std::iter::once(Payload::Bytes(&payload)));
        Greeting::Opening { worker, routing_hash }
    }

    fn waits(&mut self, waits: bool) {
        if waits {
            *self.homeless += 1;
        } else {
            *self.homeless -= 1;
        }
    }

    #[inline]
    fn may_forward(&self, worker: WorkerIndex) -> bool {
        let link = &self.links[usize::from(worker)];
        !self.fails_over && link.resend.is_empty() && link.has_credit()
    }

    fn may_read(&self, worker: WorkerIndex) -> bool {
        self.may_forward(worker) && self.links[usize::from(worker)].holding.is_empty()
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
        let link = &mut self.links[usize::from(worker)];
        debug_assert!(
            link.has_credit(),
            "invariant admission: a message is appended to a queue that has no room"
        );
        append(link, worker, ctx, io, header, spans.map(Payload::Span));
    }

    fn block(&mut self, worker: WorkerIndex, connection: ConnectionId, holding: bool) {
        let link = &mut self.links[usize::from(worker)];
        let list = if holding { &mut link.holding } else { &mut link.blocked };
        list.push_back((connection.slot(), connection.generation()));
    }

    /// Tells the worker, once, that the connection is gone.
    fn ended(&mut self, io: &mut impl Io, ctx: &mut Context, ended: Ended) {
        let Ended { connection, worker, moving, reason } = ended;
        let link = &mut self.links[usize::from(worker)];
        link.connections -= 1;
        if moving {
            return;
        }
        // Of one whose worker failed, or whose OPEN is still to be sent, no worker has heard yet.
        let unheard =
            awaits_failover(link, connection.slot()) || self.unsent_opens.remove(&connection.to_bits());
        if !unheard {
            let header = Header::new(LinkType::Closed, connection, 0).reason(reason);
            append(link, worker, ctx, io, header, std::iter::empty());
        }
    }
}
