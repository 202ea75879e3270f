//! Clients as kernel sockets over io_uring.

mod source;
mod transport;

use std::net::SocketAddr;

pub use source::{Cidr, Sources};
pub use transport::SocketTransport;

use crate::{
    ring::{Descriptors, Features, SLOTS_PER_RING},
    transport::{Network, Share, Transport},
};

/// Kernel sockets that connect from a range of source addresses.
#[derive(Clone, Debug)]
pub struct SocketNetwork {
    /// Where clients connect to.
    pub target: SocketAddr,
    /// Where they come from; none: as the kernel chooses.
    pub sources: Option<Sources>,
    /// What the kernel offers.
    pub features: Features,
    /// Slots of one ring, at most 16,384 and at most RLIMIT_NOFILE.
    pub ring_slots_max: u32,
}

impl SocketNetwork {
    /// Slots per ring that RLIMIT_NOFILE allows: a ring's file table may not be larger.
    pub fn ring_slots_for(nofile: u64) -> u32 {
        u32::try_from(nofile).unwrap_or(u32::MAX).min(SLOTS_PER_RING)
    }
}

impl Network for SocketNetwork {
    fn open(&self, share: Share) -> anyhow::Result<Box<dyn Transport>> {
        Ok(Box::new(SocketTransport::open(self, share)?))
    }

    fn description(&self) -> String {
        let held = match self.features.descriptors {
            Descriptors::Direct => "io_uring direct descriptors",
            Descriptors::Plain => "plain file descriptors on io_uring",
        };
        let from = match &self.sources {
            Some(sources) => format!("{} source addresses from {}", sources.addresses(), sources.cidr()),
            None => "one source address".to_owned(),
        };
        format!("kernel TCP sockets of this machine, {held}, {from}; every client is a full TCP endpoint")
    }
}
