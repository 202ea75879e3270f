//! Connections of clients: all that is known of them, and what becomes of each.
//!
//! Nothing in here knows a link or where a connection is routed: what clients send goes to an
//! [`Upstream`], and what workers want comes as calls. The state is private to this room.
//!
//! * [`record`], [`table`], [`peer`]: what is known of each connection.
//! * [`lifecycle`]: the states.
//! * [`accept`], [`rounds`]: clients come in.
//! * [`stage`]: what stands between the bytes of a socket and frames.
//! * [`framing`]: bytes become frames, and replies become bytes.
//! * [`turns`], [`receive`]: whose turn it is to be read, and what becomes of the bytes.
//! * [`hello`], [`waiting`]: a session begins, or waits until it can.
//! * [`allowance`]: how much a client may send.
//! * [`send`], [`outbox`]: frames to clients.
//! * [`spill`]: incomplete frames, and those that wait.
//! * [`memory`], [`rank`]: who pays when memory is used up.
//! * [`close`], [`drain`]: connections end.
//! * [`deadlines`]: the sweep over the table.

mod accept;
mod allowance;
mod close;
mod deadlines;
mod drain;
mod framing;
mod hello;
#[cfg(any(test, feature = "sim"))]
mod inspect;
#[cfg(any(test, feature = "sim"))]
mod invariants;
pub mod lifecycle;
mod memory;
pub(crate) mod outbox;
mod peer;
pub(crate) mod rank;
mod receive;
pub mod record;
mod rounds;
mod send;
mod slab;
pub(crate) mod spill;
pub mod stage;
pub(crate) mod table;
mod turns;
mod upstream;
mod waiting;

use std::collections::VecDeque;

use accept::Accepting;
use deadlines::Sweep;
use drain::Drain;
#[cfg(any(test, feature = "sim"))]
pub use inspect::SlotView;
use lifecycle::State;
use outbox::Outboxes;
use record::{Cold, Hot, bit};
use roost_protocol::{ConnectionId, Reason};
use spill::Spills;
use table::Table;
use turns::Turns;
pub(crate) use upstream::{Ended, Greeting, Newcomer, Upstream};

use crate::{
    core::{config::CoreConfig, context::Context, index::Slot, pool::Class, stats::Stat},
    op::{Block, Completion, Io, Op, Token, errno},
};

/// What tokens of ops on clients are for; the index is the slot.
mod kind {
    pub(super) const ACCEPT: u8 = 1;
    /// A poll for input.
    pub(super) const POLL_IN: u8 = 2;
    pub(super) const RECV: u8 = 3;
    pub(super) const SEND: u8 = 4;
    /// A poll for room.
    pub(super) const POLL_OUT: u8 = 5;
    pub(super) const CANCEL: u8 = 6;
    /// A shutdown of the sending side.
    pub(super) const SHUTDOWN: u8 = 7;
    pub(super) const CLOSE: u8 = 8;
    /// A look at the queue of a listener, which is the index.
    pub(super) const COUNT_WAITING: u8 = 9;
}

/// All connections of a shard.
pub(crate) struct Connections {
    shard: u8,
    /// Clients of a listener pass a stage.
    staged: bool,
    table: Table,
    outboxes: Outboxes,
    /// The chunk that the gateway's own small frames are written to, one behind the other, and how
    /// much of it is taken: a chunk each would touch megabytes in a burst of PONGs.
    small: Option<(Block, u32)>,
    spills: Spills,
    accepting: Accepting,
    sweep: Sweep,
    /// Connections with data to read that wait for their turn.
    turns: Turns,
    /// How long the HELLO has waited that is being handled.
    hello_waited_s: u32,
    /// Connections that wait for their turn to shut their sending side.
    shutdown_waiters: VecDeque<(Slot, u32)>,
    shutdowns_in_flight: u32,
    drain: Drain,
    /// Reused where bytes of a frame must be contiguous.
    scratch: Vec<u8>,
    /// Reused for replies, and for what is sealed.
    reply: Vec<u8>,
    sealed: Vec<u8>,
}

impl Connections {
    /// None yet, for a driver that has `slots_per_ring` slots per ring.
    pub(crate) fn new(cfg: &CoreConfig, slots_per_ring: u32) -> Self {
        let staged = Self::is_staged(cfg);
        Self {
            staged,
            shard: cfg.shard,
            table: Table::new(cfg.slots_max, slots_per_ring, staged),
            outboxes: Outboxes::new(),
            small: None,
            spills: Spills::new(),
            accepting: Accepting::new(cfg.listeners.len(), cfg.accept_ramp_per_s, cfg.accepts_at_start),
            sweep: Sweep::default(),
            turns: Turns::default(),
            hello_waited_s: 0,
            shutdown_waiters: VecDeque::new(),
            shutdowns_in_flight: 0,
            drain: Drain::default(),
            scratch: Vec::new(),
            reply: Vec::new(),
            sealed: Vec::new(),
        }
    }

    /// Touches the records that these completions are for.
    pub(crate) fn fetch_records(&self, completions: &[Completion]) {
        let slots = completions.iter().filter(|completion| completion.token.kind() <= kind::CLOSE);
        let touched = slots.fold(0, |sum, completion| sum ^ self.table.touch(completion.token.index()));
        std::hint::black_box(touched);
    }

    /// Acts on the completion of a client's op.
    pub(crate) fn on_completion(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        up: &mut impl Upstream,
        completion: Completion,
    ) {
        let Completion { token, result, peer } = completion;
        if token.kind() == kind::COUNT_WAITING {
            return self.on_waiting_counted(ctx, token.index(), result);
        }
        let slot = Slot::new(token.index());
        let hot = self.table.get_mut(slot).filter(|hot| hot.generation() == token.generation());
        let Some(hot) = hot else {
            ctx.stats.inc(Stat::LateCompletions);
            return;
        };
        let was_there = hot.end_op(op_bit(token.kind()));
        assert!(was_there, "invariant op-bits: {token:?} completes an op that is not in the kernel");
        match token.kind() {
            kind::ACCEPT => self.on_accept(io, ctx, up, slot, (result, peer)),
            kind::POLL_IN => self.on_poll_in(io, ctx, up, slot, result),
            kind::RECV => self.on_recv(io, ctx, up, slot, result),
            kind::SEND => self.on_send(io, ctx, up, slot, result),
            kind::POLL_OUT => self.on_poll_out(io, ctx, slot),
            kind::CANCEL => self.on_cancel(io, ctx, slot),
            kind::SHUTDOWN => self.on_shutdown(io, ctx, slot),
            kind::CLOSE => self.on_close(ctx, slot),
            other => panic!("no op has kind {other}"),
        }
    }

    /// What every event touches of a record.
    #[inline]
    pub(crate) fn hot(&self, slot: Slot) -> &Hot {
        self.table.hot(slot)
    }

    /// What only opening, routing and limits touch of a record.
    pub(crate) fn cold(&self, slot: Slot) -> &Cold {
        self.table.cold(slot)
    }

    /// Slots from here on have never been used.
    pub(crate) fn high_water(&self) -> u32 {
        self.table.high_water()
    }

    /// The id of a slot's connection.
    pub(crate) fn id(&self, slot: Slot) -> ConnectionId {
        ConnectionId::new(self.shard, slot.get(), self.hot(slot).generation())
    }

    /// The slot of a live connection of this shard with this id.
    pub(crate) fn find(&self, id: ConnectionId) -> Option<Slot> {
        let slot = Slot::new(id.slot());
        let hot = self.table.get(slot)?;
        let is_live = !matches!(hot.state(), State::Free | State::Accepting);
        (id.shard() == self.shard && hot.generation() == id.generation() && is_live).then_some(slot)
    }

    /// Bytes queued for a client.
    pub(crate) fn outbox_bytes(&self, slot: Slot) -> u32 {
        match self.hot(slot).outbox() {
            0 => 0,
            outbox => self.outboxes.bytes(outbox),
        }
    }

    /// Bytes of a client's incomplete or waiting frames.
    pub(crate) fn spill_bytes(&self, slot: Slot) -> u32 {
        match self.hot(slot).spill() {
            0 => 0,
            spill => self.spills.bytes(spill),
        }
    }

    /// The slot's place in a list, and who has it now: an entry of one that has ended is passed over.
    fn entry(&self, slot: Slot) -> (Slot, u32) {
        (slot, self.hot(slot).generation())
    }

    fn token(&self, kind: u8, slot: Slot) -> Token {
        Token::new(kind, slot.get(), self.hot(slot).generation())
    }

    /// Submits an op of a client and sets its bit.
    #[inline(always)]
    fn submit(&mut self, io: &mut impl Io, slot: Slot, kind: u8, op: Op) {
        let hot = self.table.hot_mut(slot);
        hot.begin_op(op_bit(kind));
        io.submit(Token::new(kind, slot.get(), hot.generation()), op);
    }

    /// Changes the state and the gauges that count connections by state.
    fn set_state(&mut self, ctx: &Context, slot: Slot, state: State) {
        let hot = self.table.hot_mut(slot);
        let before = hot.state();
        hot.set_state(state);
        if let Some(gauge) = state_gauge(before) {
            ctx.stats.dec(gauge);
        }
        if let Some(gauge) = state_gauge(state) {
            ctx.stats.inc(gauge);
        }
    }

    fn set_flag(&mut self, slot: Slot, flag: u8) {
        self.table.hot_mut(slot).set_flag(flag);
    }

    fn clear_flag(&mut self, slot: Slot, flag: u8) {
        self.table.hot_mut(slot).clear_flag(flag);
    }

    /// Shows the figures of the turn.
    pub(crate) fn publish(&self, ctx: &Context) {
        let (stats, pools) = (&ctx.stats, &ctx.pools);
        let chunk = u64::from(CoreConfig::CHUNK_BYTES);
        stats.set(Stat::AcceptsArmed, u64::from(self.accepts_armed()));
        stats.set(Stat::OutboxBytes, self.outboxes.bytes_total());
        stats.set(Stat::Outboxes, self.outboxes.count() as u64);
        stats.set(Stat::OutboxPoolBytes, u64::from(pools.in_use(Class::Outbox)) * chunk);
        stats.set(Stat::SpillBytes, self.spills.bytes_total());
        stats.set(Stat::Spills, self.spills.count() as u64);
        stats.set(Stat::SpillPoolBytes, u64::from(pools.in_use(Class::Spill)) * chunk);
    }
}

/// The bit of a kind of op. Of what is no kind, none that an op in the kernel has.
#[inline]
const fn op_bit(kind: u8) -> u8 {
    1_u8.unbounded_shl(kind.wrapping_sub(kind::ACCEPT) as u32)
}

const _: () = {
    let bits = [
        (kind::ACCEPT, bit::ACCEPT),
        (kind::POLL_IN, bit::POLL_IN),
        (kind::RECV, bit::RECV),
        (kind::SEND, bit::SEND),
        (kind::POLL_OUT, bit::POLL_OUT),
        (kind::CANCEL, bit::CANCEL),
        (kind::SHUTDOWN, bit::SHUTDOWN),
        (kind::CLOSE, bit::CLOSE),
    ];
    let mut at = 0;
    while at < bits.len() {
        assert!(op_bit(bits[at].0) == bits[at].1);
        at += 1;
    }
};

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
    match -result {
        errno::ECONNRESET | errno::EPIPE | errno::ECONNABORTED => Reason::ClientReset,
        errno::ETIMEDOUT => Reason::ClientVanished,
        _ => Reason::WriteError,
    }
}
