//! The core's events as lines of the log. Single connections are never told of above debug.

use crate::core::{ShardCore, event::Event};

pub(super) fn write(core: &ShardCore, event: Event) {
    match event {
        Event::LinkUp { worker, resumed } => {
            tracing::info!(worker = core.worker_name(worker), resumed, "link up");
        }
        Event::LinkDown { worker } => tracing::warn!(worker = core.worker_name(worker), "link down"),
        Event::LinkError { worker, error } => {
            tracing::error!(worker = core.worker_name(worker), %error, "link error");
        }
        Event::Failover { worker, connections } => {
            tracing::warn!(worker = core.worker_name(worker), connections, "worker given up");
        }
        Event::Closed { connection, reason } => {
            tracing::debug!(connection = format_args!("{:016x}", connection.to_bits()), %reason, "closed");
        }
    }
}
