//! Cancelling what is armed, also when it is just succeeding.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use roost_ring::op::{Interest, Op, Sock, Wait, errno};

use super::rig::{Rig, everywhere, recv};

const READABLE: Interest = Interest::Readable;

/// Results that a cancel may have.
fn is_cancel_result(result: i32) -> bool {
    [0, -errno::ENOENT, -errno::EALREADY].contains(&result)
}

#[test]
fn armed_ops_end_when_cancelled() {
    everywhere(|setup| {
        let mut rig = Rig::new(setup);
        let _client = rig.client(9);
        let sock = Sock::Client(9);
        for op in [
            Op::Poll { sock, interest: READABLE },
            recv(sock, 0, true),
            Op::Accept { slot: 10, listener: 0, expected: false },
        ] {
            let target = rig.start(op);
            rig.turn(Wait::AtMost(Duration::from_millis(5)));
            assert_eq!(rig.run(Op::Cancel { sock, target }), 0, "{op:?}");
            assert_eq!(rig.finish(target), -errno::ECANCELED, "{op:?}");
            assert_eq!(rig.run(Op::Cancel { sock, target }), -errno::ENOENT, "{op:?}");
        }
        rig.assert_quiet();
    });
}

#[test]
fn a_cancel_hits_its_target_alone() {
    everywhere(|setup| {
        let mut rig = Rig::new(setup);
        let mut clients: Vec<_> = (0..12).map(|slot| rig.client(slot)).collect();
        let polls: Vec<_> = (0..12)
            .map(|slot| rig.start(Op::Poll { sock: Sock::Client(slot), interest: READABLE }))
            .collect();
        assert_eq!(rig.run(Op::Cancel { sock: Sock::Client(5), target: polls[5] }), 0);
        assert_eq!(rig.finish(polls[5]), -errno::ECANCELED);
        assert!(rig.done.is_empty());
        for client in &mut clients {
            client.write_all(b"x").expect("sent");
        }
        for (slot, poll) in polls.into_iter().enumerate().filter(|(slot, _)| *slot != 5) {
            assert!(rig.finish(poll) > 0, "slot {slot}");
        }
    });
}

#[test]
fn a_cancel_racing_success_loses_nothing() {
    everywhere(|setup| {
        let mut rig = Rig::new(setup);
        let mut client = rig.client(6);
        let sock = Sock::Client(6);
        let mut outcomes = [0; 2];
        for round in 0..200u32 {
            let target = rig.start(recv(sock, 0, true));
            if round % 4 != 0 {
                rig.turn(Wait::No);
            }
            client.write_all(b"racing").expect("sent");
            let cancel = rig.start(Op::Cancel { sock, target });
            assert!(is_cancel_result(rig.finish(cancel)));
            match rig.finish(target) {
                6 => outcomes[0] += 1,
                error => {
                    assert_eq!(error, -errno::ECANCELED);
                    outcomes[1] += 1;
                    // What was not received is still there.
                    assert_eq!(rig.run(recv(sock, 0, true)), 6);
                }
            }
            assert_eq!(rig.bytes(0, 6), b"racing");
        }
        eprintln!("{} succeeded, {} were cancelled", outcomes[0], outcomes[1]);
        rig.assert_quiet();
    });
}

#[test]
fn a_cancelled_accept_that_succeeds_has_a_client() {
    everywhere(|setup| {
        let mut rig = Rig::new(setup);
        for _ in 0..100 {
            let target = rig.start(Op::Accept { slot: 3, listener: 0, expected: false });
            rig.turn(Wait::No);
            let mut client = TcpStream::connect(rig.address).expect("a connection");
            let cancel = rig.start(Op::Cancel { sock: Sock::Client(3), target });
            assert!(is_cancel_result(rig.finish(cancel)));
            let result = rig.finish(target);
            if result != 0 {
                assert_eq!(result, -errno::ECANCELED);
                assert_eq!(rig.run(Op::Accept { slot: 3, listener: 0, expected: false }), 0);
            }
            client.write_all(b"hi").expect("sent");
            assert_eq!(rig.run(recv(Sock::Client(3), 0, true)), 2);
            assert_eq!(rig.run(Op::Close { sock: Sock::Client(3) }), 0);
            assert_eq!(client.read(&mut [0; 1]).expect("an end"), 0);
        }
        rig.assert_quiet();
    });
}
