//! When a shard accepts: not before it is told to, in a drain to say that it ends, and never after its
//! listeners are closed.
#![forbid(unsafe_code)]

use std::sync::Arc;

use roost_gateway::{
    core::{
        CoreConfig,
        pool::specs,
        shard::{Command, ShardCore},
        stats::{ShardStats, Stat},
    },
    op::{Op, Sock, errno},
    sim::Hands,
};
use roost_protocol::{
    Reason,
    edge::{self, FrameType, Goaway, Split},
};

struct Bed {
    core: ShardCore,
    hands: Hands,
    stats: Arc<ShardStats>,
}

impl Bed {
    fn new(config: CoreConfig) -> Self {
        let mut hands = Hands::new(&specs(&config));
        let stats = Arc::new(ShardStats::default());
        let mut core = ShardCore::new(config, 256, Arc::clone(&stats), Box::new(|bytes| bytes.fill(7)));
        core.start(&mut hands, 0, 256);
        Self { core, hands, stats }
    }

    fn command(&mut self, command: Command) {
        self.core.on_command(&mut self.hands, command);
        self.core.end_turn(&mut self.hands);
    }

    fn accepts(&self) -> usize {
        self.hands.ops().filter(|(_, op)| matches!(op, Op::Accept { .. })).count()
    }

    /// A client comes; its slot.
    fn client(&mut self) -> u32 {
        let accept = self.hands.take(|_, op| matches!(op, Op::Accept { .. })).expect("an accept");
        let Op::Accept { slot, .. } = accept.1 else { unreachable!() };
        let completion = self.hands.end(accept, 0);
        self.core.on_completion(&mut self.hands, completion);
        self.core.end_turn(&mut self.hands);
        slot
    }

    /// What the client in `slot` is told.
    fn goaway(&mut self, slot: u32) -> (Reason, u32, String) {
        let send = self
            .hands
            .take(|_, op| matches!(op, Op::Send { sock: Sock::Client(to), .. } if to == slot))
            .expect("it is told at once");
        let (completion, bytes) = self.hands.end_send(send, usize::MAX);
        self.core.on_completion(&mut self.hands, completion);
        let Ok(Split::Frame { frame_type: FrameType::Goaway, frame }) = edge::split(&bytes, 1 << 16) else {
            panic!("{bytes:?} is no GOAWAY")
        };
        let goaway = Goaway::decode(&frame[edge::HEADER_BYTES..]).unwrap();
        (goaway.reason, goaway.retry_after_ms, str::from_utf8(goaway.alternative).unwrap().to_owned())
    }
}

fn drain() -> Command {
    Command::Drain { over_ms: 600_000, to: Arc::from("b.example:7400") }
}

#[test]
fn nobody_is_accepted_before_the_shell_says_so() {
    let mut bed = Bed::new(CoreConfig { accepts_at_start: false, ..CoreConfig::lone(256, Vec::new()) });
    bed.core.begin_turn(5_000);
    bed.core.end_turn(&mut bed.hands);
    bed.command(Command::Rescan);
    assert_eq!(bed.accepts(), 0);
    bed.command(Command::StartAccepting);
    assert!(bed.accepts() > 0);
}

#[test]
fn whoever_comes_in_a_drain_is_told_at_once_whatever_the_ramp_says() {
    let config = CoreConfig { accept_ramp_per_s: 1, accepts_max: 2, ..CoreConfig::lone(256, Vec::new()) };
    let mut bed = Bed::new(config);
    bed.core.begin_turn(1_000);
    bed.core.end_turn(&mut bed.hands);
    bed.client();
    assert_eq!(bed.accepts(), 0, "the ramp holds the next one back");
    bed.command(drain());
    for _ in 0..20 {
        let slot = bed.client();
        let (reason, retry_after_ms, to) = bed.goaway(slot);
        assert_eq!((reason, to.as_str()), (Reason::Drain, "b.example:7400"));
        assert!((1_000..=5_000).contains(&retry_after_ms), "{retry_after_ms}");
    }
}

#[test]
fn when_accepting_has_ended_no_accept_is_left_and_none_follows() {
    let mut bed = Bed::new(CoreConfig::lone(256, Vec::new()));
    bed.command(drain());
    bed.command(Command::StopAccepting);
    assert!(bed.core.accepts_armed() > 0, "they are not joined yet");
    while let Some(cancel) = bed.hands.take(|_, op| matches!(op, Op::Cancel { .. })) {
        let Op::Cancel { target, .. } = cancel.1 else { unreachable!() };
        let accept = bed.hands.take(|token, _| token == target).expect("its accept");
        for completion in [bed.hands.end(accept, -errno::ECANCELED), bed.hands.end(cancel, 0)] {
            bed.core.on_completion(&mut bed.hands, completion);
        }
    }
    for now_ms in [0, 10, 10_000] {
        bed.core.begin_turn(now_ms);
        bed.command(Command::Rescan);
        bed.command(Command::StartAccepting);
        assert_eq!((bed.core.accepts_armed(), bed.accepts()), (0, 0));
    }
    assert_eq!(bed.stats.get(Stat::AcceptsArmed), 0);
}
