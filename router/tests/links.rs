//! A real worker on real sockets, driven by a strict model of a gateway.

mod support;

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use roost_protocol::{
    Reason,
    link::{LinkType, Refusal},
};
use roost_router::{Address, Stat, WorkerConfig, handlers};
use support::{
    Link, Running,
    peer::{Peer, Stage},
    start, wait_until,
};

/// SplitMix64, so that a run can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (roost_protocol::hash::mix(self.0) % bound as u64) as usize
    }
}

fn tcp(worker: &Running) -> std::net::SocketAddr {
    match worker.addresses[0] {
        Address::Tcp(address) => address,
        Address::Unix(_) => unreachable!("the first listener is TCP"),
    }
}

#[test]
fn echo_over_tcp_and_unix() {
    let worker = start(WorkerConfig::default(), handlers::Echo);
    for (shard, address) in worker.addresses.iter().enumerate() {
        let mut link = Link::new(Peer::new(1, shard as u16), address);
        link.up();
        let id = link.peer.id(7);
        link.peer.open(id, b"user");
        for index in 0..1_000u32 {
            link.peer.message(id, &index.to_be_bytes(), false);
        }
        link.run_until("all is answered and acknowledged", |peer| {
            peer.inbox.len() == 1_001 && peer.unacknowledged() == 0
        });
        assert_eq!(link.peer.inbox[0].header.link_type, LinkType::Accept);
        assert_eq!(link.peer.inbox[0].payload, roost_protocol::hash::routing_hash(b"user").to_be_bytes());
        let expected: Vec<_> = (0..1_000u32).map(u32::to_be_bytes).collect();
        assert_eq!(link.peer.messages(id), expected);
        // Every frame causes one reply here, so a reply stands before its acknowledgement exactly
        // if no fewer replies than acknowledged frames have come.
        assert!(link.peer.acks.iter().all(|&(position, replies)| replies as u64 >= position));
        link.peer.closed(id, Reason::ClientClosed);
        link.run_until("the close is acknowledged", |peer| peer.unacknowledged() == 0);
    }
    assert_eq!(worker.stats.get(Stat::MessagesHandled), 2_000);
    assert_eq!((worker.stats.get(Stat::Connections), worker.stats.get(Stat::Closes)), (0, 2));
    worker.stop();
}

#[test]
fn nothing_is_lost_or_doubled_when_the_connection_is_cut_in_mid_frame() {
    let worker = start(WorkerConfig::default(), handlers::Echo);
    for (shard, address) in worker.addresses.iter().enumerate() {
        let mut random = Random(shard as u64);
        let mut link = Link::new(Peer::new(1, shard as u16).with_window(300_000), address);
        link.up();
        let ids: Vec<_> = (0..5).map(|slot| link.peer.id(slot)).collect();
        for id in &ids {
            link.peer.open(*id, b"user");
        }
        let mut sent = vec![Vec::new(); ids.len()];
        for round in 0..60u32 {
            for index in 0..100u32 {
                let client = random.below(ids.len());
                let mut body = (round * 100 + index).to_be_bytes().to_vec();
                body.resize(4 + random.below(2_000), index as u8);
                link.peer.message(ids[client], &body, false);
                sent[client].push(body);
            }
            link.turn();
            match random.below(3) {
                0 => {
                    // Part of what there is, and nothing more.
                    let out = link.peer.fill();
                    let cut = random.below(out.len() + 1);
                    link.write(&out[..cut]);
                    link.cut();
                }
                1 => link.cut(),
                _ => {}
            }
            if !link.peer.is_up() {
                link.up();
            }
        }
        link.run_until("all is answered and acknowledged", |peer| {
            peer.inbox.len() == 6_005 && peer.unacknowledged() == 0
        });
        for (id, sent) in ids.iter().zip(&sent) {
            assert_eq!(link.peer.messages(*id), *sent);
        }
        assert!(link.peer.acks.iter().all(|&(position, replies)| replies as u64 >= position));
        assert!(link.peer.resumes > 20 && link.peer.sessions == 1, "{} resumes", link.peer.resumes);
    }
    assert_eq!(worker.stats.get(Stat::MessagesHandled), 12_000);
    worker.stop();
}

#[test]
fn windows_hold_in_both_directions() {
    let config = WorkerConfig { window_bytes: 150_000, pending_bytes_max: 20_000, ..WorkerConfig::default() };
    let worker = start(config, handlers::Echo);
    let mut link = Link::new(Peer::new(1, 0).with_window(50_000), &worker.addresses[0]);
    link.up();
    let id = link.peer.id(0);
    link.peer.open(id, b"user");
    link.peer.withhold_acks = true;
    for index in 0..1_000u32 {
        link.peer.message(id, &[index as u8; 1_000], false);
    }
    let settled = |peer: &Peer| peer.inbox.len() == 50_000 / 1_020 && peer.unsent() > 0;
    link.run_until("both windows are full", settled);
    let quiet = Instant::now();
    while quiet.elapsed() < Duration::from_millis(100) {
        link.turn();
        assert!(settled(&link.peer), "the worker respects the window; the peer checks that it does");
    }
    assert!(worker.stats.get(Stat::MessagesHandled) < 100, "the handler waits");
    link.peer.ping(b"through?");
    link.run_until("the ping is answered", |peer| {
        peer.control.iter().any(|frame| frame.payload == b"through?")
    });
    link.peer.withhold_acks = false;
    link.run_until("all is answered and acknowledged", |peer| {
        peer.inbox.len() == 1_001 && peer.unacknowledged() == 0
    });
    worker.stop();
}

/// A program that embeds a worker is held to the rule, too.
#[test]
fn a_worker_takes_no_secret_of_15_bytes() {
    let config = WorkerConfig { secret: Some(b"123456789abcdef".to_vec()), ..WorkerConfig::default() };
    let (_stop, stopped) = roost_router::shutdown();
    let refused = roost_router::Worker::new(config).run(handlers::Echo, Vec::new(), stopped).unwrap_err();
    assert!(refused.to_string().contains("16 are the least"), "{refused}");
}

#[test]
fn a_secret_opens_the_link_and_a_wrong_one_does_not() {
    let config = WorkerConfig { secret: Some(b"xyzzy xyzzy xyzzy".to_vec()), ..WorkerConfig::default() };
    let worker = start(config, handlers::Echo);
    for (secret, refusal) in [(None, Refusal::SecretRequired), (Some(&b"plugh"[..]), Refusal::SecretWrong)] {
        let mut link = Link::new(Peer::new(9, 0).with_secret(secret), &worker.addresses[0]);
        link.dial();
        // LINK_REFUSE comes when the link is up already in the eyes of the gateway.
        while link.turn() {
            if link.peer.control.iter().any(|frame| frame.header.link_type == LinkType::LinkRefuse) {
                break;
            }
        }
        let refuse = link.peer.control.last().expect("the worker says why");
        assert_eq!(Refusal::from_code(refuse.header.aux), refusal);
    }
    let mut link = Link::new(Peer::new(1, 0).with_secret(Some(b"xyzzy xyzzy xyzzy")), &worker.addresses[1]);
    link.up();
    let id = link.peer.id(0);
    link.peer.open(id, b"user");
    link.run_until("the client is accepted", |peer| peer.inbox.len() == 1);
    assert!(link.peer.control.is_empty(), "the worker has proved the secret too");
    assert_eq!((worker.stats.get(Stat::LinksRefused), worker.stats.get(Stat::Sessions)), (2, 1));
    worker.stop();
}

#[test]
fn garbage_ends_its_own_connection_only() {
    let worker = start(WorkerConfig::default(), handlers::Echo);
    let mut neighbour = Link::new(Peer::new(1, 0), &worker.addresses[0]);
    neighbour.up();
    let id = neighbour.peer.id(0);
    neighbour.peer.open(id, b"user");

    let mut random = Random(7);
    for case in 0..20 {
        let mut stream = TcpStream::connect(tcp(&worker)).unwrap();
        let garbage: Vec<u8> = match case {
            0 => b"GET / HTTP/1.1\r\nHost: worker\r\n\r\n".to_vec(),
            1 => vec![0; 64],
            2 => vec![0xff; 100_000],
            _ => (0..1 + random.below(3_000)).map(|_| random.below(256) as u8).collect(),
        };
        // The worker may have hung up before it has taken everything.
        let _ = stream.write_all(&garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        neighbour.peer.message(id, &[case], false);
    }
    wait_until("all garbage is refused", || worker.stats.get(Stat::LinksRefused) == 20);

    // And garbage on a link that is up: the session lives on.
    neighbour.peer.push_raw(&[0xee; 40]);
    neighbour.run_until("the link has come up again and all is answered", |peer| {
        peer.resumes == 1 && peer.messages(id).len() == 20
    });
    assert_eq!(worker.stats.get(Stat::LinkErrors), 1);
    let expected: Vec<_> = (0..20u8).map(|case| [case]).collect();
    assert_eq!(neighbour.peer.messages(id), expected);
    worker.stop();
}

#[test]
fn a_newer_connection_of_the_same_shard_ends_the_older() {
    let worker = start(WorkerConfig::default(), handlers::Echo);
    let mut old = Link::new(Peer::new(1, 0), &worker.addresses[0]);
    old.up();
    let id = old.peer.id(0);
    old.peer.open(id, b"user");
    old.run_until("the client is accepted", |peer| peer.inbox.len() == 1);
    let mut new = Link::new(old.peer.clone(), &worker.addresses[0]);
    new.dial();
    new.up();
    assert_eq!(new.peer.resumes, 1);
    let deadline = Instant::now() + support::PATIENCE;
    while old.read() {
        assert!(Instant::now() < deadline, "the old connection is not closed");
    }
    new.peer.message(id, b"here now", false);
    new.run_until("the message is answered", |peer| peer.messages(id) == [b"here now"]);
    wait_until("one link is left", || worker.stats.get(Stat::Links) == 1);
    worker.stop();
}

#[test]
fn half_a_handshake_is_not_waited_for_and_sessions_expire() {
    let config =
        WorkerConfig { handshake_timeout_ms: 50, session_ttl_ms: Some(50), ..WorkerConfig::default() };
    let worker = start(config, handlers::Echo);
    let mut silent = TcpStream::connect(tcp(&worker)).unwrap();
    silent.write_all(&[0, 0, 0]).unwrap();
    assert_eq!(silent.read(&mut [0; 64]).unwrap(), 0, "the worker hangs up");

    let mut link = Link::new(Peer::new(1, 0), &worker.addresses[1]);
    link.up();
    link.peer.open(link.peer.id(0), b"user");
    link.run_until("the client is accepted", |peer| peer.inbox.len() == 1);
    link.cut();
    wait_until("the session has expired", || worker.stats.get(Stat::SessionsExpired) == 1);
    assert_eq!((worker.stats.get(Stat::Connections), worker.stats.get(Stat::Sessions)), (0, 0));
    link.up();
    assert_eq!((link.peer.sessions, link.peer.resumes), (2, 0));
    worker.stop();
}

#[test]
fn a_gateway_that_falls_silent_is_hung_up_on_and_keeps_its_session() {
    let config = WorkerConfig { keepalive_ms: 60, ..WorkerConfig::default() };
    let worker = start(config, handlers::Echo);
    let mut link = Link::new(Peer::new(1, 0), &worker.addresses[0]);
    link.up();
    // Reads, but does not answer the PING.
    while link.read() {}
    assert!(link.peer.control.iter().any(|frame| frame.header.link_type == LinkType::Ping));
    link.up();
    assert_eq!((link.peer.resumes, link.peer.sessions), (1, 1));
    worker.stop();
}

#[test]
fn a_draining_worker_ends_when_its_connections_have_left() {
    let worker = start(WorkerConfig::default(), handlers::Echo);
    let mut link = Link::new(Peer::new(1, 0), &worker.addresses[0]);
    link.up();
    let id = link.peer.id(0);
    link.peer.open(id, b"user");
    link.run_until("the client is accepted", |peer| peer.inbox.len() == 1);
    worker.handle.drain();
    link.run_until("the worker says so", |peer| {
        peer.control.iter().any(|frame| frame.header.link_type == LinkType::Draining)
    });
    link.peer.message(id, b"still served", false);
    link.peer.closed(id, Reason::Moved);
    link.run_until("the last frames are answered", |peer| peer.count(LinkType::Moved) == 1);
    assert_eq!(link.peer.messages(id), [b"still served"]);
    while link.turn() {}
    worker.join();
}

#[test]
fn draining_is_bounded_in_time() {
    let config = WorkerConfig { drain_ms: 50, ..WorkerConfig::default() };
    let worker = start(config, handlers::Echo);
    let mut link = Link::new(Peer::new(1, 0), &worker.addresses[0]);
    link.up();
    link.peer.open(link.peer.id(0), b"user");
    link.run_until("the client is accepted", |peer| peer.inbox.len() == 1);
    worker.handle.drain();
    worker.join();
    assert_eq!(link.peer.stage, Stage::Up);
}
