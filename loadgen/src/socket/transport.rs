//! One share of clients on kernel sockets: a byte of state each, and a slot of the ring bank.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use anyhow::Context;

use roost_ring::op::{Interest, poll_bits};

use super::{
    SocketNetwork,
    sockets::{Completion, Kind, RECEIVE_BYTES, Sockets, SocketsConfig},
};
use crate::transport::{Close, Counts, Ended, Event, Events, Share, Transport};

/// Clients of one share over the rings of one thread.
///
/// An idle client is parked on a one-shot poll: an armed receive would pin 600 bytes more of
/// kernel memory. A wake-up leads to receives that do not wait, into a small shared pool.
pub struct SocketTransport {
    sockets: Sockets,
    sources: Option<super::Sources>,
    first_client: u32,
    /// Per client: what it has in the kernel and where it stands; the bits below.
    states: Vec<u16>,
    /// Bytes that wait for the send before them.
    backlogs: HashMap<u32, Vec<u8>>,
    /// How the connections that are being taken down ended.
    endings: HashMap<u32, Ending>,
    /// Readable, but no block was free.
    hungry: VecDeque<u32>,
    completions: Vec<Completion>,
    /// Receives submitted whose completions are still out.
    receiving: usize,
    counts: Counts,
}

/// How an event will tell of the end.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Connect(i32),
    Closed(Ended),
}

/// A connect is in the kernel.
const CONNECT: u16 = 1;
/// A poll is in the kernel.
const POLL: u16 = 1 << 1;
/// A receive is in the kernel, or waits for a block.
const RECV: u16 = 1 << 2;
/// A send is in the kernel.
const SEND: u16 = 1 << 3;
/// The close is in the kernel; nothing else is.
const CLOSE: u16 = 1 << 4;
/// Established, and `Closed` has not been told.
const OPEN: u16 = 1 << 5;
/// Being taken down: see `endings`.
const CLOSING: u16 = 1 << 6;
/// What waits in the kernel has been cancelled.
const CANCELLED: u16 = 1 << 7;
/// Not reading.
const PAUSED: u16 = 1 << 8;
/// A send has failed: nothing more goes out, but what the peer said before it left is read.
const MUTE: u16 = 1 << 9;
/// Takes down by RST.
const RESET: u16 = 1 << 10;
/// Ops in the kernel that a close has to wait for.
const OPS: u16 = CONNECT | POLL | RECV | SEND;

/// Receives under way at a time.
const RECEIVE_BLOCKS: u32 = 256;

impl SocketTransport {
    /// Opens the share's rings.
    pub(super) fn open(network: &SocketNetwork, share: Share) -> anyhow::Result<Self> {
        let config = SocketsConfig {
            slots: share.clients,
            slots_per_ring: network.ring_slots_max,
            target: network.target,
            listener: None,
            receive_blocks: RECEIVE_BLOCKS,
        };
        let sockets = Sockets::open(&network.features, config).context("setting up the first ring")?;
        Ok(Self {
            sockets,
            sources: network.sources,
            first_client: share.first_client,
            states: vec![0; share.clients as usize],
            backlogs: HashMap::new(),
            endings: HashMap::new(),
            hungry: VecDeque::new(),
            completions: Vec::new(),
            receiving: 0,
            counts: Counts::default(),
        })
    }

    fn has(&self, client: u32, bits: u16) -> bool {
        self.states[client as usize] & bits != 0
    }

    fn set(&mut self, client: u32, bits: u16) {
        self.states[client as usize] |= bits;
    }

    fn clear(&mut self, client: u32, bits: u16) {
        self.states[client as usize] &= !bits;
    }

    fn on_completion(&mut self, completion: &Completion, events: &mut Events) {
        let Completion { slot: client, kind, result, .. } = *completion;
        match kind {
            Kind::Connect => self.on_connect(client, result, events),
            Kind::Poll => self.on_poll(client, result),
            Kind::Receive => self.on_receive(completion, events),
            Kind::Send => self.on_send(client, result, completion.send_bytes),
            Kind::Close => self.on_close(client, events),
            Kind::Accept | Kind::Cancel => unreachable!("not asked for here"),
        }
    }

    fn on_connect(&mut self, client: u32, result: i32, events: &mut Events) {
        self.clear(client, CONNECT);
        self.counts.connecting -= 1;
        if result < 0 {
            self.take_down(client, Ending::Connect(-result));
            return;
        }
        self.set(client, OPEN);
        self.counts.connected += 1;
        events.push(Event::Connected { client });
        self.park(client);
    }

    fn on_poll(&mut self, client: u32, result: i32) {
        self.clear(client, POLL | CANCELLED);
        if self.has(client, CLOSING) {
            self.settle(client);
        } else if result < 0
            || (self.has(client, PAUSED)
                && result & (poll_bits::ERR | poll_bits::HUP | poll_bits::RDHUP) == 0)
        {
            // Cancelled in order to wait for something else, or woke for bytes while paused.
            self.park(client);
        } else {
            self.receive(client);
        }
    }

    fn on_receive(&mut self, completion: &Completion, events: &mut Events) {
        let Completion { slot: client, result, .. } = *completion;
        self.receiving -= 1;
        self.clear(client, RECV);
        let closing = self.has(client, CLOSING);
        self.sockets.take_received(completion, |bytes| {
            if !closing && !bytes.is_empty() {
                events.push(Event::Bytes { client, bytes });
            }
        });
        if closing {
            self.settle(client);
        } else if result == 0 {
            self.take_down(client, Ending::Closed(Ended::PeerFin));
        } else if result > 0 {
            // A full block suggests that there is more.
            if result.unsigned_abs() == RECEIVE_BYTES && !self.has(client, PAUSED) {
                self.receive(client);
            } else {
                self.park(client);
            }
        } else if -result == libc::EAGAIN || -result == libc::EINTR {
            self.park(client);
        } else {
            self.take_down(client, Ending::Closed(Ended::Failed(-result)));
        }
    }

    fn on_send(&mut self, client: u32, result: i32, bytes: u32) {
        self.clear(client, SEND);
        self.counts.unsent_bytes -= u64::from(bytes);
        if result < 0 {
            // Perhaps the peer said why before it left: let the reading side find the end.
            self.set(client, MUTE);
            self.drop_backlog(client);
        }
        if !self.has(client, MUTE | RESET)
            && let Some(backlog) = self.backlogs.get_mut(&client)
        {
            let taken = self.sockets.send(client, backlog);
            backlog.drain(..taken);
            if backlog.is_empty() {
                self.backlogs.remove(&client);
            }
            self.set(client, SEND);
        }
        if self.has(client, CLOSING) {
            self.settle(client);
        } else if self.has(client, MUTE) && self.has(client, PAUSED) {
            self.take_down(client, Ending::Closed(Ended::Failed(-result)));
        }
    }

    fn on_close(&mut self, client: u32, events: &mut Events) {
        let ending = self.endings.remove(&client).expect("a close has its reason");
        let was_open = self.has(client, OPEN);
        self.states[client as usize] = 0;
        match ending {
            Ending::Connect(errno) => events.push(Event::ConnectFailed { client, errno }),
            Ending::Closed(how) => events.push(Event::Closed { client, how }),
        }
        if was_open {
            self.counts.connected -= 1;
        }
    }

    /// Waits for the next thing of interest on an open client.
    fn park(&mut self, client: u32) {
        let interest = if self.has(client, PAUSED) { Interest::Ended } else { Interest::Readable };
        self.sockets.poll(client, interest);
        self.set(client, POLL);
    }

    fn receive(&mut self, client: u32) {
        self.set(client, RECV);
        if self.sockets.receive(client) {
            self.receiving += 1;
        } else {
            self.hungry.push_back(client);
        }
    }

    fn feed_hungry(&mut self) {
        while let Some(&client) = self.hungry.front() {
            if !self.sockets.receive(client) {
                break;
            }
            self.receiving += 1;
            self.hungry.pop_front();
        }
    }

    /// Begins to take a client down; the first reason given is the one that counts.
    fn take_down(&mut self, client: u32, ending: Ending) {
        if self.has(client, CLOSING) {
            return;
        }
        self.set(client, CLOSING);
        self.endings.insert(client, ending);
        let local = matches!(ending, Ending::Closed(Ended::Local));
        if !local || self.has(client, RESET | MUTE) {
            self.set(client, MUTE);
            self.drop_backlog(client);
        }
        self.settle(client);
    }

    /// Takes the next step down: cancel what waits, join, close.
    fn settle(&mut self, client: u32) {
        let state = self.states[client as usize];
        if state & CANCELLED == 0 && state & (POLL | SEND) != 0 {
            if state & POLL != 0 {
                self.sockets.cancel(client, Kind::Poll);
                self.set(client, CANCELLED);
            }
            // A send in good standing is allowed to finish.
            if state & SEND != 0 && state & MUTE != 0 {
                self.sockets.cancel(client, Kind::Send);
                self.set(client, CANCELLED);
            }
        }
        if state & (OPS | CLOSE) == 0 {
            if state & RESET != 0 {
                self.sockets.reset_on_close(client);
            }
            self.sockets.close(client);
            self.set(client, CLOSE);
        }
    }

    fn drop_backlog(&mut self, client: u32) {
        if let Some(backlog) = self.backlogs.remove(&client) {
            self.counts.unsent_bytes -= backlog.len() as u64;
        }
    }

    fn turn(&mut self, wait: Duration, events: &mut Events) -> anyhow::Result<()> {
        self.feed_hungry();
        let mut completions = std::mem::take(&mut self.completions);
        self.sockets.turn(wait, &mut completions).context("io_uring")?;
        for completion in completions.drain(..) {
            self.on_completion(&completion, events);
        }
        self.completions = completions;
        Ok(())
    }
}

impl Transport for SocketTransport {
    fn connect(&mut self, client: u32) {
        assert_eq!(self.states[client as usize], 0, "client {client} is not absent");
        self.set(client, CONNECT);
        self.counts.connecting += 1;
        let source = self.sources.map(|sources| sources.of(self.first_client + client));
        self.sockets.connect(client, source);
    }

    fn send(&mut self, client: u32, bytes: &[u8]) {
        if !self.has(client, OPEN) || self.has(client, CLOSING | MUTE) || bytes.is_empty() {
            return;
        }
        self.counts.unsent_bytes += bytes.len() as u64;
        if self.has(client, SEND) {
            self.backlogs.entry(client).or_default().extend_from_slice(bytes);
        } else {
            let taken = self.sockets.send(client, bytes);
            if taken < bytes.len() {
                self.backlogs.entry(client).or_default().extend_from_slice(&bytes[taken..]);
            }
            self.set(client, SEND);
        }
    }

    fn close(&mut self, client: u32, how: Close) {
        if !self.has(client, OPEN) || self.has(client, CLOSING) {
            return;
        }
        if how == Close::Reset {
            self.set(client, RESET);
        }
        self.take_down(client, Ending::Closed(Ended::Local));
    }

    fn set_reading(&mut self, client: u32, reading: bool) {
        if reading != self.has(client, PAUSED) || self.has(client, CLOSING) || !self.has(client, OPEN) {
            return;
        }
        self.states[client as usize] ^= PAUSED;
        if self.has(client, POLL) && !self.has(client, CANCELLED) {
            self.sockets.cancel(client, Kind::Poll);
            self.set(client, CANCELLED);
        }
    }

    fn poll(&mut self, wait: Duration, events: &mut Events) -> anyhow::Result<()> {
        let already = events.len();
        self.turn(wait, events)?;
        // Wake-ups lead to receives, which end at once: fetch their bytes in the same call.
        for _ in 0..4 {
            if self.receiving == 0 || events.len() - already >= 4096 {
                break;
            }
            self.turn(Duration::ZERO, events)?;
        }
        Ok(())
    }

    fn counts(&self) -> Counts {
        let sockets = self.sockets.counts();
        let details = vec![
            ("rings", sockets.rings),
            ("ring_ops", sockets.ops),
            ("ring_enters", sockets.enters),
            ("short_sends", sockets.short_sends),
        ];
        Counts { details, ..self.counts.clone() }
    }

    fn user_bytes(&self) -> u64 {
        let tables = self.states.capacity() * size_of::<u16>()
            + self.backlogs.capacity() * size_of::<(u32, Vec<u8>)>()
            + self.backlogs.values().map(Vec::capacity).sum::<usize>()
            + self.endings.capacity() * size_of::<(u32, Ending)>()
            + self.completions.capacity() * size_of::<Completion>();
        tables as u64 + self.sockets.user_bytes()
    }
}
