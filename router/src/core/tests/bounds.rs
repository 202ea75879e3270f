//! What one call may queue.

use super::*;
use crate::{
    SendError,
    handlers::{Route, route},
};

const PENDING_BYTES_MAX: usize = 20_000;
const CALL_BYTES_MAX: usize = 50_000;
/// The longest link frame of a [`Peer`].
const FRAME_BYTES: usize = 16 + 4 + 4_096 + 64 * 1024;
const BOUND: usize =
    PENDING_BYTES_MAX + if CALL_BYTES_MAX > FRAME_BYTES { CALL_BYTES_MAX } else { FRAME_BYTES };

fn tight() -> WorkerConfig {
    WorkerConfig {
        pending_bytes_max: PENDING_BYTES_MAX,
        call_bytes_max: CALL_BYTES_MAX,
        ..WorkerConfig::default()
    }
}

/// Bytes that wait on the longest queue.
fn queued<H: Handler>(rig: &Rig<H>) -> usize {
    rig.core.registry.iter().map(|link| link.session.pending_bytes()).max().unwrap()
}

type Way = fn(&mut Context<'_>, Client, &[u8]) -> Result<(), SendError>;

/// Each way to queue something, in any number, and what one use of it takes at most.
const WAYS: [(&str, Way); 5] =
    [
        ("send", |ctx, client, body| ctx.send(client, body)),
        ("multicast", |ctx, client, body| {
            if ctx.multicast(&[client], body) == 1 { Ok(()) } else { Err(SendError::Full(Limit::Call)) }
        }),
        ("publish", |ctx, _, body| ctx.publish(b"topic", body).map(drop)),
        ("broadcast", |ctx, _, body| {
            if ctx.broadcast(body, true) == 1 { Ok(()) } else { Err(SendError::Full(Limit::Call)) }
        }),
        ("relay", |ctx, _, body| ctx.relay(7, &[body])),
    ];

#[test]
fn no_call_queues_more_than_it_may_by_whatever_way() {
    for (name, way) in WAYS {
        let handler = Recorder::new(move |ctx, client, payload| {
            let body = vec![7; usize::from(payload[0]) * 16];
            ctx.join(client, b"topic").unwrap();
            let mut sent_bytes = 0;
            let refused = loop {
                match way(ctx, client, &body) {
                    Ok(()) => sent_bytes += body.len(),
                    Err(error) => break error,
                }
                assert!(sent_bytes <= CALL_BYTES_MAX, "{name} is without bound");
            };
            assert_eq!(refused, SendError::Full(Limit::Call), "{name}");
            assert!(sent_bytes + 5_000 > CALL_BYTES_MAX / 4, "{name} is refused after {sent_bytes} bytes");
            // What the protocol asks for goes all the same.
            ctx.close(client, Reason::WorkerClosed, 0);
        });
        let mut rig = Rig::new(tight(), handler);
        let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0));
        peer.withhold_acks = true;
        for (slot, size) in [(1, 1u8), (2, 100), (3, 250)] {
            peer.open(peer.id(slot), b"a");
            peer.message(peer.id(slot), &[size], false);
            rig.gateway_writes(&mut peer, &mut wire);
            rig.worker_reads(&mut wire, usize::MAX).unwrap();
            let bytes = queued(&rig);
            // Besides: an ACCEPT and a CLOSE.
            let room = CALL_BYTES_MAX / 2..=CALL_BYTES_MAX + 44;
            assert!(room.contains(&bytes), "{name}: {bytes} bytes wait");
            rig.settle(&mut peer, &mut wire);
        }
        peer.withhold_acks = false;
        rig.settle(&mut peer, &mut wire);
        assert_eq!((peer.count(LinkType::Close), peer.unacknowledged(), queued(&rig)), (3, 0, 0), "{name}");
    }
}

#[test]
fn a_call_may_queue_one_frame_on_each_link_whatever_its_length() {
    let config = WorkerConfig { call_bytes_max: 100, ..WorkerConfig::default() };
    let handler = Recorder::new(|ctx, client, _: &[u8]| {
        assert_eq!(ctx.broadcast(&[7; 4_096], true), 3);
        assert_eq!(ctx.broadcast(b"more", true), 0);
        assert_eq!(ctx.send(client, b"more"), Err(SendError::Full(Limit::Call)));
    });
    let mut rig = Rig::new(config, handler);
    let mut links: Vec<_> = (1..=3).map(|gateway| rig.link_up(Peer::new(gateway, 0))).collect();
    for call in 1..=3 {
        let id = links[0].0.id(call as u32);
        links[0].0.open(id, b"a");
        links[0].0.message(id, b"go", false);
        let mut all: Vec<_> = links.iter_mut().map(|(peer, wire)| (peer, wire)).collect();
        rig.settle_all(&mut all);
        assert!(links.iter().all(|(peer, _)| peer.count(LinkType::Broadcast) == call));
    }
    assert_eq!(rig.stats.get(Stat::SendsRefused), 3 * (3 + 1));
}

#[test]
fn a_push_is_bounded_as_a_call_of_the_handler() {
    let mut rig = Rig::new(tight(), Recorder::new(echo));
    let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0));
    peer.open(peer.id(1), b"alice");
    rig.settle(&mut peer, &mut wire);
    let mut refused = None;
    rig.core.push(|ctx| {
        refused = std::iter::repeat_with(|| ctx.send_to_key(b"alice", &[7; 1_000]))
            .take(1_000)
            .find(|sent| sent.is_err());
    });
    assert_eq!(refused, Some(Err(SendError::Full(Limit::Call))));
    assert!(queued(&rig) <= BOUND, "{} bytes wait", queued(&rig));
    assert!(rig.core.pushes_wait());
    rig.settle(&mut peer, &mut wire);
    assert!(!rig.core.pushes_wait());
    let mut sent = Err(SendError::Closed);
    rig.core.push(|ctx| sent = ctx.send_to_key(b"alice", &[7; 1_000]));
    assert_eq!(sent, Ok(1), "each push has a budget of its own");
}

#[test]
fn many_gateways_together_do_not_overrun_the_queue_of_one() {
    let mut rig = Rig::new(tight(), Route);
    let (mut slow, mut slow_wire) = rig.link_up(Peer::new(100, 0).with_window(20_000));
    slow.open(slow.id(1), b"bob");
    rig.settle(&mut slow, &mut slow_wire);
    slow.withhold_acks = true;
    let body = [&[route::OP_SEND, 0, 0, 0, 5, 0, 3][..], b"bob", &[7; 4_000]].concat();
    for gateway in 1..=60 {
        let (mut peer, mut wire) = rig.link_up(Peer::new(gateway, 0));
        peer.open(peer.id(1), b"alice");
        for _ in 0..10 {
            peer.message(peer.id(1), &body, false);
        }
        rig.settle_all(&mut [(&mut peer, &mut wire), (&mut slow, &mut slow_wire)]);
        assert!(queued(&rig) <= BOUND, "{} bytes wait", queued(&rig));
        if peer.messages(peer.id(1)).iter().any(|receipt| receipt[1] == route::Status::Busy as u8) {
            return;
        }
    }
    panic!("the queue was never full");
}

#[test]
fn one_message_to_a_key_with_thousands_of_connections_stays_within_the_bound() {
    let config = WorkerConfig { call_bytes_max: 2_000_000, ..WorkerConfig::default() };
    let bound = config.pending_bytes_max + config.call_bytes_max;
    let mut rig = Rig::new(config, Route);
    let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0).with_frame_bytes_max(60_000));
    for slot in 0..4_000 {
        peer.open(peer.id(slot), b"crowd");
    }
    rig.settle(&mut peer, &mut wire);
    let body = [&[route::OP_SEND, 0, 0, 0, 5, 0, 5][..], b"crowd", &[7; 59_000]].concat();
    peer.message(peer.id(0), &body, false);
    rig.gateway_writes(&mut peer, &mut wire);
    rig.worker_reads(&mut wire, usize::MAX).unwrap();
    assert!(queued(&rig) <= bound, "{} bytes wait", queued(&rig));
    assert!(queued(&rig) > 1_900_000, "{} bytes wait", queued(&rig));
    rig.settle(&mut peer, &mut wire);
    assert_eq!(rig.stats.get(Stat::MessagesSent), 2_000_000 / 59_034 + 1, "and the receipt");
}
