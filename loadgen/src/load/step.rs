//! The steps of a load thread: commands, what is due, what has happened.

use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use super::{
    Checking, Churning, Command, Connecting, Connects, Departure, FAREWELL_NS, Lane, Leaving, Load, PER_TURN,
    Reconnect, Sending, Slow, flights::Times,
};
use crate::{
    client::{Broken, Heard, State, Verdict},
    exchange::{Exchange, Receipt},
    schedule::{Heartbeat, Pacer},
    transport::{Close, Ended, Event},
};

impl Load {
    pub(super) fn on_command(&mut self, command: Command, now_ns: u64) {
        match command {
            Command::Connect(Connects { clients, per_second, in_flight_max }) => {
                let next = self.connects.next;
                let steps = u64::from(clients.saturating_sub(next));
                self.connects =
                    Connecting { pacer: Pacer::new(now_ns, per_second, steps), next, in_flight_max };
            }
            Command::Hold(holding) => {
                self.holding = holding;
                if holding {
                    self.live.open_min = self.live.open;
                }
            }
            Command::Traffic(spec) => {
                let messages = if spec.active == 0 { 0 } else { spec.messages };
                let sending = Sending { pacer: Pacer::new(spec.start_ns, spec.per_second, messages), spec };
                match spec.lane {
                    Lane::Main => {
                        self.tally.scheduled += messages;
                        self.traffic = sending;
                    }
                    Lane::Slow => self.slow_traffic = sending,
                }
            }
            Command::StopTraffic => {
                // What was never due was never owed.
                self.tally.scheduled -= self.traffic.pacer.remaining();
                self.traffic.pacer = Pacer::idle();
                self.slow_traffic.pacer = Pacer::idle();
                self.tally.scheduled -= self.live.held_back;
                self.live.held_back = 0;
                self.waiting.clear();
                self.check.pacer = Pacer::idle();
            }
            Command::Check { per_second, payload_bytes } => {
                let steps = u64::from(self.clients.len());
                self.check = Checking { pacer: Pacer::new(now_ns, per_second, steps), payload_bytes };
            }
            Command::Leave { keep, per_second, how } => {
                let steps = u64::from(self.connects.next.saturating_sub(keep));
                self.leave = Leaving { pacer: Pacer::new(now_ns, per_second, steps), next: keep, how };
                if how != Departure::ResetAndReturn {
                    self.connects.next = keep;
                }
            }
            Command::Reconnect { policy, in_flight_max } => {
                self.reconnect = policy;
                self.retrying_max = in_flight_max;
            }
            Command::SlowResume => {
                self.slow = Slow { reads_now: true, reading: Duration::ZERO, ..self.slow };
                self.set_reading(0..self.slow.clients, true);
            }
            Command::Churn { per_second } => {
                self.churn = Churning { pacer: Pacer::new(now_ns, per_second, u64::MAX) };
            }
            Command::Slow(slow) => {
                self.set_reading(0..self.slow.clients, true);
                self.slow = Slow { reads_now: false, ..slow };
                self.set_reading(0..slow.clients, false);
                self.slow_toggle_ns = now_ns + slow.pausing.as_nanos() as u64;
            }
            Command::StopHeartbeat => self.heartbeat = Heartbeat::new(0, 0),
            Command::LastCall => self.last_call = true,
            Command::Finish => self.finished = true,
        }
    }

    /// Does what is due, a bounded number of each kind; true if more is due.
    pub(super) fn do_what_is_due(&mut self, now_ns: u64) -> bool {
        let mut busy = self.send_scheduled();
        busy |= self.send_slow(now_ns);
        busy |= self.connect_due(now_ns);
        busy |= self.heartbeat_due(now_ns);
        busy |= self.check_due(now_ns);
        busy |= self.leave_due(now_ns);
        busy |= self.retry_due(now_ns);
        self.churn_due(now_ns);
        self.say_farewell(now_ns);
        self.toggle_slow(now_ns);
        busy
    }

    fn connect_due(&mut self, now_ns: u64) -> bool {
        for _ in 0..PER_TURN {
            if self.live.connecting >= self.connects.in_flight_max {
                return false;
            }
            if self.connects.pacer.take(now_ns).is_none() {
                return false;
            }
            let client = self.connects.next;
            self.connects.next += 1;
            if self.clients.state(client) == State::Absent {
                self.connect(client, now_ns);
            }
        }
        true
    }

    fn connect(&mut self, client: u32, now_ns: u64) {
        self.clients.connecting(client, (now_ns / 100_000) as u32);
        self.live.connecting += 1;
        self.transport.connect(client);
    }

    fn heartbeat_due(&mut self, now_ns: u64) -> bool {
        for _ in 0..PER_TURN {
            let Some((client, round)) = self.heartbeat.take(now_ns) else { return false };
            // Who is meant to be connected owes a heartbeat, connected or not.
            if client >= self.connects.next || !self.holding && self.clients.state(client) != State::Open {
                continue;
            }
            self.tally.heartbeats_due += 1;
            if self.clients.state(client) != State::Open {
                continue;
            }
            self.out.clear();
            if self.clients.ping(client, round, &mut self.out) {
                self.transport.send(client, &self.out);
                self.tally.heartbeats_sent += 1;
                self.live.pinged += 1;
            }
        }
        true
    }

    fn send_scheduled(&mut self) -> bool {
        for _ in 0..PER_TURN {
            let now_ns = self.now_ns();
            let Some((number, intended_ns)) = self.traffic.pacer.take(now_ns) else { return false };
            let spec = self.traffic.spec;
            // Spread over the share, so that every ring and shard has its part.
            let readers = self.slow.clients..self.clients.len();
            let client = place(number, spec.active, readers);
            if self.config.window > 0 && self.clients.outstanding(client) >= self.config.window {
                // Due, but its client waits for a reply: sent when that comes.
                self.waiting.entry(client).or_default().push_back(intended_ns);
                self.live.held_back += 1;
            } else {
                self.send_due(client, intended_ns, intended_ns, now_ns);
            }
        }
        true
    }

    /// Sends a scheduled message that could have been sent from `free_ns` on.
    fn send_due(&mut self, client: u32, intended_ns: u64, free_ns: u64, now_ns: u64) {
        if self.send_message(client, self.traffic.spec.payload_bytes, Some(intended_ns), now_ns) {
            self.tally.scheduled_sent += 1;
            self.interval.record_send(free_ns, now_ns);
        }
    }

    /// A reply has come: the client sends what has become due since.
    fn send_waiting(&mut self, client: u32, now_ns: u64) {
        let Some(waiting) = self.waiting.get_mut(&client) else { return };
        let intended_ns = waiting.pop_front().expect("kept only while somebody waits");
        if waiting.is_empty() {
            self.waiting.remove(&client);
        }
        self.live.held_back -= 1;
        self.send_due(client, intended_ns, now_ns, self.now_ns());
    }

    fn send_slow(&mut self, now_ns: u64) -> bool {
        for _ in 0..PER_TURN {
            let Some((number, _)) = self.slow_traffic.pacer.take(now_ns) else { return false };
            let spec = self.slow_traffic.spec;
            let client = place(number, spec.active, 0..self.slow.clients);
            self.send_message(client, spec.payload_bytes, None, now_ns);
        }
        true
    }

    fn check_due(&mut self, now_ns: u64) -> bool {
        for _ in 0..PER_TURN {
            let Some((number, _)) = self.check.pacer.take(now_ns) else { return false };
            self.send_message(number as u32, self.check.payload_bytes, None, now_ns);
        }
        true
    }

    /// Sends a client's next message, and has its reply timed if it was meant for a certain time.
    /// False if the client has no session.
    fn send_message(
        &mut self,
        client: u32,
        payload_bytes: usize,
        intended_ns: Option<u64>,
        sent_ns: u64,
    ) -> bool {
        if self.clients.state(client) != State::Open {
            return false;
        }
        self.out.clear();
        let sequence = self.clients.message(client, payload_bytes, &mut self.out);
        self.tally.messages_sent += 1;
        if let Exchange::Fanout(fanout) = &self.config.exchange {
            // What is outstanding then is known to all threads together only.
            fanout.note_send(sequence, intended_ns.unwrap_or(sent_ns));
        } else {
            if let Some(intended_ns) = intended_ns {
                self.flights.start(client, sequence, Times { intended_ns, sent_ns });
            }
            *self.outstanding(client) += 1;
        }
        self.transport.send(client, &self.out);
        true
    }

    /// The counter of outstanding replies to which this sender's belong.
    const fn outstanding(&mut self, sender: u32) -> &mut u64 {
        if sender < self.slow.clients { &mut self.live.slow_outstanding } else { &mut self.live.outstanding }
    }

    fn leave_due(&mut self, now_ns: u64) -> bool {
        for _ in 0..PER_TURN {
            if self.leave.pacer.take(now_ns).is_none() {
                return false;
            }
            let client = self.leave.next;
            self.leave.next += 1;
            self.depart(client, self.leave.how, now_ns);
        }
        true
    }

    fn depart(&mut self, client: u32, how: Departure, now_ns: u64) {
        match self.clients.state(client) {
            State::Absent | State::Ending => return,
            // Not answered yet: it leaves without a word.
            State::Connecting | State::Greeting => {
                self.live.connecting -= 1;
                self.live.departing += 1;
                self.clients.leave(client, how == Departure::ResetAndReturn, None);
                self.transport.close(client, Close::Reset);
                return;
            }
            State::Open => {}
        }
        if how == Departure::Politely {
            self.say_close(client, false, now_ns);
        } else {
            self.left_open(client);
            self.live.departing += 1;
            self.clients.leave(client, how == Departure::ResetAndReturn, None);
            self.transport.close(client, Close::Reset);
        }
    }

    /// An open client sends CLOSE and waits for the peer to end the connection.
    fn say_close(&mut self, client: u32, returning: bool, now_ns: u64) {
        self.left_open(client);
        self.live.departing += 1;
        self.out.clear();
        self.clients.leave(client, returning, Some(&mut self.out));
        self.transport.send(client, &self.out);
        self.farewells.push_back((now_ns + FAREWELL_NS, client));
    }

    fn say_farewell(&mut self, now_ns: u64) {
        while let Some(&(due_ns, client)) = self.farewells.front() {
            let gone = self.clients.state(client) != State::Ending;
            if !gone && due_ns > now_ns {
                break;
            }
            if !gone {
                self.transport.close(client, Close::Fin);
            }
            self.farewells.pop_front();
        }
    }

    fn churn_due(&mut self, now_ns: u64) {
        for _ in 0..PER_TURN {
            let Some((number, _)) = self.churn.pacer.take(now_ns) else { return };
            let client = (number % u64::from(self.clients.len())) as u32;
            // One that waits for an answer stays; its turn comes again.
            if self.clients.state(client) == State::Open && self.clients.is_quiet(client) {
                self.say_close(client, true, now_ns);
            }
        }
    }

    fn retry_due(&mut self, now_ns: u64) -> bool {
        for _ in 0..PER_TURN {
            if self.live.connecting >= self.retrying_max {
                return false;
            }
            match self.retries.peek() {
                Some(&Reverse((due_ns, client))) if due_ns <= now_ns => {
                    self.retries.pop();
                    if self.clients.state(client) == State::Absent {
                        self.connect(client, now_ns);
                    }
                }
                _ => return false,
            }
        }
        true
    }

    fn toggle_slow(&mut self, now_ns: u64) {
        if self.slow.clients == 0 || self.slow.reading.is_zero() || now_ns < self.slow_toggle_ns {
            return;
        }
        self.slow.reads_now = !self.slow.reads_now;
        self.set_reading(0..self.slow.clients, self.slow.reads_now);
        let span = if self.slow.reads_now { self.slow.reading } else { self.slow.pausing };
        self.slow_toggle_ns = now_ns + span.as_nanos() as u64;
    }

    fn set_reading(&mut self, clients: std::ops::Range<u32>, reading: bool) {
        for client in clients {
            if matches!(self.clients.state(client), State::Open | State::Ending | State::Greeting) {
                self.transport.set_reading(client, reading);
            }
        }
    }

    pub(super) fn on_event(&mut self, event: Event<'_>, now_ns: u64) {
        match event {
            Event::Connected { client } => {
                if self.clients.state(client) == State::Connecting
                    && matches!(self.config.exchange, Exchange::Bare)
                {
                    self.clients.open_bare(client);
                    self.opened(client, now_ns);
                } else if self.clients.state(client) == State::Connecting {
                    self.out.clear();
                    self.clients.hello(client, &mut self.out);
                    self.transport.send(client, &self.out);
                } else {
                    // It was told to leave meanwhile.
                    self.transport.close(client, Close::Reset);
                }
            }
            Event::ConnectFailed { client, errno } => self.on_connect_failed(client, errno, now_ns),
            Event::Bytes { client, bytes } => {
                let mut heard = std::mem::take(&mut self.heard);
                self.clients.on_bytes(client, bytes, &mut heard);
                for word in heard.drain(..) {
                    self.on_heard(client, word, now_ns);
                }
                self.heard = heard;
            }
            Event::Closed { client, how } => self.on_closed(client, how, now_ns),
        }
    }

    fn on_connect_failed(&mut self, client: u32, errno: i32, now_ns: u64) {
        let over = self.clients.closed(client);
        if over.left {
            self.departed(client, over.returning, now_ns);
            return;
        }
        self.live.connecting -= 1;
        *self.tally.connect_failed.entry(errno).or_default() += 1;
        if let Reconnect::AtOnce { after_failure_ms } = self.reconnect {
            self.retries.push(Reverse((now_ns + after_failure_ms * NS_PER_MS, client)));
        }
    }

    fn departed(&mut self, client: u32, returning: bool, now_ns: u64) {
        self.live.departing -= 1;
        self.tally.left += 1;
        if returning {
            self.retries.push(Reverse((now_ns, client)));
        }
    }

    fn on_heard(&mut self, client: u32, word: Heard, now_ns: u64) {
        match word {
            Heard::Welcome(_) => self.opened(client, now_ns),
            Heard::Message { sender, sequence, verdict } => {
                self.on_message(sender, sequence, verdict, now_ns);
            }
            Heard::Receipt { sequence, receipt, settled } => {
                match receipt {
                    Receipt::Delivered => self.tally.acknowledged += 1,
                    Receipt::Offline => self.tally.offline += 1,
                    Receipt::Refused => self.tally.delivery_refused += 1,
                }
                if settled {
                    *self.outstanding(client) -= 1;
                    self.flights.land(client, sequence);
                }
            }
            Heard::Corrupted => {
                self.tally.messages_received += 1;
                self.tally.corrupted += 1;
            }
            Heard::Pong { first } => {
                self.tally.heartbeats_answered += 1;
                self.live.pinged -= 1;
                self.live.heard += u64::from(first);
            }
            Heard::UnsolicitedPong => {}
            Heard::Ping(payload, len) => {
                self.out.clear();
                let payload = &payload[..usize::from(len)];
                roost_protocol::edge::encode_frame(
                    roost_protocol::edge::FrameType::Pong,
                    payload,
                    &mut self.out,
                );
                self.transport.send(client, &self.out);
            }
            Heard::Goaway { reason, retry_after_ms, was } => {
                match was {
                    State::Open => {
                        self.left_open(client);
                        *self.ended(client).entry(reason.label()).or_default() += 1;
                    }
                    State::Greeting => {
                        self.live.connecting -= 1;
                        *self.tally.refused.entry(reason.label()).or_default() += 1;
                        self.tally.refused_without_retry_after += u64::from(retry_after_ms == 0);
                    }
                    // It was leaving anyway.
                    _ => return,
                }
                self.retry_after.insert(client, retry_after_ms);
                // The peer closes; make sure of it.
                self.farewells.push_back((now_ns + FAREWELL_NS, client));
            }
            Heard::Broken(broken) => self.on_broken(client, broken),
        }
    }

    fn opened(&mut self, client: u32, now_ns: u64) {
        self.tally.opened += 1;
        self.live.connecting -= 1;
        self.live.open += 1;
        let since_ns = u64::from(self.clients.since(client)) * 100_000;
        self.open_latency.saturating_record(now_ns.saturating_sub(since_ns) / 1000);
        if client < self.slow.clients && !self.slow.reads_now {
            self.transport.set_reading(client, false);
        }
    }

    fn on_message(&mut self, sender: u32, sequence: u32, verdict: Verdict, now_ns: u64) {
        self.tally.messages_received += 1;
        match verdict {
            Verdict::InOrder => {}
            Verdict::Reordered => self.tally.reordered += 1,
            Verdict::Repeated => {
                self.tally.duplicated_after_failover += 1;
                return;
            }
            Verdict::Duplicated if self.config.failover => {
                self.tally.duplicated_after_failover += 1;
                return;
            }
            Verdict::Duplicated => {
                self.tally.duplicated += 1;
                return;
            }
            Verdict::Misdelivered => {
                self.tally.misdelivered += 1;
                return;
            }
        }
        if let Exchange::Fanout(fanout) = &self.config.exchange {
            if let Some(intended_ns) = fanout.intended_ns(sequence) {
                self.interval.record_delivery(intended_ns, now_ns);
            }
            return;
        }
        *self.outstanding(sender) -= 1;
        if let Some(times) = self.flights.land(sender, sequence) {
            self.interval.record_reply(times.intended_ns, times.sent_ns, now_ns);
        }
        self.send_waiting(sender, now_ns);
    }

    fn on_broken(&mut self, client: u32, broken: Broken) {
        self.tally.protocol_errors += 1;
        if self.first_broken.is_none() {
            self.first_broken = Some((client, broken));
        }
        self.transport.close(client, Close::Reset);
    }

    /// Where the end of an established connection is counted.
    const fn ended(&mut self, client: u32) -> &mut BTreeMap<&'static str, u64> {
        if client < self.slow.clients {
            &mut self.tally.slow_disconnected
        } else {
            &mut self.tally.disconnected
        }
    }

    /// An open session is open no longer.
    fn left_open(&mut self, client: u32) {
        self.live.open -= 1;
        // A slow reader that is cut off has got what it deserves: it counts as held.
        self.live.slow_ended += u64::from(client < self.slow.clients);
        if self.holding {
            self.live.open_min = self.live.open_min.min(self.live.open + self.live.slow_ended);
        }
    }

    fn on_closed(&mut self, client: u32, how: Ended, now_ns: u64) {
        let cut_off = u64::from(self.clients.outstanding(client));
        *if self.last_call { &mut self.tally.lost } else { &mut self.tally.cut_off } += cut_off;
        if !matches!(self.config.exchange, Exchange::Fanout(_)) {
            *self.outstanding(client) -= cut_off;
        }
        if let Some(waiting) = self.waiting.remove(&client) {
            self.live.held_back -= waiting.len() as u64;
        }
        let over = self.clients.closed(client);
        for sequence in over.sequences.filter(|_| cut_off > 0) {
            self.flights.land(client, sequence);
        }
        self.live.pinged -= u64::from(over.pinged);
        self.tally.heartbeats_cut_off += u64::from(over.pinged && !self.last_call);
        self.live.heard -= u64::from(over.heard);
        if over.left {
            self.departed(client, over.returning, now_ns);
            return;
        }
        let retry_after_ms = self.retry_after.remove(&client);
        let mut wait_ms = u64::from(retry_after_ms.unwrap_or(0));
        match over.was {
            State::Open => {
                self.left_open(client);
                *self.ended(client).entry(label(how)).or_default() += 1;
            }
            State::Greeting => {
                self.live.connecting -= 1;
                *self.tally.refused.entry(label(how)).or_default() += 1;
                self.tally.refused_without_retry_after += 1;
                if let Reconnect::AtOnce { after_failure_ms } = self.reconnect {
                    wait_ms = after_failure_ms;
                }
            }
            // Counted when GOAWAY came.
            State::Ending => {}
            State::Absent | State::Connecting => panic!("client {client} was not connected"),
        }
        if self.reconnect != Reconnect::Never {
            self.retries.push(Reverse((now_ns + wait_ms * NS_PER_MS, client)));
        }
    }
}

/// The client whose turn the n-th message is, when `active` of `among` take turns.
const fn place(number: u64, active: u32, among: std::ops::Range<u32>) -> u32 {
    let turn = number % active as u64;
    among.start + (turn * (among.end - among.start) as u64 / active as u64) as u32
}

const NS_PER_MS: u64 = 1_000_000;

/// Why a connection ended without GOAWAY.
const fn label(how: Ended) -> &'static str {
    match how {
        // Only what the peer said makes a client close an open session.
        Ended::Local => "protocol_error",
        Ended::PeerFin => "peer_fin",
        Ended::Failed(libc::ECONNRESET | libc::EPIPE) => "peer_reset",
        Ended::Failed(libc::ETIMEDOUT) => "timed_out",
        Ended::Failed(_) => "socket_error",
    }
}
