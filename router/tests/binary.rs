//! `roost-router` as a process.

mod support;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Output, Stdio},
    time::Instant,
};

use roost_protocol::{Reason, link::LinkType};
use support::{Link, PATIENCE, peer::Peer};

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roost-router"));
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).env("RUST_LOG", "info");
    command
}

fn run(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

/// A running worker; killed if a test fails.
struct Process {
    child: Child,
    lines: Box<dyn Iterator<Item = String>>,
}

impl Process {
    fn start(args: &[&str]) -> Self {
        let mut child = command(args).stderr(Stdio::inherit()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        Self { child, lines: Box::new(lines) }
    }

    /// The rest of the next line that the worker prints, after `prefix`.
    fn line(&mut self, prefix: &str) -> String {
        let line = self.lines.next().expect("the worker says more");
        line.strip_prefix(prefix).unwrap_or_else(|| panic!("{line:?} begins with {prefix:?}")).to_owned()
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// The exit code, once it has ended.
    fn wait(mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the worker does not end");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn get(url: &str, path: &str) -> String {
    let address = url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{answer}");
    body.to_owned()
}

#[test]
fn it_serves_links_shows_figures_and_drains() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, figures) = (dir.path().join("w"), dir.path().join("figures.json"));
    let unix = format!("unix:{}", socket.display());
    let mut worker = Process::start(&[
        "--listen",
        "127.0.0.1:0",
        "--listen",
        &unix,
        "--metrics",
        "127.0.0.1:0",
        "--stats-file",
        figures.to_str().unwrap(),
    ]);
    let tcp = worker.line("roost-router: listening on ");
    assert_eq!(worker.line("roost-router: listening on "), unix);
    let metrics = worker.line("roost-router: metrics on ");

    let mut links = [&tcp, &unix].map(|address| {
        let mut link = Link::new(Peer::new(1, u16::from(*address == unix)), &address.parse().unwrap());
        link.up();
        let id = link.peer.id(3);
        link.peer.open(id, b"user");
        link.peer.message(id, b"hello", false);
        link.run_until("the echo has come", |peer| peer.messages(id) == [b"hello"]);
        link
    });
    let stats: serde_json::Value = serde_json::from_str(&get(&metrics, "/stats")).unwrap();
    for (key, value) in
        [("messages_handled", 2), ("opens", 2), ("links", 2), ("connections", 2), ("closes", 0)]
    {
        assert_eq!(stats[key], value, "{key}");
    }
    assert_eq!(stats["pid"], worker.child.id());
    assert!(get(&metrics, "/metrics").contains("roost_worker_messages_handled_total 2\n"));

    worker.signal(rustix::process::Signal::TERM);
    for link in &mut links {
        link.run_until("the worker drains", |peer| {
            peer.control.iter().any(|frame| frame.header.link_type == LinkType::Draining)
        });
        link.peer.closed(link.peer.id(3), Reason::Moved);
        link.run_until("the connection has moved", |peer| peer.count(LinkType::Moved) == 1);
        // The acknowledgement of that has to get there too.
        link.run_until("all is acknowledged", |peer| peer.unacknowledged() == 0);
        link.turn();
    }
    for link in &mut links {
        while link.turn() {}
    }
    assert_eq!(worker.wait(), Some(0));
    assert!(!socket.exists(), "the socket file is removed");
    let stats: serde_json::Value = serde_json::from_slice(&std::fs::read(figures).unwrap()).unwrap();
    assert_eq!((&stats["closes"], &stats["connections"]), (&2.into(), &0.into()));
}

#[test]
fn a_second_signal_does_not_wait() {
    let mut worker = Process::start(&["--listen", "127.0.0.1:0"]);
    let address = worker.line("roost-router: listening on ").parse().unwrap();
    let mut link = Link::new(Peer::new(1, 0), &address);
    link.up();
    link.peer.open(link.peer.id(0), b"user");
    link.run_until("the client is accepted", |peer| peer.inbox.len() == 1);
    worker.signal(rustix::process::Signal::INT);
    link.run_until("the worker drains", |peer| !peer.control.is_empty());
    worker.signal(rustix::process::Signal::INT);
    assert_eq!(worker.wait(), Some(0));
}

#[test]
fn kill_and_restart_begin_a_new_session_on_the_same_socket() {
    let dir = tempfile::tempdir().unwrap();
    let unix = format!("unix:{}", dir.path().join("w").display());
    let start = || {
        let mut worker = Process::start(&["--listen", &unix]);
        worker.line("roost-router: listening on ");
        worker
    };
    let worker = start();
    let mut link = Link::new(Peer::new(1, 0), &unix.parse().unwrap());
    link.up();
    worker.signal(rustix::process::Signal::KILL);
    assert_eq!(worker.wait(), None);
    while link.turn() {}
    let _worker = start();
    link.up();
    assert_eq!((link.peer.sessions, link.peer.resumes), (2, 0));
}

/// A worker that logs every link, to a place where it cannot be read, and serves all the same.
fn serves_without_a_log(error: impl Into<Stdio>, keep: impl Sized) {
    let args = ["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--drain-ms", "100"];
    let mut child = command(&args).stderr(error).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut worker = Process { child, lines: Box::new(lines) };
    let address = worker.line("roost-router: listening on ");
    let metrics = worker.line("roost-router: metrics on ");
    // Each leaves a line, and the pipe has room for some forty.
    for _ in 0..300 {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(b"no link").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    }
    let mut link = Link::new(Peer::new(1, 0), &address.parse().unwrap());
    link.up();
    let id = link.peer.id(3);
    link.peer.open(id, b"user");
    link.peer.message(id, b"hello", false);
    link.run_until("the echo has come", |peer| peer.messages(id) == [b"hello"]);
    assert_eq!(get(&metrics, "/healthz"), "ok\n");
    let stats: serde_json::Value = serde_json::from_str(&get(&metrics, "/stats")).unwrap();
    // A hundred lines a second, whoever connects.
    assert!(stats["log_lines_left_out_over_rate"].as_u64().unwrap() > 0, "{stats}");
    worker.signal(rustix::process::Signal::TERM);
    assert_eq!(worker.wait(), Some(0));
    drop(keep);
}

#[test]
fn a_log_that_nobody_can_read_is_lost_and_nothing_else() {
    serves_without_a_log(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap(), ());
    let (gone, writer) = std::io::pipe().unwrap();
    drop(gone);
    serves_without_a_log(writer, ());
    let (stalled, writer) = std::io::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&writer, 4_096).unwrap();
    serves_without_a_log(writer, stalled);
}

#[test]
fn slow_clients_do_not_hold_up_health() {
    let mut worker = Process::start(&["--listen", "127.0.0.1:0", "--metrics", "127.0.0.1:0"]);
    worker.line("roost-router: listening on ");
    let metrics = worker.line("roost-router: metrics on ");
    let address = metrics.strip_prefix("http://").unwrap();
    let slow: Vec<_> = (0..150)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(b"GET /metrics HTTP/1.1\r\nX-a: ").unwrap();
            stream
        })
        .collect();
    let began = Instant::now();
    assert_eq!(get(&metrics, "/healthz"), "ok\n");
    assert!(began.elapsed() < std::time::Duration::from_secs(2), "{:?}", began.elapsed());
    drop(slow);
}

fn fails(args: &[&str], what: &str) {
    let output = run(args);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && error.contains(what), "{args:?}: {error}");
    assert_eq!(error.lines().count(), 1, "one line: {error}");
}

#[test]
fn secrets_that_anybody_could_guess_or_change_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    for (secret, bytes) in [("1", 1), ("123456789abcdef\n", 15), ("\n", 0)] {
        std::fs::write(path("short"), secret).unwrap();
        let expected = format!("the secret has {bytes} bytes, 16 are the least");
        fails(&["--listen", "127.0.0.1:0", "--link-secret-file", &path("short")], &expected);
    }
    std::fs::write(path("open"), "a secret for everybody").unwrap();
    set_mode(&path("open"), 0o666);
    fails(&["--link-secret-file", &path("open")], "everybody may change it (mode 0666)");
}

#[test]
fn strangers_leave_a_bounded_number_of_lines() {
    const STRANGERS: usize = 3_000;
    let mut process = command(&["--listen", "127.0.0.1:0"]).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address =
        line.trim_end().strip_prefix("roost-router: listening on ").expect("its address").to_owned();
    let mut log = process.stderr.take().unwrap();
    let log = std::thread::spawn(move || {
        let mut text = String::new();
        log.read_to_string(&mut text).unwrap();
        text
    });
    let began = Instant::now();
    for _ in 0..STRANGERS {
        let mut stranger = TcpStream::connect(&address).unwrap();
        stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        // Until the worker hangs up.
        let _ = stranger.read_to_end(&mut Vec::new());
    }
    let pid = rustix::process::Pid::from_child(&process);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(process.wait().unwrap().success());
    let text = log.join().unwrap();
    // 100 a second, those of the first and of the last one, and those that say what was left out.
    let most = 110 * (began.elapsed().as_secs() as usize + 3);
    assert!(text.lines().count() <= most, "{} lines, {most} at most", text.lines().count());
    assert!(text.contains("link not established"), "some are told of");
}

#[test]
fn mistakes_are_named_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fails(&["--listen", "0.0.0.0:0"], "give --link-secret-file");
    fails(&["--link-secret-file", &path("none")], "cannot be read");
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let held = holder.local_addr().unwrap().to_string();
    fails(&["--listen", &held], "cannot listen on");
    fails(&["--listen", "127.0.0.1:0", "--metrics", &held], "cannot serve metrics: cannot listen on");
}

#[test]
fn every_address_of_a_name_is_listened_on() {
    use std::net::ToSocketAddrs;
    let named: std::collections::BTreeSet<_> = "localhost:0".to_socket_addrs().unwrap().collect();
    let here = named.iter().filter(|address| std::net::TcpListener::bind(address).is_ok()).count();
    let mut worker = Process::start(&["--listen", "localhost:0"]);
    for _ in 0..here {
        let address = worker.line("roost-router: listening on ");
        Link::new(Peer::new(1, 0), &address.parse().unwrap()).up();
    }
}

/// A handshake goes on after a stop of the process that was longer than all the time it has.
#[test]
fn the_time_in_which_the_process_was_stopped_is_no_part_of_a_handshake() {
    const TIMEOUT_MS: u64 = 2_000;
    let timeout = TIMEOUT_MS.to_string();
    let mut worker = Process::start(&["--listen", "127.0.0.1:0", "--handshake-timeout-ms", &timeout]);
    let address = worker.line("roost-router: listening on ").parse().unwrap();
    let mut link = Link::new(Peer::new(1, 0), &address);
    link.dial();
    // LINK_HELLO is answered, so the handshake is known to be under way.
    link.turn();
    while !link.peer.is_up() {
        assert!(link.turn(), "the worker has hung up");
    }
    let proof = link.peer.fill();
    let (first, rest) = proof.split_at(5);
    assert!(link.write(first));
    worker.signal(rustix::process::Signal::STOP);
    std::thread::sleep(std::time::Duration::from_millis(TIMEOUT_MS + 1_000));
    worker.signal(rustix::process::Signal::CONT);
    assert!(link.write(rest));
    let id = link.peer.id(0);
    link.peer.open(id, b"user");
    let deadline = Instant::now() + PATIENCE;
    while link.peer.inbox.is_empty() {
        assert!(link.turn(), "the worker has hung up");
        assert!(Instant::now() < deadline, "the client is not accepted");
    }
}

fn set_mode(path: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_secret_that_others_may_read_is_taken_with_a_warning() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "0123456789abcdef").unwrap();
    let path = file.path().to_str().unwrap();
    for (mode, is_said) in [(0o600, false), (0o640, true), (0o644, true)] {
        set_mode(path, mode);
        let mut process = command(&["--listen", "127.0.0.1:0", "--link-secret-file", path]).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("listening on"), "{line}");
        // It writes its log to the end, which a kill would cut off.
        let pid = rustix::process::Pid::from_child(&process);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let output = process.wait_with_output().unwrap();
        let log = String::from_utf8(output.stderr).unwrap();
        assert_eq!(log.contains("may read it"), is_said, "mode {mode:o}: {log}");
    }
}

#[test]
fn a_secret_file_opens_other_addresses() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "open sesame, o cave \r\n").unwrap();
    let mut worker =
        Process::start(&["--listen", "0.0.0.0:0", "--link-secret-file", secret.to_str().unwrap()]);
    let port = worker.line("roost-router: listening on 0.0.0.0:");
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    let mut link = Link::new(Peer::new(1, 0).with_secret(Some(b"open sesame, o cave ")), &address);
    link.up();
    let id = link.peer.id(0);
    link.peer.open(id, b"user");
    link.run_until("the client is accepted", |peer| peer.inbox.len() == 1);
    assert!(link.peer.control.is_empty(), "the worker has proved the secret too");
}

#[test]
fn every_handler_takes_clients() {
    for handler in ["echo", "sink", "route", "fanout"] {
        let dir = tempfile::tempdir().unwrap();
        let unix = format!("unix:{}", dir.path().join("w").display());
        let mut worker = Process::start(&["--listen", &unix, "--handler", handler]);
        worker.line("roost-router: listening on ");
        let mut link = Link::new(Peer::new(1, 0), &unix.parse().unwrap());
        link.up();
        let id = link.peer.id(0);
        link.peer.open(id, b"user");
        link.peer.message(id, b"B!", false);
        link.run_until("all is acknowledged", |peer| peer.unacknowledged() == 0);
        let types: Vec<_> = link.peer.inbox.iter().map(|frame| frame.header.link_type).collect();
        let expected: &[LinkType] = match handler {
            "sink" => &[LinkType::Accept],
            "fanout" => &[LinkType::Accept, LinkType::Broadcast],
            _ => &[LinkType::Accept, LinkType::Data],
        };
        assert_eq!(types, expected, "{handler}");
    }
}

#[test]
fn sighup_is_no_end_and_another_process_s_socket_is_left_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("w");
    let mut worker = Process::start(&["--listen", &format!("unix:{}", path.display())]);
    worker.line("roost-router: listening on unix:");
    worker.signal(rustix::process::Signal::HUP);
    // Whoever comes next has taken the place.
    let aside = directory.path().join("aside");
    let _next = std::os::unix::net::UnixListener::bind(&aside).unwrap();
    std::fs::rename(&aside, &path).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    worker.signal(rustix::process::Signal::TERM);
    assert_eq!(worker.wait(), Some(0));
    assert!(path.exists(), "it is not the worker's any more");
}

#[test]
fn a_file_that_is_no_socket_is_refused_and_left() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "precious").unwrap();
    let output = run(&["--listen", &format!("unix:{}", file.path().display())]);
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("no socket, and is left as it is"), "{text}");
    assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "precious");
}
