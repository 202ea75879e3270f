//! One gateway succeeds another: nothing that happens to the successor takes the running one down, and
//! whoever plays with the socket between them holds up nobody.

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    os::unix::{fs::MetadataExt, net::UnixStream},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use roost_protocol::Reason;
use tempfile::TempDir;

use crate::support::{Client, Gateway, Neighbour, command, get, output, wait};

const SIGHUP: i32 = 1;
const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;
const SIGSTOP: i32 = 19;
const SIGCONT: i32 = 18;

/// A place for a hand-over socket.
struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("handover.sock")
    }

    /// The command of a gateway with this place, and these settings.
    fn command(&self, settings: &[&str]) -> Command {
        let mut command = command(&["--handover-socket", self.socket().to_str().unwrap()]);
        for setting in settings {
            command.args(["--set", setting]);
        }
        command
    }

    fn start(&self, settings: &[&str]) -> Gateway {
        Gateway::spawn(self.command(settings))
    }

    /// The command of a successor of `gateway`.
    fn successor(&self, gateway: &Gateway, settings: &[&str]) -> Command {
        let listen = format!("listen={}", gateway.clients);
        self.command(&[&[&*listen], settings].concat())
    }

    /// A successor that must not come up, for the reason in this line; the old one must not notice.
    fn refused(&self, gateway: &mut Gateway, command: Command, parts: &[&str]) {
        let (status, text) = output(command);
        assert!(!status.success(), "it should have failed: {text}");
        // Lines of the log may come after its last words.
        let line = text.lines().rfind(|line| line.starts_with("roost-gateway: ")).unwrap_or_default();
        for part in parts {
            assert!(line.contains(part), "`{part}` is missing in: {text}");
        }
        unharmed(gateway);
    }
}

/// It accepts, serves, and is ready.
fn unharmed(gateway: &Gateway) {
    assert_eq!(get(gateway.admin, "/healthz").trim(), "ok");
    assert!(!get(gateway.admin, "/readyz").contains("draining"));
    gateway.welcome("newcomer").echo(b"served");
    assert!(!gateway.log().iter().any(|line| line.contains("draining")), "{:?}", gateway.log());
}

/// Connects without pause; every one must be answered. Ends with how many were.
fn visit(target: SocketAddr) -> (Arc<AtomicBool>, JoinHandle<u64>) {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let visits = thread::spawn(move || {
        let mut served = 0u64;
        while !stopped.load(Relaxed) {
            let mut client = Client::connect(target);
            client.send_hello("visitor");
            // WELCOME, or GOAWAY from the one that leaves: an answer in any case.
            client.receive().expect("no connect fails or is reset");
            served += 1;
        }
        served
    });
    (stop, visits)
}

#[test]
fn a_successor_takes_over_without_a_failed_connect() {
    let place = Place::new();
    // Nobody must be sent to the other address: the successor has the old one.
    let settings = ["drain_ms=500", "drain_to=b.example:7400"];
    let mut gateway = place.start(&settings);
    let target = gateway.clients;
    let mode = fs::metadata(place.socket()).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    let (stop, visits) = visit(target);
    for _ in 0..3 {
        let mut resident = gateway.welcome("resident");
        let mut next = Gateway::spawn(place.successor(&gateway, &settings));
        assert_eq!(next.clients, target);
        resident.expect_goaway(Reason::Drain);
        assert!(gateway.wait_exit().success(), "the predecessor drains and ends");
        next.wait_for_line("serves alone");
        gateway = next;
    }
    stop.store(true, Relaxed);
    assert!(visits.join().expect("no connect fails") > 0);
    gateway.stop();
}

#[test]
fn the_admin_address_changes_hands_without_a_refused_request() {
    let place = Place::new();
    let mut gateway = place.start(&["drain_ms=100"]);
    let admin = gateway.admin;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let probes = thread::spawn(move || {
        while !stopped.load(Relaxed) {
            assert_eq!(get(admin, "/healthz").trim(), "ok");
        }
    });
    let setting = format!("admin_listen={admin}");
    let next = Gateway::spawn(place.successor(&gateway, &[&setting]));
    assert_eq!(next.admin, admin);
    assert!(gateway.wait_exit().success());
    thread::sleep(Duration::from_millis(200));
    stop.store(true, Relaxed);
    probes.join().expect("the admin side answers all the time");
    assert_eq!(next.metric("roost_connections", &[]), 0);
    next.stop();
}

#[test]
fn a_successor_that_cannot_come_up_changes_nothing() {
    let place = Place::new();
    let mut gateway = place.start(&["drain_ms=100"]);
    let neighbour = Neighbour::start(&gateway);
    let gateway = &mut gateway;

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = format!("admin_listen={}", taken.local_addr().unwrap());
    place.refused(gateway, place.successor(gateway, &[&admin]), &["cannot serve metrics", "in use"]);

    let token = place.directory.path().join("token");
    let token_file = format!("admin_token_file={}", token.display());
    place.refused(gateway, place.successor(gateway, &[&token_file]), &["admin_token_file", "cannot be read"]);
    fs::write(&token, "short").unwrap();
    place.refused(gateway, place.successor(gateway, &[&token_file]), &["admin_token_file", "at least 16"]);

    let secret = "link_secret_file=/nonexistent";
    place.refused(gateway, place.successor(gateway, &[secret]), &["link_secret_file"]);

    let listen = format!("listen={}", taken.local_addr().unwrap());
    place.refused(gateway, place.command(&[&listen]), &["cannot listen on", "in use"]);
    let listen = format!("listen=proxy:{}", gateway.clients);
    let proxy = place.command(&[&listen, "proxy_trusted=127.0.0.0/8"]);
    place.refused(gateway, proxy, &["expects a PROXY header, but the running gateway expects no"]);

    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut silent = place.successor(gateway, &[]);
    silent.stdout(full).stderr(Stdio::piped());
    place.refused(gateway, silent, &["banner cannot be written"]);

    // And then one that can.
    assert!(neighbour.finish() > 0);
    let next = Gateway::spawn(place.successor(gateway, &[]));
    assert!(gateway.wait_exit().success());
    next.stop();
}

#[test]
fn a_successor_without_a_worker_gives_up_and_one_whose_worker_comes_does_not() {
    let place = Place::new();
    let mut gateway = place.start(&["drain_ms=100"]);
    let worker = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = worker.local_addr().unwrap();
    drop(worker);
    let workers = format!("workers=w={address}");
    let without = place.successor(&gateway, &[&workers, "handover_worker_wait_ms=300"]);
    let parts = ["no worker was up within handover_worker_wait_ms = 300", "the running gateway serves on"];
    place.refused(&mut gateway, without, &parts);

    let mut waits = place.successor(&gateway, &[&workers, "handover_worker_wait_ms=60000"]);
    let mut next = Gateway::spawn_unready_command(&mut waits);
    gateway.wait_for_lines("a successor asks", 2);
    thread::sleep(Duration::from_millis(300));
    unharmed(&gateway);
    // Meanwhile a third one is told.
    let third = place.successor(&gateway, &[]);
    place.refused(&mut gateway, third, &["another process is succeeding it"]);
    serve_worker(address);
    next.await_ready();
    assert!(gateway.wait_exit().success());
    next.welcome("a").echo(b"by the new worker");
    next.stop();
}

/// The reference worker, in this process: a worker is a worker wherever it runs.
fn serve_worker(address: SocketAddr) {
    use roost_router::{Address, Listener, WorkerConfig, handlers, serve, shutdown};
    thread::spawn(move || {
        let listener = Listener::bind(&Address::Tcp(address)).unwrap();
        let (_handle, stop) = shutdown();
        serve(WorkerConfig::default(), handlers::Echo, listener, stop).unwrap();
    });
}

#[test]
fn a_successor_that_dies_at_any_point_changes_nothing() {
    let place = Place::new();
    let mut gateway = place.start(&["drain_ms=100"]);
    let neighbour = Neighbour::start(&gateway);
    let mut failures = 0;
    for (signal, when) in [(SIGKILL, "before"), (SIGTERM, "before"), (SIGKILL, "after"), (SIGTERM, "after")] {
        let worker = if when == "before" { "workers=w=unix:/nonexistent/w" } else { "drain_ms=100" };
        let mut command = place.successor(&gateway, &[worker]);
        let mut successor = Gateway::spawn_unready_command(&mut command);
        if when == "after" {
            // It serves, and has not done so for a second.
            successor.await_ready();
        } else {
            gateway.wait_for_lines("a successor asks", failures + 1);
        }
        successor.signal(signal);
        successor.wait_exit();
        failures += 1;
        gateway.wait_for_lines("this process goes on", failures);
        unharmed(&gateway);
    }
    thread::sleep(Duration::from_millis(1500));
    unharmed(&gateway);
    assert!(neighbour.finish() > 0);
    gateway.stop();
}

#[test]
fn a_successor_that_hangs_holds_up_neither_signals_nor_health() {
    let place = Place::new();
    let file = place.directory.path().join("roost.toml");
    fs::write(&file, "messages_per_s_max = 0\n").unwrap();
    let mut old = place.command(&["drain_ms=100"]);
    old.args(["--config", file.to_str().unwrap()]);
    let mut gateway = Gateway::spawn(old);
    let mut hangs =
        place.successor(&gateway, &["workers=w=unix:/nonexistent/w", "handover_worker_wait_ms=600000"]);
    let mut successor = Gateway::spawn_unready_command(&mut hangs);
    gateway.wait_for_line("a successor asks");
    successor.signal(SIGSTOP);
    unharmed(&gateway);
    fs::write(&file, "messages_per_s_max = 5\n").unwrap();
    gateway.signal(SIGHUP);
    gateway.wait_for_line("messages_per_s_max 0 -> 5");
    let began = Instant::now();
    gateway.signal(SIGTERM);
    assert!(gateway.wait_exit().success());
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    // The old one was told to end, so the sockets are the successor's, whatever it waits for.
    successor.signal(SIGCONT);
    successor.await_ready();
    successor.stop();
}

#[test]
fn one_who_says_nothing_at_the_socket_holds_up_neither_health_nor_signals() {
    let place = Place::new();
    let mut gateway = place.start(&["drain_ms=100"]);
    let mute = UnixStream::connect(place.socket()).unwrap();
    // It has been accepted by now; a gateway that waits for its word would be deaf.
    thread::sleep(Duration::from_millis(500));
    unharmed(&gateway);
    let began = Instant::now();
    gateway.signal(SIGTERM);
    assert!(gateway.wait_exit().success());
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    drop(mute);
}

#[test]
fn strangers_at_the_socket_hold_up_nobody() {
    let place = Place::new();
    let mut gateway = place.start(&["drain_ms=100"]);
    let neighbour = Neighbour::start(&gateway);
    let call = || UnixStream::connect(place.socket()).unwrap();
    let mute: Vec<_> = (0..100).map(|_| call()).collect();
    let mut partial = call();
    partial.write_all(b"{\"version\":1,").unwrap();
    let mut garbage = call();
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut endless = call();
    endless.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let _ = endless.write_all(&[b'x'; 1 << 20]);
    let mut newer = call();
    newer.write_all(b"{\"version\":2,\"ready_within_ms\":1}\n").unwrap();
    let mut answer = String::new();
    newer.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("no it hands over by version 1"), "{answer}");
    // None of them is given a socket, or more than a moment.
    answer.clear();
    garbage.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "");
    unharmed(&gateway);
    // Somebody who asks as a successor does, and then says nothing: others are refused meanwhile.
    let mut silent = call();
    silent.write_all(b"{\"version\":1,\"ready_within_ms\":1500}\n").unwrap();
    gateway.wait_for_line("a successor asks");
    let busy = place.successor(&gateway, &[]);
    place.refused(&mut gateway, busy, &["another process is succeeding it"]);
    gateway.wait_for_line("it was not ready in time");
    // Or that it is ready, and then something else.
    let mut liar = call();
    liar.write_all(b"{\"version\":1,\"ready_within_ms\":60000}\n").unwrap();
    gateway.wait_for_lines("a successor asks", 2);
    liar.write_all(b"ready\nsteady\n").unwrap();
    gateway.wait_for_line("it said \"steady\"");
    unharmed(&gateway);
    // A real one comes through between all of them.
    let crowd: Vec<_> = (0..100).map(|_| call()).collect();
    assert!(neighbour.finish() > 0);
    let next = Gateway::spawn(place.successor(&gateway, &[]));
    assert!(gateway.wait_exit().success());
    next.stop();
    drop((mute, partial, silent, crowd));
}

#[test]
fn only_a_socket_is_replaced() {
    let place = Place::new();
    fs::write(place.socket(), "precious").unwrap();
    let (status, text) = output(place.command(&[]));
    let line = text.lines().last().unwrap_or_default();
    assert!(!status.success() && line.contains("a regular file, not a socket"), "{text}");
    assert_eq!(fs::read_to_string(place.socket()).unwrap(), "precious");
    fs::remove_file(place.socket()).unwrap();
    std::os::unix::fs::symlink("elsewhere", place.socket()).unwrap();
    let (status, text) = output(place.command(&[]));
    assert!(!status.success() && text.contains("a symbolic link, not a socket"), "{text}");
    fs::remove_file(place.socket()).unwrap();
    // What a killed gateway has left is.
    let mut killed = place.start(&[]);
    killed.signal(SIGKILL);
    killed.wait_exit();
    place.start(&[]).stop();
}

#[test]
fn a_changed_listen_is_what_the_successor_listens_on() {
    let place = Place::new();
    let [kept, dropped, new] =
        [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let mut gateway = place.start(&[&format!("listen={dropped},{kept}"), "drain_ms=100"]);
    let mut next = place.start(&[&format!("listen={kept},{new}")]);
    let line = next.wait_for_line("  clients    ");
    assert!(line.ends_with(&format!("{kept}, {new}")), "{line}");
    assert!(gateway.wait_exit().success());
    Client::connect(kept).hello("kept");
    Client::connect(new).hello("new");
    wait("the other one to be free", || TcpListener::bind(dropped).ok());
    next.stop();
}

#[test]
fn a_predecessor_that_is_killed_leaves_its_sockets_to_the_successor() {
    let place = Place::new();
    let mut gateway = place.start(&[]);
    let (target, admin) = (gateway.clients, format!("admin_listen={}", gateway.admin));
    let settings = [&*admin, "workers=w=unix:/nonexistent/w", "handover_worker_wait_ms=600000"];
    let mut command = place.successor(&gateway, &settings);
    let mut next = Gateway::spawn_unready_command(&mut command);
    gateway.wait_for_line("a successor asks");
    gateway.signal(SIGKILL);
    gateway.wait_exit();
    // There is nobody else any more, so it need not wait for its worker.
    next.await_ready();
    assert_eq!(next.clients, target);
    assert!(get(next.admin, "/readyz").contains("no worker"));
    next.stop();
}
