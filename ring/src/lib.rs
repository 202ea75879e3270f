//! Sockets over io_uring: all its `unsafe` code is here. It knows no protocol.
//!
//! [`op`] is the seam: plain values, and the traits that a core and a loop see. It knows nothing of
//! io_uring, so the simulation's fake kernel stands behind it as well.
//!
//! [`UringDriver`] implements [`op::Driver`] for one thread on a *bank* of rings. Ring 0
//! waits; it carries the links, the waker and the first slots. Every further ring carries
//! slots only, is started when they are needed, and tells ring 0 through an eventfd that it has
//! completions. Ring `i` owns the slots `i * slots_per_ring ..`, in every descriptor mode: an op
//! on a direct descriptor has to run on the ring whose table holds it.
//!
//! | file | concept |
//! |---|---|
//! | `op` | the seam between a pure core, its loop and a driver |
//! | `features` | what this kernel can do: tiers, reasons, `--features-max` |
//! | `trial` | what can only be found out by trying |
//! | `fit` | how many rings can be had |
//! | `error` | refusals, each with cause and remedy |
//! | `ring` | one ring: set-up, submission, waiting, reaping |
//! | `sqe` | an op as a submission entry |
//! | `bank` | many rings, and how each gets its turn |
//! | `busy_poll` | how long to look for completions before sleeping |
//! | `driver` | the driver: ops to rings, completions back |
//! | `in_flight` | ops whose memory the kernel is using |
//! | `memory` | the blocks |
//! | `accept` | addresses of accepted clients |
//! | `sockets` | which descriptor stands behind a client's slot |
//! | `links` | sockets towards workers |
//! | `connect` | sockets that a client's slot connects itself |
//! | `addresses` | where those connects go to and come from |
//! | `teardown` | giving everything back when a driver is dropped |

#![deny(unsafe_code)]

#[allow(unsafe_code)]
mod accept;
mod addresses;
#[allow(unsafe_code)]
mod bank;
mod busy_poll;
#[allow(unsafe_code)]
mod connect;
#[allow(unsafe_code)]
mod driver;
mod error;
mod features;
mod fit;
mod in_flight;
mod links;
#[allow(unsafe_code)]
mod memory;
pub mod op;
#[allow(unsafe_code)]
mod ring;
mod sockets;
#[allow(unsafe_code)]
mod sqe;
#[allow(unsafe_code)]
mod teardown;
#[allow(unsafe_code)]
mod trial;

pub use bank::Counts;
pub use driver::{Config, RING_SLOTS_MAX, UringDriver};
pub use error::Error;
pub use features::{Features, FeaturesMax, Finding, State, Tier};
pub use fit::rings_that_fit;
