//! Signals.

use std::{
    net::TcpListener,
    thread,
    time::{Duration, Instant},
};

use roost_protocol::{Reason, edge::FrameType};

use crate::{
    bad_workers::Worker,
    names::Echo,
    support::{Client, End, Gateway, frame},
};

const SIGHUP: i32 = 1;
const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;
const SIGCONT: i32 = 18;
const SIGSTOP: i32 = 19;

#[test]
fn sigterm_says_goodbye_to_everybody_and_ends_well() {
    let mut gateway = Gateway::start(&["--drain-ms", "2000"]);
    let mut clients: Vec<Client> = (0..50).map(|i| gateway.welcome(&format!("user-{i}"))).collect();
    gateway.signal(SIGTERM);
    for client in &mut clients {
        let retry_after_ms = client.expect_goaway(Reason::Drain);
        assert!((1000..=5000).contains(&retry_after_ms), "{retry_after_ms}");
    }
    assert!(gateway.wait_exit().success());
}

#[test]
fn a_drain_names_the_other_address_and_other_closes_do_not() {
    let arguments = ["--drain-ms", "100", "--set", "drain_to=b.example:7400", "--set"];
    let mut gateway = Gateway::start(&[&arguments[..], &["handshake_timeout_ms=1000"]].concat());
    gateway.connect().expect_goaway(Reason::HandshakeTimeout);
    let mut client = gateway.welcome("a");
    gateway.signal(SIGTERM);
    let (retry_after_ms, to) = client.expect_advice(Reason::Drain);
    assert!((1000..=5000).contains(&retry_after_ms), "{retry_after_ms}");
    assert_eq!(to, "b.example:7400");
    assert!(gateway.wait_exit().success());
}

#[test]
fn a_drain_keeps_to_its_rate() {
    // 2 s by the rate, although drain_ms asks for less.
    let arguments = ["--drain-ms", "0", "--shards", "1", "--set", "drain_rate_per_s=10"];
    let mut gateway = Gateway::start(&arguments);
    let clients: Vec<Client> = (0..20).map(|i| gateway.welcome(&format!("user-{i}"))).collect();
    let began = Instant::now();
    gateway.signal(SIGTERM);
    let told = clients.into_iter().map(|mut client| {
        thread::spawn(move || {
            client.expect_goaway(Reason::Drain);
            began.elapsed()
        })
    });
    let told: Vec<_> = told.collect();
    let mut told: Vec<Duration> = told.into_iter().map(|thread| thread.join().unwrap()).collect();
    told.sort();
    // However slow this machine: none is told before its time, and they are not told together.
    for (index, at) in told.iter().enumerate() {
        assert!(*at >= Duration::from_millis(100 * index as u64), "{index} told after {at:?}: {told:?}");
    }
    assert!(told[19] - told[0] >= Duration::from_secs(1), "{told:?}");
    assert!(gateway.wait_exit().success());
}

#[test]
fn a_second_signal_hurries() {
    let mut gateway = Gateway::start(&["--drain-ms", "3600000"]);
    let mut clients: Vec<Client> = (0..20).map(|i| gateway.welcome(&format!("user-{i}"))).collect();
    gateway.signal(SIGTERM);
    gateway.wait_for_line("draining");
    gateway.signal(SIGTERM);
    for client in &mut clients {
        client.expect_goaway(Reason::Drain);
    }
    assert!(gateway.wait_exit().success());
}

#[test]
fn after_kill_9_clients_come_back() {
    let mut gateway = Gateway::start(&[]);
    let mut client = gateway.welcome("a");
    client.echo(b"before");
    gateway.signal(SIGKILL);
    gateway.wait_exit();
    assert!(matches!(client.receive(), Err(End::Fin | End::Reset)));
    let again = Gateway::start(&[]);
    again.welcome("a").echo(b"after");
    again.stop();
}

#[test]
fn at_info_connections_leave_no_lines() {
    let mut gateway = Gateway::start(&[]);
    let before = gateway.log().len();
    for i in 0..50 {
        gateway.welcome(&format!("user-{i}")).echo(b"hello");
    }
    gateway.await_closes(Reason::ClientEof, 50);
    gateway.signal(SIGTERM);
    gateway.wait_for_line("drained");
    let lines = gateway.log().split_off(before);
    assert!(lines.len() <= 10, "{lines:#?}");
    assert!(gateway.wait_exit().success());
}

#[test]
fn sighup_changes_what_can_change_and_names_the_rest() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "messages_per_s_max = 0\n").unwrap();
    let mut gateway = Gateway::start(&["--config", file.path().to_str().unwrap()]);
    let mut client = gateway.welcome("a");
    client.echo(b"one");
    gateway.signal(SIGHUP);
    gateway.wait_for_line("no key has changed");
    std::fs::write(file.path(), "messages_per_s_max = 5\nlisten_backlog = 17\n").unwrap();
    gateway.signal(SIGHUP);
    gateway.wait_for_line("listen_backlog 65535 -> 17 waits for a restart");
    gateway.wait_for_line("messages_per_s_max 0 -> 5");
    let message = frame(FrameType::Message, b"x");
    for _ in 0..100 {
        // The gateway may have had enough before all are sent.
        let _ = std::io::Write::write_all(&mut client.stream, &message);
    }
    gateway.await_closes(Reason::RateLimited, 1);
    std::fs::write(file.path(), "messages_per_s_max = \"many\"\n").unwrap();
    gateway.signal(SIGHUP);
    gateway.wait_for_line("nothing changes");
    gateway.stop();
}

#[test]
fn sighup_takes_no_limit_that_the_memory_of_the_running_process_cannot_hold() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "shards = 1\noutbox_bytes_total = 2097152\n").unwrap();
    let mut gateway = Gateway::start(&["--config", file.path().to_str().unwrap()]);
    let larger = "shards = 1\noutbox_bytes_total = 8388608\noutbox_bytes_max = 4194304\n";
    std::fs::write(file.path(), larger).unwrap();
    gateway.signal(SIGHUP);
    gateway.wait_for_line("nothing changes: before a restart, outbox_bytes_total: 2097152 is ");
    gateway.welcome("a").echo(b"one");
    gateway.stop();
}

#[test]
fn sighup_takes_workers_limits_and_the_log_level() {
    let [first, second] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let address = |listener: &TcpListener| listener.local_addr().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let write = |text: String| std::fs::write(file.path(), text).unwrap();
    write(format!("workers = [\"a={}\"]\n", address(&first)));
    let mut gateway = Gateway::start(&["--config", file.path().to_str().unwrap(), "--shards", "1"]);
    let mut worker = Worker::accept(&first);
    let mut client = gateway.connect();
    client.send_hello("a");
    worker.welcome();
    assert_eq!(client.receive().unwrap().frame_type, FrameType::Welcome);
    write(format!(
        "workers = [\"a={}\", \"b={}\"]\nper_ip_max = 1\nlog_level = \"debug\"\nhandshake_timeout_ms = 1000\n",
        address(&first),
        address(&second)
    ));
    gateway.signal(SIGHUP);
    // A link to the new worker, a new deadline, and lines that were not there before.
    let _other = Worker::accept(&second);
    gateway.connect().expect_goaway(Reason::HandshakeTimeout);
    gateway.wait_for_line("DEBUG");
    gateway.wait_for_line("per_ip_max 0 -> 1");
    gateway.wait_for_line("log_level \"info\" -> \"debug\"");
    // What would take another process is said, and then nothing changes.
    write("workers = []\nhandshake_timeout_ms = 3000\n".to_owned());
    gateway.signal(SIGHUP);
    gateway.wait_for_line("between a worker inside and workers outside lies a restart");
    assert!(!gateway.log().iter().any(|line| line.contains("handshake_timeout_ms 1000 -> 3000")));
}

/// A gateway with a worker in another process, and a client; the gateway was stopped for six seconds.
fn after_a_stop(setting: &str, worker: &Echo) -> (Gateway, Client) {
    let named = format!("w={}", worker.address);
    let settings = ["--set", setting, "--set", "heartbeat_interval_ms=2500"];
    let gateway = Gateway::start(&[&["--shards", "1", "--worker", &*named], &settings[..]].concat());
    let mut client = gateway.welcome("a");
    // A start on a slow machine is late, too, and only a process that is in time can be stopped.
    thread::sleep(Duration::from_millis(500));
    client.echo(b"before");
    gateway.signal(SIGSTOP);
    thread::sleep(Duration::from_secs(6));
    gateway.signal(SIGCONT);
    (gateway, client)
}

#[test]
fn a_gateway_that_was_stopped_does_not_give_its_worker_up() {
    let worker = Echo::start("127.0.0.1:0", None);
    let (gateway, mut client) = after_a_stop("link_failover_ms=5000", &worker);
    client.echo(b"after");
    assert_eq!(gateway.metric("roost_link_failovers", &[]), 0, "{:#?}", gateway.log());
    gateway.stop();
}

#[test]
fn a_gateway_that_was_stopped_closes_no_client_for_its_silence() {
    let worker = Echo::start("127.0.0.1:0", None);
    let (gateway, mut client) = after_a_stop("idle_timeout_ms=5000", &worker);
    client.echo(b"after");
    assert_eq!(gateway.metric("roost_closes", &[]), 0, "{:#?}", gateway.log());
    gateway.stop();
}
