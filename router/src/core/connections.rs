//! The connections of one session: which ids are live, and the session reference of each.

use roost_protocol::{ConnectionId, SessionRef};

const PAGE_SLOTS: usize = 512;
const WORD_SLOTS: usize = 64;

/// A table indexed by slot, in pages mapped as slots come into use: slots of a gateway are dense,
/// so a connection costs some 12 bytes and a lookup two loads.
#[derive(Debug)]
pub(crate) struct Connections {
    /// The gateway shard of all these connections.
    shard: u8,
    pages: Vec<Option<Box<Page>>>,
    count: usize,
}

#[derive(Debug)]
struct Page {
    generations: [u32; PAGE_SLOTS],
    sessions: [SessionRef; PAGE_SLOTS],
    /// The routing hash of each connection's key, where a directory is kept.
    keys: Option<Box<[u64; PAGE_SLOTS]>>,
    live: [u64; PAGE_SLOTS / WORD_SLOTS],
    /// Of the live ones: accepted.
    accepted: [u64; PAGE_SLOTS / WORD_SLOTS],
    /// Of the accepted ones: not being closed by the handler.
    open: [u64; PAGE_SLOTS / WORD_SLOTS],
    count: u32,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The handler has not answered yet.
    Pending,
    /// Messages flow.
    Open,
    /// It has been closed from here, and the gateway has not said so yet.
    Shut,
}

impl Connections {
    /// A table without connections, for ids of this shard.
    pub(crate) fn new(shard: u8) -> Self {
        Self { shard, pages: Vec::new(), count: 0 }
    }

    /// Whether the table is for ids like this one.
    #[inline]
    pub(crate) fn is_for(&self, id: ConnectionId) -> bool {
        id.shard() == self.shard
    }

    /// Live connections.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Adds a connection that is pending. Returns the one it replaces in its slot, if any, and
    /// that one's session reference. Panics if the id is of another shard.
    pub(crate) fn insert(&mut self, id: ConnectionId) -> Option<(ConnectionId, Option<SessionRef>)> {
        assert!(self.is_for(id));
        let (page_index, index) = split(id);
        if self.pages.len() <= page_index {
            self.pages.resize_with(page_index + 1, || None);
        }
        let page = self.pages[page_index].get_or_insert_with(|| Box::new(Page::new()));
        let replaced =
            page.live_id(self.shard, page_index, index).map(|replaced| (replaced, page.session(index)));
        if replaced.is_none() {
            page.count += 1;
            self.count += 1;
        }
        page.generations[index] = id.generation();
        page.sessions[index] = SessionRef::default();
        set(&mut page.live, index, true);
        set(&mut page.accepted, index, false);
        set(&mut page.open, index, false);
        replaced
    }

    /// The connection that [`Self::insert`] would replace, if any.
    pub(crate) fn replaced_by(&self, id: ConnectionId) -> Option<ConnectionId> {
        let (page_index, index) = split(id);
        self.pages.get(page_index)?.as_ref()?.live_id(self.shard, page_index, index)
    }

    /// Removes a connection; none if it is not there. Gives its session reference, if it had one.
    pub(crate) fn remove(&mut self, id: ConnectionId) -> Option<Option<SessionRef>> {
        let (page_index, index) = split(id);
        let page = self.page_mut(id)?;
        let session = page.session(index);
        set(&mut page.live, index, false);
        page.count -= 1;
        if page.count == 0 {
            self.pages[page_index] = None;
        }
        self.count -= 1;
        Some(session)
    }

    /// Opens a pending connection. False if it is not there or not pending.
    pub(crate) fn open(&mut self, id: ConnectionId, session: SessionRef) -> bool {
        let (_, index) = split(id);
        let Some(page) = self.page_mut(id) else { return false };
        if get(&page.accepted, index) {
            return false;
        }
        set(&mut page.accepted, index, true);
        set(&mut page.open, index, true);
        page.sessions[index] = session;
        true
    }

    /// The connection stays until the gateway says that it is gone, but is not open any more.
    /// False if it was not open.
    pub(crate) fn shut(&mut self, id: ConnectionId) -> bool {
        let (_, index) = split(id);
        let Some(page) = self.page_mut(id) else { return false };
        let was_open = get(&page.open, index);
        set(&mut page.open, index, false);
        was_open
    }

    /// A pending connection stays until the gateway says that it is gone, and does not open. False if it
    /// is not there or not pending.
    pub(crate) fn refuse(&mut self, id: ConnectionId, session: SessionRef) -> bool {
        self.open(id, session) && self.shut(id)
    }

    /// How far a connection is; none if it is not there.
    #[inline]
    pub(crate) fn phase(&self, id: ConnectionId) -> Option<Phase> {
        let (_, index) = split(id);
        let page = self.page(id)?;
        Some(match (get(&page.open, index), get(&page.accepted, index)) {
            (true, _) => Phase::Open,
            (false, true) => Phase::Shut,
            (false, false) => Phase::Pending,
        })
    }

    /// The session reference of a connection that was accepted.
    pub(crate) fn session(&self, id: ConnectionId) -> Option<SessionRef> {
        let (_, index) = split(id);
        self.page(id)?.session(index)
    }

    /// Notes the routing hash of a live connection's key; costs 8 bytes a slot.
    pub(crate) fn set_key(&mut self, id: ConnectionId, routing_hash: u64) {
        let (_, index) = split(id);
        if let Some(page) = self.page_mut(id) {
            page.keys.get_or_insert_with(|| Box::new([0; PAGE_SLOTS]))[index] = routing_hash;
        }
    }

    /// The routing hash of a live connection's key, where these are noted.
    pub(crate) fn key(&self, id: ConnectionId) -> Option<u64> {
        let (_, index) = split(id);
        self.page(id)?.keys.as_ref().map(|keys| keys[index])
    }

    /// Any one connection; none when there is none left.
    pub(crate) fn any(&mut self) -> Option<ConnectionId> {
        while let Some(last) = self.pages.last() {
            let page_index = self.pages.len() - 1;
            let found = last.as_ref().and_then(|page| {
                let word = page.live.iter().position(|&word| word != 0)?;
                page.live_id(
                    self.shard,
                    page_index,
                    word * WORD_SLOTS + page.live[word].trailing_zeros() as usize,
                )
            });
            match found {
                Some(id) => return Some(id),
                None => {
                    self.pages.pop();
                }
            }
        }
        None
    }

    #[inline]
    fn page(&self, id: ConnectionId) -> Option<&Page> {
        if !self.is_for(id) {
            return None;
        }
        let (page_index, index) = split(id);
        let page = self.pages.get(page_index)?.as_deref()?;
        let same = page.generations[index] == id.generation() && get(&page.live, index);
        same.then_some(page)
    }

    fn page_mut(&mut self, id: ConnectionId) -> Option<&mut Page> {
        if !self.is_for(id) {
            return None;
        }
        let (page_index, index) = split(id);
        let page = self.pages.get_mut(page_index)?.as_deref_mut()?;
        let same = page.generations[index] == id.generation() && get(&page.live, index);
        same.then_some(page)
    }
}

impl Page {
    fn new() -> Self {
        Self {
            generations: [0; PAGE_SLOTS],
            sessions: [SessionRef(0); PAGE_SLOTS],
            keys: None,
            live: [0; PAGE_SLOTS / WORD_SLOTS],
            accepted: [0; PAGE_SLOTS / WORD_SLOTS],
            open: [0; PAGE_SLOTS / WORD_SLOTS],
            count: 0,
        }
    }

    fn session(&self, index: usize) -> Option<SessionRef> {
        get(&self.accepted, index).then(|| self.sessions[index])
    }

    fn live_id(&self, shard: u8, page_index: usize, index: usize) -> Option<ConnectionId> {
        let slot = (page_index * PAGE_SLOTS + index) as u32;
        get(&self.live, index).then(|| ConnectionId::new(shard, slot, self.generations[index]))
    }
}

#[inline]
fn split(id: ConnectionId) -> (usize, usize) {
    let slot = id.slot() as usize;
    (slot / PAGE_SLOTS, slot % PAGE_SLOTS)
}

#[inline]
fn get(words: &[u64], index: usize) -> bool {
    words[index / WORD_SLOTS] >> (index % WORD_SLOTS) & 1 == 1
}

#[inline]
fn set(words: &mut [u64], index: usize, value: bool) {
    let bit = 1 << (index % WORD_SLOTS);
    if value {
        words[index / WORD_SLOTS] |= bit;
    } else {
        words[index / WORD_SLOTS] &= !bit;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert,
        Remove,
        Open,
        Refuse,
        Shut,
        RemoveAny,
    }

    fn step() -> impl Strategy<Value = (Step, ConnectionId)> {
        let step = prop_oneof![
            4 => Just(Step::Insert),
            3 => Just(Step::Remove),
            3 => Just(Step::Open),
            1 => Just(Step::Refuse),
            2 => Just(Step::Shut),
            1 => Just(Step::RemoveAny),
        ];
        let slot = prop_oneof![0..4u32, 510..514u32, Just((1 << 24) - 1)];
        (step, slot, 0..3u32)
            .prop_map(|(step, slot, generation)| (step, ConnectionId::new(7, slot, generation)))
    }

    proptest! {
        #[test]
        fn the_table_is_a_map_by_slot(steps in prop::collection::vec(step(), 0..200)) {
            let mut table = Connections::new(7);
            let mut model: HashMap<u32, (ConnectionId, Phase, Option<SessionRef>)> = HashMap::new();
            for (number, (step, id)) in (1u64..).zip(steps) {
                let live = model.get_mut(&id.slot()).filter(|entry| entry.0 == id);
                match step {
                    Step::Insert => {
                        let replaced = model.insert(id.slot(), (id, Phase::Pending, None));
                        prop_assert_eq!(table.insert(id), replaced.map(|(id, _, session)| (id, session)));
                    }
                    Step::Remove => {
                        let expected = live.map(|entry| entry.2);
                        prop_assert_eq!(table.remove(id), expected);
                        if expected.is_some() {
                            model.remove(&id.slot());
                        }
                    }
                    Step::Open => {
                        let pending = live.filter(|entry| entry.1 == Phase::Pending);
                        prop_assert_eq!(table.open(id, SessionRef(number)), pending.is_some());
                        if let Some(entry) = pending {
                            *entry = (id, Phase::Open, Some(SessionRef(number)));
                        }
                    }
                    Step::Refuse => {
                        let pending = live.filter(|entry| entry.1 == Phase::Pending);
                        prop_assert_eq!(table.refuse(id, SessionRef(number)), pending.is_some());
                        if let Some(entry) = pending {
                            *entry = (id, Phase::Shut, Some(SessionRef(number)));
                        }
                    }
                    Step::Shut => {
                        let open = live.filter(|entry| entry.1 == Phase::Open);
                        prop_assert_eq!(table.shut(id), open.is_some());
                        if let Some(entry) = open {
                            entry.1 = Phase::Shut;
                        }
                    }
                    Step::RemoveAny => match table.any() {
                        None => prop_assert!(model.is_empty()),
                        Some(id) => {
                            let session = table.remove(id).expect("it is live");
                            let expected = model.remove(&id.slot()).map(|entry| (entry.0, entry.2));
                            prop_assert_eq!(expected, Some((id, session)));
                        }
                    },
                }
                prop_assert_eq!(table.count(), model.len());
                let entry = model.get(&id.slot()).filter(|entry| entry.0 == id);
                prop_assert_eq!(table.phase(id), entry.map(|entry| entry.1));
                prop_assert_eq!(table.session(id), entry.and_then(|entry| entry.2));
                let foreign = ConnectionId::new(8, id.slot(), id.generation());
                prop_assert!(!table.is_for(foreign) && table.phase(foreign).is_none());
            }
            while let Some(id) = table.any() {
                prop_assert!(table.remove(id).is_some());
                prop_assert!(model.remove(&id.slot()).is_some());
            }
            prop_assert!(model.is_empty() && table.count() == 0);
        }
    }

    #[test]
    fn a_connection_costs_little() {
        assert!(size_of::<Page>() <= PAGE_SLOTS * 12 + 256, "{} bytes", size_of::<Page>());
    }
}
