//! The two protocols of roost, sans-IO.
//!
//! * [`edge`]: what a client speaks with the gateway.
//! * [`link`]: what a gateway shard speaks with a worker.
//! * [`reason`]: why a connection ended: one enum from the wire to the metric label.
//! * [`id`]: connection ids, instance ids and session references.
//! * [`hash`]: the routing hash and the rendezvous choice of a worker.
//! * [`auth`]: the mutual proof of the link secret.
//!
//! `SPEC.md` beside this crate is normative; the golden vectors under `vectors/` bind both.
//! Nothing here performs I/O, reads a clock or allocates behind the caller's back.
#![forbid(unsafe_code)]

pub mod auth;
pub mod edge;
pub mod hash;
pub mod id;
pub mod link;
pub mod reason;
mod wire;

pub use id::{ConnectionId, InstanceId, SessionRef};
pub use reason::Reason;
