//! Which open connections a key has here, by its routing hash.

use std::collections::{BTreeMap, HashMap};

use crate::id::Client;

/// The connections of each key, oldest first. Nearly all keys have one: only the rest pay for a list.
#[derive(Debug, Default)]
pub(super) struct Directory {
    /// The oldest connection of each key.
    first: HashMap<u64, Client>,
    /// Further connections of the keys in `first`.
    further: HashMap<u64, Further>,
}

/// Connections by age: what a change costs grows with the logarithm of their number.
#[derive(Debug, Default)]
struct Further {
    by_age: BTreeMap<u64, Client>,
    ages: HashMap<Client, u64>,
    next: u64,
}

/// The open connections of a key, oldest first; what [`super::Context::clients_of`] returns.
#[derive(Debug, Default)]
pub struct Clients {
    first: Option<Client>,
    further: std::vec::IntoIter<Client>,
}

impl Iterator for Clients {
    type Item = Client;

    fn next(&mut self) -> Option<Client> {
        self.first.take().or_else(|| self.further.next())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = usize::from(self.first.is_some()) + self.further.len();
        (left, Some(left))
    }
}

impl ExactSizeIterator for Clients {}

impl Directory {
    pub(super) fn insert(&mut self, key: u64, client: Client) {
        match self.first.get(&key) {
            None => {
                self.first.insert(key, client);
            }
            Some(&first) if first == client => {}
            Some(_) => self.further.entry(key).or_default().push(client),
        }
    }

    pub(super) fn remove(&mut self, key: u64, client: Client) {
        let Some(first) = self.first.get_mut(&key) else { return };
        let Some(further) = self.further.get_mut(&key) else {
            if *first == client {
                self.first.remove(&key);
            }
            return;
        };
        if *first != client {
            further.remove(client);
        } else if let Some(next) = further.pop() {
            *first = next;
        }
        if further.by_age.is_empty() {
            self.further.remove(&key);
        }
    }

    /// The connections of a key, oldest first.
    pub(super) fn get(&self, key: u64) -> Clients {
        let first = self.first.get(&key).copied();
        let further = if self.further.is_empty() { None } else { self.further.get(&key) };
        let further: Vec<Client> =
            further.into_iter().flat_map(|further| further.by_age.values().copied()).collect();
        Clients { first, further: further.into_iter() }
    }

    /// How many connections a key has, and the oldest of them.
    pub(super) fn count(&self, key: u64) -> (usize, Option<Client>) {
        let first = self.first.get(&key).copied();
        let further = self.further.get(&key).map_or(0, |further| further.by_age.len());
        (usize::from(first.is_some()) + further, first)
    }
}

impl Further {
    fn push(&mut self, client: Client) {
        if !self.ages.contains_key(&client) {
            self.ages.insert(client, self.next);
            self.by_age.insert(self.next, client);
            self.next += 1;
        }
    }

    fn remove(&mut self, client: Client) {
        if let Some(age) = self.ages.remove(&client) {
            self.by_age.remove(&age);
        }
    }

    /// Takes the oldest out.
    fn pop(&mut self) -> Option<Client> {
        let (_, client) = self.by_age.pop_first()?;
        self.ages.remove(&client);
        Some(client)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use roost_protocol::ConnectionId;

    use super::*;
    use crate::id::LinkId;

    fn client(index: u32) -> Client {
        Client { link: LinkId { index: 0, serial: 0 }, connection: ConnectionId::new(0, index, 1) }
    }

    proptest! {
        #[test]
        fn a_directory_lists_the_clients_of_each_key_oldest_first(
            steps in prop::collection::vec((any::<bool>(), 0..4u64, 0..6u32), 0..100),
        ) {
            let mut directory = Directory::default();
            let mut model: Vec<(u64, u32)> = Vec::new();
            for (insert, key, index) in steps {
                let known = model.contains(&(key, index));
                if insert {
                    directory.insert(key, client(index));
                    if !known {
                        model.push((key, index));
                    }
                } else {
                    directory.remove(key, client(index));
                    model.retain(|&pair| pair != (key, index));
                }
                for key in 0..4 {
                    let found = directory.get(key);
                    let expected: Vec<u32> =
                        model.iter().filter(|pair| pair.0 == key).map(|pair| pair.1).collect();
                    prop_assert_eq!(found.len(), expected.len());
                    let oldest = expected.first().map(|&index| client(index));
                    prop_assert_eq!(directory.count(key), (expected.len(), oldest));
                    let found: Vec<u32> = found.map(|client| client.connection.slot()).collect();
                    prop_assert_eq!(found, expected);
                }
            }
            for (key, index) in model {
                directory.remove(key, client(index));
            }
            prop_assert!(directory.first.is_empty() && directory.further.is_empty());
        }
    }
}
