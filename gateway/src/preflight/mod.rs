//! What this machine can hold, which setting limits it, and how to lift that.
//!
//! * [`machine`]: what the kernel says about limits and memory, read from `/proc` and `/sys`.
//! * [`cost`]: what a connection costs, as measured.
//! * [`capacity`]: the arithmetic between the two; pure.
//! * [`report`]: the lines for people: `roost-gateway check` and the banner at start.

pub mod capacity;
pub mod cost;
pub mod machine;
pub mod report;

use std::net::SocketAddr;

use anyhow::{Result, bail};

pub use capacity::{Capacity, Demand, Limit};
pub use machine::{Machine, raise_nofile};

use crate::{
    config::{Config, Loaded},
    ring::{Features, FeaturesMax},
    run,
};

/// Raises the limit on open files and says how many connections the gateway is to hold: the
/// configured number, or what the machine can hold.
///
/// More than the machine can hold is logged and tried all the same, since memory may become free;
/// more than its descriptors allow is not.
///
/// # Errors
/// There is room for no connection at all, or for fewer descriptors than configured.
pub fn connections_max(config: &Config, features: &Features) -> Result<u32> {
    if let Err(error) = raise_nofile() {
        tracing::warn!(%error, "the soft limit on open files stays below the hard one");
    }
    let machine = Machine::read();
    let capacity = Capacity::of(&machine, &Demand::of(config, machine.cores, features.direct()));
    let tightest = &capacity.limits[0];
    if let Some(wanted) = capacity.wanted
        && !capacity.suffices()
    {
        let (name, allows, lift) = (&tightest.name, tightest.connections, &tightest.lift);
        if tightest.hard {
            bail!("connections_max = {wanted}, but {name} allows {allows}: {lift}");
        }
        tracing::warn!(wanted, allows, limit = %name, remedy = %lift, "more than this machine can hold");
    }
    if capacity.connections() < Demand::of(config, machine.cores, features.direct()).shards {
        bail!(
            "no room for a connection per shard, {} allows {}: {}",
            tightest.name,
            tightest.connections,
            tightest.lift
        );
    }
    Ok(u32::try_from(capacity.connections()).expect("at most 2^24"))
}

/// Prints the lines at start. The addresses are those bound, with the ports that the kernel chose.
pub fn banner(
    config: &Config,
    features: &Features,
    connections_max: u32,
    clients: &[SocketAddr],
    admin: &[SocketAddr],
    workers: &[String],
) {
    let machine = Machine::read();
    let capacity = Capacity::of(&machine, &Demand::of(config, machine.cores, features.direct()));
    let kernel = format!("{}: {features}", machine.kernel);
    let addresses = report::Addresses { clients, admin, workers };
    print!("{}", report::banner(config, &kernel, connections_max, &capacity, &addresses));
}

/// What `roost-gateway check` prints, and whether the gateway could start and hold what is
/// configured.
pub fn check(loaded: &Loaded) -> (String, bool) {
    let mut loaded = loaded.clone();
    loaded.warnings.extend(run::unresolved(&loaded.config));
    let loaded = &loaded;
    // What cannot be raised shows in the table.
    drop(raise_nofile());
    let machine = Machine::read();
    let max = match &loaded.config.features_max.as_ref().value() {
        None => Ok(FeaturesMax::default()),
        Some(text) => text.parse::<FeaturesMax>(),
    };
    let features = max.and_then(|max| Features::detect(max).map_err(|error| error.to_string()));
    let kernel = features.as_ref().map(|features| {
        let findings = features.findings().iter().map(ToString::to_string).collect();
        report::Kernel { summary: features.to_string(), findings, direct: features.direct() }
    });
    report::check(loaded, &machine, &kernel.map_err(Clone::clone))
}
