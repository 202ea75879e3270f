//! An acknowledgement rides on what goes to the worker anyway, and does not wait for it too long.
#![forbid(unsafe_code)]

use std::sync::Arc;

use roost_gateway::{
    core::{CoreConfig, Next, ShardCore, config::WorkerConfig, pool::specs},
    op::{Op, Sock},
    sim::Hands,
};
use roost_protocol::{
    ConnectionId,
    edge::{self, FrameType, Hello},
    link::{self, Header, LinkType, Split},
};

/// SPEC.md 3.4.
const LIMIT_MS: u64 = 20;
const NOBODY: ConnectionId = ConnectionId::from_bits(0);

/// A gateway's core, of whose only link the test is the other end.
struct Bench {
    core: ShardCore,
    hands: Hands,
    window_bytes: u64,
}

impl Bench {
    /// With the link up.
    fn new() -> Self {
        let config = CoreConfig::lone(4, vec![WorkerConfig { name: "worker".into(), secret: None }]);
        let hands = Hands::new(&specs(&config));
        let window_bytes = u64::from(config.link_window_bytes);
        let core = ShardCore::new(config, 4, Arc::default(), Box::new(|bytes| bytes.fill(3)));
        let mut bench = Self { core, hands, window_bytes };
        bench.core.start(&mut bench.hands, 0, 4);
        bench.hands.welcome_link(&mut bench.core, 65_536);
        assert_eq!(bench.turn(0).0, [LinkType::LinkHello, LinkType::LinkProof, LinkType::Ping]);
        bench
    }

    /// The worker writes.
    fn say(&mut self, bytes: &[u8]) {
        self.hands.deliver(&mut self.core, Sock::Link(0), bytes);
    }

    /// A turn at this time, and those that follow until nothing more is sent: what types of frames the
    /// worker reads, and when the next turn is.
    fn turn(&mut self, now_ms: u64) -> (Vec<LinkType>, u64) {
        let mut bytes = Vec::new();
        loop {
            self.core.begin_turn(now_ms);
            let next = self.core.end_turn(&mut self.hands);
            let sends = |op: Op| matches!(op, Op::Send { sock: Sock::Link(0), .. });
            let Some(op) = self.hands.take(|_, op| sends(op)) else {
                let Next::At(next_ms) = next else { continue };
                return (types(&bytes), next_ms);
            };
            let (completion, sent) = self.hands.end_send(op, usize::MAX);
            bytes.extend(sent);
            self.core.on_completion(&mut self.hands, completion);
        }
    }
}

fn types(mut bytes: &[u8]) -> Vec<LinkType> {
    let mut types = Vec::new();
    while let Split::Frame { header, .. } =
        link::split(bytes, 1 << 20).expect("the gateway's frames are right")
    {
        types.push(header.link_type);
        bytes = &bytes[header.frame_bytes()..];
    }
    assert!(bytes.is_empty(), "whole frames");
    types
}

/// A message for nobody: it counts like any other.
fn message(payload_bytes: usize) -> Vec<u8> {
    let mut message = Vec::new();
    edge::encode_frame(FrameType::Message, &vec![b'm'; payload_bytes], &mut message);
    let header = Header::new(LinkType::Data, NOBODY, message.len() as u32);
    [&header.encode()[..], &message].concat()
}

#[test]
fn it_waits_and_comes_by_itself_in_time() {
    let mut bench = Bench::new();
    bench.say(&message(4));
    let (said, next_ms) = bench.turn(0);
    assert_eq!(said, [], "alone it would wake the worker for each message");
    assert!((1..=LIMIT_MS).contains(&next_ms), "the next turn at {next_ms} ms");
    // A further message does not put it off.
    bench.core.begin_turn(next_ms - 1);
    bench.say(&message(4));
    assert_eq!(bench.turn(next_ms - 1), (vec![], next_ms));
    let (said, later_ms) = bench.turn(next_ms);
    assert_eq!(said, [LinkType::Ack]);
    assert!(later_ms > next_ms + LIMIT_MS, "nothing is left to be said, and yet a turn at {later_ms} ms");
}

#[test]
fn it_rides_on_what_a_client_says() {
    let mut bench = Bench::new();
    bench.say(&message(4));
    let accept = bench.hands.take(|_, op| matches!(op, Op::Accept { .. })).expect("an accept is armed");
    let Op::Accept { slot, .. } = accept.1 else { unreachable!() };
    let accepted = bench.hands.end(accept, 0);
    bench.core.on_completion(&mut bench.hands, accepted);
    let mut hello = Vec::new();
    Hello { key: b"key", token: b"" }.encode(&mut hello);
    bench.hands.deliver(&mut bench.core, Sock::Client(slot), &hello);
    assert_eq!(bench.turn(0).0, [LinkType::Open, LinkType::Ack]);
}

#[test]
fn it_rides_on_an_answer_about_the_link() {
    let mut bench = Bench::new();
    let ping = Header::new(LinkType::Ping, NOBODY, 0).encode();
    bench.say(&[&message(4)[..], &ping].concat());
    assert_eq!(bench.turn(0).0, [LinkType::Pong, LinkType::Ack]);
}

#[test]
fn a_worker_does_not_wait_for_credit() {
    let mut bench = Bench::new();
    let message = message(4_000);
    let mut outstanding_bytes = 0;
    // Half the window is what a frame may need at most.
    while outstanding_bytes < bench.window_bytes / 2 {
        bench.say(&message);
        outstanding_bytes += message.len() as u64;
        if bench.turn(0).0 == [LinkType::Ack] {
            return;
        }
    }
    panic!("no acknowledgement for {outstanding_bytes} of {} bytes", bench.window_bytes);
}
