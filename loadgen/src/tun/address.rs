//! Which address and port a client has: computed from its number, both ways.

use std::net::{Ipv4Addr, SocketAddrV4};

use super::packet::Endpoint;

/// First port of the clients on an address; below are the privileged ones.
const PORT_FIRST: u16 = 1024;
/// First host number of the clients in a subnet: 0 is the network, 1 the device's own address.
const HOST_FIRST: u32 = 2;
/// The last one: 65,535 is the broadcast address.
const HOST_LAST: u32 = 65_534;

/// Source addresses of one device: a /16 of 10.0.0.0/8, used address after address.
///
/// There is no lookup table: client number and 4-tuple are a bijection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// The second byte of the addresses.
    second_byte: u8,
    clients: u32,
    ports_per_address: u16,
}

impl Subnet {
    /// Ports of one address, at most.
    pub const PORTS_MAX: u16 = u16::MAX - PORT_FIRST;

    /// The addresses of `clients` clients in 10.`second_byte`.0.0/16.
    ///
    /// # Errors
    /// If the subnet does not hold that many clients.
    pub fn new(second_byte: u8, clients: u32, ports_per_address: u16) -> anyhow::Result<Self> {
        anyhow::ensure!(
            (1..=Self::PORTS_MAX).contains(&ports_per_address),
            "{ports_per_address} ports per source address: choose 1 to {}",
            Self::PORTS_MAX
        );
        let subnet = Self { second_byte, clients, ports_per_address };
        anyhow::ensure!(
            subnet.addresses() <= HOST_LAST - HOST_FIRST + 1,
            "{clients} clients with {ports_per_address} ports per address do not fit {}/16: \
             allow more ports per address or more load threads",
            subnet.network()
        );
        Ok(subnet)
    }

    /// The network's address; its mask is 255.255.0.0.
    pub fn network(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.base())
    }

    /// How many source addresses are in use.
    pub fn addresses(self) -> u32 {
        self.clients.div_ceil(u32::from(self.ports_per_address))
    }

    /// Where this client sends from. Panics if there is no such client.
    #[inline]
    pub fn endpoint(self, client: u32) -> Endpoint {
        assert!(client < self.clients);
        let ports = u32::from(self.ports_per_address);
        Endpoint {
            address: self.base() + HOST_FIRST + client / ports,
            port: PORT_FIRST + (client % ports) as u16,
        }
    }

    /// Which client has this address and port, if any.
    #[inline]
    pub fn client(self, endpoint: Endpoint) -> Option<u32> {
        let host = endpoint.address.checked_sub(self.base() + HOST_FIRST)?;
        let port = endpoint.port.checked_sub(PORT_FIRST)?;
        if port >= self.ports_per_address {
            return None;
        }
        let client = host.checked_mul(u32::from(self.ports_per_address))?.checked_add(u32::from(port))?;
        (client < self.clients).then_some(client)
    }

    const fn base(self) -> u32 {
        10 << 24 | (self.second_byte as u32) << 16
    }
}

/// The address of the device with the subnet 10.`second_byte`.0.0/16.
pub const fn device_address(second_byte: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, second_byte, 0, 1)
}

impl From<SocketAddrV4> for Endpoint {
    fn from(address: SocketAddrV4) -> Self {
        Self { address: address.ip().to_bits(), port: address.port() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_fill_one_after_the_other() {
        let subnet = Subnet::new(100, 25, 10).unwrap();
        assert_eq!(subnet.addresses(), 3);
        let of = |client| {
            SocketAddrV4::new(
                Ipv4Addr::from_bits(subnet.endpoint(client).address),
                subnet.endpoint(client).port,
            )
        };
        assert_eq!(of(0).to_string(), "10.100.0.2:1024");
        assert_eq!(of(9).to_string(), "10.100.0.2:1033");
        assert_eq!(of(24).to_string(), "10.100.0.4:1028");
    }

    #[test]
    fn others_are_nobody() {
        let subnet = Subnet::new(100, 25, 10).unwrap();
        let at =
            |a, b, c, d, port| subnet.client(Endpoint { address: Ipv4Addr::new(a, b, c, d).to_bits(), port });
        assert_eq!(at(10, 100, 0, 4, 1028), Some(24));
        assert_eq!(at(10, 100, 0, 4, 1029), None);
        assert_eq!(at(10, 100, 0, 2, 1034), None);
        assert_eq!(at(10, 100, 0, 2, 1023), None);
        assert_eq!(at(10, 100, 0, 1, 1024), None);
        assert_eq!(at(10, 101, 0, 2, 1024), None);
        assert_eq!(at(9, 255, 255, 255, 1024), None);
        assert_eq!(at(255, 255, 255, 255, 65_535), None);
    }

    #[test]
    fn too_many_clients_are_refused() {
        assert!(Subnet::new(1, 65_533, 1).is_ok());
        assert!(Subnet::new(1, 65_534, 1).is_err());
        assert!(Subnet::new(1, 1, 0).is_err());
        assert!(Subnet::new(1, 1, u16::MAX).is_err());
    }

    proptest! {
        #[test]
        fn number_and_endpoint_are_a_bijection(
            second_byte: u8, clients in 1u32..5_000_000, ports in 100u16..=Subnet::PORTS_MAX, at: prop::sample::Index,
        ) {
            let subnet = Subnet::new(second_byte, clients, ports).unwrap();
            let client = at.index(clients as usize) as u32;
            prop_assert_eq!(subnet.client(subnet.endpoint(client)), Some(client));
        }

        #[test]
        fn endpoint_and_number_are_a_bijection(low: u16, port: u16) {
            let subnet = Subnet::new(7, 5_000_000, 1000).unwrap();
            let endpoint = Endpoint { address: 0x0a07_0000 + u32::from(low), port };
            if let Some(client) = subnet.client(endpoint) {
                prop_assert_eq!(subnet.endpoint(client), endpoint);
            }
        }
    }
}
