//! The PROXY protocol header, versions 1 and 2, as SPEC.md 1.8 has it.
//!
//! No crate that is kept takes what has to be taken (LOCAL with any family and a short body) and
//! refuses what has to be refused (`+443`, `UNKNOWNX`) the same way however TCP cuts the header, so
//! this one is ours. A verdict depends on the bytes of the header only: once it stands, more bytes
//! do not change it, and a prefix of a header that is taken only asks for more.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest header of version 2 that is taken, extensions included. A longer one is refused as soon
/// as its length field has come.
pub const HEADER_BYTES_MAX: usize = 16 * 1024;

/// How many of a connection's first bytes [`parse`] looks at, at most. Extensions are not read.
pub const HEAD_BYTES: usize = V1_BYTES_MAX;

/// Longest header of version 1, its CRLF included.
const V1_BYTES_MAX: usize = 107;
const V1_BEGIN: &[u8] = b"PROXY ";
const V2_BEGIN: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of version 2 before the addresses.
const V2_FIXED_BYTES: usize = 16;

/// What a connection's first bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The begin of a header: more is needed to tell.
    Incomplete,
    /// A whole header.
    Header {
        /// Its length; what follows is the client's.
        bytes: usize,
        /// Whom the proxy speaks for. None: itself (LOCAL), or somebody without an internet address;
        /// the address of the proxy's socket stands then.
        source: Option<SocketAddr>,
    },
    /// No header, or none that is taken, whatever follows.
    Refused,
}

/// Looks at the begin of a connection, of which `total` bytes have come: `head` has the first
/// [`HEAD_BYTES`] of them, or all if there are fewer.
pub fn parse(head: &[u8], total: usize) -> Verdict {
    debug_assert_eq!(head.len(), total.min(HEAD_BYTES));
    if begins(head, V1_BEGIN) {
        version_1(head)
    } else if begins(head, V2_BEGIN) {
        version_2(head, total)
    } else {
        Verdict::Refused
    }
}

/// Whether `head` begins with `signature`, as far as it has come.
fn begins(head: &[u8], signature: &[u8]) -> bool {
    head.iter().zip(signature).all(|(a, b)| a == b)
}

fn version_1(head: &[u8]) -> Verdict {
    let head = &head[..head.len().min(V1_BYTES_MAX)];
    let Some(end) = head.windows(2).position(|pair| pair == b"\r\n") else {
        return if head.len() < V1_BYTES_MAX { Verdict::Incomplete } else { Verdict::Refused };
    };
    match line(&head[V1_BEGIN.len().min(end)..end]) {
        Some(source) => Verdict::Header { bytes: end + 2, source },
        None => Verdict::Refused,
    }
}

/// What stands between `PROXY ` and CRLF: the source's address, if it has one; none if it is malformed.
fn line(line: &[u8]) -> Option<Option<SocketAddr>> {
    let line = match line.strip_prefix(b"UNKNOWN") {
        // Whatever follows is to be ignored, but it has to be another word.
        Some([] | [b' ', ..]) => return Some(None),
        _ => std::str::from_utf8(line).ok()?,
    };
    let mut words = line.split(' ');
    let address: fn(&str) -> Option<IpAddr> = match words.next()? {
        "TCP4" => |word| word.parse().ok().map(IpAddr::V4),
        "TCP6" => |word| word.parse().ok().map(IpAddr::V6),
        _ => return None,
    };
    let source = address(words.next()?)?;
    address(words.next()?)?;
    let source = SocketAddr::new(source, port(words.next()?)?);
    port(words.next()?)?;
    words.next().is_none().then_some(Some(source))
}

/// A decimal number without sign or leading zeros.
fn port(word: &str) -> Option<u16> {
    let canonical = word == "0" || !word.starts_with(['0', '+']);
    word.parse().ok().filter(|_| canonical)
}

fn version_2(head: &[u8], total: usize) -> Verdict {
    const LOCAL: u8 = 0x20;
    const PROXY: u8 = 0x21;
    let command = head.get(12).copied();
    if command.is_some_and(|command| !matches!(command, LOCAL | PROXY)) {
        return Verdict::Refused;
    }
    let is_local = command == Some(LOCAL);
    let family = head.get(13).copied();
    if family.is_some_and(|family| !is_local && (family >> 4 > 3 || family & 15 > 2)) {
        return Verdict::Refused;
    }
    let (Some(family), Some(len)) = (family, head.get(14..V2_FIXED_BYTES)) else {
        return Verdict::Incomplete;
    };
    let body_bytes = usize::from(u16::from_be_bytes([len[0], len[1]]));
    let bytes = V2_FIXED_BYTES + body_bytes;
    let addresses_bytes = match family {
        _ if is_local => 0,
        0x11 | 0x12 => 12,
        0x21 | 0x22 => 36,
        0x31 | 0x32 => 216,
        // Combinations without a meaning count as unspecified.
        _ => 0,
    };
    if bytes > HEADER_BYTES_MAX || body_bytes < addresses_bytes {
        return Verdict::Refused;
    }
    if total < bytes {
        return Verdict::Incomplete;
    }
    let source =
        (addresses_bytes <= 36).then(|| source(&head[V2_FIXED_BYTES..][..addresses_bytes])).flatten();
    Verdict::Header { bytes, source }
}

/// The first of two addresses and of the two ports behind them; none if there are none.
fn source(addresses: &[u8]) -> Option<SocketAddr> {
    let ip_bytes = addresses.len().checked_sub(4)? / 2;
    let port = u16::from_be_bytes(*addresses[2 * ip_bytes..].first_chunk()?);
    let ip = match addresses.first_chunk::<16>().filter(|_| ip_bytes == 16) {
        Some(ip) => IpAddr::V6(Ipv6Addr::from(*ip)),
        None => IpAddr::V4(Ipv4Addr::from(*addresses.first_chunk::<4>()?)),
    };
    Some(SocketAddr::new(ip, port))
}
