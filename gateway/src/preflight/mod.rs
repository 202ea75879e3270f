//! What this machine can hold, which setting limits it, and how to lift that.
//!
//! * [`cost`]: what a connection costs, as measured.
//! * [`capacity`]: the arithmetic between that and what the kernel says ([`crate::machine`]); pure.
//! * [`given_back`]: what the end of a running gateway makes free for its successor.
//! * [`secrets`]: the files with secrets.
//! * [`holder`]: who has an address already.
//! * [`start`]: everything else that a start would meet.
//! * [`report`]: the lines for people: `roost-gateway check` and the banner at start.

pub mod capacity;
pub mod cost;
pub mod given_back;
mod holder;
pub mod report;
pub mod secrets;
mod start;

use std::{io, net::SocketAddr};

use anyhow::{Error, Result, bail};

pub use capacity::{Capacity, Demand, Limit};
pub use given_back::GivenBack;
use roost_router::shell::say;

use crate::{
    config::{Config, Loaded},
    machine::{self, Machine},
    ring::{self, Features, FeaturesMax},
};

/// What this machine can hold of what `config` asks, and how that was found.
#[derive(Clone, Debug)]
struct Weighed {
    machine: Machine,
    demand: Demand,
    capacity: Capacity,
}

impl Weighed {
    /// Raises the limits of this process, reads the machine, and tries what cannot be read.
    fn here(config: &Config, features: &Features, given_back: Option<&GivenBack>) -> Self {
        if let Err(error) = machine::raise_nofile() {
            tracing::warn!(%error, "the soft limit on open files stays below the hard one");
        }
        // Where that fails, what was tried says what is left.
        drop(machine::raise_memlock());
        let mut machine = Machine::read();
        if let Some(given_back) = given_back {
            given_back.add_to(&mut machine);
        }
        let mut demand = Demand::of(config, machine.cores, features.direct());
        if !features.banks() {
            // One ring has all slots of a shard.
            demand.ring_slots_max = capacity::CONNECTIONS_MAX;
        }
        let capacity = Capacity::of(&machine, &demand);
        machine.rings_max = rings_max(&machine, features, &demand, &capacity);
        let capacity = Capacity::of(&machine, &demand);
        Self { machine, demand, capacity }
    }
}

/// How many rings can be had, if fewer than so many connections take.
fn rings_max(machine: &Machine, features: &Features, demand: &Demand, capacity: &Capacity) -> Option<u64> {
    if machine.memlock_bytes == u64::MAX {
        return None;
    }
    let wanted = u32::try_from(capacity::rings_wanted(capacity, demand)).unwrap_or(u32::MAX);
    let share = capacity.connections().div_ceil(demand.shards).clamp(1, capacity::CONNECTIONS_MAX) as u32;
    let slots = demand.ring_slots_max.min(ring::RING_SLOTS_MAX.into()) as u32;
    let fit = ring::rings_that_fit(features, share, slots, wanted);
    (fit < wanted).then_some(fit.into())
}

/// How many connections the gateway is to hold: the configured number, or what the machine can hold;
/// and what limits that.
///
/// More than the machine can hold is logged and tried all the same, since memory may become free;
/// more than its descriptors or its locked memory allow is not. With `auto` a successor also counts what
/// its predecessor gives back.
///
/// # Errors
/// There is room for no connection at all, or the kernel allows fewer than configured.
pub fn connections_max(
    config: &Config,
    features: &Features,
    given_back: Option<&GivenBack>,
) -> Result<(u32, Capacity)> {
    let Weighed { demand, capacity, .. } = Weighed::here(config, features, given_back);
    let connections = given_back.map_or(capacity.connections(), |given_back| given_back.at_least(&capacity));
    if let Some(refusal) = capacity.refusal(demand.shards)
        && (capacity.wanted.is_some() || connections < demand.shards)
    {
        bail!(refusal);
    }
    if let Some(wanted) = capacity.wanted.filter(|_| !capacity.suffices()) {
        let Limit { name, connections: allows, lift, .. } = &capacity.limits[0];
        tracing::warn!(wanted, allows, limit = %name, remedy = %lift, "more than this machine can hold");
    }
    Ok((u32::try_from(connections).expect("at most 2^24"), capacity))
}

/// Whether this process has descriptors for the links that a reload with `config` asks for.
///
/// # Errors
/// It has not: how many are missing, and the remedy.
pub fn check_reload(config: &Config, shards: u16, connections_max: u32, direct: bool) -> Result<()> {
    let nofile = machine::nofile();
    capacity::check_links(config, shards.into(), connections_max.into(), direct, nofile).map_err(Error::msg)
}

/// Prints the lines at start; where nobody reads them they are lost, unless that is to be a failure
/// (`must_be_read`). The addresses are those bound, with the ports that the kernel chose.
///
/// # Errors
/// Standard output takes nothing, and must.
pub fn banner(
    config: &Config,
    features: &Features,
    (connections_max, capacity): (u32, &Capacity),
    clients: &[SocketAddr],
    admin: &[SocketAddr],
    workers: &[String],
    must_be_read: bool,
) -> io::Result<()> {
    let kernel = format!("{}: {features}", machine::kernel());
    let addresses = report::Addresses { clients, admin, workers };
    let text = report::banner(config, &kernel, connections_max, capacity, &addresses);
    if must_be_read {
        return say::output(&text);
    }
    say::announce(text);
    Ok(())
}

/// What `roost-gateway check` prints, and whether the gateway could start and hold what is
/// configured. `wrong`: how much of the configuration had to be refused, and has been printed.
///
/// `rehearse` makes what a start makes for so many connections, and gives it back. `unresolved` says
/// which workers' names have no address now.
pub fn check(
    loaded: &Loaded,
    wrong: usize,
    rehearse: impl FnOnce(&Config, &Features, u32) -> Result<()>,
    unresolved: impl FnOnce(&Config) -> Vec<String>,
) -> (String, bool) {
    let config = &loaded.config;
    let max = match config.features_max.as_ref().value() {
        None => Ok(FeaturesMax::default()),
        Some(text) => text.parse::<FeaturesMax>(),
    };
    let features = max.and_then(|max| Features::detect(max).map_err(|error| error.to_string()));
    let mut findings = start::look(loaded, unresolved);
    let weighed = features.as_ref().ok().map(|features| Weighed::here(config, features, None));
    if let (Ok(features), Some(Weighed { demand, capacity, .. })) = (&features, &weighed)
        && wrong == 0
        && capacity.refusal(demand.shards).is_none()
    {
        let connections = u32::try_from(capacity.connections()).expect("at most 2^24");
        if let Err(error) = rehearse(config, features, connections) {
            findings.shared_fault(format!("{error:#}"));
        }
    }
    let kernel = features.map(|features| {
        let findings = features.findings().iter().map(ToString::to_string).collect();
        report::Kernel { summary: features.to_string(), findings }
    });
    let seen = report::Seen { loaded, wrong, kernel, release: machine::kernel(), weighed, findings };
    report::check(&seen)
}
