//! Property tests. `PROPTEST_CASES` widens them.

use std::net::SocketAddr;

use proptest::{collection::vec, prelude::*, sample::Index};
use roost_protocol::{
    ConnectionId, InstanceId, Reason, SessionRef,
    edge::{self, Decoder, Goaway, Hello, Welcome},
    link::{
        self, Accept, Ending, Framing, Header, LinkHello, LinkProof, LinkType, LinkWelcome, Open, Refusal,
        Relay, Reopen, body::META_BYTES_MAX,
    },
};

use crate::bodies;

const FRAME_BYTES_MAX: u32 = 300;

/// An edge frame, as its bytes.
fn edge_frame() -> impl Strategy<Value = Vec<u8>> {
    let bytes = |max: usize| vec(any::<u8>(), 0..=max);
    let reason = any::<Index>().prop_map(|index| *index.get(Reason::ALL));
    let encode = |frame: edge::Frame<'_>| {
        let mut out = Vec::new();
        frame.encode(&mut out);
        out
    };
    prop_oneof![
        (bytes(edge::KEY_BYTES_MAX), bytes(edge::TOKEN_BYTES_MAX))
            .prop_map(move |(key, token)| encode(edge::Frame::Hello(Hello { key: &key, token: &token }))),
        any::<(u32, u32, u32, u32, u64)>().prop_map(move |(heartbeat, idle, limit, rate, session)| {
            encode(edge::Frame::Welcome(Welcome {
                heartbeat_interval_ms: heartbeat,
                idle_timeout_ms: idle,
                frame_bytes_max: limit,
                messages_per_s_max: rate,
                session: SessionRef(session),
            }))
        }),
        bytes(FRAME_BYTES_MAX as usize).prop_map(move |payload| encode(edge::Frame::Message(&payload))),
        bytes(edge::PING_BYTES_MAX).prop_map(move |payload| encode(edge::Frame::Ping(&payload))),
        bytes(edge::PING_BYTES_MAX).prop_map(move |payload| encode(edge::Frame::Pong(&payload))),
        (reason, any::<u32>(), bytes(edge::ALTERNATIVE_BYTES_MAX), close_code(), close_text()).prop_map(
            move |(reason, retry_after_ms, alternative, code, text)| encode(edge::Frame::Goaway(Goaway {
                reason,
                retry_after_ms,
                code,
                alternative: &alternative,
                text: &text
            }))
        ),
        any::<Option<u8>>().prop_map(move |code| encode(edge::Frame::Close(code))),
    ]
}

/// A close code that an application may state.
fn close_code() -> impl Strategy<Value = u16> {
    prop_oneof![Just(0), edge::CLOSE_CODES]
}

/// A text that an application may state: letters of one to four bytes.
fn close_text() -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..=edge::CLOSE_TEXT_BYTES_MAX / 4).prop_map(String::from_iter)
}

/// A link frame, as its bytes.
fn link_frame() -> impl Strategy<Value = Vec<u8>> {
    (link_body(), any::<u16>(), any::<u64>()).prop_map(|(mut frame, aux, connection)| {
        // Any aux and connection go with any type, but the aux of LINK_REFUSE is its content.
        if frame[4] != LinkType::LinkRefuse as u8 {
            frame[6..8].copy_from_slice(&aux.to_be_bytes());
        }
        frame[8..16].copy_from_slice(&connection.to_be_bytes());
        frame
    })
}

/// How a client frames what it says.
fn framing() -> impl Strategy<Value = Framing> {
    any::<Index>().prop_map(|index| *index.get(&Framing::ALL))
}

/// A link frame about no connection.
fn link_body() -> impl Strategy<Value = Vec<u8>> {
    let bytes = |max: usize| vec(any::<u8>(), 0..=max);
    let message = || bytes(FRAME_BYTES_MAX as usize);
    let instance = || any::<[u8; 16]>().prop_filter("an instance is not zero", |id| *id != [0; 16]);
    let encode = |frame: link::Frame<'_>| {
        let mut out = Vec::new();
        frame.encode(Header::new(frame.link_type(), ConnectionId::from_bits(0), 0), &mut out);
        out
    };
    let session = any::<([u8; 16], [u8; 16], u64, u32)>();
    let hello = (0..256u16, instance(), session, 0..=edge::FRAME_BYTES_LIMIT, any::<[u32; 5]>()).prop_map(
        |(shard, gateway, (nonce, expected, received_position, window_bytes), frame_bytes_max, stated)| {
            let [capabilities, link_failover_ms, link_keepalive_ms, idle_timeout_ms, messages_per_s_max] =
                stated;
            link::Frame::LinkHello(LinkHello {
                shard,
                shards: shard + 1,
                gateway: InstanceId(gateway),
                nonce,
                expected_worker: InstanceId(expected),
                received_position,
                window_bytes,
                frame_bytes_max,
                capabilities,
                link_failover_ms,
                link_keepalive_ms,
                idle_timeout_ms,
                messages_per_s_max,
            })
        },
    );
    let welcome = (instance(), any::<(bool, [u8; 16], u64, u32, Option<[u8; 32]>)>(), 1..=u32::MAX).prop_map(
        |(worker, (resumed, nonce, position, capabilities, proof), window_bytes)| {
            link::Frame::LinkWelcome(LinkWelcome {
                resumed,
                window_bytes,
                worker: InstanceId(worker),
                nonce,
                received_position: if resumed { position } else { 0 },
                capabilities,
                proof,
            })
        },
    );
    let fixed = prop_oneof![
        hello,
        welcome,
        any::<Option<[u8; 32]>>().prop_map(|proof| link::Frame::LinkProof(LinkProof { proof })),
        (1..=4u16).prop_map(|code| link::Frame::LinkRefuse(Refusal::from_code(code))),
        any::<u64>().prop_map(link::Frame::Ack),
        any::<(u64, Option<u64>)>().prop_map(|(session, routing_hash)| {
            link::Frame::Accept(Accept { routing_hash, ..Accept::new(SessionRef(session)) })
        }),
        (any::<(u64, u64)>(), framing()).prop_map(|((routing_hash, session), framing)| {
            link::Frame::Reopen(Reopen { routing_hash, session: SessionRef(session), framing })
        }),
        Just(link::Frame::Draining),
        Just(link::Frame::Closed),
        Just(link::Frame::Moved),
    ];
    let ids = vec(any::<u64>(), 0..20)
        .prop_map(|ids| ids.iter().flat_map(|id| id.to_be_bytes()).collect::<Vec<u8>>());
    let open = (
        (any::<(u64, Option<SocketAddr>)>(), framing()),
        bytes(edge::KEY_BYTES_MAX),
        bytes(edge::TOKEN_BYTES_MAX),
        bytes(META_BYTES_MAX),
    );
    prop_oneof![
        12 => fixed.prop_map(encode),
        1 => bytes(8).prop_map(move |payload| encode(link::Frame::Ping(&payload))),
        1 => bytes(8).prop_map(move |payload| encode(link::Frame::Pong(&payload))),
        1 => message().prop_map(move |message| encode(link::Frame::Data(&message))),
        1 => message().prop_map(move |message| encode(link::Frame::Broadcast(&message))),
        1 => (ids, message()).prop_map(move |(ids, message)| {
            encode(link::Frame::Multicast { ids: &ids, message: &message })
        }),
        1 => (any::<u64>(), message()).prop_map(move |(routing_hash, payload)| {
            encode(link::Frame::Relay(Relay { routing_hash, payload: &payload }))
        }),
        1 => open.prop_map(move |(((routing_hash, peer), framing), key, token, meta)| {
            let open = Open { routing_hash, framing, peer, key: &key, token: &token, meta: &meta };
            encode(link::Frame::Open(open))
        }),
        1 => (any::<(u64, u64)>(), "[a-zA-Z0-9!#$%&'*+.^_`|~-]{1,64}").prop_map(
            move |((session, routing_hash), subprotocol)| {
                encode(link::Frame::Accept(Accept {
                    session: SessionRef(session),
                    routing_hash: Some(routing_hash),
                    subprotocol: Some(&subprotocol),
                }))
            }
        ),
        2 => (any::<(bool, u32)>(), close_code(), close_text()).prop_map(
            move |((reject, retry_after_ms), code, text)| {
                let ending = Ending { retry_after_ms, code, text: &text };
                encode(if reject { link::Frame::Reject(ending) } else { link::Frame::Close(ending) })
            }
        ),
    ]
}

/// Cuts `stream` at the given places.
fn cut<'a>(stream: &'a [u8], at: &[Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = at.iter().map(|index| index.index(stream.len() + 1)).collect();
    places.extend([0, stream.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect()
}

proptest! {
    /// Every split of the bytes gives the same frames.
    #[test]
    fn edge_frames_survive_every_split(frames in vec(edge_frame(), 1..8), at in vec(any::<Index>(), 0..40)) {
        let stream = frames.concat();
        let mut decoder = Decoder::new(FRAME_BYTES_MAX);
        let mut got = Vec::new();
        for read in cut(&stream, &at) {
            decoder.feed(read, |_, frame| got.push(frame.to_vec())).unwrap();
        }
        prop_assert_eq!(got, frames);
        prop_assert_eq!(decoder.pending_bytes(), 0);
    }

    /// Frames of the encoder decode to themselves, whatever stands before and after.
    #[test]
    fn edge_frames_round_trip(frames in vec(edge_frame(), 1..4), control in any::<u8>()) {
        let mut input = vec![control / 4 * 4 + 2];
        input.extend(frames.concat());
        let seen = bodies::edge(&input);
        let errors = ["ReservedBits", "UnknownType", "Oversize", "Malformed", "Version"];
        prop_assert!(errors.iter().all(|error| !seen.contains(*error)), "{seen:?}");
    }

    /// The same for links.
    #[test]
    fn link_frames_round_trip(frames in vec(link_frame(), 1..4), control in any::<u8>()) {
        let mut input = vec![control / 4 * 4 + 2];
        input.extend(frames.concat());
        let seen = bodies::link(&input);
        let errors = ["UnknownType", "ReservedFlags", "Oversize", "Malformed", "Version"];
        prop_assert!(errors.iter().all(|error| !seen.contains(*error)), "{seen:?}");
    }

    /// Arbitrary bytes do not panic, and decode alike however they are cut.
    #[test]
    fn any_bytes(input in vec(any::<u8>(), 0..600)) {
        bodies::edge(&input);
        bodies::link(&input);
    }

    /// Nor do streams of frames with some bytes wrong.
    #[test]
    fn damaged_edge_frames(
        control in any::<u8>(),
        frames in vec(edge_frame(), 1..4),
        damage in vec((any::<Index>(), any::<u8>()), 1..6),
    ) {
        bodies::edge(&damaged(control, frames.concat(), &damage));
    }

    /// The same for links.
    #[test]
    fn damaged_link_frames(
        control in any::<u8>(),
        frames in vec(link_frame(), 1..4),
        damage in vec((any::<Index>(), any::<u8>()), 1..6),
    ) {
        bodies::link(&damaged(control, frames.concat(), &damage));
    }

    /// The payload decoders take bytes of any length that claim to be of any type.
    #[test]
    fn any_link_payload(link_type in any::<Index>(), payload in vec(any::<u8>(), 0..200)) {
        let link_type = *link_type.get(LinkType::ALL);
        let mut input = vec![2];
        input.extend(Header::new(link_type, ConnectionId::from_bits(0), payload.len() as u32).encode());
        input.extend(payload);
        bodies::link(&input);
    }
}

fn damaged(control: u8, mut stream: Vec<u8>, damage: &[(Index, u8)]) -> Vec<u8> {
    for (at, value) in damage {
        let at = at.index(stream.len());
        stream[at] = *value;
    }
    stream.insert(0, control);
    stream
}
