//! What a running gateway consists of; [`super::signals`], [`super::succession`] and [`super::drain`] act on it.

use std::{
    net::{SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    Fleet,
    caught::CaughtSignals,
    handover::{HandoverServer, Predecessor, Successor},
    listeners::Listening,
    names::Names,
};
use crate::{
    admin::Admin,
    config::{Config, Options},
    core::CoreConfig,
    logging::LevelHandle,
    preflight::Capacity,
};

/// How often signals, successors and the progress of a drain are looked at.
pub(super) const LOOK: Duration = Duration::from_millis(20);

/// A gateway that runs.
pub(super) struct Running<'a> {
    pub(super) config: Config,
    pub(super) core: CoreConfig,
    pub(super) connections_max: u32,
    pub(super) fleet: &'a Fleet,
    /// How `connections_max` was found.
    pub(super) capacity: Capacity,
    pub(super) names: &'a Names,
    /// Empty when they are closed.
    pub(super) listeners: Vec<Listening>,
    /// Where successors call.
    pub(super) server: Option<HandoverServer>,
    /// How far its own start is.
    pub(super) entry: Entry,
    /// Whom this process succeeds, until it has let go of the listeners.
    pub(super) predecessor: Option<Predecessor>,
    /// Who succeeds this process, until it has let go of the listeners.
    pub(super) successor: Option<Successor>,
    /// None when a successor has its addresses.
    pub(super) admin: Option<Admin>,
    pub(super) admin_sockets: AdminSockets,
    pub(super) options: &'a Options,
    pub(super) log_level: &'a LevelHandle,
    pub(super) signals: CaughtSignals,
}

/// How far this process's own start is.
#[derive(Debug)]
pub(super) enum Entry {
    /// A worker must be up on every shard, before the predecessor is asked to end.
    WaitsForWorker { until: Instant },
    /// The predecessor was told that everything is done.
    Asks { until: Instant },
    /// It serves.
    Serves { since: Instant, said_alive: bool },
}

/// What is served from when this process may serve on.
#[derive(Debug, Default)]
pub(super) struct AdminSockets {
    /// Its own: from when it serves.
    pub(super) own: Vec<TcpListener>,
    /// The predecessor's: from when that has let go of them.
    pub(super) inherited: Vec<TcpListener>,
}

impl AdminSockets {
    /// Those of the configured addresses: a predecessor's where it has them. Port 0 is a new port.
    ///
    /// # Errors
    /// An address cannot be bound.
    pub(super) fn open(addresses: &[SocketAddr], mut inherited: Vec<TcpListener>) -> Result<Self> {
        let mut sockets = Self::default();
        for address in addresses {
            let found =
                inherited.iter().position(|socket| socket.local_addr().is_ok_and(|is| is == *address));
            match found {
                Some(at) => sockets.inherited.push(inherited.remove(at)),
                None => sockets.own.push(crate::admin::bind(address)?),
            }
        }
        Ok(sockets)
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.own.iter().chain(&self.inherited).filter_map(|socket| socket.local_addr().ok()).collect()
    }
}
