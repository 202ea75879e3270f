//! The clients of a key, and what comes from outside.

use roost_protocol::hash::routing_hash;

use super::*;

const BODY: [u8; 1_000] = [9; 1_000];
/// A message with that body on the wire.
const FRAME_BYTES: usize = 16 + 4 + 1_000;

fn clients_of<H: Handler>(rig: &mut Rig<H>, key: &[u8]) -> Vec<Client> {
    let mut found = Vec::new();
    rig.core.push(|ctx| found = ctx.clients_of(key).collect());
    found
}

fn send_to_key<H: Handler>(rig: &mut Rig<H>, key: &[u8], payload: &[u8]) -> Result<usize, SendError> {
    let mut sent = Ok(0);
    rig.core.push(|ctx| sent = ctx.send_to_key(key, payload));
    sent
}

#[test]
fn a_key_leads_to_its_open_connections_oldest_first() {
    let mut rig = Rig::new(WorkerConfig::default(), Recorder::new(echo));
    let (mut one, mut one_wire) = rig.link_up(Peer::new(1, 0));
    let (mut two, mut two_wire) = rig.link_up(Peer::new(2, 0));
    two.open(two.id(3), b"alice");
    rig.settle(&mut two, &mut two_wire);
    one.open(one.id(1), b"alice");
    one.open(one.id(2), b"bob");
    rig.settle(&mut one, &mut one_wire);
    // One that another worker had.
    two.reopen(two.id(4), routing_hash(b"alice"));
    rig.settle(&mut two, &mut two_wire);
    let connections = |clients: Vec<Client>| -> Vec<ConnectionId> {
        clients.iter().map(|client| client.connection).collect()
    };
    let alice = clients_of(&mut rig, b"alice");
    assert_eq!(connections(alice.clone()), [two.id(3), one.id(1), two.id(4)]);
    assert_eq!(clients_of(&mut rig, b"nobody"), []);

    // Whom the worker closes cannot be sent to any more; nor who has gone.
    rig.core.push(|ctx| ctx.close(alice[0], Reason::WorkerClosed, 0));
    assert_eq!(connections(clients_of(&mut rig, b"alice")), [one.id(1), two.id(4)]);
    two.closed(two.id(3), Reason::WorkerClosed);
    one.closed(one.id(1), Reason::ClientEof);
    rig.settle_all(&mut [(&mut one, &mut one_wire), (&mut two, &mut two_wire)]);
    assert_eq!(connections(clients_of(&mut rig, b"alice")), [two.id(4)]);
    // A gateway that begins anew has lost its connections.
    two.forget();
    rig.dial(&mut two, &mut two_wire);
    rig.settle(&mut two, &mut two_wire);
    assert_eq!(clients_of(&mut rig, b"alice"), []);
    assert_eq!(connections(clients_of(&mut rig, b"bob")), [one.id(2)]);
}

#[test]
fn a_slot_used_again_without_closed_leads_to_its_new_key_only() {
    let mut rig = Rig::new(WorkerConfig::default(), Recorder::new(echo));
    let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0));
    peer.open(ConnectionId::new(0, 1, 1), b"alice");
    peer.open(ConnectionId::new(0, 1, 2), b"bob");
    rig.settle(&mut peer, &mut wire);
    assert_eq!(clients_of(&mut rig, b"alice"), []);
    assert_eq!(clients_of(&mut rig, b"bob").len(), 1);
}

#[test]
fn a_push_reaches_all_connections_of_a_key() {
    let mut rig = Rig::new(WorkerConfig::default(), Recorder::new(echo));
    let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0));
    for slot in 1..=3 {
        peer.open(peer.id(slot), if slot < 3 { b"alice" } else { b"bob" });
    }
    rig.settle(&mut peer, &mut wire);
    assert_eq!(send_to_key(&mut rig, b"alice", b"mail"), Ok(2));
    assert_eq!(send_to_key(&mut rig, b"carol", b"mail"), Err(SendError::Closed));
    assert_eq!(send_to_key(&mut rig, b"alice", &[0; 5_000]), Err(SendError::TooLong));
    rig.settle(&mut peer, &mut wire);
    assert_eq!(
        (peer.messages(peer.id(1)), peer.messages(peer.id(2))),
        (vec![&b"mail"[..]], vec![&b"mail"[..]])
    );
    assert_eq!(peer.messages(peer.id(3)).len(), 0);
}

#[test]
fn pushes_wait_for_a_gateway_that_is_there_and_not_for_one_that_is_away() {
    let config = WorkerConfig { pending_bytes_max: 10 * FRAME_BYTES, ..WorkerConfig::default() };
    let mut rig = Rig::new(config, Recorder::new(echo));
    let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0).with_window(20 * FRAME_BYTES as u32));
    let id = peer.id(1);
    peer.open(id, b"alice");
    rig.settle(&mut peer, &mut wire);
    peer.withhold_acks = true;
    let mut sent = 0;
    while !rig.core.pushes_wait() {
        assert_eq!(send_to_key(&mut rig, b"alice", &BODY), Ok(1));
        rig.settle(&mut peer, &mut wire);
        sent += 1;
        assert!(sent < 100, "nothing ever waits");
    }
    assert!(rig.core.has_waiting_pushes());
    peer.withhold_acks = false;
    rig.settle(&mut peer, &mut wire);
    assert!(!rig.core.pushes_wait() && !rig.core.has_waiting_pushes());
    assert_eq!(peer.messages(id).len(), sent);

    rig.cut(&mut peer, &mut wire);
    let queued = (0..100).take_while(|_| send_to_key(&mut rig, b"alice", &BODY).is_ok()).count();
    assert_eq!(queued, 11, "the queue is full with ten, and takes one more");
    assert_eq!(send_to_key(&mut rig, b"alice", &BODY), Err(SendError::Full(Limit::Queue)));
    assert!(!rig.core.pushes_wait(), "nobody waits for a gateway that is away");
    rig.dial(&mut peer, &mut wire);
    rig.settle(&mut peer, &mut wire);
    assert_eq!(peer.messages(id).len(), sent + queued);
}
