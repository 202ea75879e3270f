//! What each client knows, in twenty bytes, and what it makes of the bytes it receives. Pure: no
//! socket, no clock.

use std::collections::BTreeSet;

use roost_protocol::{
    Reason,
    edge::{self, FrameError, FrameType, Goaway, HEADER_BYTES, Hello, Split, Welcome},
};

use crate::payload::{self, Name};

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
    /// All its messages below this have been delivered.
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
const HEARD: u8 = 2;
/// Connects again as soon as it is absent.
const RETURNING: u8 = 4;
/// Leaves because the scenario wants it.
const LEAVING: u8 = 8;

/// How clients exchange messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// Each message comes back to its sender.
    Echo,
}

/// What a client has heard.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Heard {
    /// WELCOME: the session is open.
    Welcome(Welcome),
    /// A message of this run, by the local number of its sender.
    Message {
        /// Local number of the sender.
        sender: u32,
        /// Its number.
        sequence: u32,
        /// Whether it was right to come here now.
        verdict: Verdict,
    },
    /// A message that nobody of this run has sent.
    Corrupted,
    /// The answer to the last PING.
    Pong {
        /// The first of the session.
        first: bool,
    },
    /// A PONG that answers nothing, as a gateway sends that holds back a blocked client.
    UnsolicitedPong,
    /// PING of the gateway, to be answered with this payload and length.
    Ping([u8; 8], u8),
    /// GOAWAY.
    Goaway {
        /// Why.
        reason: Reason,
        /// When to come back, in milliseconds; 0: no advice.
        retry_after_ms: u32,
        /// Where the client stood.
        was: State,
    },
    /// The bytes follow no protocol; the connection must go.
    Broken(Broken),
}

/// How the peer broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The frame itself.
    Frame(FrameError),
    /// A frame that does not fit the state.
    Unexpected(FrameType),
}

/// Whether a message was right to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// For the first time, after all that were sent before it, or before some of them (which
    /// then count as reordered when they come).
    InOrder,
    /// For the first time, but after a later one.
    Reordered,
    /// Again.
    Duplicated,
    /// To somebody it was not meant for.
    Misdelivered,
}

/// All clients of one share.
#[derive(Debug)]
pub struct Clients {
    seed: u64,
    /// Number of client 0 among all users.
    first_user: u32,
    exchange: Exchange,
    clients: Vec<Client>,
    /// Incomplete frames; a place is empty when nobody has it.
    partials: Vec<Vec<u8>>,
    partials_free: Vec<u32>,
    /// Messages that came before an earlier one of the same sender.
    early: BTreeSet<(u32, u32)>,
}

impl Clients {
    /// `clients` absent clients, users `first_user..`.
    pub fn new(seed: u64, first_user: u32, clients: u32, exchange: Exchange) -> Self {
        Self {
            seed,
            first_user,
            exchange,
            clients: vec![Client::default(); clients as usize],
            partials: Vec::new(),
            partials_free: Vec::new(),
            early: BTreeSet::new(),
        }
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
        record.flags &= !(PINGED | HEARD);
    }

    /// When the connect began.
    pub fn since(&self, client: u32) -> u32 {
        self.clients[client as usize].since
    }

    /// The connection stands: appends HELLO.
    pub fn hello(&mut self, client: u32, out: &mut Vec<u8>) {
        let record = &mut self.clients[client as usize];
        assert_eq!(record.state, State::Connecting);
        record.state = State::Greeting;
        let mut key = [0; KEY_BYTES];
        Hello { key: key_of(self.first_user + client, &mut key), token: b"" }.encode(out);
    }

    /// Appends the client's next message and returns its sequence.
    pub fn message(&mut self, client: u32, payload_bytes: usize, out: &mut Vec<u8>) -> u32 {
        let record = &mut self.clients[client as usize];
        assert_eq!(record.state, State::Open);
        let sequence = record.next_sequence;
        record.next_sequence += 1;
        let header = edge::Header { frame_type: FrameType::Message, payload_bytes: payload_bytes as u32 };
        out.extend(header.encode());
        payload::write(self.seed, Name { sender: self.first_user + client, sequence }, payload_bytes, out);
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
            heard: record.flags & HEARD != 0,
            sequences: record.expected..record.next_sequence,
        };
        record.state = State::Absent;
        record.flags = 0;
        record.expected = record.next_sequence;
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
        record.next_sequence - record.expected - early
    }

    /// Takes bytes that arrived and appends what they say.
    pub fn on_bytes(&mut self, client: u32, mut bytes: &[u8], heard: &mut Vec<Heard>) {
        let at = self.clients[client as usize].partial;
        if at == 0 {
            if let Err(error) = self.on_frames(client, &mut bytes, heard) {
                heard.push(Heard::Broken(Broken::Frame(error)));
            } else if !bytes.is_empty() {
                self.keep_partial(client, bytes);
            }
            return;
        }
        let mut joined = std::mem::take(&mut self.partials[at as usize - 1]);
        joined.extend_from_slice(bytes);
        let mut rest = joined.as_slice();
        let result = self.on_frames(client, &mut rest, heard);
        let taken = joined.len() - rest.len();
        joined.drain(..taken);
        let empty = joined.is_empty();
        self.partials[at as usize - 1] = joined;
        if let Err(error) = result {
            heard.push(Heard::Broken(Broken::Frame(error)));
        } else if empty {
            self.free_partial(client);
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

    fn on_frames(
        &mut self,
        client: u32,
        bytes: &mut &[u8],
        heard: &mut Vec<Heard>,
    ) -> Result<(), FrameError> {
        while !bytes.is_empty() {
            match edge::split(bytes, edge::FRAME_BYTES_LIMIT)? {
                Split::Frame { frame_type, frame } => {
                    *bytes = &bytes[frame.len()..];
                    heard.push(self.on_frame(client, frame_type, &frame[HEADER_BYTES..])?);
                }
                Split::Need { .. } => break,
            }
        }
        Ok(())
    }

    fn on_frame(&mut self, client: u32, frame_type: FrameType, payload: &[u8]) -> Result<Heard, FrameError> {
        let record = &mut self.clients[client as usize];
        Ok(match (frame_type, record.state) {
            (FrameType::Welcome, State::Greeting) => {
                let welcome = Welcome::decode(payload)?;
                record.state = State::Open;
                Heard::Welcome(welcome)
            }
            (FrameType::Message, State::Open | State::Ending) => self.on_message(client, payload),
            (FrameType::Pong, State::Open | State::Ending) => {
                if record.flags & PINGED != 0 && payload == ping_payload(client, record.ping_round) {
                    let first = record.flags & HEARD == 0;
                    record.flags = record.flags & !PINGED | HEARD;
                    Heard::Pong { first }
                } else if payload.is_empty() {
                    Heard::UnsolicitedPong
                } else {
                    Heard::Corrupted
                }
            }
            (FrameType::Ping, State::Open | State::Ending) => {
                let mut echoed = [0; 8];
                echoed[..payload.len()].copy_from_slice(payload);
                Heard::Ping(echoed, payload.len() as u8)
            }
            (FrameType::Goaway, State::Greeting | State::Open | State::Ending) => {
                let goaway = Goaway::decode(payload)?;
                let was = std::mem::replace(&mut record.state, State::Ending);
                Heard::Goaway { reason: goaway.reason, retry_after_ms: goaway.retry_after_ms, was }
            }
            _ => Heard::Broken(Broken::Unexpected(frame_type)),
        })
    }

    fn on_message(&mut self, client: u32, payload: &[u8]) -> Heard {
        let Some(name) = payload::read(self.seed, payload) else { return Heard::Corrupted };
        let sender = name.sender.wrapping_sub(self.first_user);
        let meant_for = match self.exchange {
            Exchange::Echo => sender,
        };
        if meant_for != client {
            return Heard::Message { sender, sequence: name.sequence, verdict: Verdict::Misdelivered };
        }
        match self.delivered(sender, name.sequence) {
            Some(verdict) => Heard::Message { sender, sequence: name.sequence, verdict },
            None => Heard::Corrupted,
        }
    }

    /// Notes a delivery; none if the message has not been sent yet.
    fn delivered(&mut self, sender: u32, sequence: u32) -> Option<Verdict> {
        let record = &mut self.clients[sender as usize];
        if sequence >= record.next_sequence {
            return None;
        }
        if sequence < record.expected || self.early.contains(&(sender, sequence)) {
            return Some(Verdict::Duplicated);
        }
        let overtaken = !self.early.is_empty()
            && self.early.range((sender, sequence)..=(sender, u32::MAX)).next().is_some();
        if sequence == record.expected {
            record.expected += 1;
            while !self.early.is_empty() && self.early.remove(&(sender, record.expected)) {
                record.expected += 1;
            }
        } else {
            self.early.insert((sender, sequence));
        }
        Some(if overtaken { Verdict::Reordered } else { Verdict::InOrder })
    }

    fn keep_partial(&mut self, client: u32, bytes: &[u8]) {
        let at = self.partials_free.pop().unwrap_or_else(|| {
            self.partials.push(Vec::new());
            self.partials.len() as u32
        });
        self.partials[at as usize - 1].extend_from_slice(bytes);
        self.clients[client as usize].partial = at;
    }

    fn free_partial(&mut self, client: u32) {
        let at = std::mem::take(&mut self.clients[client as usize].partial);
        if at != 0 {
            let partial = &mut self.partials[at as usize - 1];
            partial.clear();
            partial.shrink_to(4096);
            self.partials_free.push(at);
        }
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
    pub heard: bool,
    /// Sequences among which some may have been outstanding.
    pub sequences: std::ops::Range<u32>,
}

/// Room for the longest `user-<index>`.
const KEY_BYTES: usize = 16;

/// The routing key of a user.
fn key_of(user: u32, room: &mut [u8; KEY_BYTES]) -> &[u8] {
    use std::io::Write;
    let mut rest = room.as_mut_slice();
    write!(rest, "user-{user}").expect("there is room for ten digits");
    let left = rest.len();
    &room[..KEY_BYTES - left]
}

const fn ping_payload(client: u32, round: u16) -> [u8; 8] {
    ((client as u64) << 32 | 0x5eed << 16 | round as u64).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use roost_protocol::SessionRef;

    use super::*;

    fn open(clients: &mut Clients, client: u32) {
        let mut out = Vec::new();
        clients.connecting(client, 0);
        clients.hello(client, &mut out);
        let welcome = Welcome { heartbeat_interval_ms: 0, frame_bytes_max: 65_536, session: SessionRef(1) };
        let mut heard = Vec::new();
        clients.on_bytes(client, &welcome.encode(), &mut heard);
        assert_eq!(heard, [Heard::Welcome(welcome)]);
    }

    fn verdict(clients: &mut Clients, client: u32, frame: &[u8]) -> Verdict {
        let mut heard = Vec::new();
        clients.on_bytes(client, frame, &mut heard);
        match heard.as_slice() {
            [Heard::Message { verdict, .. }] => *verdict,
            other => panic!("{other:?}"),
        }
    }

    fn messages(clients: &mut Clients, client: u32, count: usize) -> Vec<Vec<u8>> {
        (0..count)
            .map(|_| {
                let mut frame = Vec::new();
                clients.message(client, 32, &mut frame);
                frame
            })
            .collect()
    }

    #[test]
    fn hello_names_the_user() {
        let mut clients = Clients::new(1, 4_000_000_000, 1, Exchange::Echo);
        let mut out = Vec::new();
        clients.connecting(0, 0);
        clients.hello(0, &mut out);
        assert_eq!(Hello::decode(&out[HEADER_BYTES..]).unwrap().key, b"user-4000000000");
    }

    #[test]
    fn order_duplicates_and_strangers_are_told_apart() {
        let mut clients = Clients::new(1, 100, 2, Exchange::Echo);
        open(&mut clients, 0);
        open(&mut clients, 1);
        let m = messages(&mut clients, 0, 4);
        assert_eq!(clients.outstanding(0), 4);
        assert_eq!(verdict(&mut clients, 0, &m[0]), Verdict::InOrder);
        assert_eq!(verdict(&mut clients, 0, &m[2]), Verdict::InOrder);
        assert_eq!(verdict(&mut clients, 0, &m[2]), Verdict::Duplicated);
        assert_eq!(clients.outstanding(0), 2);
        assert_eq!(verdict(&mut clients, 0, &m[1]), Verdict::Reordered);
        assert_eq!(verdict(&mut clients, 0, &m[1]), Verdict::Duplicated);
        assert_eq!(verdict(&mut clients, 1, &m[3]), Verdict::Misdelivered);
        assert_eq!(clients.outstanding(0), 1);
        assert_eq!(clients.closed(0).sequences, 3..4);
        assert_eq!(clients.outstanding(0), 0);
    }

    #[test]
    fn content_that_was_not_sent_is_corrupted() {
        let mut clients = Clients::new(1, 0, 1, Exchange::Echo);
        open(&mut clients, 0);
        let mut m = messages(&mut clients, 0, 1).remove(0);
        *m.last_mut().unwrap() ^= 1;
        let mut heard = Vec::new();
        clients.on_bytes(0, &m, &mut heard);
        // Rightly made, but its sequence has not been sent.
        let mut ahead = edge::Header { frame_type: FrameType::Message, payload_bytes: 32 }.encode().to_vec();
        payload::write(1, Name { sender: 0, sequence: 1 }, 32, &mut ahead);
        clients.on_bytes(0, &ahead, &mut heard);
        assert_eq!(heard, [Heard::Corrupted, Heard::Corrupted]);
    }

    #[test]
    fn frames_may_be_cut_anywhere() {
        let mut clients = Clients::new(1, 0, 1, Exchange::Echo);
        open(&mut clients, 0);
        let all: Vec<u8> = messages(&mut clients, 0, 3).concat();
        let mut heard = Vec::new();
        for byte in &all {
            clients.on_bytes(0, std::slice::from_ref(byte), &mut heard);
        }
        assert_eq!(heard.len(), 3);
        assert_eq!(clients.outstanding(0), 0);
        assert_eq!(clients.clients[0].partial, 0);
    }

    #[test]
    fn only_the_right_pong_answers() {
        let mut clients = Clients::new(1, 0, 1, Exchange::Echo);
        open(&mut clients, 0);
        let mut ping = Vec::new();
        assert!(clients.ping(0, 70_000, &mut ping));
        assert!(!clients.ping(0, 70_001, &mut ping));
        let mut heard = Vec::new();
        let mut pong = Vec::new();
        edge::encode_frame(FrameType::Pong, &[9; 8], &mut pong);
        edge::encode_frame(FrameType::Pong, &[], &mut pong);
        edge::encode_frame(FrameType::Pong, &ping[HEADER_BYTES..], &mut pong);
        clients.on_bytes(0, &pong, &mut heard);
        assert_eq!(heard, [Heard::Corrupted, Heard::UnsolicitedPong, Heard::Pong { first: true }]);
    }

    #[test]
    fn goaway_tells_whether_the_session_was_open() {
        let mut clients = Clients::new(1, 0, 1, Exchange::Echo);
        clients.connecting(0, 0);
        clients.hello(0, &mut Vec::new());
        let (mut frame, mut heard) = (Vec::new(), Vec::new());
        Goaway { reason: Reason::Full, retry_after_ms: 250, alternative: b"" }.encode(&mut frame);
        clients.on_bytes(0, &frame, &mut heard);
        assert_eq!(
            heard,
            [Heard::Goaway { reason: Reason::Full, retry_after_ms: 250, was: State::Greeting }]
        );
        heard.clear();
        clients.on_bytes(0, &[0xff], &mut heard);
        assert_eq!(heard, [Heard::Broken(Broken::Frame(FrameError::ReservedBits))]);
    }
}
