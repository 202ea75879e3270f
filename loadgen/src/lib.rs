//! Load generator for roost: many simulated clients, every reply checked, honest figures.
//!
//! * [`transport`]: the seam; behind it [`socket`], which is kernel sockets over `roost-ring`, and
//!   [`tun`], which is TCP in user space.
//! * [`client`], [`exchange`], [`payload`], [`schedule`], [`latency`], [`tally`]: what clients say and when,
//!   and what is counted. Pure: no socket, no clock.
//! * [`load`]: one load thread: clients over a transport. [`fleet`]: all threads, by command.
#![deny(unsafe_code)]

pub mod app;
pub mod cli;
pub mod client;
pub mod exchange;
pub mod figures;
pub mod fleet;
pub mod found;
pub mod latency;
pub mod load;
pub mod payload;
pub mod plan;
pub mod preflight;
pub mod progress;
pub mod report;
pub mod restart;
pub mod run;
pub mod say;
pub mod scenario;
pub mod schedule;
pub mod socket;
pub mod tally;
pub mod transport;
pub mod tun;
