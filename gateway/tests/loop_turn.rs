//! What `roost_loop_turn_seconds` means: from reaping completions to submitting what they caused,
//! without the waiting and without what the kernel does.
#![forbid(unsafe_code)]

use std::{cell::RefCell, io, rc::Rc, sync::Arc};

use roost_gateway::{
    core::{
        CoreConfig, pool,
        stats::{ShardStats, Stat},
    },
    event_loop::{Clock, Shard, channel},
    op::{Block, Completion, Driver, Io, LinkAddress, Op, Token, Wait, Waker},
    sim::{FakeDriver, Faults, NoActors, Rng, World},
};

/// What acting on a completion takes, per op that it causes.
const ACT_NS: u64 = 1_000_000;
/// What a turn spends in the kernel: it submits, waits and reaps.
const KERNEL_NS: u64 = 400_000_000;

/// The time that has passed, and the ops that were submitted.
#[derive(Debug, Default)]
struct Passed {
    ns: u64,
    ops: u64,
}

struct Watch(Rc<RefCell<Passed>>);

impl Clock for Watch {
    fn now_ns(&mut self) -> u64 {
        self.0.borrow().ns
    }

    fn cpu_ns(&mut self) -> u64 {
        0
    }
}

/// A driver for which acting and waiting take time.
struct Timed {
    driver: FakeDriver,
    passed: Rc<RefCell<Passed>>,
}

impl Io for Timed {
    fn submit(&mut self, token: Token, op: Op) {
        let mut passed = self.passed.borrow_mut();
        (passed.ns, passed.ops) = (passed.ns + ACT_NS, passed.ops + 1);
        self.driver.submit(token, op);
    }

    fn block(&self, block: Block) -> &[u8] {
        self.driver.block(block)
    }

    fn block_mut(&mut self, block: Block) -> &mut [u8] {
        self.driver.block_mut(block)
    }

    fn write(&mut self, block: Block, offset: u32, bytes: &[u8]) {
        self.driver.write(block, offset, bytes);
    }
}

impl Driver for Timed {
    fn turn(&mut self, wait: Wait, completions: &mut Vec<Completion>) -> io::Result<()> {
        self.passed.borrow_mut().ns += KERNEL_NS;
        self.driver.turn(wait, completions)
    }

    fn has_more(&mut self) -> bool {
        self.driver.has_more()
    }

    fn slots_started(&self) -> u32 {
        self.driver.slots_started()
    }

    fn start_slots(&mut self) -> io::Result<()> {
        self.driver.start_slots()
    }

    fn slots_per_ring(&self) -> u32 {
        self.driver.slots_per_ring()
    }

    fn close_listeners(&mut self) {
        self.driver.close_listeners();
    }

    fn set_link_address(&mut self, link: u16, address: LinkAddress) {
        self.driver.set_link_address(link, address);
    }

    fn waker(&self) -> Waker {
        self.driver.waker()
    }
}

#[test]
fn a_turn_lasts_from_reaping_to_submitting() {
    let config = CoreConfig { accepts_max: 2, counts_waiting: true, ..CoreConfig::lone(16, Vec::new()) };
    let world = World::new(Rng::new(1), 1, 16, 16, Faults::calm());
    let world = Rc::new(RefCell::new(world));
    let actors = Rc::new(RefCell::new(NoActors));
    let driver = FakeDriver::new(Rc::clone(&world), actors, &pool::specs(&config), (16, 16));
    let passed = Rc::new(RefCell::new(Passed::default()));
    let stats = Arc::new(ShardStats::default());
    let (_requests, receiver) = channel();
    let mut shard = Shard::new(
        config,
        Timed { driver, passed: Rc::clone(&passed) },
        Watch(Rc::clone(&passed)),
        Arc::clone(&stats),
        Box::new(|bytes| bytes.fill(7)),
        receiver,
    );
    let peer = Some("192.0.2.7:4000".parse().unwrap());
    let clients = [(); 3].map(|()| world.borrow_mut().connect(0, 0, peer).expect("room in the backlog"));
    for turn in 0..20 {
        if turn == 10 {
            clients.iter().for_each(|&client| world.borrow_mut().net.peer_close(client));
        }
        let (ops, busy_ns) = (passed.borrow().ops, stats.get(Stat::LoopBusyNs));
        shard.turn().unwrap();
        let caused = passed.borrow().ops - ops;
        assert_eq!(stats.get(Stat::LoopBusyNs) - busy_ns, caused * ACT_NS, "turn {turn}");
    }
    // Three accepts and closes were acted on, and every turn is counted once.
    assert_eq!((stats.get(Stat::Accepts), stats.get(Stat::Connections)), (3, 0));
    assert!(stats.get(Stat::LoopBusyNs) >= 12 * ACT_NS);
    let counted: u64 =
        stats.loop_turn_us.iter().map(|bucket| bucket.load(std::sync::atomic::Ordering::Relaxed)).sum();
    assert_eq!(counted, 20);
}
