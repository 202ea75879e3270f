use roost_protocol::{
    Reason, SessionRef,
    edge::{FrameError, Goaway, Hello, Welcome},
};

use super::*;
use crate::payload;

fn open(clients: &mut Clients, client: u32) {
    let mut out = Vec::new();
    clients.connecting(client, 0);
    clients.hello(client, &mut out);
    let welcome = Welcome {
        heartbeat_interval_ms: 0,
        idle_timeout_ms: 0,
        frame_bytes_max: 65_536,
        messages_per_s_max: 0,
        session: SessionRef(1),
    };
    let mut received = Vec::new();
    clients.on_bytes(client, &welcome.encode(), &mut received);
    assert_eq!(received, [Received::Welcome(welcome)]);
}

fn verdict(clients: &mut Clients, client: u32, frame: &[u8]) -> Verdict {
    let mut received = Vec::new();
    clients.on_bytes(client, frame, &mut received);
    match received.as_slice() {
        [Received::Message { verdict, .. }] => *verdict,
        other => panic!("{other:?}"),
    }
}

fn messages(clients: &mut Clients, client: u32, count: usize) -> Vec<Vec<u8>> {
    (0..count)
        .map(|_| {
            let mut frame = Vec::new();
            clients.message(client, 32, &mut frame);
            frame
        })
        .collect()
}

#[test]
fn hello_names_the_user() {
    let mut clients = Clients::new(1, 4_000_000_000, 1, Exchange::Echo);
    let mut out = Vec::new();
    clients.connecting(0, 0);
    clients.hello(0, &mut out);
    assert_eq!(Hello::decode(&out[HEADER_BYTES..]).unwrap().key, b"user-4000000000");

    let mut shared = Clients::new(1, 0, 2, Exchange::Echo).with_key(Some("blue".to_owned()));
    for client in 0..2 {
        out.clear();
        shared.connecting(client, 0);
        shared.hello(client, &mut out);
        assert_eq!(Hello::decode(&out[HEADER_BYTES..]).unwrap().key, b"blue");
    }
}

#[test]
fn order_duplicates_and_strangers_are_told_apart() {
    let mut clients = Clients::new(1, 100, 2, Exchange::Echo);
    open(&mut clients, 0);
    open(&mut clients, 1);
    let m = messages(&mut clients, 0, 4);
    assert_eq!(clients.outstanding(0), 4);
    assert_eq!(verdict(&mut clients, 0, &m[0]), Verdict::InOrder);
    assert_eq!(verdict(&mut clients, 0, &m[2]), Verdict::InOrder);
    assert_eq!(verdict(&mut clients, 0, &m[2]), Verdict::Duplicated);
    assert_eq!(clients.outstanding(0), 2);
    assert_eq!(verdict(&mut clients, 0, &m[1]), Verdict::Reordered);
    assert_eq!(verdict(&mut clients, 0, &m[1]), Verdict::Duplicated);
    assert_eq!(verdict(&mut clients, 1, &m[3]), Verdict::Misdelivered);
    assert_eq!(clients.outstanding(0), 1);
    assert_eq!(clients.closed(0).sequences, 3..4);
    assert_eq!(clients.outstanding(0), 0);
}

#[test]
fn content_that_was_not_sent_is_corrupted() {
    let mut clients = Clients::new(1, 0, 1, Exchange::Echo);
    open(&mut clients, 0);
    let mut m = messages(&mut clients, 0, 1).remove(0);
    *m.last_mut().unwrap() ^= 1;
    let mut received = Vec::new();
    clients.on_bytes(0, &m, &mut received);
    // Rightly made, but its sequence has not been sent.
    let mut ahead = Header { frame_type: FrameType::Message, payload_bytes: 32 }.encode().to_vec();
    payload::write(1, Name { sender: 0, sequence: 1 }, 32, &mut ahead);
    clients.on_bytes(0, &ahead, &mut received);
    assert_eq!(received, [Received::Corrupted, Received::Corrupted]);
}

#[test]
fn frames_may_be_cut_anywhere() {
    let mut clients = Clients::new(1, 0, 1, Exchange::Echo);
    open(&mut clients, 0);
    let all: Vec<u8> = messages(&mut clients, 0, 3).concat();
    let mut received = Vec::new();
    for byte in &all {
        clients.on_bytes(0, std::slice::from_ref(byte), &mut received);
    }
    assert_eq!(received.len(), 3);
    assert_eq!(clients.outstanding(0), 0);
    assert_eq!(clients.clients[0].partial, 0);
}

#[test]
fn only_the_right_pong_answers() {
    let mut clients = Clients::new(1, 0, 1, Exchange::Echo);
    open(&mut clients, 0);
    let mut ping = Vec::new();
    assert!(clients.ping(0, 70_000, &mut ping));
    assert!(!clients.ping(0, 70_001, &mut ping));
    let mut received = Vec::new();
    let mut pong = Vec::new();
    edge::encode_frame(FrameType::Pong, &[9; 8], &mut pong);
    edge::encode_frame(FrameType::Pong, &[], &mut pong);
    edge::encode_frame(FrameType::Pong, &ping[HEADER_BYTES..], &mut pong);
    clients.on_bytes(0, &pong, &mut received);
    assert_eq!(received, [Received::Corrupted, Received::UnsolicitedPong, Received::Pong { first: true }]);
}

#[test]
fn goaway_tells_whether_the_session_was_open() {
    let mut clients = Clients::new(1, 0, 1, Exchange::Echo);
    clients.connecting(0, 0);
    clients.hello(0, &mut Vec::new());
    let (mut frame, mut received) = (Vec::new(), Vec::new());
    Goaway::new(Reason::Full, 250).encode(&mut frame);
    clients.on_bytes(0, &frame, &mut received);
    assert_eq!(
        received,
        [Received::Goaway { reason: Reason::Full, retry_after_ms: 250, was: State::Greeting }]
    );
    received.clear();
    clients.on_bytes(0, &[0xff], &mut received);
    assert_eq!(received, [Received::Broken(Broken::Frame(FrameError::ReservedBits))]);
}

fn deliver_frame(sender: u32, sequence: u32, flags: u8) -> Vec<u8> {
    let key = format!("user-{sender}");
    let mut message = vec![2, flags];
    message.extend(sequence.to_be_bytes());
    message.extend(roost_protocol::hash::routing_hash(key.as_bytes()).to_be_bytes());
    payload::write(1, Name { sender, sequence }, 32, &mut message);
    let mut frame = Vec::new();
    edge::encode_frame(FrameType::Message, &message, &mut frame);
    frame
}

#[test]
fn routed_messages_go_to_the_partner_alone() {
    let mut clients = Clients::new(1, 10, 3, Exchange::Route);
    (0..3).for_each(|client| open(&mut clients, client));
    assert_eq!([0, 1, 2].map(|client| clients.partner(client)), [1, 0, 2]);
    messages(&mut clients, 0, 3);
    assert_eq!(verdict(&mut clients, 1, &deliver_frame(10, 0, 0)), Verdict::InOrder);
    assert_eq!(verdict(&mut clients, 2, &deliver_frame(10, 1, 0)), Verdict::Misdelivered);
    assert_eq!(verdict(&mut clients, 1, &deliver_frame(10, 0, 1)), Verdict::Repeated);
    assert_eq!(verdict(&mut clients, 1, &deliver_frame(10, 0, 0)), Verdict::Duplicated);
    assert_eq!(clients.outstanding(0), 2);
    let (mut receipt, mut received) = (Vec::new(), Vec::new());
    edge::encode_frame(FrameType::Message, &[3, 1, 0, 0, 0, 1], &mut receipt);
    clients.on_bytes(0, &receipt, &mut received);
    assert_eq!(
        received,
        [Received::Receipt { sequence: 1, receipt: crate::exchange::Receipt::Offline, settled: true }]
    );
    assert_eq!(clients.outstanding(0), 1);
}

#[test]
fn each_client_counts_messages_to_many_for_itself() {
    let fanout = std::sync::Arc::new(crate::exchange::Fanout::new(10, None, 9));
    let mut clients = Clients::new(1, 10, 2, Exchange::Fanout(std::sync::Arc::clone(&fanout)));
    (0..2).for_each(|client| open(&mut clients, client));
    let frame = |sequence| {
        let mut frame = Header { frame_type: FrameType::Message, payload_bytes: 32 }.encode().to_vec();
        payload::write(1, Name { sender: 10, sequence }, 32, &mut frame);
        frame
    };
    for sequence in 0..3 {
        fanout.note_send(sequence, 0);
    }
    assert_eq!(verdict(&mut clients, 1, &frame(0)), Verdict::InOrder);
    assert_eq!(verdict(&mut clients, 1, &frame(2)), Verdict::InOrder);
    assert_eq!(verdict(&mut clients, 1, &frame(0)), Verdict::Duplicated);
    assert_eq!((clients.outstanding(0), clients.outstanding(1)), (3, 1));
    let mut received = Vec::new();
    clients.on_bytes(0, &frame(3), &mut received);
    assert_eq!(received, [Received::Corrupted]);
}
