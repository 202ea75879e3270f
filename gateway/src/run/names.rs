//! Workers' names are looked up here, beside everything else: getaddrinfo(3) may take many seconds, and
//! neither a start, a reload, a signal nor a shard waits for it.
//!
//! One thread keeps the book; each lookup is a thread of its own, so that a name whose server is dead
//! holds up no other name.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{SocketAddr, ToSocketAddrs},
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    config::Config,
    event_loop::{LookUp, Request, ShardHandle, Target},
    op::LinkAddress,
};

/// Least time between two lookups of a name, however often its links fail.
const PAUSE: Duration = Duration::from_millis(200);
/// Longest time between two lookups of a name that has no address yet.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Lookups under way at once; the others wait for their turn.
const LOOKUPS_MAX: usize = 32;
/// Failed lookups after which one for a known cause is told again; then after twice as many, and so on.
const FAILURES_AGAIN: u32 = 8;

/// Looks a `HOST:PORT` up; may block.
pub(super) type Resolve = Arc<dyn Fn(&str) -> io::Result<Vec<SocketAddr>> + Send + Sync>;

/// The system's resolver.
pub(super) fn system() -> Resolve {
    Arc::new(|host| host.to_socket_addrs().map(Iterator::collect))
}

/// How long `check` waits for the addresses of all names together.
const CHECKED_WITHIN: Duration = Duration::from_secs(5);

/// What is to be said of workers' names that have no address now; for `check`. It is no obstacle to a
/// start: their links stay down until they have one.
pub fn unresolved(config: &Config) -> Vec<String> {
    unresolved_by(&system(), config, CHECKED_WITHIN)
}

fn unresolved_by(resolve: &Resolve, config: &Config, within: Duration) -> Vec<String> {
    let (sender, answers) = mpsc::channel();
    let mut silent = BTreeMap::new();
    for spec in &config.workers {
        let Target::Name(host) = spec.address.target() else { continue };
        silent.insert(spec.to_string(), "no answer from the resolver".to_owned());
        let (sender, resolve, worker) = (sender.clone(), Arc::clone(resolve), spec.to_string());
        // Beside, because it may take longer than anybody wants to wait.
        drop(thread::Builder::new().spawn(move || drop(sender.send((worker, resolve(&host))))));
    }
    drop(sender);
    let until = Instant::now() + within;
    while let Ok((worker, answer)) = answers.recv_timeout(until.saturating_duration_since(Instant::now())) {
        match answer {
            Ok(addresses) if !addresses.is_empty() => drop(silent.remove(&worker)),
            Ok(_) => drop(silent.insert(worker, "it has no address".to_owned())),
            Err(error) => drop(silent.insert(worker, error.to_string())),
        }
    }
    let line = |(worker, cause)| {
        format!(
            "workers: the name of `{worker}` cannot be looked up now ({cause}); its link is down until it can"
        )
    };
    silent.into_iter().map(line).collect()
}

enum Ask {
    /// From now on these are the names, with their workers; each is looked up.
    Wanted(Vec<(String, Arc<str>)>),
    /// Answers go to these shards, those that are known at once.
    Serve(Vec<ShardHandle>),
    /// A link to this name has failed.
    LookUp(Arc<str>),
    /// A lookup has ended.
    Found(Arc<str>, io::Result<Vec<SocketAddr>>),
}

/// The thread that knows where names lead. It ends with the process.
pub(super) struct Names(Sender<Ask>);

impl Names {
    /// Starts the thread; nothing is looked up yet.
    ///
    /// # Errors
    /// There is no thread.
    pub(super) fn start(resolve: Resolve) -> Result<Self> {
        let (asks, asked) = mpsc::channel();
        let found = asks.clone();
        thread::Builder::new()
            .name("names".to_owned())
            .stack_size(256 * 1024)
            .spawn(move || keep(&asked, &found, &resolve))
            .context("no thread for the names of workers")?;
        Ok(Self(asks))
    }

    /// From now on these are the names (`HOST:PORT`) of workers; each is looked up now.
    pub(super) fn want(&self, names: Vec<(String, Arc<str>)>) {
        self.ask(Ask::Wanted(names));
    }

    /// From now on answers go to these shards.
    pub(super) fn serve(&self, shards: Vec<ShardHandle>) {
        self.ask(Ask::Serve(shards));
    }

    /// What a shard asks by.
    pub(super) fn look_up(&self) -> LookUp {
        let asks = self.0.clone();
        // The thread ends only with the process.
        Box::new(move |host| drop(asks.send(Ask::LookUp(Arc::clone(host)))))
    }

    fn ask(&self, ask: Ask) {
        // The thread ends only with the process.
        drop(self.0.send(ask));
    }
}

fn keep(asked: &Receiver<Ask>, found: &Sender<Ask>, resolve: &Resolve) {
    let mut book = Book::default();
    loop {
        let now = Instant::now();
        for host in book.due(now) {
            let (resolve, answer, name) = (Arc::clone(resolve), found.clone(), Arc::clone(&host));
            // With the usual stack: the system's modules for names are not ours.
            let thread = thread::Builder::new().name("lookup".to_owned());
            let started =
                thread.spawn(move || drop(answer.send(Ask::Found(Arc::clone(&name), resolve(&name)))));
            if let Err(error) = started {
                drop(found.send(Ask::Found(host, Err(error))));
            }
        }
        let wait = book.next_at().map_or(Duration::from_secs(3600), |at| at.saturating_duration_since(now));
        match asked.recv_timeout(wait) {
            Ok(ask) => book.take(ask, Instant::now()),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// What is known of a name.
#[derive(Debug, Default)]
struct Host {
    /// Who is there.
    workers: Vec<String>,
    /// A lookup is under way.
    looking: bool,
    /// One is to be made, as soon as it may.
    asked: bool,
    not_before: Option<Instant>,
    pause: Duration,
    /// Where it leads; empty: it is not known.
    addresses: Vec<SocketAddr>,
    /// Why the last lookup failed, if it did, as the log knows.
    told: Option<String>,
    failures: u32,
}

#[derive(Default)]
struct Book {
    hosts: BTreeMap<Arc<str>, Host>,
    /// Those asked for, in the order in which they were.
    queue: Vec<Arc<str>>,
    looking: usize,
    shards: Vec<ShardHandle>,
}

impl Book {
    fn take(&mut self, ask: Ask, now: Instant) {
        match ask {
            Ask::Wanted(names) => {
                let hosts: BTreeSet<Arc<str>> = names.iter().map(|(_, host)| Arc::clone(host)).collect();
                self.hosts.retain(|host, state| hosts.contains(host) || state.looking);
                self.hosts.values_mut().for_each(|state| state.workers.clear());
                for (worker, host) in names {
                    self.hosts.entry(host).or_default().workers.push(worker);
                }
                for host in hosts {
                    self.want(&host);
                }
            }
            Ask::Serve(shards) => {
                self.shards = shards;
                for (host, state) in &self.hosts {
                    self.send(host, &state.addresses);
                }
            }
            Ask::LookUp(host) => self.want(&host),
            Ask::Found(host, found) => self.found(&host, found, now),
        }
    }

    fn want(&mut self, host: &Arc<str>) {
        if let Some(state) = self.hosts.get_mut(host)
            && !state.workers.is_empty()
            && !std::mem::replace(&mut state.asked, true)
        {
            self.queue.push(Arc::clone(host));
        }
    }

    /// The names to look up now; each is said once.
    fn due(&mut self, now: Instant) -> Vec<Arc<str>> {
        let mut due = Vec::new();
        let Self { hosts, queue, looking, .. } = self;
        queue.retain(|host| {
            let Some(state) = hosts.get_mut(host) else { return false };
            if state.looking || state.not_before.is_some_and(|at| at > now) || *looking >= LOOKUPS_MAX {
                return true;
            }
            (state.looking, state.asked) = (true, false);
            *looking += 1;
            due.push(Arc::clone(host));
            false
        });
        due
    }

    /// When a name that waits may be looked up.
    fn next_at(&self) -> Option<Instant> {
        let waiting = self.queue.iter().filter_map(|host| self.hosts.get(host));
        waiting.filter(|state| !state.looking).filter_map(|state| state.not_before).min()
    }

    fn found(&mut self, host: &Arc<str>, found: io::Result<Vec<SocketAddr>>, now: Instant) {
        self.looking -= 1;
        let Some(state) = self.hosts.get_mut(host) else { return };
        state.looking = false;
        let found = found.and_then(|mut addresses| {
            let mut seen = BTreeSet::new();
            addresses.retain(|address| seen.insert(*address));
            if addresses.is_empty() {
                Err(io::Error::other("the name has no address"))
            } else {
                Ok(addresses)
            }
        });
        match found {
            Ok(addresses) => {
                state.on_addresses(host, addresses);
                state.not_before = Some(now + PAUSE);
                state.pause = PAUSE;
                self.send(host, &self.hosts[host].addresses);
            }
            Err(error) => {
                state.on_failure(host, &error.to_string());
                state.pause = (state.pause * 2).clamp(PAUSE, PAUSE_MAX);
                state.not_before = Some(now + state.pause);
                if state.addresses.is_empty() {
                    // No dial will ask for it.
                    self.want(host);
                }
            }
        }
    }

    fn send(&self, host: &Arc<str>, addresses: &[SocketAddr]) {
        if addresses.is_empty() {
            return;
        }
        let addresses: Arc<[LinkAddress]> = addresses.iter().copied().map(LinkAddress::Tcp).collect();
        for shard in &self.shards {
            shard.send(Request::Addresses(Arc::clone(host), Arc::clone(&addresses)));
        }
    }
}

impl Host {
    fn on_addresses(&mut self, host: &str, addresses: Vec<SocketAddr>) {
        let was_told = self.told.take().is_some();
        self.failures = 0;
        let known: BTreeSet<_> = self.addresses.iter().collect();
        let changed = !known.is_empty() && known != addresses.iter().collect();
        if was_told || changed {
            for worker in &self.workers {
                tracing::info!(worker, host, ?addresses, "the worker's name leads there now");
            }
        }
        self.addresses = addresses;
    }

    fn on_failure(&mut self, host: &str, cause: &str) {
        if self.told.as_deref() != Some(cause) {
            self.told = Some(cause.to_owned());
            self.failures = 0;
        }
        self.failures += 1;
        let failures = self.failures;
        if failures > 1 && !(failures >= FAILURES_AGAIN && failures.is_power_of_two()) {
            return;
        }
        let meanwhile = match self.addresses.is_empty() {
            true => "the worker's name cannot be looked up; without an address it is not dialled",
            false => "the worker's name cannot be looked up; the addresses known so far are dialled",
        };
        for worker in &self.workers {
            tracing::warn!(worker, host, cause, failures, "{meanwhile}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        net::SocketAddr,
        sync::Arc,
        time::{Duration, Instant},
    };

    use super::{Ask, Book, LOOKUPS_MAX, PAUSE, PAUSE_MAX};
    use crate::{
        config::Config,
        core::stats::ShardStats,
        event_loop::{Request, ShardHandle, channel},
        op::{LinkAddress, Waker},
    };

    fn host(name: &str) -> Arc<str> {
        Arc::from(name)
    }

    fn address(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 7500).into()
    }

    fn wanted(names: &[&str]) -> Ask {
        Ask::Wanted(names.iter().map(|name| (format!("at {name}"), host(name))).collect())
    }

    #[test]
    fn a_name_is_looked_up_when_it_is_named_and_when_its_link_fails_but_not_all_the_time() {
        let (mut book, start) = (Book::default(), Instant::now());
        book.take(wanted(&["a:1"]), start);
        book.take(Ask::LookUp(host("stranger:1")), start);
        assert_eq!(book.due(start), [host("a:1")]);
        // While that lasts, and shortly after, further failures are one question more.
        for _ in 0..3 {
            book.take(Ask::LookUp(host("a:1")), start);
            assert!(book.due(start).is_empty());
        }
        book.take(Ask::Found(host("a:1"), Ok(vec![address(1)])), start);
        assert!(book.due(start).is_empty());
        assert_eq!(book.next_at(), Some(start + PAUSE));
        assert_eq!(book.due(start + PAUSE), [host("a:1")]);
        book.take(Ask::Found(host("a:1"), Ok(vec![address(1)])), start + PAUSE);
        assert!(book.due(start + PAUSE * 3).is_empty(), "nobody asks");
        assert_eq!(book.next_at(), None);
        // A reload asks again; who is no longer named is forgotten.
        book.take(wanted(&["a:1", "b:1"]), start + PAUSE * 3);
        assert_eq!(book.due(start + PAUSE * 3), [host("a:1"), host("b:1")]);
        book.take(wanted(&[]), start + PAUSE * 3);
        book.take(Ask::Found(host("b:1"), Err(io::Error::other("gone"))), start + PAUSE * 3);
        assert!(book.due(start + PAUSE_MAX * 3).is_empty());
    }

    #[test]
    fn a_name_without_an_address_is_tried_again_at_growing_pauses_and_told_of_once() {
        let (mut book, mut now) = (Book::default(), Instant::now());
        book.take(wanted(&["a:1"]), now);
        let mut last = Duration::ZERO;
        for failures in 1..12 {
            assert_eq!(book.due(now), [host("a:1")]);
            book.take(Ask::Found(host("a:1"), Err(io::Error::other("no such name"))), now);
            assert_eq!(book.hosts["a:1"].failures, failures);
            let pause = book.next_at().expect("it is tried again") - now;
            assert!(pause >= last && pause <= PAUSE_MAX, "{pause:?}");
            (last, now) = (pause, now + pause);
        }
        assert_eq!(last, PAUSE_MAX);
        // Another cause is told at once.
        assert_eq!(book.due(now), [host("a:1")]);
        book.take(Ask::Found(host("a:1"), Ok(Vec::new())), now);
        assert_eq!((book.hosts["a:1"].failures, book.hosts["a:1"].told.is_some()), (1, true));
        now += PAUSE_MAX;
        assert_eq!(book.due(now), [host("a:1")]);
        book.take(Ask::Found(host("a:1"), Ok(vec![address(1)])), now);
        assert_eq!((book.hosts["a:1"].failures, book.hosts["a:1"].told.is_some()), (0, false));
    }

    #[test]
    fn every_shard_hears_every_answer_those_from_before_it_was_there_included() {
        let (mut book, now) = (Book::default(), Instant::now());
        book.take(wanted(&["a:1"]), now);
        assert_eq!(book.due(now).len(), 1);
        book.take(Ask::Found(host("a:1"), Ok(vec![address(1), address(2), address(1)])), now);
        let (sender, requests) = channel();
        let shard = ShardHandle::new(sender, Waker::new(|| {}), Arc::new(ShardStats::default()));
        book.take(Ask::Serve(vec![shard]), now);
        let heard = || match requests.try_recv() {
            Ok(Request::Addresses(host, addresses)) => (host.to_string(), addresses.to_vec()),
            other => panic!("{other:?}"),
        };
        let both = [address(1), address(2)].map(LinkAddress::Tcp);
        assert_eq!(heard(), ("a:1".to_owned(), both.to_vec()));
        book.take(Ask::LookUp(host("a:1")), now + PAUSE);
        assert_eq!(book.due(now + PAUSE).len(), 1);
        // A failure takes nothing away that is known.
        book.take(Ask::Found(host("a:1"), Err(io::Error::other("server failure"))), now + PAUSE);
        assert!(requests.try_recv().is_err());
        assert_eq!(book.hosts["a:1"].addresses.len(), 2);
    }

    #[test]
    fn a_check_names_those_without_an_address_and_waits_for_nobody() {
        let resolve: super::Resolve = Arc::new(|host| match host {
            "good:1" => Ok(vec![address(1)]),
            "empty:1" => Ok(Vec::new()),
            "slow:1" => {
                std::thread::sleep(Duration::from_secs(600));
                Ok(vec![address(1)])
            }
            _ => Err(io::Error::other("no such name")),
        });
        let workers = ["a=good:1", "b=bad:1", "c=empty:1", "d=slow:1", "192.0.2.1:1", "unix:/x"];
        let workers = workers.iter().map(|text| text.parse().expect("a worker")).collect();
        let config = Config { workers, ..Config::default() };
        let lines = super::unresolved_by(&resolve, &config, Duration::from_millis(200));
        let named = |line: &String, worker: &str, cause: &str| line.contains(worker) && line.contains(cause);
        assert_eq!(lines.len(), 3, "{lines:#?}");
        assert!(named(&lines[0], "`b=bad:1`", "(no such name)"), "{lines:#?}");
        assert!(named(&lines[1], "`c=empty:1`", "(it has no address)"), "{lines:#?}");
        assert!(named(&lines[2], "`d=slow:1`", "(no answer from the resolver)"), "{lines:#?}");
    }

    #[test]
    fn dead_servers_hold_up_only_so_many_lookups() {
        let (mut book, now) = (Book::default(), Instant::now());
        let names: Vec<String> = (0..LOOKUPS_MAX + 2).map(|number| format!("h{number:03}:1")).collect();
        book.take(wanted(&names.iter().map(String::as_str).collect::<Vec<_>>()), now);
        assert_eq!(book.due(now).len(), LOOKUPS_MAX);
        assert!(book.due(now).is_empty());
        book.take(Ask::Found(host("h000:1"), Ok(vec![address(1)])), now);
        assert_eq!(book.due(now), [host(&format!("h{LOOKUPS_MAX:03}:1"))]);
    }
}
