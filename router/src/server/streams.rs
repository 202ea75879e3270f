//! All connections of a worker, and among them those that have not shown yet who they are.

use std::{
    collections::{BTreeMap, HashMap},
    rc::Rc,
};

use super::stream::{HandshakeCut, Stream};

/// Names a connection; never used again.
pub(super) type StreamId = u64;

/// The connections. What any of this costs does not depend on how many there are.
#[derive(Default)]
pub(super) struct Streams {
    all: HashMap<StreamId, Rc<Stream>>,
    /// Those in the handshake, oldest first, with the time at which each began.
    in_handshake: BTreeMap<StreamId, (Rc<Stream>, u64)>,
    next: StreamId,
}

impl Streams {
    /// A connection was accepted. If more than `handshakes_max` are in the handshake now, the oldest is
    /// ended: a gateway is through in no time, whoever lingers there is none.
    pub(super) fn enter(&mut self, stream: &Rc<Stream>, handshakes_max: usize, now_ms: u64) -> StreamId {
        let id = self.next;
        self.next += 1;
        self.all.insert(id, stream.clone());
        self.in_handshake.insert(id, (stream.clone(), now_ms));
        if self.in_handshake.len() > handshakes_max.max(1)
            && let Some((_, (oldest, _))) = self.in_handshake.pop_first()
        {
            oldest.cut_handshake(HandshakeCut::CrowdedOut);
        }
        id
    }

    /// Its handshake has ended, one way or the other.
    pub(super) fn handshake_ended(&mut self, id: StreamId) {
        self.in_handshake.remove(&id);
    }

    /// Ends those whose handshake has taken `timeout_ms` or longer.
    pub(super) fn cut_overdue(&mut self, now_ms: u64, timeout_ms: u64) {
        while let Some(first) = self.in_handshake.first_entry()
            && now_ms.saturating_sub(first.get().1) >= timeout_ms
        {
            first.remove().0.cut_handshake(HandshakeCut::Overdue);
        }
    }

    /// It is gone.
    pub(super) fn leave(&mut self, id: StreamId) {
        self.all.remove(&id);
        self.in_handshake.remove(&id);
    }

    /// Ends all of them.
    pub(super) fn shut_down(&self) {
        for stream in self.all.values() {
            stream.shut_down();
        }
    }
}
