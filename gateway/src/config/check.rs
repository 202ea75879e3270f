//! What the range of a single key cannot say: values that contradict each other.

use std::{collections::HashSet, net::SocketAddr, path::Path};

use roost_protocol::edge;

use super::{
    keys::Config,
    value::{Auto, WorkerAddress},
};
use crate::{
    core::{CoreConfig, record::LISTENERS_MAX, stats::LINKS_MAX},
    ring::FeaturesMax,
};

/// Sockets that one message can carry (SCM_MAX_FD, unix(7)).
const HANDOVER_SOCKETS_MAX: usize = 253;

/// Each problem with the keys it is about, the one to blame first, and the remedy.
pub fn contradictions(config: &Config) -> Vec<(Vec<&'static str>, String)> {
    let mut found = Vec::new();
    let mut demand = |holds: bool, keys: &[&'static str], message: String| {
        if !holds {
            found.push((keys.to_vec(), message));
        }
    };
    let c = config;

    demand(
        !c.listen.is_empty(),
        &["listen"],
        "empty: nobody could connect; name at least one address".into(),
    );
    demand(
        c.listen.len() <= usize::from(LISTENERS_MAX),
        &["listen"],
        format!("names {} addresses, and there can be {LISTENERS_MAX}; listen on fewer", c.listen.len()),
    );
    demand(
        c.proxy_trusted.is_empty() != c.listen.iter().any(|listener| listener.proxy),
        &["proxy_trusted", "listen"],
        "PROXY headers need both: a `proxy:` listener, and the networks to believe here".into(),
    );
    // SCM_RIGHTS carries no more (unix(7)); one is the socket itself.
    let sockets = c.listen.len() + c.admin_listen.len() + 1;
    demand(
        c.handover_socket.as_os_str().is_empty() || sockets <= HANDOVER_SOCKETS_MAX,
        &["handover_socket", "listen"],
        format!(
            "{sockets} sockets cannot be handed over at once; at most {HANDOVER_SOCKETS_MAX}: listen on fewer addresses"
        ),
    );
    if let Auto::Value(tier) = &c.features_max
        && let Err(message) = tier.parse::<FeaturesMax>()
    {
        demand(false, &["features_max"], message);
    }
    if let Auto::Value(connections) = c.connections_max {
        let shards = u32::from(c.shards.value().unwrap_or(1));
        demand(
            connections >= shards,
            &["connections_max", "shards"],
            format!("{connections} is less than one connection for each of the {shards} shards"),
        );
    }

    demand(
        c.gather_us_max == 0 || c.busy_poll_us_max == 0,
        &["busy_poll_us_max", "gather_us_max"],
        "gives CPU for latency, and gather_us_max latency for CPU; set one of them to 0".into(),
    );

    let (idle, heartbeat) = (c.idle_timeout_ms, c.heartbeat_interval_ms);
    demand(
        idle == 0 || heartbeat > 0,
        &["idle_timeout_ms", "heartbeat_interval_ms"],
        format!(
            "{idle} closes clients that nobody asks to say anything, heartbeat_interval_ms being 0; set both to 0, \
             or neither"
        ),
    );
    demand(
        idle == 0 || u64::from(idle) >= 2 * u64::from(heartbeat),
        &["idle_timeout_ms", "heartbeat_interval_ms"],
        format!(
            "{idle} closes clients that keep to heartbeat_interval_ms = {heartbeat} but for one late heartbeat; \
             write at least two of them, {}, or better two and a half",
            2 * u64::from(heartbeat)
        ),
    );
    demand(
        idle == 0 || idle >= 1_000,
        &["idle_timeout_ms"],
        format!("{idle} is less than the clock's tick; write 0 (never) or at least 1000"),
    );
    demand(
        c.retry_after_min_ms <= c.retry_after_max_ms,
        &["retry_after_min_ms", "retry_after_max_ms"],
        format!("{} is more than retry_after_max_ms = {}", c.retry_after_min_ms, c.retry_after_max_ms),
    );
    demand(
        c.link_redial_min_ms <= c.link_redial_max_ms,
        &["link_redial_min_ms", "link_redial_max_ms"],
        format!("{} is more than link_redial_max_ms = {}", c.link_redial_min_ms, c.link_redial_max_ms),
    );

    let frame = c.frame_bytes_max.saturating_add(edge::HEADER_BYTES as u32);
    demand(
        c.outbox_bytes_max >= frame,
        &["outbox_bytes_max", "frame_bytes_max"],
        format!("{} holds not even one frame; write at least {frame}", c.outbox_bytes_max),
    );
    // A connection lives on one shard, and has what that shard has of the totals.
    let shards = c.shard_count();
    let mut demand_share = |keys: &[&'static str], total: u64, least: u64, what: String| {
        let share = Config::share(total, shards);
        let all = least * u64::from(shards);
        let message = match shards {
            1 => format!("{total} is less than {what}; write at least {all}"),
            _ => format!(
                "{total} is {share} for each of the {shards} shards, less than {what}; write at least {all}, or \
                 fewer shards"
            ),
        };
        demand(share >= least, keys, message);
    };
    demand_share(
        &["outbox_bytes_total", "outbox_bytes_max", "shards"],
        c.outbox_bytes_total,
        c.outbox_bytes_max.into(),
        format!("outbox_bytes_max = {}", c.outbox_bytes_max),
    );
    let reserve = CoreConfig::outbox_reserve_bytes(Config::share(c.outbox_bytes_total, shards));
    demand_share(
        &["outbox_bytes_total", "frame_bytes_max", "shards"],
        c.outbox_bytes_total,
        u64::from(frame) + reserve,
        format!("a frame of frame_bytes_max = {} and a reserve for the gateway's own", c.frame_bytes_max),
    );
    demand_share(
        &["spill_bytes_total", "frame_bytes_max", "shards"],
        c.spill_bytes_total,
        u64::from(frame) + u64::from(CoreConfig::RX_BLOCK_BYTES + 2 * CoreConfig::CHUNK_BYTES),
        format!(
            "one client may leave waiting: a frame of frame_bytes_max = {} and a read behind it",
            c.frame_bytes_max
        ),
    );
    demand(
        u64::from(c.link_window_bytes) >= 2 * u64::from(frame),
        &["link_window_bytes", "frame_bytes_max"],
        format!(
            "{} holds less than two frames; write at least {}",
            c.link_window_bytes,
            2 * u64::from(frame)
        ),
    );

    demand(
        c.workers.len() <= LINKS_MAX,
        &["workers"],
        format!("{} workers; a gateway has links to at most {LINKS_MAX}", c.workers.len()),
    );
    let mut names = HashSet::new();
    for worker in &c.workers {
        let first = names.insert(&worker.name);
        demand(first, &["workers"], format!("two are named `{}`; routing needs distinct names", worker.name));
        demand(
            worker.address.is_local() || !c.link_secret_file.as_os_str().is_empty(),
            &["workers", "link_secret_file"],
            format!("`{worker}` is not on this machine, so the link needs a secret; set link_secret_file"),
        );
    }
    for worker in &c.workers {
        if let WorkerAddress::Unix(path) = &worker.address {
            demand(fits(path), &["workers"], too_long(path));
        }
    }
    demand(fits(&c.handover_socket), &["handover_socket"], too_long(&c.handover_socket));
    found.extend(taken_twice(c));
    found
}

/// Longest path of a Unix socket, in bytes (unix(7): 108 with the NUL behind it).
const SOCKET_PATH_BYTES_MAX: usize = 107;

fn fits(path: &Path) -> bool {
    path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX
}

fn too_long(path: &Path) -> String {
    let bytes = path.as_os_str().len();
    format!(
        "{} has {bytes} bytes; a socket's path has at most {SOCKET_PATH_BYTES_MAX} bytes: choose a shorter one",
        path.display()
    )
}

/// Addresses that an earlier entry takes already: the same, or all of the family with this port.
fn taken_twice(config: &Config) -> Vec<(Vec<&'static str>, String)> {
    let clients = config.listen.iter().map(|listener| ("listen", listener.address));
    let admin = config.admin_listen.iter().map(|&address| ("admin_listen", address));
    let all: Vec<_> = clients.chain(admin).collect();
    let mut found = Vec::new();
    for (index, &(key, address)) in all.iter().enumerate() {
        let clashes = |&&(_, earlier): &&(_, SocketAddr)| {
            address.port() != 0
                && earlier.port() == address.port()
                && earlier.is_ipv4() == address.is_ipv4()
                && (earlier.ip() == address.ip()
                    || earlier.ip().is_unspecified()
                    || address.ip().is_unspecified())
        };
        if let Some(&(first, earlier)) = all[..index].iter().find(clashes) {
            found.push((
                vec![key, first],
                format!("{address} is taken by {earlier} in {first}; write one of them"),
            ));
        }
    }
    found
}
