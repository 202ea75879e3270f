//! The roost gateway.
#![deny(unsafe_code)]

pub mod op;
