//! A link session: what a worker keeps across breaks of the TCP connection.

use std::collections::{BTreeMap, VecDeque};

use roost_protocol::{
    ConnectionId,
    edge::{self, FrameType},
    link::{Header, LinkType},
};

use crate::sim::ledger::Tenure;

/// What a worker keeps of a connection.
#[derive(Debug)]
pub(super) enum Conn {
    Open(Tenure),
    /// Rejected or closed by the worker; CLOSED is awaited.
    Ended,
}

/// A link session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) serial: u32,
    /// Sequenced frames of the gateway handled.
    pub(super) handled: u64,
    /// Frames not yet acknowledged by the gateway; the first is number `acked`.
    pub(super) retained: VecDeque<Vec<u8>>,
    pub(super) acked: u64,
    /// Sent on the present TCP connection.
    pub(super) sent: u64,
    /// Handled positions and the end of what was queued when they were reached.
    pub(super) marks: VecDeque<(u64, u64)>,
    pub(super) settled: u64,
    pub(super) conns: BTreeMap<ConnectionId, Conn>,
    pub(super) multicasts: u32,
    pub(super) broadcasts: u32,
}

impl Session {
    pub(super) fn new(serial: u32) -> Self {
        Self {
            serial,
            handled: 0,
            retained: VecDeque::new(),
            acked: 0,
            sent: 0,
            marks: VecDeque::new(),
            settled: 0,
            conns: BTreeMap::new(),
            multicasts: 0,
            broadcasts: 0,
        }
    }

    pub(super) fn end(&self) -> u64 {
        self.acked + self.retained.len() as u64
    }

    pub(super) fn push(&mut self, mut header: Header, payload: &[u8]) {
        header.payload_bytes = payload.len() as u32;
        let mut frame = header.encode().to_vec();
        frame.extend(payload);
        self.retained.push_back(frame);
    }

    pub(super) fn push_message(&mut self, id: ConnectionId, payload: &[u8]) {
        self.push(Header::new(LinkType::Data, id, 0), &message(payload));
    }

    /// The last position whose replies are all among the first `received` frames.
    pub(super) fn settled_at(&self, received: u64) -> u64 {
        self.marks
            .iter()
            .take_while(|&&(_, end)| end <= received)
            .last()
            .map_or(self.settled, |&(handled, _)| handled)
    }

    pub(super) fn on_acked(&mut self, position: u64) {
        self.retained.drain(..(position - self.acked) as usize);
        self.acked = position;
        while let Some(&(handled, end)) = self.marks.front()
            && end <= position
        {
            self.settled = handled;
            self.marks.pop_front();
        }
    }

    pub(super) fn resume(&mut self, received: u64) {
        self.sent = self.end();
        self.on_acked(received);
        self.sent = self.acked;
    }
}

/// A whole MESSAGE frame.
pub(in crate::sim) fn message(payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    edge::encode_frame(FrameType::Message, payload, &mut out);
    out
}
