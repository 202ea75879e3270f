//! What the simulation's shadow model may see of connections.

use roost_protocol::ConnectionId;

use super::{
    Connections, kind,
    lifecycle::State,
    rank::FLOOR_BYTES,
    record::{bit, flag},
};
use crate::{core::index::Slot, op::Token};

/// A slot, as a plain value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotView {
    /// Its connection's id, or its next connection's.
    pub connection: ConnectionId,
    /// Where it is in its life.
    pub state: State,
    /// `record::flag::*`.
    pub flags: u8,
    /// `record::bit::*`.
    pub ops: u8,
    /// The worker it is routed to.
    pub worker: u8,
    /// By which hash; 0 before OPEN and at the end.
    pub routing_hash: u64,
    /// The worker's reference; 0 unless it is open.
    pub session: u64,
    /// Bytes queued for it.
    pub outbox_bytes: u32,
    /// Bytes of its incomplete frame.
    pub spill_bytes: u32,
    /// Bytes that its stages keep.
    pub kept_bytes: u32,
    /// It waits with frames that have arrived.
    pub is_postponed: bool,
}

impl Connections {
    /// The tokens of all ops that are believed to be in the kernel.
    pub(crate) fn ops_in_kernel(&self) -> impl Iterator<Item = Token> {
        let kinds = [
            (bit::ACCEPT, kind::ACCEPT),
            (bit::POLL_IN, kind::POLL_IN),
            (bit::RECV, kind::RECV),
            (bit::SEND, kind::SEND),
            (bit::POLL_OUT, kind::POLL_OUT),
            (bit::CANCEL, kind::CANCEL),
            (bit::SHUTDOWN, kind::SHUTDOWN),
            (bit::CLOSE, kind::CLOSE),
        ];
        let counts = self.counts_in_kernel();
        let clients = Slot::range(0, self.high_water()).flat_map(move |slot| {
            let ops = self.hot(slot).ops();
            let set = kinds.into_iter().filter(move |(bit, _)| ops & bit != 0);
            set.map(move |(_, kind)| self.token(kind, slot))
        });
        counts.chain(clients)
    }

    /// Every slot that was ever used.
    pub(crate) fn views(&self) -> impl Iterator<Item = SlotView> {
        Slot::range(0, self.high_water()).map(|slot| {
            let hot = self.hot(slot);
            SlotView {
                connection: self.id(slot),
                state: hot.state(),
                flags: hot.flags(),
                ops: hot.ops(),
                worker: hot.worker().get(),
                routing_hash: if hot.has_session() { self.cold(slot).routing_hash() } else { 0 },
                session: if hot.is_open() { hot.session().0 } else { 0 },
                outbox_bytes: self.outbox_bytes(slot),
                spill_bytes: self.spill_bytes(slot),
                kept_bytes: self.kept_bytes(slot),
                is_postponed: hot.has(flag::RX_WAIT) && self.turns.holds_rest(slot, hot.generation()),
            }
        })
    }

    /// Receive blocks whose frames wait for a later turn.
    pub(crate) fn blocks_postponed(&self) -> usize {
        self.turns.blocks()
    }

    /// Connections that hold a cell of the per-address table.
    pub(crate) fn per_ip_holders(&self) -> u64 {
        Slot::range(0, self.high_water()).filter(|&slot| self.cold(slot).ip_cell() != 0).count() as u64
    }

    /// Connections that wait and stand on no list from which they would ever be resumed; `listed` says
    /// whether a blocked one stands on a list elsewhere.
    pub(crate) fn forgotten(&self, listed: impl Fn(ConnectionId) -> bool) -> Vec<u32> {
        let is_forgotten = |&slot: &Slot| {
            let hot = self.hot(slot);
            // Whoever waits for a worker is found by the walk over the table.
            let blocked = hot.has(flag::BLOCKED) && !hot.has(flag::MOVING) && !self.awaits_worker(slot);
            let starved = hot.has(flag::RX_WAIT);
            blocked && !listed(self.id(slot)) || starved && !self.turns.holds(slot, hot.generation())
        };
        Slot::range(0, self.high_water()).filter(is_forgotten).map(Slot::get).collect()
    }

    /// Panics if who pays for memory is not one of those that hold the most, as `held` has it. Who
    /// asks counts with what it asks for.
    pub(super) fn check_payer(&self, payer: Slot, asks: (Slot, u32), held: impl Fn(Slot) -> u32) {
        let alive = Slot::range(0, self.high_water()).filter(|&slot| {
            !matches!(self.hot(slot).state(), State::Free | State::Accepting | State::Closing)
        });
        let bytes = |slot: Slot| {
            let asked = if slot == asks.0 { asks.1 } else { 0 };
            u64::from(held(slot)) + u64::from(asked)
        };
        let most = alive.map(bytes).max().unwrap_or(0);
        let pays = bytes(payer);
        // Classes are a quarter wide, and those below the floor are in none.
        assert!(
            pays + pays / 4 + u64::from(FLOOR_BYTES) >= most,
            "invariant who-holds-pays: slot {payer} is closed for {pays} bytes while another holds {most}"
        );
    }
}
