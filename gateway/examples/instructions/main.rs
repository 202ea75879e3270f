//! Work of the pure parts, to count instructions by: `scripts/instructions` runs each part under
//! callgrind and divides what was counted inside `measured` by the number that is printed here.
//! Instructions hardly depend on what else the machine does.
#![forbid(unsafe_code)]

mod stage;
mod world;

use std::hint::black_box;

use roost_protocol::{
    ConnectionId,
    edge::{self, FRAME_BYTES_MAX_DEFAULT, FrameType, encode_frame},
    hash,
    link::{self, Frame, Header, LinkType},
};
use stage::Stage;

/// What is counted: callgrind collects only while a function of this name runs.
#[inline(never)]
fn measured(work: impl FnOnce()) {
    work();
}

/// A part: its name, and what runs it and says how often it did what is counted.
type Part = (&'static str, fn() -> u64);

const PARTS: [Part; 10] = [
    ("edge_decode_per_frame", edge_decode),
    ("link_decode_per_frame", link_decode),
    ("rendezvous_per_key", rendezvous),
    ("accept_per_connection", accept),
    ("close_per_connection", close),
    ("echo_per_message_of_64", || echo(64, 32)),
    ("echo_per_message_alone", || echo(1, 1_000)),
    ("broadcast_per_delivery", broadcast),
    ("outbox_per_reply", outbox),
    ("sweep_per_connection", sweep),
];

fn main() {
    let name = std::env::args().nth(1).unwrap_or_default();
    match PARTS.iter().find(|(known, _)| *known == name) {
        Some((_, run)) => println!("{}", run()),
        None => PARTS.iter().for_each(|(known, _)| println!("{known}")),
    }
}

fn edge_decode() -> u64 {
    let mut bytes = Vec::new();
    for _ in 0..1_000 {
        encode_frame(FrameType::Message, &[7; 64], &mut bytes);
    }
    let mut count = 0;
    measured(|| {
        let mut rest = &bytes[..];
        while let Ok(edge::Split::Frame { frame, .. }) = edge::split(rest, FRAME_BYTES_MAX_DEFAULT) {
            rest = &rest[black_box(frame).len()..];
            count += 1;
        }
    });
    count
}

fn link_decode() -> u64 {
    let mut bytes = Vec::new();
    let header = Header::new(LinkType::Data, ConnectionId::new(0, 7, 1), 0);
    for _ in 0..1_000 {
        Frame::Data(&[7; 64]).encode(header, &mut bytes);
    }
    let payload_bytes_max = link::payload_bytes_max(FRAME_BYTES_MAX_DEFAULT);
    let mut count = 0;
    measured(|| {
        let mut rest = &bytes[..];
        while let Ok(link::Split::Frame { header, payload }) = link::split(rest, payload_bytes_max) {
            black_box(Frame::decode(&header, payload, FRAME_BYTES_MAX_DEFAULT).is_ok());
            rest = &rest[header.frame_bytes()..];
            count += 1;
        }
    });
    count
}

fn rendezvous() -> u64 {
    let workers: Vec<_> =
        (0..8_u64).map(|worker| (worker, hash::worker_hash(&worker.to_le_bytes()))).collect();
    let keys: Vec<_> = (0..1_000).map(|key| format!("user-{key:06}")).collect();
    measured(|| {
        for key in &keys {
            black_box(hash::rendezvous(hash::partition(key.as_bytes()), workers.iter().copied()));
        }
    });
    keys.len() as u64
}

fn accept() -> u64 {
    let mut stage = Stage::new(4_096);
    stage.connect(100);
    stage.measuring = true;
    stage.connect(1_000);
    1_000
}

fn close() -> u64 {
    let mut stage = Stage::new(4_096);
    stage.connect(1_000);
    stage.measuring = true;
    for slots in stage.slots.clone().chunks(64) {
        slots.iter().for_each(|&slot| stage.leave(slot));
        stage.settle();
    }
    1_000
}

/// A message to the worker and its reply back, of so many clients in one turn.
fn echo(clients: usize, rounds: u64) -> u64 {
    let mut stage = Stage::new(4_096);
    stage.connect(1_000);
    let slots: Vec<_> = stage.slots.iter().copied().step_by(1_000 / clients).take(clients).collect();
    for round in 0..=rounds {
        // The first round touches memory for the first time.
        stage.measuring = round > 0;
        let before = stage.taken;
        slots.iter().for_each(|&slot| stage.send(slot, 64));
        stage.settle();
        assert_eq!(stage.taken - before, 68 * clients as u64, "each got its reply");
    }
    rounds * clients as u64
}

fn broadcast() -> u64 {
    let mut stage = Stage::new(16_384);
    stage.connect(10_000);
    stage.measuring = true;
    let before = stage.taken;
    stage.broadcast(100);
    for _ in 0..1_000 {
        if stage.taken - before < 104 * 10_000 {
            // A bounded part of it per turn.
            stage.tick(0);
        }
    }
    assert_eq!(stage.taken - before, 104 * 10_000, "all got it");
    10_000
}

/// Replies that the client does not take: queued, then sent when it does.
fn outbox() -> u64 {
    let (clients, replies) = (64, 16);
    let mut stage = Stage::new(4_096);
    stage.connect(clients);
    let (slots, before) = (stage.slots.clone(), stage.taken);
    stage.taking = false;
    stage.measuring = true;
    for _ in 0..replies {
        slots.iter().for_each(|&slot| stage.send(slot, 64));
        stage.settle();
    }
    stage.take_again();
    assert_eq!(stage.taken - before, 68 * u64::from(clients) * replies, "nothing is missing");
    u64::from(clients) * replies
}

/// Turns in which only deadlines are looked at.
fn sweep() -> u64 {
    let (clients, rounds) = (10_000, 10);
    let mut stage = Stage::new(16_384);
    stage.connect(clients);
    stage.measuring = true;
    // A round takes a second, in slices of 2,048 slots.
    for _ in 0..rounds * 5 {
        stage.tick(200);
    }
    u64::from(clients) * rounds
}
