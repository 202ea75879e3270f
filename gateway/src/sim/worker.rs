//! A worker as the protocol's specification demands it, written without the worker library, so
//! that both ends cannot share a misunderstanding.

use std::collections::{BTreeMap, VecDeque};

use roost_protocol::{
    ConnectionId, InstanceId, Reason, SessionRef,
    auth::{self, Side},
    edge::{self, FrameType},
    link::{
        self, Header, LinkHello, LinkProof, LinkType, LinkWelcome, Open, Relay, Reopen, Split, handshake,
        header::FLAG_RESENT,
    },
};

use crate::sim::{
    kernel::{Dial, World},
    ledger::{Down, DownHead, Ledger, Tenure, decode_up},
    net::{ConnId, PeerRead},
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
    /// A wake-up closes a connection.
    pub closes: u32,
    /// An OPEN is rejected.
    pub rejects: u32,
    /// A wake-up sends PING.
    pub pings: u32,
    /// The secret of its links.
    pub secret: Option<Vec<u8>>,
}

/// What a worker keeps of a connection.
#[derive(Debug)]
enum Conn {
    Open(Tenure),
    /// Rejected or closed by the worker; CLOSED is awaited.
    Ended,
}

/// A link session.
#[derive(Debug)]
struct Session {
    serial: u32,
    /// Sequenced frames of the gateway handled.
    handled: u64,
    /// Frames not yet acknowledged by the gateway; the first is number `acked`.
    retained: VecDeque<Vec<u8>>,
    acked: u64,
    /// Sent on the present TCP connection.
    sent: u64,
    /// Handled positions and the end of what was queued when they were reached.
    marks: VecDeque<(u64, u64)>,
    settled: u64,
    conns: BTreeMap<ConnectionId, Conn>,
    multicasts: u32,
    broadcasts: u32,
}

/// A TCP connection with the gateway.
#[derive(Debug)]
struct Wire {
    conn: ConnId,
    rx: Vec<u8>,
    tx: VecDeque<u8>,
    phase: Phase,
    /// Garbage was written: nothing more makes sense.
    spoilt: bool,
    /// Sequenced frames received, counted from the session's beginning.
    received: u64,
    received_bytes: u64,
    acknowledged: u64,
    /// Bytes of the frames received beyond `acknowledged`.
    unacknowledged: VecDeque<u64>,
    window_out: u64,
    frame_bytes_max: u32,
}

#[derive(Debug)]
enum Phase {
    Hello,
    Proof { hello: Vec<u8>, proven: Vec<u8>, resumes: Option<Resumption> },
    Running,
}

/// A session that is about to go on: which, and from which position.
#[derive(Clone, Copy, Debug)]
struct Resumption {
    serial: u32,
    stated: u64,
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
    instance: InstanceId,
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
            instance,
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
        self.drains = false;
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
        while let Some(conn) = world.endpoints[self.index].accepted.pop_front() {
            self.wires.push(Wire::new(conn));
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

    /// Reads and handles; false when the TCP connection is of no more use.
    fn run_wire(&mut self, world: &mut World, ledger: &mut Ledger, index: usize) -> bool {
        let wire = &mut self.wires[index];
        let mut budget = self.habits.read_bytes_max;
        let mut alive = true;
        while budget > 0 && alive {
            match world.net.peer_read(wire.conn, budget) {
                PeerRead::Data(bytes) => {
                    budget -= bytes.len();
                    wire.rx.extend(bytes);
                }
                PeerRead::Nothing => break,
                PeerRead::Eof | PeerRead::Reset => alive = false,
            }
        }
        let mut taken = 0;
        let rx = std::mem::take(&mut self.wires[index].rx);
        loop {
            match link::split(&rx[taken..], u32::MAX) {
                Ok(Split::Frame { header, payload }) => {
                    taken += header.frame_bytes();
                    if !self.on_frame(world, ledger, index, header, payload) {
                        return false;
                    }
                }
                Ok(Split::Need { .. }) => break,
                Err(error) => {
                    ledger.violation(format!("invariant whole-frames: a worker reads {error}"));
                    return false;
                }
            }
        }
        let Some(wire) = self.wires.get_mut(index) else { return false };
        wire.rx = rx[taken..].to_vec();
        if alive && world.net.peer_unread(wire.conn) > 0 {
            let pause = self.rng.range(self.habits.pace_us.0, self.habits.pace_us.1);
            world.wake_actor_at(world.now_us() + pause, self.actor);
        }
        alive
    }

    fn on_frame(
        &mut self,
        world: &mut World,
        ledger: &mut Ledger,
        index: usize,
        header: Header,
        payload: &[u8],
    ) -> bool {
        world.note(|| {
            let Header { link_type, flags, connection, .. } = header;
            format!("worker {} reads {link_type:?} {flags:#x} {connection:?}", self.index)
        });
        match (&self.wires[index].phase, header.link_type) {
            (Phase::Hello, LinkType::LinkHello) => self.on_hello(world, index, payload),
            (Phase::Proof { .. }, LinkType::LinkProof) => self.on_proof(world, ledger, index, payload),
            (Phase::Running, _) if header.link_type.is_sequenced() => {
                self.on_sequenced(ledger, index, header, payload);
                true
            }
            (Phase::Running, LinkType::Ack) => self.on_ack(ledger, payload),
            (Phase::Running, LinkType::Ping) => {
                let mut pong = Header::new(LinkType::Pong, NONE, payload.len() as u32).encode().to_vec();
                pong.extend(payload);
                if !self.wires[index].spoilt {
                    self.wires[index].tx.extend(pong);
                }
                true
            }
            (Phase::Running, LinkType::Pong) => true,
            (phase, other) => {
                ledger.violation(format!("invariant link-protocol: {other:?} in {phase:?}"));
                false
            }
        }
    }

    fn on_hello(&mut self, world: &World, index: usize, payload: &[u8]) -> bool {
        let hello = LinkHello::decode(payload).expect("the gateway's LINK_HELLO decodes");
        let resumes =
            self.session.as_ref().filter(|_| hello.expected_worker == self.instance).and_then(|s| {
                let known = (s.acked..=s.acked + s.retained.len() as u64).contains(&hello.received_position);
                known.then(|| Resumption { serial: s.serial, stated: s.settled_at(hello.received_position) })
            });
        world
            .note(|| format!("{} hears {:?} and says {resumes:?}", self.describe(), hello.received_position));
        let mut nonce = [0; handshake::NONCE_BYTES];
        self.rng.fill(&mut nonce);
        let mut welcome = LinkWelcome {
            resumed: resumes.is_some(),
            window_bytes: self.habits.window_bytes,
            worker: self.instance,
            nonce,
            received_position: resumes.map_or(0, |resumption| resumption.stated),
            proof: None,
        };
        let proven = welcome.encode_proven();
        welcome.proof =
            self.habits.secret.as_deref().map(|secret| auth::prove(secret, Side::Worker, payload, &proven));
        let mut out = Vec::new();
        handshake::encode_frame(LinkType::LinkWelcome, &welcome.encode_payload(), &mut out);
        let wire = &mut self.wires[index];
        wire.window_out = u64::from(hello.window_bytes);
        wire.frame_bytes_max = hello.frame_bytes_max;
        wire.tx.extend(out);
        wire.phase = Phase::Proof { hello: payload.to_vec(), proven, resumes };
        true
    }

    fn on_proof(&mut self, world: &mut World, ledger: &mut Ledger, index: usize, payload: &[u8]) -> bool {
        let Phase::Proof { hello, proven, resumes } =
            std::mem::replace(&mut self.wires[index].phase, Phase::Running)
        else {
            unreachable!("the caller matched")
        };
        let proof = LinkProof::decode(payload).expect("the gateway's LINK_PROOF decodes").proof;
        if let Some(secret) = self.habits.secret.as_deref() {
            let valid =
                proof.is_some_and(|proof| auth::verify(secret, Side::Gateway, &hello, &proven, &proof));
            if !valid {
                ledger.violation("invariant link-protocol: the gateway's proof is wrong".into());
            }
        }
        let hello = LinkHello::decode(&hello).expect("it decoded before");
        // An older TCP connection of the session is superseded.
        let keep = self.wires[index].conn;
        let old: Vec<ConnId> = self
            .wires
            .iter()
            .filter(|wire| wire.conn != keep && matches!(wire.phase, Phase::Running))
            .map(|wire| wire.conn)
            .collect();
        match resumes {
            Some(Resumption { serial, stated }) => {
                let Some(session) = self.session.as_mut().filter(|s| s.serial == serial) else {
                    return false;
                };
                session.resume(hello.received_position);
                let wire = &mut self.wires[index];
                (wire.received, wire.acknowledged) = (stated, stated);
            }
            None => self.session = Some(Session::new(ledger.begin_session())),
        }
        for conn in old {
            let at = self.wires.iter().position(|wire| wire.conn == conn).expect("just listed");
            self.wires[at].spoilt = true;
            world.net.peer_close(conn);
        }
        true
    }

    fn on_ack(&mut self, ledger: &mut Ledger, payload: &[u8]) -> bool {
        let position = link::body::decode_u64(payload).expect("the gateway's ACK decodes");
        let Some(session) = &mut self.session else { return false };
        if position < session.acked || position > session.sent {
            ledger.violation(format!(
                "invariant link-protocol: ACK of {position}, not within {}..={}",
                session.acked, session.sent
            ));
            return false;
        }
        session.on_acked(position);
        true
    }

    fn on_sequenced(&mut self, ledger: &mut Ledger, index: usize, header: Header, payload: &[u8]) {
        let wire = &mut self.wires[index];
        if wire.spoilt {
            return;
        }
        wire.received += 1;
        wire.received_bytes += header.frame_bytes() as u64;
        wire.unacknowledged.push_back(header.frame_bytes() as u64);
        let outstanding: u64 = wire.unacknowledged.iter().sum();
        if outstanding > u64::from(self.habits.window_bytes) && wire.unacknowledged.len() > 1 {
            ledger.violation(format!(
                "invariant credit: {outstanding} bytes unacknowledged, {} were granted",
                self.habits.window_bytes
            ));
        }
        let session = self.session.as_mut().expect("a running wire has a session");
        if wire.received <= session.handled {
            return;
        }
        session.handled += 1;
        debug_assert_eq!(session.handled, wire.received);
        let frame_bytes_max = wire.frame_bytes_max;
        self.handle(ledger, frame_bytes_max, header, payload);
        let session = self.session.as_mut().expect("handling ends no session");
        session.marks.push_back((session.handled, session.end()));
    }

    fn handle(&mut self, ledger: &mut Ledger, frame_bytes_max: u32, header: Header, payload: &[u8]) {
        let session = self.session.as_mut().expect("the caller has one");
        let id = header.connection;
        let known = session.conns.get_mut(&id);
        match (header.link_type, known) {
            (LinkType::Open, None) => {
                let open = Open::decode(payload).expect("the gateway's OPEN decodes");
                let Some(client) = open.key.first_chunk::<4>().map(|key| u32::from_be_bytes(*key)) else {
                    ledger.violation(format!("invariant whole-frames: OPEN with key {:?}", open.key));
                    return;
                };
                if self.rng.chance(self.habits.rejects) {
                    session.conns.insert(id, Conn::Ended);
                    session.push(Header::new(LinkType::Reject, id, 4), &500u32.to_be_bytes());
                } else {
                    session.conns.insert(id, Conn::Open(ledger.begin_tenure(client, true)));
                    session.push(Header::new(LinkType::Accept, id, 8), &u64::from(client).to_be_bytes());
                }
            }
            (LinkType::Reopen, None) => {
                let reopen = Reopen::decode(payload).expect("the gateway's REOPEN decodes");
                let SessionRef(client) = reopen.session;
                session.conns.insert(id, Conn::Open(ledger.begin_tenure(client as u32, false)));
            }
            (LinkType::Data, Some(Conn::Open(tenure))) => {
                let message = payload.get(edge::HEADER_BYTES..).and_then(decode_up);
                match message {
                    Some((client, number)) if client == tenure.client => {
                        let resent = header.flags & FLAG_RESENT != 0;
                        ledger.on_handled(tenure, number, resent);
                        let head = DownHead {
                            kind: Down::Echo,
                            tenure: tenure.id,
                            order: tenure.order,
                            resent,
                            client,
                            number,
                        };
                        tenure.order += 1;
                        let len = (payload.len() - edge::HEADER_BYTES).min(frame_bytes_max as usize);
                        session.push_message(id, &head.encode(len));
                    }
                    other => ledger.violation(format!(
                        "invariant right-client: client {}'s worker reads {other:?}",
                        tenure.client
                    )),
                }
            }
            (LinkType::Data, Some(Conn::Ended)) => {}
            (LinkType::Closed, Some(_)) => {
                session.conns.remove(&id);
                if header.aux_reason() == Reason::Moved {
                    session.push(Header::new(LinkType::Moved, id, 0), &[]);
                }
            }
            (LinkType::Relay, _) => {
                let relay = Relay::decode(payload).expect("the gateway's RELAY decodes");
                if DownHead::decode(relay.payload).is_none() {
                    ledger.violation("invariant whole-frames: a relayed payload is not what was sent".into());
                }
            }
            (other, known) => ledger.violation(format!(
                "invariant link-protocol: {other:?} for connection {id:?}, which is {known:?} here"
            )),
        }
    }

    /// Things workers do of their own accord.
    fn volunteer(&mut self) {
        let Some(frame_bytes_max) = self.running().map(|wire| wire.frame_bytes_max) else { return };
        let session = self.session.as_mut().expect("a running wire has a session");
        // A worker that outruns its gateway for long would only fill its own memory.
        if session.retained.len() > 256 || self.habits.volunteers == 0 {
            return;
        }
        self.habits.volunteers -= 1;
        let ids: Vec<ConnectionId> = session.conns.keys().copied().collect();
        let len = self.rng.log_range(1, u64::from(frame_bytes_max)) as usize;
        if !ids.is_empty() && self.rng.chance(self.habits.pushes) {
            let id = self.rng.pick(&ids);
            if let Some(Conn::Open(tenure)) = session.conns.get_mut(&id) {
                let head = DownHead {
                    kind: Down::Push,
                    tenure: tenure.id,
                    order: tenure.order,
                    resent: false,
                    client: tenure.client,
                    number: 0,
                };
                tenure.order += 1;
                session.push_message(id, &head.encode(len));
            }
        }
        if !ids.is_empty() && self.rng.chance(self.habits.closes) {
            let id = self.rng.pick(&ids);
            if matches!(session.conns.insert(id, Conn::Ended), Some(Conn::Open(_))) {
                session.push(Header::new(LinkType::Close, id, 0), &[]);
            }
        }
        if self.rng.chance(self.habits.fans_out) {
            let broadcast = self.rng.chance(500);
            let counter = if broadcast { &mut session.broadcasts } else { &mut session.multicasts };
            let kind = if broadcast { Down::Broadcast } else { Down::Multicast };
            let head = DownHead {
                kind,
                tenure: session.serial,
                order: *counter,
                resent: false,
                client: 0,
                number: 0,
            };
            *counter += 1;
            let payload = head.encode(len);
            if broadcast {
                let flags = if self.rng.chance(500) { link::header::FLAG_ALL } else { 0 };
                let mut header = Header::new(LinkType::Broadcast, NONE, 0);
                header.flags = flags;
                session.push(header, &message(&payload));
            } else {
                let chosen: Vec<ConnectionId> =
                    ids.iter().copied().filter(|_| self.rng.chance(600)).collect();
                let mut body = (chosen.len() as u32).to_be_bytes().to_vec();
                body.extend(chosen.iter().flat_map(|id| id.to_bits().to_be_bytes()));
                body.extend(message(&payload));
                session.push(Header::new(LinkType::Multicast, NONE, 0), &body);
            }
        }
        if self.rng.chance(self.habits.relays) {
            let head =
                DownHead { kind: Down::Push, tenure: 0, order: 0, resent: false, client: 0, number: 0 };
            let mut body = self.rng.draw().to_be_bytes().to_vec();
            body.extend(head.encode(len));
            session.push(Header::new(LinkType::Relay, NONE, 0), &body);
        }
        if self.rng.chance(self.habits.pings) {
            let ping = Header::new(LinkType::Ping, NONE, 0).encode();
            let wire = self.wires.iter_mut().find(|wire| wire.is_running()).expect("just seen");
            wire.tx.extend(ping);
        }
    }

    fn running(&self) -> Option<&Wire> {
        self.wires.iter().find(|wire| wire.is_running())
    }

    /// Moves to the wire what may be sent: frames within the window, then an acknowledgement.
    fn fill(&mut self, index: usize, calm: bool) {
        let wire = &mut self.wires[index];
        let Some(session) = self.session.as_mut().filter(|_| wire.is_running()) else { return };
        let mut in_flight: u64 = session
            .retained
            .iter()
            .take((session.sent - session.acked) as usize)
            .map(|f| f.len() as u64)
            .sum();
        while let Some(frame) = session.retained.get((session.sent - session.acked) as usize) {
            let len = frame.len() as u64;
            if in_flight > 0 && in_flight + len > wire.window_out || wire.tx.len() > 64 * 1024 {
                break;
            }
            wire.tx.extend(frame);
            in_flight += len;
            session.sent += 1;
        }
        if !calm && !self.rng.chance(self.habits.acknowledges) {
            return;
        }
        let allowed = session
            .marks
            .iter()
            .take_while(|&&(handled, end)| end <= session.sent && handled <= wire.received)
            .last()
            // What is settled may be more than has come again on this connection.
            .map_or(session.settled.min(wire.received), |&(handled, _)| handled);
        if allowed > wire.acknowledged {
            for _ in wire.acknowledged..allowed {
                wire.unacknowledged.pop_front();
            }
            wire.acknowledged = allowed;
            wire.tx.extend(Header::new(LinkType::Ack, NONE, 8).encode());
            wire.tx.extend(allowed.to_be_bytes());
        }
    }

    fn write(&mut self, world: &mut World, index: usize) {
        let wire = &mut self.wires[index];
        let bytes = wire.tx.make_contiguous();
        if let Some(written) = world.net.peer_write(wire.conn, bytes) {
            wire.tx.drain(..written);
        }
    }
}

impl Session {
    fn new(serial: u32) -> Self {
        Self {
            serial,
            handled: 0,
            retained: VecDeque::new(),
            acked: 0,
            sent: 0,
            marks: VecDeque::new(),
            settled: 0,
            conns: BTreeMap::new(),
            multicasts: 0,
            broadcasts: 0,
        }
    }

    fn end(&self) -> u64 {
        self.acked + self.retained.len() as u64
    }

    fn push(&mut self, mut header: Header, payload: &[u8]) {
        header.payload_bytes = payload.len() as u32;
        let mut frame = header.encode().to_vec();
        frame.extend(payload);
        self.retained.push_back(frame);
    }

    fn push_message(&mut self, id: ConnectionId, payload: &[u8]) {
        self.push(Header::new(LinkType::Data, id, 0), &message(payload));
    }

    /// The last position whose replies are all among the first `received` frames.
    fn settled_at(&self, received: u64) -> u64 {
        self.marks
            .iter()
            .take_while(|&&(_, end)| end <= received)
            .last()
            .map_or(self.settled, |&(handled, _)| handled)
    }

    fn on_acked(&mut self, position: u64) {
        self.retained.drain(..(position - self.acked) as usize);
        self.acked = position;
        while let Some(&(handled, end)) = self.marks.front()
            && end <= position
        {
            self.settled = handled;
            self.marks.pop_front();
        }
    }

    fn resume(&mut self, received: u64) {
        self.sent = self.end();
        self.on_acked(received);
        self.sent = self.acked;
    }
}

impl Wire {
    fn new(conn: ConnId) -> Self {
        Self {
            conn,
            rx: Vec::new(),
            tx: VecDeque::new(),
            phase: Phase::Hello,
            spoilt: false,
            received: 0,
            received_bytes: 0,
            acknowledged: 0,
            unacknowledged: VecDeque::new(),
            window_out: 0,
            frame_bytes_max: 0,
        }
    }

    fn is_running(&self) -> bool {
        matches!(self.phase, Phase::Running) && !self.spoilt
    }
}

/// A whole MESSAGE frame.
fn message(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    edge::encode_frame(FrameType::Message, payload, &mut out);
    out
}

fn draw_instance(rng: &mut Rng) -> InstanceId {
    let mut instance = [0; 16];
    rng.fill(&mut instance);
    InstanceId(instance)
}
