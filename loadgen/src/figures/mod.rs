//! What the machine and the processes under test say of themselves. A figure that could not be
//! read is none, never 0.

pub mod http;
pub mod listener;
pub mod proc;
pub mod slab;
pub mod sockstat;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::schedule::whole;

/// Where figures are read from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The gateway's process.
    pub gateway_pid: Option<u32>,
    /// The workers' processes.
    pub worker_pids: Vec<u32>,
    /// The workers' `/stats`.
    pub worker_stats: Vec<http::Url>,
    /// The gateway's `/metrics`.
    pub gateway_metrics: Option<http::Url>,
}

/// All figures of one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Figures {
    /// The gateway's memory and CPU.
    pub gateway: proc::Process,
    /// The workers', summed; none in a field if any of them could not be read.
    pub worker: proc::Process,
    /// `messages_handled` of all workers.
    pub messages_handled: Option<u64>,
    /// The gateway's `roost_connections`.
    pub gateway_connections: Option<u64>,
    /// Slab bytes in use, by cache.
    pub slab: Option<BTreeMap<String, slab::Cache>>,
    /// `/proc/net/sockstat`.
    pub sockstat: Option<sockstat::Sockstat>,
}

impl Sources {
    /// Reads everything there is to read now.
    pub fn read(&self) -> Figures {
        Figures {
            gateway: self.gateway_pid.map(proc::Process::read).unwrap_or_default(),
            worker: proc::Process::read_sum(&self.worker_pids),
            messages_handled: self.messages_handled(),
            gateway_connections: self.gateway_connections(),
            slab: slab::read(),
            sockstat: sockstat::read(),
        }
    }

    /// What all workers have handled.
    pub fn messages_handled(&self) -> Option<u64> {
        if self.worker_stats.is_empty() {
            return None;
        }
        self.worker_stats.iter().map(|url| http::json_number(&url.get().ok()?, "messages_handled")).sum()
    }

    /// What the gateway holds by its own count.
    pub fn gateway_connections(&self) -> Option<u64> {
        let text = self.gateway_metrics.as_ref()?.get().ok()?;
        http::metric_sum(&text, "roost_connections").map(whole)
    }
}
