//! What each op does.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use roost_ring::op::{Interest, Io, Op, Sock, Wait, errno, poll_bits};

use super::rig::{Rig, Setup, everywhere, recv, send, skip};

#[test]
fn accepts_go_to_the_chosen_slots_and_know_their_peers() {
    everywhere(|setup| {
        let mut rig = Rig::new(setup);
        // In flight together, completed in whatever order the kernel likes.
        let slots = [5, 2, 61, 9];
        let tokens = slots.map(|slot| rig.start(Op::Accept { slot, listener: 0, expected: false }));
        let mut clients: Vec<TcpStream> =
            slots.iter().map(|_| TcpStream::connect(rig.address).expect("a connection")).collect();
        let results = tokens.map(|token| rig.finish(token));
        assert_eq!(results, [0; 4]);
        let mut peers = tokens.map(|token| rig.from[&token].expect("a peer"));
        for (slot, peer) in slots.into_iter().zip(peers) {
            let client = clients.iter_mut().find(|c| c.local_addr().ok() == Some(peer));
            let client = client.expect("the peer is one of the clients");
            client.write_all(&slot.to_be_bytes()).expect("sent");
            assert_eq!(rig.run(recv(Sock::Client(slot), slot, true)), 4);
            assert_eq!(rig.bytes(slot, 4), slot.to_be_bytes(), "peer of slot {slot}");
        }
        peers.sort_unstable();
        assert!(peers.windows(2).all(|pair| pair[0] != pair[1]));
        rig.assert_quiet();
    });
}

#[test]
fn a_reused_slot_has_the_peer_of_its_last_client() {
    everywhere(|setup| {
        let mut rig = Rig::new(setup);
        for _ in 0..3 {
            let client = rig.client(7);
            assert_eq!(rig.last_peer(), client.local_addr().ok());
            assert_eq!(rig.run(Op::Close { sock: Sock::Client(7) }), 0);
        }
    });
}

#[test]
fn peers_are_known_on_ipv6_too() {
    everywhere(|setup| {
        let Ok(listener) = std::net::TcpListener::bind("[::1]:0") else {
            skip("peers_are_known_on_ipv6_too", "no IPv6 loopback");
            return;
        };
        let address = listener.local_addr().expect("an address");
        let mut rig = Rig::with_listener(setup, listener.into(), address);
        let client = rig.client(3);
        assert_eq!(rig.last_peer(), client.local_addr().ok());
    });
}

#[test]
fn peers_on_unix_sockets_have_no_address() {
    everywhere(|setup| {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("clients");
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
        let mut rig = Rig::with_listener(setup, listener.into(), ([127, 0, 0, 1], 0).into());
        let mut client = std::os::unix::net::UnixStream::connect(&path).expect("a connection");
        let accept = rig.start(Op::Accept { slot: 1, listener: 0, expected: false });
        assert_eq!(rig.finish(accept), 0);
        assert_eq!(rig.from[&accept], None);
        assert_eq!(rig.run(Op::CountWaiting { listener: 0 }), -errno::EOPNOTSUPP);
        client.write_all(b"hello").expect("sent");
        assert_eq!(rig.run(recv(Sock::Client(1), 0, true)), 5);
    });
}

#[test]
fn bytes_come_and_go() {
    everywhere(|setup| {
        let mut rig = Rig::new(setup);
        let mut client = rig.client(11);
        let sock = Sock::Client(11);
        for round in 0..50u32 {
            let message = [round as u8; 333];
            client.write_all(&message).expect("sent");
            // Half the time the receive is there before the bytes are.
            let got = rig.run(recv(sock, 0, true));
            assert_eq!(rig.bytes(0, got), message);
            assert_eq!(rig.run(send(sock, 0, 333, round % 2 == 0)), 333);
            let mut back = [0; 333];
            client.read_exact(&mut back).expect("received");
            assert_eq!(back, message);
        }
        rig.assert_quiet();
    });
}

#[test]
fn a_receive_uses_just_its_part_of_the_block() {
    everywhere(|setup| {
        let mut rig = Rig::new(setup);
        let mut client = rig.client(0);
        rig.driver.block_mut(Rig::block(0)).fill(b'.');
        client.write_all(b"abcdefgh").expect("sent");
        let op = Op::Recv { sock: Sock::Client(0), block: Rig::block(0), offset: 3, len: 4, wait: true };
        assert_eq!(rig.run(op), 4);
        assert_eq!(rig.bytes(0, 9), b"...abcd..");
        assert_eq!(
            rig.run(Op::Send { sock: Sock::Client(0), block: Rig::block(0), offset: 2, len: 3, wait: false }),
            3
        );
        let mut got = [0; 3];
        client.read_exact(&mut got).expect("received");
        assert_eq!(&got, b".ab");
    });
}

#[test]
fn ops_that_may_not_wait_say_again() {
    everywhere(|setup| {
        let mut rig = Rig::new(setup);
        let client = rig.client(1);
        assert_eq!(rig.run(recv(Sock::Client(1), 0, false)), -errno::EAGAIN);
        // Nobody reads, so the sending side fills up: first partial, then nothing.
        let mut total = 0u64;
        let stuck = loop {
            match rig.run(send(Sock::Client(1), 0, Rig::BLOCK_BYTES, false)) {
                sent @ 1.. => total += u64::from(sent.unsigned_abs()),
                error => break error,
            }
            assert!(total < 1 << 30, "a loopback socket takes a gigabyte");
        };
        assert_eq!(stuck, -errno::EAGAIN);
        // A poll waits for room, and tells when the peer has made some.
        let poll = rig.start(Op::Poll { sock: Sock::Client(1), interest: Interest::Writable });
        rig.turn(Wait::AtMost(Duration::from_millis(20)));
        assert!(rig.done.is_empty(), "no room yet: {:?}", rig.done);
        let reader = std::thread::spawn(move || {
            let mut client = client;
            let mut left = total;
            let mut buffer = vec![0; 1 << 16];
            while left > 0 {
                left -= client.read(&mut buffer).expect("received") as u64;
            }
        });
        assert_ne!(rig.finish(poll) & poll_bits::OUT, 0);
        reader.join().expect("everything sent has arrived");
    });
}

#[test]
fn a_send_that_may_wait_takes_everything_in_the_end() {
    everywhere(|setup| {
        let mut rig = Rig::new(setup);
        let mut client = rig.client(1);
        let blocks = 1024u32;
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            client.read_to_end(&mut bytes).expect("received");
            bytes
        });
        for block in 0..blocks {
            rig.fill(0, &[block as u8; Rig::BLOCK_BYTES as usize]);
            let mut sent = 0;
            while sent < Rig::BLOCK_BYTES {
                let op = Op::Send {
                    sock: Sock::Client(1),
                    block: Rig::block(0),
                    offset: sent,
                    len: Rig::BLOCK_BYTES - sent,
                    wait: true,
                };
                sent += u32::try_from(rig.run(op)).expect("no error");
            }
        }
        assert_eq!(rig.run(Op::Close { sock: Sock::Client(1) }), 0);
        let bytes = reader.join().expect("a reader");
        assert_eq!(bytes.len(), (blocks * Rig::BLOCK_BYTES) as usize);
        let in_order = |(block, bytes): (usize, &[u8])| bytes.iter().all(|byte| *byte == block as u8);
        assert!(bytes.chunks(Rig::BLOCK_BYTES as usize).enumerate().all(in_order));
    });
}

#[test]
fn polls_report_bytes_and_ends() {
    everywhere(|setup| {
        let mut rig = Rig::new(setup);
        let mut client = rig.client(33);
        let readable = Op::Poll { sock: Sock::Client(33), interest: Interest::Readable };
        let poll = rig.start(readable);
        rig.turn(Wait::AtMost(Duration::from_millis(20)));
        assert!(rig.done.is_empty(), "nothing to read yet");
        client.write_all(b"x").expect("sent");
        let bits = rig.finish(poll);
        assert!(bits & poll_bits::IN != 0 && bits & poll_bits::RDHUP == 0, "{bits:#x}");
        // One-shot, but by level: what is still there is told again.
        assert_ne!(rig.run(readable) & poll_bits::IN, 0);
        assert_eq!(rig.run(recv(Sock::Client(33), 0, false)), 1);
        client.shutdown(Shutdown::Write).expect("shut");
        assert_ne!(rig.run(readable) & poll_bits::RDHUP, 0);
        assert_eq!(rig.run(recv(Sock::Client(33), 0, false)), 0, "end of stream");
    });
}

#[test]
fn a_shut_sending_side_ends_one_direction_only() {
    everywhere(|setup| {
        let mut rig = Rig::new(setup);
        let mut client = rig.client(4);
        rig.fill(0, b"bye");
        assert_eq!(rig.run(send(Sock::Client(4), 0, 3, false)), 3);
        assert_eq!(rig.run(Op::Shutdown { sock: Sock::Client(4) }), 0);
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).expect("an end without an error");
        assert_eq!(rest, b"bye");
        client.write_all(b"still here").expect("sent");
        assert_eq!(rig.run(recv(Sock::Client(4), 1, true)), 10);
        assert_eq!(rig.run(send(Sock::Client(4), 0, 3, false)), -errno::EPIPE);
    });
}

#[test]
fn a_reset_is_an_error_and_no_signal() {
    everywhere(|setup| {
        let mut rig = Rig::new(setup);
        let client = rig.client(4);
        // Unread bytes at close make a reset (tcp(7), RFC 2525 section 2.17).
        rig.fill(0, b"unread");
        assert_eq!(rig.run(send(Sock::Client(4), 0, 6, false)), 6);
        client.peek(&mut [0; 6]).expect("arrived");
        drop(client);
        let bits = rig.run(Op::Poll { sock: Sock::Client(4), interest: Interest::Readable });
        assert_ne!(bits & poll_bits::HUP, 0, "{bits:#x}");
        assert_eq!(rig.run(recv(Sock::Client(4), 1, false)), -errno::ECONNRESET);
        assert_eq!(rig.run(send(Sock::Client(4), 0, 6, false)), -errno::EPIPE);
    });
}

#[test]
fn ops_on_an_empty_slot_fail_without_harm() {
    const EBADF: i32 = 9;
    everywhere(|setup| {
        let mut rig = Rig::new(setup);
        assert_eq!(rig.run(recv(Sock::Client(8), 0, false)), -EBADF);
        assert_eq!(rig.run(Op::Poll { sock: Sock::Client(8), interest: Interest::Readable }), -EBADF);
        assert_eq!(rig.run(Op::Close { sock: Sock::Client(8) }), -EBADF);
        let mut client = rig.client(8);
        client.write_all(b"ok").expect("sent");
        assert_eq!(rig.run(recv(Sock::Client(8), 0, true)), 2);
    });
}

#[test]
#[should_panic(expected = "index out of bounds")]
fn ops_beyond_the_started_slots_are_a_bug() {
    let setup = Setup {
        features: roost_ring::FeaturesMax::Direct,
        slots_max: 8,
        ring_slots_max: 4,
        cq_entries: 64,
        busy_poll: Duration::ZERO,
    };
    let mut rig = Rig::new(setup);
    rig.start(Op::Close { sock: Sock::Client(8) });
}

#[test]
fn many_sends_share_one_block() {
    everywhere(|setup| {
        let mut rig = Rig::new(setup);
        let mut clients: Vec<_> = (0..64).map(|slot| rig.client(slot)).collect();
        rig.fill(0, b"to all of you");
        let sends: Vec<_> = (0..64).map(|slot| rig.start(send(Sock::Client(slot), 0, 13, false))).collect();
        // Readers may look, and other bytes of the block may be written meanwhile.
        rig.driver.write(Rig::block(0), 13, b"next");
        assert_eq!(&rig.driver.block(Rig::block(0))[..17], b"to all of younext");
        for token in sends {
            assert_eq!(rig.finish(token), 13);
        }
        for client in &mut clients {
            let mut got = [0; 13];
            client.read_exact(&mut got).expect("received");
            assert_eq!(&got, b"to all of you");
        }
        rig.driver.block_mut(Rig::block(0))[0] = 0;
    });
}
