//! A driver, a listener and the means to wait for single completions.

use std::{
    collections::HashMap,
    fs::OpenOptions,
    io::Write,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use roost_ring::{
    Config, Features, FeaturesMax, UringDriver,
    op::{Block, Completion, Driver, Io, Op, PoolSpec, Sock, Token, Wait},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Nothing here takes this long on any machine; what does has hung.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// What a rig is made with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) features: FeaturesMax,
    pub(crate) slots_max: u32,
    pub(crate) ring_slots_max: u32,
    pub(crate) cq_entries: u32,
    pub(crate) busy_poll: Duration,
}

/// Whether waits begin with a look around or not.
const BUSY_POLLS: [Duration; 2] = [Duration::ZERO, Duration::from_micros(100)];

/// Runs a test in every tier this kernel has, with one ring and with a bank of small ones.
pub(crate) fn everywhere(test: fn(Setup)) {
    in_every_tier(64, &[64, 4], 256, test);
}

/// Runs a test in every tier this kernel has, with rings of each of these sizes, asleep and awake.
pub(crate) fn in_every_tier(slots_max: u32, rings: &[u32], cq_entries: u32, test: fn(Setup)) {
    for features in [FeaturesMax::Base, FeaturesMax::Deferred, FeaturesMax::Direct] {
        let found = Features::detect(features).expect("io_uring");
        if FeaturesMax::from(found.tier()) != features {
            eprintln!("skipped tier {features}: {found}");
            continue;
        }
        for &ring_slots_max in rings {
            for busy_poll in BUSY_POLLS {
                let setup = Setup { features, slots_max, ring_slots_max, cq_entries, busy_poll };
                eprintln!("{setup:?}");
                test(setup);
            }
        }
    }
}

/// Lets this process open as many files as it may.
pub(crate) fn raise_nofile() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("the soft limit may be raised");
}

/// Says that a test could not run here. Whoever runs the tests may collect that in a file.
pub(crate) fn skip(test: &str, reason: &str) {
    eprintln!("skipped {test}: {reason}");
    if let Some(path) = std::env::var_os("ROOST_SKIP_FILE") {
        let mut file = OpenOptions::new().append(true).create(true).open(path).expect("the skip file");
        writeln!(file, "{test}: {reason}").expect("the skip file");
    }
}

pub(crate) struct Rig {
    pub(crate) driver: UringDriver,
    pub(crate) address: SocketAddr,
    /// Completions nobody has asked for yet, by token. A token that completes twice is an error.
    pub(crate) done: HashMap<Token, i32>,
    /// Where the client of each finished accept comes from.
    pub(crate) from: HashMap<Token, Option<SocketAddr>>,
    last_peer: Option<SocketAddr>,
    pub(crate) wakes: u32,
    next: u32,
}

impl Rig {
    pub(crate) const BLOCK_BYTES: u32 = 4096;

    /// A driver with all its rings started, and a listener on loopback.
    pub(crate) fn new(setup: Setup) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        Self::with_listener(setup, listener.into(), address)
    }

    /// As [`Self::new`]; `address` is where [`Self::client`] connects to.
    pub(crate) fn with_listener(setup: Setup, listener: OwnedFd, address: SocketAddr) -> Self {
        raise_nofile();
        let features = Features::detect(setup.features).expect("io_uring");
        let pools = vec![PoolSpec { block_bytes: Self::BLOCK_BYTES, blocks: 4096 }];
        let config = Config {
            ring_slots_max: setup.ring_slots_max,
            cq_entries: setup.cq_entries,
            sq_entries: 64,
            busy_poll: setup.busy_poll,
            ..Config::new(setup.slots_max, pools, vec![listener])
        };
        let mut driver = UringDriver::new(&features, config).expect("a driver");
        while driver.slots_started() < setup.slots_max {
            driver.start_slots().expect("a further ring");
        }
        Self {
            driver,
            address,
            done: HashMap::new(),
            from: HashMap::new(),
            last_peer: None,
            wakes: 0,
            next: 0,
        }
    }

    pub(crate) fn block(index: u32) -> Block {
        Block::new(0, index)
    }

    /// Submits an op under a token of its own.
    pub(crate) fn start(&mut self, op: Op) -> Token {
        let kind = match op {
            Op::Accept { .. } => 1,
            Op::Poll { .. } => 2,
            Op::Recv { .. } => 3,
            Op::Send { .. } => 4,
            Op::Connect { .. } => 5,
            Op::Shutdown { .. } => 6,
            Op::Close { .. } => 7,
            Op::Cancel { .. } => 8,
            Op::CountWaiting { .. } => 9,
        };
        self.next += 1;
        let token = Token::new(kind, 0, self.next);
        self.driver.submit(token, op);
        token
    }

    /// One turn of the loop. Returns how many completions there were.
    pub(crate) fn turn(&mut self, wait: Wait) -> usize {
        let mut completions = Vec::new();
        self.driver.turn(wait, &mut completions).expect("a turn");
        for Completion { token, result, peer } in &completions {
            if token.kind() == 1 {
                self.last_peer = peer.address();
                self.from.insert(*token, self.last_peer);
            }
            if *token == Token::WAKE {
                self.wakes += 1;
                continue;
            }
            assert_eq!(self.done.insert(*token, *result), None, "{token:?} completed twice");
        }
        completions.len()
    }

    /// Turns until the condition holds.
    pub(crate) fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let start = Instant::now();
        while !holds(self) {
            assert!(start.elapsed() < LIMIT, "waited too long for {what}");
            self.turn(Wait::AtMost(Duration::from_millis(100)));
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

    /// A connected client in `slot`.
    pub(crate) fn client(&mut self, slot: u32) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("a connection");
        stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
        assert_eq!(self.run(Op::Accept { slot, listener: 0, expected: false }), 0);
        stream
    }

    /// Where the client of the last accept comes from.
    pub(crate) fn last_peer(&self) -> Option<SocketAddr> {
        self.last_peer
    }

    pub(crate) fn fill(&mut self, block: u32, bytes: &[u8]) {
        self.driver.block_mut(Self::block(block))[..bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn bytes(&self, block: u32, len: i32) -> &[u8] {
        &self.driver.block(Self::block(block))[..usize::try_from(len).expect("no error")]
    }

    /// Nothing completes that was not asked for.
    pub(crate) fn assert_quiet(&mut self) {
        self.turn(Wait::AtMost(Duration::from_millis(20)));
        assert!(self.done.is_empty(), "left over: {:?}", self.done);
    }
}

/// A receive of a whole block.
pub(crate) fn recv(sock: Sock, block: u32, wait: bool) -> Op {
    Op::Recv { sock, block: Rig::block(block), offset: 0, len: Rig::BLOCK_BYTES, wait }
}

/// A send of the first bytes of a block.
pub(crate) fn send(sock: Sock, block: u32, len: u32, wait: bool) -> Op {
    Op::Send { sock, block: Rig::block(block), offset: 0, len, wait }
}
