//! The metrics as text: OpenMetrics, or Prometheus' text format 0.0.4.
//!
//! * [`names`]: every name, in one table.
//! * [`ready`]: whether clients should be sent here.
//! * [`descriptors`]: how many descriptors are open, without a walk over them.
//! * [`process`]: what `/proc` says of this process and of the kernel's sockets.
//!
//! Nothing is kept here: each scrape reads the shards' figures and `/proc` anew.
#![forbid(unsafe_code)]

mod descriptors;
pub mod names;
mod process;
pub mod ready;

use std::{
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet, text},
    metrics::{MetricType, exemplar::Exemplar},
    registry::{Registry, Unit},
};
use roost_protocol::Reason;
use roost_router::shell::{exposition::Format, log};

pub use self::ready::Readiness;
use self::{
    descriptors::Descriptors,
    names::{FAMILIES, Family, Kind},
};
use crate::core::stats::{LOOP_BUCKETS, LinkStats, ShardStats, Stat};

/// Everything there is to scrape.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// The metrics of these shards.
    pub fn new(shards: Vec<Arc<ShardStats>>, readiness: Arc<Readiness>) -> Self {
        let descriptors = Descriptors::of_process(clients_descriptors(&shards));
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Scrape {
            shards,
            readiness,
            baseline: process::Figures::read(None),
            descriptors,
        }));
        Self { registry }
    }

    /// All metrics, as of now.
    pub fn text(&self, format: Format) -> String {
        let mut text = String::with_capacity(32 * 1024);
        text::encode(&mut text, &self.registry).expect("a string takes any text");
        format.of_openmetrics(text)
    }
}

#[derive(Debug)]
struct Scrape {
    shards: Vec<Arc<ShardStats>>,
    readiness: Arc<Readiness>,
    baseline: process::Figures,
    descriptors: Descriptors,
}

/// How many descriptors of the process clients have; none where they have none of their own.
fn clients_descriptors(shards: &[Arc<ShardStats>]) -> Option<u64> {
    let plain = shards.iter().any(|shard| shard.plain_descriptors.load(Relaxed));
    plain.then(|| shards.iter().map(|shard| shard.get(Stat::Connections)).sum())
}

type Labels<'a> = [(&'static str, &'a str)];

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let process = process::Figures::read(self.descriptors.open(clients_descriptors(&self.shards)));
        for family in FAMILIES {
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            // The encoder puts the unit at the end of the name.
            let (name, unit) =
                match (family.name.strip_suffix("_bytes"), family.name.strip_suffix("_seconds")) {
                    (Some(name), _) => (name, Some(&Unit::Bytes)),
                    (_, Some(name)) => (name, Some(&Unit::Seconds)),
                    _ => (family.name, None),
                };
            let mut writer = Writer(encoder.encode_descriptor(name, family.help, unit, kind)?, *family);
            self.shards(&mut writer)?;
            self.links(&mut writer)?;
            self.others(&mut writer, &process)?;
        }
        Ok(())
    }
}

impl Scrape {
    /// The figures of shards that belong to the writer's family.
    fn shards(&self, writer: &mut Writer<'_>) -> fmt::Result {
        for (index, stats) in self.shards.iter().enumerate() {
            let shard = index.to_string();
            let shard = ("shard", shard.as_str());
            for &stat in Stat::ALL {
                match names::of(stat) {
                    Some((family, None)) if family == writer.1 => writer.put(&[shard], stats.get(stat))?,
                    Some((family, Some(value))) if family == writer.1 => {
                        writer.put(&[shard, (family.labels[1], value)], stats.get(stat))?;
                    }
                    _ => {}
                }
            }
            match writer.1 {
                names::CLOSES => {
                    for &reason in Reason::ALL {
                        writer.put(&[shard, ("reason", reason.label())], stats.closes(reason))?;
                    }
                }
                names::LOOP_BUSY => writer.put_seconds(&[shard], stats.get(Stat::LoopBusyNs) as f64 / 1e9)?,
                names::LOOP_TURN => writer.put_loop_turns(&[shard], stats)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// The figures of links that belong to the writer's family.
    fn links(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let up = |link: &LinkStats| u64::from(link.state.load(Relaxed) == 4);
        let figure: &dyn Fn(&LinkStats) -> u64 = match writer.1 {
            names::LINK_UP => &up,
            names::LINK_STATE => &|link| link.state.load(Relaxed),
            names::LINK_DRAINING => &|link| link.draining.load(Relaxed),
            names::LINK_WINDOW => &|link| link.window_bytes.load(Relaxed),
            names::LINK_RETAINED => &|link| link.retained_bytes.load(Relaxed),
            names::LINK_LAG_FRAMES => &|link| link.lag_frames.load(Relaxed),
            names::LINK_CONNECTIONS => &|link| link.connections.load(Relaxed),
            names::LINK_BLOCKED => &|link| link.blocked.load(Relaxed),
            names::LINK_FAILURES => &|link| link.failures.load(Relaxed),
            names::WORKER_PARTITIONS => &|link| link.partitions.load(Relaxed),
            names::WORKER_BREAKS => &|link| link.breaks.load(Relaxed),
            names::WORKER_FAILOVERS => &|link| link.failovers.load(Relaxed),
            _ => return Ok(()),
        };
        // The library writes label values as they are.
        let escaped = |name: &str| name.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n");
        for (index, stats) in self.shards.iter().enumerate() {
            let shard = index.to_string();
            for link in stats.links() {
                writer.put(&[("shard", &shard), ("worker", &escaped(&link.worker))], figure(&link))?;
            }
        }
        Ok(())
    }

    /// What belongs to no shard. A figure that could not be read is left out.
    fn others(&self, writer: &mut Writer<'_>, process: &process::Figures) -> fmt::Result {
        let value = match writer.1 {
            names::BUILD_INFO => return writer.put(&[("version", env!("CARGO_PKG_VERSION"))], 1),
            names::BASELINE => {
                let baseline = &self.baseline;
                for (part, bytes) in
                    [("process", baseline.resident_bytes), ("kernel_slab", baseline.slab_bytes)]
                {
                    bytes.map_or(Ok(()), |bytes| writer.put(&[("part", part)], bytes))?;
                }
                return Ok(());
            }
            names::LOG_LINES => {
                for (cause, lines) in log::left_out().by_cause() {
                    writer.put(&[("cause", cause)], lines)?;
                }
                return Ok(());
            }
            names::READY => Some(u64::from(self.readiness.obstacle().is_none())),
            names::PROCESS_CPU => {
                return process.cpu_s.map_or(Ok(()), |seconds| writer.put_seconds(&[], seconds));
            }
            names::KERNEL_SOCKETS => process.tcp_sockets,
            names::KERNEL_SLAB => process.slab_bytes,
            names::PROCESS_RESIDENT => process.resident_bytes,
            names::PROCESS_FDS => process.fds_open,
            names::PROCESS_FDS_MAX => process.fds_max,
            names::PROCESS_START => process.started_s,
            _ => None,
        };
        value.map_or(Ok(()), |value| writer.put(&[], value))
    }
}

/// Writes the members of one family.
struct Writer<'a>(MetricEncoder<'a>, Family);

impl Writer<'_> {
    fn put(&mut self, labels: &Labels<'_>, value: u64) -> fmt::Result {
        self.encode(labels, &value)
    }

    fn put_seconds(&mut self, labels: &Labels<'_>, value: f64) -> fmt::Result {
        self.encode(labels, &value)
    }

    fn encode<V: EncodeCounterValue + EncodeGaugeValue>(
        &mut self,
        labels: &Labels<'_>,
        value: &V,
    ) -> fmt::Result {
        let kind = self.1.kind;
        // A family's writer would write an empty set of labels as `{}`.
        if labels.is_empty() {
            return write(&mut self.0, kind, value);
        }
        write(&mut self.0.encode_family(&labels)?, kind, value)
    }

    /// The buckets of the shard end at powers of two of a microsecond; the last has no end.
    fn put_loop_turns(&mut self, labels: &Labels<'_>, stats: &ShardStats) -> fmt::Result {
        let counts: Vec<u64> = stats.loop_turn_us.iter().map(|bucket| bucket.load(Relaxed)).collect();
        let end =
            |index: usize| if index + 1 < LOOP_BUCKETS { (1u64 << index) as f64 / 1e6 } else { f64::MAX };
        let buckets: Vec<_> = counts.iter().enumerate().map(|(index, &count)| (end(index), count)).collect();
        // Summed from what was read, so that the count is the last bucket's even mid-turn.
        let count = counts.iter().sum();
        let seconds = stats.get(Stat::LoopBusyNs) as f64 / 1e9;
        self.0.encode_family(&labels)?.encode_histogram::<NoLabelSet>(seconds, count, &buckets, None)
    }
}

fn write<V: EncodeCounterValue + EncodeGaugeValue>(
    metric: &mut MetricEncoder<'_>,
    kind: Kind,
    value: &V,
) -> fmt::Result {
    match kind {
        Kind::Counter => metric.encode_counter(value, None::<&Exemplar<NoLabelSet, f64>>),
        _ => metric.encode_gauge(value),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::Ordering::Relaxed};

    use roost_protocol::Reason;

    use super::{Format, Metrics, Readiness, names::FAMILIES};
    use crate::core::stats::{LinkStats, ShardStats, Stat};

    fn scraped(shards: Vec<Arc<ShardStats>>) -> String {
        for shard in &shards {
            for (index, name) in ["a", "b\"\\"].into_iter().enumerate() {
                if shard.links().len() == index {
                    shard.set_link(index, Some(Arc::new(LinkStats::new(name))));
                }
            }
        }
        let readiness = Arc::new(Readiness::new(shards.clone()));
        Metrics::new(shards, readiness).text(Format::OpenMetrics)
    }

    fn value(text: &str, series: &str) -> f64 {
        let line =
            text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
        line.unwrap_or_else(|| panic!("{series} in\n{text}")).rsplit(' ').next().unwrap().parse().unwrap()
    }

    #[test]
    fn every_figure_arrives_under_its_name() {
        let shards = [Arc::new(ShardStats::default()), Arc::new(ShardStats::default())];
        for (number, &stat) in (1..).zip(Stat::ALL) {
            shards[1].set(stat, number);
        }
        shards[1].count_close(Reason::IdleTimeout);
        scraped(shards.to_vec());
        let link = &shards[1].links()[1];
        link.lag_frames.store(77, Relaxed);
        link.state.store(4, Relaxed);
        link.partitions.store(8_192, Relaxed);
        let text = scraped(shards.to_vec());
        for (number, &stat) in (1..).zip(Stat::ALL) {
            let Some((family, label)) = super::names::of(stat) else { continue };
            let suffix = if family.kind == super::Kind::Counter { "_total" } else { "" };
            let more = label.map_or(String::new(), |label| format!(",{}=\"{label}\"", family.labels[1]));
            let series = |shard| format!("{}{suffix}{{shard=\"{shard}\"{more}}}", family.name);
            assert_eq!(value(&text, &series(1)), f64::from(number), "{stat:?}");
            assert_eq!(value(&text, &series(0)), 0.0, "{stat:?}");
        }
        assert_eq!(value(&text, "roost_closes_total{shard=\"1\",reason=\"idle_timeout\"}"), 1.0);
        assert_eq!(value(&text, "roost_link_lag_frames{shard=\"1\",worker=\"b\\\"\\\\\"}"), 77.0);
        assert_eq!(value(&text, "roost_link_up{shard=\"1\",worker=\"b\\\"\\\\\"}"), 1.0);
        assert_eq!(value(&text, "roost_link_up{shard=\"1\",worker=\"a\"}"), 0.0);
        assert_eq!(value(&text, "roost_worker_partitions{shard=\"1\",worker=\"b\\\"\\\\\"}"), 8_192.0);
        assert_eq!(value(&text, "roost_ready"), 0.0);
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn loop_turns_fall_into_buckets_of_seconds() {
        let stats = Arc::new(ShardStats::default());
        for busy_ns in [500, 1_500, 3_000_000, 60_000_000_000] {
            stats.count_turn(busy_ns);
        }
        let text = scraped(vec![stats]);
        let bucket =
            |end: &str| value(&text, &format!("roost_loop_turn_seconds_bucket{{le=\"{end}\",shard=\"0\"}}"));
        assert_eq!(bucket("0.000001"), 1.0);
        assert_eq!(bucket("0.000002"), 2.0);
        assert_eq!(bucket("0.002048"), 2.0);
        assert_eq!(bucket("0.004096"), 3.0);
        assert_eq!(bucket("+Inf"), 4.0);
        assert_eq!(value(&text, "roost_loop_turn_seconds_count{shard=\"0\"}"), 4.0);
        assert_eq!(value(&text, "roost_loop_turn_seconds_sum{shard=\"0\"}"), 60.003002);
    }

    #[test]
    fn every_family_is_described_and_this_process_has_figures() {
        let text = scraped(vec![Arc::new(ShardStats::default())]);
        for family in FAMILIES {
            assert!(text.contains(&format!("# HELP {} {}\n", family.name, family.help)), "{}", family.name);
        }
        for name in [
            "process_resident_memory_bytes",
            "process_open_fds",
            "process_max_fds",
            "roost_kernel_slab_bytes",
        ] {
            assert!(value(&text, name) > 0.0, "{name}");
        }
        assert!(value(&text, "process_start_time_seconds") > 1.6e9);
    }
}
