//! What no feature bit tells: found out by trying it on a small ring.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
    ptr,
    time::Duration,
};

use io_uring::{
    Builder, IoUring, opcode,
    types::{self, SubmitArgs},
};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    net::{
        AddressFamily, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType, bind, connect, getsockname,
        listen, socket_with, socketpair,
    },
};

use super::sqe::{self, Descriptor};

/// How long to wait for what happens at once where it happens at all: before the system call that
/// causes it has returned.
const DEADLINE: Duration = Duration::from_millis(250);

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

/// A small ring. Memory that a ring closed just now still has must not look like a missing feature.
pub(super) fn build(builder: &Builder) -> io::Result<IoUring> {
    let mut left = 20;
    loop {
        match builder.build(8) {
            Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && left > 0 => {
                left -= 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            result => return result,
        }
    }
}

/// The flags of [`crate::Tier::Deferred`].
///
/// TASKRUN_FLAG lets us see whether deferred work is waiting without entering the kernel.
/// SUBMIT_ALL: an entry that fails does not hold up those behind it.
pub(super) fn deferred_builder() -> Builder {
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().setup_submit_all();
    builder
}

/// Can rings be made with DEFER_TASKRUN and what goes with it?
pub(super) fn deferred_rings() -> bool {
    build(&deferred_builder()).is_ok()
}

/// Does a ring signal its eventfd whenever it has something to reap, again and again?
///
/// With DEFER_TASKRUN, 6.12.118 does so once and never again; 6.1.192, 6.18.44 and 7.3.4 do it
/// right.
pub(super) fn deferred_rings_signal() -> bool {
    try_signals(&deferred_builder()).unwrap_or(false)
}

/// As [`deferred_rings_signal`], for rings without DEFER_TASKRUN.
pub(super) fn plain_rings_signal() -> bool {
    try_signals(&IoUring::builder()).unwrap_or(false)
}

fn try_signals(builder: &Builder) -> io::Result<bool> {
    const TIMES: usize = 3;
    let (watched, peer) = pair()?;
    let signal = eventfd(0, EventfdFlags::CLOEXEC)?;
    let mut ring = build(builder)?;
    ring.submitter().register_eventfd(signal.as_raw_fd())?;
    for _ in 0..TIMES {
        let park = opcode::PollAdd::new(types::Fd(watched.as_raw_fd()), libc::POLLIN as u32).build();
        // SAFETY: the entry refers to no memory.
        unsafe { ring.submission().push(&park).map_err(io::Error::other)? };
        ring.submit()?;
        rustix::io::write(&peer, &[0])?;
        if !is_readable(&signal, DEADLINE)? {
            return Ok(false);
        }
        ring.submit_and_wait(1)?;
        ring.completion().for_each(drop);
        // Reaping may have signalled as well. Both are to be empty for the next time.
        rustix::io::read(&signal, &mut [0; 8])?;
        rustix::io::read(&watched, &mut [0; 1])?;
    }
    Ok(true)
}

/// Can an empty table of direct descriptors be registered?
pub(super) fn sparse_tables() -> bool {
    build(&deferred_builder()).and_then(|ring| ring.submitter().register_files_sparse(2)).is_ok()
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
    let (parked, _parked_peer) = pair()?;
    let (closed, closed_peer) = pair()?;

    let mut ring = build(&deferred_builder())?;
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
    is_readable(&closed_peer, DEADLINE)
}

/// Can an accept wait for a client before it tries?
pub(super) fn accepts_wait_first() -> bool {
    try_accept().unwrap_or(false)
}

fn try_accept() -> io::Result<bool> {
    let unix = || socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let (listener, client) = (unix()?, unix()?);
    // The kernel names it (unix(7), autobind).
    bind(&listener, &SocketAddrUnix::new_unnamed())?;
    listen(&listener, 1)?;
    let mut ring = build(&deferred_builder())?;
    ring.submitter().register_files_sparse(1)?;
    let accept = sqe::accept(listener.as_raw_fd(), ptr::null_mut(), ptr::null_mut(), Some(0), true);
    // SAFETY: the entry refers to no memory.
    unsafe { ring.submission().push(&accept).map_err(io::Error::other)? };
    ring.submit()?;
    connect(&client, &getsockname(&listener)?)?;
    let deadline = types::Timespec::from(DEADLINE);
    ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&deadline))?;
    Ok(ring.completion().next().is_some_and(|entry| entry.result() == 0))
}

/// The steps by which a socket in a direct slot comes to its connect, and whether each works. After
/// one that does not, the others are not tried.
pub(super) fn direct_connect_steps() -> [(&'static str, bool); 3] {
    let mut steps =
        [("SOCKET into a slot", false), ("SETSOCKOPT on a slot", false), ("BIND on a slot", false)];
    let worked = try_connect_steps().unwrap_or(0);
    steps[..worked].iter_mut().for_each(|(_, works)| *works = true);
    steps
}

/// How many of the steps work.
fn try_connect_steps() -> io::Result<usize> {
    let loopback = SocketAddrAny::from(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let slot = Descriptor::Direct(0);
    let entries = [
        sqe::socket(AddressFamily::INET, 0).with(0),
        sqe::bind_without_port(slot).with(0),
        sqe::bind(slot, loopback.as_ptr().cast(), loopback.addr_len()),
    ];
    let mut ring = build(&deferred_builder())?;
    ring.submitter().register_files_sparse(1)?;
    for (worked, entry) in entries.iter().enumerate() {
        // SAFETY: the address outlives the ring's use of it: a bind never waits, so its completion is
        // reaped below, or the kernel has not taken it.
        unsafe { ring.submission().push(entry).map_err(io::Error::other)? };
        ring.submit_and_wait(1)?;
        if ring.completion().next().is_none_or(|entry| entry.result() < 0) {
            return Ok(worked);
        }
    }
    Ok(entries.len())
}

fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

fn is_readable(fd: &OwnedFd, deadline: Duration) -> io::Result<bool> {
    let deadline = Timespec::try_from(deadline).map_err(io::Error::other)?;
    Ok(poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&deadline))? == 1)
}
