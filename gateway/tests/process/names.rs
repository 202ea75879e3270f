//! Workers by name, by address and by reload: where they are dialled, and what is said of it.

use std::{
    fs,
    io::Write,
    net::TcpListener,
    path::Path,
    process::Command,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use roost_protocol::edge::FrameType;
use roost_router::{Listener, ShutdownHandle, Worker, WorkerConfig, handlers, shutdown};

use crate::support::{Client, Gateway, command, frame, output, wait};

const SECRET: &str = "a secret of more than sixteen bytes";
const SIGHUP: i32 = 1;

/// The reference worker that echoes, in this process; stopped when dropped.
pub(crate) struct Echo {
    pub(crate) address: String,
    stop: ShutdownHandle,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    pub(crate) fn start(address: &str, secret: Option<&str>) -> Self {
        let listener = Listener::bind(&address.parse().unwrap()).unwrap();
        let address = listener.address().unwrap().to_string();
        let (stop, stopped) = shutdown();
        let secret = secret.map(|secret| secret.as_bytes().to_vec());
        let thread = thread::spawn(move || {
            let config = WorkerConfig { secret, ..WorkerConfig::default() };
            Worker::new(config).run(handlers::Echo, vec![listener], stopped).unwrap();
        });
        Self { address, stop, thread: Some(thread) }
    }

    fn port(&self) -> &str {
        self.address.rsplit_once(':').unwrap().1
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.stop();
        drop(self.thread.take().unwrap().join());
    }
}

/// A configuration file that a test changes.
struct File(tempfile::NamedTempFile);

impl File {
    fn new(workers: &[String]) -> Self {
        let file = Self(tempfile::NamedTempFile::new().unwrap());
        file.name(workers);
        file
    }

    fn name(&self, workers: &[String]) {
        fs::write(self.0.path(), format!("workers = {workers:?}\n")).unwrap();
    }

    fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }
}

fn lines(gateway: &Gateway, parts: &[&str]) -> usize {
    gateway.log().iter().filter(|line| parts.iter().all(|part| line.contains(part))).count()
}

fn await_lines(gateway: &Gateway, count: usize, parts: &[&str]) {
    wait(&format!("{count} lines with {parts:?}"), || (lines(gateway, parts) >= count).then_some(()));
}

fn secret_file(directory: &Path) -> String {
    let path = directory.join("secret");
    fs::write(&path, SECRET).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    format!("link_secret_file={}", path.display())
}

#[test]
fn a_failed_dial_is_said_with_its_cause_address_and_shard_and_not_each_time() {
    let directory = tempfile::tempdir().unwrap();
    let plain = directory.path().join("plain");
    fs::write(&plain, "x").unwrap();
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let missing = directory.path().join("missing").display().to_string();
    let workers = [
        ("refused", dead.clone(), "Connection refused"),
        ("missing", format!("unix:{missing}"), "No such file"),
        ("plain", format!("unix:{}", plain.display()), "Connection refused"),
    ];
    let mut arguments = vec!["--shards".to_owned(), "1".to_owned()];
    for (name, address, _) in &workers {
        arguments.extend(["--worker".to_owned(), format!("{name}={address}")]);
    }
    let gateway = Gateway::start(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    for (name, address, cause) in &workers {
        await_lines(&gateway, 1, &["WARN", &format!("worker=\"{name}\""), "shard=0", address, cause]);
    }
    wait("some dials", || (gateway.metric("roost_link_breaks", &[]) > 20).then_some(()));
    assert!(lines(&gateway, &["worker=\"refused\""]) <= 2, "{:#?}", gateway.log());
    gateway.stop();
}

#[test]
fn a_name_that_leads_nowhere_stops_neither_start_nor_reload_nor_end() {
    let directory = tempfile::tempdir().unwrap();
    let secret = secret_file(directory.path());
    let worker = Echo::start("127.0.0.1:0", Some(SECRET));
    let good = format!("good={}", worker.address);
    let bad = "bad=no-such-host.invalid:7500".to_owned();
    let file = File::new(&[bad.clone(), good.clone()]);
    let mut gateway = Gateway::start(&["--config", file.path(), "--set", &secret]);
    gateway.welcome("a").echo(b"served");
    let line = gateway.wait_for_line("the worker's name cannot be looked up");
    for part in ["WARN", "worker=\"bad\"", "no-such-host.invalid:7500", "cause="] {
        assert!(line.contains(part), "`{part}` is missing in: {line}");
    }
    // It is retried, and not told of each time.
    thread::sleep(Duration::from_millis(700));
    assert_eq!(lines(&gateway, &["cannot be looked up"]), 1);
    assert_eq!(lines(&gateway, &["worker=\"bad\"", "come up"]), 0, "it is not even dialled");
    file.name(&[bad, good, "worse=no-such-host-either.invalid:7500".to_owned()]);
    gateway.signal(SIGHUP);
    gateway.wait_for_line("SIGHUP: workers");
    gateway.wait_for_line("worker=\"worse\"");
    gateway.welcome("b").echo(b"still served");
    gateway.stop();
}

/// Messages that are answered in order, though perhaps twice: a worker may be sent again what another
/// has handled already.
fn converse(client: &mut Client, numbers: std::ops::Range<u32>) {
    for number in numbers {
        client.send(&frame(FrameType::Message, &number.to_be_bytes()));
        loop {
            let received = client.receive().expect("an answer");
            assert_eq!(received.frame_type, FrameType::Message);
            let answered = u32::from_be_bytes(received.payload.try_into().unwrap());
            assert!(answered <= number, "{answered} comes before it was said");
            if answered == number {
                break;
            }
        }
    }
}

#[test]
fn another_address_by_sighup_is_dialled_and_no_message_is_lost() {
    let first = Echo::start("127.0.0.1:0", None);
    // All addresses of the host: as an instance that can be reached in several ways.
    let second = Echo::start("0.0.0.0:0", None);
    let at = |host: &str| format!("w=127.0.0.{host}:{}", second.port());
    let file = File::new(&[format!("w={}", first.address)]);
    let gateway = Gateway::start(&["--config", file.path(), "--shards", "1"]);
    let mut client = gateway.welcome("a");
    let speaker = thread::spawn(move || {
        converse(&mut client, 0..2_000);
        client
    });
    thread::sleep(Duration::from_millis(20));
    // To another instance: what was not acknowledged is sent again.
    file.name(&[at("1")]);
    gateway.signal(SIGHUP);
    await_lines(
        &gateway,
        1,
        &["link up", &format!("address=\"127.0.0.1:{}\"", second.port()), "resumed=false"],
    );
    // To the same one by another of its addresses: the session goes on.
    file.name(&[at("2")]);
    gateway.signal(SIGHUP);
    await_lines(
        &gateway,
        1,
        &["link up", &format!("address=\"127.0.0.2:{}\"", second.port()), "resumed=true"],
    );
    let mut client = speaker.join().expect("every message is answered");
    converse(&mut client, 2_000..2_100);
    assert_eq!(lines(&gateway, &["INFO", "link down", "another address"]), 2);
    assert_eq!(gateway.metric("roost_link_up", &["worker=\"w\""]), 1);
    gateway.stop();
}

#[test]
fn more_workers_than_links_are_refused_at_start_and_by_reload() {
    // Nobody listens there; each is dialled.
    let named = |names: std::ops::Range<u32>| -> Vec<String> {
        names.map(|number| format!("w{number}=127.0.0.1:1")).collect()
    };
    let worker = Echo::start("127.0.0.1:0", None);
    let file = File::new(&named(0..257));
    let (status, text) = output(command(&["--config", file.path()]));
    assert!(!status.success());
    assert!(text.contains("257 workers; a gateway has links to at most 256"), "{text}");
    let good = [format!("good={}", worker.address)];
    file.name(&good);
    let gateway = Gateway::start(&["--config", file.path(), "--shards", "1"]);
    gateway.welcome("a").echo(b"served");
    for too_many in [named(0..257), [&good[..], &named(0..256)].concat()] {
        let refusals = lines(&gateway, &["ERROR", "nothing changes", "at most 256"]);
        file.name(&too_many);
        gateway.signal(SIGHUP);
        await_lines(&gateway, refusals + 1, &["ERROR", "nothing changes", "at most 256"]);
    }
    // 256 others fit only when the one there is has left.
    file.name(&named(0..256));
    gateway.signal(SIGHUP);
    await_lines(&gateway, 1, &["ERROR", "nothing changes", "at most 256", "such as \"good\""]);
    assert_eq!(gateway.metric("roost_links_up", &[]), 1);
    gateway.welcome("b").echo(b"still served");
    file.name(&[&named(0..255), &good[..]].concat());
    gateway.signal(SIGHUP);
    await_lines(&gateway, 1, &["SIGHUP: workers"]);
    wait("their figures", || (gateway.metric("roost_link_state", &["worker=\"w254\""]) > 0).then_some(()));
    gateway.welcome("c").echo(b"served beside them");
    file.name(&good);
    gateway.signal(SIGHUP);
    wait("the end of their figures", || {
        (gateway.metric("roost_link_state", &["worker=\"w254\""]) == 0).then_some(())
    });
    gateway.stop();
}

/// Says that a test could not run here.
fn skip(test: &str, reason: &str) {
    assert!(std::env::var_os("ROOST_TEST_ALL").is_none_or(|all| all != "1"), "{test} cannot run: {reason}");
    eprintln!("skipped {test}: {reason}");
    if let Some(path) = std::env::var_os("ROOST_SKIP_FILE") {
        let mut file = fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
        writeln!(file, "{test}: {reason}").unwrap();
    }
}

/// The gateway's command in namespaces of its own: `kinds` of unshare(1), after this shell script.
fn apart(kinds: &str, script: &str, arguments: &[&str]) -> Option<Command> {
    let tried = Command::new("unshare").args([kinds, "true"]).output();
    if !tried.is_ok_and(|tried| tried.status.success()) {
        return None;
    }
    let plain = command(arguments);
    let mut apart = Command::new("unshare");
    apart.args([kinds, "sh", "-c", &format!("{script} && exec \"$@\""), "sh"]);
    apart.arg(plain.get_program()).args(plain.get_args());
    for (name, value) in plain.get_envs() {
        value.map(|value| apart.env(name, value));
    }
    apart.stdin(std::process::Stdio::null());
    apart.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    Some(apart)
}

#[test]
fn a_name_is_looked_up_at_each_failure_and_all_its_addresses_are_tried() {
    let directory = tempfile::tempdir().unwrap();
    let hosts = directory.path().join("hosts");
    let resolve = |text: &str| fs::write(&hosts, format!("127.0.0.1 localhost\n{text}")).unwrap();
    let secret = secret_file(directory.path());
    let first = Echo::start("127.0.0.2:0", Some(SECRET));
    let port = first.port().to_owned();
    resolve("127.0.0.2 w.test\n");
    let script = format!("mount --bind {} /etc/hosts", hosts.display());
    let worker = format!("w=w.test:{port}");
    let arguments =
        ["--worker", &worker, "--set", &secret, "--shards", "1", "--set", "link_failover_ms=1000"];
    let Some(command) = apart("-m", &script, &arguments) else {
        return skip("names of workers that move", "unshare(1) makes no mount namespace here");
    };
    let gateway = Gateway::spawn(command);
    await_lines(&gateway, 1, &["link up", &format!("address=\"127.0.0.2:{port}\"")]);
    let mut client = gateway.welcome("a");
    converse(&mut client, 0..10);
    // It moves. The name leads to an address where nobody is, too, and to that first.
    resolve("::1 w.test\n127.0.0.3 w.test\n");
    let second = Echo::start(&format!("127.0.0.3:{port}"), Some(SECRET));
    drop(first);
    await_lines(&gateway, 1, &["link up", &format!("address=\"127.0.0.3:{port}\"")]);
    converse(&mut client, 10..20);
    await_lines(&gateway, 1, &["INFO", "leads there now", "127.0.0.3"]);
    drop(second);
    gateway.stop();
}

#[test]
fn a_link_that_is_connected_to_itself_is_reset_and_told_of() {
    const PORT: u16 = 45_000;
    let worker = format!("w=127.0.0.1:{PORT}");
    let Some(command) =
        apart("-n", "ip link set lo up", &["--worker", &worker, "--shards", "1", "--drain-ms", "0"])
    else {
        return skip("links to themselves", "unshare(1) makes no network namespace here");
    };
    let mut gateway = Gateway::spawn(command);
    // From now on the kernel has one port to give.
    let range = format!("echo {PORT} {PORT} > /proc/sys/net/ipv4/ip_local_port_range");
    let pid = gateway.pid().to_string();
    let mut narrow = Command::new("nsenter");
    narrow.args(["-t", &pid, "-n", "sh", "-c", &range]);
    let (status, text) = output(narrow);
    assert!(status.success(), "{text}");
    let line = gateway.wait_for_line("connected to itself");
    assert!(line.contains("WARN") && line.contains("worker=\"w\"") && line.contains("shard=0"), "{line}");
    // Nothing is left of it that would keep the worker from its port.
    let until = Instant::now() + Duration::from_millis(500);
    while Instant::now() < until {
        let sockets = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap();
        let end = format!(":{PORT:04X} ");
        let in_time_wait = |line: &&str| line.contains(&end) && line.contains(" 06 ");
        assert_eq!(sockets.lines().filter(in_time_wait).count(), 0, "{sockets}");
        thread::sleep(Duration::from_millis(5));
    }
}
