//! When a link is up, who is refused and how, and who is left alone for a while.

use roost_protocol::{
    ConnectionId, InstanceId,
    link::{self, Header, LinkType, LinkWelcome, Refusal, Split, handshake},
};

use super::{
    config,
    workers::{Rig, workers},
};
use crate::{
    core::{
        CoreConfig,
        event::{Event, LinkDownCause, LinkStep},
        link::LinkState,
        shard::inspect::LinkView,
    },
    op::{Op, Sock},
};

const NONE: ConnectionId = ConnectionId::from_bits(0);
const WINDOW_BYTES: u32 = 64 * 1024;

impl Rig {
    fn link(&self, index: usize) -> LinkView {
        self.core.link_views().nth(index).expect("a link")
    }

    /// Waits until this worker is dialled.
    fn await_dial_of(&mut self, link: u16) -> u64 {
        let from_ms = self.now_ms;
        while !self.hands.ops().any(|(_, op)| op == Op::Connect { link }) {
            assert!(self.now_ms < from_ms + 200_000, "it is not dialled any more");
            self.turn();
        }
        self.now_ms - from_ms
    }

    fn say_welcome(&mut self, link: u16, instance: u8) {
        self.await_dial_of(link);
        self.hands.say_welcome(&mut self.core, link, InstanceId([instance; 16]), WINDOW_BYTES);
    }

    fn bring_up(&mut self, link: u16, instance: u8) {
        self.say_welcome(link, instance);
        self.read(link);
        self.say(link, LinkType::Ack, NONE, &0u64.to_be_bytes());
        assert_eq!(self.link(usize::from(link)).state, LinkState::Up);
    }

    /// What the worker reads, until nothing more comes.
    fn read(&mut self, link: u16) -> Vec<Header> {
        let (mut bytes, mut headers) = (Vec::new(), Vec::new());
        let sends = |op: Op| matches!(op, Op::Send { sock: Sock::Link(on), .. } if on == link);
        loop {
            while let Some(op) = self.hands.take(|_, op| sends(op)) {
                let (completion, sent) = self.hands.end_send(op, usize::MAX);
                bytes.extend(sent);
                self.core.on_completion(&mut self.hands, completion);
            }
            self.turn();
            if !self.hands.ops().any(|(_, op)| sends(op)) {
                break;
            }
        }
        let mut rest = &bytes[..];
        while let Ok(Split::Frame { header, .. }) = link::split(rest, u32::MAX) {
            rest = &rest[header.frame_bytes()..];
            headers.push(header);
        }
        headers
    }

    /// The worker ends the connection.
    fn hang_up(&mut self, link: u16) {
        let reads = |op: Op| matches!(op, Op::Recv { sock: Sock::Link(on), .. } if on == link);
        assert!(self.end(reads, 0), "it is read from");
        self.settle();
    }

    fn causes(&mut self) -> Vec<LinkDownCause> {
        let causes = self.events.drain(..).filter_map(|event| match event {
            Event::LinkDown { cause, .. } => Some(cause),
            _ => None,
        });
        causes.collect()
    }

    fn ups(&mut self) -> usize {
        self.events.drain(..).filter(|event| matches!(event, Event::LinkUp { .. })).count()
    }
}

fn types(headers: &[Header]) -> Vec<LinkType> {
    headers.iter().map(|header| header.link_type).collect()
}

fn refusals(headers: &[Header]) -> Vec<Refusal> {
    let refusals = headers.iter().filter(|header| header.link_type == LinkType::LinkRefuse);
    refusals.map(|header| Refusal::from_code(header.aux)).collect()
}

#[test]
fn a_link_is_up_at_the_first_frame_behind_the_proof() {
    let mut rig = Rig::new(&["w"]);
    rig.say_welcome(0, 2);
    let sent = types(&rig.read(0));
    assert_eq!(sent, [LinkType::LinkHello, LinkType::LinkProof, LinkType::Ping]);
    assert_eq!((rig.link(0).state, rig.link(0).session), (LinkState::Proving, None));
    assert_eq!(rig.ups(), 0);
    // Any frame will do, that of a worker without ACK, too.
    rig.say(0, LinkType::Pong, NONE, b"");
    assert_eq!(rig.link(0).state, LinkState::Up);
    assert_eq!(rig.ups(), 1);
}

#[test]
fn pauses_grow_while_a_worker_refuses_the_proof() {
    let mut rig = Rig::new(&["w"]);
    let mut pauses_ms = Vec::new();
    for _ in 0..9 {
        pauses_ms.push(rig.await_dial_of(0));
        rig.say_welcome(0, 2);
        rig.read(0);
        let refusal = Refusal::SecretRequired.encode();
        rig.hands.deliver(&mut rig.core, Sock::Link(0), &refusal);
        rig.settle();
        assert_eq!(rig.link(0).session, None, "no session begins");
    }
    assert!(pauses_ms[8] >= 1_000, "{pauses_ms:?}");
    let causes = rig.causes();
    let refused = LinkDownCause::RefusedByWorker(Refusal::SecretRequired);
    assert!(causes.iter().all(|&cause| cause == refused) && causes.len() <= 3, "{causes:?}");
}

#[test]
fn a_link_that_comes_up_only_to_go_down_is_dialled_ever_more_seldom() {
    let mut rig = Rig::new(&["w"]);
    let from_ms = rig.now_ms;
    let mut dials = 0;
    while rig.now_ms < from_ms + 12_000 {
        rig.bring_up(0, 2);
        rig.hang_up(0);
        dials += 1;
    }
    assert!(dials <= 20, "{dials} dials in 12 s");
}

#[test]
fn who_says_nothing_after_the_proof_is_late() {
    let mut rig = Rig::new(&["w"]);
    rig.say_welcome(0, 2);
    rig.read(0);
    while rig.link(0).state == LinkState::Proving {
        assert!(rig.now_ms < 20_000);
        rig.turn();
    }
    assert_eq!(rig.causes(), [LinkDownCause::Late(LinkStep::FirstFrame)]);
}

#[test]
fn who_speaks_before_the_proof_is_refused() {
    let mut rig = Rig::new(&["w"]);
    rig.await_dial_of(0);
    assert!(rig.end(|op| op == Op::Connect { link: 0 }, 0));
    let welcome = LinkWelcome {
        resumed: false,
        window_bytes: WINDOW_BYTES,
        worker: InstanceId([2; 16]),
        nonce: [3; 16],
        received_position: 0,
        capabilities: 0,
        proof: None,
    };
    let mut bytes = Vec::new();
    handshake::encode_frame(LinkType::LinkWelcome, &welcome.encode_payload(), &mut bytes);
    bytes.extend(Header::new(LinkType::Ping, NONE, 0).encode());
    rig.hands.deliver(&mut rig.core, Sock::Link(0), &bytes);
    let sent = rig.read(0);
    assert_eq!(refusals(&sent), [Refusal::Malformed]);
}

#[test]
fn who_breaks_the_protocol_right_after_the_proof_is_refused() {
    let mut rig = Rig::new(&["w"]);
    rig.say_welcome(0, 2);
    rig.read(0);
    assert_eq!(rig.link(0).state, LinkState::Proving);
    let open = Header::new(LinkType::Open, NONE, 0).encode();
    rig.hands.deliver(&mut rig.core, Sock::Link(0), &open);
    assert_eq!(rig.link(0).state, LinkState::Refusing);
    assert_eq!(refusals(&rig.read(0)), [Refusal::Malformed]);
}

#[test]
fn a_secret_that_differs_is_said_before_the_close() {
    let mut config = super::config();
    config.workers[0].secret = Some(b"a secret of 16 bytes or more".to_vec());
    let mut rig = Rig::of(config);
    rig.say_welcome(0, 2);
    let sent = rig.read(0);
    assert_eq!(refusals(&sent), [Refusal::SecretRequired]);
    assert_eq!(rig.link(0).state, LinkState::Refusing, "the worker has time to read it");
    rig.hang_up(0);
    assert_eq!(rig.link(0).state, LinkState::Down);
    assert_eq!(rig.causes(), [LinkDownCause::RefusedByGateway(Refusal::SecretRequired)]);
}

#[test]
fn one_worker_under_two_names_is_one_link() {
    let mut rig = Rig::new(&["a", "b"]);
    rig.bring_up(0, 2);
    rig.ups();
    let mut dials = 0;
    let from_ms = rig.now_ms;
    while rig.now_ms < from_ms + 60_000 {
        if rig.hands.ops().any(|(_, op)| op == Op::Connect { link: 1 }) {
            dials += 1;
            rig.say_welcome(1, 2);
            let sent = rig.read(1);
            assert_eq!(types(&sent), [LinkType::LinkHello, LinkType::LinkRefuse]);
            assert_eq!(refusals(&sent), [Refusal::AlreadyLinked]);
            rig.hang_up(1);
        }
        if rig.now_ms.is_multiple_of(500) {
            rig.say(0, LinkType::Pong, NONE, b"");
        }
        rig.turn();
        assert_eq!(rig.link(0).state, LinkState::Up, "the first is left alone");
        assert_eq!(rig.link(1).session, None);
    }
    assert!(dials <= 12, "{dials} dials in a minute");
    let causes = rig.causes();
    assert!(causes.iter().all(|&cause| cause == LinkDownCause::SameWorker { other: 0 }), "{causes:?}");
    assert!(causes.len() <= 3, "now and then a line, which names both: {causes:?}");
}

#[test]
fn a_worker_that_gets_another_name_changes_over() {
    let mut rig = Rig::new(&["a"]);
    rig.bring_up(0, 2);
    rig.client(b"k");
    rig.acknowledge(0);
    rig.reload(&["b"]);
    for _ in 0..3 {
        rig.say_welcome(1, 2);
        if !refusals(&rig.read(1)).is_empty() {
            rig.hang_up(1);
            continue;
        }
        rig.say(1, LinkType::Ack, NONE, &0u64.to_be_bytes());
        break;
    }
    assert_eq!(rig.link(1).state, LinkState::Up);
    rig.settle();
    assert_eq!((rig.link(0).connections, rig.link(1).connections), (0, 1));
}

#[test]
fn a_wrong_position_gives_the_session_up_at_once() {
    let mut rig = Rig::new(&["w"]);
    rig.bring_up(0, 2);
    rig.client(b"k");
    rig.hang_up(0);
    rig.await_dial_of(0);
    assert!(rig.end(|op| op == Op::Connect { link: 0 }, 0));
    let welcome = LinkWelcome {
        resumed: true,
        window_bytes: WINDOW_BYTES,
        worker: InstanceId([2; 16]),
        nonce: [3; 16],
        received_position: 9,
        capabilities: 0,
        proof: None,
    };
    let mut bytes = Vec::new();
    handshake::encode_frame(LinkType::LinkWelcome, &welcome.encode_payload(), &mut bytes);
    rig.hands.deliver(&mut rig.core, Sock::Link(0), &bytes);
    rig.turn();
    assert_eq!(rig.link(0).session, None);
    assert_eq!(refusals(&rig.read(0)), [Refusal::Malformed]);
}

#[test]
fn who_dies_at_each_reopen_is_left_alone_while_others_serve() {
    // No client waits too long for its ACCEPT.
    let config = CoreConfig { workers: workers(&["a", "b"]), handshake_timeout_ms: 600_000, ..config() };
    let mut rig = Rig::of(config);
    rig.bring_up(1, 3);
    // A client of a's, by its key.
    rig.bring_up(0, 2);
    let mut key = 0u32;
    while rig.link(0).connections == 0 {
        rig.client(&key.to_be_bytes());
        key += 1;
    }
    let from_ms = rig.now_ms;
    let (mut dials, mut instance) = (0, 10);
    rig.hang_up(0);
    while rig.now_ms < from_ms + 12_000 {
        if rig.hands.ops().any(|(_, op)| op == Op::Connect { link: 0 }) {
            dials += 1;
            instance += 1;
            rig.say_welcome(0, instance);
            rig.read(0);
            if rig.link(0).state == LinkState::Proving {
                rig.say(0, LinkType::Ack, NONE, &0u64.to_be_bytes());
                rig.hang_up(0);
            }
        }
        if rig.now_ms.is_multiple_of(500) {
            rig.say(1, LinkType::Pong, NONE, b"");
        }
        rig.turn();
    }
    assert!(dials <= 12, "{dials} dials in 12 s");
    assert_eq!(rig.link(1).connections, key, "b has all of them");
}
