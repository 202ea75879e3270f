//! `vectors/edge.json`.

use std::collections::BTreeSet;

use roost_protocol::{
    Reason, SessionRef,
    edge::{Decoder, Frame, FrameError, FrameType, Goaway, HEADER_BYTES, Hello, Split, Welcome, split},
};
use serde_json::Value;

use crate::{bytes, for_each, frame_bytes_max, load, text, u16_of, u32_of, u64_of};

/// The byte strings of a frame, which [`Frame`] borrows.
struct Fields {
    first: Vec<u8>,
    second: Vec<u8>,
}

fn fields(frame: &Value) -> Fields {
    let field = |name: &str| frame.get(name).map(bytes).unwrap_or_default();
    match text(&frame["type"]) {
        "HELLO" => Fields { first: field("key"), second: field("token") },
        "GOAWAY" => Fields { first: field("alternative"), second: text(&frame["text"]).into() },
        _ => Fields { first: field("payload"), second: Vec::new() },
    }
}

fn frame_of<'a>(frame: &Value, fields: &'a Fields) -> Frame<'a> {
    let Fields { first, second } = fields;
    match text(&frame["type"]) {
        "HELLO" => Frame::Hello(Hello { key: first, token: second }),
        "WELCOME" => Frame::Welcome(Welcome {
            heartbeat_interval_ms: u32_of(&frame["heartbeat_interval_ms"]),
            idle_timeout_ms: u32_of(&frame["idle_timeout_ms"]),
            frame_bytes_max: u32_of(&frame["frame_bytes_max"]),
            messages_per_s_max: u32_of(&frame["messages_per_s_max"]),
            session: SessionRef(u64_of(&frame["session"])),
        }),
        "MESSAGE" => Frame::Message(first),
        "PING" => Frame::Ping(first),
        "PONG" => Frame::Pong(first),
        "GOAWAY" => Frame::Goaway(Goaway {
            reason: reason_of(text(&frame["reason"])),
            retry_after_ms: u32_of(&frame["retry_after_ms"]),
            code: u16_of(&frame["code"]),
            alternative: first,
            text: str::from_utf8(second).expect("it was text"),
        }),
        "CLOSE" => Frame::Close(frame["code"].as_u64().map(|code| code.try_into().expect("a u8"))),
        other => panic!("no edge frame is called {other}"),
    }
}

fn reason_of(label: &str) -> Reason {
    *Reason::ALL.iter().find(|reason| reason.label() == label).expect("a reason's label")
}

fn name_of(frame_type: FrameType) -> &'static str {
    match frame_type {
        FrameType::Hello => "HELLO",
        FrameType::Welcome => "WELCOME",
        FrameType::Message => "MESSAGE",
        FrameType::Ping => "PING",
        FrameType::Pong => "PONG",
        FrameType::Goaway => "GOAWAY",
        FrameType::Close => "CLOSE",
    }
}

/// Splits the one frame off that `bytes` are, and decodes it.
fn decode(bytes: &[u8], frame_bytes_max: u32) -> Result<Frame<'_>, FrameError> {
    match split(bytes, frame_bytes_max)? {
        Split::Frame { frame_type, frame } => {
            assert_eq!(frame.len(), bytes.len(), "one whole frame");
            Frame::decode(frame_type, &frame[HEADER_BYTES..])
        }
        Split::Need { total_bytes } => panic!("{} of {total_bytes} bytes are there", bytes.len()),
    }
}

#[test]
fn good_frames_decode_and_encode() {
    let file = load("edge.json");
    for_each(&file["good"], |case| {
        let (wire, fields) = (bytes(&case["bytes"]), fields(&case["frame"]));
        let frame = frame_of(&case["frame"], &fields);
        assert_eq!(decode(&wire, frame_bytes_max(case, &file)), Ok(frame));
        let mut encoded = Vec::new();
        frame.encode(&mut encoded);
        assert_eq!(encoded, wire);
    });
    let types: BTreeSet<&str> =
        file["good"].as_array().unwrap().iter().map(|case| text(&case["frame"]["type"])).collect();
    assert_eq!(types.len(), 7, "every type has a vector: {types:?}");
}

#[test]
fn lenient_frames_decode() {
    let file = load("edge.json");
    for_each(&file["decode_only"], |case| {
        let fields = fields(&case["frame"]);
        let frame = frame_of(&case["frame"], &fields);
        assert_eq!(decode(&bytes(&case["bytes"]), frame_bytes_max(case, &file)), Ok(frame));
    });
}

#[test]
fn bad_frames_are_refused_with_their_reason() {
    let file = load("edge.json");
    for_each(&file["bad"], |case| {
        let wire = bytes(&case["bytes"]);
        let error = decode(&wire, frame_bytes_max(case, &file)).expect_err("it is bad");
        assert_eq!(error.reason().label(), text(&case["error"]));
    });
}

#[test]
fn streams_are_cut_into_their_frames() {
    let file = load("edge.json");
    for_each(&file["streams"], |case| {
        let wire = bytes(&case["bytes"]);
        for chunk_bytes in 1..=wire.len() {
            let mut decoder = Decoder::new(frame_bytes_max(case, &file));
            let mut names = Vec::new();
            let result = wire
                .chunks(chunk_bytes)
                .try_for_each(|chunk| decoder.feed(chunk, |frame_type, _| names.push(name_of(frame_type))));
            let expected: Vec<&str> = case["frames"].as_array().unwrap().iter().map(text).collect();
            assert_eq!(names, expected);
            match case.get("error") {
                Some(label) => assert_eq!(result.expect_err("it ends badly").reason().label(), text(label)),
                None => {
                    assert_eq!(result, Ok(()));
                    assert_eq!(decoder.pending_bytes() as u64, case["rest_bytes"].as_u64().unwrap());
                }
            }
        }
    });
}
