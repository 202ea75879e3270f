//! What a connection costs. Every figure was measured; docs/operations.md has the commands.

/// Kernel memory of one idle established connection with its parked poll, in bytes: socket, inode,
/// file, dentry, poll request, and its share of rings and file tables. Slab objects counted at
/// 100,000 to 5,500,000 connections on Linux 6.18: 4,155 to 4,160.
pub const KERNEL_BYTES: u64 = 4_160;

/// Most that the gateway's own memory grows by per idle connection, in bytes: the record, its
/// columns, and the share of rings and pools. The measured figure must stay below this bound, or
/// the memory test fails.
pub const USER_BYTES: u64 = 64;

/// Descriptors of the process whatever is configured: standard streams, signals, the runtime of the
/// admin side, the hand-over's sockets, resolvers, and some to spare.
pub const FDS_BASE: u64 = 40;

/// Connections of the admin side (`admin`'s places), each with a descriptor.
pub const FDS_ADMIN: u64 = 64;

/// Workers that may come by a reload, beyond those named at the start, for which there are descriptors.
pub const WORKERS_SPARE: u64 = 8;

/// Descriptors of the worker inside: its ring, its listener, what wakes it.
pub const FDS_EMBEDDED: u64 = 6;

/// Descriptors per ring: the ring and its eventfd.
pub const FDS_PER_RING: u64 = 2;

/// Chains of the established-connections hash longer than this cost more than the rest of the
/// packet's way: with 3,000,000 connections in 262,144 buckets (11 each) the ramp took 65 s
/// instead of 30 s, and 30,000 echoes per second went from 131 us to 486 ms at the median.
pub const HASH_CHAIN_MAX: u64 = 4;

/// Share of the memory that `auto` leaves alone, as a divisor: page cache, other processes, and
/// data in flight need it.
pub const RESERVE_DIVISOR: u64 = 12;

/// Least that `auto` leaves alone, in bytes.
pub const RESERVE_BYTES_MIN: u64 = 128 * 1024 * 1024;

/// Kernel memory of one pending unread message of 64 bytes, in bytes.
pub const PENDING_MESSAGE_BYTES: u64 = 1_100;
