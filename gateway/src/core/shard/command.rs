//! What the shell asks of a shard: drain, look up, close.

use std::sync::Arc;

use roost_protocol::{ConnectionId, Reason};

use crate::{
    core::{config::CoreConfig, index::Slot, record::State, shard::ShardCore},
    op::Io,
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
    Rescan,
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

impl ShardCore {
    /// Carries out a command; paced parts follow in later turns.
    pub fn on_command(&mut self, io: &mut impl Io, command: Command) {
        match command {
            Command::StartAccepting => self.connections.start_accepting(),
            Command::StopAccepting => self.connections.stop_accepting(io),
            Command::Drain { over_ms, to } => self.connections.begin_drain(&self.ctx, over_ms, to),
            Command::Rescan => self.connections.look_again(io, &self.ctx),
            Command::Configure(cfg) => self.configure(*cfg),
            Command::Close { connection, reason } => {
                if let Some(slot) = self.connections.find(connection) {
                    self.connections.refuse(io, &mut self.ctx, &mut self.routing, slot, reason);
                }
            }
        }
    }

    fn configure(&mut self, mut cfg: CoreConfig) {
        assert_eq!(cfg.listeners, self.ctx.cfg.listeners, "listeners are made at start");
        (cfg.slots_max, cfg.cap) = (self.ctx.cfg.slots_max, self.ctx.cfg.cap.take());
        self.connections.set_accept_ramp(cfg.accept_ramp_per_s);
        let limits = |cfg: &CoreConfig| (cfg.messages_per_s_max, cfg.control_frames_per_s_max);
        let changed = limits(&cfg) != limits(&self.ctx.cfg);
        self.ctx.cfg = cfg;
        if changed {
            self.connections.allow_anew(&self.ctx);
        }
        self.routing.configure(&mut self.ctx);
        self.configured += 1;
    }

    /// The shard's index.
    pub fn shard(&self) -> u8 {
        self.ctx.cfg.shard
    }

    /// Accepts that are still in the kernel: when 0, the listeners can be closed or handed over.
    pub fn accepts_armed(&self) -> u32 {
        self.connections.accepts_armed()
    }

    /// Connections that are not free, armed accepts not counted.
    pub fn connections(&self) -> u32 {
        self.connections.count()
    }

    /// What is known of a connection.
    pub fn look_up(&self, connection: ConnectionId) -> Option<ConnectionInfo> {
        self.connections.find(connection).map(|slot| self.info(slot))
    }

    /// Up to `count` connections from `from_slot` on.
    pub fn sample(&self, from_slot: u32, count: usize) -> Vec<ConnectionInfo> {
        Slot::range(from_slot, self.connections.high_water())
            .filter(|&slot| !matches!(self.connections.hot(slot).state(), State::Free | State::Accepting))
            .take(count)
            .map(|slot| self.info(slot))
            .collect()
    }

    fn info(&self, slot: Slot) -> ConnectionInfo {
        let hot = self.connections.hot(slot);
        let routed = hot.has_session();
        ConnectionInfo {
            connection: self.connections.id(slot),
            state: hot.state(),
            worker: routed.then(|| Arc::clone(self.routing.worker_name(hot.worker()))),
            routing_hash: routed.then(|| self.connections.cold(slot).routing_hash()),
            session: hot.is_open().then(|| hot.session().0),
            idle_ms: self.connections.idle_ms(&self.ctx, slot),
            outbox_bytes: self.connections.outbox_bytes(slot),
            spill_bytes: self.connections.spill_bytes(slot),
            blocked: hot.has(crate::core::record::flag::BLOCKED),
        }
    }
}
