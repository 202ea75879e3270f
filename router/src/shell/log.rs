//! The process's log: lines for people or JSON, to stderr.
//!
//! Whoever logs leaves its line in a bounded queue and goes on. Only the thread `log` writes, so
//! only it waits for a reader that has stalled, and only it meets a full disk or a closed pipe.
//! Three things are left out, and each is counted: lines over the rate of their level, lines for
//! which the queue has no room, and lines that could not be written. A line says so as soon as one
//! can be written again; [`left_out`] tells it at any time.

use std::{
    io::{self, IsTerminal, Write},
    sync::{
        Arc, OnceLock,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::{
    Layer,
    fmt::MakeWriter,
    layer::{Context, Filter},
    registry::LookupSpan,
};

use super::write_all;

/// Lines of one level in one second; further ones are only counted.
pub const LINES_PER_S_MAX: u32 = 100;
/// How long the end of a process waits for the rest of its log.
pub const FLUSH_WITHIN: Duration = Duration::from_millis(500);

/// Lines in the queue.
const LINES_MAX: usize = 2_048;
/// Their bytes.
const BYTES_MAX: usize = 256 * 1024;
/// Of these, what only errors may use.
const BYTES_FOR_ERRORS: usize = 64 * 1024;
/// What is longer is cut.
const LINE_BYTES_MAX: usize = 16 * 1024;
/// How often the log says how much was left out, at most.
const TELL_EVERY: Duration = Duration::from_millis(1_100);
/// The target of lines about the log itself; the rate does not hold for them.
const OWN_TARGET: &str = "roost_log";

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineFormat {
    /// For people; in colours on a terminal.
    Text,
    /// An object per line.
    Json,
}

/// The log of this process, once there is one.
static LOG: OnceLock<Arc<Queue>> = OnceLock::new();

/// Starts the thread that writes, and gives back the layer that feeds it. Once per process.
///
/// # Errors
/// There is a log already, or no thread for it.
pub fn layer<S>(format: LineFormat) -> io::Result<Box<dyn Layer<S> + Send + Sync>>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let (queue, lines) = Queue::new();
    if LOG.set(Arc::clone(&queue)).is_err() {
        return Err(io::Error::other("this process has a log already"));
    }
    let writer = Writer::new(Stderr, Arc::clone(&queue));
    thread::Builder::new().name("log".to_owned()).stack_size(128 * 1024).spawn(move || {
        writer.run(&lines, |left_out| {
            let LeftOut { over_rate, queue_full, not_written } = left_out;
            tracing::warn!(target: OWN_TARGET, over_rate, queue_full, not_written, "log lines were left out");
        });
    })?;
    let limited = Limited::new(Arc::clone(&queue));
    let layer = tracing_subscriber::fmt::layer().with_writer(Lines(queue)).with_target(false);
    // Nothing that goes wrong here is printed past the queue.
    let layer = layer.log_internal_errors(false);
    Ok(match format {
        LineFormat::Text => layer.with_ansi(io::stderr().is_terminal()).with_filter(limited).boxed(),
        LineFormat::Json => layer.json().flatten_event(true).with_filter(limited).boxed(),
    })
}

/// Waits until what has been logged so far is written, or has failed; at most so long. Returns
/// whether it is.
pub fn flush(within: Duration) -> bool {
    LOG.get().is_none_or(|queue| queue.flush(within))
}

/// What has been left out of the log since the start; nothing if there is no log.
pub fn left_out() -> LeftOut {
    LOG.get().map(|queue| queue.left_out()).unwrap_or_default()
}

/// How many lines were left out, by cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// More than [`LINES_PER_S_MAX`] of one level in a second.
    pub over_rate: u64,
    /// The reader of the log does not keep up.
    pub queue_full: u64,
    /// The log could not be written: a full disk, a closed pipe.
    pub not_written: u64,
}

impl LeftOut {
    /// Each cause with its number; the names are the values of the metrics' label `cause`.
    pub fn by_cause(self) -> [(&'static str, u64); 3] {
        [("over_rate", self.over_rate), ("queue_full", self.queue_full), ("not_written", self.not_written)]
    }

    fn since(self, before: Self) -> Self {
        Self {
            over_rate: self.over_rate - before.over_rate,
            queue_full: self.queue_full - before.queue_full,
            not_written: self.not_written - before.not_written,
        }
    }
}

/// Lines on their way to the thread that writes.
#[derive(Debug)]
struct Queue {
    lines: SyncSender<Vec<u8>>,
    /// Bytes of lines that are queued or being written.
    bytes: AtomicUsize,
    over_rate: AtomicU64,
    queue_full: AtomicU64,
    not_written: AtomicU64,
}

impl Queue {
    fn new() -> (Arc<Self>, Receiver<Vec<u8>>) {
        let (lines, receiver) = sync_channel(LINES_MAX);
        let zero = || AtomicU64::new(0);
        let bytes = AtomicUsize::new(0);
        (
            Arc::new(Self { lines, bytes, over_rate: zero(), queue_full: zero(), not_written: zero() }),
            receiver,
        )
    }

    /// Leaves a line in the queue, or counts it where there is no room. Never waits.
    fn put(&self, line: &[u8], is_error: bool) {
        let mut line = line.to_vec();
        if line.len() > LINE_BYTES_MAX {
            line.truncate(LINE_BYTES_MAX - 1);
            line.push(b'\n');
        }
        let bytes = line.len();
        let room = if is_error { BYTES_MAX } else { BYTES_MAX - BYTES_FOR_ERRORS };
        let fits = self.bytes.fetch_add(bytes, SeqCst) + bytes <= room;
        if !fits || self.lines.try_send(line).is_err() {
            self.bytes.fetch_sub(bytes, SeqCst);
            self.queue_full.fetch_add(1, Relaxed);
        }
    }

    fn flush(&self, within: Duration) -> bool {
        let until = Instant::now() + within;
        while self.bytes.load(SeqCst) > 0 {
            if Instant::now() >= until {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
        true
    }

    fn left_out(&self) -> LeftOut {
        LeftOut {
            over_rate: self.over_rate.load(Relaxed),
            queue_full: self.queue_full.load(Relaxed),
            not_written: self.not_written.load(Relaxed),
        }
    }
}

/// Standard error, without the lock of the standard library's.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        write_all(rustix::stdio::stderr(), bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The writing end: the only one that waits for whoever reads the log.
struct Writer<W> {
    out: W,
    queue: Arc<Queue>,
    /// Whether the last line got out.
    writes: bool,
    told: LeftOut,
}

impl<W: Write> Writer<W> {
    fn new(out: W, queue: Arc<Queue>) -> Self {
        Self { out, queue, writes: true, told: LeftOut::default() }
    }

    /// Writes until nobody can log any more. `tell` is called with what was left out since it was
    /// called before.
    fn run(mut self, lines: &Receiver<Vec<u8>>, tell: impl Fn(LeftOut)) {
        let mut reported_at = Instant::now();
        // Without lines nothing is left out, so there is nothing to wake up for.
        let mut quiet = true;
        loop {
            let next = if quiet {
                lines.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                lines.recv_timeout(TELL_EVERY)
            };
            match next {
                Ok(line) => {
                    quiet = false;
                    self.write(&line);
                    self.queue.bytes.fetch_sub(line.len(), SeqCst);
                }
                Err(RecvTimeoutError::Timeout) => quiet = true,
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if self.writes && (quiet || reported_at.elapsed() >= TELL_EVERY) {
                reported_at = Instant::now();
                let left_out = self.queue.left_out();
                if left_out != self.told {
                    tell(left_out.since(self.told));
                    self.told = left_out;
                }
            }
        }
    }

    fn write(&mut self, line: &[u8]) {
        // A line that got out in part must not swallow the one that follows it.
        let written = if self.writes { Ok(()) } else { self.out.write_all(b"\n") };
        self.writes = written.and_then(|()| self.out.write_all(line)).is_ok();
        if !self.writes {
            self.queue.not_written.fetch_add(1, Relaxed);
        }
    }
}

/// Where the formatting layer puts its lines.
#[derive(Clone, Debug)]
struct Lines(Arc<Queue>);

/// Takes one line.
struct Line<'a> {
    queue: &'a Queue,
    is_error: bool,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line { queue: &self.0, is_error: false }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line<'a> {
        Line { queue: &self.0, is_error: *metadata.level() == Level::ERROR }
    }
}

impl Write for Line<'_> {
    /// The layer gives each line whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.queue.put(line, self.is_error);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Passes so many events of each level per second, so that a storm of one level hides no other.
struct Limited {
    queue: Arc<Queue>,
    began: Instant,
    /// By level: a second since the start above, and how many have passed in it below.
    windows: [AtomicU64; 5],
}

impl Limited {
    fn new(queue: Arc<Queue>) -> Self {
        Self { queue, began: Instant::now(), windows: [const { AtomicU64::new(0) }; 5] }
    }

    fn admit(&self, level: Level, now: Instant) -> bool {
        let window = &self.windows[match level {
            Level::ERROR => 0,
            Level::WARN => 1,
            Level::INFO => 2,
            Level::DEBUG => 3,
            _ => 4,
        }];
        let second = now.saturating_duration_since(self.began).as_secs();
        let admitted = window.fetch_update(Relaxed, Relaxed, |window| {
            let (begun, passed) = (window >> 32, window & u64::from(u32::MAX));
            // Another thread may have seen the next second before this one has seen its own.
            let (second, passed) = if second > begun { (second, 0) } else { (begun, passed) };
            (passed < u64::from(LINES_PER_S_MAX)).then_some(second << 32 | (passed + 1))
        });
        if admitted.is_err() {
            self.queue.over_rate.fetch_add(1, Relaxed);
        }
        admitted.is_ok()
    }
}

impl<S: Subscriber> Filter<S> for Limited {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        metadata.target() == OWN_TARGET || self.admit(*metadata.level(), Instant::now())
    }
}

#[cfg(test)]
mod tests;
