//! What a worker says of its own accord, and when what it says goes out.

use roost_protocol::{
    ConnectionId,
    link::{self, Header, LinkType},
};

use super::{
    NONE, Worker,
    session::{Conn, message},
    wire::Wire,
};
use crate::sim::{
    kernel::World,
    ledger::{Down, DownHead, encode_ending},
};

impl Worker {
    /// Things workers do of their own accord.
    pub(super) fn volunteer(&mut self) {
        let Some(frame_bytes_max) = self.running().map(|wire| wire.frame_bytes_max) else { return };
        let session = self.session.as_mut().expect("a running wire has a session");
        // A worker that outruns its gateway for long would only fill its own memory.
        if session.retained.len() > 256 || self.habits.volunteers == 0 {
            return;
        }
        self.habits.volunteers -= 1;
        let ids: Vec<ConnectionId> = session.conns.keys().copied().collect();
        let len = self.rng.log_range(1, u64::from(frame_bytes_max)) as usize;
        if !ids.is_empty() && self.rng.chance(self.habits.pushes) {
            let id = self.rng.pick(&ids);
            if let Some(Conn::Open(tenure)) = session.conns.get_mut(&id) {
                let head = DownHead {
                    kind: Down::Push,
                    tenure: tenure.id,
                    order: tenure.order,
                    resent: false,
                    client: tenure.client,
                    number: 0,
                };
                tenure.order += 1;
                // Whether it is text is all the same to clients of the edge protocol.
                let flags = if self.rng.chance(self.habits.words) { link::header::FLAG_TEXT } else { 0 };
                let header = Header::new(LinkType::Data, id, 0).flags(flags);
                session.push(header, &message(&head.encode(len)));
            }
        }
        if !ids.is_empty() && self.rng.chance(self.habits.closes) {
            let id = self.rng.pick(&ids);
            if let Some(Conn::Open(tenure)) = session.conns.insert(id, Conn::Ended) {
                let words = self.rng.chance(self.habits.words);
                let ending = if words { encode_ending(tenure.client, 0, true) } else { Vec::new() };
                session.push(Header::new(LinkType::Close, id, 0), &ending);
            }
        }
        if self.rng.chance(self.habits.fans_out) {
            let broadcast = self.rng.chance(500);
            let counter = if broadcast { &mut session.broadcasts } else { &mut session.multicasts };
            let kind = if broadcast { Down::Broadcast } else { Down::Multicast };
            let head = DownHead {
                kind,
                tenure: session.serial,
                order: *counter,
                resent: false,
                client: 0,
                number: 0,
            };
            *counter += 1;
            let payload = head.encode(len);
            if broadcast {
                let flags = if self.rng.chance(500) { link::header::FLAG_ALL } else { 0 };
                let mut header = Header::new(LinkType::Broadcast, NONE, 0);
                header.flags = flags;
                session.push(header, &message(&payload));
            } else {
                let chosen: Vec<ConnectionId> =
                    ids.iter().copied().filter(|_| self.rng.chance(600)).collect();
                let mut body = (chosen.len() as u32).to_be_bytes().to_vec();
                body.extend(chosen.iter().flat_map(|id| id.to_bits().to_be_bytes()));
                body.extend(message(&payload));
                session.push(Header::new(LinkType::Multicast, NONE, 0), &body);
            }
        }
        if self.rng.chance(self.habits.relays) {
            let flags = if self.rng.chance(self.habits.relays_all) { link::header::FLAG_ALL } else { 0 };
            let head = DownHead {
                kind: Down::Push,
                tenure: session.serial,
                order: 0,
                resent: false,
                client: u32::from(flags),
                number: 0,
            };
            let mut body = self.rng.draw().to_be_bytes().to_vec();
            body.extend(head.encode(len));
            session.push(Header::new(LinkType::Relay, NONE, 0).flags(flags), &body);
        }
        if self.rng.chance(self.habits.pings) {
            let ping = Header::new(LinkType::Ping, NONE, 0).encode();
            let wire = self.wires.iter_mut().find(|wire| wire.is_running()).expect("just seen");
            wire.tx.extend(ping);
        }
    }

    fn running(&self) -> Option<&Wire> {
        self.wires.iter().find(|wire| wire.is_running())
    }

    /// Moves to the wire what may be sent: frames within the window, then an acknowledgement.
    pub(super) fn fill(&mut self, index: usize, calm: bool) {
        let wire = &mut self.wires[index];
        let Some(session) = self.session.as_mut().filter(|_| wire.is_running()) else { return };
        let mut in_flight: u64 = session
            .retained
            .iter()
            .take((session.sent - session.acked) as usize)
            .map(|f| f.len() as u64)
            .sum();
        while let Some(frame) = session.retained.get((session.sent - session.acked) as usize) {
            let len = frame.len() as u64;
            if in_flight > 0 && in_flight + len > wire.window_out || wire.tx.len() > 64 * 1024 {
                break;
            }
            wire.tx.extend(frame);
            in_flight += len;
            session.sent += 1;
        }
        if !calm && !self.rng.chance(self.habits.acknowledges) {
            return;
        }
        let allowed = session
            .marks
            .iter()
            .take_while(|&&(handled, end)| end <= session.sent && handled <= wire.received)
            .last()
            // What is settled may be more than has come again on this connection.
            .map_or(session.settled.min(wire.received), |&(handled, _)| handled);
        if allowed > wire.acknowledged {
            for _ in wire.acknowledged..allowed {
                wire.unacknowledged.pop_front();
            }
            wire.acknowledged = allowed;
            wire.tx.extend(Header::new(LinkType::Ack, NONE, 8).encode());
            wire.tx.extend(allowed.to_be_bytes());
        }
    }

    pub(super) fn write(&mut self, world: &mut World, index: usize) {
        let wire = &mut self.wires[index];
        let bytes = wire.tx.make_contiguous();
        if let Some(written) = world.net.peer_write(wire.conn, bytes) {
            wire.tx.drain(..written);
        }
    }
}
