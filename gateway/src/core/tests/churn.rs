//! A worker that hangs while clients come and go: what its link retains stays within bounds, and
//! whoever had to wait is served when the worker goes on.

use std::sync::Arc;

use roost_protocol::{
    ConnectionId,
    edge::Hello,
    link::{Header, LinkType},
};

use super::config;
use crate::{
    core::{Next, ShardCore, link::LinkState, pool::specs, record::State, stats::ShardStats},
    op::{Op, Sock, errno, poll_bits},
    sim::Hands,
};

const WINDOW_BYTES: u32 = 64 * 1024;
const SLOTS: u32 = 64;

struct Rig {
    core: ShardCore,
    hands: Hands,
}

impl Rig {
    /// A shard whose link is up.
    fn new() -> Self {
        let mut config = config();
        // Every HELLO that waits needs room.
        config.spill_bytes_total = 1 << 20;
        let hands = Hands::new(&specs(&config));
        let stats = Arc::new(ShardStats::default());
        let core = ShardCore::new(config, SLOTS, stats, Box::new(|bytes| bytes.fill(7)));
        let mut rig = Self { core, hands };
        rig.core.start(&mut rig.hands, 0, SLOTS);
        rig.hands.welcome_link(&mut rig.core, WINDOW_BYTES);
        rig.turn();
        rig.flush();
        assert_eq!(rig.core.link_views().next().map(|link| link.state), Some(LinkState::Up));
        rig
    }

    fn end(&mut self, wanted: impl Fn(Op) -> bool, result: i32) -> bool {
        let Some(op) = self.hands.take(|_, op| wanted(op)) else { return false };
        let completion = self.hands.end(op, result);
        self.core.on_completion(&mut self.hands, completion);
        true
    }

    fn turn(&mut self) -> Next {
        self.core.begin_turn(1);
        let next = self.core.end_turn(&mut self.hands);
        self.core.check_invariants();
        assert!(self.core.forgotten().is_empty());
        next
    }

    /// TCP takes all that the link sends.
    fn flush(&mut self) {
        while let Some(op) = self.hands.take(|_, op| matches!(op, Op::Send { sock: Sock::Link(_), .. })) {
            let (completion, _) = self.hands.end_send(op, usize::MAX);
            self.core.on_completion(&mut self.hands, completion);
            self.turn();
        }
    }

    /// A client comes with a long HELLO; none when no accept is armed.
    fn come(&mut self) -> Option<u32> {
        let (token, op) = self.hands.take(|_, op| matches!(op, Op::Accept { .. }))?;
        let Op::Accept { slot, .. } = op else { unreachable!("just matched") };
        let completion = self.hands.end((token, op), 0);
        self.core.on_completion(&mut self.hands, completion);
        let mut hello = Vec::new();
        Hello { key: b"key", token: &[b't'; 4_000] }.encode(&mut hello);
        self.hands.deliver(&mut self.core, Sock::Client(slot), &hello);
        Some(slot)
    }

    /// And goes at once, if the gateway looks.
    fn go(&mut self, slot: u32) {
        let sock = Sock::Client(slot);
        self.end(|op| matches!(op, Op::Poll { sock: on, .. } if on == sock), poll_bits::IN);
        self.end(|op| matches!(op, Op::Recv { sock: on, .. } if on == sock), -errno::ECONNRESET);
        self.end(|op| matches!(op, Op::Close { sock: on } if on == sock), 0);
    }
}

#[test]
fn a_worker_that_hangs_is_not_sent_every_client_that_comes_and_goes() {
    let mut rig = Rig::new();
    // One OPEN beyond the window, and CLOSED for every slot.
    let bound = u64::from(WINDOW_BYTES) + 5_000 + 64 * u64::from(SLOTS);
    for _ in 0..20_000 {
        let Some(slot) = rig.come() else { break };
        rig.go(slot);
        rig.turn();
        rig.flush();
        let retained = rig.core.link_views().next().expect("a link").retained_bytes;
        assert!(retained <= bound, "{retained} bytes are retained");
    }
    let waiting = |rig: &Rig| rig.core.slot_views().filter(|slot| slot.state == State::Handshaking).count();
    assert!(waiting(&rig) > 1, "once the window is full, clients wait");
    assert!(matches!(rig.turn(), Next::At(_)), "waiting takes no processor time");
    // The worker goes on, and acknowledges whatever comes.
    for _ in 0..2 * SLOTS {
        let view = rig.core.link_views().next().expect("a link");
        let mut ack = Header::new(LinkType::Ack, ConnectionId::from_bits(0), 8).encode().to_vec();
        ack.extend(view.offered_frames.to_be_bytes());
        rig.hands.deliver(&mut rig.core, Sock::Link(0), &ack);
        rig.turn();
        rig.flush();
    }
    assert_eq!(waiting(&rig), 0, "everybody is served");
    rig.core.check_invariants();
}
