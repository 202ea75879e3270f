//! The table of owners while it is learnt: every answer is right, whatever it holds by then.

use roost_protocol::{
    ConnectionId,
    link::{Header, LinkType},
};

use super::rig::{Rig, owner};
use crate::core::record::State;

const NONE: ConnectionId = ConnectionId::from_bits(0);
/// Turns in which a table of 16,384 partitions is learnt.
const TURNS: usize = 17;

/// Workers `w0`, `w1`, ... of which the `absent` last are not up. With all of them up, a table takes
/// [`TURNS`].
fn rig(workers: usize, absent: usize) -> Rig {
    Rig::new(256, (workers, absent), |config| config.bounds.weights = 1_000 * workers as u32)
}

/// new clients, one a turn, go to whoever of these owns their keys.
fn come(rig: &mut Rig, clients: std::ops::Range<u32>, up: &[usize]) {
    for number in clients {
        let key = number.to_be_bytes();
        let slot = rig.client(&key);
        assert_eq!(usize::from(rig.view(slot).worker), owner(&key, up), "client {number}");
        rig.turn();
    }
}

fn drain(rig: &mut Rig, link: usize) {
    rig.frame(link, Header::new(LinkType::Draining, NONE, 0), b"");
}

#[test]
fn who_comes_while_the_table_is_learnt_goes_to_its_owner() {
    let mut rig = rig(3, 1);
    come(&mut rig, 0..30, &[0, 1]);
    rig.up(2, 9, None);
    come(&mut rig, 30..60, &[0, 1, 2]);
    drain(&mut rig, 2);
    come(&mut rig, 60..90, &[0, 1]);
    // while all want to leave, all count.
    drain(&mut rig, 1);
    drain(&mut rig, 0);
    come(&mut rig, 90..120, &[0, 1, 2]);
}

#[test]
fn a_worker_that_fails_owns_nothing_from_then_on() {
    let mut rig = rig(3, 0);
    come(&mut rig, 0..30, &[0, 1, 2]);
    rig.cut(0);
    rig.pass(rig.now_ms + 11_000, 500, &[1, 2]);
    come(&mut rig, 30..60, &[1, 2]);
}

#[test]
fn connections_are_moved_when_the_table_is_whole() {
    let mut rig = rig(2, 1);
    let keys = (0..100_000_u32).map(u32::to_be_bytes).filter(|key| owner(key, &[0, 1]) == 1);
    let slots: Vec<u32> = keys.take(8).map(|key| rig.open_client(&key)).collect();
    rig.ack(0);
    rig.turns(TURNS as u32);
    rig.up(1, 9, None);
    let moving = |rig: &Rig| {
        let told = |slot: u32| rig.told(0, rig.view(slot).connection);
        slots.iter().filter(|&&slot| told(slot).iter().any(|told| told.0 == LinkType::Closed)).count()
    };
    assert_eq!(moving(&rig), 0);
    rig.turns(TURNS as u32);
    assert_eq!(moving(&rig), slots.len());
    assert!(slots.iter().all(|&slot| rig.view(slot).state == State::Open));
}
