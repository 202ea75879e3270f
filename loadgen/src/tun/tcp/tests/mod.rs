//! The clients' TCP against a peer of another make, over a network that loses, repeats and
//! reorders.

mod chaos;
mod peer;
mod rules;
mod world;

use peer::{Manners, Phase};
use proptest::prelude::*;
use world::{Weather, World};

use super::State;
use crate::transport::{Close, Ended};

fn stream(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|at| (at as u8).wrapping_mul(31).wrapping_add((at >> 8) as u8) ^ seed).collect()
}

/// One client's part in a story.
#[derive(Clone, Debug)]
struct Part {
    iss: u32,
    mss: u16,
    buffer: usize,
    read: usize,
    up: usize,
    down: usize,
    piece: usize,
    /// The client pauses between these many received bytes and a while later.
    pause_at: Option<usize>,
    peer_closes: bool,
}

fn part() -> impl Strategy<Value = Part> {
    (
        any::<u32>(),
        prop_oneof![Just(1460u16), 64u16..1460],
        prop_oneof![Just(65_535usize), 1usize..3000],
        20usize..2000,
        prop_oneof![0usize..300, 0usize..20_000],
        prop_oneof![0usize..300, 0usize..20_000],
        1usize..3000,
        prop::option::of(0usize..5000),
        any::<bool>(),
    )
        .prop_map(|(iss, mss, buffer, read, up, down, piece, pause_at, peer_closes)| Part {
            iss,
            mss,
            buffer,
            read,
            up,
            down,
            piece,
            pause_at,
            peer_closes,
        })
}

fn weather() -> impl Strategy<Value = Weather> {
    prop_oneof![
        Just(Weather::default()),
        (0u32..25, 0u32..25, 0u32..40).prop_map(|(loss, duplication, reordering)| Weather {
            loss,
            duplication,
            reordering
        }),
    ]
}

/// Tells a whole story: all clients connect, both sides send all they have, one side ends it.
fn tell(seed: u64, weather: Weather, window: u16, parts: &[Part]) {
    let manners = parts
        .iter()
        .enumerate()
        .map(|(at, part)| Manners {
            iss: part.iss,
            mss: part.mss,
            buffer: part.buffer,
            read: part.read,
            stream: stream(at as u8, part.down),
            closes: part.peer_closes,
        })
        .collect();
    let mut world = World::new(seed, weather, window, manners);
    let mut sent = vec![0; parts.len()];
    let mut paused = vec![false; parts.len()];
    let mut pauses_left: Vec<u32> = parts.iter().map(|part| u32::from(part.pause_at.is_some())).collect();
    (0..parts.len() as u32).for_each(|client| world.tcp.connect(client));
    world.run_until(3_600, |world| {
        let mut over = true;
        for (at, part) in parts.iter().enumerate() {
            let client = at as u32;
            over &= !world.seen[at].closed.is_empty();
            if world.seen[at].connected == 0 {
                continue;
            }
            if part.pause_at.is_some_and(|pause| world.seen[at].bytes.len() >= pause) && pauses_left[at] > 0 {
                pauses_left[at] = 0;
                paused[at] = true;
                world.tcp.set_reading(client, false);
            } else if paused[at] && world.dice.percent(1) {
                paused[at] = false;
                world.tcp.set_reading(client, true);
            }
            if sent[at] < part.up && world.dice.percent(30) {
                let end = part.up.min(sent[at] + part.piece);
                world.tcp.send(client, &stream(!(at as u8), part.up)[sent[at]..end]);
                sent[at] = end;
            }
            let all_here = world.seen[at].bytes.len() == part.down;
            if !part.peer_closes && sent[at] == part.up && all_here {
                world.tcp.close(client, Close::Fin);
            }
        }
        over
    });
    for (at, part) in parts.iter().enumerate() {
        let seen = &world.seen[at];
        assert_eq!((seen.connected, &seen.failed[..]), (1, &[][..]));
        assert_eq!(seen.closed.len(), 1, "one end each");
        let (expected, up) = if part.peer_closes {
            // The peer ends as soon as it has sent all: the client may have been cut short.
            (Ended::PeerFin, sent[at])
        } else {
            (Ended::Local, part.up)
        };
        assert_eq!(seen.closed[0], expected);
        assert!(seen.bytes == stream(at as u8, part.down), "client {at} got other bytes than were sent");
        assert!(
            world.peers[at].received[..] == stream(!(at as u8), part.up)[..world.peers[at].received.len()],
            "the peer got other bytes than were sent"
        );
        if !part.peer_closes {
            assert_eq!(world.peers[at].received.len(), up);
            assert!(world.peers[at].fin_received);
        }
    }
    assert_eq!(world.tcp.connected(), 0);
    assert_eq!(world.tcp.unsent_bytes(), 0);
    assert_eq!(world.tcp.pools_in_use(), (0, 0), "an ended connection left something behind");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, max_shrink_iters: 64, ..ProptestConfig::default() })]

    #[test]
    fn streams_arrive_intact_both_ways(
        seed in any::<u64>(),
        weather in weather(),
        window in prop_oneof![Just(65_535u16), 1u16..4000],
        parts in prop::collection::vec(part(), 1..4),
    ) {
        tell(seed, weather, window, &parts);
    }
}

fn plain(iss: u32) -> Manners {
    Manners { iss, mss: 1460, buffer: 65_535, read: 65_535, stream: Vec::new(), closes: false }
}

#[test]
fn an_idle_connection_has_nothing_but_its_record() {
    let mut world = World::new(1, Weather::default(), 65_535, (0..50).map(plain).collect());
    (0..50).for_each(|client| world.tcp.connect(client));
    world.run_until(5, |world| world.tcp.connected() == 50);
    world.run_until(5, |world| !world.tcp.has_timers() && !world.tcp.has_queued());
    assert_eq!(world.tcp.pools_in_use(), (0, 0));
    (0..50).for_each(|client| world.tcp.send(client, b"hello"));
    world.step();
    assert_eq!(world.tcp.pools_in_use(), (50, 50));
    world.run_until(5, |world| world.peers.iter().all(|peer| peer.received == b"hello"));
    world.run_until(5, |world| world.tcp.pools_in_use() == (0, 0));
    assert_eq!(world.tcp.stats().retransmits, 0);
}

#[test]
fn nobody_there_is_a_timeout_after_seven_syns() {
    let mut world = World::new(2, Weather { loss: 100, ..Weather::default() }, 65_535, vec![plain(0)]);
    world.tcp.connect(0);
    world.run_until(200, |world| !world.seen[0].failed.is_empty());
    assert_eq!(world.seen[0].failed, [libc::ETIMEDOUT]);
    assert_eq!(world.tcp.stats().segments_out, 7);
    let seconds = world.now_us / 1_000_000;
    assert!((120..=190).contains(&seconds), "1 + 2 + 4 + ... + 60: {seconds} s");
    assert_eq!((world.tcp.connecting(), world.tcp.pools_in_use()), (0, (0, 0)));
}

#[test]
fn a_peer_that_falls_silent_is_given_up() {
    let mut world = World::new(3, Weather::default(), 65_535, vec![plain(0)]);
    world.tcp.connect(0);
    world.run_until(5, |world| world.tcp.connected() == 1);
    world.weather.loss = 100;
    world.tcp.send(0, b"anyone there?");
    world.run_until(1_200, |world| !world.seen[0].closed.is_empty());
    assert_eq!(world.seen[0].closed, [Ended::Failed(libc::ETIMEDOUT)]);
    assert_eq!(world.tcp.stats().retransmits, 15);
    assert_eq!((world.tcp.unsent_bytes(), world.tcp.pools_in_use()), (0, (0, 0)));
}

#[test]
fn a_peer_that_never_reads_is_probed_for_ever() {
    let manners = Manners { buffer: 100, read: 0, ..plain(7) };
    let mut world = World::new(4, Weather::default(), 65_535, vec![manners]);
    world.tcp.connect(0);
    world.run_until(5, |world| world.tcp.connected() == 1);
    world.tcp.send(0, &[7; 500]);
    world.run_until(5, |world| world.peers[0].received.len() == 100);
    let until = world.now_us + 1_500_000_000;
    world.run_until(2_000, |world| world.now_us >= until);
    assert_eq!(world.tcp.state(0), State::Established, "its answers show that it lives");
    assert_eq!(world.tcp.unsent_bytes(), 400);
    let probes = world.tcp.stats().window_probes;
    assert!((20..60).contains(&probes), "backed off to one a minute: {probes}");
}

#[test]
fn reset_by_the_client_leaves_no_trace_and_reaches_the_peer() {
    let mut world = World::new(5, Weather::default(), 65_535, vec![plain(0)]);
    world.tcp.connect(0);
    world.run_until(5, |world| world.tcp.connected() == 1);
    world.tcp.send(0, b"never to be acknowledged");
    world.tcp.close(0, Close::Reset);
    world.tcp.close(0, Close::Fin);
    world.tcp.send(0, b"ignored");
    world.run_until(5, |world| !world.seen[0].closed.is_empty());
    world.step();
    assert_eq!(world.seen[0].closed, [Ended::Local]);
    assert_eq!(world.peers[0].phase, Phase::Reset);
    assert_eq!((world.tcp.unsent_bytes(), world.tcp.pools_in_use()), (0, (0, 0)));
}

#[test]
fn a_paused_client_fills_its_window_and_no_more() {
    let manners = Manners { stream: stream(9, 10_000), ..plain(0) };
    let mut world = World::new(6, Weather::default(), 4_096, vec![manners]);
    world.tcp.connect(0);
    world.run_until(5, |world| world.tcp.connected() == 1);
    world.tcp.set_reading(0, false);
    let before = world.seen[0].bytes.len();
    let until = world.now_us + 5_000_000;
    world.run_until(10, |world| world.now_us >= until);
    assert_eq!(world.seen[0].bytes.len(), before);
    assert_eq!(world.tcp.pools_in_use().1, 4_096usize.div_ceil(124));
    world.tcp.set_reading(0, true);
    world.run_until(30, |world| world.seen[0].bytes.len() == 10_000);
    assert!(world.seen[0].bytes == stream(9, 10_000));
    assert_eq!(world.tcp.pools_in_use(), (0, 0));
}

#[test]
fn the_same_client_connects_again_and_again() {
    let mut world = World::new(8, Weather::default(), 65_535, vec![plain(0)]);
    let mut numbers = Vec::new();
    for round in 1..=20 {
        world.peers[0] = peer::Peer::new(plain(round * 1000));
        world.seen[0] = world::Seen::default();
        world.tcp.connect(0);
        world.run_until(5, |world| world.tcp.connected() == 1);
        numbers.push(world.tcp.records[0].snd_una);
        world.tcp.send(0, b"hi");
        world.tcp.close(0, if round % 2 == 0 { Close::Reset } else { Close::Fin });
        world.run_until(5, |world| !world.seen[0].closed.is_empty());
        world.run_until(5, |world| matches!(world.peers[0].phase, Phase::Done | Phase::Reset));
    }
    for pair in numbers.windows(2) {
        let step = pair[1].wrapping_sub(pair[0]);
        assert!((65_536..1 << 20).contains(&step), "beyond the last connection's numbers: {step}");
    }
}
