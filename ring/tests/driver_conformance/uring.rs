//! The io_uring driver and real peers on loopback.

use std::{
    io::{ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
};

use roost_ring::{Config, Features, FeaturesMax, UringDriver, op::LinkAddress};
use rustix::net::sockopt::set_socket_linger;

use crate::rig::{Peers, Rig, SLOTS, SLOTS_PER_RING, Seen, pools};

struct RealPeers {
    address: SocketAddr,
    links: TcpListener,
    /// A port where nobody listens.
    dead: SocketAddr,
    streams: Vec<Option<TcpStream>>,
    direct: bool,
}

/// Runs a contract in every tier of features that this kernel has.
pub(crate) fn everywhere(contract: impl Fn(&mut Rig<'_>)) {
    for max in [FeaturesMax::Base, FeaturesMax::Deferred, FeaturesMax::Direct] {
        let features = Features::detect(max).expect("io_uring");
        if FeaturesMax::from(features.tier()) != max {
            eprintln!("skipped tier {max}: this kernel has {}", features.tier());
            continue;
        }
        run(&features, &contract);
    }
}

fn run(features: &Features, contract: &impl Fn(&mut Rig<'_>)) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let links = TcpListener::bind("127.0.0.1:0").expect("a port");
    links.set_nonblocking(true).expect("an open listener");
    // Bound and never listening: nobody else gets the port, and connects are refused.
    let reserved =
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None)
            .expect("a socket");
    rustix::net::bind(&reserved, &SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
    let dead = rustix::net::getsockname(&reserved).expect("a bound socket");
    let dead = SocketAddr::try_from(dead).expect("an IP address");
    let config = Config {
        ring_slots_max: SLOTS_PER_RING,
        sq_entries: 64,
        cq_entries: 256,
        ..Config::new(SLOTS, pools(), vec![listener.into()])
    };
    let mut driver = UringDriver::new(features, config).expect("a driver");
    let mut peers = RealPeers { address, links, dead, streams: Vec::new(), direct: features.direct() };
    contract(&mut Rig::new(&mut driver, &mut peers));
}

impl RealPeers {
    fn add(&mut self, stream: TcpStream) -> usize {
        stream.set_nodelay(true).expect("an open socket");
        stream.set_nonblocking(true).expect("an open socket");
        self.streams.push(Some(stream));
        self.streams.len() - 1
    }

    fn stream(&mut self, peer: usize) -> &mut TcpStream {
        self.streams[peer].as_mut().expect("a peer acts until it closes")
    }
}

impl Peers for RealPeers {
    fn connect(&mut self) -> usize {
        let stream = TcpStream::connect(self.address).expect("a connection");
        self.add(stream)
    }

    fn take_link(&mut self) -> Option<usize> {
        let (stream, _) = self.links.accept().ok()?;
        Some(self.add(stream))
    }

    fn link_address(&self) -> LinkAddress {
        LinkAddress::Tcp(self.links.local_addr().expect("a bound socket"))
    }

    fn dead_address(&self) -> LinkAddress {
        LinkAddress::Tcp(self.dead)
    }

    fn silent_address(&self) -> Option<LinkAddress> {
        None
    }

    fn write(&mut self, peer: usize, bytes: &[u8]) -> bool {
        match self.stream(peer).write(bytes) {
            Ok(written) => {
                assert_eq!(written, bytes.len());
                true
            }
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => false,
            Err(error) => panic!("{error}"),
        }
    }

    fn read(&mut self, peer: usize, bytes: &mut Vec<u8>) -> Seen {
        let mut buffer = vec![0; 1 << 20];
        match self.stream(peer).read(&mut buffer) {
            Ok(0) => Seen::End,
            Ok(len) => {
                bytes.extend(&buffer[..len]);
                Seen::Bytes(len)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Seen::Nothing,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Seen::Reset,
            Err(error) => panic!("{error}"),
        }
    }

    fn shutdown(&mut self, peer: usize) {
        self.stream(peer).shutdown(Shutdown::Write).expect("an open socket");
    }

    fn close(&mut self, peer: usize) {
        self.streams[peer] = None;
    }

    fn reset(&mut self, peer: usize) {
        let stream = self.streams[peer].take().expect("a peer acts until it closes");
        // Closing with no time to linger sends RST (socket(7)).
        set_socket_linger(&stream, Some(std::time::Duration::ZERO)).expect("an open socket");
    }

    fn is_direct(&self) -> bool {
        self.direct
    }
}
