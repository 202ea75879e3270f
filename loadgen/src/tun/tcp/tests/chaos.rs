//! Any segment in any state: nothing panics, and the books balance after each step.

use proptest::prelude::*;

use super::{
    super::{State, Tcp, TcpConfig, connection::flag},
    world::Collect,
};
use crate::{
    transport::{Close, Event, Events},
    tun::packet::{Flags, Segment},
};

#[derive(Clone, Debug)]
enum Action {
    Connect,
    Send(u16),
    Close(bool),
    Reading(bool),
    Turn,
    /// Milliseconds.
    Time(u32),
    /// Numbers relative to what the client expects and has sent.
    Hear {
        seq: i32,
        ack: i32,
        flags: u8,
        window: u16,
        mss: Option<u16>,
        payload: u16,
    },
    /// What a friendly peer would say next.
    Answer {
        flags: u8,
        window: u16,
        payload: u16,
    },
}

fn action() -> impl Strategy<Value = Action> {
    let payload = || prop_oneof![4 => Just(0u16), 2 => 1u16..40, 1 => 0u16..1460];
    let window = || prop_oneof![Just(0u16), Just(1u16), Just(u16::MAX), any::<u16>()];
    let near = || prop_oneof![3 => Just(0i32), 3 => -3i32..4, 1 => -70_000i32..70_000, 1 => any::<i32>()];
    prop_oneof![
        2 => Just(Action::Connect),
        3 => (1u16..4000).prop_map(Action::Send),
        1 => any::<bool>().prop_map(Action::Close),
        1 => any::<bool>().prop_map(Action::Reading),
        6 => Just(Action::Turn),
        2 => prop_oneof![0u32..300, 0u32..100_000].prop_map(Action::Time),
        5 => (near(), near(), any::<u8>(), window(), any::<Option<u16>>(), payload()).prop_map(
            |(seq, ack, flags, window, mss, payload)| Action::Hear { seq, ack, flags, window, mss, payload }
        ),
        8 => (prop_oneof![Just(0x10u8), Just(0x11), Just(0x12), any::<u8>()], window(), payload())
            .prop_map(|(flags, window, payload)| Action::Answer { flags, window, payload }),
    ]
}

/// What must be true between any two steps.
fn check(tcp: &Tcp) {
    let mut works = 0;
    let mut bytes = 0;
    let (mut connecting, mut connected) = (0, 0);
    for (client, record) in tcp.records.iter().enumerate() {
        let state = record.state();
        connecting += u32::from(state == State::SynSent);
        connected += u32::from(!matches!(state, State::Absent | State::SynSent | State::TimeWait));
        assert_eq!(record.has(flag::QUEUED), tcp.queue.contains(&(client as u32)));
        assert_eq!(
            record.has(flag::FIN_SENT),
            matches!(state, State::FinWait1 | State::FinWait2 | State::Closing | State::LastAck),
            "{state:?}"
        );
        if record.work == 0 {
            assert!(
                !matches!(state, State::FinWait1 | State::FinWait2 | State::Closing | State::LastAck),
                "{state:?} needs a timer"
            );
            continue;
        }
        works += 1;
        assert!(!matches!(state, State::Absent | State::TimeWait), "{state:?} has work");
        let work = tcp.works.get(record.work);
        bytes += u64::from(work.tx.len());
        if state == State::SynSent {
            assert_eq!((work.in_flight, work.tx.len()), (1, 0));
        } else {
            let fin = u32::from(record.has(flag::FIN_SENT) && work.in_flight > 0);
            assert!(work.in_flight <= work.tx.len() + fin, "more in flight than there is");
        }
        assert!(work.rx.len() <= u32::from(tcp.config.receive_window_bytes));
        assert!(work.congestion_window >= 1);
        let waits = work.in_flight > 0 || state == State::FinWait2;
        assert!(!waits || work.deadline != 0, "{state:?} waits without a timer: {work:?}");
        assert!(work.deadline == 0 || work.wheel_tick != 0, "a timer that never runs out: {work:?}");
    }
    assert_eq!((tcp.connecting, tcp.connected, tcp.unsent_bytes), (connecting, connected, bytes));
    assert_eq!(tcp.works.live(), works);
}

fn run(window: u16, actions: &[(bool, Action)]) {
    let mut tcp = Tcp::new(TcpConfig { clients: 2, sequence_seed: 3, receive_window_bytes: window });
    let mut now_us = 1;
    let mut balance = [0i32; 2];
    let (mut wire, mut events) = (Collect::default(), Events::new());
    let payload = vec![0x55; 1460];
    for (second, action) in actions {
        let client = u32::from(*second);
        let record = tcp.records[client as usize];
        let in_flight = if record.work == 0 { 0 } else { tcp.works.get(record.work).in_flight };
        let snd_nxt = record.snd_una.wrapping_add(in_flight);
        match *action {
            Action::Connect => {
                if matches!(record.state(), State::Absent | State::TimeWait) {
                    tcp.connect(client);
                    balance[client as usize] += 1;
                }
            }
            Action::Send(count) => tcp.send(client, &vec![7; usize::from(count)]),
            Action::Close(fin) => tcp.close(client, if fin { Close::Fin } else { Close::Reset }),
            Action::Reading(reading) => tcp.set_reading(client, reading),
            Action::Turn => drop(tcp.turn(now_us, 2, &mut wire, &mut events)),
            Action::Time(ms) => {
                now_us += u64::from(ms) * 1000;
                tcp.run_timers(now_us, &mut wire, &mut events);
            }
            Action::Hear { seq, ack, flags, window, mss, payload: count } => {
                let segment = Segment {
                    seq: record.rcv_nxt.wrapping_add_signed(seq),
                    ack: snd_nxt.wrapping_add_signed(ack),
                    flags: Flags::from_bits(flags),
                    window,
                    mss,
                    payload: &payload[..usize::from(count)],
                };
                tcp.on_segment(now_us, client, &segment, &mut wire, &mut events);
            }
            Action::Answer { flags, window, payload: count } => {
                let segment = Segment {
                    seq: record.rcv_nxt,
                    ack: snd_nxt,
                    flags: Flags::from_bits(flags),
                    window,
                    mss: Some(1460),
                    payload: &payload[..usize::from(count)],
                };
                tcp.on_segment(now_us, client, &segment, &mut wire, &mut events);
            }
        }
        check(&tcp);
    }
    // Each connect has at most one end, and what is not absent has none yet.
    for event in events.iter() {
        match event {
            Event::ConnectFailed { client, .. } | Event::Closed { client, .. } => {
                balance[client as usize] -= 1;
            }
            Event::Connected { .. } | Event::Bytes { .. } => {}
        }
    }
    for client in 0..2 {
        let alive = !matches!(tcp.state(client), State::Absent | State::TimeWait);
        assert_eq!(balance[client as usize], i32::from(alive), "ends of client {client}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_comes_in_upsets_the_books(
        window in prop_oneof![Just(1u16), Just(500), Just(u16::MAX)],
        actions in prop::collection::vec((any::<bool>(), action()), 1..200),
    ) {
        run(window, &actions);
    }
}
