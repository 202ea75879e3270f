//! A client that is being sent away while all receive buffers are taken is polled or read, not both.
#![forbid(unsafe_code)]

use std::{net::SocketAddr, sync::Arc};

use roost_gateway::{
    core::{
        CoreConfig,
        shard::{Command, ShardCore},
        stats::{ShardStats, Stat},
    },
    op::{Block, Completion, Io, Op, Sock, Token},
};
use roost_protocol::Reason;

const EAGAIN: i32 = 11;

/// A kernel that keeps what was submitted until the test completes it.
#[derive(Default)]
struct Kernel {
    ops: Vec<(Token, Op)>,
    bytes: Vec<u8>,
}

impl Io for Kernel {
    fn submit(&mut self, token: Token, op: Op) {
        self.ops.push((token, op));
    }

    fn block(&self, _: Block) -> &[u8] {
        &self.bytes
    }

    fn block_mut(&mut self, _: Block) -> &mut [u8] {
        &mut self.bytes
    }

    fn write(&mut self, _: Block, _: u32, _: &[u8]) {}

    fn accepted_peer(&self, _: u32) -> Option<SocketAddr> {
        None
    }
}

/// Completes the first op of this kind and says what it was.
fn complete(core: &mut ShardCore, kernel: &mut Kernel, which: impl Fn(&Op) -> bool, result: i32) -> Op {
    let index = kernel.ops.iter().position(|(_, op)| which(op)).expect("such an op is in the kernel");
    let (token, op) = kernel.ops.remove(index);
    core.on_completion(kernel, Completion { token, result });
    op
}

#[test]
fn one_that_waits_for_a_receive_buffer_is_not_polled_as_well() {
    let others = CoreConfig::RX_BLOCKS;
    let config = CoreConfig { accepts_max: others + 1, ..CoreConfig::lone(256, Vec::new()) };
    let stats = Arc::new(ShardStats::default());
    let mut core = ShardCore::new(config, 256, Arc::clone(&stats), Box::new(|bytes| bytes.fill(7)));
    let mut kernel = Kernel::default();
    let (core, kernel) = (&mut core, &mut kernel);
    core.start(kernel, 0, 256);

    // The client waits for input, is told to go, and its GOAWAY has left.
    let Op::Accept { slot, .. } = complete(core, kernel, |op| matches!(op, Op::Accept { .. }), 0) else {
        unreachable!()
    };
    let received = |op: &Op| matches!(op, Op::Recv { sock: Sock::Client(of), .. } if *of == slot);
    let polled = |op: &Op| matches!(op, Op::Poll { sock: Sock::Client(of), .. } if *of == slot);
    complete(core, kernel, received, -EAGAIN);
    let connection = core.sample(slot, 1)[0].connection;
    core.on_command(kernel, Command::Close { connection, reason: Reason::Drain });
    let sent = kernel.ops.iter().find_map(|(_, op)| match op {
        Op::Send { len, .. } => Some(*len),
        _ => None,
    });
    complete(core, kernel, |op| matches!(op, Op::Send { .. }), sent.unwrap().cast_signed());

    // Others take all buffers; it says something more, and only then the shutdown ends.
    for _ in 0..others {
        complete(core, kernel, |op| matches!(op, Op::Accept { .. }), 0);
    }
    complete(core, kernel, polled, 1);
    assert_eq!(stats.get(Stat::RxPoolWaits), 1);
    complete(core, kernel, |op| matches!(op, Op::Shutdown { .. }), 0);
    assert!(!kernel.ops.iter().any(|(_, op)| polled(op)), "a poll beside the wait for a buffer");

    // A buffer is free again: what it said is discarded, and its end is noticed.
    complete(core, kernel, |op| matches!(op, Op::Recv { .. }), -EAGAIN);
    core.end_turn(kernel);
    complete(core, kernel, received, 5);
    complete(core, kernel, polled, 1);
    complete(core, kernel, received, 0);
    complete(core, kernel, |op| matches!(op, Op::Close { sock: Sock::Client(of) } if *of == slot), 0);
    assert_eq!(stats.get(Stat::Connections), u64::from(others));
}
