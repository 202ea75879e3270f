//! What comes in: RFC 9293 section 3.10.7, for the client side.

use super::{
    State, Tcp, Wire,
    connection::{Work, flag},
    output::FIN_WAIT_2_US,
};
use crate::{
    transport::{Ended, Event, Events},
    tun::packet::{Flags, MSS_DEFAULT_BYTES, Segment},
};

/// Acknowledgements this far back are merely old (RFC 5961 section 5): the largest window.
const ACK_AGE_MAX: u32 = 65_535;
/// Duplicate acknowledgements that mean a loss (RFC 5681 section 3.2).
const DUPLICATE_ACKS: u8 = 3;

/// What became of an acknowledgement.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Acked {
    /// Go on with the segment.
    Go,
    /// The segment is not believable, or the connection is over.
    Stop,
}

impl Tcp {
    /// Takes in a segment for a client.
    pub fn on_segment(
        &mut self,
        now_us: u64,
        client: u32,
        segment: &Segment<'_>,
        wire: &mut impl Wire,
        events: &mut Events,
    ) {
        self.stats.segments_in += 1;
        match self.state(client) {
            State::Absent => self.on_stray(client, segment, wire),
            State::SynSent => self.on_answer(now_us, client, segment, wire, events),
            _ => self.on_synchronized(now_us, client, segment, wire, events),
        }
    }

    /// CLOSED: whatever comes is answered by RST (section 3.10.7.1).
    fn on_stray(&mut self, client: u32, segment: &Segment<'_>, wire: &mut impl Wire) {
        if segment.flags.has(Flags::RST) {
            return;
        }
        let reset = if segment.flags.has(Flags::ACK) {
            Segment { seq: segment.ack, flags: Flags::RST, ..Segment::default() }
        } else {
            let ack = segment.seq.wrapping_add(segment.sequence_len());
            Segment { ack, flags: Flags::RST | Flags::ACK, ..Segment::default() }
        };
        self.transmit_reset(client, &reset, wire);
    }

    fn transmit_reset(&mut self, client: u32, reset: &Segment<'_>, wire: &mut impl Wire) {
        self.stats.resets_out += 1;
        self.stats.segments_out += 1;
        wire.transmit(client, reset);
    }

    /// SYN-SENT (section 3.10.7.3). A SYN without ACK would be a simultaneous open, which a
    /// listening peer never begins: it is dropped.
    fn on_answer(
        &mut self,
        now_us: u64,
        client: u32,
        segment: &Segment<'_>,
        wire: &mut impl Wire,
        events: &mut Events,
    ) {
        let flags = segment.flags;
        if !flags.has(Flags::ACK) {
            return;
        }
        let record = &self.records[client as usize];
        let acceptable = record.work != 0 && segment.ack == record.snd_una.wrapping_add(1);
        if !acceptable {
            // Left over from an earlier connection between the same ends: the RST clears it.
            if !flags.has(Flags::RST) {
                let reset = Segment { seq: segment.ack, flags: Flags::RST, ..Segment::default() };
                self.transmit_reset(client, &reset, wire);
            }
            return;
        }
        if flags.has(Flags::RST) {
            self.stats.resets_in += 1;
            self.finish(client, State::Absent, Ended::Failed(libc::ECONNREFUSED), events);
            return;
        }
        if !flags.has(Flags::SYN) {
            return;
        }
        let work = self.work(client).expect("a SYN is in flight");
        if work.timing {
            let round_trip = (now_us as u32).wrapping_sub(work.timed_from_us);
            self.round_trip.sample(u64::from(round_trip));
        }
        let record = &mut self.records[client as usize];
        self.works.free(record.work);
        record.work = 0;
        record.snd_una = segment.ack;
        record.rcv_nxt = segment.seq.wrapping_add(1);
        record.snd_wnd = segment.window;
        record.set_peer_mss(segment.mss.unwrap_or(MSS_DEFAULT_BYTES));
        record.set_state(State::Established);
        self.connecting -= 1;
        self.connected += 1;
        self.send_ack(client, wire);
        events.push(Event::Connected { client });
    }

    /// All other states (section 3.10.7.4).
    fn on_synchronized(
        &mut self,
        now_us: u64,
        client: u32,
        segment: &Segment<'_>,
        wire: &mut impl Wire,
        events: &mut Events,
    ) {
        let flags = segment.flags;
        if flags.has(Flags::RST) {
            self.on_reset(client, segment, wire, events);
            return;
        }
        let acceptable = self.acceptable(client, segment);
        let rcv_nxt = self.records[client as usize].rcv_nxt;
        // At a closed window nothing that takes up numbers fits, but its ACK counts.
        let probe = !acceptable && segment.seq == rcv_nxt && !flags.has(Flags::SYN);
        if !acceptable && !probe {
            self.stats.unacceptable += 1;
            self.send_ack(client, wire);
            return;
        }
        if flags.has(Flags::SYN) {
            // Challenge ACK (RFC 5961 section 4).
            self.send_ack(client, wire);
            return;
        }
        if !flags.has(Flags::ACK) || self.state(client) == State::TimeWait {
            return;
        }
        if self.on_ack(now_us, client, segment, wire, events) == Acked::Stop {
            return;
        }
        if probe {
            self.stats.unacceptable += 1;
            self.send_ack(client, wire);
        } else if segment.sequence_len() > 0
            && self.peer_may_send(client)
            && self.on_data(client, segment, wire, events)
        {
            self.on_fin(now_us, client, wire, events);
        }
        if !matches!(self.state(client), State::Absent | State::TimeWait) {
            self.output(now_us, client, wire);
            self.settle(client);
        }
    }

    /// The four cases of section 3.4.
    fn acceptable(&self, client: u32, segment: &Segment<'_>) -> bool {
        let rcv_nxt = self.records[client as usize].rcv_nxt;
        let window = self.receive_window(client);
        let len = segment.sequence_len();
        let inside = |seq: u32| seq.wrapping_sub(rcv_nxt) < window;
        match (len, window) {
            (0, 0) => segment.seq == rcv_nxt,
            (0, _) => inside(segment.seq),
            (_, 0) => false,
            _ => inside(segment.seq) || inside(segment.seq.wrapping_add(len - 1)),
        }
    }

    /// RFC 5961 section 3: only the exact number resets, others are asked again. TIME-WAIT is
    /// not cut short (RFC 1337).
    fn on_reset(&mut self, client: u32, segment: &Segment<'_>, wire: &mut impl Wire, events: &mut Events) {
        let record = &self.records[client as usize];
        if record.state() == State::TimeWait {
            return;
        }
        if segment.seq == record.rcv_nxt {
            self.stats.resets_in += 1;
            let how = self.broken(client, libc::ECONNRESET);
            self.finish(client, State::Absent, how, events);
        } else if segment.seq.wrapping_sub(record.rcv_nxt) < self.receive_window(client) {
            self.send_ack(client, wire);
        }
    }

    /// The acknowledgement and window fields.
    fn on_ack(
        &mut self,
        now_us: u64,
        client: u32,
        segment: &Segment<'_>,
        wire: &mut impl Wire,
        events: &mut Events,
    ) -> Acked {
        let record = &mut self.records[client as usize];
        let in_flight = if record.work == 0 { 0 } else { self.works.get(record.work).in_flight };
        let acked = segment.ack.wrapping_sub(record.snd_una);
        if acked > in_flight {
            if record.snd_una.wrapping_sub(segment.ack) <= ACK_AGE_MAX {
                return Acked::Go;
            }
            // It acknowledges what was never sent.
            self.send_ack(client, wire);
            return Acked::Stop;
        }
        // SND.WL1 and SND.WL2 are not kept: a segment that acknowledges nothing new and does not
        // reach RCV.NXT is old. What gets past this rule is put right by the next segment or by
        // a window probe.
        let window_before = record.snd_wnd;
        let current = segment.seq.wrapping_sub(record.rcv_nxt).cast_signed() >= 0;
        if acked > 0 || current {
            record.snd_wnd = segment.window;
        }
        if in_flight == 0 && record.work == 0 {
            return Acked::Go;
        }
        if record.snd_wnd == 0 {
            // It does not read, but it is there.
            self.works.get_mut(record.work).unheard = 0;
        }
        if acked > 0 {
            return self.on_progress(now_us, client, segment.ack, acked, wire, events);
        }
        if window_before == 0 && segment.window > 0 {
            self.on_window_opened(now_us, client, wire);
        } else if in_flight > 0 && segment.sequence_len() == 0 && segment.window == window_before {
            self.on_duplicate_ack(client, wire);
        }
        Acked::Go
    }

    /// Something new is acknowledged.
    fn on_progress(
        &mut self,
        now_us: u64,
        client: u32,
        ack: u32,
        acked: u32,
        wire: &mut impl Wire,
        events: &mut Events,
    ) -> Acked {
        let record = &mut self.records[client as usize];
        let work = self.works.get_mut(record.work);
        let fin_acked = record.has(flag::FIN_SENT) && acked == work.in_flight;
        let bytes = acked - u32::from(fin_acked);
        record.snd_una = ack;
        work.in_flight -= acked;
        self.unsent_bytes -= u64::from(bytes);
        self.chunks.consume(&mut work.tx, bytes);
        work.backoff = 0;
        work.unheard = 0;
        work.duplicate_acks = 0;
        work.deadline = 0;
        if work.timing && ack.wrapping_sub(work.timed_seq).cast_signed() >= 0 {
            work.timing = false;
            let round_trip = (now_us as u32).wrapping_sub(work.timed_from_us);
            self.round_trip.sample(u64::from(round_trip));
        }
        if work.recovering && ack.wrapping_sub(work.recover).cast_signed() < 0 {
            // A partial acknowledgement: the next hole (RFC 6582).
            if work.congestion_window < work.slow_start_max {
                work.congestion_window += 1;
            }
            let window = u32::from(record.snd_wnd);
            self.retransmit(client, window, wire);
        } else if work.recovering {
            work.recovering = false;
            work.congestion_window = work.slow_start_max;
        } else if work.congestion_window < work.slow_start_max {
            work.congestion_window = (work.congestion_window + 1).min(Work::SEGMENTS_MAX);
        }
        if self.works.get(self.records[client as usize].work).in_flight > 0 {
            self.arm(now_us, client, self.round_trip.rto_us(0));
        }
        if fin_acked { self.on_fin_acked(now_us, client, events) } else { Acked::Go }
    }

    fn on_fin_acked(&mut self, now_us: u64, client: u32, events: &mut Events) -> Acked {
        let record = &mut self.records[client as usize];
        match record.state() {
            State::FinWait1 => {
                record.set_state(State::FinWait2);
                self.arm(now_us, client, FIN_WAIT_2_US);
                Acked::Go
            }
            State::Closing => {
                self.finish(client, State::TimeWait, Ended::Local, events);
                Acked::Stop
            }
            State::LastAck => {
                let how = self.broken(client, 0);
                self.finish(client, State::Absent, how, events);
                Acked::Stop
            }
            other => unreachable!("a FIN is acknowledged in {other:?}"),
        }
    }

    /// The peer reads again. A probe that it did not take must not stay behind as a hole.
    fn on_window_opened(&mut self, now_us: u64, client: u32, wire: &mut impl Wire) {
        let record = &mut self.records[client as usize];
        let work = self.works.get_mut(record.work);
        work.backoff = 0;
        work.unheard = 0;
        if work.in_flight == 0 {
            return;
        }
        if work.in_flight == 1 && !record.has(flag::FIN_SENT) {
            // Whatever goes out next begins with this byte.
            work.in_flight = 0;
            work.timing = false;
            work.recovering = false;
        } else {
            work.begin_recovery(record.snd_una, record.mss(), None);
            let window = u32::from(record.snd_wnd);
            self.retransmit(client, window, wire);
        }
        self.arm(now_us, client, self.round_trip.rto_us(0));
    }

    fn on_duplicate_ack(&mut self, client: u32, wire: &mut impl Wire) {
        let record = &self.records[client as usize];
        let window = u32::from(record.snd_wnd);
        let work = self.works.get_mut(record.work);
        work.duplicate_acks = work.duplicate_acks.saturating_add(1);
        if work.duplicate_acks == DUPLICATE_ACKS && !work.recovering && window > 0 {
            work.begin_recovery(record.snd_una, record.mss(), None);
            self.stats.fast_retransmits += 1;
            self.retransmit(client, window, wire);
        }
    }

    /// Whether the peer has not said yet that it is done; whatever it sends after that is void.
    fn peer_may_send(&self, client: u32) -> bool {
        matches!(self.state(client), State::Established | State::FinWait1 | State::FinWait2)
    }

    /// Takes the bytes that are next in order. True if the segment's FIN is next after them.
    fn on_data(
        &mut self,
        client: u32,
        segment: &Segment<'_>,
        wire: &mut impl Wire,
        events: &mut Events,
    ) -> bool {
        let window = self.receive_window(client);
        let record = &mut self.records[client as usize];
        let ahead = segment.seq.wrapping_sub(record.rcv_nxt).cast_signed();
        if ahead > 0 {
            // Not held: the duplicate ACK asks the peer for what is missing.
            self.stats.out_of_order += 1;
            self.send_ack(client, wire);
            return false;
        }
        let known = ahead.unsigned_abs() as usize;
        let fresh = &segment.payload[known.min(segment.payload.len())..];
        let taken = &fresh[..fresh.len().min(window as usize)];
        record.rcv_nxt = record.rcv_nxt.wrapping_add(taken.len() as u32);
        let owed = record.has(flag::ACK_DUE);
        record.flags |= flag::ACK_DUE;
        let fin = segment.flags.has(Flags::FIN) && taken.len() == fresh.len();
        if !taken.is_empty() {
            self.take_bytes(client, taken, events);
        }
        // At least every second large segment is acknowledged at once (RFC 9293 section 3.8.6.3);
        // else the client's next turn does it, perhaps along with its answer.
        if owed && taken.len() >= usize::from(MSS_DEFAULT_BYTES) {
            self.send_ack(client, wire);
        } else {
            self.enqueue(client);
        }
        fin
    }

    fn take_bytes(&mut self, client: u32, bytes: &[u8], events: &mut Events) {
        let record = &self.records[client as usize];
        if record.has(flag::LOCAL) {
            self.stats.discarded_bytes += bytes.len() as u64;
        } else if record.has(flag::PAUSED) {
            let handle = self.work_of(client);
            self.chunks.push(&mut self.works.get_mut(handle).rx, bytes);
        } else {
            events.push(Event::Bytes { client, bytes });
        }
    }

    /// The peer's FIN is next in order.
    fn on_fin(&mut self, now_us: u64, client: u32, wire: &mut impl Wire, events: &mut Events) {
        if self.records[client as usize].work != 0 {
            self.deliver_held(client, events);
        }
        let record = &mut self.records[client as usize];
        record.rcv_nxt = record.rcv_nxt.wrapping_add(1);
        record.flags |= flag::ACK_DUE;
        match record.state() {
            State::Established => {
                record.set_state(State::CloseWait);
                record.flags |= flag::FIN_DUE;
                self.output(now_us, client, wire);
            }
            State::FinWait1 => record.set_state(State::Closing),
            State::FinWait2 => {
                self.send_ack(client, wire);
                self.finish(client, State::TimeWait, Ended::Local, events);
                return;
            }
            other => unreachable!("a second FIN, in {other:?}"),
        }
        if self.records[client as usize].has(flag::ACK_DUE) {
            self.send_ack(client, wire);
        }
    }
}
