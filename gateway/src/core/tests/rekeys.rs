//! A worker accepts a connection with another routing hash than that of its key (SPEC.md 3.6).

use roost_protocol::{
    ConnectionId, SessionRef,
    edge::FrameType,
    hash,
    link::{Accept, Header, LinkType, Reopen},
};

use super::rig::{Rig, key_of, owner};
use crate::core::{record::State, stats::Stat};

const NONE: ConnectionId = ConnectionId::from_bits(0);

/// A hash that this one of w0 and w1 owns, and that no key of [`key_of`] has.
fn hash_of(worker: usize) -> u64 {
    let mut keys = (0..1_000u32).map(u32::to_be_bytes).filter(|key| owner(key, &[0, 1]) == worker);
    hash::routing_hash(&keys.nth(1).expect("a key"))
}

fn accept_as(rig: &mut Rig, slot: u32, routing_hash: u64, subprotocol: Option<&str>) {
    let (worker, header) = (usize::from(rig.view(slot).worker), rig.about(slot, LinkType::Accept));
    let mut payload = Vec::new();
    Accept { session: SessionRef(7), routing_hash: Some(routing_hash), subprotocol }
        .encode_payload(&mut payload);
    rig.frame(worker, header, &payload);
    rig.turn();
    assert_eq!(rig.view(slot).state, State::Open);
    assert_eq!(rig.heard(slot, FrameType::Welcome).len(), 1, "the client is welcome at once");
}

fn moved(rig: &mut Rig, link: usize, slot: u32) {
    let header = rig.about(slot, LinkType::Moved);
    rig.frame(link, header, b"");
    rig.turn();
}

/// The hash in the last REOPEN that a worker got of a connection.
fn reopened_as(rig: &Rig, link: usize, slot: u32) -> Option<u64> {
    let id = rig.view(slot).connection;
    let mut said = rig.said[link].iter().rev();
    let found = said.find(|(header, _)| header.link_type == LinkType::Reopen && header.connection == id)?;
    Some(Reopen::decode(&found.1).expect("it decodes").routing_hash)
}

#[test]
fn a_hash_of_another_worker_moves_the_connection_there() {
    let mut rig = Rig::new(8, (2, 0), |_| ());
    let slot = rig.client(&key_of(&[0, 1]));
    rig.turn();
    let theirs = hash_of(1);
    accept_as(&mut rig, slot, theirs, None);
    let id = rig.view(slot).connection;
    let told: Vec<LinkType> = rig.told(0, id).iter().map(|told| told.0).collect();
    assert_eq!(told, [LinkType::Open, LinkType::Closed], "w0 is to let it go at once");
    assert!(!rig.say(slot, &[1]), "nobody reads the client meanwhile");
    moved(&mut rig, 0, slot);
    assert_eq!((rig.view(slot).worker, rig.view(slot).routing_hash), (1, theirs));
    assert_eq!(reopened_as(&rig, 1, slot), Some(theirs));
    assert_eq!(rig.core.stats().get(Stat::ConnectionsRekeyed), 1);
}

#[test]
fn a_hash_of_the_same_worker_moves_nothing_and_is_kept() {
    let mut rig = Rig::new(8, (2, 0), |_| ());
    let slot = rig.client(&key_of(&[0, 1]));
    rig.turn();
    let other = hash_of(0);
    accept_as(&mut rig, slot, other, Some("v1.chat"));
    assert_eq!((rig.view(slot).worker, rig.view(slot).routing_hash), (0, other));
    assert!(rig.told(0, rig.view(slot).connection).iter().all(|told| told.0 != LinkType::Closed));
    // It is by this hash that it goes elsewhere.
    rig.cut(0);
    rig.pass(rig.now_ms + 10_100, 500, &[1]);
    rig.turns(3);
    assert_eq!(reopened_as(&rig, 1, slot), Some(other));
}

#[test]
fn the_hash_of_open_is_no_other_one() {
    let mut rig = Rig::new(8, (2, 0), |_| ());
    let key = key_of(&[0, 1]);
    let slot = rig.client(&key);
    rig.turn();
    accept_as(&mut rig, slot, hash::routing_hash(&key), None);
    assert_eq!((rig.view(slot).worker, rig.core.stats().get(Stat::ConnectionsRekeyed)), (0, 0));
}

#[test]
fn an_owner_that_drains_with_all_others_gets_it() {
    let mut rig = Rig::new(8, (2, 0), |_| ());
    for link in [0, 1] {
        rig.frame(link, Header::new(LinkType::Draining, NONE, 0), b"");
    }
    rig.turns(3);
    let slot = rig.client(&key_of(&[0, 1]));
    rig.turn();
    accept_as(&mut rig, slot, hash_of(1), None);
    moved(&mut rig, 0, slot);
    assert_eq!(rig.view(slot).worker, 1, "they count as up while none is");
}

#[test]
fn one_that_may_not_move_yet_moves_later() {
    let mut rig = Rig::new(8, (2, 0), |config| config.bounds.moving = 1);
    let slots = [rig.client(&key_of(&[0, 1])), rig.client(&key_of(&[0, 1]))];
    rig.turn();
    for slot in slots {
        accept_as(&mut rig, slot, hash_of(1), None);
    }
    let closed =
        |rig: &Rig| rig.said[0].iter().filter(|(header, _)| header.link_type == LinkType::Closed).count();
    assert_eq!(closed(&rig), 1, "w0 lets one go at a time");
    moved(&mut rig, 0, slots[0]);
    rig.turns(3);
    moved(&mut rig, 0, slots[1]);
    assert!(slots.iter().all(|&slot| rig.view(slot).worker == 1));
}

#[test]
fn an_accept_that_comes_too_late_changes_no_hash() {
    let mut rig = Rig::new(8, (2, 0), |_| ());
    let key = key_of(&[0, 1]);
    let slot = rig.open_client(&key);
    let header = rig.about(slot, LinkType::Accept);
    let mut payload = Vec::new();
    Accept { routing_hash: Some(hash_of(1)), ..Accept::new(SessionRef(8)) }.encode_payload(&mut payload);
    rig.frame(0, header, &payload);
    rig.turn();
    assert_eq!((rig.view(slot).worker, rig.view(slot).routing_hash), (0, hash::routing_hash(&key)));
    assert_eq!(rig.core.stats().get(Stat::LinkFramesStale), 1);
}
