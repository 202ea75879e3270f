//! How messages travel between clients: what a client puts around its content, and what a
//! MESSAGE that arrives says. The layouts are those of the reference worker's handlers
//! (`router/README.md`).

use std::sync::{
    Arc,
    atomic::{
        AtomicU32, AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use roost_protocol::hash::routing_hash;

use crate::payload::{self, Name};

/// How clients exchange messages.
#[derive(Clone, Debug)]
pub enum Exchange {
    /// No protocol at all: a connection counts as a session.
    Bare,
    /// Each message comes back to its sender (handler `echo`, and `fanout` for unmarked ones).
    Echo,
    /// Users of a pair send to each other by key (handler `route`).
    Route,
    /// The first user's messages go to many (handler `fanout`).
    Fanout(Arc<Fanout>),
}

/// What all load threads know of the messages to many.
#[derive(Debug)]
pub struct Fanout {
    /// The user that sends them.
    pub sender: u32,
    /// Connections that each goes to; none: all.
    pub receivers: Option<u32>,
    sent: AtomicU32,
    intended_ns: Vec<AtomicU64>,
}

impl Fanout {
    /// For at most this many timed messages.
    pub fn new(sender: u32, receivers: Option<u32>, messages_max: usize) -> Self {
        Self {
            sender,
            receivers,
            sent: AtomicU32::new(0),
            intended_ns: (0..messages_max).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Messages sent so far.
    pub fn sent(&self) -> u32 {
        self.sent.load(Acquire)
    }

    /// Notes a send; only the sender's thread does.
    pub fn note_send(&self, sequence: u32, intended_ns: u64) {
        if let Some(cell) = self.intended_ns.get(sequence as usize) {
            cell.store(intended_ns, Relaxed);
        }
        self.sent.store(sequence + 1, Release);
    }

    /// When a message was meant to be sent.
    pub fn intended_ns(&self, sequence: u32) -> Option<u64> {
        self.intended_ns.get(sequence as usize).map(|cell| cell.load(Relaxed))
    }
}

/// What a MESSAGE says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Content of a user.
    Content {
        /// Whose.
        name: Name,
        /// The worker says that it may have been delivered before.
        repeated: bool,
    },
    /// The worker says what became of this user's message.
    Receipt {
        /// Its sequence.
        sequence: u32,
        /// What became of it.
        receipt: Receipt,
    },
    /// Nothing that anybody of this run would send.
    Malformed,
}

/// What became of a routed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// It is on its way to the receiver.
    Delivered,
    /// The receiver is not connected.
    Offline,
    /// The way is congested, or the message could not be passed on.
    Refused,
}

/// Room for the longest `user-<index>`.
pub const KEY_BYTES: usize = 16;

/// The routing key of a user.
pub fn key_of(user: u32, room: &mut [u8; KEY_BYTES]) -> &[u8] {
    use std::io::Write;
    let mut rest = room.as_mut_slice();
    write!(rest, "user-{user}").expect("there is room for ten digits");
    let left = rest.len();
    &room[..KEY_BYTES - left]
}

const ROUTE_SEND: u8 = 1;
const ROUTE_DELIVER: u8 = 2;
const ROUTE_RECEIPT: u8 = 3;
const ROUTE_REPEATED: u8 = 1;
const FANOUT_ALL: u8 = b'A';
const FANOUT_SOME: u8 = b'M';

impl Exchange {
    /// Appends what a MESSAGE with this content carries before the content; `receiver` is the
    /// user it is for.
    pub fn wrap(&self, name: Name, receiver: u32, out: &mut Vec<u8>) {
        match self {
            Self::Bare | Self::Echo => {}
            Self::Route => {
                let mut room = [0; KEY_BYTES];
                let key = key_of(receiver, &mut room);
                out.push(ROUTE_SEND);
                out.extend(name.sequence.to_be_bytes());
                out.extend((key.len() as u16).to_be_bytes());
                out.extend(key);
            }
            Self::Fanout(fanout) => match fanout.receivers {
                None => out.push(FANOUT_ALL),
                Some(receivers) => {
                    out.push(FANOUT_SOME);
                    out.extend(receivers.to_be_bytes());
                }
            },
        }
    }

    /// What a MESSAGE says.
    pub fn unwrap(&self, seed: u64, message: &[u8]) -> Parsed {
        match self {
            Self::Bare | Self::Echo | Self::Fanout(_) => content(seed, message, false),
            Self::Route => unwrap_route(seed, message).unwrap_or(Parsed::Malformed),
        }
    }
}

fn content(seed: u64, content: &[u8], repeated: bool) -> Parsed {
    payload::read(seed, content).map_or(Parsed::Malformed, |name| Parsed::Content { name, repeated })
}

fn unwrap_route(seed: u64, message: &[u8]) -> Option<Parsed> {
    let (&[op, flags], rest) = message.split_first_chunk()?;
    let (&id, rest) = rest.split_first_chunk()?;
    let id = u32::from_be_bytes(id);
    match op {
        ROUTE_DELIVER => {
            let (&sender, body) = rest.split_first_chunk()?;
            let parsed = content(seed, body, flags & ROUTE_REPEATED != 0);
            let Parsed::Content { name, .. } = parsed else { return None };
            // The worker's own words must fit the content.
            let mut room = [0; KEY_BYTES];
            let truthful = name.sequence == id
                && routing_hash(key_of(name.sender, &mut room)) == u64::from_be_bytes(sender);
            truthful.then_some(parsed)
        }
        ROUTE_RECEIPT if rest.is_empty() => {
            let receipt = match flags {
                0 => Receipt::Delivered,
                1 => Receipt::Offline,
                _ => Receipt::Refused,
            };
            Some(Parsed::Receipt { sequence: id, receipt })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: Name = Name { sender: 7, sequence: 9 };

    fn body() -> Vec<u8> {
        let mut body = Vec::new();
        payload::write(1, NAME, 20, &mut body);
        body
    }

    #[test]
    fn a_delivery_must_name_its_sender_rightly() {
        let mut message = vec![ROUTE_DELIVER, ROUTE_REPEATED];
        message.extend(9_u32.to_be_bytes());
        message.extend(routing_hash(b"user-7").to_be_bytes());
        message.extend(body());
        let parsed = Exchange::Route.unwrap(1, &message);
        assert_eq!(parsed, Parsed::Content { name: NAME, repeated: true });
        message[8] ^= 1;
        assert_eq!(Exchange::Route.unwrap(1, &message), Parsed::Malformed);
    }

    #[test]
    fn receipts_are_understood() {
        let receipt = |status| Exchange::Route.unwrap(1, &[ROUTE_RECEIPT, status, 0, 0, 0, 9]);
        assert_eq!(receipt(1), Parsed::Receipt { sequence: 9, receipt: Receipt::Offline });
        assert_eq!(receipt(0), Parsed::Receipt { sequence: 9, receipt: Receipt::Delivered });
        assert_eq!(receipt(4), Parsed::Receipt { sequence: 9, receipt: Receipt::Refused });
        assert_eq!(Exchange::Route.unwrap(1, &[ROUTE_RECEIPT, 0, 0]), Parsed::Malformed);
    }

    #[test]
    fn a_message_to_a_user_names_the_key() {
        let mut out = Vec::new();
        Exchange::Route.wrap(NAME, 12, &mut out);
        assert_eq!(out, [&[1, 0, 0, 0, 9, 0, 7][..], b"user-12"].concat());
    }

    #[test]
    fn messages_to_many_are_marked() {
        let (mut all, mut some) = (Vec::new(), Vec::new());
        Exchange::Fanout(Arc::new(Fanout::new(7, None, 1))).wrap(NAME, 0, &mut all);
        Exchange::Fanout(Arc::new(Fanout::new(7, Some(3), 1))).wrap(NAME, 0, &mut some);
        assert_eq!((all.as_slice(), some.as_slice()), (&b"A"[..], &b"M\0\0\0\x03"[..]));
    }
}
