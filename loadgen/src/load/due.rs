//! What a load thread does because its time has come: a bounded number of each kind per turn.

use std::cmp::Reverse;

use super::{Departure, FIN_WAIT_NS, LOOKS_PER_TURN, Load, PER_TURN, SENDS_PER_TURN, in_flight::Times};
use crate::{client::State, exchange::Exchange, schedule::Beat, transport::Close};

impl Load {
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
        self.reset_overdue_fins(now_ns);
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

    pub(super) fn connect(&mut self, client: u32, now_ns: u64) {
        self.clients.connecting(client, (now_ns / 100_000) as u32);
        self.live.connecting += 1;
        self.transport.connect(client);
    }

    /// Clients that are away cost a look and no more: however many there are in a storm, those that
    /// are back get their heartbeats when these are due, and none are made up for in a flood later.
    fn heartbeat_due(&mut self, now_ns: u64) -> bool {
        let mut left = SENDS_PER_TURN;
        for _ in 0..LOOKS_PER_TURN {
            let Some(Beat { client, round, due_ns }) = self.heartbeat.take(now_ns) else { return false };
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
                self.tally.heartbeat_late_ns_max = self.tally.heartbeat_late_ns_max.max(now_ns - due_ns);
                self.live.pinged += 1;
                left -= 1;
                if left == 0 {
                    break;
                }
            }
        }
        true
    }

    fn send_scheduled(&mut self) -> bool {
        for _ in 0..SENDS_PER_TURN {
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
    pub(super) fn send_waiting(&mut self, client: u32, now_ns: u64) {
        let Some(waiting) = self.waiting.get_mut(&client) else { return };
        let intended_ns = waiting.pop_front().expect("kept only while somebody waits");
        if waiting.is_empty() {
            self.waiting.remove(&client);
        }
        self.live.held_back -= 1;
        self.send_due(client, intended_ns, now_ns, self.now_ns());
    }

    /// Closed loop: a reply has come, and its client sends the next message.
    pub(super) fn send_next(&mut self, client: u32, now_ns: u64) {
        self.tally.scheduled += 1;
        self.send_due(client, now_ns, now_ns, now_ns);
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
                self.in_flight.insert(client, sequence, Times { intended_ns, sent_ns });
            }
            *self.outstanding(client) += 1;
        }
        self.transport.send(client, &self.out);
        true
    }

    /// The counter of outstanding replies to which this sender's belong.
    pub(super) const fn outstanding(&mut self, sender: u32) -> &mut u64 {
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
            self.send_close(client, false, now_ns);
        } else {
            self.left_open(client);
            self.live.departing += 1;
            self.clients.leave(client, how == Departure::ResetAndReturn, None);
            self.transport.close(client, Close::Reset);
        }
    }

    /// An open client sends CLOSE and waits for the peer to end the connection.
    fn send_close(&mut self, client: u32, returning: bool, now_ns: u64) {
        self.left_open(client);
        self.live.departing += 1;
        self.out.clear();
        self.clients.leave(client, returning, Some(&mut self.out));
        self.transport.send(client, &self.out);
        self.fin_waits.push_back((now_ns + FIN_WAIT_NS, client));
    }

    fn reset_overdue_fins(&mut self, now_ns: u64) {
        while let Some(&(due_ns, client)) = self.fin_waits.front() {
            let gone = self.clients.state(client) != State::Ending;
            if !gone && due_ns > now_ns {
                break;
            }
            if !gone {
                self.transport.close(client, Close::Fin);
            }
            self.fin_waits.pop_front();
        }
    }

    fn churn_due(&mut self, now_ns: u64) {
        for _ in 0..PER_TURN {
            let Some((number, _)) = self.churn.pacer.take(now_ns) else { return };
            let client = (number % u64::from(self.clients.len())) as u32;
            // One that waits for an answer stays; its turn comes again.
            if self.clients.state(client) == State::Open && self.clients.is_quiet(client) {
                self.send_close(client, true, now_ns);
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

    pub(super) fn set_reading(&mut self, clients: std::ops::Range<u32>, reading: bool) {
        for client in clients {
            if matches!(self.clients.state(client), State::Open | State::Ending | State::Greeting) {
                self.transport.set_reading(client, reading);
            }
        }
    }
}

/// The client whose turn the n-th message is, when `active` of `among` take turns.
const fn place(number: u64, active: u32, among: std::ops::Range<u32>) -> u32 {
    let turn = number % active as u64;
    among.start + (turn * (among.end - among.start) as u64 / active as u64) as u32
}
