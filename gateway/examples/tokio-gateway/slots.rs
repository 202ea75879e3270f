//! Who is behind a connection id: a slot with a generation, and the channel to the client's task.

use bytes::Bytes;
use roost_protocol::ConnectionId;
use tokio::sync::mpsc;

/// Slots of clients, by index.
#[derive(Default)]
pub(crate) struct Slots {
    entries: Vec<Entry>,
    free: Vec<u32>,
}

struct Entry {
    generation: u32,
    /// None: the slot is free.
    client: Option<mpsc::Sender<Bytes>>,
    /// The worker has accepted it, so that broadcasts are for it, too.
    open: bool,
}

impl Slots {
    /// Gives a client an id.
    pub(crate) fn insert(&mut self, client: mpsc::Sender<Bytes>) -> ConnectionId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry { generation: 0, client: None, open: false });
            u32::try_from(self.entries.len() - 1).expect("descriptors end long before")
        });
        let entry = &mut self.entries[slot as usize];
        entry.generation = entry.generation.wrapping_add(1);
        entry.client = Some(client);
        ConnectionId::new(0, slot, entry.generation)
    }

    /// Takes the id back.
    pub(crate) fn remove(&mut self, id: ConnectionId) {
        let entry = &mut self.entries[id.slot() as usize];
        entry.client = None;
        entry.open = false;
        self.free.push(id.slot());
    }

    /// The worker has accepted the client.
    pub(crate) fn open(&mut self, id: ConnectionId) {
        if let Some(entry) = self.entries.get_mut(id.slot() as usize)
            && entry.generation == id.generation()
        {
            entry.open = entry.client.is_some();
        }
    }

    /// The client's channel, unless it has gone.
    pub(crate) fn get(&self, id: ConnectionId) -> Option<&mpsc::Sender<Bytes>> {
        let entry = self.entries.get(id.slot() as usize)?;
        entry.client.as_ref().filter(|_| entry.generation == id.generation())
    }

    /// Closes the client's channel, at which its task ends.
    pub(crate) fn dismiss(&mut self, id: ConnectionId) {
        if self.get(id).is_some() {
            self.entries[id.slot() as usize].client = None;
        }
    }

    /// Does something to the channels of all open clients, and closes those for which it fails.
    pub(crate) fn for_each_open(&mut self, mut each: impl FnMut(&mpsc::Sender<Bytes>) -> bool) {
        for entry in self.entries.iter_mut().filter(|entry| entry.open) {
            entry.client = entry.client.take().filter(&mut each);
        }
    }
}
