//! Workers answer each other, and ask all others (SPEC.md 3.10).

use roost_protocol::{
    ConnectionId,
    link::{
        Header, LinkType,
        header::{FLAG_ALL, FLAG_DIRECT, FLAG_RESENT},
    },
};

use super::rig::{Rig, Said, key_of};
use crate::core::{link::LinkState, stats::Stat};

const NONE: ConnectionId = ConnectionId::from_bits(0);
const PAYLOAD: [u8; 9] = *b"any hash?";

/// The RELAYs that a worker was passed.
fn relays(rig: &Rig, link: usize) -> Vec<Said> {
    let is_relay = |said: &&Said| said.0.link_type == LinkType::Relay;
    rig.said[link].iter().filter(is_relay).cloned().collect()
}

fn relay(rig: &mut Rig, link: usize, flags: u8, connection: ConnectionId) {
    rig.frame(link, Header::new(LinkType::Relay, connection, 0).flags(flags), &PAYLOAD);
    rig.turn();
}

/// w0 asks all others; what w1 was passed names w0's session.
fn origin_of_w0(rig: &mut Rig) -> ConnectionId {
    relay(rig, 0, FLAG_ALL, NONE);
    relays(rig, 1).last().expect("w1 is asked").0.connection
}

#[test]
fn an_answer_reaches_the_session_that_asked() {
    let mut rig = Rig::new(4, (3, 0), |_| ());
    let origin = origin_of_w0(&mut rig);
    relay(&mut rig, 1, FLAG_DIRECT, origin);
    let [(header, payload)] = &relays(&rig, 0)[..] else { panic!("one answer") };
    assert_eq!((header.flags, payload.as_slice()), (FLAG_DIRECT, &PAYLOAD[..]));
    assert_ne!(header.connection, origin, "and it names who answers");
    assert_eq!(relays(&rig, 2).len(), 1, "nobody else hears the answer");
    // So the one that asked may ask back.
    let back = header.connection;
    relay(&mut rig, 0, FLAG_DIRECT, back);
    assert_eq!(relays(&rig, 1).last().expect("it is passed on").0.connection, origin);
}

#[test]
fn all_but_the_sender_are_reached_also_one_that_drains() {
    let mut rig = Rig::new(4, (4, 1), |_| ());
    rig.frame(2, Header::new(LinkType::Draining, NONE, 0), b"");
    rig.turns(2);
    relay(&mut rig, 0, FLAG_ALL, NONE);
    let counts: Vec<usize> = (0..4).map(|link| relays(&rig, link).len()).collect();
    assert_eq!(counts, [0, 1, 1, 0], "w3 is not there");
    for link in [1, 2] {
        let (header, payload) = &relays(&rig, link)[0];
        assert_eq!((header.flags, payload.as_slice()), (FLAG_ALL, &PAYLOAD[..]), "as it came");
    }
    assert_eq!(rig.core.stats().get(Stat::RelaysForwarded), 2);
}

#[test]
fn an_origin_names_nothing_once_its_session_is_over() {
    let mut rig = Rig::new(4, (2, 0), |_| ());
    let origin = origin_of_w0(&mut rig);
    // A break alone changes nothing.
    rig.ack(0);
    rig.cut(0);
    rig.up(0, 1, Some(rig.link(0).acked_frames));
    relay(&mut rig, 1, FLAG_DIRECT, origin);
    assert_eq!(relays(&rig, 0).len(), 1);
    rig.ack(0);
    // The worker begins anew.
    rig.cut(0);
    rig.up(0, 9, None);
    rig.turns(3);
    relay(&mut rig, 1, FLAG_DIRECT, origin);
    assert_eq!(relays(&rig, 0).len(), 1, "the new session has not asked");
    assert_eq!(rig.core.stats().get(Stat::RelaysOriginGone), 1);
    // And so does nothing that was never given.
    for made_up in [0, 1, origin.to_bits() ^ 1 << 8, u64::MAX] {
        relay(&mut rig, 1, FLAG_DIRECT, ConnectionId::from_bits(made_up));
    }
    assert_eq!(rig.core.stats().get(Stat::RelaysOriginGone), 5);
    assert_eq!(relays(&rig, 0).len() + relays(&rig, 1).len(), 2);
}

#[test]
fn an_answer_or_a_copy_goes_to_nobody_else_when_its_worker_fails() {
    let mut rig = Rig::new(4, (3, 0), |_| ());
    let slot = rig.open_client(&key_of(&[0, 1, 2]));
    let origin = origin_of_w0(&mut rig);
    relay(&mut rig, 1, FLAG_DIRECT, origin);
    relay(&mut rig, 1, FLAG_ALL, NONE);
    let before: Vec<usize> = (1..3).map(|link| relays(&rig, link).len()).collect();
    // w0 has acknowledged neither.
    rig.cut(0);
    rig.pass(rig.now_ms + 10_100, 500, &[1, 2]);
    rig.turns(5);
    assert_ne!(rig.view(slot).worker, 0, "its client is with another worker");
    let after: Vec<usize> = (1..3).map(|link| relays(&rig, link).len()).collect();
    assert_eq!(after, before);
    let stats = rig.core.stats();
    assert_eq!((stats.get(Stat::RelaysOriginGone), stats.get(Stat::RelaysDropped)), (1, 1));
}

#[test]
fn one_by_its_hash_keeps_its_origin_when_it_is_sent_again() {
    let mut rig = Rig::new(4, (3, 0), |_| ());
    let mut payload = roost_protocol::hash::routing_hash(&key_of(&[0, 1, 2])).to_be_bytes().to_vec();
    payload.push(42);
    rig.frame(2, Header::new(LinkType::Relay, NONE, 0), &payload);
    rig.turn();
    let first = relays(&rig, 0)[0].0;
    rig.cut(0);
    rig.pass(rig.now_ms + 10_100, 500, &[1, 2]);
    rig.turns(5);
    let again = relays(&rig, 1)[0].0;
    assert_eq!((again.flags, again.connection), (FLAG_RESENT, first.connection));
    relay(&mut rig, 1, FLAG_DIRECT, again.connection);
    assert_eq!(relays(&rig, 2).len(), 1, "the answer arrives");
}

#[test]
fn one_and_all_at_once_is_an_error() {
    let mut rig = Rig::new(4, (2, 0), |_| ());
    relay(&mut rig, 1, FLAG_DIRECT | FLAG_ALL, NONE);
    assert_ne!(rig.link(1).state, LinkState::Up);
    assert!(relays(&rig, 0).is_empty());
}
