//! Listening sockets pass from one process to its successor, so that no connect ever fails.
//!
//! Both sides are started with the same `handover_socket`. The successor connects to it; the
//! predecessor closes its admin listener and sends its listening sockets (SCM_RIGHTS, unix(7));
//! the successor accepts on them and says so; only then does the predecessor take its own accepts
//! back and drain. The queue of waiting clients belongs to the socket, not to a process.

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::{
    cmsg_space,
    io::retry_on_intr,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, recvmsg, sendmsg,
    },
};

/// Listening sockets that can be passed at once (SCM_MAX_FD is 253).
const LISTENERS_MAX: usize = 64;
/// What the successor says when it accepts.
const READY: &[u8; 6] = b"ready\n";
/// How long each side waits for the other.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a successor has received, and owes an answer for.
#[derive(Debug)]
pub(super) struct Inheritance {
    predecessor: UnixStream,
    /// The listening sockets, in the predecessor's order.
    pub(super) listeners: Vec<OwnedFd>,
}

/// Asks a running gateway for its listeners; none if nobody answers at `path`.
pub(super) fn inherit(path: &Path) -> Result<Option<Inheritance>> {
    let predecessor = match UnixStream::connect(path) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error).with_context(|| format!("handover_socket {}", path.display())),
    };
    predecessor.set_read_timeout(Some(PATIENCE))?;
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(LISTENERS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut count = [0];
    let received = retry_on_intr(|| {
        recvmsg(&predecessor, &mut [IoSliceMut::new(&mut count)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let listeners: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    if received.bytes != 1 || usize::from(count[0]) != listeners.len() || listeners.is_empty() {
        bail!("handover_socket {}: the running gateway sent no listeners", path.display());
    }
    Ok(Some(Inheritance { predecessor, listeners }))
}

/// A running gateway that waits to be succeeded.
#[derive(Debug)]
pub(super) struct Predecessor(UnixStream);

impl Inheritance {
    /// The listeners, and whom to tell.
    pub(super) fn split(self) -> (Vec<OwnedFd>, Predecessor) {
        (self.listeners, Predecessor(self.predecessor))
    }
}

impl Predecessor {
    /// Tells it that this process accepts.
    pub(super) fn take_over(&mut self) -> io::Result<()> {
        self.0.write_all(READY)?;
        self.0.set_nonblocking(true)
    }
}

impl Predecessor {
    /// Whether it has taken all its accepts back, or is gone.
    pub(super) fn has_let_go(&mut self) -> bool {
        // It has nothing more to say: whatever comes but "not yet" is its end.
        let answer = self.0.read_exact(&mut [0]);
        !answer.is_err_and(|error| {
            matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
        })
    }
}

/// The socket at which a successor may call.
#[derive(Debug)]
pub(super) struct Will {
    socket: UnixListener,
}

impl Will {
    /// Listens at `path`, in place of whatever a predecessor left there.
    pub(super) fn write(path: &Path) -> Result<Self> {
        let context = || format!("handover_socket {} cannot be made", path.display());
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).with_context(context),
            _ => {}
        }
        let socket = UnixListener::bind(path).with_context(context)?;
        socket.set_nonblocking(true).with_context(context)?;
        Ok(Self { socket })
    }

    /// A successor that has called.
    pub(super) fn heir(&self) -> Option<Heir> {
        let (stream, _) = self.socket.accept().ok()?;
        stream.set_nonblocking(false).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        Some(Heir { stream })
    }
}

/// A successor.
#[derive(Debug)]
pub(super) struct Heir {
    stream: UnixStream,
}

impl Heir {
    /// Sends the listeners and waits until the successor accepts on them. Drop the heir when the
    /// accepts of this process are taken back: that tells it.
    pub(super) fn hand_over(&mut self, listeners: &[OwnedFd]) -> io::Result<()> {
        let fds: Vec<BorrowedFd<'_>> = listeners.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(LISTENERS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::Error::other("too many listeners to hand over"));
        }
        let count = [fds.len() as u8];
        retry_on_intr(|| sendmsg(&self.stream, &[IoSlice::new(&count)], &mut control, SendFlags::NOSIGNAL))?;
        let mut answer = [0; READY.len()];
        self.stream.read_exact(&mut answer)?;
        if answer != *READY {
            return Err(io::Error::other("the successor said something else"));
        }
        Ok(())
    }
}
