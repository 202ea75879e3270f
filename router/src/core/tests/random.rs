//! Random schedules: bytes in any pieces, connections cut anywhere, acknowledgements late.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::handlers::{Echo, Route, route};

#[derive(Clone, Debug)]
enum Step {
    Message { gateway: usize, slot: u32, to: u8, bytes: usize },
    GatewayWrites { gateway: usize },
    WorkerReads { gateway: usize, bytes: usize },
    WorkerWrites { gateway: usize, bytes: usize },
    GatewayReads { gateway: usize, bytes: usize },
    Pump,
    Cut { gateway: usize },
    WithholdAcks { gateway: usize, withhold: bool },
}

const GATEWAYS: usize = 2;
const SLOTS: u32 = 3;

fn step() -> impl Strategy<Value = Step> {
    let gateway = 0..GATEWAYS;
    let bytes = prop_oneof![0..40usize, 0..2_000usize, Just(usize::MAX)];
    prop_oneof![
        6 => (gateway.clone(), 0..SLOTS, any::<u8>(), 0..400usize)
            .prop_map(|(gateway, slot, to, bytes)| Step::Message { gateway, slot, to, bytes }),
        4 => gateway.clone().prop_map(|gateway| Step::GatewayWrites { gateway }),
        6 => (gateway.clone(), bytes.clone()).prop_map(|(gateway, bytes)| Step::WorkerReads { gateway, bytes }),
        4 => (gateway.clone(), bytes.clone())
            .prop_map(|(gateway, bytes)| Step::WorkerWrites { gateway, bytes }),
        6 => (gateway.clone(), bytes).prop_map(|(gateway, bytes)| Step::GatewayReads { gateway, bytes }),
        2 => Just(Step::Pump),
        1 => gateway.clone().prop_map(|gateway| Step::Cut { gateway }),
        1 => (gateway, any::<bool>()).prop_map(|(gateway, withhold)| Step::WithholdAcks { gateway, withhold }),
    ]
}

struct World<H> {
    rig: Rig<H>,
    links: Vec<(Peer, Wire)>,
}

impl<H: Handler> World<H> {
    fn new(handler: H, window_in_bytes: u32, pending_bytes_max: usize) -> Self {
        let config = WorkerConfig { pending_bytes_max, ..WorkerConfig::default() };
        let mut rig = Rig::new(config, handler);
        let links = (0..GATEWAYS)
            .map(|gateway| {
                let peer =
                    Peer::new(1 + gateway as u8, 0).with_frame_bytes_max(500).with_window(window_in_bytes);
                let (mut peer, mut wire) = rig.link_up(peer);
                for slot in 0..SLOTS {
                    peer.open(peer.id(slot), format!("{gateway}.{slot}").as_bytes());
                }
                rig.settle(&mut peer, &mut wire);
                (peer, wire)
            })
            .collect();
        Self { rig, links }
    }

    fn step(&mut self, step: &Step, mut body: impl FnMut(u8, usize) -> Vec<u8>) {
        match *step {
            Step::Message { gateway, slot, to, bytes } => {
                let peer = &mut self.links[gateway].0;
                peer.message(peer.id(slot), &body(to, bytes), false);
            }
            Step::GatewayWrites { gateway } => {
                let (peer, wire) = &mut self.links[gateway];
                self.rig.gateway_writes(peer, wire);
            }
            Step::WorkerReads { gateway, bytes } => {
                self.rig.worker_reads(&mut self.links[gateway].1, bytes).unwrap();
            }
            Step::WorkerWrites { gateway, bytes } => {
                self.rig.worker_writes(&mut self.links[gateway].1, bytes);
            }
            Step::GatewayReads { gateway, bytes } => {
                let (peer, wire) = &mut self.links[gateway];
                self.rig.gateway_reads(peer, wire, bytes);
            }
            Step::Pump => {
                self.rig.core.pump();
            }
            Step::Cut { gateway } => {
                let (peer, wire) = &mut self.links[gateway];
                self.rig.dial(peer, wire);
            }
            Step::WithholdAcks { gateway, withhold } => self.links[gateway].0.withhold_acks = withhold,
        }
    }

    fn settle(&mut self) {
        let mut links: Vec<_> = self.links.iter_mut().map(|(peer, wire)| (peer, wire)).collect();
        for (peer, _) in &mut links {
            peer.withhold_acks = false;
        }
        self.rig.settle_all(&mut links);
        for (peer, _) in &self.links {
            assert_eq!(peer.unacknowledged(), 0);
        }
        assert!(!self.rig.core.has_held() && !self.rig.core.pump());
    }
}

/// A frame of any type, mostly with a header in order, mostly with the payload that its type asks for.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let connection = prop_oneof![
        (0..4u32, 0..2u32).prop_map(|(slot, generation)| {
            roost_protocol::ConnectionId::new(0, slot, generation).to_bits()
        }),
        any::<u64>()
    ];
    let link_type = prop_oneof![
        12 => prop::sample::select(vec![16u8, 19, 20, 24, 26]),
        4 => prop::sample::select(vec![5u8, 6, 7]),
        1 => any::<u8>(),
    ];
    let flags = prop_oneof![8 => Just(0u8), 2 => Just(1u8), 1 => any::<u8>()];
    let random = prop::collection::vec(any::<u8>(), 0..80);
    (link_type, flags, 0..40u16, connection, random, 0..8u8).prop_map(
        |(link_type, flags, aux, connection, random, shape)| {
            let payload = match (link_type, shape) {
                (_, 0) => random,
                (16, _) => {
                    let mut payload = Vec::new();
                    let key = &random[..random.len() / 2];
                    Open::edge(u64::from(aux), None, key, b"t").encode_payload(&mut payload);
                    payload
                }
                (19, _) => {
                    let mut payload = Vec::new();
                    let mut body = vec![route::OP_SEND, 0, 0, 0, 9, 0, 4];
                    body.extend(b"good");
                    body.extend(&random);
                    let body = if shape < 4 { &body } else { &random };
                    roost_protocol::edge::encode_frame(
                        roost_protocol::edge::FrameType::Message,
                        body,
                        &mut payload,
                    );
                    payload
                }
                (20, _) => Vec::new(),
                (24, _) => [u64::from(aux).to_be_bytes(), u64::from(shape).to_be_bytes()].concat(),
                (26, _) => [&u64::from(aux).to_be_bytes()[..], &[route::OP_DELIVER, 0], &random].concat(),
                (5, _) => u64::from(shape).to_be_bytes().to_vec(),
                _ => random,
            };
            let mut frame = (payload.len() as u32).to_be_bytes().to_vec();
            frame.extend([link_type, flags]);
            frame.extend(aux.to_be_bytes());
            frame.extend(connection.to_be_bytes());
            frame.extend(payload);
            frame
        },
    )
}

/// Gateway and slot.
type User = (usize, u32);

/// Windows from the smallest that the worker accepts.
fn windows() -> impl Strategy<Value = (u32, usize)> {
    (prop_oneof![532..2_000u32, Just(1 << 20)], prop_oneof![Just(0usize), 0..4_000usize, Just(1 << 20)])
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn every_message_is_answered_once_and_in_order(
        (window, pending) in windows(),
        steps in prop::collection::vec(step(), 0..300),
    ) {
        let mut world = World::new(Echo, window, pending);
        let mut sent: HashMap<(usize, u32), Vec<Vec<u8>>> = HashMap::new();
        let mut number = 0u32;
        for step in &steps {
            world.step(step, |_, bytes| {
                number += 1;
                let Step::Message { gateway, slot, .. } = *step else { unreachable!() };
                let mut body = number.to_be_bytes().to_vec();
                body.resize(4 + bytes, number as u8);
                sent.entry((gateway, slot)).or_default().push(body.clone());
                body
            });
        }
        world.settle();
        for (gateway, (peer, _)) in world.links.iter().enumerate() {
            for slot in 0..SLOTS {
                let expected = sent.remove(&(gateway, slot)).unwrap_or_default();
                prop_assert_eq!(peer.messages(peer.id(slot)), expected);
            }
            // Each frame, OPEN or DATA, has one reply, which stands before its acknowledgement.
            prop_assert!(peer.acks.iter().all(|&(position, replies)| replies as u64 >= position));
        }
    }

    #[test]
    fn messages_between_gateways_arrive_once_and_in_order(
        (window, pending) in windows(),
        steps in prop::collection::vec(step(), 0..300),
    ) {
        let mut world = World::new(Route, window, pending);
        let mut sent: HashMap<User, Vec<(User, u32)>> = HashMap::new();
        let mut number = 0u32;
        for step in &steps {
            world.step(step, |to, bytes| {
                number += 1;
                let Step::Message { gateway, slot, .. } = *step else { unreachable!() };
                let receiver = (usize::from(to) % GATEWAYS, u32::from(to / 2) % SLOTS);
                sent.entry((gateway, slot)).or_default().push((receiver, number));
                let key = format!("{}.{}", receiver.0, receiver.1);
                let mut body = vec![route::OP_SEND];
                body.extend(number.to_be_bytes());
                body.extend((key.len() as u16).to_be_bytes());
                body.extend(key.as_bytes());
                body.resize(body.len() + bytes, 0);
                body
            });
        }
        world.settle();
        let id_of = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
        let (mut busy, mut delivered) = (Vec::new(), HashMap::new());
        for (gateway, (peer, _)) in world.links.iter().enumerate() {
            for slot in 0..SLOTS {
                let (mut receipts, mut received) = (Vec::new(), Vec::new());
                for message in peer.messages(peer.id(slot)) {
                    match message[0] {
                        route::OP_RECEIPT => {
                            receipts.push(id_of(&message[2..6]));
                            if message[1] == route::Status::Busy as u8 {
                                busy.push(id_of(&message[2..6]));
                            } else {
                                prop_assert_eq!(message[1], route::Status::Delivered as u8);
                            }
                        }
                        op => {
                            prop_assert_eq!(op, route::OP_DELIVER);
                            received.push(id_of(&message[2..6]));
                        }
                    }
                }
                let expected: Vec<u32> = sent
                    .get(&(gateway, slot))
                    .map(|sent| sent.iter().map(|message| message.1).collect())
                    .unwrap_or_default();
                prop_assert_eq!(receipts, expected, "one receipt per message, in order");
                delivered.insert((gateway, slot), received);
            }
        }
        for messages in sent.values() {
            for receiver in delivered.keys() {
                let expected: Vec<u32> = messages
                    .iter()
                    .filter(|message| message.0 == *receiver && !busy.contains(&message.1))
                    .map(|message| message.1)
                    .collect();
                let ours: Vec<u32> = delivered[receiver]
                    .iter()
                    .copied()
                    .filter(|id| messages.iter().any(|message| message.1 == *id))
                    .collect();
                prop_assert_eq!(ours, expected);
            }
        }
    }

    #[test]
    fn pushes_arrive_once_and_in_order(
        (window, pending) in windows(),
        steps in prop::collection::vec(step(), 0..300),
    ) {
        let mut world = World::new(Route, window, pending);
        let mut sent: HashMap<User, Vec<Vec<u8>>> = HashMap::new();
        for (number, step) in (0u32..).zip(&steps) {
            let Step::Message { gateway, slot, bytes, .. } = *step else {
                world.step(step, |_, _| unreachable!());
                continue;
            };
            if world.rig.core.pushes_wait() {
                continue;
            }
            let mut body = number.to_be_bytes().to_vec();
            body.resize(4 + bytes, number as u8);
            let key = format!("{gateway}.{slot}");
            world.rig.core.push(|ctx| match ctx.send_to_key(key.as_bytes(), &body) {
                Ok(queued) => {
                    assert_eq!(queued, 1);
                    sent.entry((gateway, slot)).or_default().push(body.clone());
                }
                Err(error) => assert_eq!(error, SendError::Full(Limit::Queue)),
            });
        }
        world.settle();
        prop_assert!(!world.rig.core.pushes_wait());
        for (gateway, (peer, _)) in world.links.iter().enumerate() {
            for slot in 0..SLOTS {
                let expected = sent.remove(&(gateway, slot)).unwrap_or_default();
                prop_assert_eq!(peer.messages(peer.id(slot)), expected);
            }
        }
    }

    #[test]
    fn no_bytes_make_a_worker_panic_or_harm_another_gateway(
        frames in prop::collection::vec(any_frame(), 0..60),
        chunk in 1..3_000usize,
    ) {
        let mut rig = Rig::new(WorkerConfig::default(), Route);
        let (mut good, mut good_wire) = rig.link_up(Peer::new(1, 0));
        let id = good.id(0);
        good.open(id, b"good");
        let (mut bad, mut bad_wire) = rig.link_up(Peer::new(2, 0));
        bad.withhold_acks = true;
        for frame in &frames {
            bad.push_raw(frame);
            rig.gateway_writes(&mut bad, &mut bad_wire);
            while !bad_wire.to_worker.is_empty() {
                if rig.worker_reads(&mut bad_wire, chunk).is_err() {
                    rig.cut(&mut bad, &mut bad_wire);
                    bad.forget();
                    rig.dial(&mut bad, &mut bad_wire);
                    rig.settle(&mut bad, &mut bad_wire);
                }
            }
            rig.core.pump();
            rig.worker_writes(&mut bad_wire, usize::MAX);
        }
        let to_itself = [&[route::OP_SEND, 0, 0, 0, 1, 0, 4][..], b"good", b"hi"].concat();
        good.message(id, &to_itself, false);
        rig.settle(&mut good, &mut good_wire);
        // Others may have found its key and written to it: not to be told apart here.
        let receipt = [route::OP_RECEIPT, route::Status::Delivered as u8, 0, 0, 0, 1];
        prop_assert!(good.messages(id).contains(&&receipt[..]));
        prop_assert_eq!(good.unacknowledged(), 0);
    }
}
