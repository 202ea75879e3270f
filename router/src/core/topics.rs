//! Who has joined which topic.
//!
//! Two ordered sets of 16 bytes an entry: the members of each topic, by link, and the topics of each
//! connection. So a topic with one member and a topic with a million cost the same for each of them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use roost_protocol::ConnectionId;

/// What a membership counts, in bytes: two entries of 16 bytes in trees whose nodes are at least five
/// elevenths full.
pub(super) const MEMBER_BYTES: usize = 100;
/// What a topic counts besides its name, in bytes: an entry in a hash table and one in a table of slots.
pub(super) const TOPIC_BYTES: usize = 128;
/// The longest name of a topic, in bytes; the shortest has 1.
pub const TOPIC_NAME_BYTES_MAX: usize = 255;

/// Why a connection has not joined a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The connection is not open here.
    #[error("the connection is not open")]
    Closed,
    /// Topics and memberships take as many bytes as
    /// [`topic_bytes_max`](crate::WorkerConfig::topic_bytes_max) allows.
    #[error("topics take as many bytes as they may")]
    Full,
    /// The name is empty, or longer than [`TOPIC_NAME_BYTES_MAX`].
    #[error("the name of a topic has 1 to {TOPIC_NAME_BYTES_MAX} bytes")]
    Name,
}

/// Topics and their members. Knows links by their places, and nothing of connections but their ids.
#[derive(Debug, Default)]
pub(crate) struct Topics {
    ids: HashMap<Arc<[u8]>, u32>,
    topics: Vec<Topic>,
    free: Vec<u32>,
    /// Topic, link, connection.
    members: BTreeSet<u128>,
    /// Link, connection, topic.
    joined: BTreeSet<u128>,
    bytes: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct Topic {
    name: Arc<[u8]>,
    members: usize,
}

impl Topics {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, ..Self::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Bytes that count against the bound.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Topics that have members.
    pub(super) fn count(&self) -> usize {
        self.ids.len()
    }

    /// Memberships.
    pub(super) fn members(&self) -> usize {
        self.members.len()
    }

    /// Adds a membership. False: it is there already.
    pub(super) fn join(
        &mut self,
        link: u32,
        connection: ConnectionId,
        name: &[u8],
    ) -> Result<bool, JoinError> {
        if name.is_empty() || name.len() > TOPIC_NAME_BYTES_MAX {
            return Err(JoinError::Name);
        }
        let known = self.ids.get(name).copied();
        if known.is_some_and(|topic| self.members.contains(&member(topic, link, connection))) {
            return Ok(false);
        }
        let more_bytes = MEMBER_BYTES + if known.is_none() { topic_bytes(name) } else { 0 };
        if self.bytes.saturating_add(more_bytes) > self.bytes_max {
            return Err(JoinError::Full);
        }
        self.bytes += more_bytes;
        let topic = known.unwrap_or_else(|| self.add(name));
        self.topics[topic as usize].members += 1;
        self.members.insert(member(topic, link, connection));
        self.joined.insert(joined(link, connection, topic));
        Ok(true)
    }

    /// Takes a membership out. False: it was not there.
    pub(super) fn leave(&mut self, link: u32, connection: ConnectionId, name: &[u8]) -> bool {
        let Some(&topic) = self.ids.get(name) else { return false };
        let there = self.joined.remove(&joined(link, connection, topic));
        if there {
            self.drop_member(topic, link, connection);
        }
        there
    }

    /// Takes all memberships of a connection out.
    pub(super) fn leave_all(&mut self, link: u32, connection: ConnectionId) {
        let first = joined(link, connection, 0);
        while let Some(&entry) = self.joined.range(first..=first | u128::from(u32::MAX)).next() {
            self.joined.remove(&entry);
            self.drop_member(entry as u32, link, connection);
        }
    }

    /// Members of a topic.
    pub(super) fn len(&self, name: &[u8]) -> usize {
        self.ids.get(name).map_or(0, |&topic| self.topics[topic as usize].members)
    }

    /// The places of the links that members of a topic have, in order.
    pub(super) fn links(&self, name: &[u8]) -> Vec<u32> {
        let Some(&topic) = self.ids.get(name) else { return Vec::new() };
        let (mut links, mut from) = (Vec::new(), member(topic, 0, ConnectionId::from_bits(0)));
        let last = member(topic, u32::MAX, ConnectionId::from_bits(u64::MAX));
        while let Some(&entry) = self.members.range(from..=last).next() {
            let link = (entry >> 64) as u32;
            links.push(link);
            if link == u32::MAX {
                break;
            }
            from = member(topic, link + 1, ConnectionId::from_bits(0));
        }
        links
    }

    /// The members of a topic on one link, in the order of their ids.
    pub(super) fn on_link(&self, name: &[u8], link: u32) -> impl Iterator<Item = ConnectionId> + '_ {
        let range = self.ids.get(name).map(|&topic| {
            let first = member(topic, link, ConnectionId::from_bits(0));
            self.members.range(first..=member(topic, link, ConnectionId::from_bits(u64::MAX)))
        });
        range.into_iter().flatten().map(|&entry| ConnectionId::from_bits(entry as u64))
    }

    fn add(&mut self, name: &[u8]) -> u32 {
        let name: Arc<[u8]> = name.into();
        let topic = Topic { name: name.clone(), members: 0 };
        let id = match self.free.pop() {
            Some(id) => {
                self.topics[id as usize] = topic;
                id
            }
            None => {
                self.topics.push(topic);
                (self.topics.len() - 1) as u32
            }
        };
        self.ids.insert(name, id);
        id
    }

    fn drop_member(&mut self, topic: u32, link: u32, connection: ConnectionId) {
        self.members.remove(&member(topic, link, connection));
        self.bytes -= MEMBER_BYTES;
        let entry = &mut self.topics[topic as usize];
        entry.members -= 1;
        if entry.members == 0 {
            let name = std::mem::take(&mut entry.name);
            self.bytes -= topic_bytes(&name);
            self.ids.remove(&name);
            self.free.push(topic);
        }
    }
}

/// What a topic counts, in bytes.
fn topic_bytes(name: &[u8]) -> usize {
    TOPIC_BYTES + name.len()
}

fn member(topic: u32, link: u32, connection: ConnectionId) -> u128 {
    u128::from(topic) << 96 | u128::from(link) << 64 | u128::from(connection.to_bits())
}

fn joined(link: u32, connection: ConnectionId, topic: u32) -> u128 {
    u128::from(link) << 96 | u128::from(connection.to_bits()) << 32 | u128::from(topic)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Join(u32, u64, u8),
        Leave(u32, u64, u8),
        LeaveAll(u32, u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let link = prop_oneof![0..3u32, Just(u32::MAX)];
        let connection = prop_oneof![0..4u64, Just(u64::MAX)];
        prop_oneof![
            4 => (link.clone(), connection.clone(), 0..5u8).prop_map(|(l, c, t)| Step::Join(l, c, t)),
            2 => (link.clone(), connection.clone(), 0..5u8).prop_map(|(l, c, t)| Step::Leave(l, c, t)),
            1 => (link, connection).prop_map(|(l, c)| Step::LeaveAll(l, c)),
        ]
    }

    fn name(topic: u8) -> Vec<u8> {
        vec![topic; 1 + usize::from(topic)]
    }

    proptest! {
        #[test]
        fn topics_are_a_list_of_memberships(
            steps in prop::collection::vec(step(), 0..200),
            members_max in 1..20usize,
        ) {
            let bytes_max = members_max * MEMBER_BYTES + 5 * (TOPIC_BYTES + 5);
            let mut topics = Topics::new(bytes_max);
            let mut model: BTreeSet<(u8, u32, u64)> = BTreeSet::new();
            let bytes_of = |model: &BTreeSet<(u8, u32, u64)>| {
                let names: BTreeSet<u8> = model.iter().map(|entry| entry.0).collect();
                let names = names.iter().map(|&topic| TOPIC_BYTES + name(topic).len());
                model.len() * MEMBER_BYTES + names.sum::<usize>()
            };
            for step in steps {
                match step {
                    Step::Join(link, connection, topic) => {
                        let mut after = model.clone();
                        let added = after.insert((topic, link, connection));
                        let expected = if bytes_of(&after) > bytes_max { Err(JoinError::Full) } else { Ok(added) };
                        let id = ConnectionId::from_bits(connection);
                        prop_assert_eq!(topics.join(link, id, &name(topic)), expected);
                        if expected.is_ok() {
                            model = after;
                        }
                    }
                    Step::Leave(link, connection, topic) => {
                        let expected = model.remove(&(topic, link, connection));
                        let id = ConnectionId::from_bits(connection);
                        prop_assert_eq!(topics.leave(link, id, &name(topic)), expected);
                    }
                    Step::LeaveAll(link, connection) => {
                        model.retain(|entry| (entry.1, entry.2) != (link, connection));
                        topics.leave_all(link, ConnectionId::from_bits(connection));
                    }
                }
                prop_assert_eq!((topics.bytes(), topics.members()), (bytes_of(&model), model.len()));
                for topic in 0..5 {
                    let of_topic: Vec<_> = model.iter().filter(|entry| entry.0 == topic).collect();
                    prop_assert_eq!(topics.len(&name(topic)), of_topic.len());
                    let links: BTreeSet<u32> = of_topic.iter().map(|entry| entry.1).collect();
                    prop_assert_eq!(topics.links(&name(topic)), Vec::from_iter(links.iter().copied()));
                    for link in links {
                        let found: Vec<u64> =
                            topics.on_link(&name(topic), link).map(ConnectionId::to_bits).collect();
                        let expected: Vec<u64> =
                            of_topic.iter().filter(|entry| entry.1 == link).map(|entry| entry.2).collect();
                        prop_assert_eq!(found, expected);
                    }
                }
            }
        }
    }

    #[test]
    fn a_name_has_1_to_255_bytes() {
        let mut topics = Topics::new(usize::MAX);
        let id = ConnectionId::from_bits(1);
        assert_eq!(topics.join(0, id, b""), Err(JoinError::Name));
        assert_eq!(topics.join(0, id, &[b'n'; 256]), Err(JoinError::Name));
        assert_eq!(topics.join(0, id, &[b'n'; 255]), Ok(true));
        assert_eq!(topics.join(0, id, b"\0"), Ok(true));
        assert_eq!((topics.len(&[b'n'; 255]), topics.len(b"\0"), topics.len(b"")), (1, 1, 0));
    }

    #[test]
    fn the_places_of_topics_that_are_gone_are_used_again() {
        let mut topics = Topics::new(usize::MAX);
        for round in 0..1_000u32 {
            assert_eq!(topics.join(0, ConnectionId::from_bits(7), &round.to_be_bytes()), Ok(true));
            topics.leave_all(0, ConnectionId::from_bits(7));
        }
        assert_eq!((topics.topics.len(), topics.free.len(), topics.ids.len()), (1, 1, 0));
        assert!(topics.is_empty() && topics.bytes() == 0);
    }
}
