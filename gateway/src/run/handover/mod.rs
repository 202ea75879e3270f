//! Listening sockets pass from one process to its successor, so that no connect ever fails.
//!
//! * [`server`]: the side that is succeeded.
//! * [`predecessor`]: the side that succeeds.
//! * [`socket`]: the Unix socket between them.
//!
//! Both sides are started with the same `handover_socket`. They exchange lines over it:
//!
//! | line | from | meaning |
//! |---|---|---|
//! | [`Request`] | successor | it wants to succeed |
//! | [`Offer`] | predecessor | sockets (SCM_RIGHTS, unix(7)), and what goes with them |
//! | `ready` | successor | everything that can fail is done, and a worker is up |
//! | `go` | predecessor | the successor may serve; both serve from here on |
//! | `alive` | successor | it has served for [`TRIAL`] |
//! | `released` | predecessor | its accepts are joined and its sockets closed; it drains |
//! | `no REASON` | predecessor | it goes on, and the successor must not |
//!
//! Until `released` the predecessor has everything that it had, so a successor that ends, at whatever
//! point, changes nothing. The queues of waiting clients belong to sockets, not to processes. A
//! connection that ends says that the process at its other end is gone.

mod predecessor;
mod server;
mod socket;

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut, Read},
    mem::MaybeUninit,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::Duration,
};

use rustix::{
    cmsg_space,
    io::retry_on_intr,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, recvmsg, sendmsg,
    },
};
use serde::{Deserialize, Serialize};

pub(super) use predecessor::{Inheritance, Predecessor, Said, call};
pub(super) use server::{HandoverServer, Progress, Successor};

/// The version of these lines. Another one is refused by both sides.
const VERSION: u32 = 1;
/// How long a successor must have served before its predecessor stops to.
pub(super) const TRIAL: Duration = Duration::from_secs(1);
/// Sockets that one message can carry (SCM_MAX_FD, unix(7)).
pub(super) const SOCKETS_MAX: usize = 253;
/// Longest line.
const LINE_BYTES_MAX: usize = 32 * 1024;

const READY: &str = "ready";
const GO: &str = "go";
const ALIVE: &str = "alive";
const RELEASED: &str = "released";
const NO: &str = "no";

/// What a successor says first.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
struct Request {
    version: u32,
    /// How long it may take until it is ready.
    ready_within_ms: u64,
}

/// What a predecessor has to give. The sockets come in this order: listeners, the admin side's, and
/// the one at `handover_socket`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub(super) struct Offer {
    pub(super) version: u32,
    pub(super) listeners: Vec<OfferedListener>,
    pub(super) admin_listeners: usize,
    /// What becomes free when the predecessor has drained.
    pub(super) gives_back: crate::preflight::GivenBack,
}

/// What goes with a listener of clients; its address is the socket's.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub(super) struct OfferedListener {
    /// Whether a PROXY header is expected there.
    pub(super) proxy: bool,
    /// Whether a service manager has a copy.
    pub(super) kept_by_manager: bool,
}

/// A stream of lines, none of whose calls waits.
#[derive(Debug)]
struct Lines {
    stream: UnixStream,
    /// Whether sockets are taken that come with a line; otherwise the kernel drops them.
    takes_sockets: bool,
    received: Vec<u8>,
    lines: VecDeque<String>,
    sockets: Vec<OwnedFd>,
}

impl Lines {
    fn new(stream: UnixStream, takes_sockets: bool) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, takes_sockets, received: Vec::new(), lines: VecDeque::new(), sockets: Vec::new() })
    }

    /// The next line; none yet if none. Fails when the stream has ended, or with what is no line.
    fn next(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(line) = self.lines.pop_front() {
                return Ok(Some(line));
            }
            if self.received.len() > LINE_BYTES_MAX {
                return Err(io::Error::other("a line without an end"));
            }
            let mut bytes = [0; 4096];
            let received = match self.receive(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                received => received?,
            };
            self.received.extend(&bytes[..received]);
            while let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                let line = String::from_utf8(line).map_err(|_| io::Error::other("a line that is no text"))?;
                self.lines.push_back(line.trim_end().to_owned());
            }
        }
    }

    fn receive(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if !self.takes_sockets {
            return (&self.stream).read(bytes);
        }
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(SOCKETS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received =
            retry_on_intr(|| recvmsg(&self.stream, &mut [IoSliceMut::new(bytes)], &mut control, flags))?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(sockets) = message {
                self.sockets.extend(sockets);
            }
        }
        Ok(received.bytes)
    }

    /// Sends a line with these sockets, whole: what is said here is short, and the stream's buffer is
    /// empty unless its other end does not read.
    fn send(&self, line: &str, sockets: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = format!("{line}\n");
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(SOCKETS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !sockets.is_empty() && !control.push(SendAncillaryMessage::ScmRights(sockets)) {
            return Err(io::Error::other("too many sockets to hand over"));
        }
        let data = [IoSlice::new(bytes.as_bytes())];
        let sent = retry_on_intr(|| sendmsg(&self.stream, &data, &mut control, SendFlags::NOSIGNAL))?;
        if sent < bytes.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(())
    }
}
