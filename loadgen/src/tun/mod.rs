//! Clients in user space: TCP without kernel sockets, over TUN devices in a network namespace.
//!
//! With both ends on one machine, kernel sockets cost some 8 KB per connection, half of it for
//! clients that only pretend. Here the kernel's memory is left to the server under test: a
//! client is a record of 20 bytes, its address and port follow from its number, and its TCP
//! speaks to the server's kernel through a device, packet by packet.
//!
//! * [`packet`], [`address`], [`tcp`]: headers, who has which address, the protocol. Pure.
//! * [`device`], [`transport`]: packets in and out; one device and one thread per share.
//! * [`namespace`], [`sysctl`], [`children`]: where clients and servers meet, and its cleaning up.
//! * [`stats`]: what the kernel says of it.

pub mod address;
mod args;
mod children;
mod device;
mod loss;
mod namespace;
mod network;
pub mod packet;
pub mod stats;
mod sys;
mod sysctl;
pub mod tcp;
mod transport;

pub use args::TunArgs;
pub use children::Spawned;
pub use device::Device;
pub use namespace::Namespace;
pub use network::{TunConfig, TunNetwork};
pub use transport::TunTransport;
