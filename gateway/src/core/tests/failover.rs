//! Workers that fail one after the other, while what the first one left is still on its way.

use roost_protocol::{
    Reason,
    link::{Header, LinkType, Relay, header::FLAG_RESENT},
};

use super::rig::{Rig, key_of, owner};
use crate::core::{config::NoWorkerPolicy, record::State};

const SLOTS: u32 = 256;
/// Slots that a walk visits per turn: it takes 64 turns, of a millisecond each.
const VISITS: u32 = 4;
/// Who fails so long after another does so in the last turn of its walk: what the first one left is
/// shared out before the second one's walk has moved anybody.
const LAST_TURN_MS: u64 = (SLOTS / VISITS - 1) as u64;

/// A rig in which `key`'s client is the first of many, all of them open.
fn crowd(workers: usize, key: &[u8]) -> (Rig, u32) {
    let mut rig = Rig::new(SLOTS, (workers, 0), |config| {
        config.bounds.routing_visits = VISITS;
        config.bounds.resends = 3;
        config.handshake_timeout_ms = 600_000;
        // Who has just failed may be back at once.
        config.link_hold_ms = (1, 1);
    });
    let slot = rig.open_client(key);
    for i in 1..SLOTS {
        rig.open_client(&(1_000_000 + i).to_be_bytes());
    }
    (0..workers).for_each(|link| rig.ack(link));
    (rig, slot)
}

/// These workers fall silent, `gap_ms` apart, until the last has been given up; `alive` go on.
fn fall_silent(rig: &mut Rig, silent: &[usize], gap_ms: u64, alive: &[usize]) {
    let from_ms = rig.now_ms + 10;
    let mut at_ms = from_ms;
    for (nth, &link) in silent.iter().enumerate() {
        at_ms = from_ms + gap_ms * nth as u64;
        rig.now_ms = at_ms;
        rig.pong(link);
    }
    rig.pass(from_ms + 9_990, 500, alive);
    rig.pass(at_ms + 10_001, 1, alive);
}

#[test]
fn messages_survive_a_second_failure_during_the_first_ones_walk() {
    for gap_ms in [1, 2, 3, 4, 10, 60, LAST_TURN_MS - 1, LAST_TURN_MS] {
        let key = key_of(&[0, 1, 2]);
        let (mut rig, slot) = crowd(3, &key);
        let id = rig.view(slot).connection;
        assert!((1..=3).all(|nth| rig.say(slot, &[nth])));
        fall_silent(&mut rig, &[0, 1], gap_ms, &[2]);
        rig.pass(rig.now_ms + 300, 1, &[2]);
        let data = |nth| (LinkType::Data, nth);
        let expected = [(LinkType::Reopen, 7), data(1), data(2), data(3)];
        assert_eq!(rig.told(2, id), expected, "w2, {gap_ms} ms apart");
        assert!(rig.told(1, id).iter().all(|&(link_type, _)| link_type == LinkType::Reopen), "{gap_ms} ms");
        let marked = rig.said[2].iter().filter(|(header, _)| header.link_type == LinkType::Data);
        assert!(marked.into_iter().all(|(header, _)| header.flags == FLAG_RESENT));
        assert!(rig.say(slot, &[4]), "it is read again");
        assert_eq!(rig.told(2, id).last(), Some(&data(4)), "new messages come behind");
        let frames: usize = (0..2).map(|link| rig.link(link).lag_frames as usize).sum();
        assert_eq!((frames, rig.link(1).retained_bytes), (0, 0), "nothing is left for those that are gone");
    }
}

#[test]
fn messages_survive_a_third_failure_while_they_are_being_sent_again() {
    let key = key_of(&[0, 1, 2, 3]);
    for gap_ms in [1, 30, LAST_TURN_MS, 64, 65, 66, 67, 70, 140] {
        let (mut rig, slot) = crowd(4, &key);
        let id = rig.view(slot).connection;
        assert!((1..=9).all(|nth| rig.say(slot, &[nth])));
        fall_silent(&mut rig, &[0, 1, 2], gap_ms, &[3]);
        rig.pass(rig.now_ms + 300, 1, &[3]);
        let told: Vec<u8> = rig.told(3, id).iter().skip(1).map(|&(_, nth)| nth).collect();
        assert_eq!(told, (1..=9).collect::<Vec<u8>>(), "{gap_ms} ms apart");
    }
}

#[test]
fn a_worker_that_is_back_in_the_middle_of_its_own_walk_and_fails_again_loses_nothing() {
    let key = key_of(&[0, 1]);
    let (mut rig, slot) = crowd(2, &key);
    let id = rig.view(slot).connection;
    assert!((1..=5).all(|nth| rig.say(slot, &[nth])));
    rig.cut(0);
    rig.pass(rig.now_ms + 9_900, 300, &[1]);
    while !rig.link(0).failing_over {
        rig.pass(rig.now_ms + 1, 1, &[1]);
    }
    rig.pass(rig.now_ms + 5, 1, &[1]);
    for instance in [77, 78] {
        rig.up(0, instance, None);
        assert!(rig.link(0).failing_over, "the walk goes on");
        rig.cut(0);
        rig.pass(rig.now_ms + 5_000, 500, &[1]);
    }
    rig.up(0, 79, None);
    rig.pass(rig.now_ms + 300, 1, &[0, 1]);
    let at = usize::from(rig.view(slot).worker);
    let told: Vec<u8> =
        rig.told(at, id).iter().filter(|told| told.0 == LinkType::Data).map(|&(_, nth)| nth).collect();
    assert!(told.ends_with(&[1, 2, 3, 4, 5]), "{told:?} at w{at}");
}

#[test]
fn an_open_is_sent_again_before_what_its_client_says_and_nobody_hears_of_its_end_too_early() {
    let key = key_of(&[0, 1, 2]);
    let (mut rig, gone) = crowd(3, &key);
    let mut rest = (0..100_000u32).map(|i| (5_000_000 + i).to_be_bytes());
    let mut next =
        || rest.find(|key| owner(key, &[0, 1, 2]) == 0 && owner(key, &[1, 2]) == 1).expect("a key");
    // Three of the crowd go, and others come whom w0 does not answer.
    for slot in [gone, gone + 1, gone + 2] {
        let id = rig.view(slot).connection;
        rig.core.on_command(
            &mut rig.hands,
            crate::core::Command::Close { connection: id, reason: Reason::AdminClosed },
        );
    }
    rig.pass(rig.now_ms + 3_000, 500, &[0, 1, 2]);
    let (stays, leaves) = (rig.client(&next()), rig.client(&next()));
    rig.turn();
    let (stays_id, leaves_id) = (rig.view(stays).connection, rig.view(leaves).connection);
    assert!(rig.say(stays, &[1]) && rig.say(stays, &[2]));
    fall_silent(&mut rig, &[0, 1], 2, &[2]);
    rig.core.on_command(
        &mut rig.hands,
        crate::core::Command::Close { connection: leaves_id, reason: Reason::AdminClosed },
    );
    rig.pass(rig.now_ms + 300, 1, &[2]);
    let told: Vec<LinkType> = rig.told(2, stays_id).iter().map(|told| told.0).collect();
    assert_eq!(told, [LinkType::Open, LinkType::Data, LinkType::Data]);
    assert_eq!(rig.told(2, leaves_id), [], "it was never opened there");
    assert_eq!(rig.view(stays).state, State::Opening);
    rig.accept(stays);
}

#[test]
fn relays_reach_the_worker_that_new_clients_go_to_even_if_it_drains() {
    let mut rig = Rig::new(8, (2, 0), |_| ());
    let relay = |key: &[u8]| {
        let mut bytes = roost_protocol::hash::routing_hash(key).to_be_bytes().to_vec();
        bytes.push(42);
        assert!(Relay::decode(&bytes).is_ok());
        bytes
    };
    let none = roost_protocol::ConnectionId::from_bits(0);
    let relays = |rig: &Rig, link: usize| {
        rig.said[link].iter().filter(|(header, _)| header.link_type == LinkType::Relay).count()
    };
    for link in [1, 0] {
        rig.frame(link, Header::new(LinkType::Draining, none, 0), b"");
    }
    rig.turn();
    let key = key_of(&[0, 1]);
    let slot = rig.client(&key);
    assert_eq!(rig.view(slot).worker, 0, "a new client goes to w0");
    rig.frame(1, Header::new(LinkType::Relay, none, 0), &relay(&key));
    rig.turn();
    assert_eq!(relays(&rig, 0), 1, "and so does a RELAY");
    // w0 fails without having acknowledged it.
    rig.cut(0);
    rig.pass(rig.now_ms + 10_100, 500, &[1]);
    rig.turns(5);
    assert_eq!(relays(&rig, 1), 1, "w1 drains, too, and is all that is left");
}

#[test]
fn clients_that_no_worker_takes_are_told_so_in_time() {
    for (policy, patience_ms) in [(NoWorkerPolicy::Wait, 4_000), (NoWorkerPolicy::Refuse, 0)] {
        let mut rig = Rig::new(16, (2, 0), |config| {
            (config.no_worker, config.handshake_timeout_ms) = (policy, 4_000);
            config.bounds.routing_visits = 2;
        });
        let slots: Vec<u32> = (0..12u32).map(|i| rig.open_client(&i.to_be_bytes())).collect();
        rig.cut(0);
        rig.cut(1);
        let given_up_ms = rig.now_ms + 10_000;
        rig.pass(given_up_ms - 100, 100, &[]);
        assert!(slots.iter().all(|&slot| rig.view(slot).state == State::Open));
        if patience_ms > 0 {
            rig.pass(given_up_ms + patience_ms - 100, 100, &[]);
            assert!(slots.iter().all(|&slot| rig.view(slot).state == State::Open), "they wait");
        }
        rig.pass(given_up_ms + patience_ms + 200, 10, &[]);
        for &slot in &slots {
            assert_eq!(rig.goaway(slot), Some(Reason::NoWorker.code()), "{policy:?}, slot {slot}");
        }
        // Who comes up then begins with nobody.
        rig.pass(rig.now_ms + 5_000, 100, &[]);
        rig.up(0, 99, None);
        assert_eq!((rig.link(0).connections, rig.link(0).lag_frames), (0, 0));
    }
}

#[test]
fn a_worker_that_comes_in_time_serves_those_that_waited() {
    let mut rig = Rig::new(16, (1, 0), |config| config.handshake_timeout_ms = 4_000);
    let slot = rig.open_client(b"key");
    assert!(rig.say(slot, &[1]));
    let id = rig.view(slot).connection;
    rig.cut(0);
    rig.pass(rig.now_ms + 13_000, 100, &[]);
    rig.up(0, 99, None);
    rig.turns(3);
    assert!(rig.told(0, id).ends_with(&[(LinkType::Reopen, 7), (LinkType::Data, 1)]));
    // Whom it cannot serve it says so: the client is told.
    let mut close = rig.about(slot, LinkType::Close);
    close.aux = Reason::Full.code().into();
    rig.frame(0, close, &500u32.to_be_bytes());
    rig.turn();
    assert_eq!(rig.goaway(slot), Some(Reason::Full.code()));
}

#[test]
fn clients_hear_the_reasons_that_workers_may_state() {
    for aux in 0..=300u16 {
        let mut rig = Rig::new(4, (1, 0), |_| ());
        let opening = rig.client(b"a");
        rig.turn();
        let open = rig.open_client(b"b");
        let known = u8::try_from(aux).ok().and_then(Reason::from_code);
        let ends = [
            (opening, LinkType::Reject, Reason::WorkerRejected),
            (open, LinkType::Close, Reason::WorkerClosed),
        ];
        for (slot, link_type, default) in ends {
            let mut header = rig.about(slot, link_type);
            header.aux = aux;
            rig.frame(0, header, b"");
            rig.turn();
            let expected = match known {
                _ if aux == 0 => default,
                Some(stated) if stated.may_be_stated() => stated,
                Some(_) => default,
                None => Reason::Internal,
            };
            assert_eq!(rig.goaway(slot), Some(expected.code()), "{link_type:?} with {aux}");
        }
    }
}
