//! What a turn does of what is due, over a transport that only counts.

use std::{cell::Cell, rc::Rc};

use super::*;
use crate::transport::Close;

/// Nobody answers, and nothing ends.
struct Nowhere {
    sends: Rc<Cell<usize>>,
}

impl Transport for Nowhere {
    fn connect(&mut self, _: u32) {}

    fn send(&mut self, _: u32, _: &[u8]) {
        self.sends.set(self.sends.get() + 1);
    }

    fn close(&mut self, _: u32, _: Close) {}

    fn set_reading(&mut self, _: u32, _: bool) {}

    fn poll(&mut self, _: Duration, _: &mut Events) -> anyhow::Result<()> {
        Ok(())
    }

    fn counts(&self) -> Counts {
        Counts::default()
    }

    fn user_bytes(&self) -> u64 {
        0
    }
}

const INTERVAL: Duration = Duration::from_secs(60);
const CLIENTS: u32 = 100_000;

/// A load of which all have connected once and the first `open` are there.
fn load(open: u32) -> (Load, Rc<Cell<usize>>) {
    let sends = Rc::new(Cell::new(0));
    let config = LoadConfig {
        share: Share { thread: 0, threads: 1, first_client: 0, clients: CLIENTS },
        first_user: 0,
        key: None,
        seed: 1,
        exchange: Exchange::Echo,
        heartbeat: INTERVAL,
        start: Instant::now(),
        window: 0,
        failover: false,
    };
    let transport = Box::new(Nowhere { sends: Rc::clone(&sends) });
    let (commands, intervals) = (crossbeam_channel::never(), crossbeam_channel::unbounded().0);
    let mut load = Load::new(config, transport, commands, intervals, Arc::default());
    load.connects.next = CLIENTS;
    for client in 0..open {
        load.clients.connecting(client, 0);
        load.clients.open_bare(client);
    }
    (load, sends)
}

#[test]
fn clients_that_are_away_hold_up_nobodys_heartbeat() {
    let (mut load, sends) = load(0);
    let (mut turns, end_ns) = (1, INTERVAL.as_nanos() as u64 - 1);
    while load.do_what_is_due(end_ns) {
        turns += 1;
    }
    // All of an interval's, in a few turns and not in hundreds.
    assert_eq!(load.heartbeat.next_due_ns(), Some(end_ns + 1));
    assert_eq!((turns, sends.get(), load.tally.heartbeats_due), (2, 0, 0));
}

#[test]
fn a_late_turn_sends_as_many_heartbeats_as_a_poll_can_bring_answers() {
    let (mut load, sends) = load(CLIENTS);
    // A tenth of a second: 166 are due, all in one turn.
    assert!(!load.do_what_is_due(100_000_000));
    assert_eq!(sends.get(), 167);
    let late_ns = load.tally.heartbeat_late_ns_max;
    assert_eq!(late_ns, 100_000_000, "the first was due at the beginning");
    // Ten seconds: no turn takes more than its share, and after some all are sent.
    assert!(load.do_what_is_due(10_000_000_000));
    assert_eq!(sends.get(), 167 + SENDS_PER_TURN);
    while load.do_what_is_due(10_000_000_000) {}
    assert_eq!(sends.get() as u64, load.tally.heartbeats_due);
    assert_eq!((load.tally.heartbeats_sent, load.live.pinged), (16_667, 16_667));
    assert!(load.tally.heartbeat_late_ns_max < 10_000_000_000);
}
