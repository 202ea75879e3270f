//! The admin side over real sockets, before shards that are played by a thread.
#![forbid(unsafe_code)]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use roost_gateway::{
    admin::Admin,
    config::Config,
    core::{
        Command, ConnectionInfo,
        record::State,
        stats::{ShardStats, Stat},
    },
    event_loop::{Request, ShardHandle, channel},
    op::Waker,
};
use roost_protocol::{ConnectionId, Reason};

const TOKEN: &str = "a-token-for-tests-only";

/// A shard that knows one connection and remembers the commands it got.
struct FakeShard {
    handle: ShardHandle,
    commands: Arc<Mutex<Vec<Command>>>,
}

fn known(shard: u8) -> ConnectionInfo {
    ConnectionInfo {
        connection: ConnectionId::new(shard, 7, 3),
        state: State::Open,
        worker: Some("b".into()),
        routing_hash: Some(5_000 << 50 | 0xabc),
        session: Some(5),
        idle_ms: 2_000,
        outbox_bytes: 10,
        spill_bytes: 0,
        blocked: false,
    }
}

impl FakeShard {
    fn start(index: u8) -> Self {
        let (sender, requests) = channel();
        let handle = ShardHandle::new(sender, Waker::new(|| {}), Arc::new(ShardStats::default()));
        let commands = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&commands);
        thread::spawn(move || {
            for request in requests {
                match request {
                    Request::LookUp(id, reply) => {
                        let info = known(index);
                        reply.send((info.connection == id).then_some(info)).unwrap();
                    }
                    Request::Sample { from_slot, count, reply } => {
                        let infos = [known(index)];
                        let wanted = infos.into_iter().filter(|info| info.connection.slot() >= from_slot);
                        reply.send(wanted.take(count).collect()).unwrap();
                    }
                    Request::Command(command) => log.lock().unwrap().push(command),
                    _ => return,
                }
            }
        });
        Self { handle, commands }
    }
}

struct Bed {
    admin: Admin,
    shards: Vec<FakeShard>,
    _token: tempfile::NamedTempFile,
}

impl Bed {
    fn new() -> Self {
        let shards = vec![FakeShard::start(0), FakeShard::start(1)];
        let mut token = tempfile::NamedTempFile::new().unwrap();
        writeln!(token, "{TOKEN}").unwrap();
        let config = Config {
            admin_listen: vec!["127.0.0.1:0".parse().unwrap(), "[::1]:0".parse().unwrap()],
            admin_token_file: token.path().to_owned(),
            ..Config::default()
        };
        let handles = shards.iter().map(|shard| shard.handle.clone()).collect();
        let admin = Admin::start(&config, handles).unwrap();
        Self { admin, shards, _token: token }
    }

    fn address(&self) -> SocketAddr {
        self.admin.addresses()[0]
    }

    fn get(&self, path: &str) -> (u16, String) {
        request(self.address(), "GET", path, &[])
    }

    fn api(&self, method: &str, path: &str) -> (u16, serde_json::Value) {
        let bearer = format!("Bearer {TOKEN}");
        let (status, answer) = request(self.address(), method, path, &[("Authorization", &bearer)]);
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        (status, serde_json::from_str(body).unwrap())
    }
}

/// Sends a request; gives back the status and everything that came.
fn request(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "Host") {
        head += &format!("Host: {address}\r\n");
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
}

#[test]
fn metrics_health_and_page_are_public() {
    let bed = Bed::new();
    bed.shards[1].handle.stats().set(Stat::Connections, 42);
    let (status, text) = bed.get("/metrics");
    assert_eq!(status, 200);
    assert!(text.contains("\nroost_connections{shard=\"1\"} 42\n"), "{text}");
    assert!(text.contains("content-type: text/plain; version=0.0.4"), "{text}");
    assert!(text.contains("\n# TYPE roost_accepts_total counter\n"), "{text}");
    let openmetrics = [("Accept", "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")];
    let (_, text) = request(bed.address(), "GET", "/metrics", &openmetrics);
    assert!(text.contains("content-type: application/openmetrics-text; version=1.0.0"), "{text}");
    assert!(text.contains("\n# TYPE roost_accepts counter\n") && text.ends_with("# EOF\n"), "{text}");
    let (status, head) = request(bed.address(), "HEAD", "/metrics", &[]);
    assert!(status == 200 && head.ends_with("\r\n\r\n"), "{head}");
    assert_eq!(bed.get("/healthz").0, 200);
    let (status, page) = bed.get("/");
    assert_eq!(status, 200);
    assert!(page.contains("content-security-policy: default-src 'none'"), "{page}");
    // Served on every address.
    assert_eq!(request(bed.admin.addresses()[1], "GET", "/healthz", &[]).0, 200);
    assert_eq!(bed.get("/nothing").0, 404);
    assert_eq!(request(bed.address(), "POST", "/metrics", &[]).0, 405);
}

#[test]
fn the_page_is_self_contained() {
    let (_, page) = Bed::new().get("/");
    assert!(!page.contains("/* plot.js */"), "the plotting code is missing");
    for foreign in ["src=", "http://", "https://", "@import", "url("] {
        assert!(!page.contains(foreign), "the page has {foreign}");
    }
}

#[test]
fn readiness_follows_workers_and_drain() {
    let bed = Bed::new();
    let (status, text) = bed.get("/readyz");
    assert_eq!(status, 503);
    assert!(text.contains("shard 0 has no worker"), "{text}");
    for shard in &bed.shards {
        shard.handle.stats().set(Stat::LinksUp, 1);
    }
    assert_eq!(bed.get("/readyz").0, 200);
    assert!(bed.get("/metrics").1.contains("\nroost_ready 1\n"));
    bed.admin.set_ready(false);
    assert_eq!(bed.get("/readyz").0, 503);
    assert!(bed.get("/metrics").1.contains("\nroost_ready 0\n"));
    // A gateway that drains is healthy.
    assert_eq!(bed.get("/healthz").0, 200);
}

#[test]
fn a_shard_that_does_not_answer_is_unhealthy() {
    let bed = Bed::new();
    bed.shards[1].handle.send(Request::Stop);
    let (status, text) = bed.get("/healthz");
    assert_eq!(status, 503);
    assert!(text.contains("shard 1 does not answer"), "{text}");
}

#[test]
fn health_wakes_no_shard_more_often_than_ten_times_a_second() {
    let shard = FakeShard::start(0);
    let wakes = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&wakes);
    let waker = Waker::new(move || {
        counted.fetch_add(1, Relaxed);
    });
    let (sender, requests) = channel();
    let handle = ShardHandle::new(sender, waker, Arc::new(ShardStats::default()));
    thread::spawn(move || requests.into_iter().for_each(|request| shard.handle.send(request)));
    let config = Config { admin_listen: vec!["127.0.0.1:0".parse().unwrap()], ..Config::default() };
    let admin = Admin::start(&config, vec![handle]).unwrap();
    let began = Instant::now();
    for _ in 0..300 {
        assert_eq!(request(admin.addresses()[0], "GET", "/healthz", &[]).0, 200);
    }
    let most = began.elapsed().as_millis() as u64 / 100 + 1;
    assert!(wakes.load(Relaxed) <= most, "{} wakes, at most {most}", wakes.load(Relaxed));
}

/// Connections that hold a place for as long as they may, and come again when they have to go.
struct Hogs {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Hogs {
    /// So many, each of which says this and then nothing.
    fn start(address: SocketAddr, count: usize, says: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let held = Arc::new(AtomicU64::new(0));
        let hog = |_| {
            let (stop, held) = (Arc::clone(&stop), Arc::clone(&held));
            thread::spawn(move || {
                while !stop.load(Relaxed) {
                    let mut stream = TcpStream::connect(address).unwrap();
                    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
                    let _ = stream.write_all(says.as_bytes());
                    held.fetch_add(1, Relaxed);
                    // It does not read what it has asked for, but notices when it has to go.
                    while !stop.load(Relaxed) && !matches!(stream.peek(&mut [0]), Ok(0)) {
                        thread::sleep(Duration::from_millis(50));
                    }
                }
            })
        };
        let threads = (0..count).map(hog).collect();
        let until = Instant::now() + Duration::from_secs(30);
        while held.load(Relaxed) < count as u64 && Instant::now() < until {
            thread::sleep(Duration::from_millis(10));
        }
        Self { stop, threads }
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

#[test]
fn health_is_answered_beside_clients_that_hold_on_to_their_connections() {
    let bed = Bed::new();
    for shard in &bed.shards {
        shard.handle.stats().set(Stat::LinksUp, 1);
    }
    let pipelined = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100).leak();
    for (count, says) in [
        (150, "GET /metrics HTTP/1.1\r\nHost: x\r\nX-a: "),
        (400, "GET /healthz HTTP/1.1\r\nHost: x\r\n"),
        (150, ""),
        (150, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\na"),
        (150, pipelined),
    ] {
        let _hogs = Hogs::start(bed.address(), count, says);
        for path in ["/healthz", "/readyz", "/healthz", "/readyz"] {
            let began = Instant::now();
            assert_eq!(bed.get(path).0, 200);
            // A second is what orchestrators wait; the rest is for a slow machine.
            let took = began.elapsed();
            assert!(took < Duration::from_secs(4), "{path} took {took:?} beside {count} of {says:.30}");
        }
    }
}

#[test]
fn connections_are_listed_looked_up_and_closed_by_token() {
    let bed = Bed::new();
    let (status, list) = bed.api("GET", "/api/connections");
    assert_eq!((status, list["connections"].as_array().unwrap().len()), (200, 2));
    let (_, list) = bed.api("GET", "/api/connections?shard=1&count=5");
    let id = list["connections"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(id, "0100000700000003");
    let (status, one) = bed.api("GET", &format!("/api/connections/{id}"));
    assert_eq!(status, 200);
    assert_eq!((one["state"].as_str(), one["worker"].as_str()), (Some("open"), Some("b")));
    assert_eq!(
        (one["routing_hash"].as_str(), one["partition"].as_u64()),
        (Some("4e20000000000abc"), Some(5_000))
    );
    assert!(bed.shards[1].commands.lock().unwrap().is_empty());

    let (status, _) = bed.api("DELETE", &format!("/api/connections/{id}"));
    assert_eq!(status, 202);
    let until = Instant::now() + Duration::from_secs(30);
    while bed.shards[1].commands.lock().unwrap().is_empty() {
        assert!(Instant::now() < until, "the command did not arrive");
        thread::sleep(Duration::from_millis(5));
    }
    let commands = bed.shards[1].commands.lock().unwrap();
    let [Command::Close { connection, reason }] = commands[..] else { panic!("{commands:?}") };
    assert_eq!((connection, reason), (known(1).connection, Reason::AdminClosed));
    assert!(bed.shards[0].commands.lock().unwrap().is_empty());
}

#[test]
fn questions_that_make_no_sense_are_answered_as_such() {
    let bed = Bed::new();
    for (method, path, status) in [
        ("GET", "/api/connections?shard=2", 404),
        ("GET", "/api/connections?shard=x", 400),
        ("GET", "/api/connections?limit=1", 400),
        ("GET", "/api/connections/7", 400),
        ("GET", "/api/connections/+100000700000003", 400),
        ("GET", "/api/connections/0100000700000004", 404),
        ("DELETE", "/api/connections/0900000700000003", 404),
        ("GET", "/api/other", 404),
    ] {
        let (got, body) = bed.api(method, path);
        assert_eq!(got, status, "{method} {path}: {body}");
        assert!(body["error"].is_string());
    }
    let bearer = format!("Bearer {TOKEN}");
    for (method, path) in [("POST", "/api/connections"), ("PUT", "/api/connections/0100000700000003")] {
        assert_eq!(request(bed.address(), method, path, &[("Authorization", &bearer)]).0, 405);
    }
}

#[test]
fn the_api_needs_the_token_and_refuses_foreign_pages() {
    let bed = Bed::new();
    let path = "/api/connections/0100000700000003";
    let bearer = format!("Bearer {TOKEN}");
    let good = ("Authorization", bearer.as_str());
    for (headers, status) in [
        (&[][..], 401),
        (&[("Authorization", "Bearer a-token-for-tests-onlY")], 401),
        (&[good, ("Host", "evil.example")], 403),
        (&[good, ("Origin", "http://evil.example")], 403),
        (&[good, ("Origin", "null")], 403),
    ] {
        assert_eq!(request(bed.address(), "DELETE", path, headers).0, status, "{headers:?}");
    }
    assert!(bed.shards[1].commands.lock().unwrap().is_empty());
    let origin = format!("http://{}", bed.address());
    assert_eq!(request(bed.address(), "GET", path, &[good, ("Origin", &origin)]).0, 200);
}

#[test]
fn without_a_token_file_the_api_is_off_and_a_short_token_is_refused() {
    let listen = vec!["127.0.0.1:0".parse().unwrap()];
    let config = Config { admin_listen: listen, ..Config::default() };
    let admin = Admin::start(&config, vec![FakeShard::start(0).handle]).unwrap();
    let (status, text) = request(admin.addresses()[0], "GET", "/api/connections", &[]);
    assert_eq!(status, 403);
    assert!(text.contains("admin_token_file"), "{text}");

    let short = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(short.path(), "short\n").unwrap();
    let config = Config { admin_token_file: short.path().to_owned(), ..config };
    let error = Admin::start(&config, Vec::new()).unwrap_err().to_string();
    assert!(error.contains("at least 16") && !error.contains('\n'), "{error}");
}

#[test]
fn an_address_in_use_is_one_line_with_a_remedy() {
    let bed = Bed::new();
    let config = Config { admin_listen: vec![bed.address()], ..Config::default() };
    let error = format!("{:#}", Admin::start(&config, Vec::new()).unwrap_err());
    assert!(error.contains("in use") && error.contains("--admin-listen") && !error.contains('\n'), "{error}");
}

#[test]
fn half_a_request_does_not_hold_its_place() {
    let bed = Bed::new();
    for start in ["GET / HT", "GET / HTTP/1.1\r\nHost: x\r\n", ""] {
        let mut stream = TcpStream::connect(bed.address()).unwrap();
        stream.write_all(start.as_bytes()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("closed by the server within its limit");
    }
}

#[test]
fn the_admin_side_ends_when_dropped() {
    let bed = Bed::new();
    let address = bed.address();
    let idle = TcpStream::connect(address).unwrap();
    drop(bed);
    assert!(TcpStream::connect(address).is_err());
    drop(idle);
}
