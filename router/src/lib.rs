//! Workers for roost: where users and messages live.
//!
//! Gateways hold clients' connections. They dial a worker, one *link* per shard, and bring what clients say. A
//! worker is a [`Handler`], which this crate calls: it accepts links, speaks the link protocol
//! (`protocol/SPEC.md`, part 3), and resumes sessions across TCP breaks.
//!
//! # A worker in 20 lines
//!
//! ```no_run
//! use roost_protocol::SessionRef;
//! use roost_router::{Client, Context, Handler, Listener, Opened, Worker, WorkerConfig, shutdown};
//!
//! struct Shout;
//!
//! impl Handler for Shout {
//!     fn on_open(&mut self, ctx: &mut Context<'_>, client: Client, opened: Opened<'_>) {
//!         if let Opened::New(opening) = opened {
//!             // Look at opening.token here; Context::reject refuses.
//!             ctx.accept(client, SessionRef(opening.routing_hash));
//!         }
//!     }
//!     fn on_message(&mut self, ctx: &mut Context<'_>, client: Client, payload: &[u8], _resent: bool) {
//!         let _ = ctx.send(client, &payload.to_ascii_uppercase());
//!     }
//! }
//!
//! let listener = Listener::bind(&"127.0.0.1:7500".parse()?)?;
//! let (_stop, stopped) = shutdown();
//! Worker::new(WorkerConfig::default()).run(Shout, vec![listener], stopped)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A worker is one thread with one io_uring. Calls run on it one at a time, so a handler needs no lock, and one
//! that blocks holds up every link. For more cores start more workers: gateways spread the keys. A [`Client`]
//! names a connection; its *session reference*, given to [`Context::accept`], is all that another worker learns
//! about it when it moves there, so it must mean the same to all of them.
//!
//! # Pushing
//!
//! [`Context`] sends within a call. From other threads a [`WorkerHandle`] sends, or runs code with a context:
//!
//! ```
//! use roost_router::{PushError, WorkerHandle};
//!
//! fn new_mail(worker: &WorkerHandle) -> Result<(), PushError> {
//!     worker.send_to_key("alice", "you have mail")?; // all her connections here
//!     let devices = worker.call(|ctx| ctx.clients_of(b"alice").len())?.wait()?;
//!     println!("alice has {devices} connections here");
//!     Ok(())
//! }
//! ```
//!
//! # Presence
//!
//! [`Handler::on_open`] says whether a client has just [connected](Opened::New) or its connection has
//! [come from another worker](Opened::Moved). [`Handler::on_close`] says whether it has [ended](Closed::Ended)
//! and why, has [moved on](Closed::Moved), or [cannot be seen](Closed::Lost) from here any more. A break of the
//! link is neither. [The table at `Handler`](Handler) has every case.
//! [`connections_per_key_max`](WorkerConfig::connections_per_key_max) bounds how many connections a key has.
//!
//! # Topics
//!
//! A connection [joins](Context::join) topics, and hears what is [published](Context::publish) on them. A publish
//! is one frame for each link, however many members it has there. Topics are this worker's own, and outlive
//! breaks of the link; a connection that moves leaves them.
//!
//! ```
//! use roost_protocol::SessionRef;
//! use roost_router::{Client, Context, Handler, Opened};
//!
//! /// Everybody is in one room, and every second the room hears how many they are.
//! struct Room;
//!
//! impl Handler for Room {
//!     fn on_open(&mut self, ctx: &mut Context<'_>, client: Client, opened: Opened<'_>) {
//!         if let Opened::New(opening) = opened {
//!             ctx.accept(client, SessionRef(opening.routing_hash));
//!         }
//!         // Also one that has moved here: it has left the rooms of its old worker.
//!         let _ = ctx.join(client, b"room");
//!     }
//!     fn on_message(&mut self, ctx: &mut Context<'_>, _: Client, payload: &[u8], _resent: bool) {
//!         let _ = ctx.publish(b"room", payload);
//!     }
//!     fn tick_ms(&self) -> u64 {
//!         1_000
//!     }
//!     fn on_tick(&mut self, ctx: &mut Context<'_>) {
//!         let text = format!("{} are here", ctx.topic_len(b"room"));
//!         let _ = ctx.publish(b"room", text.as_bytes());
//!     }
//! }
//! ```
//!
//! # Time
//!
//! [`Handler::on_tick`] is called at the interval that [`Handler::tick_ms`] states. [`Context::after`] sets a timer,
//! [`Context::cancel`] takes it back, and [`Handler::on_timer`] is called when it is due. Their clock leaves out
//! pauses of the process. So one that was stopped for an hour finds no hour of timers due, and what gateways said
//! meanwhile is read first.
//!
//! # Back-pressure
//!
//! Nothing blocks, and every queue is bounded:
//!
//! * A link that has more than [`pending_bytes_max`](WorkerConfig::pending_bytes_max) to take holds up the frames,
//!   and the pushes, that send to it. Its gateway's window fills then, and the gateway stops reading those clients.
//! * A gateway that is away, or takes nothing for a second, is waited for by nobody: what is beyond the bound is
//!   refused with [`SendError::Full`] and [`Limit::Queue`]. Ticks and timers never wait, and are told the same.
//! * One call may queue [`call_bytes_max`](WorkerConfig::call_bytes_max); then it is told [`Limit::Call`], and a
//!   later call may go on.
//! * Pushes wait in a queue of their own, [`PushError::Full`] says that it is full.
//! * Topics, timers and sessions each have their bound in [`WorkerConfig`].
//!
//! Answers that the protocol asks for are never refused: one of each kind for a connection is all there can be.
//!
//! # What fails how
//!
//! * The link's TCP connection breaks: what was sent and not acknowledged is sent again on the next one, in both
//!   directions, and what comes twice is dropped. The handler sees nothing of it.
//! * This worker dies: its connections move to others, with what it had not acknowledged, marked as `resent`. A
//!   frame is acknowledged once its call has returned and what it sent is with the gateways, so each message has
//!   its full effect at least once.
//! * The gateway dies: its clients are gone, and [`Handler::on_close`] says [`Closed::Lost`] after
//!   [`session_ttl_ms`](WorkerConfig::session_ttl_ms).
//! * The worker drains ([`ShutdownHandle::drain`]): gateways move all connections to other workers, and
//!   [`Worker::run`] returns when nothing is left to do.
//! * A gateway breaks the protocol: its TCP connection ends, with a log line, and nothing else does.
//!
//! # Layers
//!
//! Each imports only those above it:
//!
//! * [`id`]: how links and clients are named.
//! * [`session`]: one link session, sans-IO: positions, windows, retained frames, acknowledgements.
//! * [`core`]: all sessions of a worker and its handler, sans-IO: what a frame means.
//! * [`handlers`]: applications for tests and measurements.
//! * [`server`]: sockets, tasks and timers on tokio-uring.
//! * [`api`]: the HTTP API of the reference worker.
//!
//! Shared with the gateway's shell: [`secret`], files with secrets, [`listen`], TCP listeners, and
//! [`shell`], the outside of programs: log, standard output, HTTP.
#![forbid(unsafe_code)]

pub mod api;
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

pub use config::{KeyPolicy, WorkerConfig};
pub use core::{
    Clients, Closed, Context, Handler, JoinError, Limit, Opened, Opening, SendError, TOPIC_NAME_BYTES_MAX,
    TimerId, TimersFull,
};
pub use id::{Client, LinkId, Origin};
pub use server::{
    Address, AddressError, Answer, BindError, Listener, PushError, Shutdown, ShutdownHandle, Worker,
    WorkerHandle, serve, shutdown,
};
pub use session::Gateway;
pub use stats::{Stat, Stats};

/// The example in the README must compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
