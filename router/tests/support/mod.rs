//! Runs a real worker, and gateways that talk to it over real sockets.
#![allow(dead_code, unreachable_pub, missing_docs)]

pub mod peer;

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use peer::Peer;
use roost_router::{
    Address, Handler, Listener, ShutdownHandle, Stats, Worker, WorkerConfig, WorkerHandle, shutdown,
};

/// Far beyond what anything takes, even on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A worker on a thread of its own.
pub struct Running {
    pub stats: Arc<Stats>,
    pub push: WorkerHandle,
    pub handle: ShutdownHandle,
    pub addresses: Vec<Address>,
    pub thread: JoinHandle<io::Result<()>>,
    _dir: tempfile::TempDir,
}

/// Starts a worker that listens on TCP (first) and on a Unix socket (second).
pub fn start<H: Handler + Send>(config: WorkerConfig, handler: H) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let listeners = vec![
        Listener::bind(&"127.0.0.1:0".parse().unwrap()).unwrap(),
        Listener::bind(&Address::Unix(dir.path().join("worker"))).unwrap(),
    ];
    let addresses = listeners.iter().map(|listener| listener.address().unwrap()).collect();
    let worker = Worker::new(config);
    let (stats, push) = (worker.stats(), worker.handle());
    let (handle, stopped) = shutdown();
    let thread = std::thread::spawn(move || worker.run(handler, listeners, stopped));
    Running { stats, push, handle, addresses, thread, _dir: dir }
}

impl Running {
    pub fn stop(self) {
        self.handle.stop();
        self.join();
    }

    pub fn join(self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.thread.is_finished() {
            assert!(Instant::now() < deadline, "the worker does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        self.thread.join().expect("the worker does not panic").expect("the worker ends well");
    }
}

/// Waits for a condition.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "timed out waiting until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A [`Peer`] and its socket.
pub struct Link {
    pub peer: Peer,
    address: Address,
    socket: Option<Socket>,
}

impl Link {
    pub fn new(peer: Peer, address: &Address) -> Self {
        Self { peer, address: address.clone(), socket: None }
    }

    /// Connects and says hello.
    pub fn dial(&mut self) {
        let timeout = Some(Duration::from_millis(1));
        self.socket = Some(match &self.address {
            Address::Tcp(address) => {
                let socket = TcpStream::connect(address).unwrap();
                socket.set_nodelay(true).unwrap();
                socket.set_read_timeout(timeout).unwrap();
                Socket::Tcp(socket)
            }
            Address::Unix(path) => {
                let socket = UnixStream::connect(path).unwrap();
                socket.set_read_timeout(timeout).unwrap();
                Socket::Unix(socket)
            }
        });
        self.peer.connected();
    }

    /// Connects and completes the handshake; dials again where the worker is not ready for it.
    pub fn up(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.peer.is_up() {
            assert!(Instant::now() < deadline, "no link comes up: {:?}", self.peer.stage);
            if self.socket.is_none() {
                self.dial();
            }
            self.turn();
            // LINK_PROOF.
            let out = self.peer.fill();
            self.write(&out);
        }
    }

    /// Writes and reads once. False: the connection has ended.
    pub fn turn(&mut self) -> bool {
        let out = self.peer.fill();
        self.write(&out) && self.read()
    }

    /// Writes all but reads nothing.
    pub fn write(&mut self, bytes: &[u8]) -> bool {
        let written = match &mut self.socket {
            None => return false,
            Some(Socket::Tcp(socket)) => socket.write_all(bytes),
            Some(Socket::Unix(socket)) => socket.write_all(bytes),
        };
        if written.is_err() {
            self.cut();
        }
        self.socket.is_some()
    }

    pub fn read(&mut self) -> bool {
        let mut buffer = [0; 64 * 1024];
        let read = match &mut self.socket {
            None => return false,
            Some(Socket::Tcp(socket)) => socket.read(&mut buffer),
            Some(Socket::Unix(socket)) => socket.read(&mut buffer),
        };
        match read {
            Ok(0) => self.cut(),
            Ok(bytes) => self.peer.feed(&buffer[..bytes]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(_) => self.cut(),
        }
        self.socket.is_some()
    }

    /// Closes the connection, whatever is on its way.
    pub fn cut(&mut self) {
        self.socket = None;
        self.peer.disconnected();
    }

    /// Pushes numbers, so many in each of 30 rounds, of which two in three begin with a cut. Gives them.
    pub fn push_over_cuts(&mut self, per_round: u32, push: impl Fn(Vec<u8>)) -> Vec<Vec<u8>> {
        let mut pushed = Vec::new();
        for round in 0..30 {
            if round % 3 != 0 {
                self.cut();
            }
            for number in 0..per_round {
                let body = (round * per_round + number).to_be_bytes().to_vec();
                push(body.clone());
                pushed.push(body);
            }
            if round % 2 == 0 {
                self.turn();
            }
            if !self.peer.is_up() {
                self.up();
            }
        }
        pushed
    }

    /// Runs the link, dialling again when it breaks, until the condition holds.
    pub fn run_until(&mut self, what: &str, mut condition: impl FnMut(&Peer) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(&self.peer) {
            assert!(Instant::now() < deadline, "timed out waiting until {what}");
            if !self.turn() {
                self.up();
            }
        }
    }
}
