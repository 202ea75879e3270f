//! The pure shard core: connections, frames, links and limits as state machines.
//!
//! In: completions, commands and the time. Out: operations through [`crate::op::Io`]. There is
//! no descriptor, clock, randomness or thread in here, and nothing is allocated for an idle
//! connection beyond its 48 bytes.
#![forbid(unsafe_code)]

pub mod bounds;
pub mod config;
pub mod connection;
mod context;
pub mod event;
pub mod index;
pub mod limits;
pub mod link;
pub mod listener;
pub mod pool;
mod routing;
pub mod shard;
mod span;
pub mod stats;
#[cfg(test)]
mod tests;
pub mod transitions;

pub use config::CoreConfig;
pub use connection::{record, stage::proxy};
pub use context::Entropy;
pub use link::Redial;
pub use listener::ListenerConfig;
pub use shard::{Command, ConnectionInfo, Next, ShardCore};
