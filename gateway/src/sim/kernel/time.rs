//! Time goes on, and completions become visible.

use std::cmp::Reverse;

use super::{Event, Phase, World};
use crate::{
    op::{Completion, Op, Peer, poll_bits},
    sim::memory::Memory,
};

impl World {
    /// When the next event is due.
    pub(in crate::sim) fn next_event_at(&mut self) -> Option<u64> {
        self.schedule_arrivals();
        self.events.peek().map(|Reverse((at, ..))| *at)
    }

    pub(in crate::sim) fn advance_to(&mut self, at_us: u64) {
        self.net.now_us = self.net.now_us.max(at_us);
    }

    /// Runs the next event, which must be due. Gives the actor to wake, if any.
    pub(in crate::sim) fn run_event(&mut self, memory: &mut Memory) -> Option<u32> {
        let Reverse((at, _, event)) = self.events.pop().expect("the caller has seen an event");
        debug_assert!(at <= self.net.now_us);
        match event {
            Event::Arrive(conn) => {
                self.net.settle(conn);
                self.retry_armed(memory, conn);
                return self.net.owner(conn);
            }
            Event::Finish(serial) => self.finish(serial),
            Event::Spurious(serial) => {
                if self.is_armed(serial) {
                    *self.fault_counts.entry("spurious poll").or_default() += 1;
                    self.end(serial, poll_bits::IN);
                }
            }
            Event::Post(serial) => self.posted.push_back(serial),
            Event::Actor(actor) => return Some(actor),
        }
        None
    }

    fn schedule_arrivals(&mut self) {
        for (at, conn) in std::mem::take(&mut self.net.arrivals) {
            self.schedule(at, Event::Arrive(conn));
        }
    }

    /// Visible completions, not yet reaped.
    pub(in crate::sim) fn has_posted(&self) -> bool {
        !self.posted.is_empty()
    }

    /// Takes visible completions, a bounded number.
    pub(in crate::sim) fn reap(&mut self, memory: &mut Memory, completions: &mut Vec<Completion>) {
        let from = completions.len();
        let max = (self.rng.range(1, self.faults.reap_max) as usize).min(self.posted.len());
        for _ in 0..max {
            let serial = self.posted.pop_front().expect("counted");
            let done = self.ops.remove(&serial).expect("a completion is reaped once");
            let Phase::Ended(result) = done.phase else { unreachable!("only ended ops are posted") };
            match done.op {
                Op::Recv { block, .. } => memory.end_receive(block),
                Op::Send { block, offset, len, .. } => memory.end_send(block, offset, len),
                _ => {}
            }
            self.note(|| format!("done   {:?} {result}", done.token));
            let peer = match done.op {
                Op::Accept { slot, .. } if result >= 0 => self.peers[slot as usize].into(),
                _ => Peer::default(),
            };
            completions.push(Completion { token: done.token, result, peer });
        }
        let batch = &mut completions[from..];
        if batch.len() > 1 && self.rng.chance(self.faults.reorder) {
            for last in (1..batch.len()).rev() {
                batch.swap(last, self.rng.index(last + 1));
            }
        }
    }
}
