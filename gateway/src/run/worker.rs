//! The reference worker inside the gateway, behind a private Unix socket: the same code and the
//! same protocol as a worker of its own.

use std::thread::JoinHandle;

use anyhow::{Context, Result};

use super::{PrivateDir, Worker};
use crate::{
    config::{Config, EmbeddedHandler},
    core::config::WorkerConfig,
    event_loop::Target,
    op::LinkAddress,
};

/// The worker's thread and its socket's directory.
#[derive(Debug)]
pub(super) struct Embedded {
    dir: PrivateDir,
    stop: roost_router::ShutdownHandle,
    thread: JoinHandle<()>,
}

impl Embedded {
    pub(super) fn start(config: &Config) -> Result<Self> {
        use roost_router::{Listener, Worker, WorkerConfig, handlers, shutdown};
        let dir = PrivateDir::create().context("no private directory for the embedded worker's socket")?;
        let address = format!("unix:{}", socket(&dir).display()).parse().map_err(anyhow::Error::msg)?;
        let listener = Listener::bind(&address).context("the embedded worker cannot listen")?;
        let (stop, stopped) = shutdown();
        let handler = config.embedded_handler;
        let thread = std::thread::Builder::new()
            .name("worker".to_owned())
            .spawn(move || {
                let worker = Worker::new(WorkerConfig::default());
                let listeners = vec![listener];
                let result = match handler {
                    EmbeddedHandler::Echo => worker.run(handlers::Echo, listeners, stopped),
                    EmbeddedHandler::Sink => worker.run(handlers::Sink, listeners, stopped),
                    EmbeddedHandler::Route => worker.run(handlers::Route, listeners, stopped),
                    EmbeddedHandler::Fanout => worker.run(handlers::Fanout::default(), listeners, stopped),
                };
                if let Err(error) = result {
                    tracing::error!(%error, "the embedded worker ended");
                }
            })
            .context("no thread for the embedded worker")?;
        Ok(Self { dir, stop, thread })
    }

    pub(super) fn worker(&self) -> Worker {
        Worker {
            config: WorkerConfig { name: "embedded".to_owned(), secret: None },
            target: Target::Address(LinkAddress::Unix(socket(&self.dir))),
        }
    }

    pub(super) fn stop(self) {
        self.stop.drain();
        if self.thread.join().is_err() {
            tracing::error!("the embedded worker panicked");
        }
    }
}

fn socket(dir: &PrivateDir) -> std::path::PathBuf {
    dir.path().join("worker.sock")
}
