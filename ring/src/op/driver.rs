//! The seams: [`Io`] is all that the core sees of the world, [`Driver`] is what the shard loop
//! drives. The io_uring driver and the simulation's fake implement both.

use std::{fmt, io, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use super::{Block, Completion, Op, Token};

/// Where a link goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkAddress {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix stream socket.
    Unix(PathBuf),
}

impl fmt::Display for LinkAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// How long [`Driver::turn`] may wait for a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: there is more to do.
    No,
    /// At most this long.
    AtMost(Duration),
    /// The same under load: completions may gather, so that a turn is worth its price.
    Gather {
        /// The longest wait for the first completion.
        at_most: Duration,
        /// How long a driver may wait for [`Wait::GATHERED`] completions although it has fewer.
        /// It does not when ops were queued that complete at once and lead to more.
        gather: Duration,
    },
}

impl Wait {
    /// Completions that are worth a turn.
    pub const GATHERED: usize = 64;
}

/// What the core asks of the world.
pub trait Io {
    /// Queues an op. It takes effect at the next [`Driver::turn`] at the latest, in order per
    /// socket. Never fails: what cannot be done comes back as a completion with an errno.
    ///
    /// Until that completion, the op's block bytes belong to the kernel: sends may share a block
    /// with readers, a receive may not.
    fn submit(&mut self, token: Token, op: Op);

    /// A block's bytes. Panics while a receive into the block is in the kernel.
    fn block(&self, block: Block) -> &[u8];

    /// A block's bytes for writing. Panics while any op on the block is in the kernel.
    fn block_mut(&mut self, block: Block) -> &mut [u8];

    /// Writes to part of a block of which the kernel may be sending *other* parts: the caller
    /// promises that `offset..offset + bytes.len()` overlaps no send in flight (a driver checks
    /// at least that the block has no receive in flight and the range lies within the block).
    fn write(&mut self, block: Block, offset: u32, bytes: &[u8]);

    /// Copies `len` bytes from one block to another, under the rules of [`Self::block`] for `from`
    /// and of [`Self::write`] for `to`. Drivers override this to copy without a detour.
    fn copy(&mut self, from: Block, from_offset: u32, len: u32, to: Block, to_offset: u32) {
        let bytes = self.block(from)[from_offset as usize..][..len as usize].to_vec();
        self.write(to, to_offset, &bytes);
    }
}

/// What the shard loop asks of a driver, besides [`Io`].
pub trait Driver: Io {
    /// Submits what is queued, waits for a completion or the deadline, and appends the
    /// completions that are there to `completions`, at most a bounded number.
    ///
    /// Returns early, possibly with nothing, when a [`Waker`] was used: then a completion with
    /// [`Token::WAKE`] is among them.
    fn turn(&mut self, wait: Wait, completions: &mut Vec<Completion>) -> io::Result<()>;

    /// Whether completions are there that the last [`Self::turn`] did not give.
    fn has_more(&mut self) -> bool;

    /// How many slots have a ring behind them; ops on slots beyond are a bug.
    fn slots_started(&self) -> u32;

    /// Starts the next ring of the bank, so that [`Self::slots_started`] grows. Does nothing at
    /// the configured maximum.
    fn start_slots(&mut self) -> io::Result<()>;

    /// Slots per ring: slot / this = ring. Only one ring should be accepting at a time.
    fn slots_per_ring(&self) -> u32;

    /// Closes the listeners. No [`Op::Accept`] may be in the kernel, and none may follow; nor may
    /// [`Op::CountWaiting`].
    fn close_listeners(&mut self);

    /// Says where [`Op::Connect`] for this link goes from now on, at any time; a connect that is in the
    /// kernel and a connection that is there are left as they are.
    fn set_link_address(&mut self, link: u16, address: LinkAddress);

    /// Wakes a waiting [`Self::turn`] from another thread.
    fn waker(&self) -> Waker;
}

/// Wakes a shard from another thread; cheap to clone.
#[derive(Clone)]
pub struct Waker(Arc<dyn Fn() + Send + Sync>);

impl Waker {
    /// A waker that calls `wake`.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(wake))
    }

    /// Wakes the shard; any number of calls before it runs count as one.
    pub fn wake(&self) {
        (self.0)();
    }
}

impl std::fmt::Debug for Waker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Waker")
    }
}
