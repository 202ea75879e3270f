//! The end of a gateway: every client is told to go, whoever comes meanwhile, too, and the listeners
//! are closed, so that nobody can connect to a process that will not serve.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use crossbeam_channel::Receiver;

use super::running::{LOOK, Running};
use crate::core::{Command, stats::Stat};

/// How much longer than `drain_ms` a drain may take: sockets linger, links flush.
const GRACE: Duration = Duration::from_secs(3);
/// A queue from which nobody has come for so long is empty.
const QUIET: Duration = Duration::from_millis(100);
/// How much later than it was due a look may be, before the time until then counts as a pause.
const LATE: Duration = Duration::from_millis(100);
/// After this the listeners are closed, although still more clients come.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// What becomes of whoever wants to connect.
enum Doors {
    /// They are let in and told to go, those first who wait already.
    Answering { until: Instant, accepts: u64, quiet_since: Instant },
    /// The same; the service manager keeps the socket, so whoever came after it is closed would wait for
    /// the next gateway, which may start only when this one has ended.
    Kept,
    /// The accepts are being joined; so many shards have not said that they are.
    Closing { closed: Receiver<()>, left: usize },
    /// The kernel refuses them, or another process serves them.
    Closed,
}

/// When a drain gives up. A process that was stopped meanwhile (a signal, a freezer, a pause of its
/// machine) has used none of that time: nobody could leave.
#[derive(Debug)]
struct Deadline {
    until: Instant,
    looked: Instant,
}

impl Deadline {
    fn new(now: Instant, patience: Duration) -> Self {
        Self { until: now + patience, looked: now }
    }

    /// Looks at the clock, as has to be done every [`LOOK`]. Gives how long nothing ran before.
    fn look(&mut self, now: Instant) -> Duration {
        let elapsed = now.saturating_duration_since(self.looked);
        self.looked = now;
        if elapsed <= LOOK + LATE {
            return Duration::ZERO;
        }
        let pause = elapsed - LOOK;
        self.until += pause;
        pause
    }

    fn is_over(&self) -> bool {
        self.looked >= self.until
    }
}

impl Running<'_> {
    /// Drains until nobody is left or the time is over. `others_serve`: another process accepts from
    /// the same queues, and newcomers are its own.
    pub(super) fn drain(&mut self, others_serve: bool, to: &str) -> Result<()> {
        let to: Arc<str> = Arc::from(to);
        if let Some(admin) = &self.admin {
            admin.set_ready(false);
        }
        let ends = self.signals.ends();
        // Who calls now must start as if nobody were here.
        self.server = None;
        let mut doors = match others_serve {
            true => self.close_doors(),
            false if self.listeners.iter().any(|listener| listener.offered.kept_by_manager) => Doors::Kept,
            false => Doors::Answering {
                until: Instant::now() + ANSWER_WITHIN,
                accepts: self.fleet.sum(Stat::Accepts),
                quiet_since: Instant::now(),
            },
        };
        let over_ms = self.drain_over_ms();
        let patience = Duration::from_millis(u64::from(over_ms)) + GRACE;
        let mut deadline = Deadline::new(Instant::now(), patience);
        tracing::info!(over_ms, connections = self.fleet.sum(Stat::Connections), "draining");
        let mut told = !others_serve;
        if told {
            self.fleet.command(&Command::Drain { over_ms, to: to.clone() });
        }
        let mut hurried = false;
        loop {
            let pause = deadline.look(Instant::now());
            if deadline.is_over() {
                break;
            }
            self.look_at_doors(&mut doors, pause);
            let closed = matches!(doors, Doors::Closed);
            if closed && !told {
                // Whoever was let in by an accept that was being cancelled has been served until now.
                told = true;
                self.fleet.command(&Command::Drain { over_ms, to: to.clone() });
            }
            let left = self.fleet.sum(Stat::Connections);
            if closed && left == 0 && self.fleet.sum(Stat::LinkRetainedBytes) == 0 {
                tracing::info!("drained");
                return Ok(());
            }
            if self.signals.ends() > ends && !hurried {
                tracing::info!(left, "hurrying");
                hurried = true;
                told = true;
                self.fleet.command(&Command::Drain { over_ms: 0, to: to.clone() });
                deadline = Deadline::new(Instant::now(), GRACE);
            }
            if self.signals.take_reload() {
                tracing::warn!("SIGHUP: nothing changes: this gateway is draining");
            }
            if self.fleet.has_ended() {
                bail!("a shard has ended unexpectedly; the log has more");
            }
            thread::sleep(LOOK);
        }
        let left = self.fleet.sum(Stat::Connections);
        tracing::warn!(left, "the drain's time is over: the rest is closed");
        Ok(())
    }

    fn look_at_doors(&mut self, doors: &mut Doors, pause: Duration) {
        let now = Instant::now();
        match doors {
            Doors::Answering { until, accepts, quiet_since } => {
                *until += pause;
                *quiet_since += pause;
                let accepts_now = self.fleet.sum(Stat::Accepts);
                if std::mem::replace(accepts, accepts_now) != accepts_now {
                    *quiet_since = now;
                }
                if now >= *until || now - *quiet_since >= QUIET {
                    *doors = self.close_doors();
                }
            }
            Doors::Kept => {
                let untold = [Stat::ConnectionsHandshaking, Stat::ConnectionsOpening, Stat::ConnectionsOpen];
                if untold.iter().all(|&stat| self.fleet.sum(stat) == 0) {
                    *doors = self.close_doors();
                }
            }
            Doors::Closing { closed, left } => {
                *left -= closed.try_iter().count();
                if *left == 0 {
                    // The last copies: now the address is free, or the successor's alone.
                    self.listeners.clear();
                    if let Some(successor) = self.successor.take() {
                        self.admin = None;
                        successor.release();
                    }
                    *doors = Doors::Closed;
                }
            }
            Doors::Closed => {}
        }
    }

    fn close_doors(&self) -> Doors {
        let (closed, left) = self.fleet.close_listeners();
        Doors::Closing { closed, left }
    }

    /// Over how long GOAWAYs are spread: `drain_ms`, or longer where the rate asks for it.
    fn drain_over_ms(&self) -> u32 {
        let at_rate_ms = match self.config.drain_rate_per_s {
            0 => 0,
            rate => self.fleet.sum(Stat::Connections) * 1000 / u64::from(rate),
        };
        self.config.drain_ms.max(u32::try_from(at_rate_ms).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drain_gives_up_after_the_time_in_which_it_ran() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let mut deadline = Deadline::new(began, Duration::from_millis(200));
        assert_eq!(deadline.look(at(20)), Duration::ZERO);
        assert_eq!(deadline.look(at(60_040)), Duration::from_secs(60), "stopped for a minute");
        assert!(!deadline.is_over());
        assert_eq!(deadline.look(at(60_150)), Duration::ZERO, "late, as on a busy machine");
        assert!(!deadline.is_over());
        assert_eq!(deadline.look(at(60_200)), Duration::ZERO);
        assert!(deadline.is_over());
    }
}
