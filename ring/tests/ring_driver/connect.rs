//! Slots that connect by themselves.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use roost_ring::{
    Features,
    op::{Op, Sock, Token, Wait, errno},
};

use super::{
    bank::at_size,
    rig::{LIMIT, Rig, Setup, everywhere, recv, send, skip},
};

const EADDRNOTAVAIL: i32 = 99;
/// The clients come from here, which is not what the kernel would choose.
const SOURCE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 9, 9, 9)), 0);
/// An address that no machine has (RFC 5737).
const NOT_OURS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 0);

/// A rig, where this kernel can connect slots in this tier.
fn rig(setup: Setup) -> Option<Rig> {
    let features = Features::detect_to_connect(setup.features).expect("io_uring");
    let works = Features::detect(setup.features).expect("io_uring").tier() == features.tier();
    if !works {
        skip("connect", &format!("slots of tier {} do not connect: {features}", setup.features));
    }
    works.then(|| Rig::new(setup))
}

fn connect(rig: &mut Rig, slot: u32, source: Option<SocketAddr>, target: SocketAddr) -> Token {
    let token = Token::new(9, slot, 0);
    rig.driver.connect(token, slot, source, target);
    token
}

/// A listener that accepts so many, and gives them.
fn server(clients: usize) -> (SocketAddr, JoinHandle<Vec<TcpStream>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    // Room for all: who finds the queue full on a busy machine believes that it is connected, for ever.
    rustix::net::listen(&listener, i32::try_from(clients).expect("not so many") + 1).expect("a longer queue");
    let address = listener.local_addr().expect("an address");
    (address, thread::spawn(move || (0..clients).map(|_| listener.accept().expect("a client").0).collect()))
}

/// A port of loopback where nobody listens and nobody else will.
fn dead() -> (SocketAddr, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let holder = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
    let address = holder.local_addr().expect("an address");
    (address, holder)
}

#[test]
fn a_slot_connects_carries_bytes_and_is_used_again() {
    everywhere(|setup| {
        let Some(mut rig) = rig(setup) else { return };
        for source in [None, Some(SOURCE), None] {
            // On ring 0 and beyond.
            for slot in [0, 37] {
                let sock = Sock::Client(slot);
                let (address, server) = server(1);
                let connecting = connect(&mut rig, slot, source, address);
                assert_eq!(rig.finish(connecting), 0);
                let mut peer = server.join().expect("accepted").remove(0);
                if let Some(source) = source {
                    assert_eq!(peer.peer_addr().expect("connected").ip(), source.ip());
                }
                peer.set_read_timeout(Some(LIMIT)).expect("a timeout");
                rig.fill(0, b"hello");
                assert_eq!(rig.run(send(sock, 0, 5, true)), 5);
                let mut got = [0; 5];
                peer.read_exact(&mut got).expect("received");
                assert_eq!(&got, b"hello");
                peer.write_all(b"back").expect("sent");
                assert_eq!(rig.run(recv(sock, 1, true)), 4);
                assert_eq!(rig.bytes(1, 4), b"back");
                assert_eq!(rig.run(Op::Close { sock }), 0);
                assert_eq!(peer.read(&mut got).expect("an end"), 0);
            }
        }
        rig.assert_quiet();
    });
}

#[test]
fn the_step_that_failed_is_the_result() {
    everywhere(|setup| {
        let Some(mut rig) = rig(setup) else { return };
        let (dead, _holder) = dead();
        let (address, server) = server(1);
        let cases = [
            (Some(NOT_OURS), address, -EADDRNOTAVAIL),
            (None, dead, -errno::ECONNREFUSED),
            (Some(SOURCE), dead, -errno::ECONNREFUSED),
            (Some(SOURCE), address, 0),
        ];
        for (source, target, result) in cases {
            let connecting = connect(&mut rig, 3, source, target);
            assert_eq!(rig.finish(connecting), result, "{source:?} to {target}");
            // Whether there was a socket is not said.
            rig.run(Op::Close { sock: Sock::Client(3) });
        }
        server.join().expect("the last one was accepted");
        rig.assert_quiet();
    });
}

/// Chains longer than what the submission queue has room for must not be cut: a connect without its
/// bind would come from elsewhere, and one behind a step that failed would not be cancelled. The
/// kernel works off deferred work in slices and signals only the first; nobody may wait for the rest.
#[test]
fn more_connects_than_queues_have_room_for_keep_their_steps_together() {
    const CLIENTS: u32 = 600;
    at_size(CLIENTS, |setup| {
        let Some(mut rig) = rig(setup) else { return };
        let (address, server) = server(CLIENTS as usize / 2);
        let began = Instant::now();
        let mut others = Vec::new();
        let tokens: Vec<_> = (0..CLIENTS)
            .map(|slot| {
                // One entry more, so that chains begin everywhere in a queue.
                let (sock, target) = (Sock::Client(slot), Token::new(2, slot, 0));
                others.extend((slot % 3 == 0).then(|| rig.start(Op::Cancel { sock, target })));
                let source = if slot % 2 == 0 { SOURCE } else { NOT_OURS };
                connect(&mut rig, slot, Some(source), address)
            })
            .collect();
        while rig.done.len() < tokens.len() + others.len() {
            rig.turn(Wait::AtMost(LIMIT));
            assert!(began.elapsed() < LIMIT / 2, "waited in vain with {} of {CLIENTS}", rig.done.len());
        }
        for (slot, token) in tokens.iter().enumerate() {
            let expected = if slot % 2 == 0 { 0 } else { -EADDRNOTAVAIL };
            assert_eq!(rig.done.remove(token), Some(expected), "slot {slot}");
        }
        assert!(others.iter().all(|token| rig.done.remove(token) == Some(-errno::ENOENT)));
        for peer in server.join().expect("all accepted") {
            assert_eq!(peer.peer_addr().expect("connected").ip(), SOURCE.ip());
        }
        rig.assert_quiet();
    });
}

#[test]
fn a_close_resets_where_that_was_asked_for() {
    everywhere(|setup| {
        let Some(mut rig) = rig(setup) else { return };
        for resets in [true, false] {
            let (address, server) = server(1);
            let connecting = connect(&mut rig, 5, None, address);
            assert_eq!(rig.finish(connecting), 0);
            let mut peer = server.join().expect("accepted").remove(0);
            peer.set_read_timeout(Some(LIMIT)).expect("a timeout");
            if resets {
                rig.driver.reset_on_close(5);
            }
            assert_eq!(rig.run(Op::Close { sock: Sock::Client(5) }), 0);
            match peer.read(&mut [0]) {
                Err(error) if resets => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
                read => assert!(!resets && read.is_ok_and(|bytes| bytes == 0)),
            }
        }
        // Of an empty slot it says nothing.
        rig.driver.reset_on_close(6);
        rig.assert_quiet();
    });
}

#[test]
fn a_dropped_driver_ends_its_connects() {
    everywhere(|setup| {
        let Some(mut rig) = rig(setup) else { return };
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        for slot in 0..40 {
            connect(&mut rig, slot, Some(SOURCE), address);
        }
        rig.turn(Wait::No);
        for slot in 40..50 {
            connect(&mut rig, slot, None, address);
        }
        let began = Instant::now();
        drop(rig);
        assert!(began.elapsed() < Duration::from_secs(1), "memory was given up on: {:?}", began.elapsed());
    });
}
