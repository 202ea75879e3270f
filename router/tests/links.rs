//! A real worker on real sockets, driven by a strict model of a gateway.

mod support;

use proptest::prelude::*;
use roost_protocol::{
    Reason,
    link::{LinkType, Refusal},
};
use roost_router::{Stat, WorkerConfig, handlers};
use support::{
    Link,
    peer::{Peer, Stage},
    start, wait_until,
};

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
