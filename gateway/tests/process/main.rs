//! The real gateway process over real sockets: bad input, bad workers, bad starts, signals.
//!
//! Every test starts a gateway of its own on ports that the kernel chooses, and where a client
//! misbehaves, a neighbour's traffic runs on and is checked.
#![forbid(unsafe_code)]

mod bad_clients;
mod bad_workers;
mod check;
mod drain;
mod handover;
mod life;
mod limits;
mod names;
mod passed;
mod proxy;
mod push;
mod python;
mod saying;
mod start;
mod support;
mod topics;
