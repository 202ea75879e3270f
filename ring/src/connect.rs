//! Sockets that a client's slot connects itself, as a load generator's clients do.
//!
//! With direct descriptors the kernel makes the socket in its slot. SOCKET, the option
//! IP_BIND_ADDRESS_NO_PORT, BIND and CONNECT are one chain of linked entries then, each with a
//! completion. The steps could go without one when they succeed (IOSQE_CQE_SKIP_SUCCESS), but behind a
//! step that fails nothing completes then, the connect neither. Plain descriptors are made by system calls, and
//! only the connect goes through the ring.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd},
    time::Duration,
};

use io_uring::squeue;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt::set_socket_linger};

use super::{
    addresses::Addresses,
    driver::{IGNORED, UringDriver},
    in_flight::{self, Held, Record},
    sqe::{self, Bare, Descriptor},
};
use crate::op::{Completion, Token};

impl UringDriver {
    /// Connects `slot`, which must be free, to `target`. With `source` it comes from there; port 0
    /// leaves the port to the kernel. Both are of the same family.
    ///
    /// The completion's result is 0, or the errno of whichever step failed. The slot may hold a
    /// socket in either case, so close it. Needs [`crate::Features::detect_to_connect`].
    pub fn connect(&mut self, token: Token, slot: u32, source: Option<SocketAddr>, target: SocketAddr) {
        if self.state.sockets.is_direct() {
            self.connect_direct(token, slot, source, target);
            return;
        }
        let (ring, _) = self.layout.locate(slot);
        match plain_socket(source, target) {
            Ok(socket) => {
                let descriptor = Descriptor::Plain(socket.as_raw_fd());
                self.state.sockets.put(slot, socket.into_raw_fd());
                let cell = self.state.connects.start(source.unwrap_or(target), target);
                let target = &self.state.connects.at(cell).target;
                let entry = sqe::connect(descriptor, target.as_ptr().cast(), target.addr_len());
                let held = Held::Connect { cell, failed: 0 };
                // SAFETY: the cell keeps the address where it is until the completion ends it.
                unsafe { self.push_held(ring, token, held, entry) };
            }
            Err(error) => {
                let result = -error.raw_os_error().unwrap_or(libc::EINVAL);
                self.refused.push(Completion::new(token, result));
            }
        }
    }

    fn connect_direct(&mut self, token: Token, slot: u32, source: Option<SocketAddr>, target: SocketAddr) {
        let (ring, index) = self.layout.locate(slot);
        let cell = self.state.connects.start(source.unwrap_or(target), target);
        let user_data =
            self.state.in_flight.insert(Record { token, ring, held: Held::Connect { cell, failed: 0 } });
        let step = in_flight::step_of(user_data);
        let linked = |entry: squeue::Entry| entry.flags(squeue::Flags::IO_LINK).user_data(step);
        let bare = |entry: Bare| linked(entry.with(step));
        let Addresses { source: from, target: to } = self.state.connects.at(cell);
        let descriptor = Descriptor::Direct(index);
        let socket = bare(sqe::socket(family(target), index));
        let connect = sqe::connect(descriptor, to.as_ptr().cast(), to.addr_len()).user_data(user_data);
        if source.is_some() {
            let option = bare(sqe::bind_without_port(descriptor));
            let bind = linked(sqe::bind(descriptor, from.as_ptr().cast(), from.addr_len()));
            // SAFETY: the cell keeps both addresses where they are until the connect's completion
            // ends it, which comes after those of the steps before.
            unsafe { self.bank.push_linked(ring, &[socket, option, bind, connect]) };
        } else {
            // SAFETY: as above.
            unsafe { self.bank.push_linked(ring, &[socket, connect]) };
        }
    }

    /// Has the close that follows reset the connection instead of ending it in order (socket(7),
    /// SO_LINGER). Best effort.
    pub fn reset_on_close(&mut self, slot: u32) {
        let (ring, index) = self.layout.locate(slot);
        match self.state.sockets.get(slot, index) {
            descriptor @ Descriptor::Direct(_) => {
                let ignored = Token::new(IGNORED, 0, 0).to_bits();
                self.bank.push_bare(ring, sqe::linger_not(descriptor), ignored);
            }
            Descriptor::Plain(fd) if fd >= 0 => {
                // SAFETY: the column owns the descriptor, which stays open during the call.
                let socket = unsafe { BorrowedFd::borrow_raw(fd) };
                // What fails ends by FIN.
                let _ = set_socket_linger(socket, Some(Duration::ZERO));
            }
            Descriptor::Plain(_) => {}
        }
    }
}

fn family(address: SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

/// A bound socket.
fn plain_socket(source: Option<SocketAddr>, target: SocketAddr) -> io::Result<OwnedFd> {
    // Blocking, for the ring: with O_NONBLOCK a connect would answer EINPROGRESS.
    let socket = socket_with(family(target), SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    if let Some(source) = source {
        bind_without_port(&socket);
        bind(&socket, &source)?;
    }
    Ok(socket)
}

/// Has a bind to port 0 leave the choice of the port to the connect (ip(7), IP_BIND_ADDRESS_NO_PORT):
/// then many sockets of one address may have the same port, towards different targets. Best effort.
fn bind_without_port(socket: &OwnedFd) {
    // SAFETY: the value is a static of the given length.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const sqe::ONE).cast(),
            size_of_val(&sqe::ONE) as libc::socklen_t,
        );
    }
}
