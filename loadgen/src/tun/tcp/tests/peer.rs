//! A listening TCP of a different make, as a partner in tests: byte by byte, with reassembly,
//! go-back-N and a reader of any speed. It asserts whatever a client must never do.

use crate::tun::packet::{Flags, Segment};

/// A segment on its way, with bytes of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owned {
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: Flags,
    pub(super) window: u16,
    pub(super) mss: Option<u16>,
    pub(super) payload: Vec<u8>,
}

impl Owned {
    pub(super) fn of(segment: &Segment<'_>) -> Self {
        let Segment { seq, ack, flags, window, mss, payload } = *segment;
        Self { seq, ack, flags, window, mss, payload: payload.to_vec() }
    }

    pub(super) fn segment(&self) -> Segment<'_> {
        let Self { seq, ack, flags, window, mss, payload } = self;
        Segment { seq: *seq, ack: *ack, flags: *flags, window: *window, mss: *mss, payload }
    }
}

/// How a peer behaves.
#[derive(Clone, Debug)]
pub(super) struct Manners {
    pub(super) iss: u32,
    pub(super) mss: u16,
    /// Receive buffer.
    pub(super) buffer: usize,
    /// Bytes read from it at each step.
    pub(super) read: usize,
    /// What it sends.
    pub(super) stream: Vec<u8>,
    /// Whether it ends its side once all is sent, or waits for the client's FIN.
    pub(super) closes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Listening,
    SynReceived,
    Established,
    /// Both FINs are sent and acknowledged.
    Done,
    Reset,
}

const RTO_US: u64 = 150_000;

#[derive(Debug)]
pub(super) struct Peer {
    manners: Manners,
    pub(super) phase: Phase,
    /// The client's initial sequence number.
    irs: u32,
    /// In-order bytes taken from the client.
    pub(super) received: Vec<u8>,
    /// Bytes beyond a hole, by offset.
    beyond: std::collections::BTreeMap<usize, u8>,
    read: usize,
    pub(super) fin_received: bool,
    /// The right edge of the window, as an offset, that was ever advertised.
    edge: usize,
    /// Offsets into the stream; the FIN is one past its end.
    una: usize,
    next: usize,
    /// One past the furthest offset ever sent.
    furthest: usize,
    window: usize,
    timer_us: Option<u64>,
    owes_ack: bool,
    advertised: usize,
}

impl Peer {
    pub(super) fn new(manners: Manners) -> Self {
        Self {
            manners,
            phase: Phase::Listening,
            irs: 0,
            received: Vec::new(),
            beyond: std::collections::BTreeMap::new(),
            read: 0,
            fin_received: false,
            edge: 0,
            una: 0,
            next: 0,
            furthest: 0,
            window: 0,
            timer_us: None,
            owes_ack: false,
            advertised: 0,
        }
    }

    pub(super) fn on_segment(&mut self, segment: &Owned, out: &mut Vec<Owned>) {
        let flags = segment.flags;
        if flags.has(Flags::RST) {
            if self.phase != Phase::Listening && segment.seq == self.rcv_nxt() {
                self.phase = Phase::Reset;
            }
            return;
        }
        match self.phase {
            Phase::Listening => {
                if flags.has(Flags::SYN) {
                    assert_eq!(segment.mss, Some(1460), "the SYN names the MSS");
                    self.irs = segment.seq;
                    self.window = usize::from(segment.window);
                    self.phase = Phase::SynReceived;
                    out.push(self.syn_ack());
                }
                return;
            }
            Phase::SynReceived if flags.has(Flags::SYN) => {
                out.push(self.syn_ack());
                return;
            }
            Phase::Reset => return,
            _ => {}
        }
        if flags.has(Flags::SYN) || !flags.has(Flags::ACK) {
            return;
        }
        self.take_ack(segment);
        self.take_bytes(segment);
        if self.owes_ack {
            out.push(self.make(Flags::ACK, self.next, 0));
            self.owes_ack = false;
        }
    }

    /// Reads, sends, repeats; once per step of virtual time.
    pub(super) fn step(&mut self, now_us: u64, out: &mut Vec<Owned>) {
        if matches!(self.phase, Phase::Listening | Phase::Reset) {
            return;
        }
        if self.phase == Phase::SynReceived {
            if self.timer_us.is_some_and(|due| due <= now_us) {
                out.push(self.syn_ack());
                self.timer_us = None;
            }
            self.timer_us.get_or_insert(now_us + RTO_US);
            return;
        }
        self.read = (self.read + self.manners.read).min(self.received.len());
        if self.advertised == 0 && self.free() >= self.manners.buffer.min(200) {
            out.push(self.make(Flags::ACK, self.next, 0));
        }
        if self.una < self.next && self.timer_us.is_some_and(|due| due <= now_us) {
            self.next = self.una;
            self.timer_us = None;
        }
        let end = self.end();
        let length = self.manners.stream.len();
        while self.next < end {
            let probe = self.window == 0 && self.next == self.una && self.timer_us.is_none();
            let room = if probe { 1 } else { (self.una + self.window).saturating_sub(self.next) };
            let count = room.min(usize::from(self.manners.mss)).min(length.saturating_sub(self.next));
            if room == 0 {
                break;
            }
            if count == 0 {
                out.push(self.make(Flags::FIN | Flags::ACK, self.next, 0));
                self.next += 1;
            } else {
                out.push(self.make(Flags::ACK | Flags::PSH, self.next, count));
                self.next += count;
            }
            self.furthest = self.furthest.max(self.next);
            self.timer_us.get_or_insert(now_us + RTO_US);
        }
        if self.una == self.next {
            self.timer_us = None;
        } else {
            self.timer_us.get_or_insert(now_us + RTO_US);
        }
    }

    /// One past the last number that there is to send by now.
    fn end(&self) -> usize {
        self.manners.stream.len() + usize::from(self.manners.closes || self.fin_received)
    }

    fn take_ack(&mut self, segment: &Owned) {
        let offset = segment.ack.wrapping_sub(self.manners.iss.wrapping_add(1)) as usize;
        if self.phase == Phase::SynReceived {
            if offset != 0 {
                return;
            }
            self.phase = Phase::Established;
            self.timer_us = None;
        }
        assert!(
            offset <= self.furthest || offset > u32::MAX as usize / 2,
            "acknowledges what was never sent: {offset} of {}",
            self.furthest
        );
        if offset > self.furthest || offset < self.una {
            return;
        }
        if offset > self.una {
            self.una = offset;
            self.next = self.next.max(offset);
            self.timer_us = None;
        }
        self.window = usize::from(segment.window);
        if self.fin_received && self.una == self.manners.stream.len() + 1 {
            self.phase = Phase::Done;
        }
    }

    fn take_bytes(&mut self, segment: &Owned) {
        if self.phase == Phase::SynReceived {
            return;
        }
        let fin = segment.flags.has(Flags::FIN);
        if segment.payload.is_empty() && !fin {
            // An old number asks for an answer, as a keep-alive or a lost ACK does.
            self.owes_ack |= segment.seq.wrapping_sub(self.rcv_nxt()).cast_signed() < 0;
            return;
        }
        self.owes_ack = true;
        let start = segment.seq.wrapping_sub(self.irs.wrapping_add(1)) as usize;
        let probe = usize::from(segment.payload.len() == 1);
        if !fin {
            assert!(
                start + segment.payload.len() <= self.edge + probe,
                "bytes up to {} beyond the window's edge {}",
                start + segment.payload.len(),
                self.edge
            );
        }
        if self.fin_received {
            return;
        }
        for (index, &byte) in segment.payload.iter().enumerate() {
            let offset = start + index;
            if let Some(&known) = self.received.get(offset) {
                assert_eq!(known, byte, "byte {offset} was sent again as another");
            } else if offset < self.received.len() + self.free() {
                self.beyond.insert(offset, byte);
            }
        }
        while let Some(byte) = self.beyond.remove(&self.received.len()) {
            self.received.push(byte);
        }
        if fin && start + segment.payload.len() == self.received.len() {
            self.fin_received = true;
        }
    }

    fn free(&self) -> usize {
        self.manners.buffer.saturating_sub(self.received.len() - self.read).min(65_535)
    }

    fn rcv_nxt(&self) -> u32 {
        self.irs
            .wrapping_add(1)
            .wrapping_add(self.received.len() as u32)
            .wrapping_add(u32::from(self.fin_received))
    }

    fn syn_ack(&mut self) -> Owned {
        let mut segment = self.make(Flags::SYN | Flags::ACK, 0, 0);
        segment.seq = self.manners.iss;
        segment.mss = Some(self.manners.mss);
        segment
    }

    fn make(&mut self, flags: Flags, offset: usize, count: usize) -> Owned {
        self.advertised = self.free();
        self.edge = self.edge.max(self.received.len() + self.advertised);
        Owned {
            seq: self.manners.iss.wrapping_add(1).wrapping_add(offset as u32),
            ack: self.rcv_nxt(),
            flags,
            window: self.advertised as u16,
            mss: None,
            payload: self.manners.stream.get(offset..offset + count).unwrap_or_default().to_vec(),
        }
    }
}
