//! All link sessions of a worker.

use std::collections::HashMap;

use roost_protocol::{InstanceId, SessionRef};

use super::{
    connections::{Connections, Phase},
    directory::{Clients, Directory},
    topics::Topics,
};
use crate::{
    id::{Client, LinkId},
    session::{Barrier, Session},
};

/// What a session belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Peer {
    pub(crate) gateway: InstanceId,
    pub(crate) shard: u16,
}

/// A session and its connections.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) id: LinkId,
    pub(crate) peer: Peer,
    pub(crate) session: Session,
    pub(crate) connections: Connections,
    /// Counts TCP connections, so that what belongs to an earlier one is known as late.
    pub(crate) epoch: u32,
    /// Other sessions whose queues must become shorter before more is handled here.
    waits_for: Vec<LinkId>,
    /// What the frames handled since the last mark queued on other sessions.
    barriers: Vec<Barrier>,
    /// Stands in the list of links to write to.
    dirty: bool,
    /// The last call that queued something here beyond what the protocol asks for.
    pub(super) last_call: u64,
}

/// The sessions, by id and by peer.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    links: Vec<Option<Link>>,
    by_peer: HashMap<Peer, LinkId>,
    next_serial: u32,
    dirty: Vec<LinkId>,
    /// The open connections of each key, where somebody asks for them.
    directory: Option<Directory>,
    /// Who has joined what.
    pub(super) topics: Topics,
    /// Calls so far.
    calls: u64,
    /// Sessions whose queues must become shorter before more pushes run.
    pushes_wait_for: Vec<LinkId>,
}

impl Registry {
    /// A registry without links. `by_key`: whether it finds the clients of a key; `topic_bytes_max`: what
    /// topics may take.
    pub(crate) fn new(by_key: bool, topic_bytes_max: usize) -> Self {
        Self {
            directory: by_key.then(Directory::default),
            topics: Topics::new(topic_bytes_max),
            ..Self::default()
        }
    }

    /// A call begins; gives its number, from 1.
    #[inline]
    pub(crate) fn begin_call(&mut self) -> u64 {
        self.calls += 1;
        self.calls
    }

    /// A live connection belongs to the key with this routing hash. The key leads to it once it is open.
    pub(crate) fn set_key(&mut self, client: Client, routing_hash: u64) {
        if self.directory.is_some()
            && let Some(link) = self.get_mut(client.link)
        {
            link.connections.set_key(client.connection, routing_hash);
        }
    }

    /// A connection is open: its key leads to it.
    pub(crate) fn opened(&mut self, client: Client) {
        let key = self.key(client);
        if let (Some(directory), Some(key)) = (&mut self.directory, key) {
            directory.insert(key, client);
        }
    }

    /// The routing hash of a live connection's key, where a directory is kept.
    pub(crate) fn key(&self, client: Client) -> Option<u64> {
        self.get(client.link)?.connections.key(client.connection)
    }

    /// How many open connections a key has, and the oldest of them; none where no directory is kept.
    pub(crate) fn count_of(&self, routing_hash: u64) -> (usize, Option<Client>) {
        self.directory.as_ref().map_or((0, None), |directory| directory.count(routing_hash))
    }

    /// A connection cannot be sent to any more: neither its key nor a topic leads to it.
    pub(crate) fn leave_all(&mut self, client: Client) {
        if self.directory.is_some()
            && let Some(key) = self.key(client)
            && let Some(directory) = &mut self.directory
        {
            directory.remove(key, client);
        }
        // Memberships go by the place of the link: it must be this link's.
        if !self.topics.is_empty() && self.get(client.link).is_some() {
            self.topics.leave_all(client.link.index, client.connection);
        }
    }

    /// Takes a connection out; none if it is not there. Gives its session reference, if it had one.
    pub(crate) fn remove_connection(&mut self, client: Client) -> Option<Option<SessionRef>> {
        self.leave_all(client);
        self.get_mut(client.link)?.connections.remove(client.connection)
    }

    /// The open connections of a key, oldest first; none where no directory is kept.
    pub(crate) fn clients_of(&self, routing_hash: u64) -> Clients {
        self.directory.as_ref().map_or_else(Clients::default, |directory| directory.get(routing_hash))
    }

    /// The link in this place.
    pub(crate) fn id_at(&self, index: u32) -> Option<LinkId> {
        Some(self.links.get(index as usize)?.as_ref()?.id)
    }

    /// Whether messages flow over this connection.
    #[inline]
    pub(crate) fn is_open(&self, client: Client) -> bool {
        self.get(client.link)
            .is_some_and(|link| link.connections.phase(client.connection) == Some(Phase::Open))
    }

    pub(crate) fn len(&self) -> usize {
        self.by_peer.len()
    }

    pub(crate) fn insert(&mut self, peer: Peer, now_ms: u64) -> LinkId {
        let index = self.links.iter().position(Option::is_none).unwrap_or(self.links.len());
        let id = LinkId { index: index as u32, serial: self.next_serial };
        self.next_serial = self.next_serial.checked_add(1).expect("fewer than 2^32 sessions in a lifetime");
        if index == self.links.len() {
            self.links.push(None);
        }
        self.links[index] = Some(Link {
            id,
            peer,
            session: Session::new(now_ms),
            connections: Connections::new(peer.shard as u8),
            epoch: 0,
            waits_for: Vec::new(),
            barriers: Vec::new(),
            dirty: false,
            last_call: 0,
        });
        assert!(self.by_peer.insert(peer, id).is_none(), "one session per peer");
        id
    }

    pub(crate) fn remove(&mut self, id: LinkId) {
        let link = self.get(id).expect("the link to remove exists");
        let peer = link.peer;
        self.links[id.index as usize] = None;
        self.by_peer.remove(&peer);
    }

    pub(crate) fn find(&self, peer: Peer) -> Option<LinkId> {
        self.by_peer.get(&peer).copied()
    }

    #[inline]
    pub(crate) fn get(&self, id: LinkId) -> Option<&Link> {
        self.links.get(id.index as usize)?.as_ref().filter(|link| link.id.serial == id.serial)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.links.get_mut(id.index as usize)?.as_mut().filter(|link| link.id.serial == id.serial)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Link> {
        self.links.iter().flatten()
    }

    pub(crate) fn ids(&self) -> Vec<LinkId> {
        self.iter().map(|link| link.id).collect()
    }

    /// The link has something to send.
    #[inline]
    pub(crate) fn mark_dirty(&mut self, id: LinkId) {
        if let Some(link) = self.get_mut(id)
            && !link.dirty
        {
            link.dirty = true;
            self.dirty.push(id);
        }
    }

    /// Takes the links that have something to send.
    pub(crate) fn take_dirty(&mut self) -> Vec<LinkId> {
        let dirty = std::mem::take(&mut self.dirty);
        for &id in &dirty {
            if let Some(link) = self.get_mut(id) {
                link.dirty = false;
            }
        }
        dirty
    }

    /// Whether no more of `id`'s frames may be handled for now.
    pub(crate) fn is_blocked(&mut self, id: LinkId, pending_bytes_max: usize) -> bool {
        let Some(link) = self.get(id) else { return false };
        if link.session.pending_bytes() > pending_bytes_max {
            return true;
        }
        if link.waits_for.is_empty() {
            return false;
        }
        let mut waits_for = std::mem::take(&mut self.get_mut(id).expect("it was just there").waits_for);
        waits_for.retain(|&other| self.is_over(other, pending_bytes_max));
        let blocked = !waits_for.is_empty();
        self.get_mut(id).expect("it was just there").waits_for = waits_for;
        blocked
    }

    /// Whether a gateway has more to take than it should, and takes it.
    fn is_over(&self, id: LinkId, pending_bytes_max: usize) -> bool {
        self.get(id)
            .is_some_and(|link| link.session.is_flowing() && link.session.pending_bytes() > pending_bytes_max)
    }

    /// A push caused something on `to`, which is not to be overrun.
    pub(crate) fn pushes_wait_for(&mut self, to: LinkId) {
        if !self.pushes_wait_for.contains(&to) {
            self.pushes_wait_for.push(to);
        }
    }

    /// Whether no more pushes may run for now.
    pub(crate) fn pushes_wait(&mut self, pending_bytes_max: usize) -> bool {
        if self.pushes_wait_for.is_empty() {
            return false;
        }
        let mut waits_for = std::mem::take(&mut self.pushes_wait_for);
        waits_for.retain(|&other| self.is_over(other, pending_bytes_max));
        self.pushes_wait_for = waits_for;
        self.has_waiting_pushes()
    }

    /// Whether pushes had to wait when that was asked last.
    pub(crate) fn has_waiting_pushes(&self) -> bool {
        !self.pushes_wait_for.is_empty()
    }

    /// Frames of `current` caused something on `other`, which is not to be overrun.
    pub(crate) fn wait_for(&mut self, current: LinkId, other: LinkId) {
        if let Some(link) = self.get_mut(current)
            && !link.waits_for.contains(&other)
        {
            link.waits_for.push(other);
        }
    }

    /// Frames of `current` caused a frame on `to`: they may be acknowledged only after the gateway
    /// there has acknowledged that one.
    #[inline]
    pub(crate) fn note_sent(&mut self, current: Option<LinkId>, to: LinkId) {
        self.mark_dirty(to);
        let Some(current) = current.filter(|&current| current != to) else { return };
        let Some(position) = self.get(to).map(|link| link.session.queued_position()) else { return };
        let Some(link) = self.get_mut(current) else { return };
        match link.barriers.iter_mut().find(|barrier| barrier.link == to) {
            Some(barrier) => barrier.position = position,
            None => link.barriers.push(Barrier { link: to, position }),
        }
    }

    /// A batch has been received on `id`: all that has been handled may be acknowledged in due
    /// course, and the window may have opened.
    pub(crate) fn mark_handled(&mut self, id: LinkId) {
        if let Some(link) = self.get_mut(id) {
            let barriers = std::mem::take(&mut link.barriers);
            link.session.mark_handled(barriers);
            if link.session.wants_to_send() {
                self.mark_dirty(id);
            }
        }
    }

    /// See [`Session::fill`].
    pub(crate) fn fill(&mut self, id: LinkId, out: &mut Vec<u8>, out_bytes_max: usize) -> bool {
        // Taken out so that its barriers can look at the others.
        let index = id.index as usize;
        let Some(mut link) = self.get(id).is_some().then(|| self.links[index].take()).flatten() else {
            return false;
        };
        let acked = link.session.fill(out, out_bytes_max, |barrier| self.is_passed(barrier));
        self.links[index] = Some(link);
        acked
    }

    fn is_passed(&self, barrier: Barrier) -> bool {
        // A session without a TCP connection must not hold up the others, for it may stay so.
        self.get(barrier.link).is_none_or(|other| {
            !other.session.is_attached() || other.session.acked_position() >= barrier.position
        })
    }

    /// The ids of the links whose acknowledgements wait for `other` cannot be told cheaply; all
    /// links that owe one are looked at again.
    pub(crate) fn mark_all_owing_dirty(&mut self) {
        for id in self.ids() {
            if self.get(id).is_some_and(|link| link.session.owes_ack()) {
                self.mark_dirty(id);
            }
        }
    }
}
