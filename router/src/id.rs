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
