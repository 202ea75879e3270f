//! User-space clients against this machine's kernel: a plain echo server on kernel sockets in
//! the namespace. Needs root and /dev/net/tun; is skipped, loudly, where it has neither, and
//! fails instead with ROOST_TEST_ALL=1.

mod server;

use std::{
    fs,
    io::{ErrorKind, Write},
    net::{Ipv4Addr, SocketAddrV4},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use roost_loadgen::{
    transport::{Close, Ended, Event, Events, Network, Share, Transport},
    tun::{TunArgs, TunConfig, TunNetwork, stats},
};

use server::{EchoServer, Ends, listener};

const TARGET: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 100, 0, 1), 7000);
/// Generous, for a slow machine: no test waits for time, all wait for conditions.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    tun: TunArgs,
}

fn flags(words: &[&str]) -> TunArgs {
    Flags::parse_from(std::iter::once(&"test").chain(words)).tun
}

/// Whether this machine lets us; says so where it does not.
fn possible() -> bool {
    let why = if !rustix::process::geteuid().is_root() {
        "not root"
    } else if fs::File::options().read(true).write(true).open("/dev/net/tun").is_err() {
        "no /dev/net/tun"
    } else {
        return true;
    };
    assert!(std::env::var_os("ROOST_TEST_ALL").is_none_or(|all| all != "1"), "{why}, and ROOST_TEST_ALL=1");
    eprintln!("SKIPPED: user-space clients against the kernel: {why}");
    false
}

fn network(clients: u32, words: &[&str]) -> TunNetwork {
    let config = TunConfig { target: TARGET, clients, threads: 1, seed: 7, args: flags(words) };
    TunNetwork::new(config).expect("the network can be made")
}

fn open(network: &TunNetwork, clients: u32) -> Clients {
    let share = Share { thread: 0, threads: 1, first_client: 0, clients };
    Clients {
        transport: network.open(share).expect("the device is there"),
        events: Events::new(),
        seen: (0..clients).map(|_| Seen::default()).collect(),
    }
}

#[derive(Default)]
struct Seen {
    connected: bool,
    bytes: Vec<u8>,
    ended: Option<Ended>,
    failed: Option<i32>,
}

/// The clients of one share and what has happened to them.
struct Clients {
    transport: Box<dyn Transport>,
    events: Events,
    seen: Vec<Seen>,
}

impl Clients {
    fn run_until(&mut self, what: &str, mut done: impl FnMut(&[Seen]) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done(&self.seen) {
            assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}; {:?}", self.transport.counts());
            self.events.clear();
            self.transport.poll(Duration::from_millis(20), &mut self.events).expect("the device works");
            for event in self.events.iter() {
                match event {
                    Event::Connected { client } => {
                        let seen = &mut self.seen[client as usize];
                        assert!(!seen.connected, "connected twice");
                        seen.connected = true;
                    }
                    Event::Bytes { client, bytes } => {
                        self.seen[client as usize].bytes.extend_from_slice(bytes);
                    }
                    Event::ConnectFailed { client, errno } => {
                        assert_eq!(self.seen[client as usize].failed.replace(errno), None);
                    }
                    Event::Closed { client, how } => {
                        assert_eq!(self.seen[client as usize].ended.replace(how), None, "closed twice");
                    }
                }
            }
        }
    }

    fn connect_all(&mut self) {
        (0..self.seen.len() as u32).for_each(|client| self.transport.connect(client));
        self.run_until("connect", |seen| seen.iter().all(|one| one.connected));
    }

    fn detail(&self, name: &str) -> u64 {
        let counts = self.transport.counts();
        counts.details.iter().find(|(detail, _)| *detail == name).expect("a detail of that name").1
    }
}

fn bytes_of(client: u32, length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| (at as u32).wrapping_mul(2_654_435_761).wrapping_add(client).to_be_bytes()[1])
        .collect()
}

/// Connects, exchanges bytes, closes one half by FIN and the other by RST.
fn a_thousand_clients(drop_percent: &str) -> (TunNetwork, Clients, Ends) {
    const CLIENTS: u32 = 1_000;
    let network = network(CLIENTS, &["--drop-percent", drop_percent]);
    let server = EchoServer::start();
    let mut clients = open(&network, CLIENTS);
    clients.connect_all();

    // From one byte to several segments.
    let length = |client: u32| 1 + (client as usize * 37) % 9_000;
    for client in 0..CLIENTS {
        let bytes = bytes_of(client, length(client));
        bytes.chunks(700).for_each(|piece| clients.transport.send(client, piece));
    }
    clients.run_until("echo", |seen| (0..).zip(seen).all(|(client, one)| one.bytes.len() >= length(client)));
    for (client, one) in (0..).zip(&clients.seen) {
        assert!(
            one.bytes == bytes_of(client, length(client)),
            "client {client} got other bytes than it sent"
        );
        assert_eq!(one.ended, None);
    }
    let counts = clients.transport.counts();
    assert_eq!((counts.connecting, counts.connected), (0, 1_000));
    let sockstat = stats::sockstat().unwrap();
    assert!(sockstat.in_use >= u64::from(CLIENTS), "the kernel counts {sockstat:?}");

    for client in 0..CLIENTS {
        clients.transport.close(client, if client % 2 == 0 { Close::Fin } else { Close::Reset });
    }
    clients.run_until("close", |seen| seen.iter().all(|one| one.ended.is_some()));
    assert!(clients.seen.iter().all(|one| one.ended == Some(Ended::Local)));
    // A lost RST is repaired only by the next packet of the server, which has nothing to say.
    if drop_percent != "0" {
        clients.seen.iter_mut().for_each(|one| *one = Seen::default());
        (0..CLIENTS).filter(|client| client % 2 == 1).for_each(|client| clients.transport.connect(client));
        clients.run_until("reconnect", |seen| seen.iter().skip(1).step_by(2).all(|one| one.connected));
        (0..CLIENTS)
            .filter(|client| client % 2 == 1)
            .for_each(|client| clients.transport.close(client, Close::Fin));
        clients
            .run_until("close again", |seen| seen.iter().skip(1).step_by(2).all(|one| one.ended.is_some()));
    }
    let counts = clients.transport.counts();
    assert_eq!((counts.connecting, counts.connected, counts.unsent_bytes), (0, 0, 0));
    let ends = server.finish();
    (network, clients, ends)
}

#[test]
fn a_thousand_clients_talk_to_the_kernel() {
    if !possible() {
        return;
    }
    let (_network, clients, ends) = a_thousand_clients("0");
    assert_eq!(ends, Ends { accepted: 1_000, fins: 500, resets: 500 });
    assert_eq!(clients.detail("tun_bad_packets"), 0, "every checksum was right");
    assert_eq!(clients.detail("tun_dropped_on_purpose"), 0);
    assert_eq!(clients.detail("tun_queue_drops"), 0);
    assert_eq!(clients.detail("tcp_timeouts"), 0);
    let kernel = stats::counters().unwrap();
    assert_eq!(kernel["Tcp.InErrs"], 0, "every checksum of ours was right");
    assert_eq!(kernel["TcpExt.ListenDrops"], 0);
}

#[test]
fn a_thousand_clients_repair_what_is_lost() {
    if !possible() {
        return;
    }
    let (_network, clients, ends) = a_thousand_clients("1");
    assert_eq!(ends.accepted, 1_500);
    assert_eq!(ends.fins + ends.resets, 1_500);
    assert!(clients.detail("tun_dropped_on_purpose") > 50);
    assert!(clients.detail("tcp_retransmits") + clients.detail("tcp_syn_retransmits") > 0);
    assert!(stats::counters().unwrap()["Tcp.RetransSegs"] > 0, "the kernel repairs its side");
    assert_eq!(clients.detail("tcp_timeouts"), 0, "nothing is given up");
}

#[test]
fn the_servers_ends_are_told_apart() {
    if !possible() {
        return;
    }
    let network = network(3, &[]);
    let mut clients = open(&network, 3);
    // Nobody listens yet.
    clients.transport.connect(2);
    clients.run_until("refusal", |seen| seen[2].failed.is_some());
    assert_eq!(clients.seen[2].failed, Some(libc::ECONNREFUSED));

    let listener = listener();
    (0..2).for_each(|client| clients.transport.connect(client));
    clients.run_until("connect", |seen| seen[..2].iter().all(|one| one.connected));
    let accepted: Vec<_> = (0..2).map(|_| listener.accept().unwrap()).collect();
    for (mut stream, from) in accepted {
        if from.port() == 1024 {
            stream.write_all(b"farewell").unwrap();
        } else {
            rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
        }
    }
    clients.run_until("ends", |seen| seen[..2].iter().all(|one| one.ended.is_some()));
    assert_eq!(clients.seen[0].ended, Some(Ended::PeerFin));
    assert_eq!(clients.seen[0].bytes, b"farewell");
    assert_eq!(clients.seen[1].ended, Some(Ended::Failed(libc::ECONNRESET)));
}

#[test]
fn a_client_reconnects_while_the_server_remembers_it() {
    if !possible() {
        return;
    }
    let network = network(1, &[]);
    let listener = listener();
    let mut clients = open(&network, 1);
    for round in 0..20 {
        clients.connect_all();
        let (stream, from) = listener.accept().unwrap();
        assert_eq!(from.to_string(), "10.100.0.2:1024", "always the same ends");
        // Who closes first keeps the connection in TIME-WAIT: for a minute, at the server.
        if round % 2 == 0 {
            drop(stream);
            clients.run_until("the server's end", |seen| seen[0].ended == Some(Ended::PeerFin));
            assert_eq!(stats::sockstat().unwrap().time_wait, 1);
        } else {
            clients.transport.close(0, Close::Fin);
            drop(stream);
            clients.run_until("the client's end", |seen| seen[0].ended.is_some());
        }
        clients.seen[0] = Seen::default();
    }
    assert_eq!(clients.detail("tcp_syn_retransmits"), 0, "TIME-WAIT takes the SYN at once");
}

#[test]
fn a_namespace_of_the_users_can_be_entered() {
    if !possible() {
        return;
    }
    let mut holder = match Command::new("unshare").args(["--net", "sleep", "600"]).spawn() {
        Ok(child) => child,
        Err(error) => panic!("unshare(1) of util-linux: {error}"),
    };
    let pid = holder.id().to_string();
    let home = fs::read_link("/proc/thread-self/ns/net").unwrap();
    let end = Instant::now() + PATIENCE;
    while fs::read_link(format!("/proc/{pid}/ns/net")).unwrap() == home {
        assert!(Instant::now() < end);
        thread::sleep(Duration::from_millis(5));
    }
    let network = network(1, &["--netns", &pid, "--tun-subnet", "100"]);
    let there = fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    assert_eq!(fs::read_link("/proc/thread-self/ns/net").unwrap(), there);
    assert!(network.notes().iter().any(|note| note.contains("somaxconn")), "{:?}", network.notes());
    let listener = listener();
    let mut clients = open(&network, 1);
    clients.connect_all();
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(b"hello").unwrap();
    clients.run_until("greeting", |seen| seen[0].bytes == b"hello");
    drop((clients, network));
    assert_eq!(fs::read_link("/proc/thread-self/ns/net").unwrap(), home);
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[test]
fn a_client_that_does_not_read_holds_the_server_up() {
    if !possible() {
        return;
    }
    const LENGTH: usize = 16 << 20;
    let network = network(1, &["--tun-window", "20000"]);
    let listener = listener();
    let mut clients = open(&network, 1);
    clients.connect_all();
    clients.transport.set_reading(0, false);
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    let all = bytes_of(5, LENGTH);
    let mut written = 0;
    // The server's send buffer fills up once the client's window is closed.
    let mut stuck_since = Instant::now();
    clients.run_until("stuck server", |_| {
        match stream.write(&all[written..]) {
            Ok(count) => {
                written += count;
                stuck_since = Instant::now();
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
        stuck_since.elapsed() > Duration::from_secs(1)
    });
    assert!(written < LENGTH, "the server was never held up");
    assert!(clients.seen[0].bytes.len() <= 20_000);
    let held = clients.transport.user_bytes();
    assert!(held < 1_000_000, "the client holds its window and no more: {held}");

    clients.transport.set_reading(0, true);
    clients.run_until("the rest", |seen| {
        if let Ok(count) = stream.write(&all[written..]) {
            written += count;
        }
        seen[0].bytes.len() == LENGTH
    });
    assert!(clients.seen[0].bytes == all);
    drop(stream);
    clients.run_until("end", |seen| seen[0].ended == Some(Ended::PeerFin));
}

#[test]
fn what_was_started_and_changed_is_undone() {
    if !possible() {
        return;
    }
    let namespace = || fs::read_link("/proc/thread-self/ns/net").unwrap();
    let setting = || fs::read_to_string("/proc/sys/net/ipv4/tcp_child_ehash_entries").ok();
    let (home, buckets) = (namespace(), setting());
    let network = network(1_000_000, &[]);
    assert_ne!(namespace(), home);
    if buckets.is_some() {
        let inside = fs::read_to_string("/proc/sys/net/ipv4/tcp_ehash_entries").unwrap();
        assert_eq!(inside.trim(), "1048576", "{:?}", network.notes());
    }
    drop(network);
    assert_eq!((namespace(), setting()), (home, buckets));
}

#[test]
fn processes_run_inside_and_end_with_the_network() {
    if !possible() {
        return;
    }
    let config = TunConfig {
        target: TARGET,
        clients: 1,
        threads: 1,
        seed: 1,
        args: flags(&["--spawn", "sleep 600", "--spawn", "sh -c 'exit 3'"]),
    };
    let error = TunNetwork::new(config).expect_err("nobody listens").to_string();
    assert!(error.contains("exit 3") && error.contains("exit status: 3"), "{error}");
}

#[test]
fn impossible_wishes_are_refused_in_one_line() {
    let refused = |target: &str, clients, words: &[&str]| {
        let target = target.parse().unwrap();
        let config = TunConfig { target, clients, threads: 2, seed: 1, args: flags(words) };
        TunNetwork::new(config).expect_err("refused").to_string()
    };
    assert!(refused("127.0.0.1:7000", 1, &[]).contains("--target 10.100.0.1:7000"));
    assert!(refused("10.100.0.1:7000", 1, &["--tun-subnet", "255"]).contains("--tun-subnet"));
    assert!(refused("10.100.0.1:7000", 1, &["--drop-percent", "101"]).contains("--drop-percent"));
    assert!(refused("10.100.0.1:7000", 1, &["--tun-window", "0"]).contains("--tun-window"));
    assert!(refused("10.100.0.1:7000", 1_000_000, &["--tun-ports", "1"]).contains("ports per address"));
}
