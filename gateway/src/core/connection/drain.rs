//! A drain: everybody is asked to leave, spread over time.

use std::sync::Arc;

use roost_protocol::Reason;

use super::{Connections, Upstream};
use crate::{
    core::{context::Context, index::Slot, stats::Stat},
    op::Io,
};

/// The drain, if one has begun.
#[derive(Debug)]
pub(super) struct Drain {
    pace: Option<Pace>,
    /// The alternative in its GOAWAYs; empty: none.
    to: Arc<str>,
}

/// Where a drain is.
#[derive(Clone, Copy, Debug)]
struct Pace {
    cursor: u32,
    began_ms: u64,
    over_ms: u32,
    /// Connections to send away, when it began.
    total: u32,
    /// Of those, sent away.
    sent: u32,
}

impl Default for Drain {
    fn default() -> Self {
        Self { pace: None, to: Arc::from("") }
    }
}

impl Drain {
    pub(super) const fn has_begun(&self) -> bool {
        self.pace.is_some()
    }

    /// Where clients are told to go instead; empty: nowhere.
    pub(super) fn alternative(&self) -> Arc<str> {
        Arc::clone(&self.to)
    }
}

impl Pace {
    /// How many should have been sent away by now: the first at once.
    fn due(&self, now_ms: u64) -> u32 {
        let elapsed_ms = now_ms - self.began_ms;
        if elapsed_ms >= u64::from(self.over_ms) {
            return u32::MAX;
        }
        (u64::from(self.total) * elapsed_ms / u64::from(self.over_ms)) as u32 + 1
    }

    /// When the next is due.
    fn next_ms(&self) -> u64 {
        let after_ms =
            (u64::from(self.sent) * u64::from(self.over_ms)).div_ceil(u64::from(self.total.max(1)));
        self.began_ms + after_ms.min(u64::from(self.over_ms))
    }
}

impl Connections {
    /// Begins a drain over so many milliseconds, or gives the one under way another pace.
    pub(crate) fn begin_drain(&mut self, ctx: &Context, over_ms: u32, to: Arc<str>) {
        let states = [Stat::ConnectionsHandshaking, Stat::ConnectionsOpening, Stat::ConnectionsOpen];
        let total = states.iter().map(|&state| ctx.stats.get(state)).sum::<u64>() as u32;
        let cursor = self.drain.pace.map_or(0, |pace| pace.cursor);
        let pace = Pace { cursor, began_ms: ctx.now_ms, over_ms, total, sent: 0 };
        self.drain = Drain { pace: Some(pace), to };
    }

    /// Sends GOAWAY to those whose time has come. Returns whether more are due now.
    pub(crate) fn run_drain(&mut self, io: &mut impl Io, ctx: &mut Context, up: &mut impl Upstream) -> bool {
        let Some(mut pace) = self.drain.pace else { return false };
        let due = pace.due(ctx.now_ms);
        let end = self.table.high_water();
        let to = end.min(pace.cursor + ctx.cfg.bounds.drain_visits);
        // Paced by connections, not by slots: those may stand close together.
        while pace.cursor < to && pace.sent < due {
            let slot = Slot::new(pace.cursor);
            pace.cursor += 1;
            if self.hot(slot).reads() {
                pace.sent += 1;
                self.refuse(io, ctx, up, slot, Reason::Drain);
            }
        }
        self.drain.pace = Some(pace);
        pace.cursor < end && pace.sent < due
    }

    /// When a drain goes on, if one is under way.
    pub(crate) fn next_drain_ms(&self) -> u64 {
        let under_way = self.drain.pace.filter(|pace| pace.cursor < self.table.high_water());
        under_way.map_or(u64::MAX, |pace| pace.next_ms())
    }
}
