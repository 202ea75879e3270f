//! The handlers of the reference worker. Their protocols are documented in `router/README.md`.
//!
//! All take the routing hash of the client's key as session reference: it means the same to every
//! worker.

mod echo;
pub mod fanout;
pub mod route;
mod sink;

pub use echo::Echo;
pub use fanout::Fanout;
pub use route::Route;
pub use sink::Sink;
