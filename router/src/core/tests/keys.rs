//! A bound on the connections of a key.

use proptest::prelude::*;
use roost_protocol::hash::routing_hash;

use super::*;
use crate::config::KeyPolicy;

fn limited(connections_per_key_max: usize, policy: KeyPolicy) -> WorkerConfig {
    WorkerConfig { connections_per_key_max, connections_per_key_policy: policy, ..WorkerConfig::default() }
}

fn slots_of<H: Handler>(rig: &mut Rig<H>, key: &[u8]) -> Vec<u32> {
    let mut found = Vec::new();
    rig.core.push(|ctx| found = ctx.clients_of(key).map(|client| client.connection.slot()).collect());
    found
}

/// The connections that the worker has accepted, in order.
fn accepted(peer: &Peer) -> Vec<u32> {
    let frames = peer.inbox.iter().filter(|frame| frame.header.link_type == LinkType::Accept);
    frames.map(|frame| frame.header.connection.slot()).collect()
}

/// Those that it has refused or closed, and why.
fn ended(peer: &Peer) -> Vec<(LinkType, u32, Reason)> {
    let about = [LinkType::Reject, LinkType::Close];
    let frames = peer.inbox.iter().filter(|frame| about.contains(&frame.header.link_type));
    frames
        .map(|frame| (frame.header.link_type, frame.header.connection.slot(), frame.header.aux_reason()))
        .collect()
}

#[test]
fn the_oldest_connection_goes_and_is_told_why() {
    let handler = Recorder::new(echo);
    let mut rig = Rig::new(limited(2, KeyPolicy::CloseOldest), handler.clone());
    let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0));
    for slot in 1..=3 {
        peer.open(peer.id(slot), b"alice");
        peer.open(peer.id(10 + slot), &[b'b', slot as u8]);
    }
    rig.settle(&mut peer, &mut wire);
    assert_eq!(slots_of(&mut rig, b"alice"), [2, 3]);
    assert_eq!(accepted(&peer), [1, 11, 2, 12, 3, 13]);
    assert_eq!(ended(&peer), [(LinkType::Close, 1, Reason::WorkerClosed)]);
    handler.take();
    peer.closed(peer.id(1), Reason::WorkerClosed);
    rig.settle(&mut peer, &mut wire);
    let session = Some(SessionRef(routing_hash(b"alice")));
    assert_eq!(handler.take(), [Event::Close(session, Closed::Ended(Reason::WorkerClosed))]);
    assert_eq!(rig.stats.get(Stat::KeyLimited), 1);
}

#[test]
fn the_newest_connection_is_refused_before_the_handler_hears_of_it() {
    let handler = Recorder::new(echo);
    let mut rig = Rig::new(limited(2, KeyPolicy::RefuseNewest), handler.clone());
    let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0));
    for slot in 1..=3 {
        peer.open(peer.id(slot), b"alice");
    }
    rig.settle(&mut peer, &mut wire);
    assert_eq!(slots_of(&mut rig, b"alice"), [1, 2]);
    assert_eq!(ended(&peer), [(LinkType::Reject, 3, Reason::WorkerRejected)]);
    assert_eq!(handler.take(), [Event::Open(b"alice".to_vec()), Event::Open(b"alice".to_vec())]);
    peer.closed(peer.id(3), Reason::WorkerRejected);
    rig.settle(&mut peer, &mut wire);
    assert_eq!(handler.take(), []);
    assert_eq!((rig.stats.get(Stat::KeyLimited), rig.stats.get(Stat::Connections)), (1, 2));

    // Who leaves makes room.
    peer.closed(peer.id(1), Reason::ClientEof);
    peer.open(peer.id(4), b"alice");
    rig.settle(&mut peer, &mut wire);
    assert_eq!(slots_of(&mut rig, b"alice"), [2, 4]);
}

/// Answers nobody before it is told to.
#[derive(Clone, Default)]
struct Later {
    pending: Rc<RefCell<Vec<Client>>>,
    gone: Rc<RefCell<Vec<(u32, Closed)>>>,
}

impl Handler for Later {
    fn on_open(&mut self, ctx: &mut Context<'_>, client: Client, _: Opened<'_>) {
        if ctx.session(client).is_none() {
            self.pending.borrow_mut().push(client);
        }
    }
    fn on_message(&mut self, _: &mut Context<'_>, _: Client, _: &[u8], _: bool) {}
    fn on_close(&mut self, _: &mut Context<'_>, client: Client, _: Option<SessionRef>, closed: Closed) {
        self.gone.borrow_mut().push((client.connection.slot(), closed));
    }
}

#[test]
fn connections_that_open_at_the_same_time_are_counted_when_they_are_accepted() {
    for (policy, open, refused) in [(KeyPolicy::CloseOldest, 2, 1), (KeyPolicy::RefuseNewest, 1, 2)] {
        let handler = Later::default();
        let mut rig = Rig::new(limited(1, policy), handler.clone());
        let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0));
        for slot in 1..=2 {
            peer.open(peer.id(slot), b"alice");
        }
        rig.settle(&mut peer, &mut wire);
        assert_eq!(ended(&peer), [], "nobody is closed for one who may yet be rejected");
        let clients = std::mem::take(&mut *handler.pending.borrow_mut());
        rig.core.push(|ctx| clients.iter().for_each(|&client| ctx.accept(client, SessionRef(1))));
        rig.settle(&mut peer, &mut wire);
        assert_eq!(slots_of(&mut rig, b"alice"), [open]);
        let (link_type, reason) = match policy {
            KeyPolicy::CloseOldest => (LinkType::Close, Reason::WorkerClosed),
            KeyPolicy::RefuseNewest => (LinkType::Reject, Reason::WorkerRejected),
        };
        assert_eq!(ended(&peer), [(link_type, refused, reason)]);
        // The handler has heard of both, and hears of the end of the one.
        peer.closed(peer.id(refused), reason);
        rig.settle(&mut peer, &mut wire);
        assert_eq!(*handler.gone.borrow(), [(refused, Closed::Ended(reason))]);
        assert_eq!(rig.stats.get(Stat::Connections), 1);
    }
}

#[test]
fn a_connection_that_moves_here_and_is_one_too_many_is_closed() {
    for policy in [KeyPolicy::CloseOldest, KeyPolicy::RefuseNewest] {
        let handler = Recorder::new(echo);
        let mut rig = Rig::new(limited(1, policy), handler.clone());
        let (mut peer, mut wire) = rig.link_up(Peer::new(1, 0));
        peer.open(peer.id(1), b"alice");
        peer.reopen(peer.id(2), routing_hash(b"alice"));
        peer.message(peer.id(2), b"stale", false);
        rig.settle(&mut peer, &mut wire);
        assert_eq!(slots_of(&mut rig, b"alice"), [1]);
        assert_eq!(ended(&peer), [(LinkType::Close, 2, Reason::WorkerClosed)]);
        assert_eq!(handler.take(), [Event::Open(b"alice".to_vec())]);
        // A gateway that moves it on meanwhile has its answer.
        peer.closed(peer.id(2), Reason::Moved);
        rig.settle(&mut peer, &mut wire);
        assert_eq!((handler.take(), peer.count(LinkType::Moved)), (vec![], 1));
        assert_eq!((rig.stats.get(Stat::KeyLimited), rig.stats.get(Stat::Connections)), (1, 1));

        // One that comes first counts.
        peer.reopen(peer.id(3), routing_hash(b"bob"));
        peer.open(peer.id(4), b"bob");
        rig.settle(&mut peer, &mut wire);
        let stays = if policy == KeyPolicy::CloseOldest { 4 } else { 3 };
        assert_eq!(slots_of(&mut rig, b"bob"), [stays]);
    }
}

proptest! {
    #[test]
    fn no_key_ever_has_more_connections_than_it_may(
        limit in 1..4usize,
        refuses in any::<bool>(),
        steps in prop::collection::vec((0..4u8, 0..2usize, 0..12u32, 0..3u8), 0..120),
    ) {
        let policy = if refuses { KeyPolicy::RefuseNewest } else { KeyPolicy::CloseOldest };
        let mut rig = Rig::new(limited(limit, policy), Recorder::new(echo));
        let mut links: Vec<_> = (1..=2).map(|gateway| rig.link_up(Peer::new(gateway, 0))).collect();
        // What each gateway holds: slot and key. Open ones by age.
        let mut held: Vec<Vec<(u32, u8)>> = vec![Vec::new(); 2];
        let mut model: Vec<Vec<(usize, u32)>> = vec![Vec::new(); 3];
        for (step, gateway, slot, key) in steps {
            let (peer, wire) = &mut links[gateway];
            let id = peer.id(slot);
            let position = held[gateway].iter().position(|entry| entry.0 == slot);
            match (step, position) {
                (0 | 1, None) => {
                    held[gateway].push((slot, key));
                    let open = &mut model[usize::from(key)];
                    if step == 0 {
                        peer.open(id, &[key]);
                    } else {
                        peer.reopen(id, routing_hash(&[key]));
                    }
                    if open.len() < limit {
                        open.push((gateway, slot));
                    } else if step == 0 && !refuses {
                        open.remove(0);
                        open.push((gateway, slot));
                    }
                }
                (2, Some(position)) => {
                    held[gateway].remove(position);
                    model.iter_mut().for_each(|open| open.retain(|&entry| entry != (gateway, slot)));
                    peer.closed(id, Reason::ClientEof);
                }
                (3, _) => rig.cut(peer, wire),
                _ => {}
            }
            if !peer.is_up() {
                rig.dial(peer, wire);
            }
            rig.settle(peer, wire);
            let mut all: Vec<_> = links.iter_mut().map(|(peer, wire)| (peer, wire)).collect();
            rig.settle_all(&mut all);
            for (key, open) in model.iter().enumerate() {
                let mut found = Vec::new();
                rig.core.push(|ctx| found = ctx.clients_of(&[key as u8]).collect());
                let found: Vec<_> = found
                    .iter()
                    .map(|client| (client.link.index as usize, client.connection.slot()))
                    .collect();
                prop_assert_eq!(&found, open);
            }
        }
    }
}
