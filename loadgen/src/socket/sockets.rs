//! The sockets of one thread by slot, over the rings of `roost-ring`.
//!
//! It knows slots and bytes, and nothing of the protocol or of what a client is. A slot holds at most
//! one socket and, per [`Kind`], at most one op in the kernel.

use std::{io, net::SocketAddr, os::fd::OwnedFd, time::Duration};

use roost_ring::{
    Config, Features, UringDriver,
    op::{self, Block, Driver, Interest, Io, Op, PoolSpec, Sock, Token, Wait},
};

use super::outgoing::Outgoing;

/// What sockets are made for.
pub(crate) struct SocketsConfig {
    /// Slots in all; rings are started as slots are first used.
    pub(crate) slots: u32,
    /// Slots of one ring at most.
    pub(crate) slots_per_ring: u32,
    /// Where connects go.
    pub(crate) target: SocketAddr,
    /// Who is accepted from; a blocking socket.
    pub(crate) listener: Option<OwnedFd>,
    /// Receives that can be under way at a time.
    pub(crate) receive_blocks: u32,
}

/// Bytes of one receive at most.
pub(crate) const RECEIVE_BYTES: u32 = 4096;
/// Bytes of a send: most fit into a small block, of which every slot can have one. Blocks lie a cache
/// line further apart than they are large, and these are to share pages.
const SEND_BYTES: u32 = 1024 - 64;
/// Sends larger than that take one of these while there are any, and go by small ones otherwise.
const LARGE_SEND_BYTES: u32 = 65_536 - 64;
const LARGE_SENDS: u32 = 256;

const RECEIVE: u8 = 0;
const SEND: u8 = 1;
const LARGE_SEND: u8 = 2;

/// What an op was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum Kind {
    /// The result is 0, or an errno of whatever step failed.
    Connect = 1,
    /// One-shot poll; the result is a set of poll(2) bits.
    Poll = 2,
    /// Receive what is there.
    Receive = 3,
    /// Send; the result is an errno or not negative.
    Send = 4,
    /// A cancel; internal.
    Cancel = 5,
    /// The socket is closed and the slot is free.
    Close = 6,
    /// Accept into a slot.
    Accept = 7,
}

impl Kind {
    fn of(token: Token) -> Self {
        match token.kind() {
            1 => Self::Connect,
            2 => Self::Poll,
            3 => Self::Receive,
            4 => Self::Send,
            5 => Self::Cancel,
            6 => Self::Close,
            7 => Self::Accept,
            other => panic!("nobody asked for a completion of kind {other}"),
        }
    }

    fn token(self, slot: u32) -> Token {
        Token::new(self as u8, slot, 0)
    }

    fn token_of(self, slot: u32, block: Block) -> Token {
        Token::new(self as u8, slot, block.to_bits())
    }
}

/// What became of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Completion {
    /// Whose.
    pub(crate) slot: u32,
    /// Which.
    pub(crate) kind: Kind,
    /// Non-negative: success, meaning by kind. Negative: an errno.
    pub(crate) result: i32,
    /// Of a send: the bytes it was given, sent or not.
    pub(crate) send_bytes: u32,
    /// Of a receive, to be handed to [`Sockets::take_received`].
    block: Block,
}

/// Counters; they only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SocketCounts {
    /// Rings started.
    pub(crate) rings: u64,
    /// Calls of io_uring_enter(2).
    pub(crate) enters: u64,
    /// Ops submitted.
    pub(crate) ops: u64,
    /// Sends that the kernel took only in part.
    pub(crate) short_sends: u64,
}

/// The sockets of one thread.
pub(crate) struct Sockets {
    driver: UringDriver,
    slots: u32,
    target: SocketAddr,
    /// Blocks for receives that nobody has.
    receives: Vec<u32>,
    receive_blocks: u32,
    sends: Outgoing,
    large_sends: Outgoing,
    completions: Vec<op::Completion>,
    /// Why the next ring could not be started.
    failed: Option<io::Error>,
    ops: u64,
    short_sends: u64,
}

impl Sockets {
    /// Entries of the submission and the completion queue of each ring.
    const SQ_ENTRIES: u32 = 512;
    const CQ_ENTRIES: u32 = 4096;

    /// Sockets with their first ring, on the thread that will use them.
    ///
    /// # Errors
    /// When a ring cannot be set up.
    pub(crate) fn open(features: &Features, config: SocketsConfig) -> Result<Self, roost_ring::Error> {
        let SocketsConfig { slots, slots_per_ring, target, listener, receive_blocks } = config;
        let send = PoolSpec { block_bytes: SEND_BYTES, blocks: slots };
        let large_send = PoolSpec { block_bytes: LARGE_SEND_BYTES, blocks: LARGE_SENDS };
        let receive = PoolSpec { block_bytes: RECEIVE_BYTES, blocks: receive_blocks };
        let config = Config {
            ring_slots_max: slots_per_ring,
            sq_entries: Self::SQ_ENTRIES,
            cq_entries: Self::CQ_ENTRIES,
            ..Config::new(slots, vec![receive, send, large_send], listener.into_iter().collect())
        };
        Ok(Self {
            driver: UringDriver::new(features, config)?,
            slots,
            target,
            receives: (0..receive_blocks).rev().collect(),
            receive_blocks,
            sends: Outgoing::new(SEND, send),
            large_sends: Outgoing::new(LARGE_SEND, large_send),
            completions: Vec::new(),
            failed: None,
            ops: 0,
            short_sends: 0,
        })
    }

    /// Connects the slot, which must be empty, from `source` (port 0: the kernel chooses).
    ///
    /// A ring that cannot be started for it fails the next [`Self::turn`].
    pub(crate) fn connect(&mut self, slot: u32, source: Option<SocketAddr>) {
        if self.start_slot(slot) {
            self.ops += 1;
            self.driver.connect(Kind::Connect.token(slot), slot, source, self.target);
        }
    }

    /// Accepts the next connection of the listener into the slot.
    pub(crate) fn accept(&mut self, slot: u32) {
        if self.start_slot(slot) {
            self.submit(Kind::Accept.token(slot), Op::Accept { slot, listener: 0, expected: false });
        }
    }

    /// Waits once for this; errors and hang-ups always count.
    pub(crate) fn poll(&mut self, slot: u32, interest: Interest) {
        self.submit(Kind::Poll.token(slot), Op::Poll { sock: Sock::Client(slot), interest });
    }

    /// Receives what is there, at most one block; false when no block is free now.
    #[must_use]
    pub(crate) fn receive(&mut self, slot: u32) -> bool {
        let Some(index) = self.receives.pop() else { return false };
        let block = Block::new(RECEIVE, index);
        let op = Op::Recv { sock: Sock::Client(slot), block, offset: 0, len: RECEIVE_BYTES, wait: false };
        self.submit(Kind::Receive.token_of(slot, block), op);
        true
    }

    /// Sends from the front of `bytes`, as many as fit into a block, and returns how many. Only when no
    /// other send of this slot is in the kernel.
    pub(crate) fn send(&mut self, slot: u32, bytes: &[u8]) -> usize {
        let is_large = bytes.len() > SEND_BYTES as usize;
        let large = if is_large { self.large_sends.take(slot, bytes.len()) } else { None };
        let taken = large.or_else(|| self.sends.take(slot, bytes.len()));
        let (block, len) = taken.expect("a slot has at most one send in the kernel");
        self.driver.write(block, 0, &bytes[..len as usize]);
        self.submit_send(slot, block, 0, len);
        len as usize
    }

    /// Asks to end the slot's op of this kind that is in the kernel. The cancelled op's own
    /// completion follows, perhaps with success.
    pub(crate) fn cancel(&mut self, slot: u32, kind: Kind) {
        let target = match kind {
            // A send's name contains its block; looking for it is fine, since this is rare.
            Kind::Send => match self.sends.find(slot).or_else(|| self.large_sends.find(slot)) {
                Some(block) => kind.token_of(slot, block),
                None => return,
            },
            Kind::Poll | Kind::Connect | Kind::Accept => kind.token(slot),
            _ => panic!("{kind:?} never waits in the kernel"),
        };
        self.submit(Kind::Cancel.token(slot), Op::Cancel { sock: Sock::Client(slot), target });
    }

    /// Makes the close that follows a reset.
    pub(crate) fn reset_on_close(&mut self, slot: u32) {
        self.driver.reset_on_close(slot);
    }

    /// Closes the slot's socket. Only when no op of the slot is in the kernel.
    pub(crate) fn close(&mut self, slot: u32) {
        self.submit(Kind::Close.token(slot), Op::Close { sock: Sock::Client(slot) });
    }

    /// Hands over what a [`Kind::Receive`] completion brought and frees its block. Must be called once
    /// for each, whatever its result.
    pub(crate) fn take_received(&mut self, completion: &Completion, take: impl FnOnce(&[u8])) {
        assert_eq!(completion.kind, Kind::Receive);
        let len = usize::try_from(completion.result).unwrap_or(0);
        take(&self.driver.block(completion.block)[..len]);
        self.receives.push(completion.block.index());
    }

    /// Submits what is queued, waits up to `wait` for something to complete, and appends some
    /// completions to `out`.
    ///
    /// # Errors
    /// When a ring fails.
    pub(crate) fn turn(&mut self, wait: Duration, out: &mut Vec<Completion>) -> io::Result<()> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let wait = if wait.is_zero() { Wait::No } else { Wait::AtMost(wait) };
        let mut completions = std::mem::take(&mut self.completions);
        self.driver.turn(wait, &mut completions)?;
        for completion in completions.drain(..) {
            out.extend(self.completed(completion));
        }
        self.completions = completions;
        Ok(())
    }

    /// Counters so far.
    pub(crate) fn counts(&self) -> SocketCounts {
        let rings = self.driver.counts();
        SocketCounts {
            rings: u64::from(rings.rings),
            enters: rings.enters,
            ops: self.ops,
            short_sends: self.short_sends,
        }
    }

    /// User-space bytes held: blocks, tables and the queues shared with the kernel.
    pub(crate) fn user_bytes(&self) -> u64 {
        let receives = u64::from(self.receive_blocks) * u64::from(RECEIVE_BYTES);
        self.driver.counts().queue_bytes + receives + self.sends.bytes() + self.large_sends.bytes()
    }

    /// Makes the slot's ring exist; false if it cannot be had.
    fn start_slot(&mut self, slot: u32) -> bool {
        assert!(slot < self.slots);
        while self.failed.is_none() && self.driver.slots_started() <= slot {
            self.failed = self.driver.start_slots().err();
        }
        self.failed.is_none()
    }

    fn submit(&mut self, token: Token, op: Op) {
        self.ops += 1;
        self.driver.submit(token, op);
    }

    fn submit_send(&mut self, slot: u32, block: Block, offset: u32, len: u32) {
        let op = Op::Send { sock: Sock::Client(slot), block, offset, len, wait: true };
        self.submit(Kind::Send.token_of(slot, block), op);
    }

    /// What a completion is for the caller; none if it is only for us.
    fn completed(&mut self, completion: op::Completion) -> Option<Completion> {
        let op::Completion { token, result, .. } = completion;
        let (slot, kind) = (token.index(), Kind::of(token));
        // Of a kind that has none, nobody looks at it.
        let block = Block::from_bits(token.generation());
        let mut send_bytes = 0;
        match kind {
            // A cancel says nothing that the op it is about does not.
            Kind::Cancel => return None,
            Kind::Send => {
                let sends =
                    if block.class() == usize::from(SEND) { &mut self.sends } else { &mut self.large_sends };
                let part = sends.advance(block, u32::try_from(result).unwrap_or(0));
                // MSG_WAITALL: newer kernels go on until all is sent, older ones leave it to us.
                if result > 0 && part.sent < part.len {
                    self.short_sends += 1;
                    self.submit_send(slot, block, part.sent, part.len - part.sent);
                    return None;
                }
                sends.release(block);
                send_bytes = part.len;
            }
            _ => {}
        }
        Some(Completion { slot, kind, result, send_bytes, block })
    }
}
