//! The peer's address, which nobody needs after OPEN: until then the bits for session, hash and rate
//! hold it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{
    lifecycle::State,
    record::{Cold, Hot, flag},
};

/// Keeps the address of a client that is handshaking. An IPv4-mapped one is an IPv4 address: a client
/// is the same client to limits and workers over any socket.
pub(super) fn keep(hot: &mut Hot, cold: &mut Cold, peer: SocketAddr) {
    debug_assert!(matches!(hot.state(), State::Handshaking));
    let (family, bytes) = match peer.ip().to_canonical() {
        IpAddr::V4(ip) => (flag::PEER_V4, ip.to_ipv6_mapped().octets()),
        IpAddr::V6(ip) => (flag::PEER_V6, ip.octets()),
    };
    let bits = u128::from_be_bytes(bytes);
    hot.clear_flag(flag::PEER_V4 | flag::PEER_V6);
    hot.set_flag(family);
    (hot.session, cold.routing_hash) = ((bits >> 64) as u64, bits as u64);
    cold.rate_low = peer.port();
}

/// The address, until it is forgotten.
pub(super) fn get(hot: &Hot, cold: &Cold) -> Option<SocketAddr> {
    let v6 = Ipv6Addr::from(u128::from(hot.session) << 64 | u128::from(cold.routing_hash));
    let ip = match hot.flags() & (flag::PEER_V4 | flag::PEER_V6) {
        flag::PEER_V4 => IpAddr::V4(v6.to_ipv4_mapped().unwrap_or(Ipv4Addr::UNSPECIFIED)),
        flag::PEER_V6 => IpAddr::V6(v6),
        _ => return None,
    };
    Some(SocketAddr::new(ip, cold.rate_low))
}

/// Forgets the address, before OPEN overwrites it.
pub(super) fn forget(hot: &mut Hot, cold: &mut Cold) {
    hot.clear_flag(flag::PEER_V4 | flag::PEER_V6);
    (hot.session, cold.routing_hash, cold.rate_low) = (0, 0, 0);
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable;

    use super::*;

    #[test]
    fn an_address_is_kept_until_it_is_forgotten_and_the_listener_beyond() {
        let (mut hot, mut cold) = (Hot::zeroed(), Cold::zeroed());
        hot.set_state(State::Accepting);
        hot.set_state(State::Handshaking);
        cold.set_listener(5);
        assert_eq!(get(&hot, &cold), None);
        for (given, kept) in [
            ("192.0.2.9:80", "192.0.2.9:80"),
            ("[::ffff:192.0.2.9]:80", "192.0.2.9:80"),
            ("[2001:db8::9]:65535", "[2001:db8::9]:65535"),
        ] {
            keep(&mut hot, &mut cold, given.parse().unwrap());
            assert_eq!(get(&hot, &cold), Some(kept.parse().unwrap()));
        }
        forget(&mut hot, &mut cold);
        assert_eq!(get(&hot, &cold), None);
        assert_eq!((hot.session, cold.routing_hash, cold.listener()), (0, 0, 5));
    }
}
