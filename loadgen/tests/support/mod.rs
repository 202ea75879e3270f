//! A small server that speaks the edge protocol: echoes messages, answers pings, and misbehaves
//! on request, so that the load generator's checks can be seen to catch it.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
};

use roost_protocol::{
    Reason, SessionRef,
    edge::{Decoder, FRAME_BYTES_LIMIT, FrameType, Goaway, Welcome, encode_frame},
};
use rustix::event::{Timespec, epoll};

/// What the server does wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Does not answer the n-th message.
    Lose(u64),
    /// Answers the n-th message twice.
    Duplicate(u64),
    /// Holds the reply to the n-th message back until the next of the same client.
    Reorder(u64),
    /// Sends the reply to the n-th message to another client.
    Misdeliver(u64),
    /// Flips a bit in the reply to the n-th message.
    Corrupt(u64),
    /// Closes the connection that sends the n-th message.
    Drop(u64),
    /// Does not answer the n-th PING.
    IgnorePing(u64),
    /// Refuses the n-th HELLO with GOAWAY and this retry-after.
    Refuse(u64, u32),
    /// Does nothing for so many milliseconds when the n-th message comes.
    Pause(u64, u64),
    /// Answers the n-th message with a frame of no known type.
    Garbage(u64),
}

/// A running server; stops when dropped.
pub struct Server {
    address: SocketAddr,
    handled: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    handle: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts it on a port of the kernel's choice.
    pub fn start(fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        // std listens with a backlog of 128, too few for a ramp.
        rustix::net::listen(&listener, 4096).unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let handled = Arc::new(AtomicU64::new(0));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&handled));
        let handle = std::thread::spawn(move || Loop::new(listener, fault, counted).run(&stopped));
        Self { address, handled, stop, handle: Some(handle) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Messages received.
    #[allow(dead_code, reason = "not every test binary counts")]
    pub fn handled(&self) -> u64 {
        self.handled.load(Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.handle.take().unwrap().join().unwrap();
    }
}

struct Client {
    stream: TcpStream,
    decoder: Decoder,
    out: Vec<u8>,
    held_back: Vec<u8>,
    dead: bool,
}

struct Loop {
    listener: TcpListener,
    epoll: std::os::fd::OwnedFd,
    clients: HashMap<u64, Client>,
    next: u64,
    fault: Fault,
    hellos: u64,
    pings: u64,
    handled: Arc<AtomicU64>,
}

impl Loop {
    fn new(listener: TcpListener, fault: Fault, handled: Arc<AtomicU64>) -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
        epoll::add(&epoll, &listener, epoll::EventData::new_u64(0), epoll::EventFlags::IN).unwrap();
        Self { listener, epoll, clients: HashMap::new(), next: 1, fault, hellos: 0, pings: 0, handled }
    }

    fn run(mut self, stop: &AtomicBool) {
        let mut events = Vec::with_capacity(256);
        while !stop.load(Relaxed) {
            events.clear();
            let wait = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
            epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&wait)).unwrap();
            for event in &events {
                match event.data.u64() {
                    0 => self.accept(),
                    id => self.serve(id),
                }
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            stream.set_nonblocking(true).unwrap();
            let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
            epoll::add(&self.epoll, &stream, epoll::EventData::new_u64(self.next), flags).unwrap();
            let decoder = Decoder::new(FRAME_BYTES_LIMIT);
            let client = Client { stream, decoder, out: Vec::new(), held_back: Vec::new(), dead: false };
            self.clients.insert(self.next, client);
            self.next += 1;
        }
    }

    fn serve(&mut self, id: u64) {
        let Some(mut client) = self.clients.remove(&id) else { return };
        let mut buffer = [0; 16 * 1024];
        loop {
            match client.stream.read(&mut buffer) {
                Ok(0) => client.dead = true,
                Ok(count) => {
                    let mut frames = Vec::new();
                    client
                        .decoder
                        .feed(&buffer[..count], |frame_type, frame| {
                            frames.push((frame_type, frame[4..].to_vec()));
                        })
                        .expect("the load generator speaks the protocol");
                    for (frame_type, payload) in frames {
                        self.on_frame(&mut client, frame_type, &payload);
                    }
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => client.dead = true,
            }
            break;
        }
        while !client.out.is_empty() {
            match client.stream.write(&client.out) {
                Ok(count) => drop(client.out.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    client.dead = true;
                    break;
                }
            }
        }
        if !client.dead {
            self.clients.insert(id, client);
        }
    }

    fn on_frame(&mut self, client: &mut Client, frame_type: FrameType, payload: &[u8]) {
        match frame_type {
            FrameType::Hello => {
                self.hellos += 1;
                if let Fault::Refuse(nth, retry_after_ms) = self.fault
                    && nth == self.hellos
                {
                    Goaway::new(Reason::Full, retry_after_ms).encode(&mut client.out);
                    let _ = client.stream.write_all(&client.out);
                    client.dead = true;
                    return;
                }
                let welcome = Welcome {
                    heartbeat_interval_ms: 0,
                    idle_timeout_ms: 0,
                    frame_bytes_max: 65_536,
                    messages_per_s_max: 0,
                    session: SessionRef(self.hellos),
                };
                client.out.extend(welcome.encode());
            }
            FrameType::Ping => {
                self.pings += 1;
                if self.fault != Fault::IgnorePing(self.pings) {
                    encode_frame(FrameType::Pong, payload, &mut client.out);
                }
            }
            FrameType::Message => self.on_message(client, payload),
            FrameType::Close => client.dead = true,
            other => panic!("{other:?} from a client"),
        }
    }

    fn on_message(&mut self, client: &mut Client, payload: &[u8]) {
        let nth = self.handled.fetch_add(1, Relaxed) + 1;
        let mut reply = Vec::new();
        encode_frame(FrameType::Message, payload, &mut reply);
        match self.fault {
            Fault::Lose(at) if at == nth => return,
            Fault::Duplicate(at) if at == nth => client.out.extend(&reply),
            Fault::Reorder(at) if at == nth => {
                client.held_back = reply;
                return;
            }
            Fault::Misdeliver(at) if at == nth => {
                let other = self.clients.values_mut().next().expect("another client");
                other.stream.write_all(&reply).unwrap();
                return;
            }
            Fault::Corrupt(at) if at == nth => *reply.last_mut().unwrap() ^= 1,
            Fault::Drop(at) if at == nth => {
                client.dead = true;
                return;
            }
            Fault::Pause(at, ms) if at == nth => std::thread::sleep(std::time::Duration::from_millis(ms)),
            Fault::Garbage(at) if at == nth => reply = vec![0x1f, 0, 0, 0],
            _ => {}
        }
        client.out.extend(reply);
        client.out.append(&mut client.held_back);
    }
}
