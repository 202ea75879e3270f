//! Who is connected here, by routing hash.

use std::collections::HashMap;

use crate::id::Client;

/// The connections of each user. Nearly all users have one: only the rest pay for a list.
#[derive(Debug, Default)]
pub(super) struct Directory {
    first: HashMap<u64, Client>,
    /// Further connections of the users in `first`.
    further: HashMap<u64, Vec<Client>>,
}

impl Directory {
    pub(super) fn insert(&mut self, user: u64, client: Client) {
        match self.first.get(&user) {
            None => {
                self.first.insert(user, client);
            }
            Some(&first) if first == client => {}
            Some(_) => {
                let further = self.further.entry(user).or_default();
                if !further.contains(&client) {
                    further.push(client);
                }
            }
        }
    }

    pub(super) fn remove(&mut self, user: u64, client: Client) {
        let Some(first) = self.first.get_mut(&user) else { return };
        let further = self.further.get_mut(&user);
        match further {
            None if *first == client => {
                self.first.remove(&user);
            }
            None => {}
            Some(further) => {
                if *first == client {
                    *first = further.pop().expect("an empty list is removed");
                } else {
                    further.retain(|&other| other != client);
                }
                if further.is_empty() {
                    self.further.remove(&user);
                }
            }
        }
    }

    /// The connections of a user.
    pub(super) fn get(&self, user: u64) -> impl Iterator<Item = Client> {
        let further = if self.further.is_empty() { None } else { self.further.get(&user) };
        self.first.get(&user).into_iter().chain(further.into_iter().flatten()).copied()
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.first.len() + self.further.values().map(Vec::len).sum::<usize>()
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
        fn a_directory_is_a_set_of_pairs(
            steps in prop::collection::vec((any::<bool>(), 0..4u64, 0..6u32), 0..100),
        ) {
            let mut directory = Directory::default();
            let mut model = std::collections::BTreeSet::new();
            for (insert, user, index) in steps {
                if insert {
                    directory.insert(user, client(index));
                    model.insert((user, index));
                } else {
                    directory.remove(user, client(index));
                    model.remove(&(user, index));
                }
                prop_assert_eq!(directory.len(), model.len());
                for user in 0..4 {
                    let mut found: Vec<u32> =
                        directory.get(user).map(|client| client.connection.slot()).collect();
                    found.sort_unstable();
                    let expected: Vec<u32> =
                        model.iter().filter(|pair| pair.0 == user).map(|pair| pair.1).collect();
                    prop_assert_eq!(found, expected);
                }
            }
        }
    }
}
