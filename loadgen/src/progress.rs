//! Live progress: one line that is rewritten on a terminal, plain lines now and then otherwise.

use std::io::{IsTerminal, Write, stderr};

use crate::{found::Point, tally::Snapshot};

/// Shows progress on standard error.
#[derive(Debug)]
pub struct Progress {
    connections: u32,
    terminal: bool,
    before: Point,
    /// Seconds at which the last plain line was written, and its phase.
    line_s: f64,
    phase: String,
    dirty: bool,
}

/// Seconds between plain lines of one phase.
const LINE_S: f64 = 5.0;

impl Progress {
    /// Progress of a run with this many clients.
    pub fn new(connections: u32) -> Self {
        Self {
            connections,
            terminal: stderr().is_terminal(),
            before: Point::default(),
            line_s: f64::NEG_INFINITY,
            phase: String::new(),
            dirty: false,
        }
    }

    /// Shows a point.
    pub fn show(&mut self, phase: &str, point: &Point, snapshot: &Snapshot) {
        let new_phase = phase != self.phase;
        if !self.terminal && !new_phase && point.t_s - self.line_s < LINE_S {
            return;
        }
        let line = self.line(phase, point, snapshot);
        // Progress that cannot be shown is no reason to stop.
        let _ = if self.terminal {
            self.dirty = true;
            write!(stderr(), "\r\x1b[K{line}").and_then(|()| stderr().flush())
        } else {
            writeln!(stderr(), "{line}")
        };
        self.before = *point;
        self.line_s = point.t_s;
        phase.clone_into(&mut self.phase);
    }

    /// Leaves the terminal with a fresh line.
    pub fn end(&mut self) {
        if std::mem::take(&mut self.dirty) {
            let _ = writeln!(stderr());
        }
    }

    fn line(&self, phase: &str, point: &Point, snapshot: &Snapshot) -> String {
        let span_s = (point.t_s - self.before.t_s).max(1e-3);
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / span_s;
        let opening = rate(point.opened, self.before.opened);
        let mut line =
            format!("{:>6.0} s  {phase:<10} {:>9} of {} open", point.t_s, point.open, self.connections);
        if opening > 0.0 {
            line += &format!(", {opening:.0}/s");
            let missing = f64::from(self.connections) - point.open as f64;
            if missing > 0.0 {
                line += &format!(", {:.0} s to go", missing / opening);
            }
        }
        if point.sent > 0 {
            line += &format!(
                ", {:.0} sent/s, {:.0} received/s, {} outstanding",
                rate(point.sent, self.before.sent),
                rate(point.received, self.before.received),
                snapshot.outstanding
            );
        }
        if let (Some(p50), Some(p99)) = (point.p50_us, point.p99_us) {
            line += &format!(", p50 {p50} us, p99 {p99} us");
        }
        if point.errors > 0 {
            line += &format!(", {} errors", point.errors);
        }
        line
    }
}
