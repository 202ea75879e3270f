//! What each frame does.

use roost_protocol::{
    ConnectionId, edge,
    hash::routing_hash,
    link::{LinkError, header::FLAG_ALL, multicast_ids, split_multicast},
};

use super::*;
use crate::SendError;

fn first_byte_acts(ctx: &mut Context<'_>, client: Client, payload: &[u8]) {
    match payload[0] {
        b'c' => ctx.close(client, Reason::WorkerClosed, 1_500),
        b'm' => ctx.close(client, Reason::Moved, 0),
        b'b' => assert_eq!(ctx.broadcast(b"all", payload[1] == b'a'), 2),
        b'r' => ctx.relay(77, &[b"on", b"ward"]).unwrap(),
        b'l' => {
            let longest = vec![0; ctx.message_bytes_max(client).unwrap() as usize];
            ctx.send(client, &longest).unwrap();
            assert_eq!(ctx.send_parts(client, &[&longest, b"!"]), Err(SendError::TooLong));
        }
        _ => {}
    }
}

#[test]
fn clients_open_talk_and_leave() {
    let handler = Recorder::new(echo);
    let mut rig = Rig::new(WorkerConfig::default(), handler.clone());
    let (mut peer, mut wire) = rig.link_up(Peer::new(1, 3));
    let (id, unknown) = (peer.id(5), peer.id(6));
    peer.open(id, b"key");
    peer.message(id, b"hi", false);
    peer.message(unknown, b"who?", false);
    peer.closed(unknown, Reason::ClientEof);
    peer.closed(id, Reason::ClientReset);
    peer.message(id, b"late", false);
    rig.settle(&mut peer, &mut wire);
    let session = Some(SessionRef(routing_hash(b"key")));
    assert_eq!(
        handler.take(),
        [
            Event::Open(b"key".to_vec()),
            Event::Message(b"hi".to_vec(), false),
            Event::Close(session, Closed::Ended(Reason::ClientReset))
        ]
    );
    assert_eq!(peer.messages(id), [b"hi"]);
    assert_eq!((rig.stats.get(Stat::StaleFrames), rig.stats.get(Stat::Closes)), (2, 1));
    assert_eq!(peer.unacknowledged(), 0);
}

#[test]
fn pings_are_answered_with_nothing_else_to_say() {
    let mut rig = Rig::new(WorkerConfig::default(), Recorder::new(echo));
    let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0));
    for payload in [&b"12345678"[..], b""] {
        peer.ping(payload);
        rig.settle(&mut peer, &mut wire);
        let pong = peer.control.last().unwrap();
        assert_eq!((pong.header.link_type, &pong.payload[..]), (LinkType::Pong, payload));
    }
}

#[test]
fn a_moved_connection_is_answered_once_its_handler_has_returned() {
    let mut rig = Rig::new(WorkerConfig::default(), Recorder::new(echo));
    let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0));
    let id = peer.id(5);
    peer.open(id, b"key");
    peer.message(id, b"last", false);
    peer.closed(id, Reason::Moved);
    peer.closed(id, Reason::Moved);
    rig.settle(&mut peer, &mut wire);
    let types: Vec<_> = peer.inbox.iter().map(|frame| frame.header.link_type).collect();
    assert_eq!(types, [LinkType::Accept, LinkType::Data, LinkType::Moved, LinkType::Moved]);
    assert_eq!(peer.inbox[2].header.connection, id);
}

#[test]
fn a_closed_connection_takes_nothing_more() {
    let handler = Recorder::new(first_byte_acts);
    let mut rig = Rig::new(WorkerConfig::default(), handler.clone());
    let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0));
    let id = peer.id(5);
    peer.open(id, b"key");
    peer.message(id, b"close", false);
    peer.message(id, b"crossed it", false);
    rig.settle(&mut peer, &mut wire);
    let close = &peer.inbox[1];
    assert_eq!((close.header.link_type, close.header.aux_reason()), (LinkType::Close, Reason::WorkerClosed));
    assert_eq!(close.payload, 1_500u32.to_be_bytes());
    assert_eq!(rig.stats.get(Stat::StaleFrames), 1);
    peer.closed(id, Reason::WorkerClosed);
    rig.settle(&mut peer, &mut wire);
    let session = Some(SessionRef(routing_hash(b"key")));
    assert_eq!(handler.take().last(), Some(&Event::Close(session, Closed::Ended(Reason::WorkerClosed))));
    assert_eq!(rig.stats.get(Stat::Connections), 0);

    // A reason that a worker must not give.
    let other = peer.id(6);
    peer.open(other, b"key");
    peer.message(other, b"move", false);
    rig.settle(&mut peer, &mut wire);
    assert_eq!(peer.inbox.last().unwrap().header.aux_reason(), Reason::WorkerClosed);
}

#[test]
fn a_rejected_client_is_forgotten_at_once() {
    struct Bouncer;
    impl Handler for Bouncer {
        fn on_open(&mut self, ctx: &mut Context<'_>, client: Client, _: Opened<'_>) {
            ctx.reject(client, Reason::WorkerRejected, 250);
            ctx.accept(client, SessionRef(1));
            assert_eq!(ctx.send(client, b"x"), Err(SendError::Closed));
        }
        fn on_message(&mut self, _: &mut Context<'_>, _: Client, _: &[u8], _: bool) {
            panic!("nobody is let in");
        }
        fn on_close(&mut self, _: &mut Context<'_>, _: Client, _: Option<SessionRef>, _: Closed) {
            panic!("nobody was let in");
        }
    }
    let mut rig = Rig::new(WorkerConfig::default(), Bouncer);
    let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0));
    let id = peer.id(5);
    peer.open(id, b"key");
    peer.message(id, b"anyone?", false);
    peer.closed(id, Reason::WorkerRejected);
    rig.settle(&mut peer, &mut wire);
    assert_eq!(peer.inbox.len(), 1);
    let reject = &peer.inbox[0];
    assert_eq!(
        (reject.header.link_type, reject.header.aux_reason(), reject.payload.as_slice()),
        (LinkType::Reject, Reason::WorkerRejected, &250u32.to_be_bytes()[..])
    );
    assert_eq!((rig.stats.get(Stat::Connections), rig.stats.get(Stat::Rejects)), (0, 1));
}

#[test]
fn fan_out_and_relay() {
    let handler = Recorder::new(first_byte_acts);
    let mut rig = Rig::new(WorkerConfig::default(), handler.clone());
    let (mut a, mut a_wire) = rig.link_up(Peer::new(1, 0));
    let (mut b, mut b_wire) = rig.link_up(Peer::new(2, 0));
    let id = a.id(1);
    a.open(id, b"a");
    a.message(id, b"ba", false);
    a.message(id, b"bx", false);
    a.message(id, b"r", false);
    a.message(id, b"l", false);
    a.relay(9, b"for nine");
    rig.settle_all(&mut [(&mut a, &mut a_wire), (&mut b, &mut b_wire)]);
    for peer in [&a, &b] {
        let broadcasts: Vec<_> =
            peer.inbox.iter().filter(|frame| frame.header.link_type == LinkType::Broadcast).collect();
        let flags: Vec<_> = broadcasts.iter().map(|frame| frame.header.flags).collect();
        assert_eq!(flags, [FLAG_ALL, 0]);
        assert_eq!(broadcasts[0].payload, [&[3, 0, 0, 3][..], b"all"].concat());
    }
    let relay = a.inbox.iter().find(|frame| frame.header.link_type == LinkType::Relay).unwrap();
    assert_eq!(relay.payload, [&77u64.to_be_bytes()[..], b"onward"].concat());
    assert_eq!(b.count(LinkType::Relay), 0);
    assert_eq!(a.messages(id)[0].len(), 4096);
    assert_eq!(handler.take().last(), Some(&Event::Relay(9, b"for nine".to_vec())));
}

#[test]
fn a_multicast_is_split_into_frames_that_fit() {
    let count = 20_000u32;
    let handler = Recorder::new(|_: &mut Context<'_>, _, _: &[u8]| {});
    let clients: Rc<RefCell<Vec<Client>>> = Rc::default();
    let collected = clients.clone();
    *handler.act.borrow_mut() = Box::new(move |ctx, client, payload| match payload {
        b"me" => collected.borrow_mut().push(client),
        _ => {
            let mut all = collected.borrow().clone();
            let nobody = Client { connection: ConnectionId::new(0, 1 << 23, 1), ..client };
            all.extend([client, nobody]);
            assert_eq!(ctx.multicast(&all, &[7; 4096]), 20_000);
        }
    });
    let mut rig = Rig::new(WorkerConfig::default(), handler);
    let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0));
    for slot in 0..count {
        let id = peer.id(slot);
        peer.open(id, b"k");
        peer.message(id, b"me", false);
    }
    peer.message(peer.id(0), b"go", false);
    rig.settle(&mut peer, &mut wire);
    let mut reached = Vec::new();
    for frame in peer.inbox.iter().filter(|frame| frame.header.link_type == LinkType::Multicast) {
        let (ids, edge_frame) = split_multicast(&frame.payload).unwrap();
        assert_eq!(edge_frame[edge::HEADER_BYTES..], [7; 4096]);
        reached.extend(multicast_ids(ids).map(ConnectionId::slot));
    }
    assert_eq!(reached, (0..count).collect::<Vec<_>>());
    assert_eq!(peer.count(LinkType::Multicast), 3, "as few frames as the limit allows");
}

#[test]
fn what_is_not_the_protocol_ends_the_connection_but_not_the_session() {
    let connection = ConnectionId::new(0, 1, 1);
    let other_shard = ConnectionId::new(9, 1, 1);
    let frame = |link_type, connection, payload: &[u8]| {
        [&Header::new(link_type, connection, payload.len() as u32).encode()[..], payload].concat()
    };
    let mut open = Vec::new();
    Open::edge(1, None, b"", b"").encode_payload(&mut open);
    let cases: [(Vec<u8>, LinkError); 12] = [
        (vec![0xff; 16], LinkError::UnknownType(0xff)),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), LinkError::UnknownType(b'/')),
        ([&[0xff, 0, 0, 0, 19, 0, 0, 0][..], &[0; 8]].concat(), LinkError::Oversize(0xff00_0000)),
        ([&[0, 0, 0, 0, 5, 1, 0, 0][..], &[0; 8]].concat(), LinkError::ReservedFlags(1)),
        (
            frame(LinkType::Ack, connection, &9u64.to_be_bytes()),
            LinkError::AckOutOfRange { acked: 9, from: 1, to: 1 },
        ),
        (
            frame(LinkType::Ack, connection, &0u64.to_be_bytes()),
            LinkError::AckOutOfRange { acked: 0, from: 1, to: 1 },
        ),
        (frame(LinkType::Ack, connection, b"7"), LinkError::Malformed),
        (frame(LinkType::Ping, connection, &[0; 9]), LinkError::Malformed),
        (frame(LinkType::Accept, connection, &[0; 8]), LinkError::Unexpected(LinkType::Accept)),
        (frame(LinkType::Data, connection, b"\x03\0\0\x05four"), LinkError::Malformed),
        (frame(LinkType::Data, connection, b"\x04\0\0\0"), LinkError::Malformed),
        (frame(LinkType::Open, other_shard, &open), LinkError::Malformed),
    ];
    for (bytes, error) in cases {
        let mut rig = Rig::new(WorkerConfig::default(), Recorder::new(echo));
        let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0));
        let id = peer.id(1);
        peer.open(id, b"a");
        rig.settle(&mut peer, &mut wire);
        peer.push_raw(&bytes);
        rig.gateway_writes(&mut peer, &mut wire);
        assert_eq!(rig.worker_reads(&mut wire, usize::MAX), Err(LinkFailure::Protocol(error)), "{bytes:x?}");
        rig.dial(&mut peer, &mut wire);
        peer.message(id, b"after", false);
        rig.settle(&mut peer, &mut wire);
        assert_eq!((peer.resumes, peer.messages(id)), (1, vec![&b"after"[..]]));
    }
}

#[test]
fn a_slot_used_again_without_closed_does_little_harm() {
    let handler = Recorder::new(echo);
    let mut rig = Rig::new(WorkerConfig::default(), handler.clone());
    let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0));
    let next = ConnectionId::new(0, 1, 2);
    peer.open(peer.id(1), b"a");
    peer.open(next, b"b");
    peer.message(peer.id(1), b"stale", false);
    peer.message(next, b"hi", false);
    rig.settle(&mut peer, &mut wire);
    assert_eq!(
        handler.take()[1..],
        [
            Event::Close(Some(SessionRef(routing_hash(b"a"))), Closed::Ended(Reason::Internal)),
            Event::Open(b"b".to_vec()),
            Event::Message(b"hi".to_vec(), false)
        ]
    );
    assert_eq!(rig.stats.get(Stat::Connections), 1);
}

#[test]
fn a_draining_worker_tells_every_gateway_and_waits() {
    let mut rig = Rig::new(WorkerConfig::default(), Recorder::new(echo));
    let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0));
    let id = peer.id(1);
    peer.open(id, b"a");
    rig.settle(&mut peer, &mut wire);
    rig.core.start_draining();
    rig.core.start_draining();
    let (late, _late_wire) = rig.link_up(Peer::new(2, 0));
    rig.settle(&mut peer, &mut wire);
    for peer in [&peer, &late] {
        let drains = peer.control.iter().filter(|frame| frame.header.link_type == LinkType::Draining);
        assert_eq!(drains.count(), 1);
    }
    assert!(!rig.core.is_drained(rig.now_ms));
    peer.message(id, b"still served", false);
    peer.closed(id, Reason::Moved);
    rig.gateway_writes(&mut peer, &mut wire);
    rig.worker_reads(&mut wire, usize::MAX).unwrap();
    assert!(!rig.core.is_drained(rig.now_ms), "the replies have not been acknowledged");
    rig.settle(&mut peer, &mut wire);
    assert!(rig.core.is_drained(rig.now_ms));
    assert_eq!((peer.messages(id).len(), peer.count(LinkType::Moved)), (1, 1));

    // A gateway that is cut off with connections left is waited for, but not for long.
    peer.open(peer.id(2), b"b");
    rig.settle(&mut peer, &mut wire);
    rig.cut(&mut peer, &mut wire);
    assert!(!rig.core.is_drained(rig.now_ms) && !rig.core.is_drained(rig.now_ms + 4_999));
    assert!(rig.core.is_drained(rig.now_ms + 5_000));
}
