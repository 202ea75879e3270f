//! Sockets towards workers: plain descriptors on ring 0.

use std::{
    io,
    os::fd::{AsRawFd, IntoRawFd, OwnedFd},
    time::Duration,
};

use rustix::net::{
    AddressFamily, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType, getpeername, getsockname,
    socket_with, sockopt,
};

use super::sqe::Descriptor;
use crate::op::LinkAddress;

/// One link's socket, and where it goes.
#[derive(Default)]
struct Link {
    address: Option<LinkAddress>,
    socket: Option<OwnedFd>,
    /// What the kernel reads when a connect is submitted; boxed to stay where it is.
    target: Option<Box<SocketAddrAny>>,
    /// A connect is in the kernel, so `target` must stay.
    connecting: bool,
}

/// The links of one driver, by number.
#[derive(Default)]
pub(super) struct Links(Vec<Link>);

impl Links {
    pub(super) fn set_address(&mut self, link: u16, address: LinkAddress) {
        let needed = usize::from(link) + 1;
        if self.0.len() < needed {
            self.0.resize_with(needed, Link::default);
        }
        self.0[usize::from(link)].address = Some(address);
    }

    /// Makes a new socket for the link; an old one is dropped. Returns it and the address to
    /// connect it to, which stays where it is until [`Self::end_connect`]. Panics if the link is
    /// connecting already.
    ///
    /// # Errors
    /// What socket(2) says; `EDESTADDRREQ` for a link that has no address.
    pub(super) fn start_connect(&mut self, link: u16) -> io::Result<(Descriptor, &SocketAddrAny)> {
        let link = self.0.get_mut(usize::from(link));
        let (link, address) = link
            .and_then(|link| link.address.clone().map(|address| (link, address)))
            .ok_or(io::Error::from_raw_os_error(libc::EDESTADDRREQ))?;
        assert!(!link.connecting, "a link is connected twice at once");
        link.socket = None;
        let target = match &address {
            LinkAddress::Tcp(address) => SocketAddrAny::from(*address),
            LinkAddress::Unix(path) => SocketAddrUnix::new(path.as_path())?.into(),
        };
        // Blocking, for the ring: with O_NONBLOCK a connect would answer EINPROGRESS.
        let socket = socket_with(target.address_family(), SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        if target.address_family() != AddressFamily::UNIX {
            // Batches are made by us; a held-back tail would only be late.
            sockopt::set_tcp_nodelay(&socket, true)?;
        }
        let descriptor = Descriptor::Plain(socket.as_raw_fd());
        link.socket = Some(socket);
        link.connecting = true;
        Ok((descriptor, link.target.insert(Box::new(target))))
    }

    /// The connect has completed with this result; says which one that is for the link.
    ///
    /// To a port of this host where nobody listens, the kernel may give a socket that very port as its
    /// own, and then TCP's simultaneous open connects the socket to itself (RFC 9293, 3.5).
    pub(super) fn end_connect(&mut self, link: u16, result: i32) -> i32 {
        let link = &mut self.0[usize::from(link)];
        link.connecting = false;
        match &link.socket {
            Some(socket) if result >= 0 && is_own_peer(socket) => {
                // RST instead of TIME_WAIT: the worker must be able to take its port. Best effort.
                let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
                -libc::ELOOP
            }
            _ => result,
        }
    }

    pub(super) fn get(&self, link: u16) -> Descriptor {
        let socket = self.0.get(usize::from(link)).and_then(|link| link.socket.as_ref());
        socket.map_or(Descriptor::NONE, |socket| Descriptor::Plain(socket.as_raw_fd()))
    }

    /// As [`Self::get`]; the descriptor is the caller's to close.
    pub(super) fn take(&mut self, link: u16) -> Descriptor {
        let socket = self.0.get_mut(usize::from(link)).and_then(|link| link.socket.take());
        socket.map_or(Descriptor::NONE, |socket| Descriptor::Plain(socket.into_raw_fd()))
    }
}

/// Whether a connected socket is its own peer.
fn is_own_peer(socket: &OwnedFd) -> bool {
    match (getsockname(socket), getpeername(socket)) {
        (Ok(own), Ok(peer)) => {
            own.address_family() != AddressFamily::UNIX && peer.is_some_and(|peer| own == peer)
        }
        _ => false,
    }
}
