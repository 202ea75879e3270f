//! The roost gateway.
#![deny(unsafe_code)]

pub mod admin;
pub mod config;
pub mod core;
pub mod logging;
pub mod metrics;
pub mod op;
pub mod preflight;
#[allow(unsafe_code)]
pub mod ring;
pub mod run;
pub mod shard;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
