//! A worker as the protocol's specification demands it, written without the worker library, so
//! that both ends cannot share a misunderstanding.
//!
//! * here: a worker's life.
//! * `session`: what must survive a break of its TCP connections.
//! * `wire`: a TCP connection: handshake, frames, acknowledgements.
//! * `handle`: what it does with the gateway's sequenced frames.
//! * `speak`: what it says of its own accord, and when it goes out.

mod handle;
mod session;
mod speak;
mod wire;

use roost_protocol::{
    ConnectionId, InstanceId,
    link::{Header, LinkType},
};
use session::Session;
use wire::{Phase, Wire};

use crate::sim::{
    kernel::{Dial, World},
    ledger::Ledger,
    rng::Rng,
};

const NONE: ConnectionId = ConnectionId::from_bits(0);

/// How a worker behaves; per mille where no unit is given.
#[derive(Clone, Debug)]
pub struct Habits {
    /// Bytes read per wake-up, at most.
    pub read_bytes_max: usize,
    /// What it grants the gateway.
    pub window_bytes: u32,
    /// A wake-up acknowledges what it may.
    pub acknowledges: u32,
    /// Pause between wake-ups of its own, in microseconds.
    pub pace_us: (u64, u64),
    /// Wake-ups at which it may do one of the following.
    pub volunteers: u32,
    /// A wake-up pushes something to a client.
    pub pushes: u32,
    /// A wake-up multicasts or broadcasts.
    pub fans_out: u32,
    /// A wake-up relays something.
    pub relays: u32,
    /// What it relays is for all other workers.
    pub relays_all: u32,
    /// It answers what another worker relays to it.
    pub answers: u32,
    /// It accepts a connection with another routing hash.
    pub rekeys: u32,
    /// It has a close code and a text for a client that it sends away, and marks a push as text.
    pub words: u32,
    /// A wake-up closes a connection.
    pub closes: u32,
    /// An OPEN is rejected.
    pub rejects: u32,
    /// A wake-up sends PING.
    pub pings: u32,
    /// The secret of its links.
    pub secret: Option<Vec<u8>>,
}

/// One worker: its process may die and come back, its session may outlive TCP connections.
#[derive(Debug)]
pub struct Worker {
    /// Index into `World::endpoints`, and the number of its link.
    pub index: usize,
    /// How it behaves.
    pub habits: Habits,
    /// Running, as opposed to killed.
    pub alive: bool,
    /// Stopped by a signal until this time.
    pub paused_until_us: u64,
    /// It has said DRAINING and waits for its connections to leave.
    pub drains: bool,
    /// It lives, and answers no CLOSED(moved).
    pub mute: bool,
    instance: InstanceId,
    /// As which instances it has accepted a proof.
    pub proven: Vec<InstanceId>,
    /// Until the end of the troubles it dies at every REOPEN.
    pub dies_at_reopen: bool,
    /// It was killed by a REOPEN, and is to be started again.
    pub died: bool,
    /// Until the end of the troubles it refuses every proof.
    pub refuses_proofs: bool,
    /// Until the end of the troubles it is also where this other worker is looked for.
    pub twin: Option<usize>,
    session: Option<Session>,
    wires: Vec<Wire>,
    rng: Rng,
    actor: u32,
    timer: u32,
}

impl Worker {
    /// A worker that runs, woken as `actor` when something arrives and as `timer` by itself.
    pub fn new(index: usize, (actor, timer): (u32, u32), habits: Habits, mut rng: Rng) -> Self {
        let instance = draw_instance(&mut rng);
        Self {
            index,
            habits,
            alive: true,
            paused_until_us: 0,
            drains: false,
            mute: false,
            instance,
            proven: Vec::new(),
            dies_at_reopen: false,
            died: false,
            refuses_proofs: false,
            twin: None,
            session: None,
            wires: Vec::new(),
            rng,
            actor,
            timer,
        }
    }

    /// Connections that it believes to be open, when it has a session.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionId> {
        self.session.iter().flat_map(|session| session.conns.keys().copied())
    }

    /// The instance it answers with, and whether it has a session.
    pub fn identity(&self) -> (InstanceId, bool) {
        (self.instance, self.session.is_some())
    }

    /// In words, for reports.
    pub fn describe(&self) -> String {
        let session = self.session.as_ref().map(|s| {
            let Session { serial, handled, acked, sent, settled, .. } = s;
            format!("session {serial}: handled {handled}, acked {acked}, sent {sent}, settled {settled}")
        });
        let wires: Vec<String> = self
            .wires
            .iter()
            .map(|w| {
                let Wire { conn, received, acknowledged, spoilt, .. } = w;
                format!("{conn:?} received {received}, acknowledged {acknowledged}, spoilt {spoilt}")
            })
            .collect();
        format!("worker {}: alive {}, {session:?}, {wires:?}", self.index, self.alive)
    }

    /// The process dies; its TCP connections with it.
    pub fn kill(&mut self, world: &mut World) {
        self.alive = false;
        (self.drains, self.mute) = (false, false);
        self.session = None;
        self.paused_until_us = 0;
        for wire in self.wires.drain(..) {
            // A dying process closes its sockets: FIN, or RST with unread input.
            world.net.peer_close(wire.conn);
        }
        let endpoint = &mut world.endpoints[self.index];
        endpoint.dial = Dial::Refuse;
        for conn in std::mem::take(&mut endpoint.accepted) {
            world.net.peer_reset(conn);
        }
    }

    /// It comes back, knowing nothing.
    pub fn restart(&mut self, world: &mut World) {
        self.alive = true;
        self.instance = draw_instance(&mut self.rng);
        world.endpoints[self.index].dial = Dial::Accept;
        world.wake_actor_at(world.now_us(), self.actor);
    }

    /// Its sessions are forgotten though it lives on.
    pub fn forget(&mut self, world: &mut World) {
        self.cut(world, true);
        self.session = None;
    }

    /// TCP breaks; the session stays.
    pub fn cut(&mut self, world: &mut World, reset: bool) {
        for wire in self.wires.drain(..) {
            if reset {
                world.net.peer_reset(wire.conn);
            } else {
                world.net.peer_close(wire.conn);
            }
        }
    }

    /// Says DRAINING, where a link runs. It means it: it is restarted before the run ends.
    pub fn drain(&mut self) {
        self.drains = true;
        for wire in self.wires.iter_mut().filter(|wire| matches!(wire.phase, Phase::Running)) {
            wire.tx.extend(Header::new(LinkType::Draining, NONE, 0).encode());
        }
    }

    /// Writes what no worker may, at a frame boundary.
    pub fn spoil(&mut self) {
        for wire in self.wires.iter_mut().filter(|wire| matches!(wire.phase, Phase::Running)) {
            let garbage: Vec<u8> = match self.rng.below(7) {
                0 => vec![0, 0, 0, 0, 0xee, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                1 => vec![0, 0, 0, 0, LinkType::Data as u8, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                2 => vec![0xff, 0, 0, 0, LinkType::Data as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
                3 => Header::new(LinkType::Open, NONE, 0).encode().to_vec(),
                4 => Header::new(LinkType::Data, NONE, 0).encode().to_vec(),
                5 => {
                    let mut ack = Header::new(LinkType::Ack, NONE, 8).encode().to_vec();
                    ack.extend(u64::MAX.to_be_bytes());
                    ack
                }
                _ => Header::new(LinkType::LinkWelcome, NONE, 0).encode().to_vec(),
            };
            wire.tx.extend(garbage);
            wire.spoilt = true;
        }
    }

    /// Its turn.
    pub fn wake(&mut self, world: &mut World, ledger: &mut Ledger, calm: bool) {
        if !self.alive {
            return;
        }
        if self.paused_until_us > world.now_us() {
            return;
        }
        for endpoint in [Some(self.index), self.twin].into_iter().flatten() {
            while let Some(conn) = world.endpoints[endpoint].accepted.pop_front() {
                self.wires.push(Wire::new(conn));
            }
        }
        let mut index = 0;
        while index < self.wires.len() {
            if self.run_wire(world, ledger, index) {
                index += 1;
            } else if index < self.wires.len() {
                let wire = self.wires.remove(index);
                world.net.peer_close(wire.conn);
            }
        }
        if self.died {
            return self.kill(world);
        }
        for index in 0..self.wires.len() {
            self.fill(index, calm);
            self.write(world, index);
        }
    }

    /// The timer's turn: like any other, and the next one is arranged.
    pub fn tick(&mut self, world: &mut World, ledger: &mut Ledger, calm: bool) {
        if !calm && self.alive && self.paused_until_us <= world.now_us() {
            self.volunteer();
        }
        self.wake(world, ledger, calm);
        let pause = self.rng.range(self.habits.pace_us.0, self.habits.pace_us.1);
        world.wake_actor_at(world.now_us().max(self.paused_until_us) + pause, self.timer);
    }
}

fn draw_instance(rng: &mut Rng) -> InstanceId {
    let mut instance = [0; 16];
    rng.fill(&mut instance);
    InstanceId(instance)
}
