//! What goes out: in a client's turn, and when its timer has run out.

use super::{
    State, Tcp, Wire,
    connection::{Work, flag},
    timer::RoundTrip,
};
use crate::{
    transport::{Ended, Event, Events},
    tun::packet::{Flags, MSS_BYTES, Segment},
};

/// SYNs sent again before a connect fails: 127 s in all, as Linux has it (tcp_syn_retries).
const SYN_RETRIES: u8 = 6;
/// Timeouts in a row, with nothing heard, before a connection is given up (tcp_retries2).
const DATA_RETRIES: u8 = 15;
/// How long the peer may take to send its FIN after ours (Linux's tcp_fin_timeout).
pub(super) const FIN_WAIT_2_US: u64 = 60_000_000;

impl Tcp {
    /// A client's turn: what its owner has asked for, and what the peer is owed.
    pub(super) fn serve(&mut self, now_us: u64, client: u32, wire: &mut impl Wire, events: &mut Events) {
        let record = &self.records[client as usize];
        match record.state() {
            State::Absent | State::TimeWait => return,
            State::SynSent => {
                if record.work == 0 {
                    self.send_syn(now_us, client, wire);
                }
                return;
            }
            _ => {}
        }
        if record.has(flag::RST_DUE) {
            self.stats.resets_out += 1;
            self.transmit(client, Flags::RST | Flags::ACK, wire);
            self.finish(client, State::Absent, Ended::Local, events);
            return;
        }
        if !record.has(flag::PAUSED) && record.work != 0 {
            self.deliver_held(client, events);
        }
        self.output(now_us, client, wire);
        if self.records[client as usize].has(flag::ACK_DUE) {
            self.send_ack(client, wire);
        }
        self.settle(client);
    }

    /// Hands over what a paused client has not read.
    pub(super) fn deliver_held(&mut self, client: u32, events: &mut Events) {
        let record = &mut self.records[client as usize];
        let work = self.works.get_mut(record.work);
        if work.rx.is_empty() {
            return;
        }
        if record.has(flag::LOCAL) {
            self.stats.discarded_bytes += u64::from(work.rx.len());
        } else {
            let mut offset = 0;
            while offset < work.rx.len() {
                let count = (work.rx.len() - offset).min(MSS_BYTES as u32);
                let bytes = &mut self.scratch[..count as usize];
                self.chunks.copy(&work.rx, offset, bytes);
                events.push(Event::Bytes { client, bytes });
                offset += count;
            }
        }
        self.chunks.clear(&mut work.rx);
        // The window has opened.
        record.flags |= flag::ACK_DUE;
    }

    /// Sends what the windows allow, then the FIN if it is due, and sets the timer if that
    /// leaves something to wait for.
    pub(super) fn output(&mut self, now_us: u64, client: u32, wire: &mut impl Wire) {
        let record = &self.records[client as usize];
        let fin_due = record.has(flag::FIN_DUE) && !record.has(flag::FIN_SENT);
        if record.work == 0 && !fin_due {
            return;
        }
        let handle = self.work_of(client);
        let sent_before = self.works.get(handle).in_flight;
        while self.output_one(now_us, client, wire) {}
        let work = self.works.get(handle);
        let waiting = work.in_flight > 0 || !work.tx.is_empty();
        let first_of_a_flight = sent_before == 0 && work.in_flight > 0;
        if waiting && (work.deadline == 0 || first_of_a_flight) {
            self.arm(now_us, client, self.round_trip.rto_us(work.backoff));
        }
    }

    /// Sends one new segment if there is one and the windows allow it.
    fn output_one(&mut self, now_us: u64, client: u32, wire: &mut impl Wire) -> bool {
        let record = &mut self.records[client as usize];
        let fin_sent = record.has(flag::FIN_SENT);
        let mss = record.mss();
        let work = self.works.get_mut(record.work);
        let unsent = work.unsent(fin_sent);
        let window = u32::from(record.snd_wnd).min(u32::from(work.congestion_window) * mss);
        let usable = window.saturating_sub(work.in_flight);
        if unsent == 0 {
            // A FIN may leave at a closed window: it then serves as the probe.
            let room = work.in_flight < window.max(1);
            if !record.has(flag::FIN_DUE) || fin_sent || !room {
                return false;
            }
            let seq = record.snd_una.wrapping_add(work.in_flight);
            work.in_flight += 1;
            record.flags |= flag::FIN_SENT;
            record.set_state(match record.state() {
                State::Established => State::FinWait1,
                State::CloseWait => State::LastAck,
                other => unreachable!("a FIN leaves in {other:?}"),
            });
            self.emit(client, Flags::FIN | Flags::ACK, seq, 0, wire);
            return false;
        }
        let count = unsent.min(mss).min(usable);
        // Silly window: rather wait for an acknowledgement than send a part (RFC 9293
        // section 3.8.6.2.1).
        if count == 0 || (count < unsent.min(mss) && work.in_flight > 0) {
            return false;
        }
        let offset = work.in_flight;
        let seq = record.snd_una.wrapping_add(offset);
        work.in_flight += count;
        if !work.timing && !work.recovering {
            work.timing = true;
            work.timed_seq = seq.wrapping_add(count);
            work.timed_from_us = now_us as u32;
        }
        self.chunks.copy(&work.tx, offset, &mut self.scratch[..count as usize]);
        let push = if count == unsent { Flags::PSH } else { Flags::default() };
        self.emit(client, Flags::ACK | push, seq, count, wire);
        true
    }

    /// Sends the oldest thing in flight again, at most `limit` bytes of it.
    pub(super) fn retransmit(&mut self, client: u32, limit: u32, wire: &mut impl Wire) {
        let record = &self.records[client as usize];
        let fin_in_flight = record.has(flag::FIN_SENT);
        let mss = record.mss();
        let work = self.works.get(record.work);
        let bytes_in_flight = work.in_flight - u32::from(fin_in_flight);
        let count = bytes_in_flight.min(mss).min(limit.max(1));
        self.chunks.copy(&work.tx, 0, &mut self.scratch[..count as usize]);
        self.stats.retransmits += 1;
        let seq = record.snd_una;
        let flags = if count == 0 { Flags::FIN | Flags::ACK } else { Flags::ACK | Flags::PSH };
        self.emit(client, flags, seq, count, wire);
    }

    /// The timer has run out.
    pub(super) fn on_timeout(&mut self, now_us: u64, client: u32, wire: &mut impl Wire, events: &mut Events) {
        let state = self.records[client as usize].state();
        if state == State::FinWait2 {
            self.finish(client, State::Absent, Ended::Local, events);
            return;
        }
        let retries = if state == State::SynSent { SYN_RETRIES } else { DATA_RETRIES };
        let work = self.work(client).expect("a timer belongs to work");
        if work.unheard >= retries {
            self.stats.timeouts += 1;
            let how = self.broken(client, libc::ETIMEDOUT);
            self.finish(client, State::Absent, how, events);
            return;
        }
        work.unheard += 1;
        work.backoff = work.backoff.saturating_add(1);
        let backoff = work.backoff;
        if state == State::SynSent {
            work.timing = false;
            self.stats.syn_retransmits += 1;
            self.emit_syn(client, wire);
            self.arm(now_us, client, RoundTrip::syn_rto_us(backoff));
            return;
        }
        self.repair_or_probe(client, wire);
        self.arm(now_us, client, self.round_trip.rto_us(backoff));
    }

    fn repair_or_probe(&mut self, client: u32, wire: &mut impl Wire) {
        let record = &mut self.records[client as usize];
        let window = u32::from(record.snd_wnd);
        let work = self.works.get_mut(record.work);
        if work.in_flight > 0 {
            if window == 0 {
                self.stats.window_probes += 1;
            } else {
                work.begin_recovery(record.snd_una, record.mss(), Some(1));
            }
            self.retransmit(client, window, wire);
        } else if window == 0 {
            // Zero-window probe: one byte beyond the window (RFC 9293 section 3.8.6.1).
            self.stats.window_probes += 1;
            let seq = record.snd_una;
            work.in_flight = 1;
            self.chunks.copy(&work.tx, 0, &mut self.scratch[..1]);
            self.emit(client, Flags::ACK | Flags::PSH, seq, 1, wire);
        } else {
            unreachable!("the window is open, nothing is in flight, and yet bytes are unsent");
        }
    }

    /// The first SYN of a connection.
    fn send_syn(&mut self, now_us: u64, client: u32, wire: &mut impl Wire) {
        let seq = self.records[client as usize].snd_una;
        let handle = self.work_of(client);
        *self.works.get_mut(handle) = Work {
            in_flight: 1,
            timing: true,
            timed_seq: seq.wrapping_add(1),
            timed_from_us: now_us as u32,
            ..Work::default()
        };
        self.emit_syn(client, wire);
        self.arm(now_us, client, RoundTrip::syn_rto_us(0));
    }

    fn emit_syn(&mut self, client: u32, wire: &mut impl Wire) {
        let seq = self.records[client as usize].snd_una;
        self.stats.segments_out += 1;
        wire.transmit(
            client,
            &Segment {
                seq,
                flags: Flags::SYN,
                window: self.config.receive_window_bytes,
                mss: Some(MSS_BYTES as u16),
                ..Segment::default()
            },
        );
    }

    /// An acknowledgement and nothing else.
    pub(super) fn send_ack(&mut self, client: u32, wire: &mut impl Wire) {
        self.transmit(client, Flags::ACK, wire);
    }

    /// A segment without bytes at SND.NXT.
    fn transmit(&mut self, client: u32, flags: Flags, wire: &mut impl Wire) {
        let in_flight = self.work(client).map_or(0, |work| work.in_flight);
        let seq = self.records[client as usize].snd_una.wrapping_add(in_flight);
        self.emit(client, flags, seq, 0, wire);
    }

    /// A segment with the first `count` bytes of the scratch buffer. Whatever leaves says how
    /// far we have read.
    fn emit(&mut self, client: u32, flags: Flags, seq: u32, count: u32, wire: &mut impl Wire) {
        let window = self.receive_window(client) as u16;
        let record = &mut self.records[client as usize];
        record.flags &= !flag::ACK_DUE;
        self.stats.segments_out += 1;
        let payload = &self.scratch[..count as usize];
        wire.transmit(client, &Segment { seq, ack: record.rcv_nxt, flags, window, mss: None, payload });
    }

    /// RCV.WND: what a paused client has not read is taken off; the right edge never moves back.
    pub(super) fn receive_window(&self, client: u32) -> u32 {
        let full = u32::from(self.config.receive_window_bytes);
        match self.records[client as usize].work {
            0 => full,
            handle => full - self.works.get(handle).rx.len(),
        }
    }
}
