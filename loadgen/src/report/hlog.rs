//! HdrHistogram V2 interval logs: latencies per interval, which other tools read too and which
//! `merge` joins over many generators.

use std::{
    fs::File,
    io::BufWriter,
    path::{Path, PathBuf},
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use crossbeam_channel::{Receiver, Sender, unbounded};
use hdrhistogram::{
    Histogram,
    serialization::{
        V2DeflateSerializer,
        interval_log::{IntervalLogWriterBuilder, Tag},
    },
};

use crate::load::Interval;

/// Tag of the latencies from the intended send time.
pub const CORRECTED: &str = "corrected";
/// Tag of the latencies from the actual send.
pub const UNCORRECTED: &str = "uncorrected";
/// Tag of how late sends were.
pub const SEND_LAG: &str = "send_lag";

/// Writes a log on a thread of its own.
pub struct Writer {
    sender: Sender<Interval>,
    handle: JoinHandle<anyhow::Result<()>>,
    path: PathBuf,
}

impl Writer {
    /// Creates the file. Times in it are relative to now.
    ///
    /// # Errors
    /// When the file cannot be created.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::create(path).with_context(|| format!("--hlog {}", path.display()))?;
        let (sender, receiver) = unbounded();
        let handle = std::thread::spawn(move || write_all(file, &receiver));
        Ok(Self { sender, handle, path: path.to_owned() })
    }

    /// Queues an interval.
    pub fn write(&self, interval: Interval) {
        // A writer that failed says so in `finish`.
        let _ = self.sender.send(interval);
    }

    /// Ends the log.
    ///
    /// # Errors
    /// When writing has failed.
    pub fn finish(self) -> anyhow::Result<()> {
        drop(self.sender);
        let result = self.handle.join().map_err(|_| anyhow::anyhow!("the log writer panicked"))?;
        result.with_context(|| format!("--hlog {}", self.path.display()))
    }
}

fn write_all(file: File, intervals: &Receiver<Interval>) -> anyhow::Result<()> {
    let mut out = BufWriter::new(file);
    let mut serializer = V2DeflateSerializer::new();
    let now = SystemTime::now();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment("roost-loadgen, microseconds")
        .with_start_time(now)
        .with_base_time(now)
        .with_max_value_divisor(1.0)
        .begin_log_with(&mut out, &mut serializer)?;
    for interval in intervals {
        let start = Duration::from_nanos(interval.start_ns);
        let length = Duration::from_nanos(interval.end_ns - interval.start_ns);
        let parts: [(&str, &Histogram<u64>); 3] = [
            (CORRECTED, &interval.latency.corrected),
            (UNCORRECTED, &interval.latency.uncorrected),
            (SEND_LAG, &interval.latency.send_lag),
        ];
        for (tag, histogram) in parts {
            log.write_histogram(histogram, start, length, Tag::new(tag))
                .map_err(|error| anyhow::anyhow!("{error:?}"))?;
        }
    }
    drop(log);
    std::io::Write::flush(&mut out)?;
    Ok(())
}
