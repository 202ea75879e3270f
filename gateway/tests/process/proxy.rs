//! Clients behind a proxy: whose address counts, and whom the gateway believes.

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};

use roost_protocol::{
    Reason,
    edge::FrameType,
    link::{LinkType, Open},
};

use crate::{
    bad_workers::{Worker, gateway_of},
    support::{Client, Gateway, PATIENCE, command},
};

/// A gateway with a second listener, behind which it believes `trusted`.
fn behind_proxy(trusted: &str, arguments: &[&str]) -> (Gateway, SocketAddr) {
    let mut command = command(&["--listen", "proxy:127.0.0.1:0", "--shards", "1"]);
    command.env("ROOST_PROXY_TRUSTED", trusted).args(arguments);
    let mut gateway = Gateway::spawn(command);
    let line = gateway.wait_for_line("  clients    ");
    let proxied = line.rsplit(' ').next().unwrap().parse().expect("the second listener");
    (gateway, proxied)
}

/// A header of version 1.
fn v1(source: SocketAddr) -> Vec<u8> {
    let (family, own) = match source.ip() {
        IpAddr::V4(_) => ("TCP4", "192.0.2.1"),
        IpAddr::V6(_) => ("TCP6", "2001:db8::1"),
    };
    format!("PROXY {family} {} {own} {} 7400\r\n", source.ip(), source.port()).into_bytes()
}

/// A header of version 2; without a source the command is LOCAL.
fn v2(source: Option<SocketAddr>) -> Vec<u8> {
    let (command, family, addresses) = match source.map(|source| source.ip()) {
        None => (0x20, 0, Vec::new()),
        Some(IpAddr::V4(ip)) => (0x21, 0x11, [ip.octets(), [192, 0, 2, 1]].concat()),
        Some(IpAddr::V6(ip)) => (0x21, 0x21, [ip.octets(), [9; 16]].concat()),
    };
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    let ports = source.map(|source| [source.port().to_be_bytes(), 7400u16.to_be_bytes()].concat());
    let body = [addresses, ports.unwrap_or_default()].concat();
    header.extend([command, family]);
    header.extend((body.len() as u16).to_be_bytes());
    header.extend(body);
    header
}

/// A client that comes with this header and HELLO.
fn arrive(proxied: SocketAddr, header: &[u8]) -> Client {
    let mut client = Client::connect(proxied);
    client.send(header);
    client.send_hello("a");
    client
}

fn welcomed(mut client: Client) -> Client {
    let received = client.receive().expect("WELCOME");
    assert_eq!(received.frame_type, FrameType::Welcome, "{received:?}");
    client
}

#[test]
fn workers_see_the_address_that_the_proxy_names() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let worker = listener.local_addr().unwrap().to_string();
    let (gateway, proxied) = behind_proxy("127.0.0.0/8", &["--worker", &worker]);
    let mut worker = Worker::accept(&listener);
    let mut opened_from = |header: &[u8]| {
        let client = arrive(proxied, header);
        let (_, payload) = worker.await_frame(LinkType::Open);
        let open = Open::decode(&payload).unwrap();
        assert_eq!(open.key, b"a");
        (open.peer, client.stream.local_addr().unwrap())
    };
    for source in ["203.0.113.7:4711", "[2001:db8:7::9]:4712"] {
        let source: SocketAddr = source.parse().unwrap();
        for header in [v1(source), v2(Some(source))] {
            assert_eq!(opened_from(&header).0, Some(source));
        }
    }
    // One client is one client, whichever notation or version the proxy chooses.
    let mapped: SocketAddr = "[::ffff:203.0.113.7]:4711".parse().unwrap();
    for header in [v1(mapped), v2(Some(mapped))] {
        assert_eq!(opened_from(&header).0, Some("203.0.113.7:4711".parse().unwrap()));
    }
    // Health checks of the proxy itself, with a family and a length that mean nothing.
    let mut odd = v2(None);
    odd[13..16].copy_from_slice(&[0x21, 0, 2]);
    odd.extend([9; 2]);
    for local in [v2(None), odd] {
        let (peer, own) = opened_from(&local);
        assert_eq!(peer, Some(own));
    }
    // The listener beside it expects no header and takes none.
    let mut plain = gateway.connect();
    plain.send_hello("plain");
    let (_, payload) = worker.await_frame(LinkType::Open);
    assert_eq!(Open::decode(&payload).unwrap().peer, Some(plain.stream.local_addr().unwrap()));
    let mut forger = gateway.connect();
    forger.send(&v1("203.0.113.7:1".parse().unwrap()));
    forger.expect_goaway(Reason::ReservedBits);
}

#[test]
fn a_header_in_crumbs_is_a_header() {
    let (gateway, proxied) = behind_proxy("127.0.0.0/8", &[]);
    let source = "203.0.113.7:4711".parse().unwrap();
    for header in [v1(source), v2(Some(source))] {
        let mut client = Client::connect(proxied);
        for byte in header {
            client.send(&[byte]);
        }
        client.hello("a");
        client.echo(b"through");
    }
    gateway.stop();
}

/// The extensions of a client's certificate are long; how TCP cuts them is nobody's choice.
#[test]
fn a_long_header_is_taken_or_refused_however_it_is_cut() {
    let (gateway, proxied) = behind_proxy("127.0.0.0/8", &[]);
    let mut refused = 0;
    for (extension_bytes, is_taken) in [(1_900, true), (3_000, true), (16_356, true), (16_357, false)] {
        let mut header = v2(Some("203.0.113.7:4711".parse().unwrap()));
        header[14..16].copy_from_slice(&(12 + extension_bytes as u16).to_be_bytes());
        header.extend(vec![0xea; extension_bytes]);
        for cut in [0, 15, 20, header.len() - 50, header.len() - 1] {
            let mut client = Client::connect(proxied);
            client.send(&header[..cut]);
            std::thread::sleep(std::time::Duration::from_millis(50));
            if is_taken {
                client.send(&header[cut..]);
                client.hello("a");
                continue;
            }
            // It may be gone before this arrives.
            drop(std::io::Write::write_all(&mut client.stream, &header[cut..]));
            refused += 1;
            gateway.await_closes(Reason::ProxyHeader, refused);
        }
    }
    gateway.stop();
}

#[test]
fn what_is_no_header_is_refused() {
    let (gateway, proxied) = behind_proxy("127.0.0.0/8", &[]);
    // Whole lines and headers: nobody has to wait for a time-out.
    let mut unfit = v2(Some("203.0.113.7:1".parse().unwrap()));
    unfit[13] = 0x41;
    for (count, bytes) in (1..).zip([
        &b"\x01\x00\x00\x06\x01\x00"[..],
        b"PROXY TCP4 not.an.address 192.0.2.1 1 2\r\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 056324 443\r\n",
        b"PROXY TCP4 203.0.113.7 192.0.2.1 1 +443\r\n",
        b"PROXY UNKNOWNX\r\n",
        &unfit,
        b"GET / HTTP/1.1\r\n\r\n",
    ]) {
        let mut client = Client::connect(proxied);
        client.send(bytes);
        client.expect_goaway(Reason::ProxyHeader);
        gateway.await_closes(Reason::ProxyHeader, count);
    }
    gateway.stop();
}

#[test]
fn only_trusted_sources_are_believed() {
    let (gateway, proxied) = behind_proxy("127.0.0.2/32", &[]);
    let header = v1("203.0.113.7:4711".parse().unwrap());
    Client::connect(proxied).expect_goaway(Reason::ProxyHeader);
    let mut lying = Client::connect(proxied);
    // It may be gone before this arrives.
    drop(std::io::Write::write_all(&mut lying.stream, &header));
    gateway.await_closes(Reason::ProxyHeader, 2);
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).unwrap();
    socket.connect(&proxied.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut trusted = Client::from_stream(stream);
    trusted.send(&header);
    trusted.hello("a");
    gateway.stop();
}

#[test]
fn limits_hold_for_the_address_behind_the_proxy() {
    let (gateway, proxied) = behind_proxy("127.0.0.0/8", &["--set", "per_ip_max=2"]);
    let from = |source: &str| arrive(proxied, &v2(Some(source.parse().unwrap())));
    let mut held = Vec::new();
    // All of one IPv4 address, all of one IPv6 /64.
    for same in [
        ["203.0.113.7:1", "203.0.113.7:2", "203.0.113.7:3"],
        ["[2001:db8:1:2::1]:1", "[2001:db8:1:2::2]:1", "[2001:db8:1:2:ffff::3]:1"],
    ] {
        let closed = gateway.metric("roost_closes", &["reason=\"client_eof\""]);
        let first = welcomed(from(same[0]));
        held.push(welcomed(from(same[1])));
        assert!(from(same[2]).expect_goaway(Reason::PerIpLimit) >= 1000);
        drop(first);
        gateway.await_closes(Reason::ClientEof, closed + 1);
        held.push(welcomed(from(same[2])));
    }
    held.extend(["203.0.113.8:1", "[2001:db8:1:3::1]:1"].map(|source| welcomed(from(source))));
    gateway.await_closes(Reason::PerIpLimit, 2);
    gateway.stop();
}

#[test]
fn a_gateway_behind_no_proxy_believes_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let gateway = gateway_of(&listener, &[]);
    let _worker = Worker::accept(&listener);
    let mut forger = gateway.connect();
    forger.send(&v2(Some("203.0.113.7:1".parse().unwrap())));
    forger.expect_goaway(Reason::UnknownType);
}
