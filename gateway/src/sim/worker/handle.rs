//! What a worker does with the gateway's sequenced frames.

use roost_protocol::{
    Reason, SessionRef, edge,
    link::{Header, LinkType, Open, Relay, Reopen, header::FLAG_RESENT},
};

use super::{Worker, session::Conn};
use crate::sim::ledger::{Down, DownHead, Ledger, decode_up};

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
                if self.rng.chance(self.habits.rejects) {
                    session.conns.insert(id, Conn::Ended);
                    session.push(Header::new(LinkType::Reject, id, 4), &500u32.to_be_bytes());
                } else {
                    session.conns.insert(id, Conn::Open(ledger.begin_tenure(client, true, header.aux)));
                    session.push(Header::new(LinkType::Accept, id, 8), &u64::from(client).to_be_bytes());
                }
            }
            (LinkType::Reopen, None) => {
                let reopen = Reopen::decode(payload).expect("the gateway's REOPEN decodes");
                let SessionRef(client) = reopen.session;
                let tenure = ledger.begin_tenure(client as u32, false, header.aux);
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
                let relay = Relay::decode(payload).expect("the gateway's RELAY decodes");
                if DownHead::decode(relay.payload).is_none() {
                    ledger.violation("invariant whole-frames: a relayed payload is not what was sent".into());
                }
            }
            (other, known) => ledger.violation(format!(
                "invariant link-protocol: {other:?} for connection {id:?}, which is {known:?} here"
            )),
        }
    }
}
