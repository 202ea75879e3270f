//! A gateway process, a client that speaks the edge protocol, and a neighbour that must not notice.

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    os::unix::process::ExitStatusExt,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use roost_protocol::{
    Reason,
    edge::{self, FrameType, Goaway, Hello},
};

/// How long anything may take before a test gives up. Generous: the machine may be slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Arguments for a log that tells of single connections.
pub(crate) const DEBUG: [&str; 2] = ["--set", "log_level=debug"];

/// A running gateway; killed when dropped.
pub(crate) struct Gateway {
    child: Child,
    pub(crate) clients: SocketAddr,
    pub(crate) admin: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
}

/// The gateway's command with ports of the kernel's choice and these further arguments.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roost-gateway"));
    command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    // A test machine's size must not decide what is tested; flags still override.
    command.env("ROOST_SHARDS", "2").env("ROOST_CONNECTIONS_MAX", "4000");
    // Who is still there at the end need not be sent away one after the other.
    command.env("ROOST_DRAIN_MS", "100").args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

impl Gateway {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::spawn(command(arguments))
    }

    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut gateway = Self::spawn_unready_command(&mut command);
        gateway.await_ready();
        gateway
    }

    /// One that may not come up.
    pub(crate) fn spawn_unready(arguments: &[&str]) -> Self {
        Self::spawn_unready_command(&mut command(arguments))
    }

    pub(crate) fn spawn_unready_command(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("the gateway can be started");
        let log = Arc::new(Mutex::new(Vec::new()));
        collect(child.stdout.take().unwrap(), Arc::clone(&log));
        collect(child.stderr.take().unwrap(), Arc::clone(&log));
        Self { child, clients: ([0, 0, 0, 0], 0).into(), admin: ([0, 0, 0, 0], 0).into(), log }
    }

    /// Waits until it serves.
    pub(crate) fn await_ready(&mut self) {
        self.clients = self.address("  clients    ");
        self.admin = self.address("metrics and page address=");
    }

    /// One of which nothing is read; it serves when this returns.
    pub(crate) fn spawn_blind(mut command: Command, clients: SocketAddr, admin: SocketAddr) -> Self {
        let child = command.spawn().expect("the gateway can be started");
        let mut gateway = Self { child, clients, admin, log: Arc::default() };
        wait("the admin side", || {
            assert_eq!(gateway.child.try_wait().unwrap(), None, "the gateway ended");
            TcpStream::connect(admin).ok()
        });
        gateway
    }

    /// Waits for a line with this text, and parses the address that follows it.
    fn address(&mut self, text: &str) -> SocketAddr {
        let line = self.wait_for_line(text);
        let rest = &line[line.find(text).unwrap() + text.len()..];
        rest.split([' ', ',']).next().unwrap().parse().expect("an address")
    }

    /// Waits until so many closes for this reason stand in the log. Each is a line at level debug:
    /// see [`DEBUG`].
    pub(crate) fn await_logged_closes(&self, reason: Reason, count: usize) {
        let field = format!("reason={reason}");
        let is_close = |line: &&String| line.contains("closed") && line.split(' ').any(|word| word == field);
        wait(&format!("{count} lines about {reason}"), || {
            (self.log().iter().filter(is_close).count() >= count).then_some(())
        });
    }

    pub(crate) fn wait_for_line(&mut self, text: &str) -> String {
        wait("a line of the log", || {
            if let Some(line) = self.log().into_iter().find(|line| line.contains(text)) {
                return Some(line);
            }
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the gateway ended ({ended:?}): {:#?}", self.log());
            None
        })
    }

    /// Waits until so many lines have this text.
    pub(crate) fn wait_for_lines(&mut self, text: &str, count: usize) {
        wait(&format!("{count} lines with `{text}`"), || {
            (self.log().iter().filter(|line| line.contains(text)).count() >= count).then_some(())
        });
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn connect(&self) -> Client {
        Client::connect(self.clients)
    }

    /// A client whose session is open.
    pub(crate) fn welcome(&self, key: &str) -> Client {
        let mut client = self.connect();
        client.hello(key);
        client
    }

    /// The sum over all shards of a metric with these labels in it.
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> u64 {
        let text = get(self.admin, "/metrics");
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ')?;
            let named = series.split('{').next().unwrap().trim_end_matches("_total") == name;
            let matches = named && labels.iter().all(|label| series.contains(label));
            matches.then(|| value.split('.').next().unwrap().parse::<u64>().expect("a count"))
        };
        text.lines().filter_map(sample).sum()
    }

    /// Waits until the closes for this reason are as many as given.
    pub(crate) fn await_closes(&self, reason: Reason, count: u64) {
        let label = format!("reason=\"{}\"", reason.label());
        wait(&format!("{count} closes for {reason}"), || {
            (self.metric("roost_closes", &[&label]) >= count).then_some(())
        });
    }

    pub(crate) fn signal(&self, signal: i32) {
        let status =
            Command::new("kill").args([format!("-{signal}"), self.pid().to_string()]).status().unwrap();
        assert!(status.success());
    }

    pub(crate) fn wait_exit(&mut self) -> ExitStatus {
        wait("the gateway's end", || self.child.try_wait().unwrap())
    }

    /// SIGTERM, and it must end well.
    pub(crate) fn stop(mut self) {
        self.signal(15);
        let status = self.wait_exit();
        assert!(status.success(), "{status:?} {:?}: {:#?}", status.signal(), self.log());
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if thread::panicking() {
            eprintln!("the gateway said: {:#?}", self.log());
        }
    }
}

fn collect(from: impl Read + Send + 'static, into: Arc<Mutex<Vec<String>>>) {
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            into.lock().unwrap().push(line);
        }
    });
}

/// Runs a command to its end; its exit status and everything it printed.
pub(crate) fn output(mut command: Command) -> (ExitStatus, String) {
    let output = command.output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status, text)
}

/// Waits for a condition.
pub(crate) fn wait<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < until, "timed out waiting for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The body of an HTTP GET.
pub(crate) fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").expect("a header");
    assert!(head.starts_with("HTTP/1.1 200") || head.starts_with("HTTP/1.1 503"), "{head}");
    body.to_owned()
}

/// A frame of any type.
pub(crate) fn frame(frame_type: FrameType, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    edge::encode_frame(frame_type, payload, &mut bytes);
    bytes
}

/// A whole frame as received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) frame_type: FrameType,
    pub(crate) payload: Vec<u8>,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Fin,
    Reset,
}

/// A client.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    bytes: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self::from_stream(stream)
    }

    /// A client on a connection that is there already.
    pub(crate) fn from_stream(stream: TcpStream) -> Self {
        Self { stream, bytes: Vec::new() }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// HELLO and its WELCOME.
    pub(crate) fn hello(&mut self, key: &str) {
        self.send_hello(key);
        let welcome = self.receive().expect("WELCOME");
        assert_eq!(welcome.frame_type, FrameType::Welcome, "{welcome:?}");
    }

    pub(crate) fn send_hello(&mut self, key: &str) {
        let mut bytes = Vec::new();
        Hello { key: key.as_bytes(), token: b"" }.encode(&mut bytes);
        self.send(&bytes);
    }

    /// The next frame, or how the connection ended.
    pub(crate) fn receive(&mut self) -> Result<Received, End> {
        loop {
            if let edge::Split::Frame { frame_type, frame } =
                edge::split(&self.bytes, edge::FRAME_BYTES_LIMIT).expect("the gateway sends valid frames")
            {
                let received = Received { frame_type, payload: frame[edge::HEADER_BYTES..].to_vec() };
                let len = frame.len();
                self.bytes.drain(..len);
                return Ok(received);
            }
            let mut buffer = [0; 65_536];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(End::Fin),
                Ok(count) => self.bytes.extend(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Err(End::Reset),
                Err(error) => panic!("nothing within {PATIENCE:?}: {error}"),
            }
        }
    }

    /// The connection must end now, by FIN, after a GOAWAY with this reason; its retry-after.
    pub(crate) fn expect_goaway(&mut self, reason: Reason) -> u32 {
        let (retry_after_ms, alternative) = self.expect_advice(reason);
        assert_eq!(alternative, "", "no other address");
        retry_after_ms
    }

    /// The same; its retry-after and the address to go to instead.
    pub(crate) fn expect_advice(&mut self, reason: Reason) -> (u32, String) {
        let received = self.receive().unwrap_or_else(|end| panic!("{end:?} instead of GOAWAY ({reason})"));
        assert_eq!(received.frame_type, FrameType::Goaway, "{received:?}");
        let goaway = Goaway::decode(&received.payload).unwrap();
        assert_eq!(goaway.reason, reason);
        assert_eq!(self.receive(), Err(End::Fin));
        (goaway.retry_after_ms, str::from_utf8(goaway.alternative).expect("text").to_owned())
    }

    /// The reason of a GOAWAY that has come already.
    pub(crate) fn goaway_so_far(&mut self) -> Option<Reason> {
        self.stream.set_nonblocking(true).unwrap();
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = self.stream.read(&mut buffer) {
            self.bytes.extend(&buffer[..count]);
        }
        match edge::split(&self.bytes, edge::FRAME_BYTES_LIMIT).expect("the gateway sends valid frames") {
            edge::Split::Frame { frame_type: FrameType::Goaway, frame } => {
                Some(Goaway::decode(&frame[edge::HEADER_BYTES..]).unwrap().reason)
            }
            edge::Split::Frame { frame_type, .. } => panic!("{frame_type:?} instead of GOAWAY"),
            edge::Split::Need { .. } => None,
        }
    }

    /// Sends a message and gets it back.
    pub(crate) fn echo(&mut self, payload: &[u8]) {
        self.send(&frame(FrameType::Message, payload));
        let received = self.receive().expect("an echo");
        assert_eq!(received.frame_type, FrameType::Message);
        assert!(received.payload == payload, "another payload came back");
    }

    pub(crate) fn shut(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Closes with RST instead of FIN.
    pub(crate) fn reset(self) {
        rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO)).unwrap();
    }
}

/// A client whose traffic runs beside a test, every reply checked.
pub(crate) struct Neighbour {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Neighbour {
    pub(crate) fn start(gateway: &Gateway) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let mut client = gateway.welcome("neighbour");
        let thread = thread::spawn(move || {
            let mut count: u64 = 0;
            while !stopped.load(Relaxed) || count == 0 {
                client.echo(&count.to_be_bytes());
                count += 1;
            }
            count
        });
        Self { stop, thread }
    }

    /// Ends it; panics if anything of its traffic was wrong.
    pub(crate) fn finish(self) -> u64 {
        self.stop.store(true, Relaxed);
        self.thread.join().expect("the neighbour was disturbed")
    }
}
