//! A client that is being sent away: while all receive buffers are taken it is polled or read, not
//! both, and a kernel that lacks memory for a moment does not cut it off.
#![forbid(unsafe_code)]

use std::sync::Arc;

use roost_gateway::{
    core::{
        CoreConfig,
        pool::specs,
        shard::{Command, ShardCore},
        stats::{ShardStats, Stat},
    },
    op::{Op, Sock},
    sim::Hands,
};
use roost_protocol::Reason;

const EINTR: i32 = 4;
const EAGAIN: i32 = 11;
const ENOMEM: i32 = 12;
const ENOBUFS: i32 = 105;

/// Ends the oldest op of this kind and says what it was.
fn complete(core: &mut ShardCore, hands: &mut Hands, which: impl Fn(&Op) -> bool, result: i32) -> Op {
    let (token, op) = hands.take(|_, op| which(&op)).expect("such an op is in the kernel");
    let completion = hands.end((token, op), result);
    core.on_completion(hands, completion);
    op
}

#[test]
fn one_that_waits_for_a_receive_buffer_is_not_polled_as_well() {
    let others = CoreConfig::RX_BLOCKS;
    let config = CoreConfig { accepts_max: others + 1, ..CoreConfig::lone(256, Vec::new()) };
    let hands = &mut Hands::new(&specs(&config));
    let stats = Arc::new(ShardStats::default());
    let core = &mut ShardCore::new(config, 256, Arc::clone(&stats), Box::new(|bytes| bytes.fill(7)));
    core.start(hands, 0, 256);

    // The client waits for input, is told to go, and its GOAWAY has left.
    let Op::Accept { slot, .. } = complete(core, hands, |op| matches!(op, Op::Accept { .. }), 0) else {
        unreachable!()
    };
    let received = |op: &Op| matches!(op, Op::Recv { sock: Sock::Client(of), .. } if *of == slot);
    let polled = |op: &Op| matches!(op, Op::Poll { sock: Sock::Client(of), .. } if *of == slot);
    complete(core, hands, received, -EAGAIN);
    let connection = core.sample(slot, 1)[0].connection;
    core.on_command(hands, Command::Close { connection, reason: Reason::Drain });
    let sent = hands.ops().find_map(|(_, op)| match op {
        Op::Send { len, .. } => Some(len),
        _ => None,
    });
    complete(core, hands, |op| matches!(op, Op::Send { .. }), sent.unwrap().cast_signed());

    // Others take all buffers; it says something more, and only then the shutdown ends.
    for _ in 0..others {
        complete(core, hands, |op| matches!(op, Op::Accept { .. }), 0);
    }
    complete(core, hands, polled, 1);
    assert_eq!(stats.get(Stat::RxPoolWaits), 1);
    complete(core, hands, |op| matches!(op, Op::Shutdown { .. }), 0);
    assert!(!hands.ops().any(|(_, op)| polled(&op)), "a poll beside the wait for a buffer");

    // A buffer is free again: what it said is discarded, and its end is noticed.
    complete(core, hands, |op| matches!(op, Op::Recv { .. }), -EAGAIN);
    core.end_turn(hands);
    complete(core, hands, received, 5);
    complete(core, hands, polled, 1);
    complete(core, hands, received, 0);
    complete(core, hands, |op| matches!(op, Op::Close { sock: Sock::Client(of) } if *of == slot), 0);
    assert_eq!(stats.get(Stat::Connections), u64::from(others));
}

#[test]
fn a_receive_that_fails_for_a_moment_does_not_cut_off_one_that_is_sent_away() {
    let config = CoreConfig::lone(256, Vec::new());
    let hands = &mut Hands::new(&specs(&config));
    let core = &mut ShardCore::new(config, 256, Arc::default(), Box::new(|bytes| bytes.fill(7)));
    core.start(hands, 0, 256);
    let Op::Accept { slot, .. } = complete(core, hands, |op| matches!(op, Op::Accept { .. }), 0) else {
        unreachable!()
    };
    let received = |op: &Op| matches!(op, Op::Recv { sock: Sock::Client(of), .. } if *of == slot);
    let polled = |op: &Op| matches!(op, Op::Poll { sock: Sock::Client(of), .. } if *of == slot);
    let closed = |op: &Op| matches!(op, Op::Close { sock: Sock::Client(of) } if *of == slot);
    complete(core, hands, received, -EAGAIN);
    let connection = core.sample(slot, 1)[0].connection;
    core.on_command(hands, Command::Close { connection, reason: Reason::Drain });
    let sent = hands.ops().find_map(|(_, op)| match op {
        Op::Send { len, .. } => Some(len),
        _ => None,
    });
    complete(core, hands, |op| matches!(op, Op::Send { .. }), sent.unwrap().cast_signed());
    complete(core, hands, |op| matches!(op, Op::Shutdown { .. }), 0);

    // To close now would reset the connection under what it has said, and with it the GOAWAY.
    for passing in [EINTR, ENOMEM, ENOBUFS, EAGAIN] {
        complete(core, hands, polled, 1);
        complete(core, hands, received, -passing);
        assert!(!hands.ops().any(|(_, op)| closed(&op)), "closed for errno {passing}");
    }
    complete(core, hands, polled, 1);
    complete(core, hands, received, 5);
    complete(core, hands, polled, 1);
    complete(core, hands, received, 0);
    complete(core, hands, closed, 0);
}
