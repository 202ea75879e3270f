//! Many rings, many connections, and more completions than fit.

use std::{
    collections::HashSet,
    io::Write,
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use roost_ring::{
    Config, Features, FeaturesMax, UringDriver,
    op::{Driver, Interest, LinkAddress, Op, Sock, Token, Wait, errno},
};

use super::rig::{LIMIT, Rig, Setup, in_every_tier, recv, skip};

/// Every tier, with rings large and small, at this many slots.
pub(crate) fn at_size(slots_max: u32, test: fn(Setup)) {
    in_every_tier(slots_max, &[slots_max, slots_max / 3, 100], 64, test);
}

/// Connected clients in slots 0.., each with a poll parked on it.
pub(crate) fn park(rig: &mut Rig, clients: u32) -> (Vec<TcpStream>, Vec<Token>) {
    let streams: Vec<_> = (0..clients).map(|slot| rig.client(slot)).collect();
    let poll = |slot| Op::Poll { sock: Sock::Client(slot), interest: Interest::Readable };
    let polls = (0..clients).map(|slot| rig.start(poll(slot))).collect();
    rig.turn(Wait::No);
    (streams, polls)
}

#[test]
fn slots_are_started_ring_by_ring() {
    let features = Features::detect(FeaturesMax::Direct).expect("io_uring");
    if !features.banks() {
        skip("slots_are_started_ring_by_ring", "rings do not signal");
        return;
    }
    let config = Config { ring_slots_max: 100, ..Config::new(250, Vec::new(), Vec::new()) };
    let mut driver = UringDriver::new(&features, config).expect("a driver");
    let mut started = vec![driver.slots_started()];
    for _ in 0..3 {
        driver.start_slots().expect("a ring");
        started.push(driver.slots_started());
    }
    assert_eq!(started, [100, 200, 250, 250]);
    assert_eq!(driver.slots_per_ring(), 100);
}

/// All at once, into completion queues of 64.
#[test]
fn no_poll_is_lost_in_a_storm() {
    at_size(2000, |setup| {
        let mut rig = Rig::new(setup);
        let (mut streams, mut polls) = park(&mut rig, 2000);
        for round in 0..3 {
            for stream in &mut streams {
                stream.write_all(&[round]).expect("sent");
            }
            let start = Instant::now();
            while rig.done.len() < polls.len() {
                let completions = rig.turn(Wait::AtMost(Duration::from_millis(100)));
                assert!(completions <= 1024, "{completions} completions in one turn");
                assert!(start.elapsed() < LIMIT, "{} of {} polls", rig.done.len(), polls.len());
            }
            for (slot, poll) in polls.iter_mut().enumerate() {
                let sock = Sock::Client(slot as u32);
                assert!(rig.done.remove(poll).expect("all done") > 0);
                let receive = rig.start(recv(sock, slot as u32, false));
                assert_eq!(rig.finish(receive), 1, "slot {slot}");
                assert_eq!(rig.bytes(slot as u32, 1), [round]);
                *poll = rig.start(Op::Poll { sock, interest: Interest::Readable });
            }
            assert!(rig.done.is_empty(), "nothing to read, but {:?}", rig.done);
        }
    });
}

/// Signals between rings come and go all the time here; the waits are so long that a lost one
/// would show.
#[test]
fn single_messages_wake_their_rings() {
    at_size(12, |setup| {
        let mut rig = Rig::new(Setup { ring_slots_max: setup.ring_slots_max.min(3), ..setup });
        let (mut streams, mut polls) = park(&mut rig, 12);
        for round in 0..1500usize {
            // A walk over rings near and far, with pauses in which all of them fall asleep.
            let slot = round * 7 % 12;
            if round % 5 == 0 {
                rig.turn(Wait::AtMost(Duration::from_micros(50)));
            }
            streams[slot].write_all(b"x").expect("sent");
            let start = Instant::now();
            while !rig.done.contains_key(&polls[slot]) {
                rig.turn(Wait::AtMost(LIMIT));
            }
            assert!(start.elapsed() < LIMIT / 2, "a signal was lost in round {round}");
            rig.finish(polls[slot]);
            assert_eq!(rig.run(recv(Sock::Client(slot as u32), 0, false)), 1);
            polls[slot] =
                rig.start(Op::Poll { sock: Sock::Client(slot as u32), interest: Interest::Readable });
        }
    });
}

/// Far more ops in one turn than submission queues have entries, and more completions than completion
/// queues have.
#[test]
fn a_turn_takes_any_number_of_ops() {
    at_size(1000, |setup| {
        let mut rig = Rig::new(setup);
        let (streams, polls) = park(&mut rig, 1000);
        let tokens: Vec<_> =
            (0..4000).map(|index| rig.start(recv(Sock::Client(index % 1000), index, false))).collect();
        for token in tokens {
            assert_eq!(rig.finish(token), -errno::EAGAIN);
        }
        let counts = rig.driver.counts();
        assert!(counts.full_queues > 0 && counts.overflows > 0, "not provoked: {counts:?}");
        drop(streams);
        for poll in polls {
            assert!(rig.finish(poll) > 0);
        }
        rig.assert_quiet();
    });
}

/// Clients that always have something to say must not keep a link waiting, nor one ring another.
#[test]
fn busy_rings_starve_nobody() {
    at_size(600, |setup| {
        let mut rig = Rig::new(setup);
        let worker = TcpListener::bind("127.0.0.1:0").expect("a port");
        rig.driver.set_link_address(0, LinkAddress::Tcp(worker.local_addr().expect("an address")));
        assert_eq!(rig.run(Op::Connect { link: 0 }), 0);
        let (mut worker, _) = worker.accept().expect("a link");
        let (mut streams, polls) = park(&mut rig, 600);
        // Never read, so each poll completes as soon as it is armed.
        for stream in &mut streams {
            stream.write_all(b"x").expect("sent");
        }
        for poll in polls {
            rig.finish(poll);
        }
        let mut seen = HashSet::new();
        let poll = |slot| Op::Poll { sock: Sock::Client(slot), interest: Interest::Readable };
        // Three polls each: more completions than one turn returns.
        let mut polls: Vec<_> = (0..1800).map(|index| (rig.start(poll(index % 600)), index % 600)).collect();
        let link = rig.start(recv(Sock::Link(0), 0, true));
        rig.turn(Wait::No);
        worker.write_all(b"urgent").expect("sent");
        let mut turns = 0;
        while !rig.done.contains_key(&link) || seen.len() < 600 {
            turns += 1;
            assert!(
                turns < 200,
                "starved: link {}, {} of 600 slots",
                rig.done.contains_key(&link),
                seen.len()
            );
            for (token, slot) in &mut polls {
                if rig.done.remove(token).is_some() {
                    seen.insert(*slot);
                    *token = rig.start(poll(*slot));
                }
            }
            rig.turn(Wait::No);
        }
        eprintln!("link and all slots served after {turns} turns");
    });
}
