//! When links are dialled, and what is said of it.

use roost_protocol::{
    InstanceId,
    link::{self, LinkHello, LinkType, Split},
};

use super::workers::Rig;
use crate::{
    core::{
        Redial,
        event::{Event, LinkDownCause},
        link::LinkState,
    },
    op::{Op, Sock, errno},
};

impl Rig {
    fn addresses(&mut self, count: usize, redial: Redial) {
        self.core.set_addresses(&mut self.hands, 0, count, redial);
        self.turn();
    }

    fn is_dialling(&self) -> bool {
        self.hands.ops().any(|(_, op)| matches!(op, Op::Connect { .. }))
    }

    /// The dial in the kernel fails, and the socket is closed.
    fn fail(&mut self, errno: i32) {
        assert!(self.end(|op| matches!(op, Op::Connect { .. }), -errno), "it is dialled");
        self.settle();
    }

    /// Waits for the next dial; how long that takes, in milliseconds.
    fn await_dial(&mut self) -> u64 {
        let from_ms = self.now_ms;
        while !self.is_dialling() {
            assert!(self.now_ms < from_ms + 10_000, "it is not dialled any more");
            self.turn();
        }
        self.now_ms - from_ms
    }

    /// What was said of attempts that failed: errnos and counts.
    fn said(&mut self) -> Vec<(i32, u32)> {
        let said = self.events.drain(..).filter_map(|event| match event {
            Event::LinkDown { cause: LinkDownCause::Dial { errno }, was_up: false, failures, .. } => {
                Some((errno, failures))
            }
            _ => None,
        });
        said.collect()
    }
}

#[test]
fn every_address_has_its_turn_before_there_is_a_pause() {
    let mut rig = Rig::new(&["w"]);
    rig.addresses(3, Redial::InTurn);
    for _ in 0..3 {
        for _ in 0..2 {
            rig.fail(errno::ECONNREFUSED);
            assert!(rig.await_dial() <= 1, "the next address is dialled at once");
        }
        rig.fail(errno::ECONNREFUSED);
        assert!(rig.await_dial() >= 20, "none has answered: there is a pause");
        let mut broken = Vec::new();
        rig.core.take_broken(|index, failed| broken.push((index, failed)));
        assert_eq!(broken, [(0, true)]);
    }
}

#[test]
fn a_connect_to_one_of_several_addresses_ends_while_there_is_time_for_the_others() {
    let mut rig = Rig::new(&["w"]);
    rig.addresses(4, Redial::InTurn);
    let state = |rig: &Rig| rig.core.link_views().next().expect("a link").state;
    rig.now_ms += 2_000;
    rig.turn();
    assert_eq!(state(&rig), LinkState::Connecting);
    rig.now_ms += 600;
    rig.turn();
    rig.settle();
    assert!(rig.await_dial() <= 1, "of 10 s each of four has 2.5");
    rig.addresses(1, Redial::InTurn);
    rig.now_ms += 9_900;
    rig.turn();
    assert_eq!(state(&rig), LinkState::Connecting, "a lone one has it all");
}

#[test]
fn a_link_without_an_address_waits_in_silence_and_is_dialled_when_it_has_one() {
    let mut rig = Rig::new(&["w"]);
    rig.fail(errno::EDESTADDRREQ);
    rig.now_ms += 60_000;
    rig.turn();
    assert!(!rig.is_dialling());
    assert_eq!(rig.said(), []);
    rig.addresses(2, Redial::InTurn);
    assert!(rig.is_dialling());
}

#[test]
fn a_cause_is_said_once_and_then_at_growing_intervals() {
    let mut rig = Rig::new(&["w"]);
    for _ in 0..20 {
        rig.fail(errno::ECONNREFUSED);
        rig.await_dial();
    }
    rig.fail(errno::ETIMEDOUT);
    rig.await_dial();
    let refused = [(errno::ECONNREFUSED, 1), (errno::ECONNREFUSED, 8), (errno::ECONNREFUSED, 16)];
    assert_eq!(rig.said(), [&refused[..], &[(errno::ETIMEDOUT, 21)]].concat());
    // Two addresses that fail in two ways are not a change each time.
    rig.addresses(2, Redial::InTurn);
    for errno in [errno::ECONNREFUSED, errno::ETIMEDOUT].repeat(5) {
        rig.fail(errno);
        rig.await_dial();
    }
    assert_eq!(rig.said(), [(errno::ECONNREFUSED, 22)]);
    rig.fail(errno::ECONNREFUSED);
    assert_eq!(rig.said(), [(errno::ECONNREFUSED, 32)]);
}

#[test]
fn another_address_is_dialled_at_once_and_the_session_goes_on_there() {
    let mut rig = Rig::new(&["w"]);
    rig.hands.welcome_link(&mut rig.core, 64 * 1024);
    rig.settle();
    // So that it is known that the worker knows of the session.
    rig.acknowledge(0);
    rig.addresses(1, Redial::Soon);
    assert_eq!(rig.core.link_views().next().expect("a link").state, LinkState::Up, "it is well where it is");
    rig.addresses(1, Redial::Now);
    rig.settle();
    assert!(rig.await_dial() <= 1);
    assert!(
        rig.events.iter().any(|event| {
            matches!(event, Event::LinkDown { cause: LinkDownCause::Moved, was_up: true, .. })
        })
    );
    assert!(rig.core.link_views().next().expect("a link").session.is_some());
    rig.end(|op| matches!(op, Op::Connect { .. }), 0);
    rig.turn();
    let hello = rig.hands.take(|_, op| matches!(op, Op::Send { sock: Sock::Link(0), .. })).expect("HELLO");
    let (_, bytes) = rig.hands.end_send(hello, usize::MAX);
    let Ok(Split::Frame { header, payload }) = link::split(&bytes, u32::MAX) else { panic!("a frame") };
    assert_eq!(header.link_type, LinkType::LinkHello);
    assert_eq!(LinkHello::decode(payload).expect("HELLO").expected_worker, InstanceId([2; 16]));
}
