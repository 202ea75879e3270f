//! The roost gateway.
#![deny(unsafe_code)]

pub mod core;
pub mod op;
#[allow(unsafe_code)]
pub mod ring;
