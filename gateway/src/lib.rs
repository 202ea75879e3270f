//! The roost gateway.
#![forbid(unsafe_code)]

pub mod admin;
pub mod config;
pub mod core;
pub mod logging;
pub mod machine;
pub mod metrics;
pub mod preflight;
pub mod run;
pub mod shard;
#[cfg(any(test, feature = "sim"))]
pub mod sim;

pub use roost_ring::{self as ring, op};
