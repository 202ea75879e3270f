//! Where links are dialled: the addresses of each worker, one after the other.
//!
//! A name is looked up beside the shards, after each failure and whenever a reload names it; links go on
//! with the addresses known so far until the answer has come.

use std::sync::Arc;

use crate::{
    core::{Redial, ShardCore},
    op::{Driver, LinkAddress},
};

/// Where a worker is to be dialled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// There.
    Address(LinkAddress),
    /// Where this `HOST:PORT` leads; its host is a name.
    Name(Arc<str>),
}

/// Asks for the addresses of a `HOST:PORT`, without waiting; the answer comes as
/// [`Request::Addresses`](super::Request::Addresses).
pub type LookUp = Box<dyn Fn(&Arc<str>) + Send>;

/// The addresses of all links of a shard.
#[derive(Default)]
pub struct Dials {
    links: Vec<Dial>,
    look_up: Option<LookUp>,
}

/// The addresses of one link.
#[derive(Debug, Default)]
struct Dial {
    worker: String,
    target: Option<Target>,
    addresses: Vec<LinkAddress>,
    /// The one that is dialled next, or was dialled last.
    at: usize,
    /// A reload has named another target; the addresses are still those of the last one.
    moved: bool,
}

impl std::fmt::Debug for Dials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dials").field("links", &self.links).finish_non_exhaustive()
    }
}

impl Dials {
    /// No link has an address yet; names are looked up by this.
    pub fn new(look_up: LookUp) -> Self {
        Self { links: Vec::new(), look_up: Some(look_up) }
    }

    /// Gives the driver the addresses of the workers that a shard starts with, link by link. Links to
    /// names have none before the first answer.
    pub fn start(&mut self, driver: &mut impl Driver, targets: Vec<(String, Target)>) {
        for (index, (worker, target)) in (0..).zip(targets) {
            let addresses = literal(&target);
            if let Some(address) = addresses.first() {
                driver.set_link_address(index, address.clone());
            }
            self.links.push(Dial { worker, target: Some(target), addresses, at: 0, moved: false });
        }
    }

    /// A reload: the core has given each worker a link, and these are their targets.
    pub(super) fn configure(
        &mut self,
        core: &mut ShardCore,
        driver: &mut impl Driver,
        targets: Vec<(String, Target)>,
    ) {
        for (worker, target) in targets {
            // Whoever has got no link is told of by the core.
            let Some(index) = core.worker_index(&worker) else { continue };
            if self.links.len() <= usize::from(index) {
                self.links.resize_with(usize::from(index) + 1, Dial::default);
            }
            let dial = &mut self.links[usize::from(index)];
            if dial.worker != worker {
                *dial = Dial { worker, ..Dial::default() };
            }
            let had_target = dial.target.is_some();
            let mut redial = Redial::InTurn;
            if dial.target.as_ref() != Some(&target) {
                match &target {
                    Target::Address(address) => {
                        if had_target && dial.addresses.get(dial.at) != Some(address) {
                            redial = Redial::Now;
                        }
                        (dial.addresses, dial.at, dial.moved) = (vec![address.clone()], 0, false);
                    }
                    // The link stays where it is until it is known where to go.
                    Target::Name(_) => dial.moved = had_target,
                }
                dial.target = Some(target);
            }
            dial.apply(core, driver, index, redial);
        }
    }

    /// A name leads to these addresses now.
    pub(super) fn answer(
        &mut self,
        core: &mut ShardCore,
        driver: &mut impl Driver,
        host: &str,
        addresses: &[LinkAddress],
    ) {
        for (index, dial) in (0..).zip(&mut self.links) {
            let is_asked = matches!(&dial.target, Some(Target::Name(name)) if &**name == host);
            if !is_asked || addresses.is_empty() || core.worker_index(&dial.worker) != Some(index) {
                continue;
            }
            // The one that was good last comes first, so that a session finds its worker again.
            let last = dial.addresses.get(dial.at);
            let still = last.and_then(|last| addresses.iter().position(|address| address == last));
            let is_new = addresses.iter().any(|address| !dial.addresses.contains(address));
            let moved = std::mem::take(&mut dial.moved);
            let redial = match still {
                None if moved => Redial::Now,
                _ if is_new => Redial::Soon,
                _ => Redial::InTurn,
            };
            (dial.addresses, dial.at) = (addresses.to_vec(), still.unwrap_or(0));
            dial.apply(core, driver, index, redial);
        }
    }

    /// A link's connection is gone, or did not come up: then it is the next address's turn.
    pub(super) fn broken(&mut self, driver: &mut impl Driver, index: u16, failed: bool) {
        let Some(dial) = self.links.get_mut(usize::from(index)) else { return };
        if failed && dial.addresses.len() > 1 {
            dial.at = (dial.at + 1) % dial.addresses.len();
            driver.set_link_address(index, dial.addresses[dial.at].clone());
        }
        if let (Some(Target::Name(host)), Some(look_up)) = (&dial.target, &self.look_up) {
            look_up(host);
        }
    }

    /// The address that a link was dialled at last, for the log.
    pub(super) fn shown(&self, index: u8) -> Option<String> {
        let dial = self.links.get(usize::from(index))?;
        dial.addresses.get(dial.at).map(ToString::to_string)
    }
}

impl Dial {
    fn apply(&self, core: &mut ShardCore, driver: &mut impl Driver, index: u16, redial: Redial) {
        if let Some(address) = self.addresses.get(self.at) {
            driver.set_link_address(index, address.clone());
        }
        core.set_addresses(driver, index, self.addresses.len(), redial);
    }
}

/// The addresses that need no looking up.
fn literal(target: &Target) -> Vec<LinkAddress> {
    match target {
        Target::Address(address) => vec![address.clone()],
        Target::Name(_) => Vec::new(),
    }
}
