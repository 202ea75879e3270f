//! One run: the fleet, and what it is watched with.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::{
    figures::{self, Figures},
    fleet::{Fleet, FleetReport},
    found::{Found, Point, Stopped},
    latency,
    load::{Departure, Reconnect},
    plan::Plan,
    preflight,
    progress::Progress,
    restart::Restart,
    tally::Snapshot,
};

/// What [`Run::wait`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// The condition holds.
    Done,
    /// The time is up.
    TimedOut,
}

/// A run under way.
pub struct Run {
    /// What was asked for.
    pub plan: Plan,
    /// The clients.
    pub fleet: Fleet,
    /// What has been found.
    pub found: Found,
    sources: figures::Sources,
    progress: Progress,
    stop: Arc<AtomicBool>,
    restart: Option<Restart>,
    hlog: Option<crate::report::hlog::Writer>,
    spacing_s: f64,
    point: Point,
    point_latency: hdrhistogram::Histogram<u64>,
}

/// So many clients leave with CLOSE.
const FEW_CLIENTS: u32 = 10_000;
/// Departures per second at the end of a run.
const LEAVE_PER_S: f64 = 100_000.0;
/// How often the fleet is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// Points kept at most: then every second one goes, and the spacing doubles.
const POINTS_MAX: usize = 2000;

impl Run {
    /// A run over a started fleet.
    pub fn new(
        plan: Plan,
        fleet: Fleet,
        sources: figures::Sources,
        stop: Arc<AtomicBool>,
        hlog: Option<crate::report::hlog::Writer>,
    ) -> Self {
        let started = std::time::SystemTime::now() - fleet.now();
        let started_unix_s =
            started.duration_since(std::time::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        Self {
            progress: Progress::new(plan.connections),
            plan,
            fleet,
            found: Found { started_unix_s, ..Found::default() },
            sources,
            stop,
            restart: None,
            hlog,
            spacing_s: 1.0,
            point: Point::default(),
            point_latency: latency::histogram(),
        }
    }

    /// Reads all figures now.
    pub fn figures(&self) -> Figures {
        self.sources.read()
    }

    /// Waits until `done` says so, at most `limit`, and shows progress meanwhile.
    ///
    /// # Errors
    /// [`Stopped`], or what ended a load thread.
    pub fn wait(
        &mut self,
        phase: &str,
        limit: Duration,
        mut done: impl FnMut(&Snapshot) -> bool,
    ) -> anyhow::Result<Waited> {
        let start = self.fleet.now();
        let outcome = loop {
            let snapshot = self.poll(phase)?;
            if done(&snapshot) {
                break Waited::Done;
            }
            let waited = self.fleet.now() - start;
            if waited >= limit {
                break Waited::TimedOut;
            }
            std::thread::sleep(POLL_INTERVAL.min(limit - waited));
        };
        let end = self.fleet.now().as_secs_f64();
        match self.found.phases.last_mut() {
            Some((name, _, until)) if name == phase => *until = end,
            _ => self.found.phases.push((phase.to_owned(), start.as_secs_f64(), end)),
        }
        Ok(outcome)
    }

    /// Begins a restart of the gateway by the user's command, which may name its new process.
    ///
    /// # Errors
    /// When it cannot be started. When it fails, looking at the run does.
    pub fn restart_gateway(&mut self, command: &str) -> anyhow::Result<()> {
        self.restart = Some(Restart::begin(command)?);
        Ok(())
    }

    /// The command still runs.
    pub const fn is_restarting(&self) -> bool {
        self.restart.is_some()
    }

    /// Lets `time` pass.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn pass(&mut self, phase: &str, time: Duration) -> anyhow::Result<()> {
        self.wait(phase, time, |_| false).map(|_| ())
    }

    /// After an interruption: sends nothing more and waits a little for what is on its way.
    pub fn let_outstanding_arrive(&mut self) {
        self.fleet.stop_traffic();
        self.fleet.stop_heartbeat();
        for _ in 0..40 {
            match self.fleet.snapshot() {
                Ok(now) if now.outstanding > 0 || now.pings_outstanding > 0 => {
                    std::thread::sleep(POLL_INTERVAL);
                }
                Ok(now) => {
                    self.found.last = now;
                    break;
                }
                // Says so itself when it is joined.
                Err(_) => break,
            }
        }
    }

    /// Waits for the PONGs that are on their way, since a run that ends between PING and PONG has
    /// no unanswered heartbeat.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn wait_for_pings(&mut self) -> anyhow::Result<Snapshot> {
        // With many clients some PING is always on its way: no more are sent.
        self.fleet.stop_heartbeat();
        self.wait("finish", self.plan.grace, |now| now.pings_outstanding == 0)?;
        self.poll("finish")
    }

    /// Looks at the fleet once.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn poll(&mut self, phase: &str) -> anyhow::Result<Snapshot> {
        if self.stop.load(Relaxed) {
            return Err(Stopped::Interrupted.into());
        }
        self.guard_memory()?;
        if let Some(restart) = &mut self.restart
            && let Some(pid) = restart.ended()?
        {
            self.restart = None;
            self.sources.gateway_pid = pid.or(self.sources.gateway_pid);
        }
        let snapshot = self.fleet.snapshot()?;
        self.found.last = snapshot;
        let intervals: Vec<_> = self.fleet.take_intervals().collect();
        self.keep_intervals(intervals);
        let t_s = self.fleet.now().as_secs_f64();
        if t_s - self.point.t_s >= self.spacing_s {
            self.keep_point(t_s, &snapshot);
            self.progress.show(phase, &self.point, &snapshot);
        }
        Ok(snapshot)
    }

    /// A machine out of memory kills processes, and takes the report with it.
    fn guard_memory(&mut self) -> Result<(), Stopped> {
        let Some(free) = preflight::memory_free() else { return Ok(()) };
        let (_, least) = self.found.memory_free.get_or_insert((free, free));
        *least = free.min(*least);
        match self.plan.memory_floor {
            floor if free < floor => Err(Stopped::LowMemory { free, floor }),
            _ => Ok(()),
        }
    }

    /// Ends the clients and returns what they counted, with what the run has found.
    ///
    /// # Errors
    /// What ended a load thread.
    pub fn finish(mut self) -> anyhow::Result<(Plan, Found, FleetReport)> {
        self.progress.end();
        let handled_before = self.found.at_start.as_ref().and_then(|figures| figures.messages_handled);
        self.found.messages_handled = self
            .sources
            .messages_handled()
            .zip(handled_before)
            .map(|(after, before)| after.saturating_sub(before));
        self.disconnect_all();
        let fleet = std::mem::replace(&mut self.fleet, Fleet::none());
        let mut report = fleet.finish()?;
        let rest = std::mem::take(&mut report.intervals);
        self.keep_intervals(rest);
        if let Some(hlog) = self.hlog.take() {
            hlog.finish()?;
        }
        Ok((self.plan, self.found, report))
    }

    /// The clients end their connections, so that the gateway need not find out: politely where
    /// they are few, else by RST, which leaves none in TIME-WAIT (RFC 9293, 3.6.1), a minute later
    /// to be paid for by whoever is measured then.
    fn disconnect_all(&mut self) {
        let clients = self.plan.connections;
        let how = if clients <= FEW_CLIENTS { Departure::Politely } else { Departure::Reset };
        self.fleet.count_as_lost();
        self.fleet.reconnect(Reconnect::Never, 1);
        self.fleet.leave(0, LEAVE_PER_S, how);
        let limit = Duration::from_secs(5) + 3 * Duration::from_secs_f64(f64::from(clients) / LEAVE_PER_S);
        let begin = self.fleet.now();
        while self.fleet.now() - begin < limit {
            match self.fleet.snapshot() {
                Ok(now) if now.open + now.leaving > 0 => std::thread::sleep(POLL_INTERVAL),
                // All have left, or a thread has ended, which says so itself when it is joined.
                _ => break,
            }
        }
    }

    fn keep_intervals(&mut self, intervals: Vec<crate::load::Interval>) {
        for interval in intervals {
            self.found.latency.merge(&interval.latency);
            self.point_latency.add(&interval.latency.corrected).expect("the bounds are the same");
            if let Some(hlog) = &self.hlog {
                hlog.write(interval);
            }
        }
    }

    fn keep_point(&mut self, t_s: f64, snapshot: &Snapshot) {
        let gateway = self.sources.gateway_pid.map(figures::proc::Process::read).unwrap_or_default();
        let timed = !self.point_latency.is_empty();
        let latency = |value: u64| timed.then_some(value);
        self.point = Point {
            t_s,
            open: snapshot.open,
            connecting: snapshot.connecting,
            opened: snapshot.opened,
            sent: snapshot.sent,
            received: snapshot.received,
            errors: snapshot.connect_failed + snapshot.refused + snapshot.disconnected,
            gateway_pss_bytes: gateway.pss_bytes,
            gateway_cpu_ms: gateway.cpu_ms(),
            memory_free_bytes: preflight::memory_free(),
            p50_us: latency(self.point_latency.value_at_quantile(0.5)),
            p99_us: latency(self.point_latency.value_at_quantile(0.99)),
            max_us: latency(self.point_latency.max()),
        };
        self.point_latency.reset();
        self.found.series.push(self.point);
        if self.found.series.len() >= POINTS_MAX {
            let mut keep = false;
            self.found.series.retain(|_| {
                keep = !keep;
                keep
            });
            self.spacing_s *= 2.0;
        }
    }
}
