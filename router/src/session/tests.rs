//! The send queue and the marks against plain models.

use std::collections::VecDeque;

use proptest::prelude::*;
use roost_protocol::{
    ConnectionId,
    link::{Header, LinkType},
};

use super::{
    marks::{Barrier, Marks, Position},
    retained::{OutOfRange, Retained},
};
use crate::id::LinkId;

#[derive(Clone, Debug)]
enum Step {
    Push {
        bytes: usize,
    },
    Fill {
        out_bytes_max: usize,
        window_bytes: usize,
    },
    /// Acknowledges this share of what has been sent.
    Ack {
        share: u8,
    },
    /// Resumes from this share of what is queued.
    Resume {
        share: u8,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = prop_oneof![8 => 0..200usize, 3 => 0..40_000usize, 1 => 60_000..200_000usize];
    prop_oneof![
        6 => bytes.prop_map(|bytes| Step::Push { bytes }),
        4 => (0..100_000usize, 0..300_000usize)
            .prop_map(|(out_bytes_max, window_bytes)| Step::Fill { out_bytes_max, window_bytes }),
        4 => any::<u8>().prop_map(|share| Step::Ack { share }),
        1 => any::<u8>().prop_map(|share| Step::Resume { share }),
    ]
}

/// The same as a list of whole frames.
#[derive(Default)]
struct Model {
    frames: VecDeque<Vec<u8>>,
    acked: u64,
    sent: usize,
    in_flight_bytes: usize,
}

impl Model {
    fn fill(&mut self, out_bytes_max: usize, window_bytes: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while let Some(frame) = self.frames.get(self.sent) {
            let fits = out.is_empty() || out.len() + frame.len() <= out_bytes_max;
            let in_window = self.in_flight_bytes == 0 || self.in_flight_bytes + frame.len() <= window_bytes;
            if !fits || !in_window {
                break;
            }
            self.in_flight_bytes += frame.len();
            self.sent += 1;
            out.extend(frame);
        }
        out
    }

    fn ack(&mut self, count: usize) {
        for frame in self.frames.drain(..count) {
            self.in_flight_bytes -= frame.len();
            self.sent -= 1;
            self.acked += 1;
        }
    }
}

proptest! {
    #[test]
    fn the_send_queue_is_a_list_of_frames(steps in prop::collection::vec(step(), 0..200)) {
        let (mut retained, mut model) = (Retained::default(), Model::default());
        let mut number = 0u8;
        // Frames sent on any connection: no peer can be beyond them.
        let mut sent_ever = 0u64;
        for step in steps {
            match step {
                Step::Push { bytes } => {
                    number = number.wrapping_add(1);
                    let header = Header::new(LinkType::Data, ConnectionId::from_bits(u64::from(number)), bytes as u32);
                    let payload = vec![number; bytes];
                    let (head, tail) = payload.split_at(bytes / 3);
                    retained.push(header, &[head, tail]);
                    model.frames.push_back([&header.encode()[..], &payload].concat());
                }
                Step::Fill { out_bytes_max, window_bytes } => {
                    let mut out = Vec::new();
                    let any = retained.fill(&mut out, out_bytes_max, window_bytes);
                    let expected = model.fill(out_bytes_max, window_bytes);
                    prop_assert_eq!(any, !expected.is_empty());
                    prop_assert!(out == expected, "{} bytes, not {}", out.len(), expected.len());
                }
                Step::Ack { share } => {
                    let count = model.sent * usize::from(share) / 255;
                    model.ack(count);
                    prop_assert_eq!(retained.ack(model.acked), Ok(()));
                }
                Step::Resume { share } => {
                    let known = (sent_ever - model.acked) as usize;
                    let count = known * usize::from(share) / 255;
                    model.sent = model.frames.len();
                    model.in_flight_bytes = model.frames.iter().map(Vec::len).sum();
                    model.ack(count);
                    (model.sent, model.in_flight_bytes) = (0, 0);
                    prop_assert_eq!(retained.resume(model.acked), Ok(()));
                }
            }
            let all_bytes: usize = model.frames.iter().map(Vec::len).sum();
            let end = model.acked + model.frames.len() as u64;
            let sent = model.acked + model.sent as u64;
            sent_ever = sent_ever.max(sent);
            prop_assert_eq!((retained.acked(), retained.sent(), retained.end()), (model.acked, sent, end));
            prop_assert_eq!(retained.in_flight_bytes(), model.in_flight_bytes);
            prop_assert_eq!(retained.pending_bytes(), all_bytes - model.in_flight_bytes);
            let before = OutOfRange { from: model.acked, to: sent };
            prop_assert_eq!(retained.ack(sent + 1), Err(before));
            if let Some(back) = model.acked.checked_sub(1) {
                prop_assert_eq!(retained.ack(back), Err(before));
            }
            let beyond = OutOfRange { from: model.acked, to: sent_ever };
            prop_assert_eq!(retained.resume(sent_ever + 1), Err(beyond));
        }
    }
}

fn at(frames: u64) -> Position {
    Position { frames, bytes: frames * 100 }
}

#[test]
fn a_mark_is_announced_when_its_replies_are_sent_and_settled_when_they_are_acknowledged() {
    let mut marks = Marks::default();
    marks.push(at(3), 2, Vec::new());
    marks.push(at(5), 4, Vec::new());
    assert_eq!(marks.advance(1, 9, |_| true), None);
    assert_eq!(marks.advance(2, 9, |_| true), Some(at(3)));
    assert_eq!(marks.advance(3, 9, |_| true), None);
    assert_eq!((marks.settled(1), marks.settled(2), marks.settled(9)), (at(0), at(3), at(5)));
    marks.peer_acked(9);
    assert_eq!(marks.settled(0), at(3), "what has not been announced is kept");
    assert_eq!(marks.advance(4, 9, |_| true), Some(at(5)));
    marks.peer_acked(4);
    assert_eq!(marks.settled(0), at(5));
}

#[test]
fn a_new_connection_is_told_again_but_never_more_than_it_has_sent() {
    let mut marks = Marks::default();
    marks.push(at(3), 2, Vec::new());
    marks.push(at(5), 4, Vec::new());
    assert_eq!(marks.advance(4, 5, |_| true), Some(at(5)));
    marks.resume(2, at(3));
    assert_eq!(marks.advance(4, 4, |_| true), None, "frame 5 has not come on this connection");
    assert_eq!(marks.advance(4, 5, |_| true), Some(at(5)));
}

#[test]
fn marks_without_replies_merge() {
    let mut marks = Marks::default();
    for frames in 1..1_000 {
        marks.push(at(frames), 0, Vec::new());
        assert_eq!(marks.advance(0, frames, |_| true), Some(at(frames)));
    }
    assert_eq!(marks.settled(0), at(999));
    assert!(format!("{marks:?}").len() < 400, "one mark is kept");
}

#[test]
fn barriers_hold_an_acknowledgement_until_they_are_passed() {
    let other = Barrier { link: LinkId { index: 1, serial: 1 }, position: 7 };
    let mut marks = Marks::default();
    marks.push(at(1), 0, vec![other]);
    marks.push(at(2), 0, Vec::new());
    assert_eq!(marks.advance(0, 2, |_| false), None);
    assert_eq!(marks.settled(0), at(0), "nor is it stated in a handshake");
    assert_eq!(marks.advance(0, 2, |barrier| barrier == other), Some(at(2)));
}
