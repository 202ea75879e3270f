//! The seam between what the simulated clients say and how their bytes travel.
//!
//! A [`Network`] is made once, before the load threads start; each load thread then opens one
//! [`Transport`] for its share of the clients and is the only one to touch it. Two networks sit
//! behind this seam: kernel sockets over io_uring, and user-space TCP over TUN devices.
//!
//! # Contract
//!
//! * A client is a local index, `0..Share::clients`; it is *absent* until [`Transport::connect`].
//! * Calls queue work and return at once. What became of it arrives as [`Event`]s from
//!   [`Transport::poll`], the only call that may wait.
//! * `connect` is answered by exactly one of `Connected` and `ConnectFailed`. After `Connected`
//!   come any number of `Bytes` and exactly one `Closed`, whoever ended the connection.
//! * `ConnectFailed` and `Closed` are last words: by then the transport has released everything
//!   the client had, it is absent, and `connect` may be called again.
//! * Bytes are delivered in order and exactly once, in pieces cut anywhere.
//! * An absent or idle client costs no heap object, only its entry in flat tables; see
//!   [`Transport::user_bytes`].

use std::time::Duration;

/// Which clients one thread drives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The thread, from 0.
    pub thread: u32,
    /// The load threads in all.
    pub threads: u32,
    /// The number of the share's first client among all clients of this generator. Addresses and
    /// ports are chosen by this number, so that shares do not collide.
    pub first_client: u32,
    /// How many clients the share has.
    pub clients: u32,
}

/// A way for clients to reach the target, shared by all load threads.
pub trait Network: Send + Sync {
    /// Opens the transport of one share. Called on the thread that will drive it.
    ///
    /// # Errors
    /// One line that names the cause and its remedy.
    fn open(&self, share: Share) -> anyhow::Result<Box<dyn Transport>>;

    /// What the clients are, for the report: honest in one or two sentences (whose TCP stack,
    /// what it does not do, how many source addresses).
    fn description(&self) -> String;
}

/// How a client's connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By [`Transport::close`].
    Local,
    /// The peer ended its sending side (FIN); all its bytes were delivered before.
    PeerFin,
    /// The connection failed, with this errno (ECONNRESET, ETIMEDOUT, EPIPE, ...).
    Failed(i32),
}

/// How [`Transport::close`] ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// In order: what was queued is sent first, then FIN.
    Fin,
    /// By RST; what was queued is dropped.
    Reset,
}

/// What happened to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The connection is established (SYN answered; whether the server has *accepted* it is
    /// another matter).
    Connected {
        /// The client.
        client: u32,
    },
    /// No connection came about.
    ConnectFailed {
        /// The client.
        client: u32,
        /// Why, as a positive errno.
        errno: i32,
    },
    /// These bytes arrived.
    Bytes {
        /// The client.
        client: u32,
        /// At least one byte.
        bytes: &'a [u8],
    },
    /// The connection is over.
    Closed {
        /// The client.
        client: u32,
        /// How.
        how: Ended,
    },
}

/// What one transport has and has done; single numbers, cheap to take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Clients between `connect` and its answer.
    pub connecting: u64,
    /// Clients between `Connected` and `Closed`.
    pub connected: u64,
    /// Bytes handed to `send` that have not yet left (for tun: have not been acknowledged).
    pub unsent_bytes: u64,
    /// More, by name, for the report (retransmits, ring entries, wake-ups, ...): counters that
    /// only grow.
    pub details: Vec<(&'static str, u64)>,
}

/// The clients of one share and their connections.
pub trait Transport {
    /// Begins to connect a client, which must be absent.
    fn connect(&mut self, client: u32);

    /// Sends bytes on a connected client, after whatever was sent before. The transport copies
    /// them and keeps what the connection does not take yet. Ignored after `close` and for a
    /// client whose `Closed` is still on its way.
    fn send(&mut self, client: u32, bytes: &[u8]);

    /// Ends a connected client; its `Closed` follows. Ignored if it is already ending.
    fn close(&mut self, client: u32, how: Close);

    /// Stops or resumes taking bytes from a connected client: what arrives meanwhile stays in
    /// its receive window, which then closes. For slow and stuck consumers.
    fn set_reading(&mut self, client: u32, reading: bool);

    /// Carries out what was queued, waits up to `wait` for the first event, and appends what
    /// there is to `events`: a bounded number, so that a caller with a schedule gets its turn.
    ///
    /// # Errors
    /// Only for what ends the run (the ring or the device failed), in one line.
    fn poll(&mut self, wait: Duration, events: &mut Events) -> anyhow::Result<()>;

    /// Counts of this share.
    fn counts(&self) -> Counts;

    /// User-space bytes that the transport holds per client, tables and pools included, as far
    /// as it knows them.
    fn user_bytes(&self) -> u64;
}

/// A batch of events and the bytes they speak of; filled by [`Transport::poll`].
///
/// Bytes are copied in, so that the caller can answer (`send`, `close`) while it walks them.
#[derive(Debug, Default)]
pub struct Events {
    entries: Vec<Entry>,
    bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Entry {
    Connected(u32),
    ConnectFailed(u32, i32),
    Bytes(u32, usize, usize),
    Closed(u32, Ended),
}

impl Events {
    /// An empty batch.
    pub const fn new() -> Self {
        Self { entries: Vec::new(), bytes: Vec::new() }
    }

    /// Appends an event. Bytes are copied.
    pub fn push(&mut self, event: Event<'_>) {
        self.entries.push(match event {
            Event::Connected { client } => Entry::Connected(client),
            Event::ConnectFailed { client, errno } => Entry::ConnectFailed(client, errno),
            Event::Closed { client, how } => Entry::Closed(client, how),
            Event::Bytes { client, bytes } => {
                let start = self.bytes.len();
                self.bytes.extend_from_slice(bytes);
                Entry::Bytes(client, start, self.bytes.len())
            }
        });
    }

    /// The events, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = Event<'_>> {
        self.entries.iter().map(|entry| match *entry {
            Entry::Connected(client) => Event::Connected { client },
            Entry::ConnectFailed(client, errno) => Event::ConnectFailed { client, errno },
            Entry::Closed(client, how) => Event::Closed { client, how },
            Entry::Bytes(client, start, end) => Event::Bytes { client, bytes: &self.bytes[start..end] },
        })
    }

    /// How many events there are.
    pub const fn len(&self) -> usize {
        self.entries.len()
    }

    /// True without events.
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Forgets all events, keeps the memory.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.bytes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_keep_their_order_and_their_own_bytes() {
        let mut events = Events::new();
        let given = [
            Event::Connected { client: 1 },
            Event::Bytes { client: 1, bytes: b"ab" },
            Event::Bytes { client: 2, bytes: b"c" },
            Event::Closed { client: 2, how: Ended::Failed(104) },
            Event::ConnectFailed { client: 3, errno: 111 },
        ];
        given.iter().for_each(|&event| events.push(event));
        assert_eq!(events.iter().collect::<Vec<_>>(), given);
        assert_eq!(events.len(), 5);
        events.clear();
        assert!(events.is_empty());
    }
}
