//! The deterministic simulation: a fake [`crate::op::Driver`] with virtual time and seeded faults,
//! simulated clients and workers, and a shadow model that checks the invariants.
//!
//! A seed decides everything. Nothing here is part of the gateway: it is compiled for tests and
//! with the feature `sim` only.
//!
//! | file | concept |
//! |---|---|
//! | `rng` | randomness that a seed decides |
//! | `memory` | the blocks, with poison |
//! | `net` | TCP as both ends see it |
//! | `kernel` | ops executed on the network, unkindly |
//! | `faults` | how unkind |
//! | `driver` | the fake driver |

pub mod driver;
pub mod faults;
pub mod kernel;
pub mod memory;
pub mod net;
pub mod rng;

pub use driver::{Actors, FakeDriver, NoActors};
pub use faults::Faults;
pub use kernel::{Dial, Endpoint, World};
pub use net::{ConnId, PeerRead};
pub use rng::Rng;
