//! What a worker does with the gateway's sequenced frames.

use roost_protocol::{
    Reason, edge, hash,
    link::{
        Accept, Framing, Header, LinkType, Open, Relay, Reopen,
        header::{FLAG_ALL, FLAG_DIRECT, FLAG_RESENT},
    },
};

use super::{
    Worker,
    session::{Conn, Session},
};
use crate::sim::ledger::{Down, DownHead, Ledger, decode_up, encode_ending};

impl Worker {
    pub(super) fn on_sequenced(&mut self, ledger: &mut Ledger, index: usize, header: Header, payload: &[u8]) {
        let wire = &mut self.wires[index];
        if wire.spoilt {
            return;
        }
        wire.received += 1;
        wire.received_bytes += header.frame_bytes() as u64;
        wire.unacknowledged.push_back(header.frame_bytes() as u64);
        let outstanding: u64 = wire.unacknowledged.iter().sum();
        if outstanding > u64::from(self.habits.window_bytes) && wire.unacknowledged.len() > 1 {
            ledger.violation(format!(
                "invariant credit: {outstanding} bytes unacknowledged, {} were granted",
                self.habits.window_bytes
            ));
        }
        let session = self.session.as_mut().expect("a running wire has a session");
        if wire.received <= session.handled || self.died {
            return;
        }
        if self.dies_at_reopen && header.link_type == LinkType::Reopen {
            self.died = true;
            return;
        }
        session.handled += 1;
        debug_assert_eq!(session.handled, wire.received);
        let frame_bytes_max = wire.frame_bytes_max;
        self.handle(ledger, frame_bytes_max, header, payload);
        let session = self.session.as_mut().expect("handling ends no session");
        session.marks.push_back((session.handled, session.end()));
    }

    fn handle(&mut self, ledger: &mut Ledger, frame_bytes_max: u32, header: Header, payload: &[u8]) {
        let session = self.session.as_mut().expect("the caller has one");
        let id = header.connection;
        let known = session.conns.get_mut(&id);
        match (header.link_type, known) {
            (LinkType::Open, None) => {
                let open = Open::decode(payload).expect("the gateway's OPEN decodes");
                let Some(client) = open.key.first_chunk::<4>().map(|key| u32::from_be_bytes(*key)) else {
                    ledger.violation(format!("invariant whole-frames: OPEN with key {:?}", open.key));
                    return;
                };
                if open.routing_hash != hash::routing_hash(open.key)
                    || (open.framing, open.meta) != (Framing::Edge, b"")
                {
                    ledger.violation(format!("invariant link-protocol: {open:?}"));
                }
                if self.rng.chance(self.habits.rejects) {
                    session.conns.insert(id, Conn::Ended);
                    let ending = encode_ending(client, 500, self.rng.chance(self.habits.words));
                    session.push(Header::new(LinkType::Reject, id, 0), &ending);
                } else {
                    session.conns.insert(id, Conn::Open(ledger.begin_tenure(client, true, header.aux)));
                    let routing_hash = self.rng.chance(self.habits.rekeys).then(|| self.rng.draw());
                    let accepted = ledger.on_accept(client, routing_hash.unwrap_or(open.routing_hash));
                    let mut payload = Vec::new();
                    Accept { routing_hash, ..Accept::new(accepted) }.encode_payload(&mut payload);
                    session.push(Header::new(LinkType::Accept, id, 0), &payload);
                }
            }
            (LinkType::Reopen, None) => {
                let reopen = Reopen::decode(payload).expect("the gateway's REOPEN decodes");
                let accepted = ledger.hash_of(reopen.session.0);
                if accepted != Some(reopen.routing_hash) || reopen.framing != Framing::Edge {
                    ledger.violation(format!(
                        "invariant placement: {reopen:?} of a connection that was accepted with {accepted:x?}"
                    ));
                }
                let tenure = ledger.begin_tenure(reopen.session.0 as u32, false, header.aux);
                session.conns.insert(id, Conn::Open(tenure));
            }
            (LinkType::Data, Some(Conn::Open(tenure))) => {
                let message = payload.get(edge::HEADER_BYTES..).and_then(decode_up);
                match message {
                    Some((client, number)) if client == tenure.client => {
                        let resent = header.flags & FLAG_RESENT != 0;
                        ledger.on_handled(tenure, number, resent);
                        let head = DownHead {
                            kind: Down::Echo,
                            tenure: tenure.id,
                            order: tenure.order,
                            resent,
                            client,
                            number,
                        };
                        tenure.order += 1;
                        let len = (payload.len() - edge::HEADER_BYTES).min(frame_bytes_max as usize);
                        session.push_message(id, &head.encode(len));
                    }
                    other => ledger.violation(format!(
                        "invariant right-client: client {}'s worker reads {other:?}",
                        tenure.client
                    )),
                }
            }
            (LinkType::Data, Some(Conn::Ended)) => {}
            (LinkType::Closed, Some(_)) => {
                session.conns.remove(&id);
                if header.aux_reason() == Reason::Moved && !self.mute {
                    session.push(Header::new(LinkType::Moved, id, 0), &[]);
                }
            }
            (LinkType::Relay, _) => {
                let answers = session.retained.len() < 256 && self.rng.chance(self.habits.answers);
                on_relay(ledger, session, header, payload, answers);
            }
            (other, known) => ledger.violation(format!(
                "invariant link-protocol: {other:?} for connection {id:?}, which is {known:?} here"
            )),
        }
    }
}

/// A RELAY. Its head tells by which flags it was sent, and the number of the session that it came from,
/// or, of an answer, of the one that it is for.
fn on_relay(ledger: &mut Ledger, session: &mut Session, header: Header, payload: &[u8], answers: bool) {
    let relay = Relay::decode(payload).expect("the gateway's RELAY decodes");
    let Some(head) = DownHead::decode(relay.payload) else {
        return ledger.violation("invariant whole-frames: a relayed payload is not what was sent".into());
    };
    let flags = header.flags & (FLAG_ALL | FLAG_DIRECT);
    if u32::from(flags) != head.client {
        ledger.violation(format!("invariant link-protocol: {head:?} is relayed with flags {flags:#x}"));
    }
    let is_mine = head.tenure == session.serial;
    if flags == FLAG_DIRECT && !is_mine || flags == FLAG_ALL && is_mine {
        ledger.violation(format!(
            "invariant relay-origin: session {} is passed {head:?} with flags {flags:#x}",
            session.serial
        ));
    }
    if flags != FLAG_DIRECT && answers {
        let head = DownHead { client: u32::from(FLAG_DIRECT), ..head };
        let mut body = relay.routing_hash.to_be_bytes().to_vec();
        body.extend(head.encode(relay.payload.len()));
        session.push(Header::new(LinkType::Relay, header.connection, 0).flags(FLAG_DIRECT), &body);
    }
}
