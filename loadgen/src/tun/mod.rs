//! Clients in user space: TCP without kernel sockets, over TUN devices in a network namespace.

mod address;
mod packet;
mod tcp;
