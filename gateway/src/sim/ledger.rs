//! The shadow model of the promise to both ends: which message was sent, handled and answered,
//! and how often. Clients and workers write into it as they go; what contradicts the promise is
//! a violation.
//!
//! A *tenure* is the time a connection spends with one worker session, from OPEN or REOPEN on.
//! Workers number what they send within a tenure, so that a client can tell loss, repetition,
//! reordering and a fenced worker's late frames.

use std::collections::{BTreeMap, BTreeSet};

use roost_protocol::{SessionRef, link::Ending};

/// The first bytes of a message of a client: kind, client, number.
pub const UP_BYTES: usize = 9;
/// The first bytes of a message of a worker: kind, tenure, order, re-sent, client, number.
pub const DOWN_BYTES: usize = 18;

/// What a worker's message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Down {
    /// The answer to a message.
    Echo,
    /// For one client, unasked.
    Push,
    /// For several clients; numbered by the sender, not within tenures.
    Multicast,
    /// For all clients; numbered by the sender, not within tenures.
    Broadcast,
}

/// The head of a worker's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DownHead {
    /// What it is.
    pub kind: Down,
    /// The tenure, or the worker's session for multicasts and broadcasts.
    pub tenure: u32,
    /// Counts within the tenure, or the sender's multicasts or broadcasts.
    pub order: u32,
    /// The message answered had been marked re-sent.
    pub resent: bool,
    /// Whom it is for.
    pub client: u32,
    /// The number of the message answered.
    pub number: u32,
}

impl DownHead {
    /// A whole payload with this head, `len` bytes long at least.
    pub fn encode(&self, len: usize) -> Vec<u8> {
        let kind = match self.kind {
            Down::Echo => b'E',
            Down::Push => b'P',
            Down::Multicast => b'M',
            Down::Broadcast => b'B',
        };
        let mut out = vec![kind];
        out.extend(self.tenure.to_be_bytes());
        out.extend(self.order.to_be_bytes());
        out.push(u8::from(self.resent));
        out.extend(self.client.to_be_bytes());
        out.extend(self.number.to_be_bytes());
        pad(&mut out, len);
        out
    }

    /// Reads a payload; none if it is not what any worker wrote.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let head = payload.first_chunk::<DOWN_BYTES>()?;
        let u32_at = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let kind = match head[0] {
            b'E' => Down::Echo,
            b'P' => Down::Push,
            b'M' => Down::Multicast,
            b'B' => Down::Broadcast,
            _ => return None,
        };
        let down = Self {
            kind,
            tenure: u32_at(1),
            order: u32_at(5),
            resent: head[9] == 1,
            client: u32_at(10),
            number: u32_at(14),
        };
        is_padded(payload, DOWN_BYTES).then_some(down)
    }
}

/// The payload of message `number` of a client, `len` bytes long at least.
pub fn encode_up(client: u32, number: u32, len: usize) -> Vec<u8> {
    let mut out = vec![b'U'];
    out.extend(client.to_be_bytes());
    out.extend(number.to_be_bytes());
    pad(&mut out, len);
    out
}

/// Client and number of a client's message; none if no client wrote that.
pub fn decode_up(payload: &[u8]) -> Option<(u32, u32)> {
    let head = payload.first_chunk::<UP_BYTES>()?;
    let client = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    let number = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    (head[0] == b'U' && is_padded(payload, UP_BYTES)).then_some((client, number))
}

/// What a worker that has words for a client adds to REJECT and CLOSE: they tell whom they are for.
pub fn words_for(client: u32) -> (u16, String) {
    (4000 + (client % 1_000) as u16, format!("client {client} of many"))
}

/// REJECT's or CLOSE's payload, with words or without.
pub fn encode_ending(client: u32, retry_after_ms: u32, with_words: bool) -> Vec<u8> {
    let (code, text) = words_for(client);
    let mut ending = Ending::after_ms(retry_after_ms);
    if with_words {
        (ending.code, ending.text) = (code, &text);
    }
    let mut out = Vec::new();
    ending.encode_payload(&mut out);
    out
}

/// Fills up with bytes that depend on the head and the position, so that any mix-up shows.
fn pad(out: &mut Vec<u8>, len: usize) {
    let seed = checksum(out);
    for at in out.len()..len {
        out.push(seed.wrapping_add(at as u8).wrapping_mul(31));
    }
}

fn is_padded(payload: &[u8], head: usize) -> bool {
    let seed = checksum(&payload[..head]);
    let expected = |at: usize| seed.wrapping_add(at as u8).wrapping_mul(31);
    payload.iter().enumerate().skip(head).all(|(at, &byte)| byte == expected(at))
}

fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(17u8, |sum, byte| sum.wrapping_mul(37).wrapping_add(*byte))
}

/// What is known of one client's messages.
#[derive(Debug, Default)]
struct Record {
    /// Numbers that a worker got without the mark of a re-sent frame.
    unmarked: BTreeSet<u32>,
    /// One more than the greatest number that any worker has handled.
    handled_end: u32,
    /// The tenure in which the client is spoken to, and the order of the next message in it.
    down: (u32, u32),
    /// One more than the greatest number answered.
    answered_end: u32,
    /// The multicasts and broadcasts seen, by the sender's session.
    fanned: BTreeMap<(u8, u32), u32>,
}

/// The books of one run.
#[derive(Debug, Default)]
pub struct Ledger {
    /// What contradicted the promise.
    pub violations: Vec<String>,
    /// Messages handled by workers, repetitions included.
    pub handled: u64,
    /// Of those, marked re-sent.
    pub handled_resent: u64,
    /// Messages of workers that arrived at clients.
    pub delivered: u64,
    /// The strictest limit on a client's messages per second that was ever in force; none: no limit.
    messages_per_s_min: Option<u32>,
    /// The same for PINGs.
    control_per_s_min: Option<u32>,
    records: BTreeMap<u32, Record>,
    /// The listener that each client comes to.
    listeners: BTreeMap<u32, u16>,
    /// The routing hash that a worker accepted a connection with, by the reference that it gave: that of
    /// OPEN, or another one.
    hashes: BTreeMap<u64, u64>,
    tenures: u32,
    sessions: u32,
}

/// One connection with one worker session, as the worker sees it.
#[derive(Clone, Copy, Debug)]
pub struct Tenure {
    /// Never reused; later tenures have greater numbers.
    pub id: u32,
    /// Whose.
    pub client: u32,
    /// The order of the next message of the worker.
    pub order: u32,
    /// The number of the next message of the client; none until the first.
    next: Option<u32>,
    /// Begun by OPEN: the first message is number 0.
    fresh: bool,
}

impl Ledger {
    /// Notes limits on messages and PINGs per second that are in force from now on; 0: none.
    pub fn on_rate_limit(&mut self, messages_per_s_max: u32, control_frames_per_s_max: u32) {
        for (known, limit) in [
            (&mut self.messages_per_s_min, messages_per_s_max),
            (&mut self.control_per_s_min, control_frames_per_s_max),
        ] {
            if limit > 0 {
                *known = Some(known.unwrap_or(u32::MAX).min(limit));
            }
        }
    }

    /// A client that has sent so many messages and PINGs in all hears that it sent too many per second.
    pub fn on_rate_limited(&mut self, client: u32, messages: u32, pings: u32) {
        let within =
            |sent: u32, per_s_min: Option<u32>| per_s_min.is_none_or(|per_s| sent <= per_s.saturating_mul(2));
        if within(messages, self.messages_per_s_min) && within(pings, self.control_per_s_min) {
            self.violation(format!(
                "invariant rate-limit: client {client} is cut off after {messages} messages and {pings} PINGs"
            ));
        }
    }

    /// Notes the listener that a client comes to.
    pub fn on_client(&mut self, client: u32, listener: u16) {
        self.listeners.insert(client, listener);
    }

    /// A connection comes to a worker by OPEN (`fresh`) or REOPEN, either of which names the listener.
    pub fn begin_tenure(&mut self, client: u32, fresh: bool, listener: u16) -> Tenure {
        self.tenures += 1;
        if let Some(&known) = self.listeners.get(&client)
            && known != listener
        {
            self.violation(format!(
                "invariant link-protocol: client {client} came to listener {known}, its worker hears {listener}"
            ));
        }
        Tenure { id: self.tenures, client, order: 0, next: None, fresh }
    }

    /// A worker accepts a client, whose routing hash is this one from now on. Gives the reference of the
    /// session, by which the client, the gateway and other workers must know that hash.
    pub fn on_accept(&mut self, client: u32, routing_hash: u64) -> SessionRef {
        let session = (self.hashes.len() as u64) << 32 | u64::from(client);
        self.hashes.insert(session, routing_hash);
        SessionRef(session)
    }

    /// The routing hash that a session was accepted with.
    pub fn hash_of(&self, session: u64) -> Option<u64> {
        self.hashes.get(&session).copied()
    }

    /// Numbers a worker's session.
    pub fn begin_session(&mut self) -> u32 {
        self.sessions += 1;
        self.sessions
    }

    /// Notes a violation.
    pub fn violation(&mut self, what: String) {
        self.violations.push(what);
    }

    /// A worker handles message `number` of a tenure's client.
    pub fn on_handled(&mut self, tenure: &mut Tenure, number: u32, resent: bool) {
        self.handled += 1;
        self.handled_resent += u64::from(resent);
        let client = tenure.client;
        let record = self.records.entry(client).or_default();
        let mut broken = Vec::new();
        match tenure.next {
            Some(next) if next != number => {
                broken.push(format!("in-order: client {client}: message {number} where {next} was next"));
            }
            None if tenure.fresh && number != 0 => {
                broken.push(format!("in-order: client {client}: the first message is {number}, not 0"));
            }
            None if number > record.handled_end => broken.push(format!(
                "at-least-once: client {client}: messages {}..{number} reached no worker",
                record.handled_end
            )),
            _ => {}
        }
        if !resent && !record.unmarked.insert(number) {
            broken.push(format!("exactly-once: client {client}: message {number} came again, unmarked"));
        }
        record.handled_end = record.handled_end.max(number + 1);
        tenure.next = Some(number + 1);
        self.violations.extend(broken.into_iter().map(|what| format!("invariant {what}")));
    }

    /// A client reads a worker's message.
    pub fn on_delivered(&mut self, client: u32, head: &DownHead) {
        self.delivered += 1;
        let record = self.records.entry(client).or_default();
        let mut broken = Vec::new();
        match head.kind {
            Down::Echo | Down::Push => {
                if head.client != client {
                    broken.push(format!("right-client: client {client} reads what is for {}", head.client));
                }
                let (tenure, order) = record.down;
                let expected = if head.tenure == tenure { order } else { 0 };
                if head.tenure < tenure {
                    broken.push(format!(
                        "fencing: client {client} hears tenure {} after {tenure}",
                        head.tenure
                    ));
                } else if head.order < expected {
                    broken
                        .push(format!("exactly-once: client {client}: {head:?} again, {expected} was next"));
                } else if head.order > expected {
                    broken.push(format!("in-order: client {client}: {head:?} where {expected} was next"));
                }
                record.down = (head.tenure, head.order + 1);
            }
            Down::Multicast | Down::Broadcast => {
                let next = record.fanned.entry((head.kind as u8, head.tenure)).or_default();
                if head.order < *next {
                    broken.push(format!("exactly-once: client {client}: {head:?} again, {next} was next"));
                }
                *next = head.order + 1;
            }
        }
        if head.kind == Down::Echo {
            if head.number > record.answered_end {
                broken.push(format!(
                    "at-least-once: client {client}: the answer to {} comes before that to {}",
                    head.number, record.answered_end
                ));
            }
            if head.number < record.answered_end && !head.resent {
                broken.push(format!("exactly-once: client {client}: a second answer to {}", head.number));
            }
            record.answered_end = record.answered_end.max(head.number + 1);
        }
        self.violations.extend(broken.into_iter().map(|what| format!("invariant {what}")));
    }

    /// One more than the greatest number that was answered to this client.
    pub fn answered_end(&self, client: u32) -> u32 {
        self.records.get(&client).map_or(0, |record| record.answered_end)
    }
}
