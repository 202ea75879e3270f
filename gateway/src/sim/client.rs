//! Clients: well-behaved, slow, hostile and unlucky ones. Each is one connection.

use std::net::SocketAddr;

use roost_protocol::{
    Reason,
    edge::{self, Decoder, FrameType, Goaway, Hello, Welcome},
};

use crate::sim::{
    kernel::World,
    ledger::{DownHead, Ledger, UP_BYTES, encode_up},
    net::{ConnId, PeerRead},
    rng::Rng,
};

/// What a client is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Profile {
    /// Sends, reads, pings, leaves when everything was answered.
    Steady,
    /// The same, but its bytes come in crumbs.
    Crumbs,
    /// The same, but sends all it has at once.
    Burst,
    /// Opens a session and stays, with a ping now and then.
    Idle,
    /// Opens a session and falls silent.
    Silent,
    /// Connects and never says HELLO.
    Mute,
    /// Sends a part of a frame and no more.
    HalfFrame,
    /// Reads a little, rarely.
    SlowReader,
    /// Sends and never reads.
    NeverReads,
    /// Breaks the protocol, then waits to be told so.
    Breaker,
    /// Resets the connection at any moment.
    Resetter,
    /// Ends its sending side without CLOSE.
    HalfCloser,
    /// Sends CLOSE at any moment.
    Closer,
    /// Its host vanishes: TCP gives up.
    Vanisher,
    /// Sends random bytes.
    Noise,
}

impl Profile {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Steady,
        Self::Crumbs,
        Self::Burst,
        Self::Idle,
        Self::Silent,
        Self::Mute,
        Self::HalfFrame,
        Self::SlowReader,
        Self::NeverReads,
        Self::Breaker,
        Self::Resetter,
        Self::HalfCloser,
        Self::Closer,
        Self::Vanisher,
        Self::Noise,
    ];

    /// Gives the gateway no cause to close it.
    pub const fn is_well_behaved(self) -> bool {
        matches!(self, Self::Steady | Self::Crumbs | Self::Burst | Self::Idle)
    }
}

/// How a connection ended, as its client saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The client wanted it.
    Itself,
    /// The gateway said so, with this reason.
    Goaway(Reason),
    /// FIN without GOAWAY.
    Eof,
    /// RST.
    Reset,
}

/// What all clients of a run share.
#[derive(Clone, Debug)]
pub struct Manners {
    /// The gateway's limit.
    pub frame_bytes_max: u32,
    /// Pause between actions, in microseconds.
    pub think_us: (u64, u64),
    /// How often an idle client pings, in microseconds.
    pub ping_us: u64,
    /// The longest message.
    pub message_bytes_max: u32,
    /// A client that was told to go or has resigned waits this long for the end, in microseconds.
    pub patience_us: u64,
    /// The listener where a PROXY header comes first.
    pub proxy_listener: Option<u16>,
}

/// One client.
#[derive(Debug)]
pub struct Client {
    /// Its number, which is its routing key and its session reference.
    pub id: u32,
    /// What it is like.
    pub profile: Profile,
    /// How it ended; none while it lasts.
    pub ended: Option<Ended>,
    /// WELCOME has come.
    pub welcomed: bool,
    /// Where it connects.
    pub listener: u16,
    manners: Manners,
    addr: Option<SocketAddr>,
    rng: Rng,
    actor: u32,
    conn: Option<ConnId>,
    starts_at_us: u64,
    /// Bytes to write.
    out: Vec<u8>,
    decoder: Decoder,
    /// Messages it wants to send in all.
    messages: u32,
    /// Messages put into `out` so far.
    sent: u32,
    goaway: Option<Reason>,
    /// What GOAWAY must say after what it did.
    expected: Option<Reason>,
    /// When it does what it came for: reset, close, break.
    acts_at_us: u64,
    acted: bool,
    pings: Vec<[u8; 8]>,
    next_ping_us: u64,
    gone_at_us: Option<u64>,
}

impl Client {
    /// A client that connects at `starts_at_us`.
    pub fn new(
        id: u32,
        actor: u32,
        profile: Profile,
        (listener, addr): (u16, Option<SocketAddr>),
        manners: Manners,
        starts_at_us: u64,
        mut rng: Rng,
    ) -> Self {
        let messages = match profile {
            Profile::Idle | Profile::Silent | Profile::Mute => 0,
            _ => rng.log_range(0, 40) as u32,
        };
        let acts_at_us = starts_at_us + rng.log_range(1, 5_000_000);
        Self {
            id,
            profile,
            ended: None,
            welcomed: false,
            listener,
            decoder: Decoder::new(manners.frame_bytes_max),
            manners,
            addr,
            rng,
            actor,
            conn: None,
            starts_at_us,
            out: Vec::new(),
            messages,
            sent: 0,
            goaway: None,
            expected: None,
            acts_at_us,
            acted: false,
            pings: Vec::new(),
            next_ping_us: 0,
            gone_at_us: None,
        }
    }

    /// The first time it acts.
    pub fn starts_at_us(&self) -> u64 {
        self.starts_at_us
    }

    /// Whether everything it sent was answered.
    pub fn is_answered(&self, ledger: &Ledger) -> bool {
        self.out.is_empty() && ledger.answered_end(self.id) == self.sent
    }

    /// Whether it is ending the connection itself.
    pub fn left(&self) -> bool {
        self.acted
    }

    /// Its turn. `calm`: the run is winding down, so it finishes what it can and leaves.
    pub fn wake(&mut self, world: &mut World, ledger: &mut Ledger, calm: bool) {
        if self.ended.is_some() || world.now_us() < self.starts_at_us {
            return;
        }
        let Some(conn) = self.conn else { return self.connect(world) };
        if self.reads() || calm {
            self.read(world, ledger, conn);
        }
        if self.ended.is_none() && self.goaway.is_none() {
            self.act(world, ledger, conn, calm);
        }
        if self.ended.is_none() {
            self.write(world, conn);
        }
        if self.ended.is_none() && self.goaway.is_some() {
            // Told to go: it goes, whether the gateway's FIN comes or not.
            let gone_at_us = *self.gone_at_us.get_or_insert(world.now_us() + self.manners.patience_us);
            if world.now_us() >= gone_at_us {
                world.net.peer_close(conn);
                self.ended = self.goaway.map(Ended::Goaway);
            }
        }
    }

    /// The timer's turn: like any other, and the next one is arranged.
    pub fn tick(&mut self, world: &mut World, ledger: &mut Ledger, calm: bool, timer: u32) {
        self.wake(world, ledger, calm);
        if self.ended.is_none() {
            let pause = self.rng.log_range(self.manners.think_us.0, self.manners.think_us.1);
            world.wake_actor_at(world.now_us() + pause, timer);
        }
    }

    /// It has had enough: the run is over.
    pub fn give_up(&mut self, world: &mut World) {
        if let Some(conn) = self.conn {
            world.net.peer_close(conn);
        }
        self.ended.get_or_insert(Ended::Itself);
    }

    /// In words, for reports.
    pub fn describe(&self, ledger: &Ledger) -> String {
        format!(
            "client {} ({:?}) on {:?}: welcomed {}, sent {}/{}, answered {}, {} bytes to write, goaway {:?}",
            self.id,
            self.profile,
            self.conn,
            self.welcomed,
            self.sent,
            self.messages,
            ledger.answered_end(self.id),
            self.out.len(),
            self.goaway,
        )
    }

    fn reads(&mut self) -> bool {
        match self.profile {
            Profile::NeverReads => false,
            Profile::SlowReader => self.rng.chance(100),
            _ => true,
        }
    }

    fn connect(&mut self, world: &mut World) {
        self.conn = world.connect(self.listener, self.actor, self.addr);
        if self.conn.is_none() {
            return;
        }
        self.next_ping_us = world.now_us() + self.manners.ping_us;
        if self.manners.proxy_listener == Some(self.listener) {
            let host = self.rng.below(4);
            if self.profile == Profile::Noise {
                self.out.extend(b"PROXY TCP4 nonsense\r\n");
            } else {
                self.out.extend(format!("PROXY TCP4 198.51.100.{host} 192.0.2.1 999 7000\r\n").bytes());
            }
        }
        let proxy_bytes = self.out.len();
        if self.profile != Profile::Mute {
            let token = vec![b't'; self.rng.log_range(0, 300) as usize];
            let mut key = self.id.to_be_bytes().to_vec();
            key.extend(vec![b'k'; self.rng.index(20)]);
            Hello { key: &key, token: &token }.encode(&mut self.out);
        }
        if self.profile == Profile::Breaker && self.rng.chance(300) {
            let (hello, expected): (&[u8], Reason) = if self.rng.chance(500) {
                (&[1, 0, 0, 6, 99, 0, 0, 0, 0, 0], Reason::Version)
            } else {
                (&[1, 0, 0, 3, 1, 0, 9], Reason::Malformed)
            };
            self.out.truncate(proxy_bytes);
            self.out.extend(hello);
            (self.expected, self.acted) = (Some(expected), true);
        }
        if self.profile == Profile::Noise {
            let mut noise = vec![0; self.rng.log_range(1, 2_000) as usize];
            self.rng.fill(&mut noise);
            if self.rng.chance(500) {
                self.out = noise;
            } else {
                self.out.extend(noise);
            }
        }
        if self.profile == Profile::HalfFrame && self.rng.chance(400) {
            let len = self.rng.index(self.out.len());
            self.out.truncate(len);
            self.acted = true;
        }
    }

    fn read(&mut self, world: &mut World, ledger: &mut Ledger, conn: ConnId) {
        let slow = self.profile == Profile::SlowReader;
        let mut budget = if slow { self.rng.range(1, 64) as usize } else { 256 * 1024 };
        while budget > 0 {
            let max = if slow { budget } else { self.rng.log_range(1, 65_536) as usize };
            match world.net.peer_read(conn, max) {
                PeerRead::Data(bytes) => {
                    budget = budget.saturating_sub(bytes.len());
                    self.on_bytes(ledger, &bytes);
                }
                PeerRead::Nothing => return,
                PeerRead::Eof => return self.on_eof(world, ledger, conn),
                PeerRead::Reset => {
                    world.net.peer_close(conn);
                    self.ended = Some(self.goaway.map_or(Ended::Reset, Ended::Goaway));
                    return;
                }
            }
        }
    }

    fn on_eof(&mut self, world: &mut World, ledger: &mut Ledger, conn: ConnId) {
        world.net.peer_close(conn);
        self.ended = Some(self.goaway.map_or(Ended::Eof, Ended::Goaway));
        if self.decoder.pending_bytes() > 0 && self.profile.is_well_behaved() && self.goaway.is_some() {
            ledger.violation(format!("invariant whole-frames: client {} is left with half a frame", self.id));
        }
    }

    fn on_bytes(&mut self, ledger: &mut Ledger, bytes: &[u8]) {
        let mut frames = Vec::new();
        let fed = self.decoder.feed(bytes, |frame_type, frame| frames.push((frame_type, frame.to_vec())));
        for (frame_type, frame) in frames {
            self.on_frame(ledger, frame_type, &frame[edge::HEADER_BYTES..]);
        }
        if let Err(error) = fed {
            ledger.violation(format!("invariant whole-frames: client {} reads {error}", self.id));
        }
    }

    fn on_frame(&mut self, ledger: &mut Ledger, frame_type: FrameType, payload: &[u8]) {
        let id = self.id;
        if let Some(reason) = self.goaway {
            let what = format!("invariant goaway-last: client {id} hears {frame_type:?} after {reason}");
            return ledger.violation(what);
        }
        match frame_type {
            FrameType::Welcome => {
                let welcome = Welcome::decode(payload).expect("the gateway's WELCOME decodes");
                if self.welcomed {
                    ledger.violation(format!("invariant exactly-once: client {id} is welcomed twice"));
                }
                if welcome.session.0 != u64::from(id) {
                    ledger.violation(format!("invariant right-client: client {id} gets {welcome:?}"));
                }
                self.welcomed = true;
            }
            FrameType::Message => match DownHead::decode(payload) {
                _ if !self.welcomed => {
                    ledger.violation(format!("invariant in-order: client {id}: a message before WELCOME"));
                }
                Some(head) => ledger.on_delivered(id, &head),
                None => {
                    ledger.violation(format!(
                        "invariant whole-frames: client {id} reads what no worker wrote: {:02x?}",
                        &payload[..payload.len().min(24)]
                    ));
                }
            },
            FrameType::Pong if payload.is_empty() => {}
            FrameType::Pong => {
                if self.pings.is_empty() || self.pings.remove(0) != payload {
                    ledger.violation(format!("invariant in-order: client {id}: an answer to no PING"));
                }
            }
            FrameType::Goaway => {
                let goaway = Goaway::decode(payload).expect("the gateway's GOAWAY decodes");
                self.goaway = Some(goaway.reason);
                if let Some(expected) = self.expected
                    && self.profile == Profile::Breaker
                    && matches!(
                        goaway.reason,
                        Reason::UnknownType
                            | Reason::Oversize
                            | Reason::ReservedBits
                            | Reason::Malformed
                            | Reason::Version
                            | Reason::UnexpectedFrame
                    )
                    && goaway.reason != expected
                {
                    ledger.violation(format!(
                        "invariant close-reason: client {id} hears {}, not {expected}",
                        goaway.reason
                    ));
                }
            }
            other => {
                ledger.violation(format!("invariant edge-protocol: client {id} hears {other:?}"));
            }
        }
    }

    fn act(&mut self, world: &mut World, ledger: &Ledger, conn: ConnId, calm: bool) {
        let now_us = world.now_us();
        let due = now_us >= self.acts_at_us && !self.acted;
        match self.profile {
            Profile::Resetter if due || calm => {
                world.net.peer_reset(conn);
                self.ended = Some(Ended::Itself);
                return;
            }
            Profile::Vanisher if due || calm => {
                let after_us = self.rng.log_range(1, 3_000_000);
                world.net.peer_vanish(conn, after_us);
                self.ended = Some(Ended::Itself);
                return;
            }
            Profile::HalfCloser if due => {
                self.acted = true;
                world.net.peer_shutdown(conn);
            }
            Profile::Closer if due => {
                self.acted = true;
                self.close_frame();
            }
            Profile::Breaker if due && (self.welcomed || self.rng.chance(300)) => {
                self.acted = true;
                self.break_protocol();
            }
            Profile::HalfFrame if due => {
                self.acted = true;
                let start = self.out.len();
                self.message();
                let keep = start + self.rng.range(1, (self.out.len() - start - 1) as u64) as usize;
                self.out.truncate(keep);
                self.sent -= 1;
            }
            _ => {}
        }
        if calm {
            self.wind_down(world, ledger, conn);
        }
        if self.ended.is_none() && !self.acted {
            self.speak(world, calm);
        }
    }

    /// Messages and pings, as the temper has it.
    fn speak(&mut self, world: &World, calm: bool) {
        let now_us = world.now_us();
        let eager = self.welcomed || self.rng.chance(50);
        if !eager || self.profile == Profile::Mute {
            return;
        }
        if self.sent < self.messages && self.out.len() < 4_096 {
            let count = match self.profile {
                Profile::Burst | Profile::NeverReads => self.messages - self.sent,
                _ => u32::from(self.rng.chance(500) || calm),
            };
            for _ in 0..count {
                self.message();
            }
        }
        let pings = !matches!(self.profile, Profile::Silent) && now_us >= self.next_ping_us;
        if pings && self.welcomed && self.out.is_empty() {
            self.next_ping_us = now_us + self.manners.ping_us;
            let payload = self.rng.draw().to_be_bytes();
            self.pings.push(payload);
            edge::encode_frame(FrameType::Ping, &payload, &mut self.out);
        }
    }

    /// Leaves once nothing is owed to it, or when it was never going to leave by itself.
    fn wind_down(&mut self, world: &mut World, ledger: &Ledger, conn: ConnId) {
        let patient = self.profile.is_well_behaved();
        let done = self.welcomed && self.sent == self.messages && self.is_answered(ledger);
        if patient && !done {
            return;
        }
        let gone_at_us = *self.gone_at_us.get_or_insert(world.now_us() + self.manners.patience_us);
        if patient && !self.acted {
            self.acted = true;
            match self.rng.below(3) {
                0 => self.close_frame(),
                1 => world.net.peer_shutdown(conn),
                _ => {
                    world.net.peer_close(conn);
                    self.ended = Some(Ended::Itself);
                }
            }
        } else if world.now_us() >= gone_at_us {
            world.net.peer_close(conn);
            self.ended = Some(Ended::Itself);
        }
    }

    fn message(&mut self) {
        let longest = u64::from(self.manners.message_bytes_max.max(UP_BYTES as u32));
        let len = self.rng.log_range(UP_BYTES as u64, longest) as usize;
        let payload = encode_up(self.id, self.sent, len);
        self.sent += 1;
        edge::encode_frame(FrameType::Message, &payload, &mut self.out);
    }

    fn close_frame(&mut self) {
        edge::encode_frame(FrameType::Close, &[0], &mut self.out);
    }

    fn break_protocol(&mut self) {
        let (bytes, expected): (Vec<u8>, Reason) = match self.rng.below(5) {
            0 => (vec![0x1e, 0, 0, 0], Reason::UnknownType),
            1 => (vec![0x83, 0, 0, 1, 0], Reason::ReservedBits),
            2 => (vec![3, 0xff, 0xff, 0xff], Reason::Oversize),
            3 if self.welcomed => (vec![6, 0, 0, 0], Reason::UnexpectedFrame),
            _ => (vec![2, 0, 0, 0], Reason::UnexpectedFrame),
        };
        self.out.extend(bytes);
        self.expected = Some(expected);
    }

    fn write(&mut self, world: &mut World, conn: ConnId) {
        let crumbs = self.profile == Profile::Crumbs;
        let max = if crumbs { self.rng.log_range(1, 64) as usize } else { usize::MAX };
        let offered = &self.out[..self.out.len().min(max)];
        if offered.is_empty() {
            return;
        }
        if let Some(written) = world.net.peer_write(conn, offered) {
            self.out.drain(..written);
        }
    }
}
