//! Turns that let completions gather.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use roost_ring::op::{Interest, Op, Sock, Token, Wait, errno};

use super::rig::{LIMIT, Rig, everywhere, recv};

/// On ring 0, with one ring and in a bank: the others' ops have completed before anything gathers.
const SOCK: Sock = Sock::Client(1);

#[test]
fn a_lone_completion_comes_when_the_time_is_up() {
    everywhere(|setup| {
        let mut rig = Rig::new(setup);
        let mut client = rig.client(1);
        let poll = rig.start(Op::Poll { sock: SOCK, interest: Interest::Readable });
        client.write_all(b"x").expect("sent");
        let gather = Duration::from_millis(5);
        while !rig.done.contains_key(&poll) {
            rig.turn(Wait::Gather { at_most: LIMIT, gather });
        }
        rig.done.clear();
        rig.turn(Wait::Gather { at_most: 4 * gather, gather });
        rig.assert_quiet();
    });
}

#[test]
fn a_full_turn_waits_no_longer() {
    everywhere(|setup| {
        let mut rig = Rig::new(setup);
        let _client = rig.client(1);
        let begun = Instant::now();
        for unknown in 0..Wait::GATHERED as u32 {
            rig.start(Op::Cancel { sock: SOCK, target: Token::new(2, 1, unknown) });
        }
        while rig.done.len() < Wait::GATHERED {
            rig.turn(Wait::Gather { at_most: LIMIT, gather: LIMIT });
        }
        assert!(begun.elapsed() < LIMIT, "it gathered for {:?}", begun.elapsed());
    });
}

#[test]
fn a_receive_that_answers_at_once_is_not_put_off() {
    everywhere(|setup| {
        let mut rig = Rig::new(setup);
        let _client = rig.client(1);
        let begun = Instant::now();
        let receive = rig.start(recv(SOCK, 0, false));
        while !rig.done.contains_key(&receive) {
            rig.turn(Wait::Gather { at_most: LIMIT, gather: LIMIT });
        }
        assert_eq!(rig.done.remove(&receive), Some(-errno::EAGAIN));
        assert!(begun.elapsed() < LIMIT, "it was put off for {:?}", begun.elapsed());
        rig.assert_quiet();
    });
}
