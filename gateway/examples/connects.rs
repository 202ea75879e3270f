//! Connects at a steady rate, whatever becomes of earlier attempts, and says what became of each.
//!
//!     cargo run --release -p roost-gateway --example connects -- ADDR:PORT PER_SECOND SECONDS_MAX
//!
//! An attempt connects, says HELLO, waits for WELCOME or GOAWAY, says CLOSE and waits for the end.
//! It ends after that time, or when its standard input does, and prints one JSON object.
//! `scripts/handover` runs it while gateways succeed each other.
#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    env,
    io::{ErrorKind, Read},
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use roost_protocol::edge::{self, FrameType, Goaway, Hello, Split};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::{
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

/// Attempts under way at once: each takes a descriptor.
const IN_FLIGHT_MAX: usize = 12_000;
/// After this an attempt counts as lost.
const PATIENCE: Duration = Duration::from_secs(30);
/// A port is free again as soon as the gateway has closed first, but one address has 28,000 only.
const SOURCES: u64 = 64;

/// What became of an attempt.
#[derive(Debug)]
struct Outcome {
    /// `welcome`, `goaway: REASON`, or what failed.
    what: String,
    /// From when it was due to its answer; none if there was none.
    answered_us: Option<u64>,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    ensure!(arguments.len() == 3, "usage: connects ADDR:PORT PER_SECOND SECONDS_MAX");
    let target = arguments[0].parse().context("ADDR:PORT")?;
    let per_second: f64 = arguments[1].parse().context("PER_SECOND")?;
    let seconds_max: f64 = arguments[2].parse().context("SECONDS_MAX")?;
    ensure!(per_second > 0.0 && seconds_max > 0.0, "rate and time are more than 0");
    let hard = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    println!("{}", runtime.block_on(run(target, per_second, Duration::from_secs_f64(seconds_max)))?);
    Ok(())
}

async fn run(target: SocketAddr, per_second: f64, longest: Duration) -> Result<serde_json::Value> {
    let ended = Arc::new(AtomicBool::new(false));
    let end = Arc::clone(&ended);
    thread::spawn(move || {
        drop(std::io::stdin().read_to_end(&mut Vec::new()));
        end.store(true, Relaxed);
    });
    let mut attempts = JoinSet::new();
    let mut outcomes: BTreeMap<String, u64> = BTreeMap::new();
    let (mut answered_us, mut lag_us): (Vec<u64>, Vec<u64>) = (Vec::new(), Vec::new());
    let began = Instant::now();
    let mut begun: u64 = 0;
    let mut note = |outcome: Outcome, outcomes: &mut BTreeMap<String, u64>| {
        *outcomes.entry(outcome.what).or_default() += 1;
        answered_us.extend(outcome.answered_us);
    };
    while !ended.load(Relaxed) && began.elapsed() < longest {
        loop {
            let due_at = began + Duration::from_secs_f64(begun as f64 / per_second);
            if due_at > Instant::now() {
                break;
            }
            lag_us.push(due_at.elapsed().as_micros() as u64);
            if attempts.len() < IN_FLIGHT_MAX {
                attempts.spawn(attempt(target, begun, due_at));
            } else {
                *outcomes.entry("not begun: too many under way".to_owned()).or_default() += 1;
            }
            begun += 1;
        }
        while let Some(outcome) = attempts.try_join_next() {
            note(outcome?, &mut outcomes);
        }
        sleep(Duration::from_millis(1)).await;
    }
    let seconds = began.elapsed().as_secs_f64();
    while let Some(outcome) = attempts.join_next().await {
        note(outcome?, &mut outcomes);
    }
    Ok(json!({
        "target": target,
        "per_second_wanted": per_second,
        "per_second": begun as f64 / seconds,
        "seconds": seconds,
        "attempts": begun,
        "outcomes": outcomes,
        "answered_us": percentiles(answered_us),
        "begun_late_us": percentiles(lag_us),
    }))
}

async fn attempt(target: SocketAddr, index: u64, due_at: Instant) -> Outcome {
    let mut answered_us = None;
    let result = timeout(PATIENCE, session(target, index, due_at, &mut answered_us)).await;
    let what = match result {
        Ok(Ok(answer)) => answer,
        Ok(Err(failure)) => failure,
        Err(_) => format!("timed out, {}", if answered_us.is_some() { "answered" } else { "no answer" }),
    };
    Outcome { what, answered_us }
}

/// One session. What failed is said in words, the kind of error among them.
async fn session(
    target: SocketAddr,
    index: u64,
    due_at: Instant,
    answered_us: &mut Option<u64>,
) -> Result<String, String> {
    let failed = |what: &'static str| move |error: std::io::Error| format!("{what}: {}", error.kind());
    let socket = TcpSocket::new_v4().map_err(failed("no socket"))?;
    if target.ip().is_loopback() {
        let source = Ipv4Addr::new(127, 0, 1, 1 + (index % SOURCES) as u8);
        socket.bind((source, 0).into()).map_err(failed("no source port"))?;
    }
    let stream = socket.connect(target).await.map_err(failed("connect failed"))?;
    let mut bytes = Vec::new();
    Hello { key: format!("visitor-{index}").as_bytes(), token: b"" }.encode(&mut bytes);
    write(&stream, &bytes).await.map_err(failed("HELLO failed"))?;
    let mut received = Vec::new();
    let (answer, welcome) = loop {
        if read(&stream, &mut received).await.map_err(failed("no answer"))? == 0 {
            return Err("no answer: the end".to_owned());
        }
        match edge::split(&received, edge::FRAME_BYTES_LIMIT) {
            Ok(Split::Frame { frame_type: FrameType::Welcome, .. }) => break ("welcome".to_owned(), true),
            Ok(Split::Frame { frame_type: FrameType::Goaway, frame }) => {
                let goaway =
                    Goaway::decode(&frame[edge::HEADER_BYTES..]).map_err(|error| error.to_string())?;
                break (format!("goaway: {}", goaway.reason), false);
            }
            Ok(Split::Need { .. }) => {}
            other => return Err(format!("not an answer: {other:?}")),
        }
    };
    *answered_us = Some(due_at.elapsed().as_micros() as u64);
    if welcome {
        let mut close = Vec::new();
        edge::encode_frame(FrameType::Close, &[], &mut close);
        // A gateway that has closed already has said all that matters.
        drop(write(&stream, &close).await);
    }
    while read(&stream, &mut received).await.map_err(failed("after the answer"))? > 0 {}
    Ok(answer)
}

async fn write(stream: &TcpStream, mut bytes: &[u8]) -> std::io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn read(stream: &TcpStream, into: &mut Vec<u8>) -> std::io::Result<usize> {
    loop {
        stream.readable().await?;
        match stream.try_read_buf(into) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

fn percentiles(mut samples: Vec<u64>) -> serde_json::Value {
    samples.sort_unstable();
    let at = |percent: usize| samples.get(samples.len() * percent / 100);
    json!({ "p50": at(50), "p99": at(99), "max": samples.last() })
}
