//! Workers that break the link protocol, or are not there.

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
};

use roost_protocol::{
    ConnectionId, InstanceId, Reason, SessionRef,
    edge::FrameType,
    hash,
    link::{self, Header, LinkHello, LinkType, LinkWelcome, Split, handshake},
};

use crate::support::{Client, Gateway, PATIENCE, frame, wait};

const NONE: ConnectionId = ConnectionId::from_bits(0);

/// The worker's end of one link, driven by hand. It acknowledges nothing unless told to.
pub(crate) struct Worker {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Worker {
    /// Accepts a link and does its handshake, without a secret.
    pub(crate) fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut worker = Self { stream, bytes: Vec::new() };
        let (header, hello) = worker.receive().expect("LINK_HELLO");
        assert_eq!(header.link_type, LinkType::LinkHello);
        LinkHello::decode(&hello).unwrap();
        // Two listeners are two worker processes.
        let mut instance = InstanceId([9; 16]);
        instance.0[..2].copy_from_slice(&listener.local_addr().unwrap().port().to_be_bytes());
        let welcome = LinkWelcome {
            resumed: false,
            window_bytes: 1 << 20,
            worker: instance,
            nonce: [3; 16],
            received_position: 0,
            capabilities: 0,
            proof: None,
        };
        let mut out = Vec::new();
        handshake::encode_frame(LinkType::LinkWelcome, &welcome.encode_payload(), &mut out);
        worker.stream.write_all(&out).unwrap();
        let (header, _) = worker.receive().expect("LINK_PROOF");
        assert_eq!(header.link_type, LinkType::LinkProof);
        worker.send(Header::new(LinkType::Ack, NONE, 8), &0u64.to_be_bytes());
        worker
    }

    /// The next frame; none when the gateway has closed the link.
    pub(crate) fn receive(&mut self) -> Option<(Header, Vec<u8>)> {
        loop {
            if let Split::Frame { header, payload } = link::split(&self.bytes, u32::MAX).unwrap() {
                let payload = payload.to_vec();
                self.bytes.drain(..header.frame_bytes());
                return Some((header, payload));
            }
            let mut buffer = [0; 65_536];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(count) => self.bytes.extend(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("nothing within {PATIENCE:?}: {error}"),
            }
        }
    }

    /// The next frame of this type.
    pub(crate) fn await_frame(&mut self, link_type: LinkType) -> (Header, Vec<u8>) {
        loop {
            let (header, payload) = self.receive().expect("the link stays up");
            if header.link_type == link_type {
                return (header, payload);
            }
        }
    }

    fn send(&mut self, header: Header, payload: &[u8]) {
        self.stream.write_all(&header.encode()).unwrap();
        self.stream.write_all(payload).unwrap();
    }

    /// Accepts the client whose OPEN comes next.
    pub(crate) fn welcome(&mut self) -> ConnectionId {
        let (header, _) = self.await_frame(LinkType::Open);
        self.send(Header::new(LinkType::Accept, header.connection, 8), &SessionRef(7).0.to_be_bytes());
        header.connection
    }

    fn deliver(&mut self, connection: ConnectionId, payload: &[u8]) {
        let message = frame(FrameType::Message, payload);
        self.send(Header::new(LinkType::Data, connection, message.len() as u32), &message);
    }
}

pub(crate) fn gateway_of(listener: &TcpListener, arguments: &[&str]) -> Gateway {
    let worker = listener.local_addr().unwrap().to_string();
    Gateway::start(&[&["--worker", &worker, "--shards", "1"], arguments].concat())
}

#[test]
fn frames_for_dead_connections_reach_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let gateway = gateway_of(&listener, &[]);
    let mut worker = Worker::accept(&listener);
    let mut first = gateway.connect();
    first.send_hello("first");
    let dead = worker.welcome();
    assert_eq!(first.receive().unwrap().frame_type, FrameType::Welcome);
    drop(first);
    worker.await_frame(LinkType::Closed);
    // Its slot goes to the next client, under another generation.
    let mut second = gateway.connect();
    second.send_hello("second");
    let live = worker.welcome();
    assert_eq!(second.receive().unwrap().frame_type, FrameType::Welcome);
    let nobody = ConnectionId::new(0, 3999, 0);
    let elsewhere = ConnectionId::new(7, live.slot(), live.generation());
    for connection in [dead, nobody, elsewhere] {
        worker.deliver(connection, b"late");
    }
    worker.deliver(live, b"in time");
    assert_eq!(second.receive().unwrap().payload, b"in time");
    wait("the count of stale frames", || (gateway.metric("roost_link_frames_stale", &[]) == 3).then_some(()));
}

#[test]
fn a_worker_that_sends_garbage_is_hung_up_on_and_clients_stay() {
    for garbage in [&[0xffu8; 64][..], &[0, 0, 0, 0, 99, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut gateway = gateway_of(&listener, &[]);
        let mut worker = Worker::accept(&listener);
        let mut client = gateway.connect();
        client.send_hello("a");
        let connection = worker.welcome();
        assert_eq!(client.receive().unwrap().frame_type, FrameType::Welcome);
        worker.stream.write_all(garbage).unwrap();
        gateway.wait_for_line("link error");
        wait("the count", || (gateway.metric("roost_link_protocol_errors", &[]) >= 1).then_some(()));
        // It comes back as another instance, so the client's session is reopened.
        let mut worker = Worker::accept(&listener);
        let (header, payload) = worker.await_frame(LinkType::Reopen);
        assert_eq!(header.connection, connection);
        assert_eq!(link::Reopen::decode(&payload).unwrap().session, SessionRef(7));
        worker.deliver(connection, b"still here");
        assert_eq!(client.receive().unwrap().payload, b"still here");
    }
}

#[test]
fn a_worker_that_speaks_for_the_gateway_is_hung_up_on() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let gateway = gateway_of(&listener, &[]);
    let mut worker = Worker::accept(&listener);
    worker.send(Header::new(LinkType::Open, NONE, 0), &[]);
    while worker.receive().is_some() {}
    wait("the count", || (gateway.metric("roost_link_protocol_errors", &[]) >= 1).then_some(()));
}

#[test]
fn a_worker_with_another_secret_gets_no_link() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "a secret of the gateway\n").unwrap();
    let mut gateway = gateway_of(&listener, &["--link-secret-file", secret.path().to_str().unwrap()]);
    let (mut stream, _) = listener.accept().unwrap();
    let welcome = LinkWelcome {
        resumed: false,
        window_bytes: 1 << 20,
        worker: InstanceId([9; 16]),
        nonce: [3; 16],
        received_position: 0,
        capabilities: 0,
        proof: Some([1; 32]),
    };
    let mut out = Vec::new();
    handshake::encode_frame(LinkType::LinkWelcome, &welcome.encode_payload(), &mut out);
    stream.write_all(&out).unwrap();
    gateway.wait_for_line("secrets differ");
    assert_eq!(gateway.metric("roost_links_up", &[]), 0);
    assert!(gateway.metric("roost_link_protocol_errors", &[]) >= 1);
}

#[test]
fn a_worker_of_an_earlier_draft_is_refused_and_logged_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut gateway = gateway_of(&listener, &[]);
    for attempt in 1..=4 {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut worker = Worker { stream, bytes: Vec::new() };
        let (header, hello) = worker.receive().expect("LINK_HELLO");
        assert_eq!((header.link_type, hello.len()), (LinkType::LinkHello, 92));
        // 48 bytes and an empty proof: no capabilities.
        let welcome = [&[1, 0, 0, 0, 0, 1, 0, 0][..], &[9; 16], &[3; 16], &[0; 8], &[0]].concat();
        worker.send(Header::new(LinkType::LinkWelcome, NONE, welcome.len() as u32), &welcome);
        let (header, _) = worker.receive().expect("LINK_REFUSE");
        assert_eq!((header.link_type, header.aux), (LinkType::LinkRefuse, 4), "attempt {attempt}");
    }
    gateway.wait_for_line("malformed link payload");
    let lines = gateway.log();
    let refusals = lines.iter().filter(|line| line.contains("malformed link payload")).count();
    assert_eq!(refusals, 1, "the cause is no news the second time: {lines:#?}");
    assert_eq!(gateway.metric("roost_links_up", &[]), 0);
}

#[test]
fn a_worker_gives_a_connection_to_the_owner_of_another_hash() {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [a, b] = listeners.each_ref().map(|listener| listener.local_addr().unwrap());
    let arguments = ["--worker", &format!("a={a}"), "--worker", &format!("b={b}"), "--shards", "1"];
    let gateway = Gateway::start(&arguments);
    let mut workers = listeners.each_ref().map(Worker::accept);
    wait("both links", || (gateway.metric("roost_links_up", &[]) == 2).then_some(()));
    let owner = |key: &[u8]| {
        let names = ["a", "b"].iter().map(|name| hash::worker_hash(name.as_bytes())).enumerate();
        hash::rendezvous(hash::partition(key), names).unwrap()
    };
    let key_of = |wanted| (0..1_000).map(|i| format!("u{i}")).find(|key| owner(key.as_bytes()) == wanted);
    let (own, other) = (key_of(0).unwrap(), key_of(1).unwrap());
    let mut client = gateway.connect();
    client.send_hello(&own);
    let (header, _) = workers[0].await_frame(LinkType::Open);
    let mut payload = Vec::new();
    link::Accept {
        routing_hash: Some(hash::routing_hash(other.as_bytes())),
        ..link::Accept::new(SessionRef(7))
    }
    .encode_payload(&mut payload);
    workers[0].send(Header::new(LinkType::Accept, header.connection, payload.len() as u32), &payload);
    assert_eq!(client.receive().unwrap().frame_type, FrameType::Welcome);
    let (closed, _) = workers[0].await_frame(LinkType::Closed);
    assert_eq!(closed.aux_reason(), Reason::Moved);
    workers[0].send(Header::new(LinkType::Moved, header.connection, 0), &[]);
    let (reopened, payload) = workers[1].await_frame(LinkType::Reopen);
    let reopen = link::Reopen::decode(&payload).unwrap();
    assert_eq!((reopened.connection, reopen.session), (header.connection, SessionRef(7)));
    assert_eq!(reopen.routing_hash, hash::routing_hash(other.as_bytes()));
    workers[1].deliver(header.connection, b"from the owner");
    assert_eq!(client.receive().unwrap().payload, b"from the owner");
}

/// A port that nobody listens on, and will again.
fn vacant() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

#[test]
fn without_a_worker_clients_wait() {
    let address = vacant().local_addr().unwrap();
    let gateway = Gateway::start(&["--worker", &address.to_string(), "--shards", "1"]);
    let mut client = gateway.connect();
    client.send_hello("early");
    wait("the client to be blocked", || {
        (gateway.metric("roost_connections_blocked", &[]) == 1).then_some(())
    });
    let listener = TcpListener::bind(address).unwrap();
    let mut worker = Worker::accept(&listener);
    worker.welcome();
    assert_eq!(client.receive().unwrap().frame_type, FrameType::Welcome);
}

#[test]
fn a_client_that_leaves_while_it_waits_for_a_worker_is_noticed() {
    let address = vacant().local_addr().unwrap();
    let gateway = Gateway::start(&["--worker", &address.to_string(), "--set", "handshake_timeout_ms=600000"]);
    let waits = |count| {
        wait("the clients to be blocked", || {
            (gateway.metric("roost_connections_blocked", &[]) == count).then_some(())
        });
    };
    let mut clients: Vec<Client> = (0..4).map(|_| gateway.connect()).collect();
    for client in &mut clients {
        client.send_hello("early");
    }
    waits(4);
    // What they say meanwhile stays in their sockets, and must not hide that they leave.
    for client in &mut clients[1..] {
        client.send(&frame(FrameType::Message, b"unread"));
    }
    clients.pop().unwrap().reset();
    clients.pop().unwrap().reset();
    gateway.await_closes(Reason::ClientReset, 2);
    drop(clients.pop());
    gateway.await_closes(Reason::ClientEof, 1);
    waits(1);
    let listener = TcpListener::bind(address).unwrap();
    // One link per shard; the client's OPEN comes over one of them.
    let links = [Worker::accept(&listener), Worker::accept(&listener)].map(|mut worker| {
        thread::spawn(move || {
            while let Some((header, _)) = worker.receive() {
                if header.link_type == LinkType::Open {
                    let accept = Header::new(LinkType::Accept, header.connection, 8);
                    worker.send(accept, &SessionRef(7).0.to_be_bytes());
                }
            }
        })
    });
    assert_eq!(clients[0].receive().unwrap().frame_type, FrameType::Welcome);
    waits(0);
    drop(gateway);
    for link in links {
        link.join().unwrap();
    }
}

#[test]
fn a_client_does_not_wait_for_a_worker_for_ever() {
    let address = vacant().local_addr().unwrap();
    let gateway = Gateway::start(&["--worker", &address.to_string(), "--set", "handshake_timeout_ms=1000"]);
    let mut retries = Vec::new();
    for _ in 0..3 {
        let mut client = gateway.connect();
        client.send_hello("early");
        client.send(&frame(FrameType::Message, b"unread"));
        retries.push(client.expect_goaway(Reason::NoWorker));
    }
    assert!(retries.iter().all(|ms| (1000..=5000).contains(ms)), "{retries:?}");
    gateway.await_closes(Reason::NoWorker, 3);
    assert_eq!(gateway.metric("roost_connections_blocked", &[]), 0);
    gateway.stop();
}

#[test]
fn without_a_worker_clients_are_refused_where_configured() {
    let address = vacant().local_addr().unwrap();
    let gateway = Gateway::start(&["--worker", &address.to_string(), "--no-worker", "refuse"]);
    let mut client = gateway.connect();
    client.send_hello("early");
    assert!(client.expect_goaway(Reason::NoWorker) >= 1000);
    gateway.await_closes(Reason::NoWorker, 1);
}

#[test]
fn a_worker_that_reads_nothing_stops_its_clients_and_nobody_else() {
    let slow = TcpListener::bind("127.0.0.1:0").unwrap();
    let gateway = gateway_of(&slow, &["--set", "link_window_bytes=131080", "--link-failover-ms", "600000"]);
    let mut worker = Worker::accept(&slow);
    let mut client = gateway.connect();
    client.send_hello("a");
    worker.welcome();
    assert_eq!(client.receive().unwrap().frame_type, FrameType::Welcome);
    let mut sender = client.stream.try_clone().unwrap();
    let message = frame(FrameType::Message, &[5; 10_000]);
    let count = 2_000;
    let sending = thread::spawn(move || (0..count).for_each(|_| sender.write_all(&message).unwrap()));
    wait("the client to be blocked", || {
        (gateway.metric("roost_connections_blocked", &[]) == 1).then_some(())
    });
    // Window, receive buffers and no more; not the 20 MB that the client wants to send.
    let retained = gateway.metric("roost_link_retained_bytes", &[]);
    assert!(retained < (1 << 20) + 131_080 + 16_384, "{retained}");
    // It wakes up: all arrives, in order, nothing twice.
    let mut handled: u64 = 1;
    for _ in 0..count {
        worker.await_frame(LinkType::Data);
        handled += 1;
        if handled.is_multiple_of(10) || handled > count {
            worker.send(Header::new(LinkType::Ack, NONE, 8), &handled.to_be_bytes());
        }
    }
    sending.join().unwrap();
    wait("the client to be read again", || {
        (gateway.metric("roost_connections_blocked", &[]) == 0).then_some(())
    });
}
