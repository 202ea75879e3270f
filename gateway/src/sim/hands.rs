//! A driver moved by hand: ops wait until the test says how they end. For tests of parts of the
//! core, and for the fuzzer, where a whole simulated kernel would only be in the way.

use std::net::SocketAddr;

use roost_protocol::{
    ConnectionId, InstanceId,
    link::{Header, LinkType, LinkWelcome, handshake},
};

use crate::{
    core::ShardCore,
    op::{Block, Completion, Io, Op, Peer, PoolSpec, Sock, Token},
    sim::memory::Memory,
};

/// Memory, and the ops that have not ended.
#[derive(Debug)]
pub struct Hands {
    memory: Memory,
    ops: Vec<(Token, Op)>,
}

impl Hands {
    /// Nothing is in flight.
    pub fn new(specs: &[PoolSpec]) -> Self {
        Self { memory: Memory::new(specs), ops: Vec::new() }
    }

    /// The ops in flight, oldest first.
    pub fn ops(&self) -> impl Iterator<Item = (Token, Op)> {
        self.ops.iter().copied()
    }

    /// Takes the oldest op that `wanted` accepts out, to be ended by the caller.
    pub fn take(&mut self, wanted: impl Fn(Token, Op) -> bool) -> Option<(Token, Op)> {
        let at = self.ops.iter().position(|&(token, op)| wanted(token, op))?;
        Some(self.ops.remove(at))
    }

    /// Puts an op back that was taken out: it has not ended.
    pub fn put_back(&mut self, op: (Token, Op)) {
        self.ops.push(op);
    }

    /// Ends an op that moves no bytes, or a transfer that failed.
    pub fn end(&mut self, (token, op): (Token, Op), result: i32) -> Completion {
        match op {
            Op::Recv { block, .. } => self.memory.end_receive(block),
            Op::Send { block, offset, len, .. } => self.memory.end_send(block, offset, len),
            _ => {}
        }
        let from = SocketAddr::from(([192, 0, 2, 1], 4_000));
        let peer = match op {
            Op::Accept { .. } if result >= 0 => Some(from).into(),
            _ => Peer::default(),
        };
        Completion { token, result, peer }
    }

    /// The only worker is reached, and welcomes a new session in which it grants this window.
    pub fn welcome_link(&mut self, core: &mut ShardCore, window_bytes: u32) {
        self.welcome(core, 0, InstanceId([2; 16]), window_bytes);
    }

    /// The worker of `link` is reached, welcomes a new session as this instance, and acknowledges
    /// nothing right behind the handshake, as SPEC.md 3.2 asks: the link is up.
    pub fn welcome(&mut self, core: &mut ShardCore, link: u16, worker: InstanceId, window_bytes: u32) {
        self.say_welcome(core, link, worker, window_bytes);
        let mut ack = Header::new(LinkType::Ack, ConnectionId::from_bits(0), 8).encode().to_vec();
        ack.extend(0u64.to_be_bytes());
        self.deliver(core, Sock::Link(link), &ack);
    }

    /// The same without a word behind LINK_WELCOME.
    pub fn say_welcome(&mut self, core: &mut ShardCore, link: u16, worker: InstanceId, window_bytes: u32) {
        let dial = |op: Op| matches!(op, Op::Connect { link: of } if of == link);
        let connect = self.take(|_, op| dial(op)).expect("the worker is dialled");
        let connected = self.end(connect, 0);
        core.on_completion(self, connected);
        let welcome = LinkWelcome {
            resumed: false,
            window_bytes,
            worker,
            nonce: [9; handshake::NONCE_BYTES],
            received_position: 0,
            capabilities: 0,
            proof: None,
        };
        let mut bytes = Vec::new();
        handshake::encode_frame(LinkType::LinkWelcome, &welcome.encode_payload(), &mut bytes);
        self.deliver(core, Sock::Link(link), &bytes);
    }

    /// The peer of this socket writes, and the gateway's receive takes all of it.
    pub fn deliver(&mut self, core: &mut ShardCore, from: Sock, bytes: &[u8]) {
        let receives = |op: Op| matches!(op, Op::Recv { sock, .. } if sock == from);
        let receive = self.take(|_, op| receives(op)).expect("it is read");
        let (received, taken) = self.end_recv(receive, bytes);
        assert_eq!(taken, bytes.len(), "one receive takes it all");
        core.on_completion(self, received);
    }

    /// Ends a receive with as much of `bytes` as it takes; says how much that is.
    pub fn end_recv(&mut self, (token, op): (Token, Op), bytes: &[u8]) -> (Completion, usize) {
        let Op::Recv { block, offset, len, .. } = op else { panic!("{op:?} receives nothing") };
        let taken = bytes.len().min(len as usize);
        self.memory.received(block, offset, &bytes[..taken]);
        (self.end((token, op), i32::try_from(taken).expect("within a block")), taken)
    }

    /// Ends a send with at most `max` bytes, which are given.
    pub fn end_send(&mut self, (token, op): (Token, Op), max: usize) -> (Completion, Vec<u8>) {
        let Op::Send { block, offset, len, .. } = op else { panic!("{op:?} sends nothing") };
        let taken = len.min(u32::try_from(max).unwrap_or(u32::MAX));
        let bytes = self.memory.sending(block, offset, taken).to_vec();
        (self.end((token, op), taken.cast_signed()), bytes)
    }
}

impl Io for Hands {
    fn submit(&mut self, token: Token, op: Op) {
        match op {
            Op::Recv { block, offset, len, .. } => self.memory.start_receive(block, offset, len),
            Op::Send { block, offset, len, .. } => self.memory.start_send(block, offset, len),
            _ => {}
        }
        self.ops.push((token, op));
    }

    fn block(&self, block: Block) -> &[u8] {
        self.memory.bytes(block)
    }

    fn block_mut(&mut self, block: Block) -> &mut [u8] {
        self.memory.bytes_mut(block)
    }

    fn write(&mut self, block: Block, offset: u32, bytes: &[u8]) {
        self.memory.write(block, offset, bytes);
    }
}
