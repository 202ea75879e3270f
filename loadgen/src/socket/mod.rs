//! Clients as kernel sockets over io_uring.

mod outgoing;
mod sockets;
mod source;
mod transport;

use std::net::SocketAddr;

use roost_ring::{Features, RING_SLOTS_MAX};
pub(crate) use sockets::{Kind, Sockets, SocketsConfig};
pub use source::{Cidr, Sources};
pub use transport::SocketTransport;

use crate::transport::{Network, Share, Transport};

/// How client sockets are held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Descriptors {
    /// In the rings' own tables: no fd number, so RLIMIT_NOFILE caps only one table's size.
    Direct,
    /// As file descriptors, one each.
    Plain {
        /// Why not [`Self::Direct`].
        because: String,
    },
}

impl Descriptors {
    /// How sockets are held with these features.
    pub fn of(features: &Features) -> Self {
        match features.lacks() {
            _ if features.direct() => Self::Direct,
            Some(lack) => Self::Plain { because: format!("{}: {}", lack.name, lack.state) },
            None => Self::Plain { because: "the kernel has no usable direct descriptors".to_owned() },
        }
    }
}

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
        u32::try_from(nofile).unwrap_or(u32::MAX).min(RING_SLOTS_MAX)
    }
}

impl Network for SocketNetwork {
    fn open(&self, share: Share) -> anyhow::Result<Box<dyn Transport>> {
        Ok(Box::new(SocketTransport::open(self, share)?))
    }

    fn description(&self) -> String {
        let held = if self.features.direct() {
            "io_uring direct descriptors"
        } else {
            "plain file descriptors on io_uring"
        };
        let from = match &self.sources {
            Some(sources) => format!("{} source addresses from {}", sources.addresses(), sources.cidr()),
            None => "one source address".to_owned(),
        };
        format!("kernel TCP sockets of this machine, {held}, {from}; every client is a full TCP endpoint")
    }
}
