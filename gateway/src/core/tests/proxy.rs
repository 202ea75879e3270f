//! The PROXY header: what is taken, what is refused, and that neither depends on how TCP cuts it.

use std::net::SocketAddr;

use proptest::prelude::*;

use crate::core::proxy::{HEAD_BYTES, HEADER_BYTES_MAX, Verdict, parse};

fn verdict(bytes: &[u8]) -> Verdict {
    parse(&bytes[..bytes.len().min(HEAD_BYTES)], bytes.len())
}

/// A header of version 2.
fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let len = (body.len() as u16).to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &len, body].concat()
}

const IPV4: &[u8] = &[192, 0, 2, 9, 10, 0, 0, 1, 0x12, 0x34, 1, 187];

fn ipv6(source: &str) -> Vec<u8> {
    let source: std::net::Ipv6Addr = source.parse().unwrap();
    [&source.octets()[..], &[9; 16], &[0x12, 0x34, 1, 187]].concat()
}

/// Headers that are taken, with the address they name.
fn taken() -> Vec<(Vec<u8>, Option<&'static str>)> {
    let with = |addresses: &[u8], tail: usize| [addresses, &vec![0xea; tail]].concat();
    let unix = vec![0; 216];
    vec![
        (b"PROXY TCP4 192.0.2.9 10.0.0.1 4660 443\r\n".to_vec(), Some("192.0.2.9:4660")),
        (b"PROXY TCP4 192.0.2.9 10.0.0.1 0 65535\r\n".to_vec(), Some("192.0.2.9:0")),
        (b"PROXY TCP6 2001:db8::9 ::1 4660 443\r\n".to_vec(), Some("[2001:db8::9]:4660")),
        (b"PROXY UNKNOWN\r\n".to_vec(), None),
        (b"PROXY UNKNOWN ffff:f...f:ffff \xff \r what not 65535\r\n".to_vec(), None),
        (v2(0x21, 0x11, IPV4), Some("192.0.2.9:4660")),
        (v2(0x21, 0x12, IPV4), Some("192.0.2.9:4660")),
        (v2(0x21, 0x21, &ipv6("2001:db8::9")), Some("[2001:db8::9]:4660")),
        (v2(0x21, 0x11, &with(IPV4, 3_000)), Some("192.0.2.9:4660")),
        (v2(0x21, 0x11, &with(IPV4, HEADER_BYTES_MAX - 28)), Some("192.0.2.9:4660")),
        (v2(0x21, 0x31, &unix), None),
        (v2(0x21, 0x00, b""), None),
        (v2(0x21, 0x00, b"whatever"), None),
        (v2(0x21, 0x10, b"1"), None),
        (v2(0x20, 0x00, b""), None),
        (v2(0x20, 0x11, IPV4), None),
        (v2(0x20, 0x11, b"short"), None),
        (v2(0x20, 0x21, b""), None),
        (v2(0x20, 0xff, &with(b"", 84)), None),
    ]
}

/// Bytes that are no header, each with where that can be told: the verdict stands from there on.
fn refused() -> Vec<Vec<u8>> {
    let mut refused: Vec<Vec<u8>> = [
        "GET / HTTP/1.1\r\n",
        "\r\n\r\n\0\r\nQUIT\r",
        "PROXY\r\n",
        "PROXY \r\n",
        "PROXY UNKNOWNX\r\n",
        "PROXY unknown\r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP5 192.0.2.9 10.0.0.1 1 2\r\n",
        "PROXY TCP4 192.0.2.9 10.0.0.1 1\r\n",
        "PROXY TCP4 192.0.2.9 10.0.0.1 1 2 3\r\n",
        "PROXY TCP4 192.0.2.9 10.0.0.1 1 2 \r\n",
        "PROXY TCP4  192.0.2.9 10.0.0.1 1 2\r\n",
        "PROXY TCP4 192.0.2.9\t10.0.0.1 1 2\r\n",
        "PROXY TCP4 192.0.2.09 10.0.0.1 1 2\r\n",
        "PROXY TCP4 192.0.2.9 10.0.0.1 01 2\r\n",
        "PROXY TCP4 192.0.2.9 10.0.0.1 056324 443\r\n",
        "PROXY TCP4 192.0.2.9 10.0.0.1 1 +443\r\n",
        "PROXY TCP4 192.0.2.9 10.0.0.1 1 -0\r\n",
        "PROXY TCP4 192.0.2.9 10.0.0.1 1 65536\r\n",
        "PROXY TCP4 192.0.2.9 10.0.0.1 1 \r\n",
        "PROXY TCP4 2001:db8::9 ::1 1 2\r\n",
        "PROXY TCP4 not.an.address 10.0.0.1 1 2\r\n",
        "PROXY TCP6 192.0.2.9 10.0.0.1 1 2\r\n",
        "PROXY TCP6 [2001:db8::9] ::1 1 2\r\n",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into();
    refused.push(format!("PROXY UNKNOWN {}\r\n", "x".repeat(92)).into_bytes());
    refused.push(b"PROXY TCP4 \xff\xfe 10.0.0.1 1 2\r\n".to_vec());
    for (command, family, body) in [
        (0x11, 0x11, IPV4),
        (0x22, 0x11, IPV4),
        (0x2f, 0x00, b"".as_slice()),
        (0x21, 0x41, IPV4),
        (0x21, 0x13, IPV4),
        (0x21, 0x11, &IPV4[..11]),
        (0x21, 0x21, &[7; 35]),
        (0x21, 0x31, &[7; 215]),
        (0x21, 0x11, &[7; HEADER_BYTES_MAX - 15]),
        (0x20, 0x00, &[7; 65_535]),
    ] {
        refused.push(v2(command, family, body));
    }
    refused
}

#[test]
fn headers_are_taken_with_the_address_they_name() {
    for (header, source) in taken() {
        let source = source.map(|text| text.parse::<SocketAddr>().unwrap());
        let whole = Verdict::Header { bytes: header.len(), source };
        let shown = header.escape_ascii().to_string();
        assert_eq!(verdict(&header), whole, "{shown}");
        // HELLO, or the begin of another header, belongs to the client.
        for behind in [&b"\x01\x00\x00\x06"[..], b"\r\n", b"PROXY "] {
            assert_eq!(verdict(&[&header, behind].concat()), whole, "{shown}");
        }
        for cut in 0..header.len() {
            assert_eq!(verdict(&header[..cut]), Verdict::Incomplete, "{shown} cut at {cut}");
        }
    }
}

#[test]
fn what_is_complete_and_malformed_is_refused_at_once() {
    for bytes in refused() {
        let shown = bytes[..bytes.len().min(80)].escape_ascii().to_string();
        assert_eq!(verdict(&bytes), Verdict::Refused, "{shown}");
        let first = (0..=bytes.len()).find(|&cut| verdict(&bytes[..cut]) == Verdict::Refused).unwrap();
        for cut in first..bytes.len() {
            assert_eq!(verdict(&bytes[..cut]), Verdict::Refused, "{shown} cut at {cut}");
        }
        // The length field says it, not what comes after.
        assert!(!bytes.starts_with(b"\r\n\r\n") || first <= 16, "{shown} is refused at {first}");
    }
}

proptest! {
    #[test]
    fn a_verdict_stands_whatever_follows(
        which in 0..1_000usize,
        flips in prop::collection::vec((0..140usize, any::<u8>()), 0..3),
        tail in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut vectors: Vec<_> = taken().into_iter().map(|(bytes, _)| bytes).chain(refused()).collect();
        let mut bytes = vectors.swap_remove(which % vectors.len());
        bytes.truncate(200);
        for (at, byte) in flips {
            if at < bytes.len() {
                bytes[at] = byte;
            }
        }
        bytes.extend(tail);
        let mut before = Verdict::Incomplete;
        for cut in 0..=bytes.len() {
            let now = verdict(&bytes[..cut]);
            prop_assert!(before == Verdict::Incomplete || before == now, "{before:?} then {now:?} at {cut}");
            if let Verdict::Header { bytes, .. } = now {
                prop_assert!(bytes <= cut);
            }
            before = now;
        }
    }
}
