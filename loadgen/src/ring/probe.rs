//! What this kernel can do, found by trying it: version numbers lie about back-ports and filters.

use std::{
    io::{self, Read},
    net::{Ipv4Addr, SocketAddr},
    os::{fd::AsRawFd, unix::net::UnixStream},
    time::Duration,
};

use io_uring::{IoUring, opcode, squeue, types};

use super::{memory::Address, queue::Queue};

/// How client sockets are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descriptors {
    /// In the rings' own tables: no fd number, so RLIMIT_NOFILE caps only one table's size.
    Direct,
    /// As file descriptors, one each.
    Plain,
}

/// What the kernel offers to this driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// IORING_SETUP_SINGLE_ISSUER and DEFER_TASKRUN (6.1).
    pub defer_taskrun: bool,
    /// How sockets will be held.
    pub descriptors: Descriptors,
    /// Why not [`Descriptors::Direct`], when not.
    pub plain_because: Option<String>,
}

impl Features {
    /// Tries the kernel.
    ///
    /// # Errors
    /// One line with cause and remedy when there is no io_uring to be had.
    pub fn probe() -> anyhow::Result<Self> {
        if let Err(error) = IoUring::new(8) {
            anyhow::bail!("io_uring is not available: {}", explain(&error));
        }
        let defer_taskrun = IoUring::<squeue::Entry>::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .build(8)
            .is_ok();
        let mut features = Self { defer_taskrun, descriptors: Descriptors::Plain, plain_because: None };
        let trial = try_direct_connect_steps(&features).and_then(|()| try_close_beside_parked(&features));
        match trial {
            Ok(()) => features.descriptors = Descriptors::Direct,
            Err(why) => features.plain_because = Some(why),
        }
        Ok(features)
    }

    /// These features held down to plain file descriptors.
    pub fn plain(mut self, because: &str) -> Self {
        self.descriptors = Descriptors::Plain;
        self.plain_because = Some(because.to_owned());
        self
    }
}

fn explain(error: &io::Error) -> String {
    let remedy = match error.raw_os_error() {
        Some(libc::EPERM) => {
            "refused by kernel.io_uring_disabled or a seccomp filter: set the sysctl to 0, or run the container \
             with a profile that allows io_uring_setup, io_uring_enter and io_uring_register"
        }
        Some(libc::ENOSYS) => {
            "the kernel has none, or a seccomp filter hides it: Linux 5.10.162 or later is needed, and a container \
             profile that allows io_uring_setup, io_uring_enter and io_uring_register"
        }
        Some(libc::ENOMEM) => {
            "no memory for a ring: raise RLIMIT_MEMLOCK (`ulimit -l`); many kernels count the rings of unprivileged \
             users there, all processes of a user together"
        }
        Some(libc::EMFILE) => "out of file descriptors: raise RLIMIT_NOFILE",
        _ => "see io_uring_setup(2)",
    };
    format!("{error}: {remedy}")
}

/// SOCKET into a slot, a socket option and BIND on it, as a connect will need them.
fn try_direct_connect_steps(features: &Features) -> Result<(), String> {
    let (loopback, len) = Address::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let one = 1_i32;
    let mut queue = Queue::new(features, 8).map_err(|error| format!("ring: {error}"))?;
    queue.register_slots(8).map_err(|error| format!("sparse file table: {error}"))?;
    let slot = types::DestinationSlot::try_from_slot_target(0).expect("0 is a slot");
    let steps = [
        (
            "SOCKET into a slot",
            opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).file_index(Some(slot)).build(),
        ),
        (
            "setsockopt on a slot",
            opcode::SetSockOpt::new(
                types::Fixed(0),
                libc::IPPROTO_IP as u32,
                libc::IP_BIND_ADDRESS_NO_PORT as u32,
                std::ptr::from_ref(&one).cast(),
                size_of::<i32>() as u32,
            )
            .build(),
        ),
        (
            "BIND on a slot",
            opcode::Bind::new(types::Fixed(0), std::ptr::from_ref(&loopback).cast(), len).build(),
        ),
    ];
    for (name, entry) in steps {
        let result = run(&mut queue, &entry).map_err(|error| format!("{name}: {error}"))?;
        if result < 0 {
            return Err(format!("{name}: {}", io::Error::from_raw_os_error(-result)));
        }
    }
    Ok(())
}

/// Parks a poll on slot 0, closes slot 1: does slot 1's peer see the end? Kernels up to 6.12 keep
/// the closed socket until every older request on the table has ended.
fn try_close_beside_parked(features: &Features) -> Result<(), String> {
    let text = |error: io::Error| format!("trial of closing: {error}");
    let (parked, _parked_peer) = UnixStream::pair().map_err(text)?;
    let (closed, mut closed_peer) = UnixStream::pair().map_err(text)?;
    let mut queue = Queue::new(features, 8).map_err(text)?;
    queue.register_files(&[parked.as_raw_fd(), closed.as_raw_fd()]).map_err(text)?;
    drop((parked, closed));
    let poll = opcode::PollAdd::new(types::Fixed(0), libc::POLLIN as u32).build().user_data(1);
    // SAFETY: a poll points to no memory.
    unsafe { queue.push(&poll) };
    queue.enter(Duration::ZERO).map_err(text)?;
    let result = run(&mut queue, &opcode::Close::new(types::Fixed(1)).build()).map_err(text)?;
    if result < 0 {
        return Err(format!("CLOSE of a slot: {}", io::Error::from_raw_os_error(-result)));
    }
    closed_peer.set_read_timeout(Some(Duration::from_millis(300))).map_err(text)?;
    match closed_peer.read(&mut [0]) {
        Ok(0) => Ok(()),
        _ => Err("a closed slot stays open while older requests are parked (kernels up to 6.12)".to_owned()),
    }
}

/// Runs one entry to its end (user_data 0) and returns its result.
fn run(queue: &mut Queue, entry: &squeue::Entry) -> io::Result<i32> {
    // SAFETY: the callers keep what the entry points to alive past this call, which only
    // returns without a completion after five seconds, and then drops the ring.
    unsafe { queue.push(entry) };
    for _ in 0..50 {
        queue.enter(Duration::from_millis(100))?;
        let mut result = None;
        queue.reap(|user_data, value| {
            if user_data == 0 {
                result = Some(value);
            }
        });
        if let Some(result) = result {
            return Ok(result);
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}
