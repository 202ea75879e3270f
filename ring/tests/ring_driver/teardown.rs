//! Dropping a driver whose ops are in the kernel.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use roost_ring::op::{Driver, Interest, LinkAddress, Op, Sock, Wait};

use super::rig::{LIMIT, Rig, everywhere, recv, send};

#[test]
fn a_dropped_driver_ends_its_ops_and_its_connections() {
    everywhere(|setup| {
        let mut rig = Rig::new(setup);
        let worker = TcpListener::bind("127.0.0.1:0").expect("a port");
        rig.driver.set_link_address(0, LinkAddress::Tcp(worker.local_addr().expect("an address")));
        assert_eq!(rig.run(Op::Connect { link: 0 }), 0);
        let (mut worker, _) = worker.accept().expect("a link");
        worker.set_read_timeout(Some(LIMIT)).expect("a timeout");
        let mut clients: Vec<_> = (0..12).map(|slot| rig.client(slot)).collect();
        // One of everything that waits, some submitted, some only queued.
        for slot in 0..12 {
            rig.start(match slot % 3 {
                0 => Op::Poll { sock: Sock::Client(slot), interest: Interest::Readable },
                1 => recv(Sock::Client(slot), slot, true),
                _ => Op::Accept { slot: slot + 20, listener: 0, expected: false },
            });
            if slot == 8 {
                rig.turn(Wait::No);
            }
        }
        rig.start(recv(Sock::Link(0), 100, true));
        let start = Instant::now();
        drop(rig);
        assert!(start.elapsed() < Duration::from_secs(1), "memory was given up on: {:?}", start.elapsed());
        for client in clients.iter_mut().chain([&mut worker]) {
            // An end or a reset, but no time-out. The kernel may interrupt this thread to have it
            // end ops of the dropped rings.
            match client.read_to_end(&mut Vec::new()) {
                Ok(bytes) => assert_eq!(bytes, 0),
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
            }
        }
    });
}

#[test]
fn a_receive_cannot_reach_memory_that_was_given_back() {
    everywhere(|setup| {
        let mut rig = Rig::new(setup);
        let mut client = rig.client(0);
        for block in 0..8 {
            rig.start(recv(Sock::Client(0), block, true));
        }
        rig.turn(Wait::No);
        drop(rig);
        // Whoever maps memory next might get the address of the blocks. If a receive were still
        // armed, these bytes would land in it.
        let fresh: Vec<Vec<u8>> = (0..16).map(|_| vec![0u8; 4 << 20]).collect();
        let _ = client.write_all(&[0xff; 4096]);
        std::thread::sleep(Duration::from_millis(10));
        assert!(fresh.iter().all(|bytes| bytes.iter().all(|byte| *byte == 0)));
    });
}

#[test]
fn a_full_send_does_not_hold_up_the_end() {
    everywhere(|setup| {
        let mut rig = Rig::new(setup);
        let client: TcpStream = rig.client(0);
        // Nobody reads: at some point a send waits.
        for _ in 0..100_000 {
            let sent = rig.start(send(Sock::Client(0), 0, Rig::BLOCK_BYTES, true));
            rig.turn(Wait::AtMost(Duration::from_millis(50)));
            if rig.done.remove(&sent).is_none() {
                let start = Instant::now();
                drop(rig);
                assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
                drop(client);
                return;
            }
        }
        panic!("a loopback socket that never fills up");
    });
}
