//! What the range of a single key cannot say: values that contradict each other.

use std::collections::HashSet;

use roost_protocol::edge;

use super::{keys::Config, value::Auto};
use crate::{core::stats::LINKS_MAX, ring::FeaturesMax};

/// Each problem with the key to blame and the remedy.
pub(super) fn contradictions(config: &Config) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    let mut demand = |holds: bool, key, message: String| {
        if !holds {
            found.push((key, message));
        }
    };
    let c = config;

    demand(!c.listen.is_empty(), "listen", "empty: nobody could connect; name at least one address".into());
    demand(
        c.proxy_trusted.is_empty() != c.listen.iter().any(|listener| listener.proxy),
        "proxy_trusted",
        "PROXY headers need both: a `proxy:` listener, and the networks to believe here".into(),
    );
    if let Auto::Value(tier) = &c.features_max
        && let Err(message) = tier.parse::<FeaturesMax>()
    {
        demand(false, "features_max", message);
    }
    if let Auto::Value(connections) = c.connections_max {
        let shards = u32::from(c.shards.value().unwrap_or(1));
        demand(
            connections >= shards,
            "connections_max",
            format!("{connections} is less than one connection for each of the {shards} shards"),
        );
    }

    demand(
        c.gather_us_max == 0 || c.busy_poll_us_max == 0,
        "busy_poll_us_max",
        "gives CPU for latency, and gather_us_max latency for CPU; set one of them to 0".into(),
    );

    let (idle, heartbeat) = (c.idle_timeout_ms, c.heartbeat_interval_ms);
    demand(
        idle == 0 || idle > heartbeat,
        "idle_timeout_ms",
        format!(
            "{idle} closes clients that keep to heartbeat_interval_ms = {heartbeat}; allow two and a half of them"
        ),
    );
    demand(
        idle == 0 || idle >= 1_000,
        "idle_timeout_ms",
        format!("{idle} is less than the clock's tick; write 0 (never) or at least 1000"),
    );
    demand(
        c.retry_after_min_ms <= c.retry_after_max_ms,
        "retry_after_min_ms",
        format!("{} is more than retry_after_max_ms = {}", c.retry_after_min_ms, c.retry_after_max_ms),
    );
    demand(
        c.link_redial_min_ms <= c.link_redial_max_ms,
        "link_redial_min_ms",
        format!("{} is more than link_redial_max_ms = {}", c.link_redial_min_ms, c.link_redial_max_ms),
    );

    let frame = c.frame_bytes_max.saturating_add(edge::HEADER_BYTES as u32);
    demand(
        c.outbox_bytes_max >= frame,
        "outbox_bytes_max",
        format!("{} holds not even one frame; write at least {frame}", c.outbox_bytes_max),
    );
    demand(
        c.outbox_bytes_total >= u64::from(c.outbox_bytes_max),
        "outbox_bytes_total",
        format!("{} is less than outbox_bytes_max = {}", c.outbox_bytes_total, c.outbox_bytes_max),
    );
    demand(
        c.spill_bytes_total >= u64::from(frame),
        "spill_bytes_total",
        format!("{} holds not even one frame; write at least {frame}", c.spill_bytes_total),
    );
    demand(
        u64::from(c.link_window_bytes) >= 2 * u64::from(frame),
        "link_window_bytes",
        format!(
            "{} holds less than two frames; write at least {}",
            c.link_window_bytes,
            2 * u64::from(frame)
        ),
    );

    demand(
        c.workers.len() <= LINKS_MAX,
        "workers",
        format!("{} workers; a gateway has links to at most {LINKS_MAX}", c.workers.len()),
    );
    let mut names = HashSet::new();
    for worker in &c.workers {
        let first = names.insert(&worker.name);
        demand(first, "workers", format!("two are named `{}`; routing needs distinct names", worker.name));
        demand(
            worker.address.is_local() || !c.link_secret_file.as_os_str().is_empty(),
            "workers",
            format!("`{worker}` is not on this machine, so the link needs a secret; set link_secret_file"),
        );
    }
    found
}
