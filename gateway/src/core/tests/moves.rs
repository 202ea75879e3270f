//! Connections that are to go from one worker to another: none is forgotten, and no worker can hold
//! them for ever.

use roost_protocol::{
    ConnectionId,
    link::{Header, LinkType},
};

use super::rig::{Rig, key_of, owner};
use crate::core::{ListenerConfig, link::LinkState, record::State};

const NONE: ConnectionId = ConnectionId::from_bits(0);

/// Keys that belong to w0 while it is alone, and then to this one.
fn keys(count: usize, owned_by: usize) -> Vec<[u8; 4]> {
    (0..100_000u32).map(u32::to_be_bytes).filter(|key| owner(key, &[0, 1]) == owned_by).take(count).collect()
}

fn closed(rig: &Rig, link: usize, slot: u32) -> bool {
    rig.told(link, rig.view(slot).connection).iter().any(|told| told.0 == LinkType::Closed)
}

fn moved(rig: &mut Rig, link: usize, slot: u32) {
    let header = rig.about(slot, LinkType::Moved);
    rig.frame(link, header, b"");
    rig.turn();
}

#[test]
fn who_opens_after_its_owner_has_changed_goes_there() {
    let mut rig = Rig::new(64, (2, 1), |_| ());
    let theirs: Vec<u32> = keys(8, 1).iter().map(|key| rig.client(key)).collect();
    let own: Vec<u32> = keys(8, 0).iter().map(|key| rig.client(key)).collect();
    rig.turn();
    rig.up(1, 9, None);
    rig.turns(3);
    for &slot in theirs.iter().chain(&own) {
        assert_eq!(rig.view(slot).worker, 0, "w0 has yet to answer");
        rig.accept(slot);
    }
    for &slot in &theirs {
        assert!(closed(&rig, 0, slot), "w0 is to let slot {slot} go");
        moved(&mut rig, 0, slot);
        assert_eq!(rig.view(slot).worker, 1);
    }
    assert!(own.iter().all(|&slot| rig.view(slot).worker == 0 && !closed(&rig, 0, slot)));
}

#[test]
fn who_opens_at_a_worker_that_drains_leaves_it() {
    let mut rig = Rig::new(64, (2, 0), |_| ());
    let slots: Vec<u32> = keys(6, 0).iter().map(|key| rig.client(key)).collect();
    rig.turn();
    rig.frame(0, Header::new(LinkType::Draining, NONE, 0), b"");
    rig.turns(3);
    for &slot in &slots {
        rig.accept(slot);
        moved(&mut rig, 0, slot);
        assert_eq!(rig.view(slot).worker, 1);
    }
    assert_eq!(rig.link(0).connections, 0);
}

#[test]
fn who_opens_while_its_worker_has_enough_to_let_go_is_moved_later() {
    let mut rig = Rig::new(64, (2, 1), |config| {
        (config.bounds.moving, config.bounds.routing_visits) = (2, 1);
    });
    let slots: Vec<u32> = keys(9, 1).iter().map(|key| rig.client(key)).collect();
    rig.turn();
    rig.up(1, 9, None);
    rig.turns(80);
    slots.iter().rev().for_each(|&slot| rig.accept(slot));
    for _ in 0..slots.len() {
        let waiting = slots.iter().copied().find(|&slot| rig.view(slot).worker == 0 && closed(&rig, 0, slot));
        moved(&mut rig, 0, waiting.expect("one is to go"));
        rig.turns(80);
    }
    assert!(slots.iter().all(|&slot| rig.view(slot).worker == 1));
}

#[test]
fn a_worker_that_lives_and_does_not_let_go_is_given_up() {
    let mut rig = Rig::new(64, (2, 1), |_| ());
    let slot = rig.open_client(&key_of(&[1, 0]));
    rig.ack(0);
    assert!(rig.say(slot, &[1]));
    let id = rig.view(slot).connection;
    rig.up(1, 9, None);
    rig.turns(3);
    assert!(closed(&rig, 0, slot));
    assert!(!rig.say(slot, &[2]), "it is not read");
    let told_ms = rig.now_ms;
    // It gets on with what comes before, and then with everything else.
    rig.pass(told_ms + 5_000, 500, &[0, 1]);
    rig.ack(0);
    rig.pass(told_ms + 14_500, 500, &[0, 1]);
    assert_eq!(rig.link(0).state, LinkState::Up, "it may take its time");
    let others = rig.open_client(&key_of(&[0, 1]));
    rig.ack(0);
    rig.pass(told_ms + 14_999, 499, &[0, 1]);
    assert_eq!(rig.view(slot).worker, 0);
    rig.pass(told_ms + 15_100, 1, &[1]);
    assert_eq!(rig.view(slot).worker, 1);
    let told: Vec<LinkType> = rig.told(1, id).iter().map(|told| told.0).collect();
    assert_eq!(told, [LinkType::Reopen], "it had handled what it acknowledged");
    assert!(rig.say(slot, &[3]), "it is read again");
    assert_eq!(rig.view(others).state, State::Open, "nobody is closed");
}

#[test]
fn one_that_is_not_answered_among_many_is_not_covered_by_the_others() {
    let mut rig = Rig::new(64, (2, 1), |_| ());
    let slots: Vec<u32> = keys(6, 1).iter().map(|key| rig.open_client(key)).collect();
    rig.up(1, 9, None);
    rig.turns(3);
    rig.ack(0);
    let from_ms = rig.now_ms;
    for &slot in &slots[1..] {
        rig.pass(rig.now_ms + 1_500, 500, &[0, 1]);
        moved(&mut rig, 0, slot);
    }
    rig.pass(from_ms + 10_100, 100, &[1]);
    rig.turns(5);
    assert!(slots.iter().all(|&slot| rig.view(slot).worker == 1));
}

#[test]
fn moves_that_are_stuck_at_one_worker_hold_up_no_other() {
    let mut rig = Rig::new(64, (3, 1), |config| config.bounds.moving = 2);
    let all = (0..100_000u32).map(u32::to_be_bytes);
    let of = |from: usize| -> Vec<[u8; 4]> {
        let wanted = |key: &[u8; 4]| owner(key, &[0, 1]) == from && owner(key, &[0, 1, 2]) == 2;
        all.clone().filter(wanted).take(6).collect()
    };
    let stuck: Vec<u32> = of(0).iter().map(|key| rig.open_client(key)).collect();
    let free: Vec<u32> = of(1).iter().map(|key| rig.open_client(key)).collect();
    rig.up(2, 9, None);
    rig.turns(3);
    assert_eq!(stuck.iter().filter(|&&slot| closed(&rig, 0, slot)).count(), 2, "no more at once");
    for _ in 0..free.len() {
        let next = free.iter().copied().find(|&slot| rig.view(slot).worker == 1 && closed(&rig, 1, slot));
        moved(&mut rig, 1, next.expect("w1's go on"));
        rig.turns(2);
    }
    assert!(free.iter().all(|&slot| rig.view(slot).worker == 2));
    assert!(stuck.iter().all(|&slot| rig.view(slot).worker == 0));
}

#[test]
fn a_worker_that_no_longer_drains_gets_its_connections_back() {
    let mut rig = Rig::new(64, (2, 0), |_| ());
    let slots: Vec<u32> = keys(5, 0).iter().map(|key| rig.open_client(key)).collect();
    (0..2).for_each(|link| rig.ack(link));
    let drain = |rig: &mut Rig| {
        rig.frame(0, Header::new(LinkType::Draining, NONE, 0), b"");
        rig.turns(3);
    };
    drain(&mut rig);
    for &slot in &slots {
        moved(&mut rig, 0, slot);
        assert_eq!(rig.view(slot).worker, 1);
    }
    rig.ack(0);
    let position = |rig: &Rig| rig.link(0).acked_frames;
    for drains_on in [true, false] {
        rig.cut(0);
        rig.pass(rig.now_ms + 4_000, 500, &[1]);
        let resumed = position(&rig);
        rig.up(0, 1, Some(resumed));
        if drains_on {
            drain(&mut rig);
        }
        rig.pass(rig.now_ms + 900, 100, &[0, 1]);
        assert!(slots.iter().all(|&slot| !closed(&rig, 1, slot)), "it may have yet to say that it drains");
        rig.pass(rig.now_ms + 300, 100, &[0, 1]);
        assert_eq!(slots.iter().all(|&slot| closed(&rig, 1, slot)), !drains_on);
    }
    slots.iter().for_each(|&slot| moved(&mut rig, 1, slot));
    assert!(slots.iter().all(|&slot| rig.view(slot).worker == 0));
}

#[test]
fn a_worker_has_the_time_of_a_handshake_to_answer_a_new_client() {
    let mut rig = Rig::new(8, (1, 0), |config| {
        (config.handshake_timeout_ms, config.link_failover_ms) = (3_000, 20_000);
    });
    let slot = rig.client(b"key");
    rig.pass(rig.now_ms + 2_900, 100, &[0]);
    assert_eq!(rig.view(slot).state, State::Opening);
    // What the client says meanwhile does not prolong it.
    assert!(rig.say(slot, &[1]));
    rig.pass(rig.now_ms + 2_500, 100, &[0]);
    assert_eq!(rig.goaway(slot), Some(roost_protocol::Reason::HandshakeTimeout.code()));
}

#[test]
fn a_worker_hears_of_the_listener_at_open_and_at_reopen() {
    let mut rig = Rig::new(64, (2, 1), |config| config.listeners.push(ListenerConfig::default()));
    let key = &keys(1, 1)[0];
    let slot = rig.client_at(1, key);
    rig.turn();
    rig.accept(slot);
    assert_eq!((rig.said[0][0].0.link_type, rig.said[0][0].0.aux), (LinkType::Open, 1));
    rig.up(1, 9, None);
    rig.turns(3);
    moved(&mut rig, 0, slot);
    rig.turn();
    let reopened = rig.said[1].iter().find(|(header, _)| header.link_type == LinkType::Reopen);
    assert_eq!(reopened.map(|(header, _)| header.aux), Some(1));
}
