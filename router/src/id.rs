//! How an application names links and clients.

use roost_protocol::ConnectionId;

/// Names a link session of this worker; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinkId {
    pub(crate) index: u32,
    pub(crate) serial: u32,
}

/// Names a connection: connection ids are unique within one gateway only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    /// The session over which it is reached.
    pub link: LinkId,
    /// Its id there.
    pub connection: ConnectionId,
}

/// Where a relayed payload came from: one session of one worker with one gateway shard. It names nothing
/// once that session has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The session here over which the payload came.
    pub link: LinkId,
    /// What the gateway calls the other worker's session.
    pub(crate) session: u64,
}
