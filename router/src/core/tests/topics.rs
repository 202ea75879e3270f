//! Topics: against a naive model, and what a publish looks like on the wire.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use roost_protocol::{
    edge,
    hash::routing_hash,
    link::{multicast_ids, split_multicast},
};

use super::*;
use crate::SendError;

/// "j" and a topic joins it, "l" leaves it, "p" publishes itself on it.
fn act(ctx: &mut Context<'_>, client: Client, payload: &[u8]) {
    match payload {
        [b'j', topic @ ..] => drop(ctx.join(client, topic)),
        [b'l', topic @ ..] => drop(ctx.leave(client, topic)),
        [b'p', topic, ..] => drop(ctx.publish(&[*topic], payload)),
        _ => panic!("{payload:?}"),
    }
}

/// The MULTICASTs that a gateway got: slots, and the body.
fn multicasts(peer: &Peer) -> Vec<(Vec<u32>, Vec<u8>)> {
    let frames = peer.inbox.iter().filter(|frame| frame.header.link_type == LinkType::Multicast);
    frames
        .map(|frame| {
            let (ids, message) = split_multicast(&frame.payload).unwrap();
            (multicast_ids(ids).map(ConnectionId::slot).collect(), message[edge::HEADER_BYTES..].to_vec())
        })
        .collect()
}

fn push<H: Handler, R>(rig: &mut Rig<H>, work: impl FnOnce(&mut Context<'_>) -> R) -> R {
    let mut result = None;
    rig.core.push(|ctx| result = Some(work(ctx)));
    result.unwrap()
}

#[test]
fn a_publish_is_one_multicast_for_each_link() {
    let mut rig = Rig::new(WorkerConfig::default(), Recorder::new(act));
    let mut links: Vec<_> = (1..=3).map(|gateway| rig.link_up(Peer::new(gateway, 0))).collect();
    for (gateway, (peer, wire)) in links.iter_mut().enumerate() {
        for slot in 0..50 {
            peer.open(peer.id(slot), b"k");
            if gateway < 2 && slot % 2 == 0 {
                peer.message(peer.id(slot), b"jt", false);
            }
        }
        rig.settle(peer, wire);
    }
    assert_eq!(push(&mut rig, |ctx| ctx.publish(b"t", b"hi")), Ok(50));
    assert_eq!(push(&mut rig, |ctx| ctx.publish(b"u", b"hi")), Ok(0));
    assert_eq!(push(&mut rig, |ctx| ctx.publish(b"t", &[0; 5_000])), Err(SendError::TooLong));
    assert_eq!(push(&mut rig, |ctx| ctx.topic_members(b"t")).len(), 50);
    for (gateway, (peer, wire)) in links.iter_mut().enumerate() {
        rig.settle(peer, wire);
        let even = (0..50).filter(|slot| slot % 2 == 0).collect::<Vec<u32>>();
        let expected = if gateway < 2 { vec![(even, b"hi".to_vec())] } else { vec![] };
        assert_eq!(multicasts(peer), expected);
    }
    assert_eq!((rig.stats.get(Stat::Publishes), rig.stats.get(Stat::FanoutsSent)), (3, 2));
    assert_eq!((rig.stats.get(Stat::Topics), rig.stats.get(Stat::TopicMembers)), (1, 50));
}

#[test]
fn a_publish_to_more_members_than_a_frame_holds_is_split() {
    let mut rig = Rig::new(WorkerConfig::default(), Recorder::new(act));
    let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0));
    for slot in 0..20_000 {
        peer.open(peer.id(slot), b"k");
        peer.message(peer.id(slot), b"jt", false);
    }
    rig.settle(&mut peer, &mut wire);
    assert_eq!(push(&mut rig, |ctx| ctx.publish(b"t", &[7; 4_096])), Ok(20_000));
    rig.settle(&mut peer, &mut wire);
    let frames = multicasts(&peer);
    assert_eq!(frames.len(), 3, "as few frames as the limit allows");
    assert!(frames.iter().all(|frame| frame.1 == [7; 4_096]));
    let slots: Vec<u32> = frames.into_iter().flat_map(|frame| frame.0).collect();
    assert_eq!(slots, (0..20_000).collect::<Vec<_>>());
}

#[test]
fn only_open_connections_join_and_who_is_closed_has_left() {
    let handler = Recorder::new(act);
    let mut rig = Rig::new(WorkerConfig::default(), handler.clone());
    let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0));
    for slot in 1..=2 {
        peer.open(peer.id(slot), b"k");
        peer.message(peer.id(slot), b"jt", false);
    }
    rig.settle(&mut peer, &mut wire);
    let [one, two] = push(&mut rig, |ctx| ctx.topic_members(b"t"))[..] else { panic!("two members") };
    let nobody = Client { connection: peer.id(3), ..one };
    assert_eq!(push(&mut rig, |ctx| ctx.join(nobody, b"t")), Err(JoinError::Closed));
    assert_eq!(push(&mut rig, |ctx| ctx.join(one, b"t")), Ok(false));
    assert_eq!(push(&mut rig, |ctx| ctx.join(one, b"")), Err(JoinError::Name));
    push(&mut rig, |ctx| ctx.close(one, Reason::WorkerClosed, 0));
    assert_eq!(push(&mut rig, |ctx| ctx.join(one, b"t")), Err(JoinError::Closed));
    assert_eq!(push(&mut rig, |ctx| ctx.topic_members(b"t")), [two]);
    assert!(!push(&mut rig, |ctx| ctx.leave(one, b"t")) && push(&mut rig, |ctx| ctx.leave(two, b"t")));
    assert_eq!((rig.stats.get(Stat::TopicBytes), rig.stats.get(Stat::JoinsRefused)), (0, 1));
}

#[test]
fn topics_are_bounded_in_bytes_and_joining_says_so() {
    let config = WorkerConfig { topic_bytes_max: 100_000, ..WorkerConfig::default() };
    let mut rig = Rig::new(config, Recorder::new(act));
    let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0));
    peer.open(peer.id(1), b"k");
    peer.message(peer.id(1), b"j0", false);
    rig.settle(&mut peer, &mut wire);
    let client = push(&mut rig, |ctx| ctx.topic_members(b"0"))[0];
    let name = |number: u32| [&[b'n'; 251][..], &number.to_be_bytes()].concat();
    let joined = (0..10_000).take_while(|&number| {
        let joined = push(&mut rig, |ctx| ctx.join(client, &name(number)));
        assert!(joined == Ok(true) || joined == Err(JoinError::Full));
        joined.is_ok()
    });
    let joined = joined.count();
    assert_eq!(joined, (100_000 - 229) / (100 + 128 + 255));
    assert!(rig.stats.get(Stat::TopicBytes) <= 100_000);
    assert!(push(&mut rig, |ctx| ctx.leave(client, &name(0))));
    assert_eq!(push(&mut rig, |ctx| ctx.join(client, &name(10_001))), Ok(true));
    // All of it is given back with the connection.
    peer.closed(peer.id(1), Reason::ClientEof);
    rig.settle(&mut peer, &mut wire);
    assert_eq!((rig.stats.get(Stat::TopicBytes), rig.stats.get(Stat::Topics)), (0, 0));
}

#[derive(Clone, Debug)]
enum Step {
    Open(usize, u32),
    Reopen(usize, u32),
    /// Ends, or moves to another worker.
    Close(usize, u32, bool),
    /// The worker closes it.
    Shut(usize, u32),
    Join(usize, u32, u8),
    Leave(usize, u32, u8),
    Publish(u8),
    /// TCP breaks, and the session is resumed.
    Cut(usize),
    /// The gateway begins a new session: what it had is with other workers.
    Forget(usize),
}

const GATEWAYS: usize = 2;

fn step() -> impl Strategy<Value = Step> {
    let (gateway, slot, topic) = (0..GATEWAYS, 0..5u32, 0..3u8);
    let connection = (gateway.clone(), slot);
    prop_oneof![
        3 => connection.clone().prop_map(|(g, s)| Step::Open(g, s)),
        2 => connection.clone().prop_map(|(g, s)| Step::Reopen(g, s)),
        2 => (connection.clone(), any::<bool>()).prop_map(|((g, s), moved)| Step::Close(g, s, moved)),
        1 => connection.clone().prop_map(|(g, s)| Step::Shut(g, s)),
        6 => (connection.clone(), topic.clone()).prop_map(|((g, s), t)| Step::Join(g, s, t)),
        3 => (connection, topic.clone()).prop_map(|((g, s), t)| Step::Leave(g, s, t)),
        6 => topic.prop_map(Step::Publish),
        1 => gateway.clone().prop_map(Step::Cut),
        1 => gateway.prop_map(Step::Forget),
    ]
}

proptest! {
    #[test]
    fn every_member_and_nobody_else_hears_each_publish_once(
        steps in prop::collection::vec(step(), 0..150),
        // Resumes that find something to send again.
        withhold in any::<bool>(),
    ) {
        let mut rig = Rig::new(WorkerConfig::default(), Recorder::new(act));
        let mut links: Vec<_> =
            (0..GATEWAYS).map(|gateway| rig.link_up(Peer::new(1 + gateway as u8, 0))).collect();
        // What the gateways hold, and whether the worker has shut it; who is a member of what; what each
        // connection of a gateway must have heard since its session began.
        let mut held: BTreeMap<(usize, u32), bool> = BTreeMap::new();
        let mut members: BTreeSet<(u8, usize, u32)> = BTreeSet::new();
        let mut heard: Vec<Vec<(Vec<u32>, Vec<u8>)>> = vec![Vec::new(); GATEWAYS];
        for (number, step) in (0u32..).zip(steps) {
            match step {
                Step::Open(gateway, slot) | Step::Reopen(gateway, slot) => {
                    if held.contains_key(&(gateway, slot)) {
                        continue;
                    }
                    held.insert((gateway, slot), false);
                    let peer = &mut links[gateway].0;
                    if matches!(step, Step::Open(..)) {
                        peer.open(peer.id(slot), &[slot as u8]);
                    } else {
                        peer.reopen(peer.id(slot), routing_hash(&[slot as u8]));
                    }
                }
                Step::Close(gateway, slot, moved) => {
                    if held.remove(&(gateway, slot)).is_none() {
                        continue;
                    }
                    members.retain(|member| (member.1, member.2) != (gateway, slot));
                    let peer = &mut links[gateway].0;
                    peer.closed(peer.id(slot), if moved { Reason::Moved } else { Reason::ClientEof });
                }
                Step::Shut(gateway, slot) => {
                    if held.get(&(gateway, slot)) != Some(&false) {
                        continue;
                    }
                    held.insert((gateway, slot), true);
                    members.retain(|member| (member.1, member.2) != (gateway, slot));
                    let (connection, key) = (links[gateway].0.id(slot), [slot as u8]);
                    let link = rig.core.registry.find(registry::Peer {
                        gateway: links[gateway].0.gateway,
                        shard: 0,
                    });
                    let client = Client { link: link.unwrap(), connection };
                    let found = push(&mut rig, |ctx| ctx.clients_of(&key).any(|found| found == client));
                    prop_assert!(found);
                    push(&mut rig, |ctx| ctx.close(client, Reason::WorkerClosed, 0));
                }
                Step::Join(gateway, slot, topic) | Step::Leave(gateway, slot, topic) => {
                    let Some(&shut) = held.get(&(gateway, slot)) else { continue };
                    let peer = &mut links[gateway].0;
                    let joins = matches!(step, Step::Join(..));
                    peer.message(peer.id(slot), &[if joins { b'j' } else { b'l' }, topic], false);
                    if joins && !shut {
                        members.insert((topic, gateway, slot));
                    } else {
                        members.remove(&(topic, gateway, slot));
                    }
                }
                Step::Publish(topic) => {
                    let body = number.to_be_bytes();
                    let expected = members.iter().filter(|member| member.0 == topic).count();
                    let queued = push(&mut rig, |ctx| ctx.publish(&[topic], &body));
                    prop_assert_eq!(queued, Ok(expected));
                    for (gateway, heard) in heard.iter_mut().enumerate() {
                        let here = members.iter().filter(|member| (member.0, member.1) == (topic, gateway));
                        let slots: Vec<u32> = here.map(|member| member.2).collect();
                        if !slots.is_empty() {
                            heard.push((slots, body.to_vec()));
                        }
                    }
                    if withhold {
                        // What has been published stays queued, until the next step at least.
                        continue;
                    }
                }
                Step::Cut(gateway) => {
                    let (peer, wire) = &mut links[gateway];
                    rig.dial(peer, wire);
                }
                Step::Forget(gateway) => {
                    let (peer, wire) = &mut links[gateway];
                    // What was on its way is lost with the session.
                    rig.settle(peer, wire);
                    prop_assert_eq!(&multicasts(peer), &heard[gateway]);
                    held.retain(|connection, _| connection.0 != gateway);
                    members.retain(|member| member.1 != gateway);
                    heard[gateway].clear();
                    rig.cut(peer, wire);
                    peer.forget();
                    rig.dial(peer, wire);
                }
            }
            let mut all: Vec<_> = links.iter_mut().map(|(peer, wire)| (peer, wire)).collect();
            rig.settle_all(&mut all);
            for topic in 0..3 {
                let expected = members.iter().filter(|member| member.0 == topic).count();
                let (len, found) = push(&mut rig, |ctx| (ctx.topic_len(&[topic]), ctx.topic_members(&[topic])));
                prop_assert_eq!((len, found.len()), (expected, expected));
            }
        }
        let mut all: Vec<_> = links.iter_mut().map(|(peer, wire)| (peer, wire)).collect();
        rig.settle_all(&mut all);
        for ((peer, _), heard) in links.iter().zip(&heard) {
            prop_assert_eq!(&multicasts(peer), heard);
        }
        prop_assert_eq!(rig.stats.get(Stat::TopicMembers) as usize, members.len());
    }
}
