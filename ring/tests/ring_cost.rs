//! What the ring driver costs. Measurements, not checks: run them alone, on a quiet machine, with
//!
//! ```text
//! cargo test --release -p roost-ring --test ring_cost -- --ignored --nocapture --test-threads 1
//! ```

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

use roost_ring::{
    Config, Features, FeaturesMax, RING_SLOTS_MAX, UringDriver,
    op::{Block, Completion, Driver, Interest, Io, Op, PoolSpec, Sock, Token, Wait},
};

const ACCEPT: u8 = 1;
const POLL: u8 = 2;
const RECV: u8 = 3;
const SEND: u8 = 4;
const CANCEL: u8 = 5;

fn features() -> Vec<Features> {
    let found = |max| Features::detect(max).expect("io_uring");
    let mut all: Vec<Features> =
        [FeaturesMax::Direct, FeaturesMax::Deferred, FeaturesMax::Base].map(found).into();
    all.dedup_by_key(|features| features.tier());
    all
}

/// A field of `/proc/self/smaps_rollup`, in bytes.
fn smaps(field: &str) -> u64 {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").expect("smaps_rollup");
    let line = rollup.lines().find(|line| line.starts_with(field)).expect("the field");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
}

/// User and system time of this thread so far.
fn cpu() -> (Duration, Duration) {
    // SAFETY: getrusage fills in the struct, for which any bytes are valid.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_THREAD, &mut usage), 0);
        usage
    };
    let time = |time: libc::timeval| {
        Duration::new(time.tv_sec.unsigned_abs(), 0) + Duration::from_micros(time.tv_usec.unsigned_abs())
    };
    (time(usage.ru_utime), time(usage.ru_stime))
}

fn listener() -> (OwnedFd, std::net::SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener.into(), address)
}

fn accept(driver: &mut UringDriver, address: std::net::SocketAddr, slot: u32) -> TcpStream {
    let stream = TcpStream::connect(address).expect("a connection");
    driver.submit(Token::new(ACCEPT, slot, 0), Op::Accept { slot, listener: 0, expected: false });
    let mut completions = Vec::new();
    while completions.is_empty() {
        driver.turn(Wait::AtMost(Duration::from_secs(1)), &mut completions).expect("a turn");
    }
    let done: Vec<_> = completions.iter().map(|done| (done.token, done.result)).collect();
    assert_eq!(done, [(Token::new(ACCEPT, slot, 0), 0)]);
    stream
}

#[test]
#[ignore = "a measurement"]
fn memory_per_ring() {
    const RINGS: u32 = 32;
    println!("tier      sq    cq  PSS per ring  Private_Dirty per ring  PSS per slot");
    for features in features() {
        for (sq_entries, cq_entries) in
            [(128, 2048), (256, 1024), (256, 2048), (256, 4096), (256, 8192), (1024, 2048)]
        {
            let config = Config {
                sq_entries,
                cq_entries,
                ..Config::new(RING_SLOTS_MAX * RINGS, Vec::new(), Vec::new())
            };
            let Ok(mut driver) = UringDriver::new(&features, config) else { continue };
            let before = (smaps("Pss:"), smaps("Private_Dirty:"));
            for _ in 1..RINGS {
                driver.start_slots().expect("a ring");
            }
            let mut completions = Vec::new();
            driver.turn(Wait::No, &mut completions).expect("a turn");
            let per_ring = |field, before| (smaps(field) - before) / u64::from(RINGS - 1);
            let pss = per_ring("Pss:", before.0);
            println!(
                "{:8} {sq_entries:4} {cq_entries:5}  {pss:12}  {:22}  {:12.2}",
                features.tier().to_string(),
                per_ring("Private_Dirty:", before.1),
                pss as f64 / f64::from(RING_SLOTS_MAX),
            );
        }
    }
}

/// Cancels each of 16,384 polls parked on one ring, in an order that is not theirs.
#[test]
#[ignore = "a measurement"]
fn cancel_by_size_of_completion_queue() {
    println!("tier        cq  park ns/poll  cancel ns/poll");
    for features in features() {
        for cq_entries in [1024, 2048, 4096, 8192] {
            let (listener, address) = listener();
            let config = Config { cq_entries, ..Config::new(RING_SLOTS_MAX, Vec::new(), vec![listener]) };
            let mut driver = UringDriver::new(&features, config).expect("a driver");
            let _client = accept(&mut driver, address, 0);
            let sock = Sock::Client(0);
            let mut completions = Vec::new();
            let start = Instant::now();
            for index in 0..RING_SLOTS_MAX {
                let token = Token::new(POLL, index, 1);
                driver.submit(token, Op::Poll { sock, interest: Interest::Readable });
            }
            driver.turn(Wait::No, &mut completions).expect("a turn");
            let parked = start.elapsed();
            assert!(completions.is_empty());
            let start = Instant::now();
            for index in 0..RING_SLOTS_MAX {
                // 4,099 is odd, so this visits every poll once.
                let index = index.wrapping_mul(4099) % RING_SLOTS_MAX;
                let target = Token::new(POLL, index, 1);
                driver.submit(Token::new(CANCEL, index, 1), Op::Cancel { sock, target });
            }
            while completions.len() < 2 * RING_SLOTS_MAX as usize {
                driver.turn(Wait::AtMost(Duration::from_secs(1)), &mut completions).expect("a turn");
            }
            let cancelled = start.elapsed();
            let per_op = |elapsed: Duration| elapsed.as_nanos() / u128::from(RING_SLOTS_MAX);
            println!(
                "{:8} {cq_entries:5}  {:12}  {:14}",
                features.tier().to_string(),
                per_op(parked),
                per_op(cancelled)
            );
        }
    }
}

/// What an op costs before the kernel sees it.
#[test]
#[ignore = "a measurement"]
fn user_time_per_submitted_op() {
    const ROUNDS: u32 = 2000;
    // Fits the submission queue, so no system call is among it.
    const BATCH: u32 = 100;
    println!("tier      op    ns/op");
    for features in features() {
        let (listener, address) = listener();
        let pools = vec![PoolSpec { block_bytes: 4096, blocks: BATCH }];
        let mut driver =
            UringDriver::new(&features, Config::new(BATCH, pools, vec![listener])).expect("a driver");
        let _clients: Vec<_> = (0..BATCH).map(|slot| accept(&mut driver, address, slot)).collect();
        let mut completions = Vec::new();
        for (name, kind) in [("poll", POLL), ("recv", RECV)] {
            let op = |slot| match kind {
                POLL => Op::Poll { sock: Sock::Client(slot), interest: Interest::Writable },
                _ => Op::Recv {
                    sock: Sock::Client(slot),
                    block: Block::new(0, slot),
                    offset: 0,
                    len: 4096,
                    wait: false,
                },
            };
            let mut elapsed = Duration::ZERO;
            for _ in 0..ROUNDS {
                let start = Instant::now();
                for slot in 0..BATCH {
                    driver.submit(Token::new(kind, slot, 1), op(slot));
                }
                elapsed += start.elapsed();
                while completions.len() < BATCH as usize {
                    driver.turn(Wait::AtMost(Duration::from_secs(1)), &mut completions).expect("a turn");
                }
                completions.clear();
            }
            let per_op = elapsed.as_nanos() as f64 / f64::from(ROUNDS * BATCH);
            println!("{:8} {name:5} {per_op:6.1}", features.tier().to_string());
        }
    }
}

/// The cycle of a client that says something: poll, receive, send back, poll.
fn echo(driver: &mut UringDriver, clients: u32, messages: u64) -> (u64, u64) {
    let submit_poll = |driver: &mut UringDriver, slot| {
        driver.submit(
            Token::new(POLL, slot, 1),
            Op::Poll { sock: Sock::Client(slot), interest: Interest::Readable },
        );
    };
    for slot in 0..clients {
        submit_poll(driver, slot);
    }
    let mut completions = Vec::with_capacity(2048);
    let (mut echoed, mut turns) = (0, 0);
    while echoed < messages {
        driver.turn(Wait::AtMost(Duration::from_secs(1)), &mut completions).expect("a turn");
        turns += 1;
        for Completion { token, result, .. } in completions.drain(..) {
            let slot = token.index();
            let (sock, block) = (Sock::Client(slot), Block::new(0, slot));
            match token.kind() {
                POLL => driver.submit(
                    Token::new(RECV, slot, 1),
                    Op::Recv { sock, block, offset: 0, len: 4096, wait: false },
                ),
                RECV => {
                    let len = result.unsigned_abs();
                    assert!(result > 0, "{result}");
                    driver.submit(
                        Token::new(SEND, slot, 1),
                        Op::Send { sock, block, offset: 0, len, wait: false },
                    );
                    submit_poll(driver, slot);
                }
                SEND => {
                    assert!(result > 0, "{result}");
                    echoed += 1;
                }
                _ => unreachable!(),
            }
        }
    }
    (echoed, turns)
}

#[test]
#[ignore = "a measurement"]
fn cpu_per_echo() {
    println!("tier      rings clients  user ns/msg  system ns/msg  msgs/turn  msgs/s");
    for features in features() {
        for (rings, clients, burst) in
            [(1, 1000, 1000), (8, 1000, 1000), (1, 1000, 8), (8, 1000, 8), (8, 8, 1)]
        {
            let (listener, address) = listener();
            let config = Config {
                ring_slots_max: clients / rings,
                ..Config::new(clients, vec![PoolSpec { block_bytes: 4096, blocks: clients }], vec![listener])
            };
            let mut driver = UringDriver::new(&features, config).expect("a driver");
            while driver.slots_started() < clients {
                driver.start_slots().expect("a ring");
            }
            let mut streams: Vec<TcpStream> =
                (0..clients).map(|slot| accept(&mut driver, address, slot)).collect();
            let messages: u64 = if burst == 1 { 50_000 } else { 200_000 };
            let client = thread::spawn(move || {
                let message = [7u8; 64];
                let mut back = [0; 64];
                let mut left = messages;
                while left > 0 {
                    for chunk in streams.chunks_mut(burst) {
                        for stream in &mut *chunk {
                            stream.write_all(&message).expect("sent");
                        }
                        for stream in chunk {
                            stream.read_exact(&mut back).expect("received");
                            left -= 1;
                        }
                        if left == 0 {
                            break;
                        }
                    }
                }
                streams
            });
            let (start, (user, system)) = (Instant::now(), cpu());
            let (echoed, turns) = echo(&mut driver, clients, messages);
            let (user_end, system_end) = cpu();
            let rate = echoed as f64 / start.elapsed().as_secs_f64();
            let per_message = |time: Duration| time.as_nanos() as f64 / echoed as f64;
            println!(
                "{:8} {rings:6} {clients:7}  {:11.0}  {:13.0}  {:9.1}  {rate:6.0}",
                features.tier().to_string(),
                per_message(user_end - user),
                per_message(system_end - system),
                echoed as f64 / turns as f64,
            );
            drop(client.join().expect("a client"));
        }
    }
}
