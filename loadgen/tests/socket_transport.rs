//! Clients as kernel sockets, over loopback.
#![forbid(unsafe_code)]

use std::{
    io::Read,
    net::{SocketAddr, TcpListener, TcpStream},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use roost_loadgen::{
    socket::{Cidr, SocketNetwork, Sources},
    transport::{Close, Ended, Event, Events, Network, Share, Transport},
};
use roost_ring::{Features, FeaturesMax};

/// Nothing here takes this long on any machine; what does has waited in vain.
const LIMIT: Duration = Duration::from_secs(60);
const CLIENTS: u32 = 40;

/// Runs a test with direct descriptors where they can be had, and with plain ones; over rings of 8 slots.
fn everywhere(source: &str, test: fn(&mut dyn Transport, TcpListener)) {
    for max in [FeaturesMax::Direct, FeaturesMax::Deferred] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let sources = Sources::spread(source.parse::<Cidr>().expect("a range"), u64::from(CLIENTS));
        let network = SocketNetwork {
            target: listener.local_addr().expect("an address"),
            sources: Some(sources),
            features: Features::detect_to_connect(max).expect("io_uring"),
            ring_slots_max: 8,
        };
        let share = Share { thread: 0, threads: 1, first_client: 0, clients: CLIENTS };
        let mut transport = network.open(share).expect("a transport");
        test(&mut *transport, listener);
    }
}

/// What happened to clients, without the bytes.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Connected(u32),
    ConnectFailed(u32, i32),
    Closed(u32, Ended),
}

/// Polls until so many events but bytes have come.
fn events(transport: &mut dyn Transport, count: usize) -> Vec<Told> {
    let began = Instant::now();
    let (mut told, mut events) = (Vec::new(), Events::new());
    while told.len() < count {
        assert!(began.elapsed() < LIMIT, "waited in vain after {told:?}");
        transport.poll(Duration::from_millis(100), &mut events).expect("a ring that works");
        told.extend(events.iter().filter_map(|event| match event {
            Event::Connected { client } => Some(Told::Connected(client)),
            Event::ConnectFailed { client, errno } => Some(Told::ConnectFailed(client, errno)),
            Event::Closed { client, how } => Some(Told::Closed(client, how)),
            Event::Bytes { .. } => None,
        }));
        events.clear();
    }
    told
}

/// Reads a peer to its end, in a thread.
fn read(mut peer: TcpStream) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        peer.set_read_timeout(Some(LIMIT)).expect("a timeout");
        let mut bytes = Vec::new();
        peer.read_to_end(&mut bytes).expect("an end in order");
        bytes
    })
}

/// More at once than any block holds, and an end behind it that does not overtake it.
#[test]
fn messages_of_any_size_arrive_whole_and_before_the_end() {
    everywhere("127.7.0.0/16", |transport, listener| {
        for client in 0..CLIENTS {
            transport.connect(client);
        }
        assert_eq!(events(transport, CLIENTS as usize).len(), CLIENTS as usize);
        let peers: Vec<_> = (0..CLIENTS).map(|_| read(listener.accept().expect("a client").0)).collect();
        let bytes_of = |client: u32| -> Vec<u8> {
            let sizes = [1, 959, 960, 961, 65_472, 65_473, 300_000];
            let len = 7 + sizes[client as usize % sizes.len()];
            (0..len).map(|at: u32| (at.wrapping_mul(31) + client) as u8).collect()
        };
        for client in 0..CLIENTS {
            let bytes = bytes_of(client);
            // As two messages, of which the second finds the first under way.
            let (first, second) = bytes.split_at(bytes.len() - 7);
            transport.send(client, first);
            transport.send(client, second);
            transport.close(client, Close::Fin);
        }
        let ended = events(transport, CLIENTS as usize);
        assert!(ended.iter().all(|told| matches!(told, Told::Closed(_, Ended::Local))), "{ended:?}");
        assert_eq!(transport.counts().unsent_bytes, 0);
        let mut got: Vec<_> = peers.into_iter().map(|peer| peer.join().expect("a peer")).collect();
        let mut sent: Vec<_> = (0..CLIENTS).map(bytes_of).collect();
        got.sort();
        sent.sort();
        assert!(got == sent, "some message came otherwise than it was sent");
    });
}

/// The bind fails, not the connect: where both are one chain, the client must hear it all the same.
#[test]
fn a_client_whose_address_is_not_ours_is_told_so() {
    const EADDRNOTAVAIL: i32 = 99;
    everywhere("192.0.2.0/24", |transport, _listener| {
        for _ in 0..2 {
            transport.connect(3);
            transport.connect(30);
            let mut told = events(transport, 2);
            told.sort_by_key(|told| matches!(told, Told::ConnectFailed(30, _)));
            assert_eq!(told, [Told::ConnectFailed(3, EADDRNOTAVAIL), Told::ConnectFailed(30, EADDRNOTAVAIL)]);
        }
    });
}

#[test]
fn a_reset_is_seen_by_the_peer_and_frees_the_client() {
    everywhere("127.7.0.0/16", |transport, listener| {
        for _ in 0..2 {
            transport.connect(9);
            assert_eq!(events(transport, 1), [Told::Connected(9)]);
            let (mut peer, from) = listener.accept().expect("a client");
            assert!(matches!(from, SocketAddr::V4(from) if from.ip().octets()[..2] == [127, 7]), "{from}");
            peer.set_read_timeout(Some(LIMIT)).expect("a timeout");
            transport.close(9, Close::Reset);
            assert_eq!(events(transport, 1), [Told::Closed(9, Ended::Local)]);
            let error = peer.read(&mut [0]).expect_err("a reset");
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        }
    });
}
