//! `merge`: the interval logs of several generators as one.

use std::{
    collections::BTreeMap,
    fs,
    io::BufWriter,
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context, bail, ensure};
use base64::Engine;
use hdrhistogram::{
    Histogram,
    serialization::{
        Deserializer, V2DeflateSerializer,
        interval_log::{IntervalLogIterator, IntervalLogWriterBuilder, LogEntry, Tag},
    },
};
use serde_json::json;

use super::result::percentiles;
use crate::{cli::MergeArgs, latency, say};

/// One interval of one log, at its time since 1970.
struct Entry {
    at: Duration,
    length: Duration,
    tag: String,
    histogram: Histogram<u64>,
}

/// Joins logs: prints percentiles by tag, and writes what was asked for.
///
/// # Errors
/// When a log cannot be read or a result not be written.
pub fn run(args: &MergeArgs) -> anyhow::Result<()> {
    let mut entries = Vec::new();
    for path in &args.logs {
        read(path, &mut entries).with_context(|| path.display().to_string())?;
    }
    ensure!(!entries.is_empty(), "the logs hold no intervals");
    entries.sort_by(|a, b| (a.at, &a.tag).cmp(&(b.at, &b.tag)));
    let mut tags: BTreeMap<&str, Histogram<u64>> = BTreeMap::new();
    for entry in &entries {
        tags.entry(&entry.tag).or_insert_with(latency::histogram).add(&entry.histogram)?;
    }
    let row = |cells: [&str; 6]| {
        let [tag, count, p50, p99, p999, max] = cells;
        say::line(format_args!("{tag:<14} {count:>12} {p50:>10} {p99:>10} {p999:>10} {max:>10}"))
    };
    row(["us", "count", "p50", "p99", "p99.9", "max"])?;
    for (tag, histogram) in &tags {
        let Some(p) = percentiles(histogram) else { continue };
        let [count, p50, p99, p999, max] =
            [p.count, p.p50, p.p99, p.p999, p.max].map(|number| number.to_string());
        row([tag, &count, &p50, &p99, &p999, &max])?;
    }
    if let Some(path) = &args.json {
        let percentiles: BTreeMap<_, _> =
            tags.iter().map(|(tag, histogram)| (tag, percentiles(histogram))).collect();
        let text =
            serde_json::to_string_pretty(&json!({ "logs": args.logs.len(), "latency_us": percentiles }))?;
        fs::write(path, text + "\n").with_context(|| format!("--json {}", path.display()))?;
    }
    if let Some(path) = &args.hlog {
        write(path, &entries).with_context(|| format!("--hlog {}", path.display()))?;
    }
    Ok(())
}

fn read(path: &Path, entries: &mut Vec<Entry>) -> anyhow::Result<()> {
    let bytes = fs::read(path)?;
    let mut deserializer = Deserializer::new();
    let mut base = Duration::ZERO;
    for entry in IntervalLogIterator::new(&bytes) {
        match entry {
            Err(error) => bail!("no interval log: {error:?}"),
            Ok(LogEntry::BaseTime(time)) => base = time,
            Ok(LogEntry::StartTime(_)) => {}
            Ok(LogEntry::Interval(interval)) => {
                let bytes = base64::engine::general_purpose::STANDARD.decode(interval.encoded_histogram())?;
                let histogram = deserializer
                    .deserialize(&mut bytes.as_slice())
                    .map_err(|error| anyhow::anyhow!("{error:?}"))?;
                entries.push(Entry {
                    at: base + interval.start_timestamp(),
                    length: interval.duration(),
                    tag: interval.tag().map_or_else(|| "untagged".to_owned(), |tag| tag.as_str().to_owned()),
                    histogram,
                });
            }
        }
    }
    Ok(())
}

fn write(path: &Path, entries: &[Entry]) -> anyhow::Result<()> {
    let mut out = BufWriter::new(fs::File::create(path)?);
    let mut serializer = V2DeflateSerializer::new();
    let base = entries.first().map_or(Duration::ZERO, |entry| entry.at);
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment("roost-loadgen merge, microseconds")
        .with_start_time(SystemTime::UNIX_EPOCH + base)
        .with_base_time(SystemTime::UNIX_EPOCH + base)
        .with_max_value_divisor(1.0)
        .begin_log_with(&mut out, &mut serializer)?;
    for entry in entries {
        log.write_histogram(&entry.histogram, entry.at - base, entry.length, Tag::new(&entry.tag))
            .map_err(|error| anyhow::anyhow!("{error:?}"))?;
    }
    drop(log);
    std::io::Write::flush(&mut out)?;
    Ok(())
}
