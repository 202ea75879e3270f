//! What a gateway states of itself in LINK_HELLO.

use roost_protocol::{InstanceId, link::LinkHello};

use crate::config::{SESSION_TTL_FAILOVERS, SESSION_TTL_MS};

/// A gateway shard, as it states itself in LINK_HELLO (SPEC.md, 3.2). Times are its configuration, in
/// milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gateway {
    /// This run of the gateway.
    pub instance: InstanceId,
    /// Which of its shards.
    pub shard: u16,
    /// How many it has.
    pub shards: u16,
    /// The longest payload of a message, in bytes.
    pub frame_bytes_max: u32,
    /// Optional features that it understands, a bit each; this version defines none.
    pub capabilities: u32,
    /// After how much silence it gives this worker up.
    pub link_failover_ms: u32,
    /// After how much silence it probes this worker; 0: never.
    pub link_keepalive_ms: u32,
    /// After how much silence it closes a client; 0: never.
    pub idle_timeout_ms: u32,
    /// Messages per second that a client may send; 0: no limit.
    pub messages_per_s_max: u32,
}

impl Gateway {
    pub(super) const fn of(hello: &LinkHello) -> Self {
        Self {
            instance: hello.gateway,
            shard: hello.shard,
            shards: hello.shards,
            frame_bytes_max: hello.frame_bytes_max,
            capabilities: hello.capabilities,
            link_failover_ms: hello.link_failover_ms,
            link_keepalive_ms: hello.link_keepalive_ms,
            idle_timeout_ms: hello.idle_timeout_ms,
            messages_per_s_max: hello.messages_per_s_max,
        }
    }

    /// How long its session is kept without a TCP connection, where no option says otherwise.
    pub(super) fn session_ttl_ms(&self) -> u64 {
        let (least_ms, most_ms) = SESSION_TTL_MS.into_inner();
        (u64::from(self.link_failover_ms) * SESSION_TTL_FAILOVERS).clamp(least_ms, most_ms)
    }
}
