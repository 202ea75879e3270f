//! One shard's core: what it consists of, and the order of a turn.
//!
//! * [`command`]: what the shell asks for.

mod command;
#[cfg(any(test, feature = "sim"))]
pub mod inspect;

use std::sync::{Arc, atomic::Ordering::Relaxed};

pub use command::{Command, ConnectionInfo};

use crate::{
    core::{
        config::CoreConfig,
        connection::Connections,
        context::{Context, Entropy},
        event::Event,
        index::WorkerIndex,
        link::{self, Redial},
        routing::Routing,
        stats::ShardStats,
    },
    op::{Completion, Io},
};

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
    routing: Routing,
    /// Configurations taken since the start.
    configured: u64,
}

impl ShardCore {
    /// A core whose driver has `slots_per_ring` slots per ring.
    pub fn new(cfg: CoreConfig, slots_per_ring: u32, stats: Arc<ShardStats>, entropy: Entropy) -> Self {
        let connections = Connections::new(&cfg, slots_per_ring);
        let mut ctx = Context::new(cfg, stats, entropy);
        Self { connections, routing: Routing::new(&mut ctx), configured: 0, ctx }
    }

    /// Arms the accepts and dials the workers. `slots_started` is the driver's.
    pub fn start(&mut self, io: &mut impl Io, now_ms: u64, slots_started: u32) {
        self.ctx.set_now_ms(now_ms);
        self.connections.start_sweep(&self.ctx);
        self.set_slots_started(slots_started);
        self.routing.attend_links(io, &mut self.ctx, &self.connections);
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
        self.connections.is_behind() || self.routing.is_behind()
    }

    /// Begins a turn at this time, which must not go back.
    pub fn begin_turn(&mut self, now_ms: u64) {
        self.ctx.set_now_ms(self.ctx.now_ms.max(now_ms));
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
        let Self { ctx, connections, routing, .. } = self;
        if link::is_link_op(completion.token) {
            routing.on_completion(io, ctx, connections, completion.token, completion.result);
        } else {
            connections.on_completion(io, ctx, routing, completion);
        }
    }

    /// Ends a turn: paced work, flushing links, deadlines. Says when to run again.
    pub fn end_turn(&mut self, io: &mut impl Io) -> Next {
        let Self { ctx, connections, routing, .. } = self;
        let mut busy = connections.run_turns(io, ctx, routing);
        busy |= routing.run(io, ctx, connections);
        busy |= routing.run_broadcasts(io, ctx, connections);
        busy |= connections.run_drain(io, ctx, routing);
        busy |= routing.run_stalled_links(io, ctx, connections);
        routing.shed_links(ctx);
        routing.attend_links(io, ctx, connections);
        connections.fill_accepts(io, ctx);
        let sweep_at = connections.run_sweep(io, ctx, routing);
        routing.flush(io, ctx);
        connections.release_small(ctx);
        connections.publish(ctx);
        routing.publish(ctx);
        ctx.stats.configured.store(self.configured, Relaxed);
        let next_at = sweep_at.min(routing.next_deadline_ms(ctx)).min(connections.next_drain_ms());
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

    /// Says how many addresses the driver gives a link in turn; 0: none is known yet, and it is not
    /// dialled until there is one.
    pub fn set_addresses(&mut self, io: &mut impl Io, index: u16, count: usize, redial: Redial) {
        self.routing.set_addresses(io, &mut self.ctx, index, count, redial);
    }

    /// Takes out the links whose TCP connection has gone, or did not come up, since the last call, and
    /// whether it had not come up: then the next address is to be tried.
    pub fn take_broken(&mut self, each: impl FnMut(u16, bool)) {
        self.routing.take_broken(each);
    }

    /// The name of the worker behind a link.
    pub fn worker_name(&self, index: u8) -> &str {
        self.routing.worker_name(WorkerIndex::new(index))
    }

    /// The link of the worker with this name.
    pub fn worker_index(&self, name: &str) -> Option<u16> {
        self.routing.link_of(name).map(|link| link.get())
    }
}
