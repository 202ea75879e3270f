//! A backend pushes to a client that says nothing, by way of a worker in this process.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use roost_protocol::edge::FrameType;
use roost_router::{Listener, Worker, WorkerConfig, handlers, shutdown};

use crate::support::{Gateway, wait};

/// A way for TCP from the gateway to the worker that can be cut.
pub(crate) struct Way {
    pub(crate) address: SocketAddr,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Way {
    pub(crate) fn to(worker: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let open = Arc::new(Mutex::new(Vec::new()));
        let all = open.clone();
        // Ends with the process.
        thread::spawn(move || {
            for gateway in listener.incoming() {
                let (gateway, worker) = (gateway.unwrap(), TcpStream::connect(worker).unwrap());
                for (from, to) in [(&gateway, &worker), (&worker, &gateway)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    thread::spawn(move || pass(from, to));
                }
                all.lock().unwrap().extend([gateway, worker]);
            }
        });
        Self { address, open }
    }

    pub(crate) fn cut(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            // It may have ended by itself.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 4096];
    while let Ok(bytes @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..bytes]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

#[test]
fn what_is_pushed_while_the_link_is_cut_reaches_the_client_once_and_in_order() {
    let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap()).unwrap();
    let way = Way::to(listener.address().unwrap().to_string().parse().unwrap());
    let worker = Worker::new(WorkerConfig::default());
    let push = worker.handle();
    let (stop, stopped) = shutdown();
    let thread = thread::spawn(move || worker.run(handlers::Route, vec![listener], stopped));
    let gateway = Gateway::start(&["--shards", "1", "--worker", &format!("w={}", way.address)]);
    let mut alice = gateway.welcome("alice");
    for number in 0..200u32 {
        if number % 10 == 5 {
            way.cut();
        }
        push.send_to_key("alice", number.to_be_bytes().to_vec()).unwrap();
        if number % 10 == 9 {
            // The rest of them waits in the session, and comes when the gateway has dialled again.
            for expected in number - 9..=number {
                let received = alice.receive().expect("a message");
                assert_eq!(received.frame_type, FrameType::Message);
                assert_eq!(received.payload, expected.to_be_bytes());
            }
        }
    }
    // Nothing comes twice: what is pushed last is what comes next.
    push.send_to_key("alice", "last").unwrap();
    assert_eq!(alice.receive().expect("a message").payload, b"last");
    wait("the cuts are seen", || (gateway.metric("roost_link_breaks", &[]) >= 10).then_some(()));
    gateway.stop();
    stop.stop();
    thread.join().unwrap().unwrap();
}
