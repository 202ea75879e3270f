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
//! | `client`, `worker` | who lives at the other ends |
//! | `ledger` | the promise to both ends, as books |
//! | `cast` | all actors of a run, and chaos |
//! | `scenario` | what a seed means |
//! | `shadow` | what must hold after every turn |
//! | `invariants` | all that must hold, by name |
//! | `coverage` | what has been reached |
//! | `hands` | a driver moved by hand, without kernel and network |
//! | `run` | one seed from start to end |

pub mod cast;
pub mod client;
pub mod coverage;
pub mod driver;
pub mod faults;
pub mod hands;
mod holds;
pub mod invariants;
pub mod kernel;
pub mod ledger;
pub mod memory;
pub mod net;
mod placement;
pub mod rng;
pub mod run;
pub mod scenario;
pub mod shadow;
pub mod worker;

pub use driver::{Actors, FakeDriver, NoActors};
pub use faults::Faults;
pub use hands::Hands;
pub use kernel::{Dial, Endpoint, World};
pub use net::{ConnId, PeerRead};
pub use rng::Rng;
