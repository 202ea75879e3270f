//! Where an accepted client comes from, small enough to travel with every completion.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// The peer of an accepted client: an internet address, or none (Unix sockets; all that accepts nobody).
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Peer {
    /// 0: no address.
    family: Family,
    port: u16,
    ip: [u8; 16],
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
#[repr(u8)]
enum Family {
    #[default]
    None,
    V4,
    V6,
}

impl Peer {
    /// The address; without the flow label and scope of IPv6.
    #[inline]
    pub fn address(self) -> Option<SocketAddr> {
        let ip = Ipv6Addr::from(self.ip);
        let ip = match self.family {
            Family::None => return None,
            Family::V4 => IpAddr::V4(ip.to_ipv4_mapped().unwrap_or(Ipv4Addr::UNSPECIFIED)),
            Family::V6 => IpAddr::V6(ip),
        };
        Some(SocketAddr::new(ip, self.port))
    }
}

impl From<Option<SocketAddr>> for Peer {
    fn from(address: Option<SocketAddr>) -> Self {
        let Some(address) = address else { return Self::default() };
        let (family, ip) = match address.ip() {
            IpAddr::V4(ip) => (Family::V4, ip.to_ipv6_mapped().octets()),
            IpAddr::V6(ip) => (Family::V6, ip.octets()),
        };
        Self { family, port: address.port(), ip }
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_back_as_it_was() {
        for text in ["192.0.2.1:1", "[2001:db8::1]:65535", "[::ffff:192.0.2.1]:80", "[::]:0"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(Peer::from(Some(address)).address(), Some(address));
        }
        assert_eq!(Peer::from(None).address(), None);
    }
}
