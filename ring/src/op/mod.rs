//! The vocabulary between the pure core, the shard loop and a ring driver: plain values.
//!
//! The core asks for [`Op`]s through [`Io`] and never sees a descriptor; a driver executes them
//! and never sees a frame. Both import this module and nothing of each other.

mod driver;
mod peer;
mod token;
mod users;

pub use driver::{Driver, Io, LinkAddress, Wait, Waker};
pub use peer::Peer;
pub use token::Token;
pub use users::{BlockUsers, Misuse};

/// One socket as the core names it; which descriptor stands behind it is the driver's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sock {
    /// The client in this slot of the connection table.
    Client(u32),
    /// The TCP or Unix connection of this link.
    Link(u16),
}

/// A fixed-size buffer of the driver's memory: a class and an index within it.
///
/// Which blocks are free is the core's knowledge (`core::pool`); the driver owns the memory,
/// maps it lazily, and refuses to hand out bytes that the kernel is using.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Block(u32);

impl Block {
    /// Blocks per class that a handle can name.
    pub const INDEX_MAX: u32 = (1 << 28) - 1;

    /// A handle. Panics if class or index do not fit.
    #[inline]
    pub const fn new(class: u8, index: u32) -> Self {
        assert!(class < 16 && index <= Self::INDEX_MAX);
        Self((class as u32) << 28 | index)
    }

    /// The handle as a number, for a token to carry.
    #[inline]
    pub const fn to_bits(self) -> u32 {
        self.0
    }

    /// The handle with this number. Any number is one.
    #[inline]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// The class, an index into the driver's pool specification.
    #[inline]
    pub const fn class(self) -> usize {
        (self.0 >> 28) as usize
    }

    /// The index within the class.
    #[inline]
    pub const fn index(self) -> u32 {
        self.0 & Self::INDEX_MAX
    }
}

/// One class of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSpec {
    /// Bytes of one block.
    pub block_bytes: u32,
    /// How many blocks there are; memory is only used by those that have been touched.
    pub blocks: u32,
}

/// What a poll waits for. Errors and hang-ups are always reported (poll(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Bytes, the peer's end of stream, or an error.
    Readable,
    /// Room in the send buffer, or an error.
    Writable,
    /// The peer's end of stream, or an error; not bytes.
    Ended,
}

/// Bits of a poll's result, as poll(2) has them.
pub mod poll_bits {
    /// Bytes or end of stream to read.
    pub const IN: i32 = 0x1;
    /// Room to write.
    pub const OUT: i32 = 0x4;
    /// An error is pending on the socket.
    pub const ERR: i32 = 0x8;
    /// Both directions are shut.
    pub const HUP: i32 = 0x10;
    /// The peer shut its sending side.
    pub const RDHUP: i32 = 0x2000;
}

/// Errnos that the core acts on, as negative results (errno(3), Linux x86-64 and AArch64).
pub mod errno {
    /// Too early or nothing there now.
    pub const EAGAIN: i32 = 11;
    /// Out of memory.
    pub const ENOMEM: i32 = 12;
    /// Out of file descriptors, system-wide.
    pub const ENFILE: i32 = 23;
    /// Out of file descriptors, in this process.
    pub const EMFILE: i32 = 24;
    /// Writing to a shut connection.
    pub const EPIPE: i32 = 32;
    /// Software caused connection abort.
    pub const ECONNABORTED: i32 = 103;
    /// The peer reset the connection.
    pub const ECONNRESET: i32 = 104;
    /// The link is connected to itself: nobody listens at a port of this host that the kernel gave the
    /// link as its own.
    pub const ELOOP: i32 = 40;
    /// The link has no address.
    pub const EDESTADDRREQ: i32 = 89;
    /// Out of socket buffers.
    pub const ENOBUFS: i32 = 105;
    /// It is not supported, or cannot be told.
    pub const EOPNOTSUPP: i32 = 95;
    /// The socket is not connected.
    pub const ENOTCONN: i32 = 107;
    /// The peer stopped answering.
    pub const ETIMEDOUT: i32 = 110;
    /// Nobody listens there.
    pub const ECONNREFUSED: i32 = 111;
    /// The operation was cancelled.
    pub const ECANCELED: i32 = 125;
    /// No such request (of a cancel).
    pub const ENOENT: i32 = 2;
    /// The request is running already (of a cancel).
    pub const EALREADY: i32 = 114;
    /// Interrupted.
    pub const EINTR: i32 = 4;
}

/// One operation. All refer to client slots and links by index and to memory by block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Wait for a client on `listener` and install it in `slot`, which must be free. Result 0; the
    /// completion has the peer's address.
    Accept {
        /// Where the connection goes.
        slot: u32,
        /// Index into the driver's listeners.
        listener: u16,
        /// Whether a client is likely to wait already: what is cheaper then is dearer if none does.
        expected: bool,
    },
    /// Count the clients that wait on `listener` for an accept; others may accept them, too. Result:
    /// how many, or `-EOPNOTSUPP` if that cannot be told. Ends in the next turn.
    CountWaiting {
        /// Index into the driver's listeners.
        listener: u16,
    },
    /// One-shot poll; the result is a set of [`poll_bits`].
    Poll {
        /// The socket.
        sock: Sock,
        /// What to wait for.
        interest: Interest,
    },
    /// Receive into `block[offset..offset + len]`. Result: bytes, 0 at the end of the stream.
    Recv {
        /// The socket.
        sock: Sock,
        /// Where to.
        block: Block,
        /// First byte within the block.
        offset: u32,
        /// Room, in bytes.
        len: u32,
        /// False: answer `-EAGAIN` at once when nothing is there (MSG_DONTWAIT).
        wait: bool,
    },
    /// Send `block[offset..offset + len]`. Result: bytes taken, perhaps fewer.
    Send {
        /// The socket.
        sock: Sock,
        /// Where from.
        block: Block,
        /// First byte within the block.
        offset: u32,
        /// How many bytes.
        len: u32,
        /// False: take what fits now or answer `-EAGAIN` (MSG_DONTWAIT).
        wait: bool,
    },
    /// Connect a link to the address that [`Driver::set_link_address`] gave it last. Result 0;
    /// `-EDESTADDRREQ` if it has none, `-ELOOP` if the socket came to be connected to itself: closing it
    /// then resets it, so that it does not keep the port.
    Connect {
        /// The link.
        link: u16,
    },
    /// Shut down the sending side. Runs in a kernel worker: keep few in flight.
    Shutdown {
        /// The socket.
        sock: Sock,
    },
    /// Close the socket. Only when no other op of it is in the kernel: join first.
    Close {
        /// The socket.
        sock: Sock,
    },
    /// Cancel the op that was submitted with `target` for `sock`, by its user_data. The result
    /// of the cancel itself is 0, `-ENOENT` or `-EALREADY`; the target completes in any case,
    /// perhaps with success.
    Cancel {
        /// The socket whose ring runs the target.
        sock: Sock,
        /// The op to cancel.
        target: Token,
    },
}

/// What became of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The token it was submitted with.
    pub token: Token,
    /// Non-negative: success, meaning by op. Negative: an errno.
    pub result: i32,
    /// Of an accept: where the client comes from.
    pub peer: Peer,
}

// Two to a cache line: a turn may bring a thousand.
const _: () = assert!(size_of::<Completion>() == 32);

impl Completion {
    /// A completion of anything but a successful accept.
    #[inline]
    pub fn new(token: Token, result: i32) -> Self {
        Self { token, result, peer: Peer::default() }
    }
}
