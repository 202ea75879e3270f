//! What a client reads, checked against the promise.

use roost_protocol::{
    Reason,
    edge::{self, FrameType, Goaway, Welcome},
};

use super::{Client, Ended, Profile, sealed::Sealed};
use crate::sim::{
    kernel::World,
    ledger::{DownHead, Ledger, words_for},
    net::{ConnId, PeerRead},
};

impl Client {
    pub(super) fn read(&mut self, world: &mut World, ledger: &mut Ledger, conn: ConnId) {
        let slow = self.profile == Profile::SlowReader;
        let mut budget = if slow { self.rng.range(1, 64) as usize } else { 256 * 1024 };
        while budget > 0 {
            let max = if slow { budget } else { self.rng.log_range(1, 65_536) as usize };
            match world.net.peer_read(conn, max) {
                PeerRead::Data(bytes) => {
                    budget = budget.saturating_sub(bytes.len());
                    self.on_bytes(ledger, &bytes);
                }
                PeerRead::Nothing => return,
                PeerRead::Eof => return self.on_eof(world, ledger, conn),
                PeerRead::Reset => {
                    world.net.peer_close(conn);
                    self.ended = Some(self.ended_by(world, conn, Ended::Reset));
                    return;
                }
            }
        }
    }

    fn on_eof(&mut self, world: &mut World, ledger: &mut Ledger, conn: ConnId) {
        world.net.peer_close(conn);
        self.ended = Some(self.ended_by(world, conn, Ended::Eof));
        let half = self.sealed.as_ref().is_some_and(Sealed::is_pending);
        if (half || self.decoder.pending_bytes() > 0)
            && self.profile.is_well_behaved()
            && self.goaway.is_some()
        {
            ledger.violation(format!("invariant whole-frames: client {} is left with half a frame", self.id));
        }
    }

    /// How it ended, if the connection did by `end`.
    fn ended_by(&self, world: &World, conn: ConnId, end: Ended) -> Ended {
        match self.goaway {
            Some(reason) => Ended::Goaway(reason),
            None if world.was_refused(conn) => Ended::Refused,
            None => end,
        }
    }

    fn on_bytes(&mut self, ledger: &mut Ledger, bytes: &[u8]) {
        let opened = match &mut self.sealed {
            Some(sealed) => match sealed.open(bytes) {
                Ok(opened) => opened,
                Err(reason) => {
                    let id = self.id;
                    return ledger.violation(format!("invariant whole-frames: client {id}: {reason} record"));
                }
            },
            None => bytes.to_vec(),
        };
        let mut frames = Vec::new();
        let fed = self.decoder.feed(&opened, |frame_type, frame| frames.push((frame_type, frame.to_vec())));
        for (frame_type, frame) in frames {
            self.on_frame(ledger, frame_type, &frame[edge::HEADER_BYTES..]);
        }
        if let Err(error) = fed {
            ledger.violation(format!("invariant whole-frames: client {} reads {error}", self.id));
        }
    }

    fn on_frame(&mut self, ledger: &mut Ledger, frame_type: FrameType, payload: &[u8]) {
        let id = self.id;
        if let Some(reason) = self.goaway {
            let what = format!("invariant goaway-last: client {id} hears {frame_type:?} after {reason}");
            return ledger.violation(what);
        }
        match frame_type {
            FrameType::Welcome => {
                let welcome = Welcome::decode(payload).expect("the gateway's WELCOME decodes");
                if self.welcomed {
                    ledger.violation(format!("invariant exactly-once: client {id} is welcomed twice"));
                }
                if welcome.session.0 as u32 != id || ledger.hash_of(welcome.session.0).is_none() {
                    ledger.violation(format!("invariant right-client: client {id} gets {welcome:?}"));
                }
                self.welcomed = true;
            }
            FrameType::Message => match DownHead::decode(payload) {
                _ if !self.welcomed => {
                    ledger.violation(format!("invariant in-order: client {id}: a message before WELCOME"));
                }
                Some(head) => ledger.on_delivered(id, &head),
                None => {
                    ledger.violation(format!(
                        "invariant whole-frames: client {id} reads what no worker wrote: {:02x?}",
                        &payload[..payload.len().min(24)]
                    ));
                }
            },
            FrameType::Pong if payload.is_empty() => {}
            FrameType::Pong => {
                if self.pings.is_empty() || self.pings.remove(0) != payload {
                    ledger.violation(format!("invariant in-order: client {id}: an answer to no PING"));
                }
            }
            FrameType::Goaway => {
                let goaway = Goaway::decode(payload).expect("the gateway's GOAWAY decodes");
                self.goaway = Some(goaway.reason);
                let (code, text) = words_for(id);
                let wordless = (goaway.code, goaway.text) == (0, "");
                if !wordless && (goaway.code, goaway.text) != (code, text.as_str()) {
                    ledger.violation(format!("invariant right-client: client {id} hears {goaway:?}"));
                }
                // The others also send messages that are not counted.
                let counted = !matches!(self.profile, Profile::Breaker | Profile::Noise);
                if goaway.reason == Reason::RateLimited && counted {
                    ledger.on_rate_limited(id, self.sent, self.pinged);
                }
                if let Some(expected) = self.expected
                    && self.profile == Profile::Breaker
                    && matches!(
                        goaway.reason,
                        Reason::UnknownType
                            | Reason::Oversize
                            | Reason::ReservedBits
                            | Reason::Malformed
                            | Reason::Version
                            | Reason::UnexpectedFrame
                    )
                    && goaway.reason != expected
                {
                    ledger.violation(format!(
                        "invariant close-reason: client {id} hears {}, not {expected}",
                        goaway.reason
                    ));
                }
            }
            other => {
                ledger.violation(format!("invariant edge-protocol: client {id} hears {other:?}"));
            }
        }
    }
}
