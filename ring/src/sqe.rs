//! Ops as submission entries. Building one touches no memory but the entry's own.

use io_uring::{
    opcode::{
        Accept, AsyncCancel, Bind, Close, Connect, PollAdd, Read, Recv, Send, SetSockOpt, Shutdown, Socket,
    },
    squeue::Entry,
    types::{DestinationSlot, Fd, Fixed},
};
use libc::{c_int, linger, sockaddr, socklen_t};
use rustix::net::AddressFamily;

use crate::op::Interest;

/// An accept waits for a client before it tries (`io_uring.h`, since 6.10).
const ACCEPT_POLL_FIRST: u16 = 1 << 2;
/// Where `ioprio` is in an entry, behind opcode and flags, in units of its size.
const IOPRIO: usize = 1;

/// The value of an option that is switched on.
pub(super) static ONE: c_int = 1;
/// Of SO_LINGER: a close resets the connection (socket(7)).
static LINGER_NOT: linger = linger { l_onoff: 1, l_linger: 0 };

/// An entry that refers to no memory but statics, so that any may be given to the kernel at any time.
/// Made in this module only.
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
///
/// An accept that finds nobody has made a socket, an inode and a file for the client by then, and
/// takes them down again. With `wait_first` it looks at the queue before it makes them.
pub(super) fn accept(
    listener: i32,
    address: *mut sockaddr,
    address_len: *mut socklen_t,
    slot: Option<u32>,
    wait_first: bool,
) -> Entry {
    let entry = Accept::new(Fd(listener), address, address_len);
    let entry = match slot {
        Some(slot) => entry.file_index(Some(destination(slot))).build(),
        None => entry.flags(libc::SOCK_CLOEXEC).build(),
    };
    if wait_first { with_ioprio(entry, ACCEPT_POLL_FIRST) } else { entry }
}

fn destination(slot: u32) -> DestinationSlot {
    DestinationSlot::try_from_slot_target(slot).expect("a slot within a table")
}

/// Sets `ioprio`, where accepts and receives have flags of their own. The library's builders set it
/// for a few of them only.
fn with_ioprio(mut entry: Entry, ioprio: u16) -> Entry {
    const _: () = assert!(size_of::<Entry>() == 64 && align_of::<Entry>() >= align_of::<u16>());
    // SAFETY: an entry is a `struct io_uring_sqe` and nothing else (`repr(C)`), in which these two
    // bytes are `ioprio` (`io_uring.h`): within the entry, aligned, and any value is a valid one.
    unsafe { (&raw mut entry).cast::<u16>().add(IOPRIO).write(ioprio) };
    entry
}

pub(super) fn connect(descriptor: Descriptor, address: *const sockaddr, len: socklen_t) -> Entry {
    on!(descriptor, |fd| Connect::new(fd, address, len).build())
}

/// Makes a TCP socket in `slot` of the ring's table (since 5.19).
pub(super) fn socket(family: AddressFamily, slot: u32) -> Bare {
    let socket = Socket::new(c_int::from(family.as_raw()), libc::SOCK_STREAM, 0);
    Bare(socket.file_index(Some(destination(slot))).build())
}

/// Has a bind to port 0 leave the choice of the port to the connect (ip(7); setsockopt since 6.7).
pub(super) fn bind_without_port(descriptor: Descriptor) -> Bare {
    let (level, option) = (libc::IPPROTO_IP as u32, libc::IP_BIND_ADDRESS_NO_PORT as u32);
    let (value, len) = ((&raw const ONE).cast(), size_of_val(&ONE) as u32);
    Bare(on!(descriptor, |fd| SetSockOpt::new(fd, level, option, value, len).build()))
}

/// Has the close that follows reset the connection.
pub(super) fn linger_not(descriptor: Descriptor) -> Bare {
    let (level, option) = (libc::SOL_SOCKET as u32, libc::SO_LINGER as u32);
    let (value, len) = ((&raw const LINGER_NOT).cast(), size_of_val(&LINGER_NOT) as u32);
    Bare(on!(descriptor, |fd| SetSockOpt::new(fd, level, option, value, len).build()))
}

/// Since 6.11.
pub(super) fn bind(descriptor: Descriptor, address: *const sockaddr, len: socklen_t) -> Entry {
    on!(descriptor, |fd| Bind::new(fd, address, len).build())
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

#[cfg(test)]
mod tests {
    use std::ptr;

    use io_uring::opcode::AcceptMulti;

    use super::*;

    fn ioprio(entry: &Entry) -> u16 {
        // SAFETY: as in `with_ioprio`.
        unsafe { (&raw const *entry).cast::<u16>().add(IOPRIO).read() }
    }

    #[test]
    fn an_accept_that_waits_first_says_so_where_the_library_says_multishot() {
        const ACCEPT_MULTISHOT: u16 = 1 << 0;
        assert_eq!(ioprio(&AcceptMulti::new(Fd(3)).build()), ACCEPT_MULTISHOT);
        let accept = |wait_first| accept(3, ptr::null_mut(), ptr::null_mut(), Some(7), wait_first);
        assert_eq!((ioprio(&accept(true)), ioprio(&accept(false))), (ACCEPT_POLL_FIRST, 0));
    }
}
