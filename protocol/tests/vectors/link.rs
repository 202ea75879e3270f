//! `vectors/link.json`.

use std::collections::BTreeSet;

use roost_protocol::{
    ConnectionId, InstanceId, SessionRef,
    link::{
        Accept, Ending, Frame, Framing, Header, LinkError, LinkHello, LinkProof, LinkType, LinkWelcome, Open,
        Refusal, Relay, Reopen, Split, payload_bytes_max, split,
    },
};
use serde_json::Value;

use crate::{array, bytes, for_each, frame_bytes_max, load, text, u16_of, u32_of, u64_of};

/// The byte strings of a frame, which [`Frame`] borrows.
#[derive(Default)]
struct Fields {
    first: Vec<u8>,
    second: Vec<u8>,
    third: Vec<u8>,
}

fn fields(frame: &Value) -> Fields {
    let field = |name: &str| frame.get(name).map(bytes).unwrap_or_default();
    match text(&frame["type"]) {
        "OPEN" => Fields { first: field("key"), second: field("token"), third: field("meta") },
        "MULTICAST" => Fields {
            first: frame["ids"].as_array().unwrap().iter().flat_map(bytes).collect(),
            second: field("message"),
            ..Fields::default()
        },
        "PING" | "PONG" | "RELAY" => Fields { first: field("payload"), ..Fields::default() },
        "DATA" | "BROADCAST" => Fields { first: field("message"), ..Fields::default() },
        _ => Fields::default(),
    }
}

fn frame_of<'a>(frame: &'a Value, fields: &'a Fields) -> Frame<'a> {
    let Fields { first, second, third } = fields;
    let proof = || (!frame["proof"].is_null()).then(|| array(&frame["proof"]));
    let ending = || Ending {
        retry_after_ms: u32_of(&frame["retry_after_ms"]),
        code: u16_of(&frame["code"]),
        text: text(&frame["text"]),
    };
    let framing = || {
        let code = u16_of(&frame["framing"]).try_into().ok();
        code.and_then(Framing::from_code).expect("a framing")
    };
    match text(&frame["type"]) {
        "LINK_HELLO" => Frame::LinkHello(LinkHello {
            shard: u16_of(&frame["shard"]),
            shards: u16_of(&frame["shards"]),
            gateway: InstanceId(array(&frame["gateway"])),
            nonce: array(&frame["nonce"]),
            expected_worker: InstanceId(array(&frame["expected_worker"])),
            received_position: u64_of(&frame["received_position"]),
            window_bytes: u32_of(&frame["window_bytes"]),
            frame_bytes_max: u32_of(&frame["frame_bytes_max"]),
            capabilities: u32_of(&frame["capabilities"]),
            link_failover_ms: u32_of(&frame["link_failover_ms"]),
            link_keepalive_ms: u32_of(&frame["link_keepalive_ms"]),
            idle_timeout_ms: u32_of(&frame["idle_timeout_ms"]),
            messages_per_s_max: u32_of(&frame["messages_per_s_max"]),
        }),
        "LINK_WELCOME" => Frame::LinkWelcome(LinkWelcome {
            resumed: frame["resumed"].as_bool().unwrap(),
            window_bytes: u32_of(&frame["window_bytes"]),
            worker: InstanceId(array(&frame["worker"])),
            nonce: array(&frame["nonce"]),
            received_position: u64_of(&frame["received_position"]),
            capabilities: u32_of(&frame["capabilities"]),
            proof: proof(),
        }),
        "LINK_PROOF" => Frame::LinkProof(LinkProof { proof: proof() }),
        "LINK_REFUSE" => Frame::LinkRefuse(Refusal::from_code(u16_of(&frame["refusal"]))),
        "ACK" => Frame::Ack(u64_of(&frame["position"])),
        "PING" => Frame::Ping(first),
        "PONG" => Frame::Pong(first),
        "DRAINING" => Frame::Draining,
        "OPEN" => Frame::Open(Open {
            routing_hash: u64_of(&frame["routing_hash"]),
            framing: framing(),
            peer: frame["peer"].as_str().map(|peer| peer.parse().expect("a socket address")),
            key: first,
            token: second,
            meta: third,
        }),
        "ACCEPT" => Frame::Accept(Accept {
            session: SessionRef(u64_of(&frame["session"])),
            routing_hash: frame.get("routing_hash").filter(|hash| !hash.is_null()).map(u64_of),
            subprotocol: frame["subprotocol"].as_str(),
        }),
        "REJECT" => Frame::Reject(ending()),
        "DATA" => Frame::Data(first),
        "CLOSED" => Frame::Closed,
        "CLOSE" => Frame::Close(ending()),
        "MULTICAST" => Frame::Multicast { ids: first, message: second },
        "BROADCAST" => Frame::Broadcast(first),
        "REOPEN" => Frame::Reopen(Reopen {
            routing_hash: u64_of(&frame["routing_hash"]),
            session: SessionRef(u64_of(&frame["session"])),
            framing: framing(),
        }),
        "MOVED" => Frame::Moved,
        "RELAY" => Frame::Relay(Relay { routing_hash: u64_of(&frame["routing_hash"]), payload: first }),
        other => panic!("no link frame is called {other}"),
    }
}

/// The header that a vector states.
fn header_of(frame: &Value, link_type: LinkType, payload_bytes: u32) -> Header {
    Header {
        payload_bytes,
        link_type,
        flags: u16_of(&frame["flags"]).try_into().expect("a u8"),
        aux: u16_of(&frame["aux"]),
        connection: ConnectionId::from_bits(u64_of(&frame["connection"])),
    }
}

/// `LinkHello` as `LINK_HELLO`.
fn name_of(link_type: LinkType) -> String {
    let mut name = String::new();
    for letter in format!("{link_type:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

/// Splits the one frame off that `bytes` are, and decodes it.
fn decode(bytes: &[u8], frame_bytes_max: u32) -> Result<(Header, Frame<'_>), LinkError> {
    match split(bytes, payload_bytes_max(frame_bytes_max))? {
        Split::Frame { header, payload } => {
            assert_eq!(header.frame_bytes(), bytes.len(), "one whole frame");
            Ok((header, Frame::decode(&header, payload, frame_bytes_max)?))
        }
        Split::Need { total_bytes } => panic!("{} of {total_bytes} bytes are there", bytes.len()),
    }
}

fn label(error: LinkError) -> &'static str {
    match error {
        LinkError::UnknownType(_) => "unknown_type",
        LinkError::ReservedFlags(_) => "reserved_flags",
        LinkError::Oversize(_) => "oversize",
        LinkError::Malformed => "malformed",
        LinkError::Version(_) => "version",
        other => panic!("no codec gives {other:?}"),
    }
}

fn check_decodes(case: &Value, file: &Value) {
    let (wire, fields) = (bytes(&case["bytes"]), fields(&case["frame"]));
    let frame = frame_of(&case["frame"], &fields);
    let (header, decoded) = decode(&wire, frame_bytes_max(case, file)).expect("it is good");
    assert_eq!(decoded, frame);
    assert_eq!(header, header_of(&case["frame"], frame.link_type(), header.payload_bytes));
    assert_eq!(name_of(header.link_type), text(&case["frame"]["type"]));
}

#[test]
fn good_frames_decode_and_encode() {
    let file = load("link.json");
    for_each(&file["good"], |case| {
        check_decodes(case, &file);
        let fields = fields(&case["frame"]);
        let frame = frame_of(&case["frame"], &fields);
        let mut encoded = Vec::new();
        frame.encode(header_of(&case["frame"], frame.link_type(), 0), &mut encoded);
        assert_eq!(encoded, bytes(&case["bytes"]));
    });
    let types: BTreeSet<&str> =
        file["good"].as_array().unwrap().iter().map(|case| text(&case["frame"]["type"])).collect();
    assert_eq!(types.len(), LinkType::ALL.len(), "every type has a vector: {types:?}");
}

#[test]
fn lenient_frames_decode() {
    let file = load("link.json");
    for_each(&file["decode_only"], |case| check_decodes(case, &file));
}

#[test]
fn bad_frames_are_refused_with_their_error() {
    let file = load("link.json");
    for_each(&file["bad"], |case| {
        let wire = bytes(&case["bytes"]);
        let error = decode(&wire, frame_bytes_max(case, &file)).expect_err("it is bad");
        assert_eq!(label(error), text(&case["error"]));
    });
}

#[test]
fn streams_are_cut_into_their_frames() {
    let file = load("link.json");
    for_each(&file["streams"], |case| {
        let wire = bytes(&case["bytes"]);
        let payload_bytes_max = payload_bytes_max(frame_bytes_max(case, &file));
        let (mut rest, mut names, mut sequenced) = (wire.as_slice(), Vec::new(), 0);
        let result = loop {
            match split(rest, payload_bytes_max) {
                Ok(Split::Frame { header, .. }) => {
                    rest = &rest[header.frame_bytes()..];
                    names.push(name_of(header.link_type));
                    sequenced += u64::from(header.link_type.is_sequenced());
                }
                Ok(Split::Need { total_bytes }) => {
                    assert!(total_bytes > rest.len());
                    break Ok(());
                }
                Err(error) => break Err(error),
            }
        };
        let expected: Vec<&str> = case["frames"].as_array().unwrap().iter().map(text).collect();
        assert_eq!(names, expected);
        assert_eq!(sequenced, case["sequenced"].as_u64().unwrap());
        match case.get("error") {
            Some(expected) => assert_eq!(label(result.expect_err("it ends badly")), text(expected)),
            None => {
                assert_eq!(result, Ok(()));
                assert_eq!(rest.len() as u64, case["rest_bytes"].as_u64().unwrap());
            }
        }
    });
}
