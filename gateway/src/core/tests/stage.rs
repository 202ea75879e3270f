//! A listener whose clients pass a cipher: the worker and the client notice nothing of it.

use roost_protocol::{
    ConnectionId, Reason,
    edge::{self, FrameType, Hello},
    link::{Header, LinkType},
};

use super::rig::Rig;
use crate::{
    core::{
        CoreConfig, ListenerConfig,
        connection::stage::xor,
        listener::Cipher,
        record::{State, flag},
    },
    op::{Op, Sock, poll_bits},
};

/// A shard with one worker; the clients of its only listener pass a cipher.
fn rig(set: impl FnOnce(&mut CoreConfig)) -> Rig {
    Rig::new(8, (1, 0), |config| {
        config.listeners = vec![ListenerConfig { cipher: Cipher::Xor, ..ListenerConfig::default() }];
        set(config);
    })
}

/// A client comes and has said nothing yet.
fn client(rig: &mut Rig) -> u32 {
    let slot = rig.client_at_once(0);
    rig.turn();
    slot
}

fn sealed(frame_type: FrameType, payload: &[u8]) -> Vec<u8> {
    let (mut frame, mut out) = (Vec::new(), Vec::new());
    edge::encode_frame(frame_type, payload, &mut frame);
    xor::seal(&frame, 100, &mut out);
    out
}

fn hello() -> Vec<u8> {
    let (mut frame, mut out) = (Vec::new(), Vec::new());
    Hello { key: b"key", token: b"token" }.encode(&mut frame);
    xor::seal(&frame, 7, &mut out);
    out
}

/// The client's socket has these bytes.
fn send(rig: &mut Rig, slot: u32, bytes: &[u8]) {
    let sock = Sock::Client(slot);
    rig.end(|op| matches!(op, Op::Poll { sock: on, .. } if on == sock), poll_bits::IN);
    rig.deliver(sock, bytes);
    rig.turn();
}

/// The frames that a client was sent: types, and their payloads.
fn heard(rig: &Rig, slot: u32) -> Vec<(FrameType, Vec<u8>)> {
    let mut bytes = rig.heard[slot as usize].clone();
    let (plain, used) = xor::open(&mut bytes).expect("records");
    assert_eq!(used, bytes.len(), "whole records");
    let mut rest = &bytes[..plain];
    let mut frames = Vec::new();
    while let Ok(edge::Split::Frame { frame_type, frame }) = edge::split(rest, 1 << 20) {
        frames.push((frame_type, frame[edge::HEADER_BYTES..].to_vec()));
        rest = &rest[frame.len()..];
    }
    assert!(rest.is_empty(), "whole frames");
    frames
}

#[test]
fn frames_pass_a_cipher_wherever_tcp_cuts_its_records() {
    for step in [1, 2, 3, 5, 1_000] {
        let mut rig = rig(|_| ());
        let slot = client(&mut rig);
        for piece in hello().chunks(step) {
            send(&mut rig, slot, piece);
        }
        rig.accept(slot);
        let (id, message) = (rig.view(slot).connection, sealed(FrameType::Message, &[7; 300]));
        for piece in message.chunks(step) {
            send(&mut rig, slot, piece);
        }
        send(&mut rig, slot, &sealed(FrameType::Ping, b"12345678"));
        assert_eq!(rig.told(0, id)[1..], [(LinkType::Data, 7)], "{step} at a time");
        let types: Vec<_> = heard(&rig, slot).into_iter().map(|frame| frame.0).collect();
        assert_eq!(types, [FrameType::Welcome, FrameType::Pong], "{step} at a time");
        assert_eq!(rig.view(slot).kept_bytes, 0);
    }
}

#[test]
fn what_a_worker_says_is_sealed_however_long_it_is() {
    let mut rig = rig(|_| ());
    let slot = client(&mut rig);
    send(&mut rig, slot, &hello());
    rig.accept(slot);
    for len in [0, 1, 990, 5_000, 60_000] {
        let mut message = Vec::new();
        edge::encode_frame(FrameType::Message, &vec![len as u8; len], &mut message);
        let header = rig.about(slot, LinkType::Data);
        rig.frame(0, header, &message);
        rig.turn();
        assert_eq!(heard(&rig, slot).pop(), Some((FrameType::Message, vec![len as u8; len])));
    }
}

#[test]
fn a_record_has_to_be_one_and_to_be_whole_in_time() {
    let mut rig = rig(|config| config.handshake_timeout_ms = 600_000);
    let slot = client(&mut rig);
    send(&mut rig, slot, &[0xff, 0xff, 1]);
    let goaway = heard(&rig, slot).pop().expect("a GOAWAY");
    assert_eq!((goaway.0, goaway.1[0]), (FrameType::Goaway, Reason::Malformed.code()));

    let slot = client(&mut rig);
    send(&mut rig, slot, &hello());
    rig.accept(slot);
    let half = sealed(FrameType::Message, b"half");
    // A byte now and then does not put it off.
    for byte in &half[..half.len() - 1] {
        if rig.view(slot).state != State::Open {
            break;
        }
        send(&mut rig, slot, &[*byte]);
        rig.pass(rig.now_ms + 4_000, 500, &[0]);
    }
    assert_ne!(rig.view(slot).state, State::Open);
    let goaway = heard(&rig, slot).pop().expect("a GOAWAY");
    assert_eq!((goaway.0, goaway.1[0]), (FrameType::Goaway, Reason::FrameTimeout.code()));
}

#[test]
fn a_record_is_not_late_for_the_time_in_which_nobody_could_read_it() {
    let mut rig = rig(|config| {
        config.listeners.push(ListenerConfig::default());
        config.link_window_bytes = 2_048;
        config.frame_bytes_max = 1_024;
    });
    let slot = client(&mut rig);
    send(&mut rig, slot, &hello());
    rig.accept(slot);
    let half = sealed(FrameType::Message, b"half");
    send(&mut rig, slot, &half[..3]);
    let other = rig.client_at(1, b"other");
    rig.turn();
    rig.accept(other);
    for _ in 0..2 {
        rig.say(other, &[0; 1_024]);
    }
    // There is more to read, and no room for it at the worker.
    let sock = Sock::Client(slot);
    assert!(rig.end(|op| matches!(op, Op::Poll { sock: on, .. } if on == sock), poll_bits::IN));
    assert!(rig.view(slot).flags & flag::BLOCKED != 0);
    rig.pass(rig.now_ms + 60_000, 500, &[0]);
    // What the window held back can only be acknowledged once it is sent.
    for _ in 0..2 {
        let position = rig.link(0).offered_frames.to_be_bytes();
        rig.frame(0, Header::new(LinkType::Ack, ConnectionId::from_bits(0), 0), &position);
        rig.turn();
    }
    rig.deliver(sock, &half[3..4]);
    rig.pass(rig.now_ms + 5_000, 500, &[0]);
    assert_eq!(rig.view(slot).state, State::Open);
    send(&mut rig, slot, &half[4..]);
    let id = rig.view(slot).connection;
    assert_eq!(rig.told(0, id).last(), Some(&(LinkType::Data, b'f')));
}
