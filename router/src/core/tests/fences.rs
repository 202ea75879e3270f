//! Handshakes, resumption, replacement, expiry.

use roost_protocol::{hash::routing_hash, link::Refusal};

use super::*;

fn with_secret(secret: Option<&[u8]>) -> WorkerConfig {
    WorkerConfig { secret: secret.map(<[u8]>::to_vec), ..WorkerConfig::default() }
}

/// What the worker makes of a gateway with this secret.
fn handshake(worker: Option<&[u8]>, gateway: Option<&[u8]>) -> (Result<(), LinkFailure>, Peer) {
    let mut rig = Rig::new(with_secret(worker), Recorder::new(echo));
    let mut peer = Peer::new(1, 0).with_secret(gateway);
    let mut wire = Wire::default();
    rig.dial(&mut peer, &mut wire);
    rig.gateway_writes(&mut peer, &mut wire);
    rig.worker_reads(&mut wire, usize::MAX).unwrap();
    rig.gateway_reads(&mut peer, &mut wire, usize::MAX);
    rig.gateway_writes(&mut peer, &mut wire);
    (rig.worker_reads(&mut wire, usize::MAX), peer)
}

#[test]
fn secrets_are_proved_in_both_directions() {
    for secret in [None, Some(&b"s"[..])] {
        let (result, peer) = handshake(secret, secret);
        assert_eq!((result, peer.control.len()), (Ok(()), 0));
    }
    let (result, peer) = handshake(Some(b"right"), Some(b"wrong"));
    assert_eq!(result, Err(LinkFailure::Refused(Refusal::SecretWrong)));
    assert_eq!(peer.control.len(), 1, "the worker's proof does not convince the gateway either");
    let (result, _) = handshake(Some(b"right"), None);
    assert_eq!(result, Err(LinkFailure::Refused(Refusal::SecretRequired)));
    // A worker without a secret proves nothing: a gateway with one finds out.
    let (result, peer) = handshake(None, Some(b"s"));
    assert_eq!((result, peer.control.len()), (Ok(()), 1));
}

#[test]
fn hellos_that_cannot_be_served_are_refused() {
    let core = Core::new(WorkerConfig::default(), InstanceId([1; 16]), Recorder::new(echo), Arc::default());
    let hello = Peer::new(2, 0).with_frame_bytes_max(65_536).hello();
    let refused = |hello: LinkHello| core.hello(&hello.encode_payload(), [0; 16]).map(drop);
    assert_eq!(refused(hello), Ok(()));
    assert_eq!(refused(LinkHello { shard: 255, shards: 256, ..hello }), Ok(()));
    let malformed = Err(LinkFailure::Refused(Refusal::Malformed));
    assert_eq!(refused(LinkHello { shard: 256, shards: 257, ..hello }), malformed);
    assert_eq!(refused(LinkHello { frame_bytes_max: 1 << 24, window_bytes: u32::MAX, ..hello }), malformed);
    assert_eq!(refused(LinkHello { window_bytes: 65_536 + 31, ..hello }), malformed);
    assert_eq!(refused(LinkHello { window_bytes: 65_536 + 32, ..hello }), Ok(()));
    let mut version = hello.encode_payload();
    version[0] = 9;
    assert_eq!(core.hello(&version, [0; 16]).map(drop), Err(LinkFailure::Refused(Refusal::Version)));
    assert_eq!(core.hello(&version[..9], [0; 16]).map(drop), Err(LinkFailure::Refused(Refusal::Version)));
    assert_eq!(core.hello(&[], [0; 16]).map(drop), malformed);
}

#[test]
fn a_peer_that_proves_nothing_disturbs_nobody() {
    let mut rig = Rig::new(with_secret(Some(b"s")), Recorder::new(echo));
    let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0).with_secret(Some(b"s")));
    let id = peer.id(1);
    peer.open(id, b"a");
    rig.settle(&mut peer, &mut wire);

    let mut impostor = Peer::new(1, 0).with_secret(Some(b"guess"));
    let mut impostor_wire = Wire::default();
    rig.dial(&mut impostor, &mut impostor_wire);
    rig.gateway_writes(&mut impostor, &mut impostor_wire);
    rig.worker_reads(&mut impostor_wire, usize::MAX).unwrap();
    rig.gateway_reads(&mut impostor, &mut impostor_wire, usize::MAX);
    rig.gateway_writes(&mut impostor, &mut impostor_wire);
    assert_eq!(
        rig.worker_reads(&mut impostor_wire, usize::MAX),
        Err(LinkFailure::Refused(Refusal::SecretWrong))
    );

    peer.message(id, b"still here", false);
    rig.settle(&mut peer, &mut wire);
    assert_eq!(peer.messages(id), [b"still here"]);
    assert_eq!((rig.stats.get(Stat::Sessions), rig.stats.get(Stat::SessionsReplaced)), (1, 0));
}

#[test]
fn a_new_connection_of_the_same_shard_takes_over_and_the_old_one_is_late() {
    let mut rig = Rig::new(WorkerConfig::default(), Recorder::new(echo));
    let (mut peer, mut old) = rig.link_up(Peer::new(1, 0));
    let id = peer.id(1);
    peer.open(id, b"a");
    rig.settle(&mut peer, &mut old);
    // These have left the gateway; the worker has not read them yet.
    peer.message(id, b"one", false);
    peer.message(id, b"two", false);
    rig.gateway_writes(&mut peer, &mut old);

    // The gateway has given up that connection and dials again.
    let mut new = Wire { stage: WireStage::Hello, ..Wire::default() };
    peer.disconnected();
    peer.connected();
    rig.gateway_writes(&mut peer, &mut new);
    rig.worker_reads(&mut new, usize::MAX).unwrap();
    // Now the worker gets round to the old bytes, and handles them after it has said WELCOME.
    rig.worker_reads(&mut old, usize::MAX).unwrap();
    assert_eq!(rig.stats.get(Stat::MessagesHandled), 2);
    rig.settle(&mut peer, &mut new);

    assert_eq!(peer.messages(id), [b"one", b"two"], "the re-sent frames were dropped");
    assert_eq!(rig.stats.get(Stat::DuplicatesDropped), 2);
    assert_eq!((peer.resumes, peer.unacknowledged(), rig.stats.get(Stat::Links)), (1, 0, 1));
    old.to_worker = b"whatever".to_vec();
    assert_eq!(rig.worker_reads(&mut old, usize::MAX), Err(LinkFailure::Superseded));
    rig.cut_worker_side(&mut old);
    peer.message(id, b"three", false);
    rig.settle(&mut peer, &mut new);
    assert_eq!(peer.messages(id).len(), 3, "the end of the old connection means nothing");
}

#[test]
fn a_gateway_that_begins_anew_ends_the_old_session() {
    let handler = Recorder::new(echo);
    let mut rig = Rig::new(WorkerConfig::default(), handler.clone());
    let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0));
    let (first, second) = (peer.id(1), peer.id(700));
    peer.open(first, b"a");
    peer.open(second, b"b");
    rig.settle(&mut peer, &mut wire);
    handler.take();

    let mut old = std::mem::take(&mut wire);
    peer.disconnected();
    peer.forget();
    peer.connected();
    wire.stage = WireStage::Hello;
    rig.settle(&mut peer, &mut wire);
    assert_eq!((peer.sessions, peer.resumes), (2, 0));
    let closed = |key: &[u8]| Event::Close(Some(SessionRef(routing_hash(key))), Closed::Lost);
    let mut events = handler.take();
    events.sort_by_key(|event| *event == closed(b"b"));
    assert_eq!(events, [closed(b"a"), closed(b"b")]);
    old.to_worker = b"late".to_vec();
    assert_eq!(rig.worker_reads(&mut old, usize::MAX), Err(LinkFailure::Superseded));
    assert_eq!((rig.stats.get(Stat::Connections), rig.stats.get(Stat::Links)), (0, 1));
    assert_eq!((rig.stats.get(Stat::Sessions), rig.stats.get(Stat::SessionsReplaced)), (1, 1));

    peer.reopen(first, routing_hash(b"a"));
    peer.message(first, b"again", true);
    rig.settle(&mut peer, &mut wire);
    assert_eq!(handler.take(), [Event::Reopen(routing_hash(b"a")), Event::Message(b"again".to_vec(), true)]);
    assert_eq!(peer.messages(first), [b"again"]);
    assert_eq!((rig.stats.get(Stat::Reopens), rig.stats.get(Stat::ResentReceived)), (1, 1));
}

#[test]
fn positions_that_never_were_begin_a_new_session() {
    let mut rig = Rig::new(WorkerConfig::default(), Recorder::new(echo));
    let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0));
    let id = peer.id(1);
    peer.open(id, b"a");
    rig.settle(&mut peer, &mut wire);
    // The gateway claims to have more than was ever sent.
    let more = peer.inbox[0].clone();
    peer.inbox.push(more);
    rig.dial(&mut peer, &mut wire);
    rig.settle(&mut peer, &mut wire);
    assert_eq!((peer.sessions, peer.resumes), (2, 0));
}

#[test]
fn what_was_handled_but_not_answered_for_is_not_stated_as_received() {
    let mut rig = Rig::new(WorkerConfig::default(), Recorder::new(echo));
    let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0));
    let id = peer.id(1);
    peer.open(id, b"a");
    rig.settle(&mut peer, &mut wire);
    peer.message(id, b"lost reply", false);
    rig.gateway_writes(&mut peer, &mut wire);
    rig.worker_reads(&mut wire, usize::MAX).unwrap();
    rig.worker_writes(&mut wire, usize::MAX);
    rig.dial(&mut peer, &mut wire);
    // Had the worker stated the message as received and died now, nobody would have answered it.
    rig.gateway_writes(&mut peer, &mut wire);
    rig.worker_reads(&mut wire, usize::MAX).unwrap();
    rig.gateway_reads(&mut peer, &mut wire, usize::MAX);
    assert!(peer.is_up());
    assert_eq!(peer.unacknowledged(), 1);
    rig.settle(&mut peer, &mut wire);
    assert_eq!((peer.messages(id).len(), peer.unacknowledged()), (1, 0));
    assert_eq!((rig.stats.get(Stat::MessagesHandled), rig.stats.get(Stat::DuplicatesDropped)), (1, 1));
}

#[test]
fn other_bytes_than_before_sent_again_are_dropped_all_the_same() {
    let mut rig = Rig::new(WorkerConfig::default(), Recorder::new(echo));
    let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0));
    let id = peer.id(1);
    peer.open(id, b"a");
    rig.settle(&mut peer, &mut wire);
    let mut liar = peer.clone();
    peer.message(id, &[1; 4_000], false);
    rig.gateway_writes(&mut peer, &mut wire);
    rig.worker_reads(&mut wire, usize::MAX).unwrap();
    // The replies got lost, and what comes again is shorter.
    liar.message(id, b"", false);
    liar.message(id, b"next", false);
    rig.dial(&mut liar, &mut wire);
    rig.settle(&mut liar, &mut wire);
    assert_eq!(liar.messages(id), [&[1; 4_000][..], b"next"]);
    assert_eq!((liar.unacknowledged(), rig.stats.get(Stat::DuplicatesDropped)), (0, 1));
    liar.message(id, b"and on", false);
    rig.settle(&mut liar, &mut wire);
    assert_eq!(liar.messages(id).len(), 3);
}

#[test]
fn a_session_waits_for_its_gateway_and_then_expires() {
    let config = WorkerConfig { session_ttl_ms: Some(1_000), ..WorkerConfig::default() };
    let handler = Recorder::new(echo);
    let mut rig = Rig::new(config, handler.clone());
    let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0));
    let id = peer.id(1);
    peer.open(id, b"a");
    rig.settle(&mut peer, &mut wire);

    rig.cut(&mut peer, &mut wire);
    rig.now_ms += 999;
    rig.core.tick(rig.now_ms);
    rig.dial(&mut peer, &mut wire);
    rig.settle(&mut peer, &mut wire);
    assert_eq!((peer.sessions, peer.resumes), (1, 1));

    rig.now_ms += 5_000;
    rig.cut(&mut peer, &mut wire);
    handler.take();
    rig.now_ms += 1_000;
    rig.core.tick(rig.now_ms);
    assert_eq!(handler.take(), [Event::Close(Some(SessionRef(routing_hash(b"a"))), Closed::Lost)]);
    assert_eq!((rig.stats.get(Stat::SessionsExpired), rig.stats.get(Stat::Sessions)), (1, 0));
    rig.dial(&mut peer, &mut wire);
    rig.settle(&mut peer, &mut wire);
    assert_eq!((peer.sessions, peer.resumes), (2, 1));
}

#[test]
fn a_session_that_ends_during_a_handshake_is_not_resumed() {
    let config = WorkerConfig { session_ttl_ms: Some(10), ..WorkerConfig::default() };
    let mut rig = Rig::new(config, Recorder::new(echo));
    let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0));
    rig.dial(&mut peer, &mut wire);
    rig.gateway_writes(&mut peer, &mut wire);
    rig.worker_reads(&mut wire, usize::MAX).unwrap();
    rig.now_ms += 10;
    rig.core.tick(rig.now_ms);
    rig.gateway_reads(&mut peer, &mut wire, usize::MAX);
    rig.gateway_writes(&mut peer, &mut wire);
    assert_eq!(rig.worker_reads(&mut wire, usize::MAX), Err(LinkFailure::Raced));
}

#[test]
fn of_two_handshakes_at_once_only_the_first_to_be_proved_resumes() {
    let mut rig = Rig::new(WorkerConfig::default(), Recorder::new(echo));
    let (mut peer, mut first) = rig.link_up(Peer::new(1, 0));
    let mut second = Wire::default();
    let mut double = peer.clone();
    rig.dial(&mut peer, &mut first);
    rig.dial(&mut double, &mut second);
    for (peer, wire) in [(&mut peer, &mut first), (&mut double, &mut second)] {
        rig.gateway_writes(peer, wire);
        rig.worker_reads(wire, usize::MAX).unwrap();
        rig.gateway_reads(peer, wire, usize::MAX);
        rig.gateway_writes(peer, wire);
    }
    assert_eq!(rig.worker_reads(&mut second, usize::MAX), Ok(()));
    assert_eq!(rig.worker_reads(&mut first, usize::MAX), Err(LinkFailure::Raced));
}

#[test]
fn there_are_no_more_sessions_than_allowed() {
    let config = WorkerConfig { sessions_max: 1, ..WorkerConfig::default() };
    let mut rig = Rig::new(config, Recorder::new(echo));
    let (mut first, mut first_wire) = rig.link_up(Peer::new(1, 0));
    let (mut second, mut wire) = (Peer::new(2, 0), Wire::default());
    rig.dial(&mut second, &mut wire);
    rig.gateway_writes(&mut second, &mut wire);
    assert_eq!(rig.worker_reads(&mut wire, usize::MAX), Err(LinkFailure::TooManySessions));
    rig.dial(&mut first, &mut first_wire);
    rig.settle(&mut first, &mut first_wire);
    assert_eq!(first.resumes, 1, "the one that is there can come back");
}

#[test]
fn silent_links_are_probed_and_then_given_up() {
    let config = WorkerConfig { keepalive_ms: 1_000, ..WorkerConfig::default() };
    let mut rig = Rig::new(config, Recorder::new(echo));
    let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0));
    rig.now_ms = 1_000;
    rig.core.tick(rig.now_ms);
    rig.worker_writes(&mut wire, usize::MAX);
    rig.gateway_reads(&mut peer, &mut wire, usize::MAX);
    assert_eq!(peer.control.last().unwrap().header.link_type, LinkType::Ping);
    rig.settle(&mut peer, &mut wire);
    rig.now_ms = 1_999;
    rig.core.tick(rig.now_ms);
    rig.worker_writes(&mut wire, usize::MAX);
    assert!(wire.to_gateway.is_empty() && rig.core.take_broken().is_empty(), "the PONG was heard");
    // The worker itself was stopped for a while: the gateway gets its time to answer all the same.
    rig.now_ms = 10_000;
    rig.core.tick(rig.now_ms);
    rig.now_ms = 10_999;
    rig.core.tick(rig.now_ms);
    assert!(rig.core.take_broken().is_empty());
    rig.now_ms = 11_000;
    rig.core.tick(rig.now_ms);
    assert_eq!(rig.core.take_broken().len(), 1);
}
