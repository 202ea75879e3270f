//! What frames carry: hashes, words, marks, origins, and what a gateway states of itself.

use roost_protocol::{
    ConnectionId, InstanceId, edge,
    hash::routing_hash,
    link::{
        Accept, Ending, Framing, Header, LinkType, Open, Refusal, Relay,
        header::{FLAG_ALL, FLAG_DIRECT, FLAG_TEXT},
    },
};

use super::*;
use crate::{Gateway, Origin};

const ORIGIN: ConnectionId = ConnectionId::from_bits(0x0123_4567_89ab_cdef);

/// Answers OPEN as its key says, and messages as their first byte does.
struct Words(Rc<RefCell<Vec<String>>>);

impl Handler for Words {
    fn on_open(&mut self, ctx: &mut Context<'_>, client: Client, opened: Opened<'_>) {
        let Opened::New(opening) = opened else { return };
        self.0.borrow_mut().push(format!("{:?} {:?}", opening.framing, opening.meta));
        let ending = Ending { retry_after_ms: 250, code: 4_001, text: "not you" };
        match opening.key {
            b"no" => ctx.reject_with(client, Reason::WorkerRejected, &ending),
            b"named" => ctx.accept_with(
                client,
                &Accept {
                    session: SessionRef(1),
                    routing_hash: Some(opening.routing_hash),
                    subprotocol: Some("v2"),
                },
            ),
            _ => ctx.accept_as(client, SessionRef(1), routing_hash(b"user")),
        }
    }

    fn on_message(&mut self, ctx: &mut Context<'_>, client: Client, payload: &[u8], _: bool) {
        match payload {
            b"text" => ctx.send_text(client, "words").unwrap(),
            b"many" => assert_eq!(ctx.multicast_text(&[client], "words"), 1),
            b"all" => assert_eq!(ctx.broadcast_text("words", true), 1),
            b"bye" => {
                let ending = Ending { retry_after_ms: 0, code: 4_999, text: "so long" };
                ctx.close_with(client, Reason::WorkerClosed, &ending);
            }
            b"ask" => ctx.relay_all(&[b"who ", b"knows?"]).unwrap(),
            b"gateway" => self.0.borrow_mut().push(format!("{:?}", ctx.gateway(client).unwrap())),
            _ => {
                let of_key = (ctx.clients_of(b"key").len(), ctx.clients_of(b"user").len());
                self.0.borrow_mut().push(format!("{of_key:?} {}", ctx.is_text()));
            }
        }
    }

    fn on_relay(&mut self, ctx: &mut Context<'_>, origin: Origin, _: u64, payload: &[u8]) {
        ctx.relay_back(origin, &[b"re: ", payload]).unwrap();
    }
}

fn rig() -> (Rig<Words>, Peer, Wire, Rc<RefCell<Vec<String>>>) {
    let said = Rc::new(RefCell::new(Vec::new()));
    let mut rig = Rig::new(WorkerConfig::default(), Words(said.clone()));
    let (peer, wire) = rig.link_up(Peer::new(1, 0));
    (rig, peer, wire, said)
}

#[test]
fn an_accept_may_state_another_hash() {
    let (mut rig, mut peer, mut wire, said) = rig();
    let (id, named) = (peer.id(1), peer.id(2));
    peer.open(id, b"key");
    peer.open(named, b"named");
    peer.message(id, b"?", false);
    rig.settle(&mut peer, &mut wire);
    let accepts: Vec<_> = peer.inbox.iter().map(|frame| Accept::decode(&frame.payload)).collect();
    let of = |routing_hash, subprotocol| Ok(Accept { session: SessionRef(1), routing_hash, subprotocol });
    assert_eq!(accepts[0], of(Some(routing_hash(b"user")), None));
    assert_eq!(accepts[1], of(Some(routing_hash(b"named")), Some("v2")));
    assert_eq!(said.borrow().last().unwrap(), "(0, 1) false", "it is found by the new hash alone");
    // And it leaves no trace when it goes.
    peer.message(named, b"?", false);
    peer.closed(id, Reason::Moved);
    peer.message(named, b"?", false);
    rig.settle(&mut peer, &mut wire);
    assert_eq!(said.borrow().last().unwrap(), "(0, 0) false");
}

#[test]
fn endings_carry_code_and_text() {
    let (mut rig, mut peer, mut wire, _) = rig();
    peer.open(peer.id(1), b"no");
    peer.open(peer.id(2), b"key");
    peer.message(peer.id(2), b"bye", false);
    rig.settle(&mut peer, &mut wire);
    let ending = |link_type| {
        let frame = peer.inbox.iter().find(|frame| frame.header.link_type == link_type).unwrap();
        (frame.header.aux_reason(), Ending::decode(&frame.payload).unwrap())
    };
    let no = Ending { retry_after_ms: 250, code: 4_001, text: "not you" };
    assert_eq!(ending(LinkType::Reject), (Reason::WorkerRejected, no));
    let bye = Ending { retry_after_ms: 0, code: 4_999, text: "so long" };
    assert_eq!(ending(LinkType::Close), (Reason::WorkerClosed, bye));
}

#[test]
fn text_is_marked_in_both_directions() {
    let (mut rig, mut peer, mut wire, said) = rig();
    let id = peer.id(1);
    peer.open(id, b"key");
    for body in [&b"text"[..], b"many", b"all"] {
        peer.message(id, body, false);
    }
    let mut payload = Vec::new();
    edge::encode_frame(edge::FrameType::Message, b"?", &mut payload);
    peer.push(Header::new(LinkType::Data, id, payload.len() as u32).flags(FLAG_TEXT), &payload);
    peer.message(id, b"?", false);
    rig.settle(&mut peer, &mut wire);
    let flags: Vec<_> =
        peer.inbox[1..].iter().map(|frame| (frame.header.link_type, frame.header.flags)).collect();
    assert_eq!(
        flags,
        [
            (LinkType::Data, FLAG_TEXT),
            (LinkType::Multicast, FLAG_TEXT),
            (LinkType::Broadcast, FLAG_ALL | FLAG_TEXT)
        ]
    );
    assert_eq!(said.borrow()[1..], ["(0, 1) true", "(0, 1) false"]);
}

#[test]
fn a_relay_is_answered_to_its_origin_and_asked_of_all() {
    let (mut rig, mut peer, mut wire, _) = rig();
    let mut payload = Vec::new();
    Relay { routing_hash: 9, payload: b"hello" }.encode_payload(&mut payload);
    peer.push(Header::new(LinkType::Relay, ORIGIN, payload.len() as u32), &payload);
    peer.open(peer.id(1), b"key");
    peer.message(peer.id(1), b"ask", false);
    rig.settle(&mut peer, &mut wire);
    let relays: Vec<_> = peer
        .inbox
        .iter()
        .filter(|frame| frame.header.link_type == LinkType::Relay)
        .map(|frame| {
            let body = Relay::decode(&frame.payload).unwrap().payload;
            (frame.header.flags, frame.header.connection, body)
        })
        .collect();
    assert_eq!(
        relays,
        [(FLAG_DIRECT, ORIGIN, &b"re: hello"[..]), (FLAG_ALL, ConnectionId::from_bits(0), b"who knows?")]
    );
}

#[test]
fn handlers_see_framing_meta_and_what_a_gateway_states() {
    let (mut rig, mut peer, mut wire, said) = rig();
    let id = peer.id(1);
    let mut payload = Vec::new();
    let open = Open {
        routing_hash: 5,
        framing: Framing::Websocket,
        peer: None,
        key: b"key",
        token: b"",
        meta: b"path: /\r\n",
    };
    open.encode_payload(&mut payload);
    peer.push(Header::new(LinkType::Open, id, payload.len() as u32), &payload);
    peer.message(id, b"gateway", false);
    rig.settle(&mut peer, &mut wire);
    let stated = Gateway {
        instance: InstanceId([1; 16]),
        shard: 0,
        shards: 1,
        frame_bytes_max: 4_096,
        capabilities: 0,
        link_failover_ms: 10_000,
        link_keepalive_ms: 10_000,
        idle_timeout_ms: 150_000,
        messages_per_s_max: 0,
    };
    assert_eq!(said.borrow()[..], [format!("Websocket {:?}", b"path: /\r\n"), format!("{stated:?}")]);
}

#[test]
fn without_an_option_a_session_is_kept_for_six_failovers() {
    for (link_failover_ms, kept_ms) in [(10_000, 60_000), (0, 1_000), (u32::MAX, 3_600_000)] {
        let mut rig = Rig::new(WorkerConfig::default(), Recorder::new(echo));
        let mut peer = Peer::new(1, 0);
        peer.link_failover_ms = link_failover_ms;
        let (mut peer, mut wire) = rig.link_up(peer);
        rig.cut(&mut peer, &mut wire);
        rig.now_ms += kept_ms - 1;
        rig.core.tick(rig.now_ms);
        assert_eq!(rig.stats.get(Stat::SessionsExpired), 0, "{link_failover_ms}");
        rig.now_ms += 1;
        rig.core.tick(rig.now_ms);
        assert_eq!(rig.stats.get(Stat::SessionsExpired), 1, "{link_failover_ms}");
    }
}

#[test]
fn a_link_hello_of_an_earlier_draft_is_refused() {
    let core = Core::new(WorkerConfig::default(), InstanceId([1; 16]), Recorder::new(echo), Arc::default());
    let hello = Peer::new(2, 0).hello();
    let payload = hello.encode_payload();
    assert_eq!(payload.len(), 92);
    assert!(core.hello(&payload, [0; 16]).is_ok());
    for bytes in [72, 91] {
        let refused = core.hello(&payload[..bytes], [0; 16]).map(drop);
        assert_eq!(refused, Err(LinkFailure::Refused(Refusal::Malformed)), "{bytes} bytes");
    }
}
