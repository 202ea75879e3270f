//! How other threads talk to a shard: requests over a channel, and a wake-up of its ring.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, unbounded};
use roost_protocol::ConnectionId;

use super::Target;
use crate::{
    core::{Command, ConnectionInfo, CoreConfig, stats::ShardStats},
    op::{LinkAddress, Waker},
};

/// What a shard can be asked.
#[derive(Debug)]
pub enum Request {
    /// Run with this from now on; where every worker is, by its name.
    Configure(Box<CoreConfig>, Vec<(String, Target)>),
    /// This `HOST:PORT` leads to these addresses from now on.
    Addresses(Arc<str>, Arc<[LinkAddress]>),
    /// Carry out a command.
    Command(Command),
    /// Say what is known of a connection.
    LookUp(ConnectionId, Sender<Option<ConnectionInfo>>),
    /// List up to `count` connections from a slot on.
    Sample {
        /// First slot.
        from_slot: u32,
        /// How many at most.
        count: usize,
        /// Where the answer goes.
        reply: Sender<Vec<ConnectionInfo>>,
    },
    /// Stop accepting for good, close the listeners when no accept is in the kernel any more, and
    /// then say so.
    CloseListeners(Sender<()>),
    /// End the loop.
    Stop,
}

/// A shard as other threads see it.
#[derive(Clone, Debug)]
pub struct ShardHandle {
    requests: Sender<Request>,
    waker: Waker,
    stats: Arc<ShardStats>,
}

/// The channel of a shard: its receiver goes into the loop, its sender into the handle.
pub fn channel() -> (Sender<Request>, Receiver<Request>) {
    unbounded()
}

impl ShardHandle {
    /// A handle for the shard whose driver gave `waker`.
    pub fn new(requests: Sender<Request>, waker: Waker, stats: Arc<ShardStats>) -> Self {
        Self { requests, waker, stats }
    }

    /// Sends a request and wakes the shard. A shard that has ended ignores it.
    pub fn send(&self, request: Request) {
        if self.requests.send(request).is_ok() {
            self.waker.wake();
        }
    }

    /// The shard's figures.
    pub fn stats(&self) -> &Arc<ShardStats> {
        &self.stats
    }
}
