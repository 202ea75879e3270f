//! The io_uring driver: the only `unsafe` code of the gateway. It knows no protocol.
//!
//! [`UringDriver`] implements [`crate::op::Driver`] for one shard on a *bank* of rings. Ring 0
//! waits; it carries the links, the shard's waker and the first slots. Every further ring carries
//! slots only, is started when they are needed, and tells ring 0 through an eventfd that it has
//! completions. Ring `i` owns the slots `i * slots_per_ring ..`, in every descriptor mode: an op
//! on a direct descriptor has to run on the ring whose table holds it.
//!
//! | file | concept |
//! |---|---|
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
//! | `teardown` | giving everything back when a driver is dropped |

mod accept;
mod bank;
mod busy_poll;
mod driver;
mod error;
mod features;
mod fit;
mod in_flight;
mod links;
mod memory;
#[allow(clippy::module_inception)]
mod ring;
mod sockets;
mod sqe;
mod teardown;
mod trial;

pub use driver::{Config, RING_SLOTS_MAX, UringDriver};
pub use error::Error;
pub use features::{Features, FeaturesMax, Finding, State, Tier};
pub use fit::rings_that_fit;
