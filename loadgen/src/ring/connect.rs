//! How a bank's slots come to their sockets.

use std::{
    net::SocketAddr,
    os::fd::{AsRawFd, IntoRawFd, OwnedFd},
};

use io_uring::{opcode, squeue, types};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};

use super::{
    Completion, Kind, Tag,
    bank::{Bank, NO_FD, ONE},
    queue::Queue,
};

impl Bank {
    /// SOCKET, IP_BIND_ADDRESS_NO_PORT, BIND and CONNECT as one chain; only a failure of the
    /// first three is reported, as [`Kind::Setup`].
    pub(super) fn connect_direct(&mut self, slot: u32, source: Option<SocketAddr>) {
        let ring = self.ring_of(slot);
        self.make_room(ring, 4);
        let source = source.map(|source| {
            self.queues[ring].address(source).unwrap_or_else(|| {
                // The places come free when the queue has run empty.
                self.make_room(ring, Queue::SQ_ENTRIES as usize);
                self.queues[ring].address(source).expect("the queue is empty")
            })
        });
        let local = types::Fixed(slot % self.config.slots_per_ring);
        let setup = Tag::new(Kind::Setup, slot).to_bits();
        let quiet = |entry: squeue::Entry| {
            entry.flags(squeue::Flags::IO_LINK | squeue::Flags::SKIP_SUCCESS).user_data(setup)
        };
        let socket = opcode::Socket::new(family(self.config.target), libc::SOCK_STREAM, 0)
            .file_index(Some(self.destination(slot)));
        // SAFETY: no memory is pointed to.
        unsafe { self.push(slot, &quiet(socket.build())) };
        if let Some((address, len)) = source {
            let option = opcode::SetSockOpt::new(
                local,
                libc::IPPROTO_IP as u32,
                libc::IP_BIND_ADDRESS_NO_PORT as u32,
                std::ptr::from_ref(&ONE).cast(),
                size_of::<i32>() as u32,
            );
            // SAFETY: the option's value is a static.
            unsafe { self.push(slot, &quiet(option.build())) };
            // SAFETY: the queue keeps the address until the entry is submitted.
            unsafe { self.push(slot, &quiet(opcode::Bind::new(local, address, len).build())) };
        }
        let connect = opcode::Connect::new(local, self.target_address(), self.target.1).build();
        // SAFETY: the target's address is boxed and lives as long as the bank.
        unsafe { self.push(slot, &connect.user_data(Tag::new(Kind::Connect, slot).to_bits())) };
    }

    pub(super) fn connect_plain(&mut self, slot: u32, source: Option<SocketAddr>) {
        assert_eq!(self.fds[slot as usize], NO_FD);
        match plain_socket(self.config.target, source) {
            Ok(socket) => {
                self.fds[slot as usize] = socket.into_raw_fd();
                let fd = types::Fd(self.fds[slot as usize]);
                let connect = opcode::Connect::new(fd, self.target_address(), self.target.1).build();
                // SAFETY: the target's address is boxed and lives as long as the bank.
                unsafe { self.push(slot, &connect.user_data(Tag::new(Kind::Connect, slot).to_bits())) };
            }
            Err(errno) => {
                self.ready.push_back(Completion {
                    slot,
                    kind: Kind::Connect,
                    result: -errno,
                    block: 0,
                    send_bytes: 0,
                });
            }
        }
    }

    fn target_address(&self) -> *const libc::sockaddr {
        std::ptr::from_ref(&self.target.0).cast()
    }
}

const fn family(address: SocketAddr) -> i32 {
    match address {
        SocketAddr::V4(_) => libc::AF_INET,
        SocketAddr::V6(_) => libc::AF_INET6,
    }
}

/// A bound socket as a file descriptor; the error is a positive errno.
fn plain_socket(target: SocketAddr, source: Option<SocketAddr>) -> Result<OwnedFd, i32> {
    let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|error| error.raw_os_error())?;
    if let Some(source) = source {
        // SAFETY: the value is a static of the given length. A failure only means that the port
        // is chosen at bind already.
        unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_IP,
                libc::IP_BIND_ADDRESS_NO_PORT,
                std::ptr::from_ref(&ONE).cast(),
                size_of::<i32>() as u32,
            );
        }
        bind(&socket, &source).map_err(|error| error.raw_os_error())?;
    }
    Ok(socket)
}
