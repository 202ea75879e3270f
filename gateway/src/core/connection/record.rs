//! The connection record: 48 bytes that an idle client costs.
//!
//! Some bits have two meanings, by the connection's state; each meaning has a method of its own, and
//! nobody else reads the bits. Who has which bits: [`BUDGET`] has the same figures, and must sum up.
//!
//! | field | bits | what for | free |
//! |---|---|---|---|
//! | `generation` | 32 | the slot's uses | 0 |
//! | `state` | 8 | 7 states | 5 |
//! | `ops` | 8 | 8 ops | 0 |
//! | `worker` | 8 | the worker, from Opening on | 0 |
//! | `flags` | 8 | 8 flags | 0 |
//! | `active_tick` | 16 | second in which the client was last heard | 0 |
//! | `mark` | 16 | since when the state lasts; open and not blocked: periods of silence | 0 |
//! | `outbox` | 32 | handle | 0 |
//! | `spill` | 32 | handle | 0 |
//! | `rx_and_control` | 32 | 16 receive block, 16 control frames left; free: the next free slot | 0 |
//! | `session` | 64 | the worker's reference; before, half the address; after, bytes discarded | 0 |
//! | `routing_hash` | 64 | the hash; before OPEN, half the address | 0 |
//! | `cell_rate_listener` | 32 | 20 address cell, 6 messages left (high), 6 listener | 0 |
//! | `rate_low` | 16 | messages left (low); before OPEN, the port | 0 |
//! | `rate_tick` | 16 | the second that they are for | 0 |

use bytemuck::Zeroable;
use roost_protocol::SessionRef;

pub use crate::core::connection::lifecycle::State;
use crate::core::{
    index::WorkerIndex,
    limits::{CELL_BITS, CELL_MAX},
};

/// One bit per op of a connection that is in the kernel.
pub mod bit {
    /// An accept.
    pub const ACCEPT: u8 = 1 << 0;
    /// A poll for input.
    pub const POLL_IN: u8 = 1 << 1;
    /// A receive.
    pub const RECV: u8 = 1 << 2;
    /// A send.
    pub const SEND: u8 = 1 << 3;
    /// A poll for room to send.
    pub const POLL_OUT: u8 = 1 << 4;
    /// A cancel of one of the others.
    pub const CANCEL: u8 = 1 << 5;
    /// A shutdown of the sending side.
    pub const SHUTDOWN: u8 = 1 << 6;
    /// A close.
    pub const CLOSE: u8 = 1 << 7;
}

/// What else is true of a connection.
pub mod flag {
    /// On a list of blocked connections: not read until the link has credit or a worker is up.
    pub const BLOCKED: u8 = 1 << 0;
    /// CLOSED(moved) is sent, MOVED is awaited: not read.
    pub const MOVING: u8 = 1 << 1;
    /// The sending side is shut, or must not be used any more.
    pub const SHUT: u8 = 1 << 2;
    /// The peer address kept until OPEN is IPv6.
    pub const PEER_V6: u8 = 1 << 3;
    /// The peer address kept until OPEN is IPv4.
    pub const PEER_V4: u8 = 1 << 4;
    /// Waits for its turn to be read: for a receive buffer, or with frames that have arrived.
    pub const RX_WAIT: u8 = 1 << 5;
    /// Waits for its turn to shut its sending side.
    pub const SHUT_WAIT: u8 = 1 << 6;
    /// The PROXY header is not complete.
    pub const PROXY: u8 = 1 << 7;
}

/// The part of the record that every event touches: half a cache line.
#[derive(Clone, Copy, Debug, Zeroable)]
#[repr(C)]
pub(crate) struct Hot {
    /// Bumped whenever the slot is freed, so that late completions and frames find nobody.
    generation: u32,
    state: State,
    /// `bit::*`.
    ops: u8,
    worker: u8,
    /// `flag::*`.
    flags: u8,
    active_tick: u16,
    /// See [`Self::since_tick`] and [`Self::idle_periods`].
    mark: u16,
    outbox: u32,
    spill: u32,
    /// See [`Self::rx_block`], [`Self::control_left`] and [`Self::next_free`].
    rx_and_control: u32,
    /// See [`Self::session`], [`Self::add_discarded_bytes`] and [`super::peer`].
    pub(super) session: u64,
}

/// The part that only opening, routing and limits touch.
#[derive(Clone, Copy, Debug, Zeroable)]
#[repr(C)]
pub(crate) struct Cold {
    /// See [`Self::routing_hash`] and [`super::peer`].
    pub(super) routing_hash: u64,
    /// See [`Self::ip_cell`], [`Self::rate_left`] and [`Self::listener`].
    cell_rate_listener: u32,
    /// See [`Self::rate_left`] and [`super::peer`].
    pub(super) rate_low: u16,
    rate_tick: u16,
}

/// A field of the record: its name, the bits that mean something, and those that are free.
type Field = (&'static str, u32, u32);

/// Every bit of a record. Before a free one is taken it is taken here.
const BUDGET: ([Field; 11], [Field; 4]) = (
    [
        ("generation", 32, 0),
        ("state", STATE_BITS, 8 - STATE_BITS),
        ("ops", 8, 0),
        ("worker", 8, 0),
        ("flags", 8, 0),
        ("active_tick", 16, 0),
        ("mark", 16, 0),
        ("outbox", 32, 0),
        ("spill", 32, 0),
        ("rx_and_control", RX_BITS + CONTROL_BITS, 0),
        ("session", 64, 0),
    ],
    [
        ("routing_hash", 64, 0),
        ("cell_rate_listener", CELL_BITS + RATE_HIGH_BITS + LISTENER_BITS, 0),
        ("rate_low", 16, 0),
        ("rate_tick", 16, 0),
    ],
);

const fn bits(fields: &[Field]) -> usize {
    let (mut sum, mut at) = (0, 0);
    while at < fields.len() {
        sum += fields[at].1 + fields[at].2;
        at += 1;
    }
    sum as usize
}

const _: () = assert!(size_of::<Hot>() == 32 && size_of::<Cold>() == 16);
const _: () = assert!(bits(&BUDGET.0) == 8 * size_of::<Hot>() && bits(&BUDGET.1) == 8 * size_of::<Cold>());

/// Bits of the state.
const STATE_BITS: u32 = 3;
const _: () = assert!(State::ALL.len() <= 1 << STATE_BITS);

/// Seconds of silence after which an open connection's `active_tick` is moved on by as much, and the
/// period counted: less than half of what the ticks can tell apart.
pub(crate) const IDLE_PERIOD: u16 = 1 << 15;

/// Bits that name a receive block.
const RX_BITS: u32 = 16;
const _: () = assert!(crate::core::CoreConfig::RX_BLOCKS < 1 << RX_BITS);
/// Bits that count PINGs and PONGs.
const CONTROL_BITS: u32 = 16;
/// The most PINGs and PONGs that a connection can be allowed at once.
pub(crate) const CONTROL_LEFT_MAX: u32 = (1 << CONTROL_BITS) - 1;

/// Bits of the message allowance that stand above the cell.
const RATE_HIGH_BITS: u32 = 6;
/// The most messages that a connection can be allowed at once.
pub(crate) const RATE_LEFT_MAX: u32 = (1 << (16 + RATE_HIGH_BITS)) - 1;
/// Bits that name a listener, above both.
const LISTENER_BITS: u32 = 6;
/// How many listeners there can be: a connection remembers its own.
pub const LISTENERS_MAX: u16 = 1 << LISTENER_BITS;

impl Cold {
    /// Which cell of the per-IP table counts this connection; 0: none.
    pub(crate) const fn ip_cell(&self) -> u32 {
        self.cell_rate_listener & CELL_MAX
    }

    /// At most [`CELL_MAX`].
    pub(crate) fn set_ip_cell(&mut self, cell: u32) {
        debug_assert!(cell <= CELL_MAX);
        self.cell_rate_listener = self.cell_rate_listener & !CELL_MAX | cell;
    }

    /// The listener that the client came to.
    pub(crate) const fn listener(&self) -> u16 {
        (self.cell_rate_listener >> (CELL_BITS + RATE_HIGH_BITS)) as u16
    }

    /// Below [`LISTENERS_MAX`].
    pub(crate) fn set_listener(&mut self, listener: u16) {
        debug_assert!(listener < LISTENERS_MAX);
        let shift = CELL_BITS + RATE_HIGH_BITS;
        self.cell_rate_listener = self.cell_rate_listener & ((1 << shift) - 1) | u32::from(listener) << shift;
    }

    /// From OPEN on: messages that the client may still send, as of [`Self::rate_tick`].
    pub(crate) const fn rate_left(&self) -> u32 {
        let high = self.cell_rate_listener >> CELL_BITS & ((1 << RATE_HIGH_BITS) - 1);
        high << 16 | self.rate_low as u32
    }

    /// The second that [`Self::rate_left`] is for.
    pub(crate) const fn rate_tick(&self) -> u16 {
        self.rate_tick
    }

    /// Says what the client may still send as of this second: at most [`RATE_LEFT_MAX`].
    pub(crate) fn set_rate(&mut self, tick: u16, left: u32) {
        debug_assert!(left <= RATE_LEFT_MAX);
        let high = ((1 << RATE_HIGH_BITS) - 1) << CELL_BITS;
        self.cell_rate_listener = self.cell_rate_listener & !high | (left >> 16) << CELL_BITS;
        self.rate_low = left as u16;
        self.rate_tick = tick;
    }

    /// From OPEN on: the hash of the routing key, or what the worker's ACCEPT put in its place.
    pub(crate) const fn routing_hash(&self) -> u64 {
        self.routing_hash
    }

    pub(crate) fn set_routing_hash(&mut self, routing_hash: u64) {
        self.routing_hash = routing_hash;
    }
}

impl Hot {
    #[inline]
    pub(crate) const fn generation(&self) -> u32 {
        self.generation
    }

    #[inline]
    pub(crate) const fn state(&self) -> State {
        self.state
    }

    /// The only place where a state changes. Panics if it may not become this one.
    pub(crate) fn set_state(&mut self, state: State) {
        let before = self.state();
        assert!(
            before.may_become(state),
            "invariant lifecycle: a connection that is {before:?} becomes {state:?}"
        );
        self.state = state;
    }

    /// The ops that are in the kernel, as `bit::*`.
    #[inline]
    pub(crate) const fn ops(&self) -> u8 {
        self.ops
    }

    /// An op of this bit goes to the kernel, where none of its kind is.
    #[inline]
    pub(crate) fn begin_op(&mut self, bit: u8) {
        assert_eq!(self.ops & bit, 0, "invariant op-bits: at most one op of a kind per connection");
        self.ops |= bit;
    }

    /// The op of this bit has ended. Returns whether it was in the kernel.
    #[inline]
    pub(crate) fn end_op(&mut self, bit: u8) -> bool {
        let was_there = self.ops & bit != 0;
        self.ops &= !bit;
        was_there
    }

    /// The worker that it is routed to, from Opening on.
    #[inline]
    pub(crate) const fn worker(&self) -> WorkerIndex {
        WorkerIndex::new(self.worker)
    }

    pub(crate) fn set_worker(&mut self, worker: WorkerIndex) {
        self.worker = worker.get();
    }

    /// All of `flag::*` that hold.
    #[inline]
    pub(crate) const fn flags(&self) -> u8 {
        self.flags
    }

    #[inline]
    pub(crate) const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    #[inline]
    pub(crate) fn set_flag(&mut self, flag: u8) {
        self.flags |= flag;
    }

    #[inline]
    pub(crate) fn clear_flag(&mut self, flag: u8) {
        self.flags &= !flag;
    }

    /// Tick at which the client was last heard.
    #[inline]
    pub(crate) const fn active_tick(&self) -> u16 {
        self.active_tick
    }

    pub(crate) fn set_active_tick(&mut self, tick: u16) {
        self.active_tick = tick;
    }

    /// Whether the mark counts periods of silence, and is no tick.
    const fn counts_periods(&self) -> bool {
        self.is_open() && !self.has(flag::BLOCKED)
    }

    /// Tick at which the present state, or the present blockage, began. Not of an open connection that
    /// is not blocked.
    pub(crate) const fn since_tick(&self) -> u16 {
        debug_assert!(!self.counts_periods());
        self.mark
    }

    pub(crate) fn set_since_tick(&mut self, tick: u16) {
        debug_assert!(!self.counts_periods());
        self.mark = tick;
    }

    /// How many times [`IDLE_PERIOD`] an open connection had been silent before `active_tick`; 0 of any
    /// other.
    pub(crate) const fn idle_periods(&self) -> u16 {
        if self.counts_periods() { self.mark } else { 0 }
    }

    /// Of an open connection that is not blocked.
    pub(crate) fn set_idle_periods(&mut self, periods: u16) {
        debug_assert!(self.counts_periods());
        self.mark = periods;
    }

    /// Handle of the outbox; 0: nothing unsent.
    #[inline]
    pub(crate) const fn outbox(&self) -> u32 {
        self.outbox
    }

    #[inline]
    pub(crate) fn set_outbox(&mut self, handle: u32) {
        self.outbox = handle;
    }

    /// Handle of the spill; 0: no incomplete frame.
    #[inline]
    pub(crate) const fn spill(&self) -> u32 {
        self.spill
    }

    pub(crate) fn set_spill(&mut self, handle: u32) {
        self.spill = handle;
    }

    /// The block that the receive in the kernel fills.
    #[inline]
    pub(crate) const fn rx_block(&self) -> u32 {
        self.rx_and_control & ((1 << RX_BITS) - 1)
    }

    #[inline]
    pub(crate) fn set_rx_block(&mut self, index: u32) {
        self.rx_and_control = self.rx_and_control >> RX_BITS << RX_BITS | index;
    }

    /// PINGs and PONGs that the client may still send, as of `active_tick`.
    #[inline]
    pub(crate) const fn control_left(&self) -> u32 {
        self.rx_and_control >> RX_BITS
    }

    /// At most [`CONTROL_LEFT_MAX`].
    pub(crate) fn set_control_left(&mut self, left: u32) {
        debug_assert!(left <= CONTROL_LEFT_MAX);
        self.rx_and_control = left << RX_BITS | self.rx_block();
    }

    /// Of a free slot: the next free one of its ring, + 1; 0: none.
    pub(crate) const fn next_free(&self) -> u32 {
        debug_assert!(matches!(self.state(), State::Free));
        self.rx_and_control
    }

    pub(crate) fn set_next_free(&mut self, next: u32) {
        debug_assert!(matches!(self.state(), State::Free));
        self.rx_and_control = next;
    }

    /// The slot is free, for its next use.
    pub(crate) fn free(&mut self) {
        self.set_state(State::Free);
        *self = Self { generation: self.generation.wrapping_add(1), ..Self::zeroed() };
    }

    /// The worker's reference, from ACCEPT on.
    pub(crate) const fn session(&self) -> SessionRef {
        debug_assert!(matches!(self.state(), State::Open));
        SessionRef(self.session)
    }

    /// The worker has accepted: no more silence has been counted yet.
    pub(crate) fn accept(&mut self, session: SessionRef) {
        debug_assert!(matches!(self.state(), State::Opening));
        (self.session, self.mark) = (session.0, 0);
    }

    /// The connection ends as of this tick: from here on what the client sends is only counted.
    pub(crate) fn begin_end(&mut self, tick: u16) {
        (self.session, self.mark) = (0, tick);
    }

    /// Bytes that came since the connection began to end and were thrown away, with these.
    pub(crate) fn add_discarded_bytes(&mut self, bytes: u32) -> u64 {
        debug_assert!(matches!(self.state(), State::Draining));
        self.session += u64::from(bytes);
        self.session
    }

    /// Whether the client can still be spoken to as a session.
    #[inline]
    pub(crate) const fn is_open(&self) -> bool {
        matches!(self.state(), State::Open)
    }

    /// Whether what the client sends is of interest.
    #[inline]
    pub(crate) const fn reads(&self) -> bool {
        matches!(self.state(), State::Handshaking | State::Opening | State::Open)
    }

    /// Whether what the client sends is of interest, and nothing holds its reading back.
    #[inline]
    pub(crate) const fn is_reading(&self) -> bool {
        self.reads() && !self.has(flag::BLOCKED | flag::RX_WAIT)
    }

    /// Whether a worker knows the connection, or will when it reads its link.
    #[inline]
    pub(crate) const fn has_session(&self) -> bool {
        matches!(self.state(), State::Opening | State::Open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_above_is_the_budget() {
        let rows = include_str!("record.rs").lines().filter_map(|line| line.strip_prefix("//! | `"));
        let stated: Vec<(String, u32, u32)> = rows
            .map(|row| {
                let cells: Vec<&str> = row.split(" | ").collect();
                let bits: u32 = cells[1].parse().expect("bits");
                let free: u32 = cells[3].trim_end_matches(" |").parse().expect("free bits");
                (cells[0].trim_end_matches('`').to_owned(), bits - free, free)
            })
            .collect();
        let fields = BUDGET.0.iter().chain(&BUDGET.1);
        let budget: Vec<_> = fields.map(|&(name, used, free)| (name.to_owned(), used, free)).collect();
        assert_eq!(stated, budget);
    }

    #[test]
    fn what_shares_bits_does_not_disturb_its_neighbours() {
        let mut cold = Cold::zeroed();
        cold.set_listener(LISTENERS_MAX - 1);
        cold.set_ip_cell(CELL_MAX);
        cold.set_rate(7, RATE_LEFT_MAX);
        assert_eq!((cold.listener(), cold.ip_cell(), cold.rate_left()), (63, CELL_MAX, RATE_LEFT_MAX));
        cold.set_rate(8, 1 << 16);
        assert_eq!((cold.listener(), cold.ip_cell(), cold.rate_left()), (63, CELL_MAX, 1 << 16));
        cold.set_ip_cell(1);
        cold.set_listener(1);
        assert_eq!((cold.listener(), cold.ip_cell(), cold.rate_left(), cold.rate_tick()), (1, 1, 1 << 16, 8));

        let mut hot = Hot::zeroed();
        hot.set_control_left(CONTROL_LEFT_MAX);
        hot.set_rx_block(3);
        assert_eq!((hot.control_left(), hot.rx_block()), (CONTROL_LEFT_MAX, 3));
        hot.set_control_left(9);
        assert_eq!((hot.control_left(), hot.rx_block()), (9, 3));
    }
}
