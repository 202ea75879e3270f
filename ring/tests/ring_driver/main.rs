//! The io_uring driver on the real kernel, over loopback: every op, every tier of features, one
//! ring and a bank of small ones.

mod bank;
mod cancel;
mod connect;
#[path = "../figures/mod.rs"]
mod figures;
mod gather;
mod links;
mod neighbours;
mod ops;
mod refusal;
mod rig;
mod signals;
mod teardown;
