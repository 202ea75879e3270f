//! Every vector of `bad` in `protocol/vectors` meets a whole core: each is refused.

use roost_protocol::{ConnectionId, InstanceId, edge::Hello, link::LinkType};
use serde_json::Value;

use super::workers::Rig;
use crate::{
    core::{link::LinkState, record::State, stats::Stat},
    op::{Op, Sock},
};

fn vectors(text: &str) -> Vec<(String, Vec<u8>, Option<u32>)> {
    let vectors: Value = serde_json::from_str(text).unwrap();
    let one = |vector: &Value| {
        let digits: Vec<u8> = vector["bytes"].as_str().unwrap().bytes().filter(|&b| b != b' ').collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        let limit = vector["frame_bytes_max"].as_u64().map(|limit| limit as u32);
        (vector["name"].as_str().unwrap().to_owned(), digits.chunks(2).map(byte).collect(), limit)
    };
    vectors["bad"].as_array().unwrap().iter().map(one).collect()
}

fn rig(limit: Option<u32>) -> Rig {
    let mut config = super::config();
    config.frame_bytes_max = limit.unwrap_or(65_536);
    config.outbox_bytes_total = 1 << 20;
    config.spill_bytes_total = 1 << 20;
    Rig::of(config)
}

#[test]
fn what_a_worker_may_not_say_is_refused_in_every_state() {
    for (name, bytes, limit) in vectors(include_str!("../../../../protocol/vectors/link.json")) {
        for state in [LinkState::Handshaking, LinkState::Proving, LinkState::Up] {
            let mut rig = rig(limit);
            if state == LinkState::Handshaking {
                assert!(rig.dial());
            } else {
                rig.turn();
                rig.hands.say_welcome(&mut rig.core, 0, InstanceId([2; 16]), 1 << 20);
            }
            if state == LinkState::Up {
                rig.say(0, LinkType::Ack, ConnectionId::from_bits(0), &0u64.to_be_bytes());
            }
            rig.settle();
            let view = |rig: &Rig| rig.core.link_views().next().expect("a link");
            assert_eq!(view(&rig).state, state);
            rig.hands.deliver(&mut rig.core, Sock::Link(0), &bytes);
            let after = view(&rig).state;
            let refused = matches!(after, LinkState::Closing | LinkState::Refusing);
            assert!(refused, "{name}, {state:?}: the link is {after:?}");
            assert_eq!(rig.core.stats().get(Stat::LinkErrors), 1, "{name}, {state:?}");
        }
    }
}

#[test]
fn what_a_client_may_not_say_is_refused_before_and_behind_its_hello() {
    for (name, bytes, limit) in vectors(include_str!("../../../../protocol/vectors/edge.json")) {
        for known in [false, true] {
            let mut rig = rig(limit);
            rig.turn();
            rig.hands.welcome_link(&mut rig.core, 1 << 20);
            rig.settle();
            let (token, op) = rig.hands.take(|_, op| matches!(op, Op::Accept { .. })).expect("an accept");
            let Op::Accept { slot, .. } = op else { unreachable!("just matched") };
            let completion = rig.hands.end((token, op), 0);
            rig.core.on_completion(&mut rig.hands, completion);
            let mut said = Vec::new();
            if known {
                Hello { key: b"k", token: b"" }.encode(&mut said);
            }
            said.extend(&bytes);
            rig.hands.deliver(&mut rig.core, Sock::Client(slot), &said);
            let view = rig.core.slot_views().nth(slot as usize).expect("a slot");
            assert!(
                !matches!(view.state, State::Handshaking | State::Opening | State::Open),
                "{name}, known {known}: the client is {:?}",
                view.state
            );
        }
    }
}

impl Rig {
    /// The worker's kernel accepts the connection.
    fn dial(&mut self) -> bool {
        self.turn();
        self.end(|op| op == Op::Connect { link: 0 }, 0)
    }
}
