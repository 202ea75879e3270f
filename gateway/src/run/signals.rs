//! Signals: SIGTERM and SIGINT drain, a second one hurries, SIGHUP reloads.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use super::Fleet;
use crate::{
    config::Config,
    core::{Command, stats::Stat},
    shard::Request,
};

/// How often the progress of a drain is looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How much longer than `drain_ms` a drain may take: sockets linger, links flush.
const GRACE: Duration = Duration::from_secs(3);

/// Serves signals until the gateway has drained.
pub(super) fn serve(config: &Config, fleet: &Fleet) -> Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).context("signals cannot be caught")?;
    loop {
        // Polled, not waited for, so that a shard that died is noticed, too.
        for signal in signals.pending() {
            match signal {
                SIGHUP => tracing::info!("SIGHUP: nothing has changed"),
                _ => return drain(config, fleet, &mut signals),
            }
        }
        if fleet.has_ended() {
            bail!("a shard has ended unexpectedly; the log has more");
        }
        thread::sleep(LOOK);
    }
}

fn drain(config: &Config, fleet: &Fleet, signals: &mut Signals) -> Result<()> {
    let over_ms = config.drain_ms.saturating_sub(GRACE.as_millis() as u32 / 2);
    tracing::info!(over_ms, connections = sum(fleet, Stat::Connections), "draining");
    command(fleet, &Command::Drain { over_ms });
    let mut until = Instant::now() + Duration::from_millis(u64::from(config.drain_ms)) + GRACE;
    let mut hurried = false;
    while Instant::now() < until {
        let left = sum(fleet, Stat::Connections);
        if left == 0 && sum(fleet, Stat::LinkRetainedBytes) == 0 {
            tracing::info!("drained");
            return Ok(());
        }
        if signals.pending().any(|signal| signal != SIGHUP) && !hurried {
            tracing::info!(left, "hurrying");
            hurried = true;
            command(fleet, &Command::Drain { over_ms: 0 });
            until = Instant::now() + GRACE;
        }
        thread::sleep(LOOK);
    }
    tracing::warn!(left = sum(fleet, Stat::Connections), "drain_ms is over: closing the rest");
    Ok(())
}

fn command(fleet: &Fleet, command: &Command) {
    for handle in fleet.control() {
        handle.send(Request::Command(command.clone()));
    }
}

fn sum(fleet: &Fleet, stat: Stat) -> u64 {
    fleet.control().iter().map(|handle| handle.stats().get(stat)).sum()
}
