//! What the gateway states of itself to clients and workers, and what it passes on of who ends a session.

use roost_protocol::{
    InstanceId, Reason, SessionRef,
    edge::{FrameType, Goaway, HEADER_BYTES, Welcome},
    link::{self, Ending, Framing, Header, LinkHello, LinkType, Open, Refusal, Reopen, Split, handshake},
};

use super::{
    config,
    rig::{Rig, key_of},
    workers::Rig as Worker,
};
use crate::{
    core::link::LinkState,
    op::{Op, Sock, poll_bits},
};

/// The whole frames in what a worker was sent.
fn frames(bytes: &[u8]) -> Vec<(Header, Vec<u8>)> {
    let (mut rest, mut found) = (bytes, Vec::new());
    while let Ok(Split::Frame { header, payload }) = link::split(rest, u32::MAX) {
        found.push((header, payload.to_vec()));
        rest = &rest[header.frame_bytes()..];
    }
    found
}

#[test]
fn link_hello_states_the_configuration() {
    let mut config = config();
    (config.link_failover_ms, config.link_keepalive_ms) = (7_001, 7_002);
    (config.idle_timeout_ms, config.messages_per_s_max) = (7_003, 7_004);
    let mut rig = Worker::of(config.clone());
    while !rig.hands.ops().any(|(_, op)| op == Op::Connect { link: 0 }) {
        rig.turn();
    }
    assert!(rig.end(|op| op == Op::Connect { link: 0 }, 0));
    rig.turn();
    let op = rig.hands.take(|_, op| matches!(op, Op::Send { .. })).expect("LINK_HELLO leaves");
    let (_, bytes) = rig.hands.end_send(op, usize::MAX);
    let [(header, payload)] = &frames(&bytes)[..] else { panic!("one frame: {bytes:x?}") };
    assert_eq!((header.link_type, payload.len()), (LinkType::LinkHello, 92));
    let hello = LinkHello::decode(payload).expect("it decodes");
    assert_eq!(
        hello,
        LinkHello {
            shard: 0,
            shards: 1,
            gateway: config.gateway,
            nonce: hello.nonce,
            expected_worker: InstanceId::NONE,
            received_position: 0,
            window_bytes: config.link_window_bytes,
            frame_bytes_max: config.frame_bytes_max,
            capabilities: 0,
            link_failover_ms: 7_001,
            link_keepalive_ms: 7_002,
            idle_timeout_ms: 7_003,
            messages_per_s_max: 7_004,
        }
    );
}

#[test]
fn a_link_welcome_of_an_earlier_draft_is_refused() {
    // 48 bytes and the proof field: without a proof, and with one of which any byte may be the length
    // of the proof as it would be read now.
    for proof in [vec![0], [vec![32], vec![0; 32]].concat(), vec![32; 33]] {
        let mut rig = Worker::of(config());
        while !rig.hands.ops().any(|(_, op)| op == Op::Connect { link: 0 }) {
            rig.turn();
        }
        assert!(rig.end(|op| op == Op::Connect { link: 0 }, 0));
        let mut payload = vec![1, 0, 0, 0, 0, 1, 0, 0];
        payload.extend([2; 16]);
        payload.extend([3; 16]);
        payload.extend([0; 8]);
        payload.extend(&proof);
        let mut bytes = Vec::new();
        handshake::encode_frame(LinkType::LinkWelcome, &payload, &mut bytes);
        rig.hands.deliver(&mut rig.core, Sock::Link(0), &bytes);
        let state = rig.core.link_views().next().expect("a link").state;
        assert_eq!(state, LinkState::Refusing, "{proof:?}");
        let mut sent = Vec::new();
        while let Some(op) = rig.hands.take(|_, op| matches!(op, Op::Send { .. })) {
            let (completion, bytes) = rig.hands.end_send(op, usize::MAX);
            sent.extend(bytes);
            rig.core.on_completion(&mut rig.hands, completion);
            rig.turn();
        }
        let refused = frames(&sent).into_iter().find(|(header, _)| header.link_type == LinkType::LinkRefuse);
        let (header, _) = refused.expect("it is told");
        assert_eq!(Refusal::from_code(header.aux), Refusal::Malformed);
    }
}

#[test]
fn welcome_states_the_limits_in_force() {
    let mut rig = Rig::new(4, (1, 0), |config| {
        (config.heartbeat_interval_ms, config.idle_timeout_ms) = (60_000, 150_000);
        (config.frame_bytes_max, config.messages_per_s_max) = (4_096, 25);
    });
    let slot = rig.open_client(b"k");
    let [frame] = rig.heard(slot, FrameType::Welcome)[..] else { panic!("one WELCOME") };
    assert_eq!(
        Welcome::decode(&frame[HEADER_BYTES..]),
        Ok(Welcome {
            heartbeat_interval_ms: 60_000,
            idle_timeout_ms: 150_000,
            frame_bytes_max: 4_096,
            messages_per_s_max: 25,
            session: SessionRef(7),
        })
    );
}

#[test]
fn open_and_reopen_state_the_framing() {
    let mut rig = Rig::new(4, (2, 0), |_| ());
    let slot = rig.open_client(&key_of(&[0, 1]));
    let opens = |link: usize| rig.said[link].iter().find(|(header, _)| header.link_type == LinkType::Open);
    let (_, payload) = opens(0).expect("w0 is asked");
    let open = Open::decode(payload).expect("it decodes");
    assert_eq!((open.framing, open.meta), (Framing::Edge, &b""[..]));
    rig.cut(0);
    rig.pass(rig.now_ms + 10_100, 500, &[1]);
    rig.turns(3);
    let mut said = rig.said[1].iter();
    let (header, payload) =
        said.find(|(header, _)| header.link_type == LinkType::Reopen).expect("w1 takes over");
    assert_eq!((header.connection, payload.len()), (rig.view(slot).connection, 17));
    let reopen = Reopen::decode(payload).expect("it decodes");
    assert_eq!((reopen.framing, reopen.session), (Framing::Edge, SessionRef(7)));
}

#[test]
fn clients_hear_the_words_of_workers() {
    let longest = "x".repeat(117);
    let endings = [(0, ""), (4_000, ""), (4_999, "bis sp\u{e4}ter"), (0, "bye"), (4_321, &*longest)];
    for (code, text) in endings {
        let mut rig = Rig::new(4, (1, 0), |_| ());
        let opening = rig.client(b"a");
        rig.turn();
        let open = rig.open_client(b"b");
        for (slot, link_type) in [(opening, LinkType::Reject), (open, LinkType::Close)] {
            let mut payload = Vec::new();
            Ending { retry_after_ms: 500, code, text }.encode_payload(&mut payload);
            let header = rig.about(slot, link_type);
            rig.frame(0, header, &payload);
            rig.turn();
            let [frame] = rig.heard(slot, FrameType::Goaway)[..] else { panic!("one GOAWAY") };
            let goaway = Goaway::decode(&frame[HEADER_BYTES..]).expect("it decodes");
            assert_eq!((goaway.retry_after_ms, goaway.code, goaway.text), (500, code, text));
        }
    }
}

#[test]
fn words_that_no_client_can_be_told_are_an_error() {
    for payload in [&b"\0\0\0\0\x03\xe8"[..], b"\0\0\0\0\x13\x88", b"\0\0\0\0\x0f\xa0\xff", &[0; 124]] {
        let mut rig = Rig::new(4, (1, 0), |_| ());
        let slot = rig.open_client(b"k");
        let close = rig.about(slot, LinkType::Close);
        rig.frame(0, close, payload);
        rig.turn();
        assert_eq!(rig.goaway(slot), None, "{payload:x?}");
        assert_ne!(rig.link(0).state, LinkState::Up, "{payload:x?}");
    }
}

#[test]
fn the_gateways_own_goaway_has_no_words() {
    let mut rig = Rig::new(4, (1, 0), |_| ());
    let slot = rig.open_client(b"k");
    let unexpected = [1, 0, 0, 6, 1, 0, 0, 0, 0, 0];
    let sock = Sock::Client(slot);
    rig.end(|op| matches!(op, Op::Poll { sock: on, .. } if on == sock), poll_bits::IN);
    rig.deliver(sock, &unexpected);
    rig.turn();
    let told = rig.heard(slot, FrameType::Goaway);
    let goaway = told.first().map(|frame| Goaway::decode(&frame[HEADER_BYTES..]).expect("it decodes"));
    assert_eq!(goaway, Some(Goaway::new(Reason::UnexpectedFrame, 0)));
}
