//! What the core needs to know, as plain numbers; the shell fills it from its configuration.

use std::sync::Arc;

use ipnet::IpNet;
use roost_protocol::{InstanceId, edge, link};

use crate::core::{
    bounds::Bounds,
    limits::{Cap, PerIp},
    listener::{Framing, ListenerConfig},
};

/// What becomes of a client when no worker is up, be it new or its worker given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoWorkerPolicy {
    /// It waits, unread, until a worker is up, for the time of a handshake at most.
    Wait,
    /// GOAWAY with `no_worker` and a retry-after.
    Refuse,
}

/// A worker as the core knows it; its address is the driver's business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerConfig {
    /// The name that the rendezvous choice hashes.
    pub name: String,
    /// Whether the link proves the secret (not over loopback or Unix sockets, unless one is set).
    pub secret: Option<Vec<u8>>,
}

/// The configuration of one shard's core. Times in milliseconds, sizes in bytes; 0 turns a limit
/// off where it says so.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// This shard's index.
    pub shard: u8,
    /// How many shards there are.
    pub shards: u16,
    /// This run of the gateway.
    pub gateway: InstanceId,
    /// Slots of this shard: its share of the connections, and of those that are only told to go.
    pub slots_max: u32,
    /// Connections of all shards beyond which clients are answered with GOAWAY; none: they stay
    /// in the backlog when the slots are taken.
    pub cap: Option<Arc<Cap>>,
    /// The driver's listeners, at most [`LISTENERS_MAX`].
    ///
    /// [`LISTENERS_MAX`]: crate::core::record::LISTENERS_MAX
    pub listeners: Vec<ListenerConfig>,
    /// Whether it can be told how many clients wait on a listener, as with TCP; if not, as many accepts
    /// as allowed are kept armed.
    pub counts_waiting: bool,
    /// Accepts armed per listener, at most.
    pub accepts_max: u32,
    /// Whether accepting begins at once; otherwise with `Command::StartAccepting`.
    pub accepts_at_start: bool,
    /// Whose PROXY headers are believed.
    pub proxy_trusted: Vec<IpNet>,
    /// Connections per address, shared by all shards; none: no limit.
    pub per_ip: Option<Arc<PerIp>>,
    /// Connections accepted per second; 0: no limit.
    pub accept_ramp_per_s: u32,
    /// The workers. At the start link i goes to worker i; later the core says whose link is which.
    pub workers: Vec<WorkerConfig>,
    /// See [`NoWorkerPolicy`].
    pub no_worker: NoWorkerPolicy,
    /// Time from accept to a complete HELLO, and from there to a worker's answer.
    pub handshake_timeout_ms: u32,
    /// Silence after which a client is closed; 0: never.
    pub idle_timeout_ms: u32,
    /// What WELCOME asks for, and how often a blocked client gets a PONG; 0: none.
    pub heartbeat_interval_ms: u32,
    /// How long a frame may stay incomplete.
    pub frame_timeout_ms: u32,
    /// How long a client may take none of what is queued for it.
    pub write_timeout_ms: u32,
    /// How long a closed client is listened to before its socket is closed.
    pub linger_ms: u32,
    /// Largest payload of a MESSAGE.
    pub frame_bytes_max: u32,
    /// Receive buffers for clients: how many receives can be in the kernel at once.
    pub rx_blocks: u32,
    /// Largest backlog of one client.
    pub outbox_bytes_max: u32,
    /// Memory for all backlogs of the shard.
    pub outbox_bytes_total: u64,
    /// Memory for all incomplete frames of the shard.
    pub spill_bytes_total: u64,
    /// What a worker may send without acknowledgement, and the most retained for it but for the
    /// frame that fills it, whatever it grants.
    pub link_window_bytes: u32,
    /// Bytes of a block of a link's send queue.
    pub link_tx_block_bytes: u32,
    /// What link queues share for frames that cannot wait for a window, in percent of what a round of
    /// moves and a failover of every link take.
    pub link_shared_percent: u32,
    /// Absence after which a worker's connections go elsewhere; also, how long a worker that lives may
    /// owe the answer to CLOSED(moved).
    pub link_failover_ms: u32,
    /// First and longest pause between dials; the pause doubles and is jittered.
    pub link_redial_ms: (u32, u32),
    /// First and longest time for which a worker is not dialled that is given up again and again
    /// while others serve; it doubles with each further time.
    pub link_hold_ms: (u32, u32),
    /// Silence after which a link is probed, and after twice that declared broken; 0: never.
    pub link_keepalive_ms: u32,
    /// Messages per second and connection; 0: no limit.
    pub messages_per_s_max: u32,
    /// PINGs and PONGs per second and connection; 0: no limit.
    pub control_frames_per_s_max: u32,
    /// Retry-after of refusals: uniformly from this range.
    pub retry_after_ms: (u32, u32),
    /// How much a turn does.
    pub bounds: Bounds,
}

impl CoreConfig {
    /// What the gateway has as `link_hold_ms`.
    pub const LINK_HOLD_MS: (u32, u32) = (1_000, 60_000);
    /// Bytes of a client receive buffer.
    pub const RX_BLOCK_BYTES: u32 = 16 * 1024;
    /// What the gateway has of client receive buffers per shard. A burst touches a page of each, and
    /// what is touched counts per connection.
    pub const RX_BLOCKS: u32 = 64;
    /// Bytes of a chunk of an outbox or a spill.
    pub const CHUNK_BYTES: u32 = 2 * 1024;
    /// What the gateway has of bytes in a block of a link's send queue.
    pub const LINK_TX_BLOCK_BYTES: u32 = 64 * 1024;

    /// Safe defaults for tests and a lone shard; the shell's defaults are documented in
    /// `roost.example.toml`.
    pub fn lone(slots_max: u32, workers: Vec<WorkerConfig>) -> Self {
        Self {
            shard: 0,
            shards: 1,
            gateway: InstanceId([1; 16]),
            slots_max,
            cap: None,
            listeners: vec![ListenerConfig::default()],
            counts_waiting: false,
            accepts_max: 64,
            accepts_at_start: true,
            proxy_trusted: Vec::new(),
            per_ip: None,
            accept_ramp_per_s: 0,
            workers,
            no_worker: NoWorkerPolicy::Wait,
            handshake_timeout_ms: 10_000,
            idle_timeout_ms: 150_000,
            heartbeat_interval_ms: 60_000,
            frame_timeout_ms: 30_000,
            write_timeout_ms: 20_000,
            linger_ms: 1_000,
            frame_bytes_max: edge::FRAME_BYTES_MAX_DEFAULT,
            rx_blocks: Self::RX_BLOCKS,
            outbox_bytes_max: 1024 * 1024,
            outbox_bytes_total: 64 * 1024 * 1024,
            spill_bytes_total: 64 * 1024 * 1024,
            link_window_bytes: link::WINDOW_BYTES_DEFAULT,
            link_tx_block_bytes: Self::LINK_TX_BLOCK_BYTES,
            link_shared_percent: 100,
            link_failover_ms: 10_000,
            link_redial_ms: (50, 2_000),
            link_hold_ms: Self::LINK_HOLD_MS,
            link_keepalive_ms: 10_000,
            messages_per_s_max: 0,
            control_frames_per_s_max: 0,
            retry_after_ms: (1_000, 5_000),
            bounds: Bounds::GATEWAY,
        }
    }

    /// Of the memory for backlogs, what only the gateway's own small frames may take (WELCOME, PONG to
    /// a client with next to nothing queued, GOAWAY), in bytes.
    pub const fn outbox_reserve_bytes(outbox_bytes_total: u64) -> u64 {
        let part = outbox_bytes_total / 16;
        if part < 512 * 1024 { part } else { 512 * 1024 }
    }

    /// How the clients of a listener mark frames.
    pub(crate) fn framing(&self, listener: u16) -> Framing {
        self.listeners.get(usize::from(listener)).map_or_else(Framing::default, |listener| listener.framing)
    }

    /// The longest link payload, both directions.
    pub const fn link_payload_bytes_max(&self) -> u32 {
        link::payload_bytes_max(self.frame_bytes_max)
    }
}
