//! IPv4 and TCP headers, both ways: what goes through a TUN device without its packet
//! information header is one IPv4 packet per read and per write.
//!
//! Formats: RFC 791 (IPv4), RFC 9293 section 3.1 (TCP), RFC 1071 (the checksum).

use std::ops::BitOr;

/// Bytes of an IPv4 header without options, as we build it.
pub const IPV4_HEADER_BYTES: usize = 20;
/// Bytes of a TCP header without options.
pub const TCP_HEADER_BYTES: usize = 20;
/// Headers of a segment without options.
pub const HEADER_BYTES: usize = IPV4_HEADER_BYTES + TCP_HEADER_BYTES;
/// The largest packet that is built or expected: the MTU of the devices.
pub const MTU_BYTES: usize = 1500;
/// The largest payload of a segment, and the MSS that we offer (RFC 6691).
pub const MSS_BYTES: usize = MTU_BYTES - HEADER_BYTES;
/// The MSS of a peer that names none (RFC 9293 section 3.7.1).
pub const MSS_DEFAULT_BYTES: u16 = 536;

const PROTOCOL_TCP: u8 = 6;
const TTL: u8 = 64;
const DONT_FRAGMENT: u16 = 0x4000;
/// More-fragments and the offset: a packet with any of these set is a piece of one.
const FRAGMENT: u16 = 0x3fff;
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_MSS: u8 = 2;
const OPTION_MSS_BYTES: usize = 4;

/// Control bits of a TCP header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement field counts.
    pub const ACK: Self = Self(0x10);

    /// The answer to a SYN.
    #[cfg(test)]
    pub const SYN_ACK: Self = Self(Self::SYN.0 | Self::ACK.0);
    /// A FIN as it always comes.
    #[cfg(test)]
    pub const FIN_ACK: Self = Self(Self::FIN.0 | Self::ACK.0);

    /// Any bits.
    #[cfg(test)]
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }

    /// Whether any of these bits is set.
    pub const fn has(self, bits: Self) -> bool {
        self.0 & bits.0 != 0
    }
}

impl BitOr for Flags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// An address and a port, in host byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// IPv4 address.
    pub address: u32,
    /// TCP port.
    pub port: u16,
}

/// A TCP segment, apart from whom it is between.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Sequence number of the first byte, or of the SYN or FIN.
    pub seq: u32,
    /// The next sequence number expected from the other side; counts if [`Flags::ACK`] is set.
    pub ack: u32,
    /// Control bits.
    pub flags: Flags,
    /// Bytes that the sender is ready to take from `ack` on; never scaled.
    pub window: u16,
    /// The MSS option.
    pub mss: Option<u16>,
    /// Data.
    pub payload: &'a [u8],
}

impl Segment<'_> {
    /// The sequence numbers that the segment takes up (SEG.LEN): bytes, SYN and FIN.
    pub fn sequence_len(&self) -> u32 {
        self.payload.len() as u32
            + u32::from(self.flags.has(Flags::SYN))
            + u32::from(self.flags.has(Flags::FIN))
    }
}

/// A whole packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Who sent it.
    pub source: Endpoint,
    /// Whom it is for.
    pub destination: Endpoint,
    /// What it says.
    pub segment: Segment<'a>,
}

/// Why bytes are not a TCP segment that we take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Not IPv4, or not TCP inside: another protocol's business.
    Foreign,
    /// A fragment; both ends send with don't-fragment set.
    Fragment,
    /// A length that contradicts another, or the bytes there are.
    Truncated,
    /// The IPv4 or the TCP checksum is wrong.
    Checksum,
}

/// Reads a packet and verifies both checksums.
///
/// # Errors
/// Says what is wrong with the bytes; any input is allowed.
pub fn parse(bytes: &[u8]) -> Result<Packet<'_>, Unreadable> {
    let (source, destination, tcp) = parse_ipv4(bytes)?;
    if tcp.len() < TCP_HEADER_BYTES {
        return Err(Unreadable::Truncated);
    }
    let data_offset = usize::from(tcp[12] >> 4) * 4;
    if data_offset < TCP_HEADER_BYTES || data_offset > tcp.len() {
        return Err(Unreadable::Truncated);
    }
    if fold(pseudo_header(source, destination, tcp.len()) + sum(tcp)) != 0xffff {
        return Err(Unreadable::Checksum);
    }
    let segment = Segment {
        seq: u32_at(tcp, 4),
        ack: u32_at(tcp, 8),
        flags: Flags(tcp[13]),
        window: u16_at(tcp, 14),
        mss: mss_option(&tcp[TCP_HEADER_BYTES..data_offset]),
        payload: &tcp[data_offset..],
    };
    Ok(Packet {
        source: Endpoint { address: source, port: u16_at(tcp, 0) },
        destination: Endpoint { address: destination, port: u16_at(tcp, 2) },
        segment,
    })
}

/// Writes a packet with both checksums to the start of `buffer` and returns its length.
///
/// Panics if the payload is longer than [`MSS_BYTES`], or leaves no room for the MSS option.
pub fn build(packet: &Packet<'_>, buffer: &mut [u8; MTU_BYTES]) -> usize {
    let Packet { source, destination, segment } = packet;
    let tcp_header = TCP_HEADER_BYTES + if segment.mss.is_some() { OPTION_MSS_BYTES } else { 0 };
    let total = IPV4_HEADER_BYTES + tcp_header + segment.payload.len();
    assert!(total <= MTU_BYTES, "a segment larger than the MTU");

    let (ip, rest) = buffer[..total].split_at_mut(IPV4_HEADER_BYTES);
    ip.copy_from_slice(&[0; IPV4_HEADER_BYTES]);
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&(total as u16).to_be_bytes());
    // Don't-fragment makes the datagram atomic: its identification may be zero (RFC 6864).
    ip[6..8].copy_from_slice(&DONT_FRAGMENT.to_be_bytes());
    ip[8] = TTL;
    ip[9] = PROTOCOL_TCP;
    ip[12..16].copy_from_slice(&source.address.to_be_bytes());
    ip[16..20].copy_from_slice(&destination.address.to_be_bytes());
    let checksum = !fold(sum(ip));
    ip[10..12].copy_from_slice(&checksum.to_ne_bytes());

    let (tcp, payload) = rest.split_at_mut(tcp_header);
    tcp[0..2].copy_from_slice(&source.port.to_be_bytes());
    tcp[2..4].copy_from_slice(&destination.port.to_be_bytes());
    tcp[4..8].copy_from_slice(&segment.seq.to_be_bytes());
    tcp[8..12].copy_from_slice(&segment.ack.to_be_bytes());
    tcp[12] = ((tcp_header / 4) as u8) << 4;
    tcp[13] = segment.flags.0;
    tcp[14..16].copy_from_slice(&segment.window.to_be_bytes());
    tcp[16..20].fill(0);
    if let Some(mss) = segment.mss {
        tcp[20..22].copy_from_slice(&[OPTION_MSS, OPTION_MSS_BYTES as u8]);
        tcp[22..24].copy_from_slice(&mss.to_be_bytes());
    }
    payload.copy_from_slice(segment.payload);
    let total_sum = pseudo_header(source.address, destination.address, rest.len()) + sum(&rest[..]);
    rest[16..18].copy_from_slice(&(!fold(total_sum)).to_ne_bytes());
    total
}

fn parse_ipv4(bytes: &[u8]) -> Result<(u32, u32, &[u8]), Unreadable> {
    let version_and_length = *bytes.first().ok_or(Unreadable::Truncated)?;
    if version_and_length >> 4 != 4 {
        return Err(Unreadable::Foreign);
    }
    let header = usize::from(version_and_length & 0x0f) * 4;
    if header < IPV4_HEADER_BYTES || header > bytes.len() {
        return Err(Unreadable::Truncated);
    }
    let total = usize::from(u16_at(bytes, 2));
    if total < header || total > bytes.len() {
        return Err(Unreadable::Truncated);
    }
    if fold(sum(&bytes[..header])) != 0xffff {
        return Err(Unreadable::Checksum);
    }
    if bytes[9] != PROTOCOL_TCP {
        return Err(Unreadable::Foreign);
    }
    if u16_at(bytes, 6) & FRAGMENT != 0 {
        return Err(Unreadable::Fragment);
    }
    Ok((u32_at(bytes, 12), u32_at(bytes, 16), &bytes[header..total]))
}

/// The MSS among TCP options; a malformed list ends the search, as most stacks have it.
fn mss_option(mut options: &[u8]) -> Option<u16> {
    loop {
        match *options {
            [] | [OPTION_END, ..] => return None,
            [OPTION_NOP, ref rest @ ..] => options = rest,
            [OPTION_MSS, 4, high, low, ..] => return Some(u16::from_be_bytes([high, low])),
            [_, length, ..] if usize::from(length) >= 2 => options = options.get(usize::from(length)..)?,
            _ => return None,
        }
    }
}

/// The sum of the TCP pseudo header (RFC 9293 section 3.1).
fn pseudo_header(source: u32, destination: u32, tcp_bytes: usize) -> u64 {
    let mut header = [0; 12];
    header[0..4].copy_from_slice(&source.to_be_bytes());
    header[4..8].copy_from_slice(&destination.to_be_bytes());
    header[9] = PROTOCOL_TCP;
    header[10..12].copy_from_slice(&(tcp_bytes as u16).to_be_bytes());
    sum(&header)
}

/// Adds up bytes for [`fold`]. Words are taken in the machine's byte order, since a ones'
/// complement sum comes out byte-swapped with its words (RFC 1071 section 2): what is folded is
/// stored in the machine's order as well. Sums may be added if all parts but the last are even.
fn sum(bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(4);
    let mut total: u64 =
        words.by_ref().map(|word| u64::from(u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))).sum();
    let mut last = [0; 4];
    last[..words.remainder().len()].copy_from_slice(words.remainder());
    total += u64::from(u32::from_ne_bytes(last));
    total
}

/// Folds a sum into 16 bits with end-around carry.
fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The textbook form: big-endian words, one by one.
    fn checksum_by_the_book(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    fn packet() -> impl Strategy<Value = (Endpoint, Endpoint, [u32; 2], u8, u16, Option<u16>, Vec<u8>)> {
        let endpoint = || (any::<u32>(), any::<u16>()).prop_map(|(address, port)| Endpoint { address, port });
        (
            endpoint(),
            endpoint(),
            any::<[u32; 2]>(),
            any::<u8>(),
            any::<u16>(),
            any::<Option<u16>>(),
            prop::collection::vec(any::<u8>(), 0..=MSS_BYTES - OPTION_MSS_BYTES),
        )
    }

    #[test]
    fn the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&bytes)).to_ne_bytes(), [0xdd, 0xf2]);
    }

    /// A SYN-ACK as Linux 6.18 sent it on a TUN device, MSS 1460.
    #[test]
    fn reads_what_linux_sends() {
        let bytes = [
            0x45, 0x00, 0x00, 0x2c, 0x00, 0x00, 0x40, 0x00, 0x40, 0x06, 0x25, 0x90, 0x0a, 0x64, 0x00, 0x01,
            0x0a, 0x64, 0x00, 0x02, 0x1b, 0x58, 0x04, 0x00, 0x00, 0x00, 0x10, 0x00, 0x00, 0x00, 0x20, 0x01,
            0x60, 0x12, 0xfa, 0xf0, 0x00, 0x00, 0x00, 0x00, 0x02, 0x04, 0x05, 0xb4,
        ];
        let mut bytes = bytes;
        let checksum = {
            let mut pseudo = vec![0x0a, 0x64, 0, 1, 0x0a, 0x64, 0, 2, 0, 6, 0, 24];
            pseudo.extend_from_slice(&bytes[20..]);
            checksum_by_the_book(&pseudo)
        };
        bytes[36..38].copy_from_slice(&checksum.to_be_bytes());
        let ip_checksum = {
            bytes[10..12].fill(0);
            checksum_by_the_book(&bytes[..20])
        };
        bytes[10..12].copy_from_slice(&ip_checksum.to_be_bytes());
        let packet = parse(&bytes).unwrap();
        assert_eq!(packet.source, Endpoint { address: 0x0a64_0001, port: 7000 });
        assert_eq!(packet.destination, Endpoint { address: 0x0a64_0002, port: 1024 });
        assert_eq!(packet.segment.flags, Flags::SYN | Flags::ACK);
        assert_eq!((packet.segment.seq, packet.segment.ack), (0x1000, 0x2001));
        assert_eq!((packet.segment.window, packet.segment.mss), (64240, Some(1460)));
        assert!(packet.segment.payload.is_empty());
    }

    #[test]
    fn finds_the_mss_among_other_options() {
        assert_eq!(mss_option(&[1, 1, 8, 3, 0, 2, 4, 0x05, 0xb4]), Some(1460));
        assert_eq!(mss_option(&[0, 2, 4, 0x05, 0xb4]), None);
        assert_eq!(mss_option(&[8, 0, 2, 4, 5, 0xb4]), None, "a length of zero would never end");
        assert_eq!(mss_option(&[8, 40]), None);
        assert_eq!(mss_option(&[2]), None);
    }

    #[test]
    fn foreign_and_broken_packets_are_named() {
        let packet = Packet {
            source: Endpoint { address: 1, port: 2 },
            destination: Endpoint { address: 3, port: 4 },
            segment: Segment { payload: b"x", ..Segment::default() },
        };
        let mut bytes = [0; MTU_BYTES];
        let length = build(&packet, &mut bytes);
        assert_eq!(parse(&[]), Err(Unreadable::Truncated));
        assert_eq!(parse(&[0x60; 40]), Err(Unreadable::Foreign), "IPv6");
        assert_eq!(parse(&bytes[..length - 1]), Err(Unreadable::Truncated));
        let with = |at: usize, value: u8, fix: bool| {
            let mut bytes = bytes;
            bytes[at] = value;
            if fix {
                bytes[10..12].fill(0);
                let checksum = checksum_by_the_book(&bytes[..20]);
                bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            parse(&bytes[..length]).map(|_| ())
        };
        assert_eq!(with(9, 17, true), Err(Unreadable::Foreign), "UDP");
        assert_eq!(with(6, 0x20, true), Err(Unreadable::Fragment));
        assert_eq!(with(8, 3, false), Err(Unreadable::Checksum), "IPv4 header");
        assert_eq!(with(40, b'y', false), Err(Unreadable::Checksum), "payload");
        assert_eq!(with(32, 0xf0, false), Err(Unreadable::Truncated), "data offset");
    }

    proptest! {
        #[test]
        fn what_is_built_is_read_back((source, destination, [seq, ack], flags, window, mss, payload) in packet()) {
            let segment = Segment { seq, ack, flags: Flags(flags), window, mss, payload: &payload };
            let packet = Packet { source, destination, segment };
            let mut bytes = [0xaa; MTU_BYTES];
            let length = build(&packet, &mut bytes);
            prop_assert_eq!(parse(&bytes[..length]), Ok(packet));
            prop_assert_eq!(checksum_by_the_book(&bytes[..20]), 0);
        }

        #[test]
        fn sums_as_the_book_says(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!((!fold(sum(&bytes))).to_ne_bytes(), checksum_by_the_book(&bytes).to_be_bytes());
        }

        /// One flipped bit never goes unseen.
        #[test]
        fn a_flipped_bit_is_noticed(payload in prop::collection::vec(any::<u8>(), 1..64), at in any::<prop::sample::Index>()) {
            let end = Endpoint { address: 0x0a64_0001, port: 7000 };
            let packet = Packet { source: end, destination: end, segment: Segment { payload: &payload, ..Segment::default() } };
            let mut bytes = [0; MTU_BYTES];
            let length = build(&packet, &mut bytes);
            let bit = at.index(length * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(parse(&bytes[..length]).is_err());
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn no_tcp_options_panic(options in prop::collection::vec(any::<u8>(), 0..41)) {
            let _ = mss_option(&options);
        }
    }
}
