//! Single rules of RFC 9293 and RFC 5961, segment by segment.

use super::{
    super::{State, Tcp, TcpConfig},
    peer::Owned,
    world::Collect,
};
use crate::{
    transport::{Close, Ended, Event, Events},
    tun::packet::{Flags, Segment},
};

const SYN_ACK: Flags = Flags::SYN_ACK;
const FIN_ACK: Flags = Flags::FIN_ACK;

/// One client and what it says.
struct Rig {
    tcp: Tcp,
    now_us: u64,
    events: Events,
    /// The client's and the peer's initial sequence numbers.
    iss: u32,
    irs: u32,
}

impl Rig {
    fn new() -> Self {
        let config = TcpConfig { clients: 1, sequence_seed: 42, receive_window_bytes: 1000 };
        Self { tcp: Tcp::new(config), now_us: 1, events: Events::new(), iss: 0, irs: u32::MAX - 5 }
    }

    fn connected() -> Self {
        let mut rig = Self::new();
        rig.tcp.connect(0);
        let syn = rig.turn().remove(0);
        assert_eq!((syn.flags, syn.mss, syn.window), (Flags::SYN, Some(1460), 1000));
        rig.iss = syn.seq;
        let answer = rig.hear(Segment { mss: Some(1460), ..rig.said(SYN_ACK, 0, 1) });
        assert_eq!(answer.len(), 1, "the handshake ends with an ACK at once");
        assert_eq!((answer[0].flags, answer[0].seq), (Flags::ACK, rig.iss.wrapping_add(1)));
        assert_eq!(rig.take_events(), ["connected"]);
        rig
    }

    /// A segment of the peer; sequence and acknowledgement relative to the initial numbers.
    fn said(&self, flags: Flags, seq: u32, ack: u32) -> Segment<'static> {
        let (seq, ack) = (self.irs.wrapping_add(seq), self.iss.wrapping_add(ack));
        Segment { seq, ack, flags, window: 500, mss: None, payload: &[] }
    }

    fn hear(&mut self, segment: Segment<'_>) -> Vec<Owned> {
        let mut wire = Collect::default();
        self.tcp.on_segment(self.now_us, 0, &segment, &mut wire, &mut self.events);
        wire.0.into_iter().map(|(_, segment)| segment).collect()
    }

    fn turn(&mut self) -> Vec<Owned> {
        let mut wire = Collect::default();
        assert!(!self.tcp.turn(self.now_us, 10, &mut wire, &mut self.events));
        wire.0.into_iter().map(|(_, segment)| segment).collect()
    }

    fn after(&mut self, us: u64) -> Vec<Owned> {
        self.now_us += us;
        let mut wire = Collect::default();
        self.tcp.run_timers(self.now_us, &mut wire, &mut self.events);
        wire.0.into_iter().map(|(_, segment)| segment).collect()
    }

    /// (flags, sequence, acknowledgement, payload length), relative to the initial numbers.
    fn relative(&self, segments: &[Owned]) -> Vec<(Flags, u32, u32, usize)> {
        let of = |one: &Owned| {
            (one.flags, one.seq.wrapping_sub(self.iss), one.ack.wrapping_sub(self.irs), one.payload.len())
        };
        segments.iter().map(of).collect()
    }

    fn take_events(&mut self) -> Vec<String> {
        let told = self
            .events
            .iter()
            .map(|event| match event {
                Event::Connected { .. } => "connected".to_owned(),
                Event::ConnectFailed { errno, .. } => format!("failed {errno}"),
                Event::Bytes { bytes, .. } => String::from_utf8_lossy(bytes).into_owned(),
                Event::Closed { how: Ended::Local, .. } => "local".to_owned(),
                Event::Closed { how: Ended::PeerFin, .. } => "fin".to_owned(),
                Event::Closed { how: Ended::Failed(errno), .. } => format!("broken {errno}"),
            })
            .collect();
        self.events.clear();
        told
    }
}

#[test]
fn a_refused_connect_fails_at_once() {
    let mut rig = Rig::new();
    rig.tcp.connect(0);
    rig.iss = rig.turn()[0].seq;
    assert!(rig.hear(rig.said(Flags::RST | Flags::ACK, 0, 2)).is_empty());
    assert!(rig.take_events().is_empty(), "a RST for something else");
    assert!(rig.hear(rig.said(Flags::RST | Flags::ACK, 0, 1)).is_empty());
    assert_eq!(rig.take_events(), [format!("failed {}", libc::ECONNREFUSED)]);
    assert_eq!(rig.tcp.state(0), State::Absent);
}

#[test]
fn a_half_open_peer_is_cleared_by_rst() {
    let mut rig = Rig::new();
    rig.tcp.connect(0);
    rig.iss = rig.turn()[0].seq;
    // The challenge ACK of a peer that still has an older connection.
    let answer = rig.hear(rig.said(Flags::ACK, 77, 9_999));
    assert_eq!(answer.len(), 1);
    assert_eq!((answer[0].flags, answer[0].seq), (Flags::RST, rig.iss.wrapping_add(9_999)));
    assert_eq!(rig.tcp.state(0), State::SynSent);
    let again = rig.after(1_100_000);
    assert_eq!(again[0].flags, Flags::SYN);
    assert_eq!(again[0].seq, rig.iss);
}

#[test]
fn an_absent_client_resets_strays() {
    let mut rig = Rig::new();
    let answer = rig.hear(rig.said(Flags::ACK, 5, 6));
    assert_eq!((answer[0].flags, answer[0].seq), (Flags::RST, 6));
    let answer = rig.hear(Segment { payload: b"abc", ..rig.said(Flags::PSH, 0, 0) });
    assert_eq!(rig.relative(&answer), [(Flags::RST | Flags::ACK, 0, 3, 0)]);
    assert!(rig.hear(rig.said(Flags::RST, 0, 0)).is_empty(), "never a RST for a RST");
}

#[test]
fn bytes_are_acknowledged_with_the_next_turn_or_with_an_answer() {
    let mut rig = Rig::connected();
    assert!(rig.hear(Segment { payload: b"ping", ..rig.said(Flags::ACK, 1, 1) }).is_empty());
    assert_eq!(rig.take_events(), ["ping"]);
    let out = rig.turn();
    assert_eq!(rig.relative(&out), [(Flags::ACK, 1, 5, 0)]);
    rig.hear(Segment { payload: b"ping", ..rig.said(Flags::ACK, 5, 1) });
    rig.tcp.send(0, b"pong!");
    let out = rig.turn();
    assert_eq!(rig.relative(&out), [(Flags::ACK | Flags::PSH, 1, 9, 5)], "one segment for both");
}

#[test]
fn overlap_is_trimmed_and_holes_are_asked_for() {
    let mut rig = Rig::connected();
    let out = rig.hear(Segment { payload: b"later", ..rig.said(Flags::ACK, 4, 1) });
    assert_eq!(rig.relative(&out), [(Flags::ACK, 1, 1, 0)], "a duplicate ACK at once");
    rig.hear(Segment { payload: b"abc", ..rig.said(Flags::ACK, 1, 1) });
    rig.hear(Segment { payload: b"bcdef", ..rig.said(Flags::ACK, 2, 1) });
    assert_eq!(rig.take_events(), ["abc", "def"]);
    let out = rig.hear(Segment { payload: b"abc", ..rig.said(Flags::ACK, 1, 1) });
    assert_eq!(rig.relative(&out), [(Flags::ACK, 1, 7, 0)], "known bytes: the ACK was lost");
    assert!(rig.take_events().is_empty());
}

#[test]
fn what_exceeds_the_window_is_cut_off() {
    let mut rig = Rig::connected();
    rig.hear(Segment { payload: &[b'x'; 1200], ..rig.said(FIN_ACK, 1, 1) });
    assert_eq!(rig.take_events(), ["x".repeat(1000)]);
    assert_eq!(rig.tcp.state(0), State::Established, "the FIN was cut off too");
    let out = rig.turn();
    assert_eq!(rig.relative(&out), [(Flags::ACK, 1, 1001, 0)]);
}

#[test]
fn only_the_exact_rst_kills() {
    let mut rig = Rig::connected();
    let out = rig.hear(rig.said(Flags::RST, 20, 1));
    assert_eq!(rig.relative(&out), [(Flags::ACK, 1, 1, 0)], "in the window: challenged");
    assert!(rig.hear(rig.said(Flags::RST, 5_000, 1)).is_empty(), "outside: dropped");
    let out = rig.hear(rig.said(Flags::SYN, 1, 1));
    assert_eq!(rig.relative(&out), [(Flags::ACK, 1, 1, 0)], "a SYN is challenged");
    assert!(rig.take_events().is_empty());
    assert!(rig.hear(rig.said(Flags::RST, 1, 1)).is_empty());
    assert_eq!(rig.take_events(), [format!("broken {}", libc::ECONNRESET)]);
}

#[test]
fn the_acknowledgement_of_what_was_never_sent_is_not_believed() {
    let mut rig = Rig::connected();
    rig.tcp.send(0, b"1234");
    rig.turn();
    let out = rig.hear(Segment { payload: b"evil", ..rig.said(Flags::ACK, 1, 6) });
    assert_eq!(rig.relative(&out), [(Flags::ACK, 5, 1, 0)]);
    assert!(rig.take_events().is_empty());
    assert_eq!(rig.tcp.unsent_bytes(), 4);
    rig.hear(rig.said(Flags::ACK, 1, 5));
    assert_eq!(rig.tcp.unsent_bytes(), 0);
}

#[test]
fn the_peers_window_is_respected() {
    let mut rig = Rig::connected();
    rig.tcp.send(0, &[1; 1300]);
    let out = rig.turn();
    assert_eq!(rig.relative(&out), [(Flags::ACK, 1, 1, 500)]);
    assert!(rig.hear(Segment { window: 0, ..rig.said(Flags::ACK, 1, 501) }).is_empty());
    let out = rig.after(300_000);
    assert_eq!(rig.relative(&out), [(Flags::ACK | Flags::PSH, 501, 1, 1)], "a probe");
    assert!(rig.hear(Segment { window: 0, ..rig.said(Flags::ACK, 1, 501) }).is_empty());
    let out = rig.hear(Segment { window: 2_000, ..rig.said(Flags::ACK, 1, 501) });
    assert_eq!(rig.relative(&out), [(Flags::ACK | Flags::PSH, 501, 1, 800)], "the probe's byte included");
}

#[test]
fn three_duplicate_acks_bring_the_hole_at_once() {
    let mut rig = Rig::connected();
    rig.hear(Segment { window: 60_000, ..rig.said(Flags::ACK, 1, 1) });
    rig.tcp.send(0, &[1; 1460 * 4]);
    assert_eq!(rig.turn().len(), 4);
    let duplicate = Segment { window: 60_000, ..rig.said(Flags::ACK, 1, 1) };
    assert!(rig.hear(duplicate).is_empty());
    assert!(rig.hear(duplicate).is_empty());
    let out = rig.hear(duplicate);
    assert_eq!(rig.relative(&out), [(Flags::ACK | Flags::PSH, 1, 1, 1460)]);
    assert!(rig.hear(duplicate).is_empty(), "once");
    // A partial ACK names the next hole.
    let out = rig.hear(Segment { window: 60_000, ..rig.said(Flags::ACK, 1, 1461) });
    assert_eq!(rig.relative(&out), [(Flags::ACK | Flags::PSH, 1461, 1, 1460)]);
    rig.hear(Segment { window: 60_000, ..rig.said(Flags::ACK, 1, 1 + 4 * 1460) });
    assert_eq!(rig.tcp.unsent_bytes(), 0);
    assert_eq!(rig.tcp.stats().fast_retransmits, 1);
}

#[test]
fn the_peers_fin_ends_both_sides() {
    let mut rig = Rig::connected();
    let out = rig.hear(Segment { payload: b"bye", ..rig.said(FIN_ACK, 1, 1) });
    assert_eq!(rig.relative(&out), [(FIN_ACK, 1, 5, 0)]);
    assert_eq!(rig.take_events(), ["bye"]);
    assert_eq!(rig.tcp.state(0), State::LastAck);
    rig.tcp.send(0, b"too late");
    assert_eq!(rig.tcp.unsent_bytes(), 0);
    let out = rig.after(300_000);
    assert_eq!(rig.relative(&out), [(FIN_ACK, 1, 5, 0)], "the FIN is repeated");
    rig.hear(rig.said(Flags::ACK, 5, 2));
    assert_eq!(rig.take_events(), ["fin"]);
    assert_eq!(rig.tcp.state(0), State::Absent);
}

#[test]
fn nothing_after_the_peers_fin_counts() {
    let mut rig = Rig::connected();
    rig.hear(rig.said(FIN_ACK, 1, 1));
    rig.hear(Segment { payload: b"zombie", ..rig.said(FIN_ACK, 2, 1) });
    assert!(rig.take_events().is_empty());
    assert_eq!(rig.tcp.state(0), State::LastAck);
}

#[test]
fn time_wait_answers_a_repeated_fin() {
    let mut rig = Rig::connected();
    rig.tcp.send(0, b"last words");
    rig.tcp.close(0, Close::Fin);
    let out = rig.turn();
    assert_eq!(rig.relative(&out), [(Flags::ACK | Flags::PSH, 1, 1, 10), (FIN_ACK, 11, 1, 0)]);
    rig.hear(rig.said(Flags::ACK, 1, 12));
    assert_eq!(rig.tcp.state(0), State::FinWait2);
    rig.hear(Segment { payload: b"not wanted", ..rig.said(Flags::ACK, 1, 12) });
    assert!(rig.take_events().is_empty());
    assert_eq!(rig.tcp.stats().discarded_bytes, 10);
    let out = rig.hear(rig.said(FIN_ACK, 11, 12));
    assert_eq!(rig.relative(&out), [(Flags::ACK, 12, 12, 0)]);
    assert_eq!(rig.take_events(), ["local"]);
    assert_eq!(rig.tcp.state(0), State::TimeWait);
    let out = rig.hear(rig.said(FIN_ACK, 11, 12));
    assert_eq!(rig.relative(&out), [(Flags::ACK, 12, 12, 0)]);
    assert!(rig.hear(rig.said(Flags::RST, 12, 12)).is_empty());
    assert_eq!(rig.tcp.state(0), State::TimeWait);
    rig.tcp.connect(0);
    assert_eq!(rig.turn()[0].flags, Flags::SYN);
}

#[test]
fn fins_that_cross_close_both_sides() {
    let mut rig = Rig::connected();
    rig.tcp.close(0, Close::Fin);
    rig.turn();
    let out = rig.hear(rig.said(FIN_ACK, 1, 1));
    assert_eq!(rig.relative(&out), [(Flags::ACK, 2, 2, 0)]);
    assert_eq!(rig.tcp.state(0), State::Closing);
    rig.hear(rig.said(Flags::ACK, 2, 2));
    assert_eq!(rig.tcp.state(0), State::TimeWait);
    assert_eq!(rig.take_events(), ["local"]);
}

#[test]
fn a_peer_that_never_says_fin_is_left_after_a_minute() {
    let mut rig = Rig::connected();
    rig.tcp.close(0, Close::Fin);
    rig.turn();
    rig.hear(rig.said(Flags::ACK, 1, 2));
    for _ in 0..59 {
        rig.after(1_000_000);
    }
    assert_eq!(rig.tcp.state(0), State::FinWait2);
    rig.after(2_000_000);
    assert_eq!(rig.take_events(), ["local"]);
    assert_eq!(rig.tcp.pools_in_use(), (0, 0));
}

#[test]
fn a_close_with_unread_bytes_drops_them_and_still_ends() {
    let mut rig = Rig::connected();
    rig.tcp.set_reading(0, false);
    rig.hear(Segment { payload: b"unread", ..rig.said(Flags::ACK, 1, 1) });
    rig.tcp.close(0, Close::Fin);
    let out = rig.turn();
    assert_eq!(rig.relative(&out), [(FIN_ACK, 1, 7, 0)]);
    assert_eq!(out[0].window, 1000);
    rig.hear(rig.said(FIN_ACK, 7, 2));
    assert_eq!(rig.take_events(), ["local"]);
    assert_eq!(rig.tcp.pools_in_use(), (0, 0));
}
