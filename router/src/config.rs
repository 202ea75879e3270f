//! What a worker needs to know, as plain numbers.

use std::ops::RangeInclusive;

use roost_protocol::link;

/// How many times its gateway's `link_failover_ms` a session is kept without a TCP connection (SPEC.md,
/// 3.3).
pub const SESSION_TTL_FAILOVERS: u64 = 6;
/// Between which a session is kept, in milliseconds, whatever its gateway states.
pub const SESSION_TTL_MS: RangeInclusive<u64> = 1_000..=3_600_000;

/// The configuration of a worker. Times in milliseconds, sizes in bytes.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// The link secret, at least 16 bytes; none: links are taken from whoever can reach a listener.
    pub secret: Option<Vec<u8>>,
    /// What a gateway may send without acknowledgement. Raised to the largest frame of a gateway
    /// that allows larger ones.
    pub window_bytes: u32,
    /// Bytes queued for a link beyond what its window lets out; above this the worker stops
    /// handling the frames that cause them.
    pub pending_bytes_max: usize,
    /// Bytes that one call of the handler, or one push, may queue in all; one frame on each link it may in
    /// any case. No link's queue grows beyond `pending_bytes_max` and the larger of this and one frame.
    pub call_bytes_max: usize,
    /// How long a session without a TCP connection is kept for its gateway to come back. Should
    /// be longer than the gateways' `link_failover_ms`. None: [`SESSION_TTL_FAILOVERS`] times what the
    /// session's gateway states as that, within [`SESSION_TTL_MS`].
    pub session_ttl_ms: Option<u64>,
    /// Silence after which a link is probed, and after twice that given up; 0: never.
    pub keepalive_ms: u64,
    /// Time from accept to a complete handshake.
    pub handshake_timeout_ms: u64,
    /// Connections in the handshake at the same time; beyond, the oldest of them is ended.
    pub handshakes_max: usize,
    /// Link sessions at the same time; links beyond are refused.
    pub sessions_max: usize,
    /// Pushes of [`WorkerHandle`](crate::WorkerHandle)s that may wait for the worker.
    pub pushes_max: usize,
    /// Bytes of their payloads that may wait.
    pub push_bytes_max: usize,
    /// Timers that may be set at the same time; each takes at most 72 bytes.
    pub timers_max: usize,
    /// Bytes that topics may take: 100 for each membership, 128 and its name for each topic.
    pub topic_bytes_max: usize,
    /// Open connections that a key may have here; 0: any number.
    pub connections_per_key_max: usize,
    /// What becomes of one more.
    pub connections_per_key_policy: KeyPolicy,
    /// How long a draining worker waits for its connections to leave.
    pub drain_ms: u64,
}

/// What becomes of a connection that opens while its key has
/// [`connections_per_key_max`](WorkerConfig::connections_per_key_max) of them.
///
/// A connection that moves here from another worker and is one too many is closed, whichever it is: those
/// that have opened here since are younger. As all connections of a key are served by one worker, the bound
/// holds for the fleet once moves have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyPolicy {
    /// It opens when the handler accepts it, and the oldest is closed (`worker_closed`).
    #[default]
    CloseOldest,
    /// It is refused (`worker_rejected`), before the handler hears of it.
    RefuseNewest,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            secret: None,
            window_bytes: link::WINDOW_BYTES_DEFAULT,
            pending_bytes_max: 1024 * 1024,
            call_bytes_max: 8 * 1024 * 1024,
            session_ttl_ms: None,
            keepalive_ms: 10_000,
            handshake_timeout_ms: 5_000,
            handshakes_max: 256,
            sessions_max: 1_024,
            pushes_max: 4_096,
            push_bytes_max: 16 * 1024 * 1024,
            timers_max: 100_000,
            topic_bytes_max: 128 * 1024 * 1024,
            connections_per_key_max: 0,
            connections_per_key_policy: KeyPolicy::CloseOldest,
            drain_ms: 30_000,
        }
    }
}
