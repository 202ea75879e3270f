//! What the shell asks of a shard: drain, look up, close.

use std::sync::Arc;

use roost_protocol::{ConnectionId, Reason};

use crate::{
    core::{
        config::CoreConfig,
        record::State,
        shard::{ShardCore, kind},
        stats::Stat,
    },
    op::{Io, Op, Sock},
};

/// A request of the shell; answers are return values of [`ShardCore`]'s methods.
#[derive(Clone, Debug)]
pub enum Command {
    /// Begin to accept, where that was held back ([`CoreConfig::accepts_at_start`]).
    StartAccepting,
    /// Stop accepting for good; armed accepts are cancelled, and those that succeeded meanwhile
    /// are served, or told to go in a drain. When [`ShardCore::accepts_armed`] is 0 the listeners
    /// can be closed.
    StopAccepting,
    /// Look at the listeners once more. A wake-up that was meant for an accept which another
    /// process was just taking back is lost, and with it a client would wait in the queue until
    /// the next one comes.
    Nudge,
    /// Send GOAWAY to everybody, evenly over this time, and at once to whoever comes. A listener
    /// that nobody serves lets clients connect and wait: accepting goes on until
    /// [`Self::StopAccepting`], after which the shell closes the listeners.
    Drain {
        /// Over how long; 0: at once.
        over_ms: u32,
        /// The alternative that GOAWAY names, `HOST:PORT`; empty: none.
        to: Arc<str>,
    },
    /// Take over what can change while running: limits, deadlines, workers. What cannot must be
    /// as it was. A worker that is no longer named is left in order, and when nothing of it is left
    /// its place is a new one's. At most [`LINKS_MAX`] have a place at a time; those for whom there
    /// is none get no link.
    ///
    /// [`LINKS_MAX`]: crate::core::stats::LINKS_MAX
    Configure(Box<CoreConfig>),
    /// Close one connection.
    Close {
        /// Which.
        connection: ConnectionId,
        /// With this reason.
        reason: Reason,
    },
}

/// What is known of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// Its id.
    pub connection: ConnectionId,
    /// Where it is in its life.
    pub state: State,
    /// The worker it is routed to, from Opening on.
    pub worker: Option<Arc<str>>,
    /// The hash of its routing key, from Opening on.
    pub routing_hash: Option<u64>,
    /// The worker's session reference, once open.
    pub session: Option<u64>,
    /// Milliseconds since it was last heard, in steps of 1,000; of one that has been blocked for
    /// most of a day, at least so many.
    pub idle_ms: u64,
    /// Bytes queued for it.
    pub outbox_bytes: u32,
    /// Bytes of its incomplete frame.
    pub spill_bytes: u32,
    /// Not read for want of credit.
    pub blocked: bool,
}

/// A drain under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drain {
    cursor: u32,
    began_ms: u64,
    over_ms: u32,
    /// Connections to send away, when it began.
    total: u32,
    /// Of those, sent away.
    sent: u32,
}

impl Drain {
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

impl ShardCore {
    /// Carries out a command; paced parts follow in later turns.
    pub fn on_command(&mut self, io: &mut impl Io, command: Command) {
        match command {
            Command::StartAccepting => self.accepting.held = false,
            Command::StopAccepting => self.stop_accepting(io),
            Command::Drain { over_ms, to } => {
                self.drain_to = to;
                let cursor = self.drain.map_or(0, |drain| drain.cursor);
                let total = self.alive();
                self.drain = Some(Drain { cursor, began_ms: self.ctx.now_ms, over_ms, total, sent: 0 });
            }
            Command::Nudge => self.nudge(io),
            Command::Configure(cfg) => self.configure(*cfg),
            Command::Close { connection, reason } => {
                if let Some(slot) = self.find(connection) {
                    self.refuse(io, slot, reason);
                }
            }
        }
    }

    /// The shard's index.
    pub fn shard(&self) -> u8 {
        self.ctx.cfg.shard
    }

    fn stop_accepting(&mut self, io: &mut impl Io) {
        if std::mem::replace(&mut self.accepting.stopped, true) {
            return;
        }
        self.accepting.wants_slots = false;
        for slot in 0..self.table.high_water() {
            if self.hot(slot).state() == State::Accepting {
                let op = Op::Cancel { sock: Sock::Client(slot), target: self.token(kind::ACCEPT, slot) };
                // A cancel that loses leaves its bit until it completes; `join` ignores it then.
                self.submit(io, slot, kind::CANCEL, op);
            }
        }
    }

    /// Accepts that are still in the kernel: when 0, the listeners can be closed or handed over.
    pub fn accepts_armed(&self) -> u32 {
        self.accepting.armed_total()
    }

    /// Connections that are not free, armed accepts not counted.
    pub fn connections(&self) -> u32 {
        self.table.live() - self.accepting.armed_total()
    }

    /// Connections that are not ending yet.
    fn alive(&self) -> u32 {
        let states = [Stat::ConnectionsHandshaking, Stat::ConnectionsOpening, Stat::ConnectionsOpen];
        states.iter().map(|&state| self.ctx.stats.get(state)).sum::<u64>() as u32
    }

    /// Sends GOAWAY to those whose time has come. Returns whether more are due now.
    pub(super) fn run_drain(&mut self, io: &mut impl Io) -> bool {
        let Some(mut drain) = self.drain else { return false };
        let due = drain.due(self.ctx.now_ms);
        let end = self.table.high_water();
        let to = end.min(drain.cursor + self.ctx.cfg.bounds.drain_visits);
        // Paced by connections, not by slots: those may stand close together.
        while drain.cursor < to && drain.sent < due {
            let slot = drain.cursor;
            drain.cursor += 1;
            if matches!(self.hot(slot).state(), State::Handshaking | State::Opening | State::Open) {
                drain.sent += 1;
                self.refuse(io, slot, Reason::Drain);
            }
        }
        self.drain = Some(drain);
        drain.cursor < end && drain.sent < due
    }

    /// When a drain goes on, if one is under way.
    pub(super) fn next_drain_ms(&self) -> u64 {
        let under_way = self.drain.filter(|drain| drain.cursor < self.table.high_water());
        under_way.map_or(u64::MAX, |drain| drain.next_ms())
    }

    /// What is known of a connection.
    pub fn look_up(&self, connection: ConnectionId) -> Option<ConnectionInfo> {
        self.find(connection).map(|slot| self.info(slot))
    }

    /// Up to `count` connections from `from_slot` on.
    pub fn sample(&self, from_slot: u32, count: usize) -> Vec<ConnectionInfo> {
        (from_slot..self.table.high_water())
            .filter(|&slot| !matches!(self.hot(slot).state(), State::Free | State::Accepting))
            .take(count)
            .map(|slot| self.info(slot))
            .collect()
    }

    fn info(&self, slot: u32) -> ConnectionInfo {
        let hot = self.hot(slot);
        let routed = hot.has_session();
        ConnectionInfo {
            connection: self.connection_id(slot),
            state: hot.state(),
            worker: routed.then(|| Arc::clone(&self.link(hot.worker()).stats.worker)),
            routing_hash: routed.then(|| self.table.cold(slot).routing_hash()),
            session: hot.is_open().then(|| hot.session().0),
            idle_ms: self.idle_ms(hot),
            outbox_bytes: if hot.outbox() == 0 { 0 } else { self.outboxes.bytes(hot.outbox()) },
            spill_bytes: if hot.spill() == 0 { 0 } else { self.spills.bytes(hot.spill()) },
            blocked: hot.has(crate::core::record::flag::BLOCKED),
        }
    }
}
