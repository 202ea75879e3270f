//! Kernel memory after many connections have come and gone while others stay parked, in every tier
//! of features that this kernel has.
//!
//! It reads the whole machine's slab, so it wants a machine of its own: `scripts/kernel-matrix`
//! gives it one. By hand, on a machine that does nothing else:
//!
//! ```text
//! cargo test -p roost-ring --test real_churn -- --ignored --nocapture
//! ```
#![forbid(unsafe_code)]

#[path = "figures/mod.rs"]
mod figures;

use std::{
    env, fs,
    io::Read,
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use roost_ring::{
    Config, Features, FeaturesMax, UringDriver,
    op::{Completion, Driver, Interest, Io, Op, PoolSpec, Sock, Token, Wait},
};
use rustix::net::sockopt::set_socket_linger;

/// Clients that stay parked on the same ring all the time.
const NEIGHBOURS: u32 = 1_000;
/// Connections that come and go; `ROOST_CHURN` overrides it.
const CHURN: u32 = 100_000;
const BATCH: u32 = 50;
/// How much the slab may have grown. A socket that is not released keeps some 4 KiB: 400 MiB of
/// these 100,000.
const GROWTH_MAX_BYTES: u64 = 16 << 20;
/// Time for the kernel to free what it frees later, and for one batch.
const LIMIT: Duration = Duration::from_secs(120);

const ACCEPT: u8 = 1;
const POLL: u8 = 2;
const CANCEL: u8 = 3;
const CLOSE: u8 = 4;

#[test]
#[ignore = "reads the whole machine's slab: scripts/kernel-matrix runs it on machines of its own"]
fn slab_is_bounded_after_a_churn() {
    let connections = env::var("ROOST_CHURN").map_or(CHURN, |text| text.parse().expect("a number"));
    let mut tiers = 0;
    for max in [FeaturesMax::Base, FeaturesMax::Deferred, FeaturesMax::Direct] {
        let features = Features::detect(max).expect("io_uring");
        if FeaturesMax::from(features.tier()) != max {
            println!("not here: tier {max}");
            continue;
        }
        churn(&features, connections);
        tiers += 1;
    }
    assert!(tiers > 0);
}

fn churn(features: &Features, connections: u32) {
    let mut rig = Rig::new(features);
    let neighbours = rig.connect(0, NEIGHBOURS);
    // Caches of sockets, files and requests fill in the first rounds.
    for round in 0..20 {
        rig.come_and_go(round % 2 == 0);
    }
    let before = settled_slab_bytes();
    let start = Instant::now();
    for round in 0..connections / BATCH {
        rig.come_and_go(round % 2 == 0);
    }
    let elapsed = start.elapsed();
    let mut after = slab_bytes();
    let deadline = Instant::now() + LIMIT;
    while after.saturating_sub(before) > GROWTH_MAX_BYTES && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(200));
        after = slab_bytes();
    }
    figures::figure(format_args!(
        "churn tier={} descriptors={} connections={connections} neighbours={NEIGHBOURS} seconds={:.1} \
         slab_before_bytes={before} slab_after_bytes={after} growth_max_bytes={GROWTH_MAX_BYTES}",
        features.tier(),
        figures::descriptors(features),
        elapsed.as_secs_f64(),
    ));
    assert!(after.saturating_sub(before) <= GROWTH_MAX_BYTES, "the slab grew from {before} to {after} bytes");
    rig.assert_parked(&neighbours);
}

struct Rig {
    driver: UringDriver,
    listener: std::net::SocketAddr,
    completions: Vec<Completion>,
    /// Counts the connections, and marks their ops.
    generation: u32,
}

impl Rig {
    fn new(features: &Features) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let slots = NEIGHBOURS + BATCH;
        let pools = vec![PoolSpec { block_bytes: 4096, blocks: 16 }];
        let config = Config { ring_slots_max: slots, ..Config::new(slots, pools, vec![listener.into()]) };
        let mut driver = UringDriver::new(features, config).expect("a driver");
        while driver.slots_started() < slots {
            driver.start_slots().expect("the ring");
        }
        Self { driver, listener: address, completions: Vec::new(), generation: 0 }
    }

    /// Connects clients into the slots from `first` on, and parks them.
    fn connect(&mut self, first: u32, count: u32) -> Vec<TcpStream> {
        self.generation += 1;
        let mut streams = Vec::new();
        for slot in first..first + count {
            // One by one where there are many: the backlog is finite.
            streams.push(TcpStream::connect(self.listener).expect("a connection"));
            self.submit(ACCEPT, slot, Op::Accept { slot, listener: 0, expected: false });
            if streams.len() % 50 == 0 {
                self.expect(ACCEPT, 50, |result| result == 0);
            }
        }
        self.expect(ACCEPT, count % 50, |result| result == 0);
        for slot in first..first + count {
            self.submit(POLL, slot, Op::Poll { sock: Sock::Client(slot), interest: Interest::Readable });
        }
        for stream in &streams {
            // A reset leaves no TIME_WAIT behind, neither here nor there, so that ports suffice.
            set_socket_linger(stream, Some(Duration::ZERO)).expect("an option");
        }
        streams
    }

    /// One batch of connections, ended by the clients or by the server.
    fn come_and_go(&mut self, clients_first: bool) {
        let mut streams = self.connect(NEIGHBOURS, BATCH);
        if clients_first {
            streams.clear();
            self.expect(POLL, BATCH, |result| result > 0);
        } else {
            for slot in NEIGHBOURS..NEIGHBOURS + BATCH {
                let target = Token::new(POLL, slot, self.generation);
                self.submit(CANCEL, slot, Op::Cancel { sock: Sock::Client(slot), target });
            }
            self.expect_both(BATCH);
        }
        for slot in NEIGHBOURS..NEIGHBOURS + BATCH {
            self.submit(CLOSE, slot, Op::Close { sock: Sock::Client(slot) });
        }
        self.expect(CLOSE, BATCH, |result| result == 0);
        for stream in &mut streams {
            stream.set_read_timeout(Some(LIMIT)).expect("a timeout");
            assert_eq!(stream.read(&mut [0]).expect("an end"), 0);
        }
    }

    /// Cancels and the polls that they end.
    fn expect_both(&mut self, count: u32) {
        self.wait(2 * count);
        for completion in self.completions.drain(..) {
            let good = match completion.token.kind() {
                CANCEL => completion.result == 0,
                POLL => completion.result == -roost_ring::op::errno::ECANCELED,
                _ => false,
            };
            assert!(good, "{completion:?}");
        }
    }

    fn submit(&mut self, kind: u8, slot: u32, op: Op) {
        self.driver.submit(Token::new(kind, slot, self.generation), op);
    }

    fn expect(&mut self, kind: u8, count: u32, good: fn(i32) -> bool) {
        self.wait(count);
        for completion in self.completions.drain(..) {
            assert!(completion.token.kind() == kind && good(completion.result), "{completion:?}");
        }
    }

    fn wait(&mut self, count: u32) {
        let start = Instant::now();
        while self.completions.len() < count as usize {
            assert!(start.elapsed() < LIMIT, "{} of {count} completions", self.completions.len());
            self.driver
                .turn(Wait::AtMost(Duration::from_millis(100)), &mut self.completions)
                .expect("a turn");
        }
        assert_eq!(self.completions.len(), count as usize, "{:?}", self.completions);
    }

    /// The neighbours have noticed nothing.
    fn assert_parked(&mut self, neighbours: &[TcpStream]) {
        self.driver.turn(Wait::AtMost(Duration::from_millis(50)), &mut self.completions).expect("a turn");
        assert_eq!(self.completions, [], "a neighbour was disturbed");
        for stream in neighbours {
            stream.set_nonblocking(true).expect("an option");
            let mut stream = stream;
            assert!(stream.read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
        }
    }
}

/// The slab once it has stopped shrinking by megabytes.
fn settled_slab_bytes() -> u64 {
    let mut last = slab_bytes();
    for _ in 0..50 {
        thread::sleep(Duration::from_millis(200));
        let now = slab_bytes();
        if now + (1 << 20) > last {
            return now;
        }
        last = now;
    }
    last
}

/// `Slab` of /proc/meminfo (proc_meminfo(5)), in bytes.
fn slab_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").expect("/proc/meminfo");
    let line = text.lines().find(|line| line.starts_with("Slab:")).expect("a Slab line");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") << 10
}
