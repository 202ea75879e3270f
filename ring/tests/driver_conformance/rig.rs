//! What a contract needs of a driver and of the peers at the other end.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use roost_ring::op::{Block, Completion, Driver, LinkAddress, Op, PoolSpec, Sock, Token, Wait};

/// Nothing here takes this long on any machine; what does has hung.
const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const BLOCK_BYTES: u32 = 4_096;
/// Enough for what any socket buffers.
pub(crate) const BLOCKS: u32 = 8_192;
pub(crate) const SLOTS: u32 = 16;
pub(crate) const SLOTS_PER_RING: u32 = 8;

pub(crate) fn pools() -> Vec<PoolSpec> {
    vec![PoolSpec { block_bytes: BLOCK_BYTES, blocks: BLOCKS }]
}

/// How a peer sees the connection now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Nothing new.
    Nothing,
    /// That many bytes, which are now read.
    Bytes(usize),
    /// The end of the stream.
    End,
    /// A reset.
    Reset,
}

/// The far ends of connections.
pub(crate) trait Peers {
    /// A client connects to listener 0. Does not wait for the accept.
    fn connect(&mut self) -> usize;
    /// Takes a link's connection that the driver has made; none yet if it is not there.
    fn take_link(&mut self) -> Option<usize>;
    /// Where links can go.
    fn link_address(&self) -> LinkAddress;
    /// Where nobody listens.
    fn dead_address(&self) -> LinkAddress;
    /// Where connects get no answer; none where that cannot be had.
    fn silent_address(&self) -> Option<LinkAddress>;
    /// Writes everything; the bytes are few. False when the connection is gone.
    fn write(&mut self, peer: usize, bytes: &[u8]) -> bool;
    /// Reads into `bytes` what is there.
    fn read(&mut self, peer: usize, bytes: &mut Vec<u8>) -> Seen;
    fn shutdown(&mut self, peer: usize);
    fn close(&mut self, peer: usize);
    fn reset(&mut self, peer: usize);
    /// The contract breaks a rule on purpose: the fake has noted it, and should forget it.
    fn forgive(&mut self) {}
    /// Closes of direct descriptors wait for older requests on neighbours.
    fn releases_in_order(&self) -> bool {
        false
    }
    /// Client sockets live in a ring's table and are replaced there.
    fn is_direct(&self) -> bool;
}

/// A driver with everything started, its peers, and the completions that nobody asked for yet.
pub(crate) struct Rig<'a> {
    pub(crate) driver: &'a mut dyn Driver,
    pub(crate) peers: &'a mut dyn Peers,
    done: HashMap<Token, i32>,
    /// Where the client of each finished accept comes from.
    from: HashMap<Token, SocketAddr>,
    pub(crate) wakes: u32,
    next: u32,
}

impl<'a> Rig<'a> {
    pub(crate) fn new(driver: &'a mut dyn Driver, peers: &'a mut dyn Peers) -> Self {
        Self { driver, peers, done: HashMap::new(), from: HashMap::new(), wakes: 0, next: 0 }
    }

    pub(crate) fn block(index: u32) -> Block {
        Block::new(0, index)
    }

    /// Submits an op under a token of its own.
    pub(crate) fn start(&mut self, op: Op) -> Token {
        self.next += 1;
        let token = Token::new(1, 0, self.next);
        self.driver.submit(token, op);
        token
    }

    pub(crate) fn turn(&mut self, wait: Wait) {
        let mut completions = Vec::new();
        self.driver.turn(wait, &mut completions).expect("a turn");
        for Completion { token, result, peer } in completions {
            self.from.extend(peer.address().map(|address| (token, address)));
            if token == Token::WAKE {
                self.wakes += 1;
            } else {
                assert_eq!(self.done.insert(token, result), None, "{token:?} completed twice");
            }
        }
    }

    /// Turns until the condition holds.
    pub(crate) fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let began = Instant::now();
        while !holds(self) {
            assert!(began.elapsed() < LIMIT, "waited too long for {what}");
            self.turn(Wait::AtMost(Duration::from_millis(5)));
        }
    }

    /// The result of an op.
    pub(crate) fn finish(&mut self, token: Token) -> i32 {
        self.until("a completion", |rig| rig.done.contains_key(&token));
        self.done.remove(&token).expect("just seen")
    }

    pub(crate) fn run(&mut self, op: Op) -> i32 {
        let token = self.start(op);
        self.finish(token)
    }

    /// Where the client of a finished accept comes from.
    pub(crate) fn from(&self, accept: Token) -> Option<SocketAddr> {
        self.from.get(&accept).copied()
    }

    pub(crate) fn is_done(&self, token: Token) -> bool {
        self.done.contains_key(&token)
    }

    /// Some turns, in which whatever is going to happen by itself does.
    pub(crate) fn settle(&mut self) {
        for _ in 0..20 {
            self.turn(Wait::AtMost(Duration::from_millis(2)));
        }
    }

    /// A connected client in `slot`.
    pub(crate) fn client(&mut self, slot: u32) -> usize {
        let peer = self.peers.connect();
        assert_eq!(self.run(Op::Accept { slot, listener: 0, expected: false }), 0);
        peer
    }

    pub(crate) fn fill(&mut self, block: u32, bytes: &[u8]) {
        self.driver.block_mut(Self::block(block))[..bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn bytes(&self, block: u32, len: i32) -> Vec<u8> {
        self.driver.block(Self::block(block))[..usize::try_from(len).expect("no error")].to_vec()
    }

    /// Waits for exactly these bytes at a socket; TCP may cut them where it likes.
    pub(crate) fn receive(&mut self, sock: Sock, expected: &[u8]) {
        let mut read = Vec::new();
        while read.len() < expected.len() {
            self.await_input(sock);
            let len = self.run(recv(sock, 0, false));
            read.extend(self.bytes(0, len));
        }
        assert_eq!(read, expected);
    }

    /// Waits until a peer has read exactly these bytes.
    pub(crate) fn expect_bytes(&mut self, peer: usize, expected: &[u8]) {
        let mut read = Vec::new();
        self.until("bytes at the peer", |rig| {
            let seen = rig.peers.read(peer, &mut read);
            assert!(matches!(seen, Seen::Bytes(_) | Seen::Nothing), "{seen:?} after {} bytes", read.len());
            read.len() >= expected.len()
        });
        assert!(read == expected, "the peer read something else");
    }

    /// Waits until a peer sees the connection end.
    pub(crate) fn expect_end(&mut self, peer: usize) -> Seen {
        let mut end = Seen::Nothing;
        self.until("the end at the peer", |rig| {
            end = rig.peers.read(peer, &mut Vec::new());
            matches!(end, Seen::End | Seen::Reset)
        });
        end
    }

    /// The peer sees nothing for a while.
    pub(crate) fn expect_nothing(&mut self, peer: usize) {
        self.settle();
        assert_eq!(self.peers.read(peer, &mut Vec::new()), Seen::Nothing);
    }

    /// Waits until bytes, or an end, have arrived at this socket.
    pub(crate) fn await_input(&mut self, sock: Sock) -> i32 {
        self.run(poll_in(sock))
    }
}

pub(crate) fn recv(sock: Sock, block: u32, wait: bool) -> Op {
    Op::Recv { sock, block: Rig::block(block), offset: 0, len: BLOCK_BYTES, wait }
}

pub(crate) fn send(sock: Sock, block: u32, len: u32, wait: bool) -> Op {
    Op::Send { sock, block: Rig::block(block), offset: 0, len, wait }
}

pub(crate) fn poll_in(sock: Sock) -> Op {
    Op::Poll { sock, interest: roost_ring::op::Interest::Readable }
}

pub(crate) fn poll_end(sock: Sock) -> Op {
    Op::Poll { sock, interest: roost_ring::op::Interest::Ended }
}

pub(crate) fn poll_out(sock: Sock) -> Op {
    Op::Poll { sock, interest: roost_ring::op::Interest::Writable }
}
