//! What a client makes of the bytes it receives.

use roost_protocol::{
    Reason,
    edge::{self, FrameError, FrameType, Goaway, HEADER_BYTES, Split, Welcome},
};

use super::{ANSWERED, Clients, PINGED, State, ping_payload};
use crate::{
    exchange::{Exchange, Parsed, Receipt},
    payload::Name,
};

/// What a client has received.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Received {
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
    /// What became of a message of this client.
    Receipt {
        /// Its number.
        sequence: u32,
        /// What.
        receipt: Receipt,
        /// The message was outstanding and is no longer: nobody will deliver it.
        settled: bool,
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
    /// Again, and the worker has said that this may be.
    Repeated,
    /// To somebody it was not meant for.
    Misdelivered,
}

impl Clients {
    /// Takes bytes that arrived and appends what they say.
    pub fn on_bytes(&mut self, client: u32, mut bytes: &[u8], received: &mut Vec<Received>) {
        let at = self.clients[client as usize].partial;
        if at == 0 {
            if let Err(error) = self.on_frames(client, &mut bytes, received) {
                received.push(Received::Broken(Broken::Frame(error)));
            } else if !bytes.is_empty() {
                self.keep_partial(client, bytes);
            }
            return;
        }
        let mut joined = std::mem::take(&mut self.partials[at as usize - 1]);
        joined.extend_from_slice(bytes);
        let mut rest = joined.as_slice();
        let result = self.on_frames(client, &mut rest, received);
        let taken = joined.len() - rest.len();
        joined.drain(..taken);
        let empty = joined.is_empty();
        self.partials[at as usize - 1] = joined;
        if let Err(error) = result {
            received.push(Received::Broken(Broken::Frame(error)));
        } else if empty {
            self.free_partial(client);
        }
    }

    fn on_frames(
        &mut self,
        client: u32,
        bytes: &mut &[u8],
        received: &mut Vec<Received>,
    ) -> Result<(), FrameError> {
        while !bytes.is_empty() {
            match edge::split(bytes, edge::FRAME_BYTES_LIMIT)? {
                Split::Frame { frame_type, frame } => {
                    *bytes = &bytes[frame.len()..];
                    received.push(self.on_frame(client, frame_type, &frame[HEADER_BYTES..])?);
                }
                Split::Need { .. } => break,
            }
        }
        Ok(())
    }

    fn on_frame(
        &mut self,
        client: u32,
        frame_type: FrameType,
        payload: &[u8],
    ) -> Result<Received, FrameError> {
        let record = &mut self.clients[client as usize];
        Ok(match (frame_type, record.state) {
            (FrameType::Welcome, State::Greeting) => {
                let welcome = Welcome::decode(payload)?;
                record.state = State::Open;
                if let Exchange::Fanout(fanout) = &self.exchange {
                    record.expected = fanout.sent();
                }
                Received::Welcome(welcome)
            }
            (FrameType::Message, State::Open | State::Ending) => self.on_message(client, payload),
            (FrameType::Pong, State::Open | State::Ending) => {
                if record.flags & PINGED != 0 && payload == ping_payload(client, record.ping_round) {
                    let first = record.flags & ANSWERED == 0;
                    record.flags = record.flags & !PINGED | ANSWERED;
                    Received::Pong { first }
                } else if payload.is_empty() {
                    Received::UnsolicitedPong
                } else {
                    Received::Corrupted
                }
            }
            (FrameType::Ping, State::Open | State::Ending) => {
                let mut echoed = [0; 8];
                echoed[..payload.len()].copy_from_slice(payload);
                Received::Ping(echoed, payload.len() as u8)
            }
            (FrameType::Goaway, State::Greeting | State::Open | State::Ending) => {
                let goaway = Goaway::decode(payload)?;
                let was = std::mem::replace(&mut record.state, State::Ending);
                Received::Goaway { reason: goaway.reason, retry_after_ms: goaway.retry_after_ms, was }
            }
            _ => Received::Broken(Broken::Unexpected(frame_type)),
        })
    }

    fn on_message(&mut self, client: u32, message: &[u8]) -> Received {
        match self.exchange.unwrap(self.seed, message) {
            Parsed::Malformed => Received::Corrupted,
            Parsed::Content { name, repeated } => self.on_content(client, name, repeated),
            Parsed::Receipt { sequence, receipt } => {
                let settled = receipt != Receipt::Delivered
                    && matches!(
                        self.delivered(client, sequence),
                        Some(Verdict::InOrder | Verdict::Reordered)
                    );
                Received::Receipt { sequence, receipt, settled }
            }
        }
    }

    fn on_content(&mut self, client: u32, name: Name, repeated: bool) -> Received {
        let Name { sender, sequence } = name;
        let local = sender.wrapping_sub(self.first_user);
        // Whether it is for this client, and whose record counts it.
        let (meant, counted_by) = match &self.exchange {
            Exchange::Bare => (false, client),
            Exchange::Echo => (local == client, client),
            Exchange::Route => (local < self.len() && self.partner(local) == client, local),
            Exchange::Fanout(fanout) => (sender == fanout.sender, client),
        };
        if !meant {
            return Received::Message { sender: local, sequence, verdict: Verdict::Misdelivered };
        }
        match self.delivered(counted_by, sequence) {
            None => Received::Corrupted,
            Some(Verdict::Duplicated) if repeated => {
                Received::Message { sender: local, sequence, verdict: Verdict::Repeated }
            }
            Some(verdict) => Received::Message { sender: local, sequence, verdict },
        }
    }

    /// Notes a delivery; none if the message has not been sent yet.
    fn delivered(&mut self, counted_by: u32, sequence: u32) -> Option<Verdict> {
        let record = &mut self.clients[counted_by as usize];
        let sent = match &self.exchange {
            Exchange::Fanout(fanout) => fanout.sent(),
            _ => record.next_sequence,
        };
        if sequence >= sent {
            return None;
        }
        if sequence < record.expected || self.early.contains(&(counted_by, sequence)) {
            return Some(Verdict::Duplicated);
        }
        let beyond = (counted_by, sequence)..=(counted_by, u32::MAX);
        let overtaken = !self.early.is_empty() && self.early.range(beyond).next().is_some();
        if sequence == record.expected {
            record.expected += 1;
            while !self.early.is_empty() && self.early.remove(&(counted_by, record.expected)) {
                record.expected += 1;
            }
        } else {
            self.early.insert((counted_by, sequence));
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

    pub(super) fn free_partial(&mut self, client: u32) {
        let at = std::mem::take(&mut self.clients[client as usize].partial);
        if at != 0 {
            let partial = &mut self.partials[at as usize - 1];
            partial.clear();
            partial.shrink_to(4096);
            self.partials_free.push(at);
        }
    }
}
