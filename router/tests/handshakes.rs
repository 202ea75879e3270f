//! What comes instead of a handshake, or of a frame, ends its own connection and nothing else.

mod support;

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use roost_protocol::{
    ConnectionId,
    link::{HEADER_BYTES, Header, LinkType, Refusal},
};
use roost_router::{Address, Stat, WorkerConfig, handlers};
use serde_json::Value;
use support::{Link, PATIENCE, Running, peer::Peer, start, wait_until};

fn tcp(worker: &Running) -> SocketAddr {
    match worker.addresses[0] {
        Address::Tcp(address) => address,
        Address::Unix(_) => unreachable!("the first listener is TCP"),
    }
}

/// A connection of which nothing is known.
fn connect(worker: &Running) -> TcpStream {
    let stream = TcpStream::connect(tcp(worker)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Reads until the worker hangs up; what it said before.
fn until_the_end(mut stream: TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    match stream.read_to_end(&mut said) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the worker does not hang up: {error}"),
    }
    said
}

/// The `bad` vectors of the link protocol: name, bytes, and the limit on messages that they are for.
fn bad_vectors() -> Vec<(String, Vec<u8>, u32)> {
    let vectors: Value = serde_json::from_str(include_str!("../../protocol/vectors/link.json")).unwrap();
    let limit = |value: &Value| value["frame_bytes_max"].as_u64().map(|limit| limit as u32);
    let one = |vector: &Value| {
        let digits: Vec<u8> = vector["bytes"].as_str().unwrap().bytes().filter(|&b| b != b' ').collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        let name = vector["name"].as_str().unwrap().to_owned();
        let limit = limit(vector).or_else(|| limit(&vectors)).unwrap();
        (name, digits.chunks(2).map(byte).collect(), limit)
    };
    vectors["bad"].as_array().unwrap().iter().map(one).collect()
}

#[test]
fn what_a_gateway_may_not_say_is_refused_instead_of_a_handshake() {
    let worker = start(WorkerConfig::default(), handlers::Echo);
    let vectors = bad_vectors();
    assert!(vectors.len() > 50);
    for (name, bytes, _) in &vectors {
        let mut stream = connect(&worker);
        stream.write_all(bytes).unwrap();
        // Some begin as a longer frame would, whose rest does not come.
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let said = until_the_end(stream);
        // LINK_REFUSE or nothing: the fifth byte of a frame is its type.
        assert!(said.is_empty() || said[4] == LinkType::LinkRefuse as u8, "{name}: {said:?}");
    }
    wait_until("all are refused", || worker.stats.get(Stat::LinksRefused) == vectors.len() as u64);
    assert_eq!(worker.stats.get(Stat::Sessions), 0);
    worker.stop();
}

#[test]
fn a_gateway_of_an_earlier_draft_is_refused() {
    let worker = start(WorkerConfig::default(), handlers::Echo);
    let mut peer = Peer::new(1, 0);
    peer.connected();
    let hello = peer.fill();
    let mut stream = connect(&worker);
    // As it was: 72 bytes.
    let header = Header::new(LinkType::LinkHello, ConnectionId::from_bits(0), 72).encode();
    stream.write_all(&header).unwrap();
    stream.write_all(&hello[HEADER_BYTES..][..72]).unwrap();
    assert_eq!(until_the_end(stream), Refusal::Malformed.encode());
    wait_until("it is counted", || worker.stats.get(Stat::LinksRefused) == 1);
    worker.stop();
}

#[test]
fn what_a_gateway_may_not_say_is_refused_instead_of_its_proof() {
    let worker = start(WorkerConfig::default(), handlers::Echo);
    let vectors = bad_vectors();
    for (name, bytes, limit) in &vectors {
        let mut peer = Peer::new(1, 7).with_frame_bytes_max(*limit);
        peer.connected();
        let mut stream = connect(&worker);
        stream.write_all(&peer.fill()).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let said = until_the_end(stream);
        // LINK_WELCOME, and LINK_REFUSE or nothing.
        assert_eq!(said[4], LinkType::LinkWelcome as u8, "{name}");
    }
    wait_until("all are refused", || worker.stats.get(Stat::LinksRefused) == vectors.len() as u64);
    assert_eq!(worker.stats.get(Stat::Sessions), 0);
    worker.stop();
}

#[test]
fn what_a_gateway_may_not_say_ends_its_link_and_keeps_its_session() {
    let worker = start(WorkerConfig::default(), handlers::Echo);
    for (number, (name, bytes, limit)) in bad_vectors().into_iter().enumerate() {
        let mut link = Link::new(Peer::new(1, 7).with_frame_bytes_max(limit), &worker.addresses[1]);
        link.up();
        link.peer.push_raw(&bytes);
        let deadline = Instant::now() + PATIENCE;
        while link.turn() {
            assert!(Instant::now() < deadline, "{name}: the link is still up");
        }
        wait_until(&name, || worker.stats.get(Stat::LinkErrors) == number as u64 + 1);
    }
    assert_eq!(worker.stats.get(Stat::Sessions), 1);
    worker.stop();
}

#[test]
fn a_peer_that_stalls_in_the_handshake_is_hung_up_on_in_time() {
    let config = WorkerConfig { handshake_timeout_ms: 200, ..WorkerConfig::default() };
    let worker = start(config, handlers::Echo);
    let mut neighbour = Link::new(Peer::new(2, 0), &worker.addresses[0]);
    neighbour.up();
    let mut peer = Peer::new(1, 0);
    peer.connected();
    let hello = peer.fill();
    // Nothing, part of a header, part of LINK_HELLO, and LINK_HELLO without a LINK_PROOF behind it.
    for bytes in [0, 3, hello.len() - 1, hello.len()] {
        let mut stream = connect(&worker);
        stream.write_all(&hello[..bytes]).unwrap();
        until_the_end(stream);
    }
    wait_until("all four are counted", || worker.stats.get(Stat::LinksRefused) == 4);
    assert_eq!(worker.stats.get(Stat::Sessions), 1);
    neighbour.peer.ping(b"there?");
    neighbour.run_until("the neighbour is served", |peer| {
        peer.resumes == 0 && peer.control.iter().any(|frame| frame.payload == b"there?")
    });
    worker.stop();
}

/// One byte at a time does not win time.
#[test]
fn a_peer_that_trickles_its_handshake_is_hung_up_on_all_the_same() {
    let config = WorkerConfig { handshake_timeout_ms: 200, ..WorkerConfig::default() };
    let worker = start(config, handlers::Echo);
    let mut peer = Peer::new(1, 0);
    peer.connected();
    let mut stream = connect(&worker);
    let began = Instant::now();
    let hung_up = peer.fill().iter().any(|byte| {
        std::thread::sleep(Duration::from_millis(50));
        stream.write_all(&[*byte]).is_err()
    });
    assert!(hung_up, "the worker took {:?} of a handshake", began.elapsed());
    worker.stop();
}

#[test]
fn of_too_many_handshakes_the_oldest_ends_and_gateways_come_through() {
    const HANDSHAKES_MAX: usize = 4;
    let config = WorkerConfig {
        handshakes_max: HANDSHAKES_MAX,
        handshake_timeout_ms: 600_000,
        ..WorkerConfig::default()
    };
    let worker = start(config, handlers::Echo);
    let mut silent: Vec<_> = (0..HANDSHAKES_MAX).map(|_| connect(&worker)).collect();
    // Each gateway takes the place of the oldest, and gives it back when its link is up.
    let mut link = Link::new(Peer::new(1, 0), &worker.addresses[0]);
    link.up();
    until_the_end(silent.remove(0));
    wait_until("one is refused", || worker.stats.get(Stat::LinksRefused) == 1);
    wait_until("the link's handshake is over", || worker.stats.get(Stat::Links) == 1);
    // There is room for one more; the next one ends the oldest again.
    silent.push(connect(&worker));
    silent.push(connect(&worker));
    until_the_end(silent.remove(0));
    wait_until("a second is refused", || worker.stats.get(Stat::LinksRefused) == 2);
    for stream in &mut silent {
        stream.set_nonblocking(true).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock, "the others stay");
    }
    link.peer.ping(b"there?");
    link.run_until("the link is served", |peer| peer.control.iter().any(|frame| frame.payload == b"there?"));
    worker.stop();
}
