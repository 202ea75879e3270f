//! The operator's door: metrics, health, the page, and a look at single connections.
//!
//! * [`server`]: HTTP/1.1 on a thread of its own.
//! * [`routes`]: what is served where.
//! * [`guard`]: who may use `/api/`.
//! * [`api`]: questions to the shards.
//!
//! Metrics, health and the page change nothing and name nobody, so they may be public. `/api/`
//! needs a token.
#![forbid(unsafe_code)]

mod api;
pub mod guard;
mod routes;
mod server;

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread::JoinHandle,
};

use anyhow::{Result, anyhow};
use roost_router::listen;
use tokio::sync::oneshot;

use self::{guard::Guard, routes::Routes};
use crate::{
    config::Config,
    metrics::{Metrics, Readiness},
    preflight::secrets,
    shard::ShardHandle,
};

/// The running admin side; it ends when this is dropped.
#[derive(Debug)]
pub struct Admin {
    addresses: Vec<SocketAddr>,
    readiness: Arc<Readiness>,
    // In this order: the thread ends when the sender is gone.
    _stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Listens on the configured addresses and serves what these shards say.
    ///
    /// # Errors
    /// An address cannot be bound, or the token cannot be read.
    pub fn start(config: &Config, shards: Vec<ShardHandle>) -> Result<Self> {
        let token = read_token(config)?;
        let listeners = config.admin_listen.iter().map(bind).collect::<Result<Vec<_>>>()?;
        let addresses = listeners.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>()?;
        let stats: Vec<_> = shards.iter().map(|shard| Arc::clone(shard.stats())).collect();
        let readiness = Arc::new(Readiness::new(stats.clone()));
        let metrics = Metrics::new(stats, Arc::clone(&readiness));
        let guard = Guard::new(token, config.admin_hosts.clone());
        let routes = Routes::new(metrics, Arc::clone(&readiness), guard, shards);
        let (stop, thread) = server::start(listeners, routes)?;
        for address in &addresses {
            tracing::info!(%address, "metrics and page");
        }
        Ok(Self { addresses, readiness, _stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens, with the ports that the kernel chose.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Whether the gateway takes new clients; false from the begin of a drain on.
    pub fn set_ready(&self, ready: bool) {
        self.readiness.set_accepting(ready);
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        drop(self._stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed, and this may be unwinding itself.
            drop(thread.join());
        }
    }
}

fn bind(address: &SocketAddr) -> Result<TcpListener> {
    let listener = listen::tcp(*address).map_err(|error| {
        anyhow!("cannot serve metrics: {}", listen::explain(&error, *address, "--admin-listen"))
    })?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

fn read_token(config: &Config) -> Result<Option<Vec<u8>>> {
    let token = secrets::admin_token(config).map_err(|error| anyhow!(error))?;
    Ok(token.map(|token| {
        if let Some(warning) = token.warning {
            tracing::warn!("{warning}");
        }
        token.bytes
    }))
}
