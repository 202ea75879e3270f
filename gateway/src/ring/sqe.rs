//! Ops as submission entries. Building one touches no memory but the entry's own.

use io_uring::{
    opcode::{Accept, AsyncCancel, Close, Connect, PollAdd, Read, Recv, Send, Shutdown},
    squeue::Entry,
    types::{DestinationSlot, Fd, Fixed},
};
use libc::{sockaddr, socklen_t};

use crate::op::Interest;

/// An entry that refers to no memory, so that any may be given to the kernel at any time. Made in
/// this module only.
pub(super) struct Bare(Entry);

impl Bare {
    /// The entry, to be completed with this `user_data`.
    pub(super) fn with(self, user_data: u64) -> Entry {
        self.0.user_data(user_data)
    }
}

/// What stands behind a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Descriptor {
    /// A slot in the table of the ring that runs the op.
    Direct(u32),
    /// A number in the process's table; [`Descriptor::NONE`] if there is none.
    Plain(i32),
}

impl Descriptor {
    /// An op on this completes with `-EBADF`.
    pub(super) const NONE: Self = Self::Plain(-1);
}

/// The entry builders are generic over a sealed trait, so the choice is made outside of them.
macro_rules! on {
    ($descriptor:expr, |$fd:ident| $entry:expr) => {
        match $descriptor {
            Descriptor::Direct(index) => {
                let $fd = Fixed(index);
                $entry
            }
            Descriptor::Plain(fd) => {
                let $fd = Fd(fd);
                $entry
            }
        }
    };
}

/// One-shot; errors and hang-ups are reported in any case (poll(2)).
pub(super) fn poll(descriptor: Descriptor, interest: Interest) -> Bare {
    const READABLE: u32 = (libc::POLLIN | libc::POLLRDHUP) as u32;
    const WRITABLE: u32 = libc::POLLOUT as u32;
    const ENDED: u32 = libc::POLLRDHUP as u32;
    let bits = match interest {
        Interest::Readable => READABLE,
        Interest::Writable => WRITABLE,
        Interest::Ended => ENDED,
    };
    Bare(on!(descriptor, |fd| PollAdd::new(fd, bits).build()))
}

/// With `wait` false the request is not armed inside the kernel, but answers `-EAGAIN`.
pub(super) fn receive(descriptor: Descriptor, bytes: *mut u8, len: u32, wait: bool) -> Entry {
    let flags = if wait { 0 } else { libc::MSG_DONTWAIT };
    on!(descriptor, |fd| Recv::new(fd, bytes, len).flags(flags).build())
}

/// A send that may wait goes on until everything is taken (since 5.19; before, and on errors, it
/// may be partial).
pub(super) fn send(descriptor: Descriptor, bytes: *const u8, len: u32, wait: bool) -> Entry {
    let flags = libc::MSG_NOSIGNAL | if wait { libc::MSG_WAITALL } else { libc::MSG_DONTWAIT };
    on!(descriptor, |fd| Send::new(fd, bytes, len).flags(flags).build())
}

/// Accepts into `slot` of the ring's table, or as a plain descriptor.
///
/// SOCK_CLOEXEC is refused with a direct slot (EINVAL), which no child could inherit anyway.
pub(super) fn accept(
    listener: i32,
    address: *mut sockaddr,
    address_len: *mut socklen_t,
    slot: Option<u32>,
) -> Entry {
    let entry = Accept::new(Fd(listener), address, address_len);
    match slot {
        Some(slot) => {
            let slot = DestinationSlot::try_from_slot_target(slot).expect("a slot within a table");
            entry.file_index(Some(slot)).build()
        }
        None => entry.flags(libc::SOCK_CLOEXEC).build(),
    }
}

pub(super) fn connect(descriptor: Descriptor, address: *const sockaddr, len: socklen_t) -> Entry {
    on!(descriptor, |fd| Connect::new(fd, address, len).build())
}

/// Shuts down the sending side.
pub(super) fn shutdown(descriptor: Descriptor) -> Bare {
    Bare(on!(descriptor, |fd| Shutdown::new(fd, libc::SHUT_WR).build()))
}

pub(super) fn close(descriptor: Descriptor) -> Bare {
    Bare(on!(descriptor, |fd| Close::new(fd).build()))
}

/// By user_data: any other way scans every request of the ring.
pub(super) fn cancel(user_data: u64) -> Bare {
    Bare(AsyncCancel::new(user_data).build())
}

/// Waits for an eventfd and resets it in one go; `sink` takes the 8 bytes of its counter.
pub(super) fn read_eventfd(eventfd: i32, sink: *mut u64) -> Entry {
    Read::new(Fd(eventfd), sink.cast(), 8).build()
}
