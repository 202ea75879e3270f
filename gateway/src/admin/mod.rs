//! The operator's door: metrics, health, the page, and a look at single connections.
//!
//! * [`roost_router::shell::http`]: HTTP/1.1 on a thread of its own.
//! * [`routes`]: what is served where.
//! * [`health`]: whether every shard answers.
//! * [`guard`]: who may use `/api/`.
//! * [`api`]: questions to the shards.
//!
//! Metrics, health and the page change nothing and name nobody, so they may be public. `/api/`
//! needs a token.
#![forbid(unsafe_code)]

mod api;
pub mod guard;
mod health;
mod routes;

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use anyhow::{Context, Result, anyhow};
use roost_router::{listen as net, shell::http::Server};

use self::{guard::Guard, routes::Routes};
use crate::{
    config::Config,
    event_loop::ShardHandle,
    metrics::{Metrics, Readiness},
    preflight::secrets,
};

/// The running admin side; it ends when this is dropped.
#[derive(Debug)]
pub struct Admin {
    readiness: Arc<Readiness>,
    server: Server,
}

impl Admin {
    /// Listens on the configured addresses and serves what these shards say.
    ///
    /// # Errors
    /// An address cannot be bound, or the token cannot be read.
    pub fn start(config: &Config, shards: Vec<ShardHandle>) -> Result<Self> {
        let listeners: Vec<_> = config.admin_listen.iter().map(bind).collect::<Result<_>>()?;
        listeners.iter().try_for_each(listen)?;
        let mut admin = Self::prepare(config, shards)?;
        admin.serve(listeners)?;
        Ok(admin)
    }

    /// The same, but nothing is served before [`Self::serve`].
    ///
    /// # Errors
    /// The token cannot be read.
    pub fn prepare(config: &Config, shards: Vec<ShardHandle>) -> Result<Self> {
        let token = read_token(config)?;
        let stats: Vec<_> = shards.iter().map(|shard| Arc::clone(shard.stats())).collect();
        let readiness = Arc::new(Readiness::new(stats.clone()));
        let metrics = Metrics::new(stats, Arc::clone(&readiness));
        let guard = Guard::new(token, config.admin_hosts.clone());
        let routes = Routes::new(metrics, Arc::clone(&readiness), guard, shards);
        let server = Server::start("admin", routes).context("no thread for the admin side")?;
        Ok(Self { readiness, server })
    }

    /// Serves these, too.
    ///
    /// # Errors
    /// A descriptor cannot be copied.
    pub fn serve(&mut self, listeners: Vec<TcpListener>) -> Result<()> {
        for listener in listeners {
            let address = listener.local_addr()?;
            self.server.serve(listener)?;
            tracing::info!(%address, "metrics and page");
        }
        Ok(())
    }

    /// Where it listens, with the ports that the kernel chose.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.server.addresses()
    }

    /// The sockets that it serves, for a successor.
    pub fn listeners(&self) -> &[TcpListener] {
        self.server.listeners()
    }

    /// Whether the gateway takes new clients; false from the begin of a drain on.
    pub fn set_ready(&self, ready: bool) {
        self.readiness.set_accepting(ready);
    }
}

/// A socket that has an address; nobody can connect before [`listen`].
///
/// # Errors
/// It cannot be bound.
pub fn bind(address: &SocketAddr) -> Result<TcpListener> {
    net::bound(*address).map(TcpListener::from).map_err(|error| refusal(&error, *address))
}

/// Lets scrapers connect to a socket of [`bind`].
///
/// # Errors
/// Somebody else listens on its address since.
pub fn listen(socket: &TcpListener) -> Result<()> {
    let address = socket.local_addr()?;
    net::start(socket).map_err(|error| refusal(&error, address))
}

fn refusal(error: &std::io::Error, address: SocketAddr) -> anyhow::Error {
    anyhow!("cannot serve metrics: {}", net::explain(error, address, "--admin-listen"))
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
