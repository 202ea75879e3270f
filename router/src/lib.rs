//! The worker side of roost: accepts links from gateways, speaks the link protocol, resumes
//! sessions, and calls a [`Handler`].
//!
//! Layers, each importing only those above it:
//!
//! * [`id`]: how links and clients are named.
//! * `session`: one link session, sans-IO: positions, windows, retained frames, acknowledgements.
//! * `core`: all sessions of a worker and its handler, sans-IO: what a frame means.
//! * [`server`]: sockets, tasks and timers on tokio-uring.
//! * [`handlers`]: applications for tests and measurements.
//!
//! Shared with the gateway's shell: [`secret`], files with secrets, [`listen`], TCP listeners, and
//! [`shell`], the outside of programs: log, standard output, HTTP.
//!
//! ```no_run
//! use roost_router::{Listener, Worker, WorkerConfig, handlers, shutdown};
//!
//! let worker = Worker::new(WorkerConfig::default());
//! let stats = worker.stats();
//! let listener = Listener::bind(&"127.0.0.1:7500".parse()?)?;
//! let (stop, stopped) = shutdown();
//! let thread = std::thread::spawn(move || worker.run(handlers::Echo, vec![listener], stopped));
//! println!("{} messages handled", stats.get(roost_router::Stat::MessagesHandled));
//! stop.drain();
//! thread.join().expect("the worker does not panic")?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

pub mod config;
pub mod core;
pub mod handlers;
pub mod id;
pub mod listen;
pub mod metrics;
pub mod secret;
pub mod server;
pub mod session;
pub mod shell;
pub mod stats;

pub use config::WorkerConfig;
pub use core::{Clients, Context, Handler, Opening, SendError};
pub use id::{Client, LinkId};
pub use server::{
    Address, AddressError, Answer, BindError, Listener, PushError, Shutdown, ShutdownHandle, Worker,
    WorkerHandle, serve, shutdown,
};
pub use stats::{Stat, Stats};

/// The example in the README must compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
