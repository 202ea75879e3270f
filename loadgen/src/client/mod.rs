//! What each client knows, in twenty bytes, and what it makes of the bytes it receives. Pure: no
//! socket, no clock.

mod receive;

use std::collections::BTreeSet;

use roost_protocol::{
    Reason,
    edge::{self, FrameType, HEADER_BYTES, Header, Hello},
};

pub use receive::{Broken, Received, Verdict};

use crate::{
    exchange::{Exchange, KEY_BYTES, key_of},
    payload::{self, Name},
};

/// Where a client stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// No connection.
    #[default]
    Absent,
    /// Connecting.
    Connecting,
    /// HELLO is sent.
    Greeting,
    /// WELCOME has come.
    Open,
    /// GOAWAY has come, or the client leaves: only the end is awaited.
    Ending,
}

/// One client.
#[derive(Clone, Copy, Debug, Default)]
struct Client {
    /// Sequence of its next message.
    next_sequence: u32,
    /// Everything below this has been delivered: of its own messages (echo, route), or of the
    /// messages to many that it should have received (fan-out).
    expected: u32,
    /// When its connect began, in units of 100 us of the run.
    since: u32,
    /// Where its incomplete frame is kept, plus one; 0: nowhere.
    partial: u32,
    /// Low bits of the round of its last PING.
    ping_round: u16,
    state: State,
    flags: u8,
}

const _: () = assert!(size_of::<Client>() == 20);

/// A PING is unanswered.
const PINGED: u8 = 1;
/// A PONG has come since the session opened.
const ANSWERED: u8 = 2;
/// Connects again as soon as it is absent.
const RETURNING: u8 = 4;
/// Leaves because the scenario wants it.
const LEAVING: u8 = 8;

/// All clients of one share.
#[derive(Debug)]
pub struct Clients {
    seed: u64,
    /// Number of client 0 among all users.
    first_user: u32,
    /// The routing key of all; none: each has its own.
    key: Option<String>,
    exchange: Exchange,
    clients: Vec<Client>,
    /// Incomplete frames; a place is empty when nobody has it.
    partials: Vec<Vec<u8>>,
    partials_free: Vec<u32>,
    /// Deliveries beyond a gap: the client whose record counts them, and their number.
    early: BTreeSet<(u32, u32)>,
}

impl Clients {
    /// `clients` absent clients, users `first_user..`.
    pub fn new(seed: u64, first_user: u32, clients: u32, exchange: Exchange) -> Self {
        Self {
            seed,
            first_user,
            key: None,
            exchange,
            clients: vec![Client::default(); clients as usize],
            partials: Vec::new(),
            partials_free: Vec::new(),
            early: BTreeSet::new(),
        }
    }

    /// All of them say HELLO with this routing key, if there is one.
    #[must_use]
    pub fn with_key(self, key: Option<String>) -> Self {
        Self { key, ..self }
    }

    /// How many there are.
    pub fn len(&self) -> u32 {
        self.clients.len() as u32
    }

    /// True without clients.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Where a client stands.
    pub fn state(&self, client: u32) -> State {
        self.clients[client as usize].state
    }

    /// Notes that a connect has begun, at `since` (units of 100 us).
    pub fn connecting(&mut self, client: u32, since: u32) {
        let record = &mut self.clients[client as usize];
        assert_eq!(record.state, State::Absent);
        record.state = State::Connecting;
        record.since = since;
        record.flags &= !(PINGED | ANSWERED);
    }

    /// When the connect began.
    pub fn since(&self, client: u32) -> u32 {
        self.clients[client as usize].since
    }

    /// The connection stands, and that is all there is to a session.
    pub fn open_bare(&mut self, client: u32) {
        let record = &mut self.clients[client as usize];
        assert_eq!(record.state, State::Connecting);
        record.state = State::Open;
    }

    /// The connection stands: appends HELLO.
    pub fn hello(&mut self, client: u32, out: &mut Vec<u8>) {
        let record = &mut self.clients[client as usize];
        assert_eq!(record.state, State::Connecting);
        record.state = State::Greeting;
        let mut room = [0; KEY_BYTES];
        let key = match &self.key {
            Some(key) => key.as_bytes(),
            None => key_of(self.first_user + client, &mut room),
        };
        Hello { key, token: b"" }.encode(out);
    }

    /// Appends the client's next message and returns its sequence.
    pub fn message(&mut self, client: u32, payload_bytes: usize, out: &mut Vec<u8>) -> u32 {
        let receiver = self.first_user + self.partner(client);
        let record = &mut self.clients[client as usize];
        assert_eq!(record.state, State::Open);
        let sequence = record.next_sequence;
        record.next_sequence += 1;
        let name = Name { sender: self.first_user + client, sequence };
        let start = out.len();
        out.extend([0; HEADER_BYTES]);
        self.exchange.wrap(name, receiver, out);
        payload::write(self.seed, name, payload_bytes, out);
        let payload_bytes = (out.len() - start - HEADER_BYTES) as u32;
        let header = Header { frame_type: FrameType::Message, payload_bytes };
        out[start..start + HEADER_BYTES].copy_from_slice(&header.encode());
        sequence
    }

    /// Appends a PING of this round; false (and nothing) if the one before is unanswered.
    pub fn ping(&mut self, client: u32, round: u32, out: &mut Vec<u8>) -> bool {
        let record = &mut self.clients[client as usize];
        assert_eq!(record.state, State::Open);
        if record.flags & PINGED != 0 {
            return false;
        }
        record.flags |= PINGED;
        record.ping_round = round as u16;
        edge::encode_frame(FrameType::Ping, &ping_payload(client, record.ping_round), out);
        true
    }

    /// Marks a client that leaves on purpose; appends CLOSE to `out` if there is one.
    pub fn leave(&mut self, client: u32, returning: bool, out: Option<&mut Vec<u8>>) {
        let record = &mut self.clients[client as usize];
        record.flags |= LEAVING | if returning { RETURNING } else { 0 };
        record.state = State::Ending;
        if let Some(out) = out {
            edge::encode_frame(FrameType::Close, &[Reason::ClientClosed.code()], out);
        }
    }

    /// Notes that the connection is over and what was outstanding.
    pub fn closed(&mut self, client: u32) -> Over {
        self.free_partial(client);
        let record = &mut self.clients[client as usize];
        let over = Over {
            was: record.state,
            left: record.flags & LEAVING != 0,
            returning: record.flags & RETURNING != 0,
            pinged: record.flags & PINGED != 0,
            answered: record.flags & ANSWERED != 0,
            sequences: record.expected..record.next_sequence,
        };
        record.state = State::Absent;
        record.flags = 0;
        if !matches!(self.exchange, Exchange::Fanout(_)) {
            record.expected = record.next_sequence;
        }
        if !self.early.is_empty() {
            self.early.retain(|&(sender, _)| sender != client);
        }
        over
    }

    /// Messages of this client that have not been delivered yet.
    pub fn outstanding(&self, client: u32) -> u32 {
        let record = &self.clients[client as usize];
        let early = if self.early.is_empty() {
            0
        } else {
            self.early.range((client, 0)..=(client, u32::MAX)).count() as u32
        };
        let sent = match &self.exchange {
            Exchange::Fanout(_) if record.state != State::Open => return 0,
            Exchange::Fanout(fanout) => match fanout.receivers {
                None => fanout.sent(),
                // Who gets these is the worker's choice; they are counted in all.
                Some(_) => return 0,
            },
            _ => record.next_sequence,
        };
        sent - record.expected - early
    }

    /// Whether nothing is on its way to the client.
    pub fn is_quiet(&self, client: u32) -> bool {
        self.clients[client as usize].flags & PINGED == 0
            && self.outstanding(client) == 0
            && self.outstanding(self.partner(client)) == 0
    }

    /// Whom a routed message goes to: users talk in pairs; one without a partner to itself.
    pub fn partner(&self, client: u32) -> u32 {
        match self.exchange {
            Exchange::Route if (client ^ 1) < self.len() => client ^ 1,
            _ => client,
        }
    }

    /// User-space bytes of the tables.
    pub fn user_bytes(&self) -> u64 {
        let partials: usize = self.partials.iter().map(Vec::capacity).sum();
        (self.clients.capacity() * size_of::<Client>()
            + partials
            + self.partials.capacity() * size_of::<Vec<u8>>()
            + self.early.len() * 16) as u64
    }
}

/// What [`Clients::closed`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Over {
    /// Where the client stood.
    pub was: State,
    /// It left on purpose.
    pub left: bool,
    /// It wants to connect again at once.
    pub returning: bool,
    /// A PING was unanswered.
    pub pinged: bool,
    /// It had had a PONG.
    pub answered: bool,
    /// Sequences among which some may have been outstanding.
    pub sequences: std::ops::Range<u32>,
}

const fn ping_payload(client: u32, round: u16) -> [u8; 8] {
    ((client as u64) << 32 | 0x5eed << 16 | round as u64).to_be_bytes()
}

#[cfg(test)]
mod tests;
