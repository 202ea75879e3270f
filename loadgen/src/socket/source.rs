//! Source addresses: a (source, destination) pair has only some 28,000 ephemeral ports.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

/// A range of addresses, such as `127.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    first: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// Addresses in the range, at most `u64::MAX`.
    pub fn addresses(&self) -> u64 {
        let bits = if self.first.is_ipv4() { 32 } else { 128 } - u32::from(self.prefix);
        1_u64.checked_shl(bits).unwrap_or(u64::MAX)
    }

    /// Whether the range holds IPv4 addresses.
    pub const fn is_ipv4(&self) -> bool {
        self.first.is_ipv4()
    }

    fn nth(&self, offset: u64) -> IpAddr {
        match self.first {
            IpAddr::V4(first) => IpAddr::V4((u32::from(first) + offset as u32).into()),
            IpAddr::V6(first) => IpAddr::V6((u128::from(first) + u128::from(offset)).into()),
        }
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, prefix) = text.split_once('/').unwrap_or((text, ""));
        let address: IpAddr = address.parse().map_err(|_| format!("`{address}` is no IP address"))?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            "" => bits,
            prefix => prefix
                .parse()
                .ok()
                .filter(|&prefix| prefix <= bits)
                .ok_or(format!("`/{prefix}` is no prefix of {bits} bits"))?,
        };
        let first = match address {
            IpAddr::V4(v4) => {
                IpAddr::V4((u32::from(v4) & u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)).into())
            }
            IpAddr::V6(v6) => IpAddr::V6(
                (u128::from(v6) & u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)).into(),
            ),
        };
        Ok(Self { first, prefix })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

/// Which client comes from which address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sources {
    cidr: Cidr,
    /// Offset of the first address in use.
    skip: u64,
    addresses: u64,
    clients_per_address: u64,
}

impl Sources {
    /// Clients per address while the range has addresses left: far below the port range, since
    /// the kernel's search for a free port slows down as an address fills up.
    const CLIENTS_PER_ADDRESS: u64 = 8_192;

    /// Spreads `clients` over the range.
    pub fn spread(cidr: Cidr, clients: u64) -> Self {
        let (skip, usable) = usable(cidr);
        let addresses = clients.div_ceil(Self::CLIENTS_PER_ADDRESS).clamp(1, usable);
        Self { cidr, skip, addresses, clients_per_address: clients.div_ceil(addresses).max(1) }
    }

    /// The range.
    pub const fn cidr(&self) -> Cidr {
        self.cidr
    }

    /// Addresses in use.
    pub const fn addresses(&self) -> u64 {
        self.addresses
    }

    /// Addresses that the range has for clients.
    pub fn addresses_max(&self) -> u64 {
        usable(self.cidr).1
    }

    /// Clients that share an address, at most.
    pub const fn clients_per_address(&self) -> u64 {
        self.clients_per_address
    }

    /// Where this client comes from; the kernel chooses the port.
    pub fn of(&self, client: u32) -> SocketAddr {
        SocketAddr::new(
            self.cidr.nth(self.skip + u64::from(client) / self.clients_per_address % self.addresses),
            0,
        )
    }
}

/// How many addresses of a range to leave out at its front, and how many there are to use.
fn usable(cidr: Cidr) -> (u64, u64) {
    // In a big range, stay away from its first addresses, 127.0.0.1 above all: others live there.
    let skip = match cidr.addresses() {
        addresses if addresses >= 1 << 17 => (1 << 16) + 1,
        addresses if addresses > 2 => 1,
        _ => 0,
    };
    // Without the last, which may be a broadcast address.
    (skip, (cidr.addresses() - skip - u64::from(skip > 0)).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_parsed_and_masked() {
        let cidr: Cidr = "127.3.4.5/8".parse().unwrap();
        assert_eq!((cidr.to_string(), cidr.addresses()), ("127.0.0.0/8".into(), 1 << 24));
        assert_eq!("10.1.2.3".parse::<Cidr>().unwrap().addresses(), 1);
        assert_eq!("0.0.0.0/0".parse::<Cidr>().unwrap().addresses(), 1 << 32);
        assert_eq!("fd00::/64".parse::<Cidr>().unwrap().addresses(), u64::MAX);
        assert!("127.0.0.0/33".parse::<Cidr>().is_err());
        assert!("here".parse::<Cidr>().is_err());
    }

    #[test]
    fn a_million_clients_share_no_address_beyond_its_ports() {
        let sources = Sources::spread("127.0.0.0/8".parse().unwrap(), 1_000_000);
        assert_eq!(sources.addresses(), 123);
        assert!(sources.clients_per_address() <= 8_192);
        assert_eq!(sources.of(0).ip().to_string(), "127.1.0.1");
        assert_eq!(sources.of(999_999).ip().to_string(), "127.1.0.123");
    }

    #[test]
    fn a_small_range_is_used_up_evenly() {
        let sources = Sources::spread("10.0.0.0/30".parse().unwrap(), 100_000);
        assert_eq!((sources.addresses(), sources.clients_per_address()), (2, 50_000));
        assert_eq!(sources.of(99_999).ip().to_string(), "10.0.0.2");
        let one = Sources::spread("10.0.0.9".parse().unwrap(), 5);
        assert_eq!(one.of(4).ip().to_string(), "10.0.0.9");
    }
}
