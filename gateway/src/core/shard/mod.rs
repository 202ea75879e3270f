//! One shard's core: what happens to its connections and links when something completes.
//!
//! * [`accept`]: clients come in.
//! * [`admission`]: what is appended to a link's queue, and who pays when memory is used up.
//! * [`proxy`]: who they really are, behind a proxy.
//! * [`receive`]: bytes of clients become frames, frames go to a link.
//! * [`turns`]: who is read next.
//! * [`allowance`]: how much a client may send per second.
//! * [`send`]: frames go to clients, at once or by an outbox.
//! * [`close`]: drain, stop, join, close.
//! * [`links`]: dialling, flushing, keepalive.
//! * [`link_up`]: the handshake, until a link is up.
//! * [`link_frames`]: what workers say.
//! * [`routing`]: which worker a connection belongs to; moves.
//! * [`failover`]: a worker is given up, and others get what it had.
//! * [`fanout`]: broadcasts, a bounded part per turn.
//! * [`sweep`]: deadlines, by visiting the table slice by slice.
//! * [`dial`]: when a link is dialled, and where next.
//! * [`workers`]: which worker has which link.
//! * [`command`]: what the shell asks for.

mod accept;
mod admission;
mod allowance;
mod close;
mod command;
mod dial;
mod failover;
mod fanout;
mod hello;
#[cfg(any(test, feature = "sim"))]
pub mod inspect;
mod invariants;
mod link_frames;
mod link_up;
mod links;
mod proxy;
mod receive;
mod rounds;
mod routing;
mod send;
mod sweep;
mod turns;
mod workers;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

pub use command::{Command, ConnectionInfo};
pub use dial::Redial;
use roost_protocol::{ConnectionId, Reason};

use crate::{
    core::{
        config::CoreConfig,
        connection::table::Table,
        context::{Context, Entropy},
        event::Event,
        link::{Link, resend::Resend},
        outbox::Outboxes,
        pool::Class,
        record::{Hot, State, bit},
        spill::Spills,
        stats::{ShardStats, Stat},
    },
    op::{Block, Completion, Io, Token},
};

/// What tokens are for: the kind of every token the core makes.
pub mod kind {
    /// Ops on clients; the index is the slot.
    pub const ACCEPT: u8 = 1;
    /// A poll for input.
    pub const POLL_IN: u8 = 2;
    /// A receive.
    pub const RECV: u8 = 3;
    /// A send.
    pub const SEND: u8 = 4;
    /// A poll for room.
    pub const POLL_OUT: u8 = 5;
    /// A cancel.
    pub const CANCEL: u8 = 6;
    /// A shutdown of the sending side.
    pub const SHUTDOWN: u8 = 7;
    /// A close.
    pub const CLOSE: u8 = 8;
    /// Ops on links; the index is the link.
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
    table: Table,
    outboxes: Outboxes,
    /// The chunk that the gateway's own small frames are written to, one behind the other, and how
    /// much of it is taken: a chunk each would touch megabytes in a burst of PONGs.
    small: Option<(Block, u32)>,
    spills: Spills,
    links: Vec<Link>,
    /// Links whose TCP connection has gone since [`ShardCore::take_broken`] was last called.
    broken: Vec<u16>,
    /// Configurations taken since the start.
    configured: u64,
    accepting: accept::Accepting,
    sweep: sweep::Sweep,
    fanouts: VecDeque<fanout::Fanout>,
    /// Failed workers whose connections are being given to others.
    walks: u32,
    /// What failed workers had not acknowledged, until it is known who gets it.
    salvage: Resend,
    /// Connections whose OPEN stands there, or waits to be sent again: no worker knows of them.
    unsent_opens: BTreeSet<u64>,
    /// When the last worker was given up, for as long as there is no other.
    workerless_since_ms: u64,
    /// Connections with data to read that wait for their turn.
    turns: turns::Turns,
    /// How long the HELLO has waited that is being handled.
    hello_waited_s: u32,
    /// Connections whose HELLO waits for a worker, or for its credit.
    homeless: u32,
    /// Where the walk that resumes them is in the table, and how many slots it has yet to visit.
    homeless_cursor: u32,
    homeless_left: u32,
    /// Connections that wait for their turn to shut their sending side.
    shutdown_waiters: VecDeque<(u32, u32)>,
    shutdowns_in_flight: u32,
    drain: Option<command::Drain>,
    /// The alternative in the GOAWAY of a drain; empty: none.
    drain_to: Arc<str>,
    /// Reused where bytes of a frame must be contiguous.
    scratch: Vec<u8>,
}

impl ShardCore {
    /// A core whose driver has `slots_per_ring` slots per ring.
    pub fn new(cfg: CoreConfig, slots_per_ring: u32, stats: Arc<ShardStats>, entropy: Entropy) -> Self {
        let mut core = Self {
            links: Vec::new(),
            broken: Vec::new(),
            configured: 0,
            table: Table::new(cfg.slots_max, slots_per_ring),
            accepting: accept::Accepting::new(cfg.listeners, cfg.accept_ramp_per_s, cfg.accepts_at_start),
            outboxes: Outboxes::new(),
            small: None,
            spills: Spills::new(),
            sweep: sweep::Sweep::default(),
            fanouts: VecDeque::new(),
            walks: 0,
            salvage: Resend::default(),
            unsent_opens: BTreeSet::new(),
            workerless_since_ms: 0,
            turns: turns::Turns::default(),
            hello_waited_s: 0,
            homeless: 0,
            homeless_cursor: 0,
            homeless_left: 0,
            shutdown_waiters: VecDeque::new(),
            shutdowns_in_flight: 0,
            drain: None,
            drain_to: Arc::from(""),
            scratch: Vec::new(),
            ctx: Context::new(cfg, stats, entropy),
        };
        core.link_workers();
        core
    }

    /// Arms the accepts and dials the workers. `slots_started` is the driver's.
    pub fn start(&mut self, io: &mut impl Io, now_ms: u64, slots_started: u32) {
        self.ctx.now_ms = now_ms;
        self.sweep.start(now_ms);
        self.set_slots_started(slots_started);
        self.dial_due(io);
        self.fill_accepts(io);
    }

    /// Says how many slots the driver has started; see [`Self::wants_slots`].
    pub fn set_slots_started(&mut self, slots_started: u32) {
        self.accepting.slots_started = slots_started;
        self.ctx.stats.set(Stat::SlotsStarted, u64::from(slots_started));
    }

    /// Whether all started slots are in use and more may be started.
    pub fn wants_slots(&self) -> bool {
        let pauses = self.accepting.resumes_at_ms(self.ctx.now_ms).is_some();
        self.accepting.wants_slots && !pauses && self.accepting.slots_started < self.table.slots()
    }

    /// More slots could not be started; it is tried again after a pause.
    pub fn on_slots_refused(&mut self) {
        self.ctx.stats.inc(Stat::AcceptErrors);
        self.accepting.pause(self.ctx.now_ms);
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
        let slots = completions.iter().filter(|completion| completion.token.kind() < kind::LINK_CONNECT);
        let touched = slots.fold(0, |sum, completion| sum ^ self.table.touch(completion.token.index()));
        std::hint::black_box(touched);
    }

    /// Acts on one completion.
    pub fn on_completion(&mut self, io: &mut impl Io, completion: Completion) {
        let Completion { token, result } = completion;
        if token.kind() >= kind::LINK_CONNECT {
            self.on_link_completion(io, token, result);
            return;
        }
        let slot = token.index();
        if slot >= self.table.slots() || self.table.hot(slot).generation() != token.generation() {
            self.ctx.stats.inc(Stat::LateCompletions);
            return;
        }
        let bit = op_bit(token.kind());
        let was_there = self.table.hot_mut(slot).end_op(bit);
        assert!(was_there, "invariant op-bits: {token:?} completes an op that is not in the kernel");
        match token.kind() {
            kind::ACCEPT => self.on_accept(io, slot, result),
            kind::POLL_IN => self.on_poll_in(io, slot, result),
            kind::RECV => self.on_recv(io, slot, result),
            kind::SEND => self.on_send(io, slot, result),
            kind::POLL_OUT => self.on_poll_out(io, slot),
            kind::CANCEL => self.on_cancel(io, slot),
            kind::SHUTDOWN => self.on_shutdown(io, slot),
            kind::CLOSE => self.on_close(slot),
            other => panic!("no op has kind {other}"),
        }
    }

    /// Ends a turn: paced work, flushing links, deadlines. Says when to run again.
    pub fn end_turn(&mut self, io: &mut impl Io) -> Next {
        let mut busy = self.run_turns(io);
        busy |= self.run_routing(io);
        busy |= self.run_fanouts(io);
        busy |= self.run_drain(io);
        busy |= self.run_stalled_links(io);
        self.shed_links();
        self.dial_due(io);
        self.fill_accepts(io);
        let sweep_at = self.run_sweep(io);
        self.flush_links(io);
        self.release_small();
        self.publish();
        let next_at = sweep_at.min(self.next_link_deadline()).min(self.next_drain_ms());
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

    fn tick(&self) -> u16 {
        self.ctx.tick()
    }

    fn token(&self, kind: u8, slot: u32) -> Token {
        Token::new(kind, slot, self.table.hot(slot).generation())
    }

    fn connection_id(&self, slot: u32) -> ConnectionId {
        ConnectionId::new(self.ctx.cfg.shard, slot, self.table.hot(slot).generation())
    }

    /// The slot of a live connection of this shard with this id.
    fn find(&self, id: ConnectionId) -> Option<u32> {
        let slot = id.slot();
        let found = id.shard() == self.ctx.cfg.shard && slot < self.table.slots();
        (found && self.is_current(slot, id.generation())).then_some(slot)
    }

    fn is_current(&self, slot: u32, generation: u32) -> bool {
        let hot = self.table.hot(slot);
        hot.generation() == generation && !matches!(hot.state(), State::Free | State::Accepting)
    }

    /// Submits an op of a client and sets its bit.
    #[inline(always)]
    fn submit(&mut self, io: &mut impl Io, slot: u32, kind: u8, op: crate::op::Op) {
        let token = self.token(kind, slot);
        self.table.hot_mut(slot).begin_op(op_bit(kind));
        io.submit(token, op);
    }

    /// Changes the state and the gauges that count connections by state.
    fn set_state(&mut self, slot: u32, state: State) {
        let hot = self.table.hot_mut(slot);
        let before = hot.state();
        hot.set_state(state);
        if let Some(gauge) = state_gauge(before) {
            self.ctx.stats.dec(gauge);
        }
        if let Some(gauge) = state_gauge(state) {
            self.ctx.stats.inc(gauge);
        }
    }

    fn set_flag(&mut self, slot: u32, flag: u8) {
        self.table.hot_mut(slot).set_flag(flag);
    }

    fn clear_flag(&mut self, slot: u32, flag: u8) {
        self.table.hot_mut(slot).clear_flag(flag);
    }

    fn hot(&self, slot: u32) -> &Hot {
        self.table.hot(slot)
    }

    fn publish(&self) {
        let stats = &self.ctx.stats;
        let chunk = u64::from(CoreConfig::CHUNK_BYTES);
        stats.set(Stat::AcceptsArmed, u64::from(self.accepts_armed()));
        stats.set(Stat::OutboxBytes, self.outboxes.bytes_total());
        stats.set(Stat::Outboxes, self.outboxes.count() as u64);
        stats.set(Stat::OutboxPoolBytes, u64::from(self.ctx.pools.in_use(Class::Outbox)) * chunk);
        stats.set(Stat::SpillBytes, self.spills.bytes_total());
        stats.set(Stat::Spills, self.spills.count() as u64);
        stats.set(Stat::SpillPoolBytes, u64::from(self.ctx.pools.in_use(Class::Spill)) * chunk);
        self.publish_links();
        stats.configured.store(self.configured, std::sync::atomic::Ordering::Relaxed);
    }
}

fn op_bit(kind: u8) -> u8 {
    match kind {
        kind::ACCEPT => bit::ACCEPT,
        kind::POLL_IN => bit::POLL_IN,
        kind::RECV => bit::RECV,
        kind::SEND => bit::SEND,
        kind::POLL_OUT => bit::POLL_OUT,
        kind::CANCEL => bit::CANCEL,
        kind::SHUTDOWN => bit::SHUTDOWN,
        kind::CLOSE => bit::CLOSE,
        other => panic!("no client op has kind {other}"),
    }
}

fn state_gauge(state: State) -> Option<Stat> {
    match state {
        State::Free | State::Accepting => None,
        State::Handshaking => Some(Stat::ConnectionsHandshaking),
        State::Opening => Some(Stat::ConnectionsOpening),
        State::Open => Some(Stat::ConnectionsOpen),
        State::Draining => Some(Stat::ConnectionsDraining),
        State::Closing => Some(Stat::ConnectionsClosing),
    }
}

/// The reason for an errno of a receive or send.
fn reason_of(result: i32) -> Reason {
    use crate::op::errno;
    match -result {
        errno::ECONNRESET | errno::EPIPE | errno::ECONNABORTED => Reason::ClientReset,
        errno::ETIMEDOUT => Reason::ClientVanished,
        _ => Reason::WriteError,
    }
}
