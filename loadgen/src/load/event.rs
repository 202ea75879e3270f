//! What a load thread makes of what has happened to its clients.

use std::{cmp::Reverse, collections::BTreeMap};

use super::{FIN_WAIT_NS, Load, Reconnect};
use crate::{
    client::{Broken, Received, State, Verdict},
    exchange::{Exchange, Receipt},
    transport::{Close, Ended, Event},
};

impl Load {
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
                let mut received = std::mem::take(&mut self.received);
                self.clients.on_bytes(client, bytes, &mut received);
                for one in received.drain(..) {
                    self.on_received(client, one, now_ns);
                }
                self.received = received;
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

    fn on_received(&mut self, client: u32, received: Received, now_ns: u64) {
        match received {
            Received::Welcome(_) => self.opened(client, now_ns),
            Received::Message { sender, sequence, verdict } => {
                self.on_message(sender, sequence, verdict, now_ns);
            }
            Received::Receipt { sequence, receipt, settled } => {
                match receipt {
                    Receipt::Delivered => self.tally.acknowledged += 1,
                    Receipt::Offline => self.tally.offline += 1,
                    Receipt::Refused => self.tally.delivery_refused += 1,
                }
                if settled {
                    *self.outstanding(client) -= 1;
                    self.in_flight.remove(client, sequence);
                }
            }
            Received::Corrupted => {
                self.tally.messages_received += 1;
                self.tally.corrupted += 1;
            }
            Received::Pong { first } => {
                self.tally.heartbeats_answered += 1;
                self.live.pinged -= 1;
                self.live.answered += u64::from(first);
            }
            Received::UnsolicitedPong => {}
            Received::Ping(payload, len) => {
                self.out.clear();
                let payload = &payload[..usize::from(len)];
                roost_protocol::edge::encode_frame(
                    roost_protocol::edge::FrameType::Pong,
                    payload,
                    &mut self.out,
                );
                self.transport.send(client, &self.out);
            }
            Received::Goaway { reason, retry_after_ms, was } => {
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
                self.fin_waits.push_back((now_ns + FIN_WAIT_NS, client));
            }
            Received::Broken(broken) => self.on_broken(client, broken),
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
        if let Some(times) = self.in_flight.remove(sender, sequence) {
            self.interval.record_reply(times.intended_ns, times.sent_ns, now_ns);
        }
        if now_ns < self.traffic.spec.closed_until_ns {
            self.send_next(sender, now_ns);
        } else {
            self.send_waiting(sender, now_ns);
        }
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
    pub(super) fn left_open(&mut self, client: u32) {
        self.live.open -= 1;
        // A slow reader that is cut off has got what it deserves: it counts as held.
        self.live.slow_ended += u64::from(client < self.slow.clients);
        if self.holding {
            self.live.open_min = self.live.open_min.min(self.live.open + self.live.slow_ended);
        }
    }

    fn on_closed(&mut self, client: u32, how: Ended, now_ns: u64) {
        let cut_off = u64::from(self.clients.outstanding(client));
        *if self.counts_as_lost { &mut self.tally.lost } else { &mut self.tally.cut_off } += cut_off;
        if !matches!(self.config.exchange, Exchange::Fanout(_)) {
            *self.outstanding(client) -= cut_off;
        }
        if let Some(waiting) = self.waiting.remove(&client) {
            self.live.held_back -= waiting.len() as u64;
        }
        let over = self.clients.closed(client);
        for sequence in over.sequences.filter(|_| cut_off > 0) {
            self.in_flight.remove(client, sequence);
        }
        self.live.pinged -= u64::from(over.pinged);
        self.tally.heartbeats_cut_off += u64::from(over.pinged && !self.counts_as_lost);
        self.live.answered -= u64::from(over.answered);
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
