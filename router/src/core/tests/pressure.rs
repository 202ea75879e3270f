//! Windows, held frames, and acknowledgements that wait.

use roost_protocol::{hash::routing_hash, link::LinkError};

use super::*;
use crate::handlers::{Route, route};

const BODY: [u8; 1_000] = [9; 1_000];
/// A reply with that body on the wire.
const REPLY_BYTES: usize = 16 + 4 + 1_000;

fn tight() -> WorkerConfig {
    WorkerConfig {
        pending_bytes_max: 10 * REPLY_BYTES,
        window_bytes: 100 * REPLY_BYTES as u32,
        ..WorkerConfig::default()
    }
}

#[test]
fn a_gateway_that_acknowledges_nothing_stops_the_handler_but_not_the_link() {
    let mut rig = Rig::new(tight(), Recorder::new(echo));
    let peer = Peer::new(1, 0).with_window(20 * REPLY_BYTES as u32);
    let (mut peer, mut wire) = rig.link_up(peer);
    let id = peer.id(1);
    peer.open(id, b"a");
    rig.settle(&mut peer, &mut wire);
    peer.withhold_acks = true;
    for _ in 0..2_000 {
        peer.message(id, &BODY, false);
    }
    rig.settle(&mut peer, &mut wire);
    // 20 replies fill the window, 10 the queue; with the next one it is over its limit.
    assert_eq!(rig.stats.get(Stat::MessagesHandled), 31);
    // The first 11 were one batch, and acknowledged since their replies went out (with OPEN).
    assert_eq!((peer.messages(id).len(), peer.acked()), (20, 12));
    assert_eq!(peer.unsent(), 2_000 - 11 - 100, "the gateway's own window is full");
    assert_eq!(rig.stats.get(Stat::FramesHeld), 100);
    peer.ping(b"alive?");
    rig.settle(&mut peer, &mut wire);
    assert_eq!(peer.control.last().unwrap().payload, b"alive?");

    peer.withhold_acks = false;
    rig.settle(&mut peer, &mut wire);
    assert_eq!((peer.messages(id).len(), peer.unacknowledged()), (2_000, 0));
    assert!(!rig.core.has_held());
}

#[test]
fn frames_set_aside_are_forgotten_with_their_connection_and_come_again() {
    for taken_over in [false, true] {
        let mut rig = Rig::new(tight(), Recorder::new(echo));
        let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0).with_window(20 * REPLY_BYTES as u32));
        let id = peer.id(1);
        peer.open(id, b"a");
        peer.withhold_acks = true;
        for index in 0..200u32 {
            peer.message(id, &[&index.to_be_bytes()[..], &BODY].concat(), false);
        }
        rig.settle(&mut peer, &mut wire);
        assert!(rig.core.has_held());
        if taken_over {
            // The worker has not noticed the end of the old connection when the new one comes.
            std::mem::take(&mut wire);
            peer.disconnected();
        }
        rig.dial(&mut peer, &mut wire);
        assert_eq!(rig.core.has_held(), taken_over);
        peer.withhold_acks = false;
        rig.settle(&mut peer, &mut wire);
        let order: Vec<_> =
            peer.messages(id).iter().map(|body| u32::from_be_bytes(body[..4].try_into().unwrap())).collect();
        assert_eq!(order, (0..200).collect::<Vec<_>>());
    }
}

#[test]
fn a_gateway_that_overruns_its_window_is_cut_off() {
    let mut rig = Rig::new(tight(), Recorder::new(echo));
    let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0).with_window(20 * REPLY_BYTES as u32));
    let id = peer.id(1);
    peer.open(id, b"a");
    peer.withhold_acks = true;
    for _ in 0..200 {
        peer.message(id, &BODY, false);
    }
    rig.settle(&mut peer, &mut wire);
    let mut frame = Vec::new();
    let payload = [&[3, 0, 3, 0xe8][..], &BODY].concat();
    frame.extend(Header::new(LinkType::Data, id, payload.len() as u32).encode());
    frame.extend(payload);
    peer.push_raw(&frame);
    rig.gateway_writes(&mut peer, &mut wire);
    assert_eq!(
        rig.worker_reads(&mut wire, usize::MAX),
        Err(LinkFailure::Protocol(LinkError::WindowExceeded))
    );
}

#[test]
fn a_flood_of_pings_without_reading_is_cut_off() {
    let mut rig = Rig::new(tight(), Recorder::new(echo));
    let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0));
    for _ in 0..10_000 {
        peer.ping(&[0; 8]);
    }
    rig.gateway_writes(&mut peer, &mut wire);
    assert_eq!(
        rig.worker_reads(&mut wire, usize::MAX),
        Err(LinkFailure::Protocol(LinkError::WindowExceeded))
    );
}

fn send(id: u32, key: &[u8], body: &[u8]) -> Vec<u8> {
    [&[route::OP_SEND][..], &id.to_be_bytes(), &(key.len() as u16).to_be_bytes(), key, body].concat()
}

/// Two gateways, a user on each.
fn two_gateways(config: WorkerConfig) -> (Rig<Route>, (Peer, Wire), (Peer, Wire)) {
    let mut rig = Rig::new(config, Route);
    let mut a = rig.link_up(Peer::new(1, 0));
    let mut b = rig.link_up(Peer::new(2, 0).with_window(20 * REPLY_BYTES as u32));
    a.0.open(a.0.id(1), b"alice");
    b.0.open(b.0.id(1), b"bob");
    rig.settle_all(&mut [(&mut a.0, &mut a.1), (&mut b.0, &mut b.1)]);
    (rig, a, b)
}

#[test]
fn what_went_to_another_gateway_is_acknowledged_once_that_one_has_it() {
    let (mut rig, (mut a, mut a_wire), (mut b, mut b_wire)) = two_gateways(WorkerConfig::default());
    b.withhold_acks = true;
    a.message(a.id(1), &send(5, b"bob", b"hello"), false);
    rig.settle_all(&mut [(&mut a, &mut a_wire), (&mut b, &mut b_wire)]);
    let delivered =
        [&[route::OP_DELIVER, 0, 0, 0, 0, 5][..], &routing_hash(b"alice").to_be_bytes(), b"hello"];
    assert_eq!(b.messages(b.id(1)), [delivered.concat()]);
    assert_eq!(a.messages(a.id(1)), [[route::OP_RECEIPT, route::Status::Delivered as u8, 0, 0, 0, 5]]);
    assert_eq!(a.unacknowledged(), 1, "should the worker die now, another one must deliver it");
    b.withhold_acks = false;
    rig.settle_all(&mut [(&mut a, &mut a_wire), (&mut b, &mut b_wire)]);
    assert_eq!(a.unacknowledged(), 0);

    // Nor is it held up for ever when that gateway goes away instead.
    b.withhold_acks = true;
    a.message(a.id(1), &send(6, b"bob", b"again"), false);
    rig.settle_all(&mut [(&mut a, &mut a_wire), (&mut b, &mut b_wire)]);
    assert_eq!(a.unacknowledged(), 1);
    rig.cut(&mut b, &mut b_wire);
    rig.settle(&mut a, &mut a_wire);
    assert_eq!(a.unacknowledged(), 0);
}

#[test]
fn a_gateway_that_is_away_holds_up_nobody_and_is_not_queued_for_without_end() {
    let (mut rig, (mut a, mut a_wire), (mut b, mut b_wire)) = two_gateways(tight());
    rig.cut(&mut b, &mut b_wire);
    for id in 0..100 {
        a.message(a.id(1), &send(id, b"bob", &BODY), false);
    }
    rig.settle(&mut a, &mut a_wire);
    assert_eq!(a.unacknowledged(), 0);
    let receipts = a.messages(a.id(1));
    let with = |status: route::Status| receipts.iter().filter(|receipt| receipt[1] == status as u8).count();
    assert_eq!((receipts.len(), with(route::Status::Delivered), with(route::Status::Busy)), (100, 10, 90));
    rig.dial(&mut b, &mut b_wire);
    rig.settle_all(&mut [(&mut a, &mut a_wire), (&mut b, &mut b_wire)]);
    assert_eq!(b.messages(b.id(1)).len(), 10);
}

#[test]
fn a_slow_gateway_slows_those_who_write_to_it_and_loses_nothing() {
    let (mut rig, (mut a, mut a_wire), (mut b, mut b_wire)) = two_gateways(tight());
    b.withhold_acks = true;
    for id in 0..100 {
        a.message(a.id(1), &send(id, b"bob", &BODY), false);
    }
    rig.settle_all(&mut [(&mut a, &mut a_wire), (&mut b, &mut b_wire)]);
    assert!(rig.core.has_held() && rig.stats.get(Stat::MessagesHandled) < 40);
    b.withhold_acks = false;
    rig.settle_all(&mut [(&mut a, &mut a_wire), (&mut b, &mut b_wire)]);
    assert_eq!((b.messages(b.id(1)).len(), a.messages(a.id(1)).len()), (100, 100));
    assert_eq!((a.unacknowledged(), rig.core.has_held()), (0, false));
}

#[test]
fn messages_to_users_elsewhere_are_relayed_and_receipts_come_back() {
    let mut rig = Rig::new(WorkerConfig::default(), Route);
    let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0));
    let id = peer.id(1);
    peer.open(id, b"alice");
    peer.message(id, &send(7, b"carol", b"hey"), false);
    rig.settle(&mut peer, &mut wire);
    let relay = |peer: &Peer| {
        peer.inbox.iter().find(|frame| frame.header.link_type == LinkType::Relay).unwrap().clone()
    };
    let relayed = relay(&peer);
    let Relay { routing_hash: receiver, payload } = Relay::decode(&relayed.payload).unwrap();
    assert_eq!(receiver, routing_hash(b"carol"));

    // What the worker of carol makes of it, with and without her.
    for (online, status) in [(false, route::Status::Offline), (true, route::Status::Delivered)] {
        let mut other = Rig::new(WorkerConfig::default(), Route);
        let (mut other_peer, mut other_wire) = other.link_up(Peer::new(1, 0));
        let carol = other_peer.id(2);
        if online {
            other_peer.open(carol, b"carol");
        }
        other_peer.relay(receiver, payload);
        other.settle(&mut other_peer, &mut other_wire);
        assert_eq!(other_peer.messages(carol).len(), usize::from(online));
        let back = relay(&other_peer);
        let back = Relay::decode(&back.payload).unwrap();
        assert_eq!(back.routing_hash, routing_hash(b"alice"));
        peer.relay(back.routing_hash, back.payload);
        rig.settle(&mut peer, &mut wire);
        let receipt = peer.messages(id).last().copied().unwrap();
        assert_eq!(receipt, [route::OP_RECEIPT, status as u8, 0, 0, 0, 7]);
    }
}

#[test]
fn route_says_what_is_malformed() {
    let mut rig = Rig::new(WorkerConfig::default(), Route);
    let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0));
    let id = peer.id(1);
    peer.open(id, b"alice");
    let whole = send(7, b"carol", b"");
    for length in 0..whole.len() {
        peer.message(id, &whole[..length], false);
    }
    peer.message(id, &send(8, &[b'k'; 257], b""), false);
    peer.message(id, b"\x09\0\0\0\x09\0\0", false);
    rig.settle(&mut peer, &mut wire);
    let malformed = peer
        .messages(id)
        .iter()
        .filter(|receipt| receipt[..2] == [route::OP_RECEIPT, route::Status::Malformed as u8])
        .count();
    assert_eq!((malformed, peer.count(LinkType::Relay)), (whole.len() + 2, 0));
}
