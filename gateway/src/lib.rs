//! The roost gateway.
#![forbid(unsafe_code)]

pub mod admin;
pub mod config;
pub mod core;
pub mod event_loop;
pub mod logging;
pub mod machine;
pub mod metrics;
pub mod preflight;
pub mod run;
#[cfg(any(test, feature = "sim"))]
pub mod sim;

pub use roost_ring::{self as ring, op};
