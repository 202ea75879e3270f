//! The roost gateway.
#![deny(unsafe_code)]

pub mod config;
pub mod core;
pub mod op;
#[allow(unsafe_code)]
pub mod ring;
pub mod shard;
