//! A TCP or Unix stream on tokio-uring.

use std::{cell::Cell, io, net::Shutdown};

use tokio_uring::{BufResult, buf::BoundedBufMut, net};

/// Why the worker has ended a connection that was still in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HandshakeCut {
    /// Its time is over.
    Overdue,
    /// It was the oldest of too many.
    CrowdedOut,
}

/// A connected socket, and who is at its other end, for the log.
pub(super) struct Stream {
    socket: Socket,
    pub(super) peer: String,
    /// Why it was ended in the handshake, if it was.
    pub(super) handshake_cut: Cell<Option<HandshakeCut>>,
}

enum Socket {
    Tcp(net::TcpStream),
    Unix(net::UnixStream),
}

impl Stream {
    /// Takes over a socket accepted by tokio. Must be blocking for io_uring: on a non-blocking
    /// one a read answers EAGAIN instead of waiting.
    pub(super) fn from_tcp(socket: tokio::net::TcpStream, peer: String) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        let socket = socket.into_std()?;
        socket.set_nonblocking(false)?;
        Ok(Self {
            socket: Socket::Tcp(net::TcpStream::from_std(socket)),
            peer,
            handshake_cut: Cell::default(),
        })
    }

    /// See [`Self::from_tcp`].
    pub(super) fn from_unix(socket: tokio::net::UnixStream) -> io::Result<Self> {
        let socket = socket.into_std()?;
        socket.set_nonblocking(false)?;
        let socket = Socket::Unix(net::UnixStream::from_std(socket));
        Ok(Self { socket, peer: "unix".into(), handshake_cut: Cell::default() })
    }

    pub(super) async fn read<T: BoundedBufMut>(&self, buffer: T) -> BufResult<usize, T> {
        match &self.socket {
            Socket::Tcp(socket) => socket.read(buffer).await,
            Socket::Unix(socket) => socket.read(buffer).await,
        }
    }

    pub(super) async fn write_all(&self, buffer: Vec<u8>) -> BufResult<(), Vec<u8>> {
        match &self.socket {
            Socket::Tcp(socket) => socket.write_all(buffer).await,
            Socket::Unix(socket) => socket.write_all(buffer).await,
        }
    }

    /// Ends the sending side.
    pub(super) fn end_sending(&self) {
        let _ = match &self.socket {
            Socket::Tcp(socket) => socket.shutdown(Shutdown::Write),
            Socket::Unix(socket) => socket.shutdown(Shutdown::Write),
        };
    }

    /// Ends a connection that is in the handshake, for this cause.
    pub(super) fn cut_handshake(&self, cause: HandshakeCut) {
        self.handshake_cut.set(Some(cause));
        self.shut_down();
    }

    /// Ends both directions, so that reads and writes in the kernel come back.
    pub(super) fn shut_down(&self) {
        // It fails only where the connection has gone already.
        let _ = match &self.socket {
            Socket::Tcp(socket) => socket.shutdown(Shutdown::Both),
            Socket::Unix(socket) => socket.shutdown(Shutdown::Both),
        };
    }
}
