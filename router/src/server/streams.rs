//! All connections of a worker, and among them those that have not shown yet who they are.

use std::{
    collections::{BTreeMap, HashMap},
    rc::Rc,
};

use super::stream::Stream;

/// Names a connection; never used again.
pub(super) type StreamId = u64;

/// The connections. What any of this costs does not depend on how many there are.
#[derive(Default)]
pub(super) struct Streams {
    all: HashMap<StreamId, Rc<Stream>>,
    /// Those in the handshake, oldest first.
    shaking: BTreeMap<StreamId, Rc<Stream>>,
    next: StreamId,
}

impl Streams {
    /// A connection was accepted. If more than `handshakes_max` are in the handshake now, the oldest is
    /// ended: a gateway is through in no time, whoever lingers there is none.
    pub(super) fn enter(&mut self, stream: &Rc<Stream>, handshakes_max: usize) -> StreamId {
        let id = self.next;
        self.next += 1;
        self.all.insert(id, stream.clone());
        self.shaking.insert(id, stream.clone());
        if self.shaking.len() > handshakes_max.max(1)
            && let Some((_, oldest)) = self.shaking.pop_first()
        {
            oldest.crowded_out.set(true);
            oldest.shut_down();
        }
        id
    }

    /// Its handshake has ended, one way or the other.
    pub(super) fn shaken(&mut self, id: StreamId) {
        self.shaking.remove(&id);
    }

    /// It is gone.
    pub(super) fn leave(&mut self, id: StreamId) {
        self.all.remove(&id);
        self.shaking.remove(&id);
    }

    /// Ends all of them.
    pub(super) fn shut_down(&self) {
        for stream in self.all.values() {
            stream.shut_down();
        }
    }
}
