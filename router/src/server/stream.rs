//! A TCP or Unix stream on tokio-uring.

use std::{cell::Cell, io, net::Shutdown};

use tokio_uring::{BufResult, buf::BoundedBufMut, net};

/// A connected socket, and who is at its other end, for the log.
pub(super) struct Stream {
    socket: Socket,
    pub(super) peer: String,
    /// Ended because too many were in the handshake.
    pub(super) crowded_out: Cell<bool>,
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
        Ok(Self { socket: Socket::Tcp(net::TcpStream::from_std(socket)), peer, crowded_out: Cell::default() })
    }

    /// See [`Self::from_tcp`].
    pub(super) fn from_unix(socket: tokio::net::UnixStream) -> io::Result<Self> {
        let socket = socket.into_std()?;
        socket.set_nonblocking(false)?;
        let socket = Socket::Unix(net::UnixStream::from_std(socket));
        Ok(Self { socket, peer: "unix".into(), crowded_out: Cell::default() })
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

    /// Ends both directions, so that reads and writes in the kernel come back.
    pub(super) fn shut_down(&self) {
        // It fails only where the connection has gone already.
        let _ = match &self.socket {
            Socket::Tcp(socket) => socket.shutdown(Shutdown::Both),
            Socket::Unix(socket) => socket.shutdown(Shutdown::Both),
        };
    }
}
