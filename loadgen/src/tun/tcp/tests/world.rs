//! Clients, peers and a bad network between them, in virtual time.

use std::collections::BTreeMap;

use super::{
    super::{Tcp, TcpConfig, Wire},
    peer::{Manners, Owned, Peer},
};
use crate::{
    transport::{Ended, Event, Events},
    tun::packet::Segment,
};

/// What the network does to segments, in percent each.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weather {
    pub(super) loss: u32,
    pub(super) duplication: u32,
    pub(super) reordering: u32,
}

/// xorshift64*.
#[derive(Debug)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) % u64::from(bound)) as u32
    }

    pub(super) fn percent(&mut self, percent: u32) -> bool {
        self.below(100) < percent
    }
}

/// What a client has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) connected: u32,
    pub(super) bytes: Vec<u8>,
    pub(super) closed: Vec<Ended>,
    pub(super) failed: Vec<i32>,
}

pub(super) struct World {
    pub(super) tcp: Tcp,
    pub(super) peers: Vec<Peer>,
    pub(super) seen: Vec<Seen>,
    pub(super) now_us: u64,
    pub(super) dice: Dice,
    pub(super) weather: Weather,
    /// What is on its way, by due time and number.
    network: BTreeMap<(u64, u64), (Side, u32, Owned)>,
    sent: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Peer,
}

#[derive(Default)]
pub(super) struct Collect(pub(super) Vec<(u32, Owned)>);

impl Wire for Collect {
    fn transmit(&mut self, client: u32, segment: &Segment<'_>) {
        self.0.push((client, Owned::of(segment)));
    }
}

/// Virtual time of a step.
pub(super) const STEP_US: u64 = 1_000;

impl World {
    pub(super) fn new(seed: u64, weather: Weather, window: u16, peers: Vec<Manners>) -> Self {
        let clients = peers.len() as u32;
        Self {
            tcp: Tcp::new(TcpConfig { clients, sequence_seed: seed, receive_window_bytes: window }),
            seen: vec![Seen::default(); peers.len()],
            peers: peers.into_iter().map(Peer::new).collect(),
            now_us: 0,
            dice: Dice(seed | 1),
            weather,
            network: BTreeMap::new(),
            sent: 0,
        }
    }

    /// Lets a step of time pass. Whatever the owner of the clients wanted has been asked for.
    pub(super) fn step(&mut self) {
        self.now_us += STEP_US;
        let mut wire = Collect::default();
        let mut events = Events::new();
        self.tcp.run_timers(self.now_us, &mut wire, &mut events);
        while self.tcp.turn(self.now_us, 3, &mut wire, &mut events) {}
        while let Some(first) = self.network.first_entry()
            && first.key().0 <= self.now_us
        {
            let (to, client, segment) = first.remove();
            if to == Side::Peer {
                let mut out = Vec::new();
                self.peers[client as usize].on_segment(&segment, &mut out);
                out.into_iter().for_each(|segment| self.post(Side::Client, client, segment));
            } else {
                self.tcp.on_segment(self.now_us, client, &segment.segment(), &mut wire, &mut events);
            }
        }
        wire.0.into_iter().for_each(|(client, segment)| self.post(Side::Peer, client, segment));
        for client in 0..self.peers.len() as u32 {
            let mut out = Vec::new();
            self.peers[client as usize].step(self.now_us, &mut out);
            out.into_iter().for_each(|segment| self.post(Side::Client, client, segment));
        }
        self.note(&events);
    }

    /// Steps until `done`; panics if that takes longer than `limit_s` virtual seconds.
    pub(super) fn run_until(&mut self, limit_s: u64, mut done: impl FnMut(&mut Self) -> bool) {
        let end = self.now_us + limit_s * 1_000_000;
        while !done(self) {
            assert!(self.now_us < end, "no progress: {:?} {:?}", self.tcp.records, self.peers);
            self.step();
        }
    }

    fn post(&mut self, to: Side, client: u32, segment: Owned) {
        if self.dice.percent(self.weather.loss) {
            return;
        }
        if self.dice.percent(self.weather.duplication) {
            self.put(to, client, segment.clone());
        }
        self.put(to, client, segment);
    }

    fn put(&mut self, to: Side, client: u32, segment: Owned) {
        let late = if self.dice.percent(self.weather.reordering) { self.dice.below(30) } else { 0 };
        self.sent += 1;
        let due = self.now_us + u64::from(late) * STEP_US;
        self.network.insert((due, self.sent), (to, client, segment));
    }

    fn note(&mut self, events: &Events) {
        for event in events.iter() {
            match event {
                Event::Connected { client } => self.seen[client as usize].connected += 1,
                Event::ConnectFailed { client, errno } => self.seen[client as usize].failed.push(errno),
                Event::Bytes { client, bytes } => {
                    let seen = &mut self.seen[client as usize];
                    assert!(seen.connected > 0 && seen.closed.is_empty(), "bytes outside a connection");
                    assert!(!bytes.is_empty());
                    seen.bytes.extend_from_slice(bytes);
                }
                Event::Closed { client, how } => self.seen[client as usize].closed.push(how),
            }
        }
    }
}
