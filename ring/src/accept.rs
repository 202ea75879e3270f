//! Addresses of accepted clients, and how many wait to be.
//!
//! A direct descriptor has no number, so getpeername(2) cannot ask about it: the address has to
//! be taken from the accept itself. Every accept in flight has a cell of its own that the kernel
//! writes to, and the address goes on with the completion.

use std::{
    io,
    mem::MaybeUninit,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsRawFd, OwnedFd},
    ptr::NonNull,
};

use libc::{sa_family_t, sockaddr, sockaddr_in, sockaddr_in6, socklen_t, tcp_info};

use super::memory::Region;

/// Where one accept's address goes.
#[repr(C)]
struct Cell {
    /// The largest address that we care for; a longer one is cut (accept(2)).
    address: sockaddr_in6,
    len: socklen_t,
}

/// The cells of accepts in flight.
pub(super) struct Accepts {
    cells: Region,
    free: Vec<u32>,
    /// Cells from here on have never been used, so their pages are not touched.
    fresh: u32,
}

impl Accepts {
    /// For at most `accepts_max` in flight.
    pub(super) fn new(accepts_max: u32) -> io::Result<Self> {
        Ok(Self { cells: Region::map(accepts_max as usize * size_of::<Cell>())?, free: Vec::new(), fresh: 0 })
    }

    /// A cell for one accept, and where in it address and length go. The memory is the kernel's
    /// until [`Self::take`].
    pub(super) fn start(&mut self) -> (u32, *mut sockaddr, *mut socklen_t) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.fresh += 1;
            self.fresh - 1
        });
        let cell = self.cell(index);
        // SAFETY: in bounds by `cell`, and ours alone: free cells are in no op.
        unsafe {
            (*cell.as_ptr()).len = size_of::<sockaddr_in6>() as socklen_t;
            let address = &raw mut (*cell.as_ptr()).address;
            (index, address.cast(), &raw mut (*cell.as_ptr()).len)
        }
    }

    /// Frees the cell of an accept that has completed, and says whose address is in it, if any.
    pub(super) fn finish(&mut self, index: u32, accepted: bool) -> Option<SocketAddr> {
        let cell = self.cell(index);
        self.free.push(index);
        // SAFETY: in bounds by `cell`, initialised (zeroed at first), and the kernel is done with
        // it: the accept has completed.
        let cell = unsafe { cell.as_ptr().read() };
        accepted.then(|| decode(&cell.address, cell.len)).flatten()
    }

    fn cell(&self, index: u32) -> NonNull<Cell> {
        // The region is page-aligned and a cell's size a multiple of its alignment.
        self.cells.at(index as usize * size_of::<Cell>(), size_of::<Cell>()).cast()
    }
}

/// How many clients wait on a listening socket: its TCP_INFO says so in `tcpi_unacked` (tcp(7); sock_diag(7)
/// of a listener has the same). None if it is no TCP socket.
pub(super) fn waiting(listener: &OwnedFd) -> Option<u32> {
    let mut info = MaybeUninit::<tcp_info>::zeroed();
    let mut len = size_of::<tcp_info>() as socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to `info`, which has as many.
    let result = unsafe {
        libc::getsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    // SAFETY: integers only, zeroed at first, so whatever was written makes a valid one.
    (result == 0).then(|| unsafe { info.assume_init() }.tcpi_unacked)
}

/// The internet address in a cell (ip(7), ipv6(7)); none if it is of another family.
fn decode(address: &sockaddr_in6, len: socklen_t) -> Option<SocketAddr> {
    const V4: sa_family_t = libc::AF_INET as sa_family_t;
    const V6: sa_family_t = libc::AF_INET6 as sa_family_t;
    match (address.sin6_family, len as usize) {
        (V4, len) if len >= size_of::<sockaddr_in>() => {
            // SAFETY: `sockaddr_in` is smaller than `sockaddr_in6`, of no stricter alignment, and
            // any bytes are a valid one.
            let address = unsafe { &*(&raw const *address).cast::<sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(address.sin_port)).into())
        }
        (V6, len) if len >= size_of::<sockaddr_in6>() => {
            let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
            let port = u16::from_be(address.sin6_port);
            Some(SocketAddrV6::new(ip, port, address.sin6_flowinfo, address.sin6_scope_id).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use rustix::event::EventfdFlags;

    use super::*;

    #[test]
    fn clients_that_wait_are_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().unwrap();
        let clients = [(); 3].map(|()| TcpStream::connect(address).expect("a place in the queue"));
        drop(listener.accept().expect("one of them"));
        assert_eq!(waiting(&listener.into()), Some(2));
        drop(clients);
        assert_eq!(waiting(&rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap()), None);
    }

    #[test]
    fn cells_are_reused_and_unwritten_ones_name_nobody() {
        let mut accepts = Accepts::new(2).expect("a mapping");
        let (first, ..) = accepts.start();
        let (second, ..) = accepts.start();
        assert_eq!(accepts.finish(first, true), None);
        assert_eq!(accepts.start().0, first);
        assert_ne!(first, second);
    }
}
