//! A worker that says much at once is heard a bounded part at a stretch.
#![forbid(unsafe_code)]

use std::sync::Arc;

use roost_gateway::{
    core::{
        CoreConfig, Next, ShardCore,
        config::WorkerConfig,
        pool::specs,
        stats::{ShardStats, Stat},
    },
    op::{Op, Sock},
    sim::Hands,
};
use roost_protocol::{
    ConnectionId,
    edge::{self, FrameType},
    link::{Header, LinkType},
};

const MESSAGES: u64 = 2_000;
/// What one turn may handle of a link, at most.
const AT_A_STRETCH: u64 = 512;

#[test]
fn a_full_receive_buffer_does_not_take_a_whole_turn() {
    let config = CoreConfig::lone(4, vec![WorkerConfig { name: "worker".into(), secret: None }]);
    let mut hands = Hands::new(&specs(&config));
    let stats = Arc::new(ShardStats::default());
    let mut core = ShardCore::new(config, 4, Arc::clone(&stats), Box::new(|bytes| bytes.fill(3)));
    core.start(&mut hands, 0, 4);
    hands.welcome_link(&mut core, 65_536);
    core.end_turn(&mut hands);

    // Messages for nobody are counted, too.
    let mut message = Vec::new();
    edge::encode_frame(FrameType::Message, b"word", &mut message);
    let header = Header::new(LinkType::Data, ConnectionId::from_bits(0), message.len() as u32);
    let frame = [&header.encode()[..], &message].concat();
    core.begin_turn(1);
    hands.deliver(&mut core, Sock::Link(0), &frame.repeat(MESSAGES as usize));

    let mut turns = 1;
    while core.end_turn(&mut hands) == Next::Busy {
        let handled = stats.get(Stat::LinkFramesStale);
        assert!(handled <= turns * AT_A_STRETCH && handled < MESSAGES, "{handled} in {turns} turns");
        assert!(!hands.ops().any(|(_, op)| matches!(op, Op::Recv { .. })), "read on before its turn");
        turns += 1;
        core.begin_turn(turns);
    }
    assert!(turns >= MESSAGES / AT_A_STRETCH, "{turns} turns");
    assert_eq!(stats.get(Stat::LinkFramesStale), MESSAGES);
    assert!(hands.ops().any(|(_, op)| matches!(op, Op::Recv { sock: Sock::Link(0), .. })), "and is read on");
}
