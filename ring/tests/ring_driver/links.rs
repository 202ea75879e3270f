//! Sockets towards workers, and the waker.

use std::{
    io::{Read, Write},
    net::TcpListener,
    os::unix::net::UnixListener,
    thread,
    time::{Duration, Instant},
};

use roost_ring::op::{Driver, LinkAddress, Op, Sock, Wait, errno};

use super::rig::{LIMIT, Rig, everywhere, recv, send};

/// Connects link 1, echoes through it, closes it, and does it all again.
fn exchange(rig: &mut Rig, address: LinkAddress, mut accept: impl FnMut() -> Box<dyn ReadWrite>) {
    rig.driver.set_link_address(1, address);
    let sock = Sock::Link(1);
    for _ in 0..3 {
        assert_eq!(rig.run(Op::Connect { link: 1 }), 0);
        let mut worker = accept();
        rig.fill(0, b"frames");
        assert_eq!(rig.run(send(sock, 0, 6, true)), 6);
        let mut got = [0; 6];
        worker.read_exact(&mut got).expect("received");
        assert_eq!(&got, b"frames");
        let receive = rig.start(recv(sock, 1, true));
        rig.turn(Wait::No);
        worker.write_all(b"and back").expect("sent");
        let len = rig.finish(receive);
        assert_eq!(rig.bytes(1, len), b"and back");
        // Closing joins first, like everything.
        let armed = rig.start(recv(sock, 1, true));
        rig.turn(Wait::No);
        assert_eq!(rig.run(Op::Cancel { sock, target: armed }), 0);
        assert_eq!(rig.finish(armed), -errno::ECANCELED);
        assert_eq!(rig.run(Op::Close { sock }), 0);
        assert_eq!(worker.read(&mut got).expect("an end"), 0);
    }
    rig.assert_quiet();
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

#[test]
fn links_run_over_tcp() {
    everywhere(|setup| {
        let mut rig = Rig::new(setup);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = LinkAddress::Tcp(listener.local_addr().expect("an address"));
        exchange(&mut rig, address, || Box::new(listener.accept().expect("a link").0));
    });
}

#[test]
fn links_run_over_unix_sockets() {
    everywhere(|setup| {
        let mut rig = Rig::new(setup);
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("worker");
        let listener = UnixListener::bind(&path).expect("a socket");
        exchange(&mut rig, LinkAddress::Unix(path), || Box::new(listener.accept().expect("a link").0));
    });
}

#[test]
fn failed_connects_complete_with_their_reason() {
    const ENOENT: i32 = 2;
    const ENAMETOOLONG: i32 = 36;
    const EDESTADDRREQ: i32 = 89;
    everywhere(|setup| {
        let mut rig = Rig::new(setup);
        assert_eq!(rig.run(Op::Connect { link: 7 }), -EDESTADDRREQ);
        let gone = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
        rig.driver.set_link_address(7, LinkAddress::Tcp(gone));
        for _ in 0..3 {
            assert_eq!(rig.run(Op::Connect { link: 7 }), -errno::ECONNREFUSED);
            assert_eq!(rig.run(Op::Close { sock: Sock::Link(7) }), 0);
        }
        let dir = tempfile::tempdir().expect("a directory");
        rig.driver.set_link_address(7, LinkAddress::Unix(dir.path().join("nobody")));
        assert_eq!(rig.run(Op::Connect { link: 7 }), -ENOENT);
        rig.driver.set_link_address(7, LinkAddress::Unix(dir.path().join("x".repeat(200))));
        assert_eq!(rig.run(Op::Connect { link: 7 }), -ENAMETOOLONG);
        rig.assert_quiet();
    });
}

#[test]
fn a_worker_that_goes_away_ends_the_link() {
    everywhere(|setup| {
        let mut rig = Rig::new(setup);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        rig.driver.set_link_address(0, LinkAddress::Tcp(listener.local_addr().expect("an address")));
        assert_eq!(rig.run(Op::Connect { link: 0 }), 0);
        let receive = rig.start(recv(Sock::Link(0), 0, true));
        drop(listener.accept().expect("a link"));
        assert_eq!(rig.finish(receive), 0);
    });
}

#[test]
fn the_waker_ends_a_wait_and_counts_once() {
    everywhere(|setup| {
        let mut rig = Rig::new(setup);
        let waker = rig.driver.waker();
        for round in 1..=20 {
            let waker = waker.clone();
            let thread = thread::spawn(move || {
                if round % 2 == 0 {
                    thread::sleep(Duration::from_millis(2));
                }
                waker.wake();
                waker.wake();
            });
            let start = Instant::now();
            while rig.wakes == 0 {
                rig.turn(Wait::AtMost(LIMIT));
            }
            assert!(start.elapsed() < LIMIT / 2, "only the deadline ended the wait");
            thread.join().expect("a waker");
            // The second call may have come after the first was served; not a third time.
            rig.turn(Wait::AtMost(Duration::from_millis(5)));
            assert!(rig.wakes <= 2, "{} wakes for two calls", rig.wakes);
            rig.wakes = 0;
        }
    });
}

#[test]
fn a_wait_ends_at_its_deadline() {
    everywhere(|setup| {
        let mut rig = Rig::new(setup);
        rig.turn(Wait::No);
        let start = Instant::now();
        assert_eq!(rig.turn(Wait::AtMost(Duration::from_millis(50))), 0);
        assert!(start.elapsed() >= Duration::from_millis(45), "{:?}", start.elapsed());
    });
}
