//! Topics of a running worker, used from other threads.

mod support;

use roost_protocol::{ConnectionId, Reason, edge, link::LinkType};
use roost_router::{JoinError, PushError, SendError, Stat, WorkerConfig, handlers};
use support::{Link, Running, peer::Peer, start};

fn with_clients(config: WorkerConfig, clients: u32) -> (Running, Link) {
    let worker = start(config, handlers::Route);
    let mut link = Link::new(Peer::new(1, 0), &worker.addresses[1]);
    link.up();
    for slot in 0..clients {
        link.peer.open(link.peer.id(slot), b"alice");
    }
    link.run_until("all are connected", |peer| {
        peer.inbox.len() == clients as usize && peer.unacknowledged() == 0
    });
    (worker, link)
}

/// The bodies of the MULTICASTs to a connection.
fn heard(peer: &Peer, connection: ConnectionId) -> Vec<Vec<u8>> {
    let frames = peer.inbox.iter().filter(|frame| frame.header.link_type == LinkType::Multicast);
    frames
        .filter_map(|frame| {
            let (ids, message) = roost_protocol::link::split_multicast(&frame.payload).unwrap();
            let is_to_it = roost_protocol::link::multicast_ids(ids).any(|id| id == connection);
            is_to_it.then(|| message[edge::HEADER_BYTES..].to_vec())
        })
        .collect()
}

#[test]
fn other_threads_join_publish_and_leave() {
    let (worker, mut link) = with_clients(WorkerConfig::default(), 3);
    let push = &worker.push;
    let clients = push.call(|ctx| Vec::from_iter(ctx.clients_of(b"alice"))).unwrap().wait().unwrap();
    for &client in &clients[..2] {
        assert_eq!(push.join(client, "news").unwrap().wait(), Ok(Ok(true)));
    }
    assert_eq!(push.join(clients[0], "news").unwrap().wait(), Ok(Ok(false)));
    assert_eq!(push.join(clients[0], "").unwrap().wait(), Ok(Err(JoinError::Name)));
    assert_eq!(push.topic_members("news").unwrap().wait().unwrap(), clients[..2]);
    assert_eq!(push.publish("news", "one").unwrap().wait(), Ok(Ok(2)));
    assert_eq!(push.publish("else", "what").unwrap().wait(), Ok(Ok(0)));
    assert_eq!(push.publish("news", vec![0; 5_000]).unwrap().wait(), Ok(Err(SendError::TooLong)));
    assert_eq!(push.leave(clients[0], "news").unwrap().wait(), Ok(true));
    // Nobody needs to look at the answer.
    push.publish("news", "two").unwrap();
    let (first, second, third) = (link.peer.id(0), link.peer.id(1), link.peer.id(2));
    link.run_until("both are there", |peer| heard(peer, second).len() == 2);
    assert_eq!((heard(&link.peer, first).len(), heard(&link.peer, third).len()), (1, 0));
    link.peer.closed(second, Reason::ClientEof);
    link.run_until("it has gone", |peer| peer.unacknowledged() == 0);
    assert_eq!(push.publish("news", "three").unwrap().wait(), Ok(Ok(0)));
    let push = push.clone();
    worker.stop();
    assert_eq!(push.publish("news", "late").map(drop), Err(PushError::Closed));
}

#[test]
fn memberships_outlive_the_tcp_connection_and_publishes_come_once() {
    let (worker, mut link) = with_clients(WorkerConfig::default(), 2);
    let clients = worker.push.call(|ctx| Vec::from_iter(ctx.clients_of(b"alice"))).unwrap().wait().unwrap();
    assert_eq!(worker.push.join(clients[1], "news").unwrap().wait(), Ok(Ok(true)));
    let member = link.peer.id(1);
    let expected = link.push_over_cuts(10, |body| drop(worker.push.publish("news", body).unwrap()));
    link.run_until("all is there", |peer| heard(peer, member).len() >= expected.len());
    assert_eq!(heard(&link.peer, member), expected);
    assert_eq!(heard(&link.peer, link.peer.id(0)).len(), 0);
    assert!(link.peer.resumes >= 20 && link.peer.sessions == 1, "{} resumes", link.peer.resumes);
    assert_eq!((worker.stats.get(Stat::SendsRefused), worker.stats.get(Stat::TopicMembers)), (0, 1));
    worker.stop();
}
