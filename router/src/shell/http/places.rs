//! The places of a server: who holds them, since when, and who gives way.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{task::AbortHandle, time::Instant};

/// Bytes of answers that clients have not taken, over all connections. One answer may be larger.
const ANSWER_BYTES_MAX: usize = 8 << 20;

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its client's next request, whole.
    Head,
    /// The service.
    Answer,
    /// Its client, to take the answer.
    Write,
}

/// All places.
#[derive(Debug)]
pub(super) struct Places {
    max: usize,
    /// What one address may hold: the rest is kept for others.
    per_source_max: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    places: HashMap<u64, Held>,
}

#[derive(Debug)]
struct Held {
    source: IpAddr,
    stage: Stage,
    since: Instant,
    answer_bytes: usize,
    task: Option<AbortHandle>,
}

/// A connection's place; it is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    key: u64,
}

impl Places {
    /// Room for so many connections, three quarters of them for one address.
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, per_source_max: (max * 3 / 4).max(1), table: Mutex::default() })
    }

    /// A place for a newcomer, and whether somebody had to give way.
    pub(super) fn enter(self: &Arc<Self>, peer: IpAddr) -> (Place, bool) {
        let source = source(peer);
        let mut table = self.table();
        let own = table.places.values().filter(|held| held.source == source).count();
        let victim = if own >= self.per_source_max {
            table.longest_waiting(|held| held.source == source)
        } else if table.places.len() >= self.max {
            table.biggest_holder_s(|_| true)
        } else {
            None
        };
        if let Some(victim) = victim {
            table.evict(victim);
        }
        let key = table.next;
        table.next += 1;
        let held = Held { source, stage: Stage::Head, since: Instant::now(), answer_bytes: 0, task: None };
        table.places.insert(key, held);
        (Place { places: Arc::clone(self), key }, victim.is_some())
    }

    /// How the connection of this place can be ended.
    pub(super) fn set_task(&self, key: u64, task: AbortHandle) {
        match self.table().places.get_mut(&key) {
            Some(held) => held.task = Some(task),
            // Evicted before it was known.
            None => task.abort(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Every change is whole before anything can panic.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn evict(&mut self, key: u64) {
        if let Some(task) = self.places.remove(&key).and_then(|held| held.task) {
            task.abort();
        }
    }

    /// Of these places, the one on which a client has kept us waiting longest.
    fn longest_waiting(&self, among: impl Fn(&Held) -> bool) -> Option<u64> {
        let among = self.places.iter().filter(|(_, held)| among(held));
        among.min_by_key(|(_, held)| (held.stage == Stage::Answer, held.since)).map(|(&key, _)| key)
    }

    /// The same, of the address that holds most of these places.
    fn biggest_holder_s(&self, among: impl Fn(&Held) -> bool) -> Option<u64> {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for held in self.places.values().filter(|held| among(held)) {
            *counts.entry(held.source).or_default() += 1;
        }
        let most = counts.values().copied().max()?;
        self.longest_waiting(|held| among(held) && counts.get(&held.source) == Some(&most))
    }
}

impl Place {
    pub(super) const fn key(&self) -> u64 {
        self.key
    }

    /// What it waits for and since when; none once it has had to give way.
    pub(super) fn stage(&self) -> Option<(Stage, Instant)> {
        self.places.table().places.get(&self.key).map(|held| (held.stage, held.since))
    }

    /// It waits for this from now on.
    pub(super) fn set_stage(&self, stage: Stage) {
        if let Some(held) = self.places.table().places.get_mut(&self.key) {
            (held.stage, held.since, held.answer_bytes) = (stage, Instant::now(), 0);
        }
    }

    /// Its client is to take an answer of so many bytes. Where that is too much beside what others
    /// have not taken, they give way.
    pub(super) fn write(&self, answer_bytes: usize) {
        self.set_stage(Stage::Write);
        let mut table = self.places.table();
        if let Some(held) = table.places.get_mut(&self.key) {
            held.answer_bytes = answer_bytes;
        }
        while table.places.values().map(|held| held.answer_bytes).sum::<usize>() > ANSWER_BYTES_MAX {
            let own = table.places.get(&self.key).map(|held| held.since);
            let Some(victim) =
                table.biggest_holder_s(|held| held.answer_bytes > 0 && Some(held.since) != own)
            else {
                return;
            };
            table.evict(victim);
        }
    }

    /// Everything said so far is with the kernel.
    pub(super) fn flushed(&self) {
        if self.stage().is_some_and(|(stage, _)| stage == Stage::Write) {
            self.set_stage(Stage::Head);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.table().places.remove(&self.key);
    }
}

/// What counts as one address: an IPv4 address, or a network that one party has (/64).
fn source(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6([a, b, c, d, 0, 0, 0, 0].into())
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    /// Whoever waits from now on waits since later.
    fn later() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }

    fn has(place: &Place) -> bool {
        place.stage().is_some()
    }

    #[test]
    fn the_address_that_holds_most_gives_way_first() {
        let places = Places::new(8);
        let probe = places.enter(address(1)).0;
        let mut hog: Vec<_> = (0..6).map(|_| places.enter(address(2)).0).collect();
        later();
        // Six of eight are the most for one address: its oldest makes room for its newest.
        let (newest, evicted) = places.enter(address(2));
        assert!(evicted && hog.iter().filter(|place| has(place)).count() == 5 && has(&newest));
        hog.retain(has);
        // The two that were kept for others.
        let others = [3, 4].map(|last| places.enter(address(last)));
        assert!(!others[0].1 && others[1].1, "eight are held, then the hog gives way");
        assert!(has(&probe) && others.iter().all(|(place, _)| has(place)));
        drop(newest);
        assert!(!places.enter(address(5)).1, "a place that was given back is free");
    }

    #[test]
    fn who_keeps_us_waiting_goes_before_who_waits_for_us() {
        let places = Places::new(4);
        let held: Vec<_> = (1..=4).map(|last| places.enter(address(last)).0).collect();
        later();
        held[0].set_stage(Stage::Answer);
        held[1].set_stage(Stage::Head);
        held[3].set_stage(Stage::Write);
        let newcomer = places.enter(address(5));
        assert!(newcomer.1);
        assert_eq!(held.iter().map(has).collect::<Vec<_>>(), [true, true, false, true]);
        let newcomer = places.enter(address(6));
        assert!(newcomer.1 && has(&held[0]), "it waits for the service");
    }

    #[test]
    fn answers_that_nobody_takes_are_bounded() {
        let places = Places::new(100);
        let slow: Vec<_> = (0..20).map(|_| places.enter(address(1)).0).collect();
        for place in &slow {
            later();
            place.write(1 << 20);
        }
        assert_eq!(slow.iter().filter(|place| has(place)).count(), 8);
        assert!(slow[12..].iter().all(has), "the last eight");
        later();
        let large = places.enter(address(2)).0;
        large.write(ANSWER_BYTES_MAX * 2);
        assert!(has(&large), "a single one may be larger");
        large.flushed();
        assert_eq!(large.stage().unwrap().0, Stage::Head);
    }

    #[test]
    fn one_party_is_one_source() {
        let parse = |text: &str| source(text.parse().unwrap());
        assert_eq!(parse("2001:db8::1"), parse("2001:db8::ffff:1"));
        assert_ne!(parse("2001:db8::1"), parse("2001:db8:0:1::1"));
        assert_eq!(parse("::ffff:192.0.2.1"), parse("192.0.2.1"));
    }
}
