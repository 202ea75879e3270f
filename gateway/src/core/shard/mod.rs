//! One shard's core: what it consists of, and the order of a turn.
//!
//! * [`upstream`]: what connections see of links and routing.
//! * [`opening`]: clients whose HELLO waits for a worker.
//! * [`admission`]: memory is asked for where bytes are appended.
//! * [`links`]: dialling, flushing, keepalive.
//! * [`link_up`]: the handshake, until a link is up.
//! * [`link_frames`]: what workers say.
//! * [`routing`]: which worker a connection belongs to; moves.
//! * [`failover`]: a worker is given up, and others get what it had.
//! * [`fanout`]: broadcasts, a bounded part per turn.
//! * [`dial`]: when a link is dialled, and where next.
//! * [`workers`]: which worker has which link.
//! * [`command`]: what the shell asks for.

/// All of a shard's core but its connections and its context, as an [`Upstream`].
macro_rules! up {
    ($core:expr) => {
        &mut $crate::core::shard::upstream::Up {
            links: &mut $core.links,
            unsent_opens: &mut $core.unsent_opens,
            homeless: &mut $core.homeless,
            fails_over: $core.walks > 0 || !$core.salvage.is_empty(),
        }
    };
}

mod admission;
mod command;
mod dial;
mod failover;
mod fanout;
#[cfg(any(test, feature = "sim"))]
pub mod inspect;
mod invariants;
mod link_frames;
mod link_up;
mod links;
mod opening;
mod routing;
mod upstream;
mod workers;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

pub use command::{Command, ConnectionInfo};
pub use dial::Redial;
use roost_protocol::Reason;

use crate::{
    core::{
        config::CoreConfig,
        connection::Connections,
        context::{Context, Entropy},
        event::Event,
        index::Slot,
        link::{Link, resend::Resend},
        record::Hot,
        span::Span,
        stats::ShardStats,
    },
    op::{Completion, Io},
};

/// What tokens of ops on links are for; the index is the link.
pub mod kind {
    /// A connect.
    pub const LINK_CONNECT: u8 = 16;
    /// A receive on a link.
    pub const LINK_RECV: u8 = 17;
    /// A send on a link.
    pub const LINK_SEND: u8 = 18;
    /// A cancel on a link.
    pub const LINK_CANCEL: u8 = 19;
    /// A close of a link.
    pub const LINK_CLOSE: u8 = 20;
}

/// When the core wants to run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// At once: paced work is left.
    Busy,
    /// At this time at the latest, in the clock of `now_ms`.
    At(u64),
}

/// One shard's core. Drive it with [`Self::start`], then for every turn of the loop
/// [`Self::begin_turn`], [`Self::on_completion`] for each completion, [`Self::end_turn`].
pub struct ShardCore {
    ctx: Context,
    connections: Connections,
    links: Vec<Link>,
    /// Links whose TCP connection has gone since [`ShardCore::take_broken`] was last called.
    broken: Vec<u16>,
    /// Configurations taken since the start.
    configured: u64,
    fanouts: VecDeque<fanout::Fanout>,
    /// Failed workers whose connections are being given to others.
    walks: u32,
    /// What failed workers had not acknowledged, until it is known who gets it.
    salvage: Resend,
    /// Connections whose OPEN stands there, or waits to be sent again: no worker knows of them.
    unsent_opens: BTreeSet<u64>,
    /// When the last worker was given up, for as long as there is no other.
    workerless_since_ms: u64,
    /// Connections whose HELLO waits for a worker, or for its credit.
    homeless: u32,
    /// Where the walk that resumes them is in the table, and how many slots it has yet to visit.
    homeless_cursor: u32,
    homeless_left: u32,
}

impl ShardCore {
    /// A core whose driver has `slots_per_ring` slots per ring.
    pub fn new(cfg: CoreConfig, slots_per_ring: u32, stats: Arc<ShardStats>, entropy: Entropy) -> Self {
        let mut core = Self {
            connections: Connections::new(&cfg, slots_per_ring),
            ctx: Context::new(cfg, stats, entropy),
            links: Vec::new(),
            broken: Vec::new(),
            configured: 0,
            fanouts: VecDeque::new(),
            walks: 0,
            salvage: Resend::default(),
            unsent_opens: BTreeSet::new(),
            workerless_since_ms: 0,
            homeless: 0,
            homeless_cursor: 0,
            homeless_left: 0,
        };
        core.link_workers();
        core
    }

    /// Arms the accepts and dials the workers. `slots_started` is the driver's.
    pub fn start(&mut self, io: &mut impl Io, now_ms: u64, slots_started: u32) {
        self.ctx.now_ms = now_ms;
        self.connections.start_sweep(&self.ctx);
        self.set_slots_started(slots_started);
        self.dial_due(io);
        self.connections.fill_accepts(io, &self.ctx);
    }

    /// Says how many slots the driver has started; see [`Self::wants_slots`].
    pub fn set_slots_started(&mut self, slots_started: u32) {
        self.connections.set_slots_started(&self.ctx, slots_started);
    }

    /// Whether all started slots are in use and more may be started.
    pub fn wants_slots(&self) -> bool {
        self.connections.wants_slots(&self.ctx)
    }

    /// More slots could not be started; it is tried again after a pause.
    pub fn on_slots_refused(&mut self) {
        self.connections.on_slots_refused(&self.ctx);
    }

    /// The whole shard has read nobody for so long.
    pub fn on_pause(&mut self, pause_ms: u64) {
        self.connections.on_pause(&self.ctx, pause_ms);
    }

    /// Whether something that has arrived, or could be received now, waits for its turn.
    pub fn is_behind(&self) -> bool {
        self.connections.is_behind() || self.links.iter().any(|link| link.rx.stalled)
    }

    /// Begins a turn at this time, which must not go back.
    pub fn begin_turn(&mut self, now_ms: u64) {
        self.ctx.now_ms = self.ctx.now_ms.max(now_ms);
    }

    /// Touches the records that these completions are for, ahead of [`Self::on_completion`].
    ///
    /// Among many connections each record is a miss of the cache, and one completion after the other
    /// would wait for its own; here nothing depends on what is read, so the misses overlap.
    pub fn fetch_records(&self, completions: &[Completion]) {
        self.connections.fetch_records(completions);
    }

    /// Acts on one completion.
    pub fn on_completion(&mut self, io: &mut impl Io, completion: Completion) {
        if completion.token.kind() >= kind::LINK_CONNECT {
            self.on_link_completion(io, completion.token, completion.result);
        } else {
            self.connections.on_completion(io, &mut self.ctx, up!(self), completion);
        }
    }

    /// Ends a turn: paced work, flushing links, deadlines. Says when to run again.
    pub fn end_turn(&mut self, io: &mut impl Io) -> Next {
        let mut busy = self.connections.run_turns(io, &mut self.ctx, up!(self));
        busy |= self.run_routing(io);
        busy |= self.run_fanouts(io);
        busy |= self.connections.run_drain(io, &mut self.ctx, up!(self));
        busy |= self.run_stalled_links(io);
        self.shed_links();
        self.dial_due(io);
        self.connections.fill_accepts(io, &self.ctx);
        let sweep_at = self.connections.run_sweep(io, &mut self.ctx, up!(self));
        self.flush_links(io);
        self.connections.release_small(&mut self.ctx);
        self.publish();
        let next_at = sweep_at.min(self.next_link_deadline()).min(self.connections.next_drain_ms());
        if busy { Next::Busy } else { Next::At(next_at) }
    }

    /// Takes out what happened since the last call; also, how many events were too many to keep.
    pub fn take_events(&mut self, each: impl FnMut(Event)) -> u64 {
        self.ctx.events.take(each)
    }

    /// The shard's figures.
    pub fn stats(&self) -> &Arc<ShardStats> {
        &self.ctx.stats
    }

    fn publish(&self) {
        self.connections.publish(&self.ctx);
        self.publish_links();
        self.ctx.stats.configured.store(self.configured, std::sync::atomic::Ordering::Relaxed);
    }

    fn hot(&self, slot: Slot) -> &Hot {
        self.connections.hot(slot)
    }

    fn refuse(&mut self, io: &mut impl Io, slot: Slot, reason: Reason) {
        self.connections.refuse(io, &mut self.ctx, up!(self), slot, reason);
    }

    fn close(&mut self, io: &mut impl Io, slot: Slot, reason: Reason, goaway: Option<u32>) {
        self.connections.close(io, &mut self.ctx, up!(self), slot, (reason, goaway));
    }

    fn resume(&mut self, io: &mut impl Io, slot: Slot) {
        self.connections.resume(io, &mut self.ctx, up!(self), slot);
    }

    #[inline]
    fn queue_span(&mut self, io: &mut impl Io, slot: Slot, span: Span) {
        self.connections.queue_span(io, &mut self.ctx, up!(self), slot, span);
    }
}
