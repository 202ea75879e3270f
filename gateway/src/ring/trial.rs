//! What no feature bit tells: found out by trying it on a small ring.

use std::{io, os::fd::AsRawFd, time::Duration};

use io_uring::{IoUring, opcode, types};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{AddressFamily, SocketFlags, SocketType, socketpair},
};

use super::ring;

/// How long [`direct_slots_release_alone`] waits for the peer to see the end. Where slots are
/// released on their own this happens before the close's completion is reaped.
pub(super) const RELEASE_DEADLINE: Duration = Duration::from_millis(250);

/// Sends an op that does nothing through the kernel and back: a filter may allow io_uring_setup(2)
/// and yet refuse io_uring_enter(2).
pub(super) fn round_trip(ring: &mut IoUring) -> io::Result<()> {
    // SAFETY: the entry refers to no memory.
    unsafe { ring.submission().push(&opcode::Nop::new().build()).map_err(io::Error::other)? };
    ring.submit_and_wait(1)?;
    match ring.completion().next() {
        Some(_) => Ok(()),
        None => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
    }
}

/// Can rings be made with DEFER_TASKRUN and what goes with it?
pub(super) fn deferred_rings() -> bool {
    ring::deferred_builder().build(8).is_ok()
}

/// Can an empty table of direct descriptors be registered?
pub(super) fn sparse_tables() -> bool {
    ring::deferred_builder().build(8).and_then(|ring| ring.submitter().register_files_sparse(2)).is_ok()
}

/// Does closing one direct descriptor release its socket while a poll is parked on another?
///
/// Up to 6.12 the slots of a ring retire in order: a request holds back every later one.
pub(super) fn direct_slots_release_alone() -> bool {
    try_release().unwrap_or(false)
}

fn try_release() -> io::Result<bool> {
    const PARKED: u64 = 1;
    const CLOSED: u64 = 2;
    let pair = || socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let (parked, _parked_peer) = pair()?;
    let (closed, closed_peer) = pair()?;

    let mut ring = ring::deferred_builder().build(8)?;
    ring.submitter().register_files(&[parked.as_raw_fd(), closed.as_raw_fd()])?;
    // From here on the ring's table holds the only reference to either socket.
    drop((parked, closed));

    let park = opcode::PollAdd::new(types::Fixed(0), libc::POLLIN as u32).build().user_data(PARKED);
    let close = opcode::Close::new(types::Fixed(1)).build().user_data(CLOSED);
    // SAFETY: neither entry refers to memory.
    unsafe {
        ring.submission().push(&park).map_err(io::Error::other)?;
        ring.submit()?;
        ring.submission().push(&close).map_err(io::Error::other)?;
    }
    ring.submit_and_wait(1)?;
    if !ring.completion().any(|entry| entry.user_data() == CLOSED && entry.result() == 0) {
        return Ok(false);
    }
    let deadline = Timespec::try_from(RELEASE_DEADLINE).map_err(io::Error::other)?;
    let ready = poll(&mut [PollFd::new(&closed_peer, PollFlags::IN)], Some(&deadline))?;
    Ok(ready == 1)
}
