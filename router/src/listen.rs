//! TCP listeners, made alike for clients, gateways and whoever asks for figures.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with, sockopt};

/// Connections that wait in the kernel at most; net.core.somaxconn caps it.
const BACKLOG: i32 = 1_024;

/// Listens on `address`. `[::]` is all of IPv6 and no IPv4, whatever net.ipv6.bindv6only says, so that
/// 0.0.0.0 and `[::]` can be had together and mean the same everywhere.
///
/// # Errors
/// What the kernel says; [`explain`] has the remedy.
pub fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = bound(address)?.into();
    start(&socket)?;
    Ok(socket)
}

/// Lets clients connect to a socket of [`bound`].
///
/// # Errors
/// Somebody else listens on its address since: two sockets can be bound to it for as long as neither
/// listens.
pub fn start(socket: &TcpListener) -> io::Result<()> {
    Ok(listen(socket, BACKLOG)?)
}

/// A socket that has `address` and does not listen yet.
///
/// # Errors
/// As [`tcp`].
pub fn bound(address: SocketAddr) -> io::Result<std::os::fd::OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &address)?;
    Ok(socket)
}

/// Why `address` cannot be listened on, and what to do; `flag` is what chooses another.
pub fn explain(error: &io::Error, address: SocketAddr, flag: &str) -> String {
    let port = address.port();
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("`ss -ltnp 'sport = :{port}'` shows by whom; {flag} chooses another")
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("no interface here has it, `ip address` lists those that are there; {flag} chooses one")
        }
        io::ErrorKind::PermissionDenied => format!(
            "ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE; {flag} chooses another"
        ),
        _ => match rustix::io::Errno::from_io_error(error) {
            Some(rustix::io::Errno::AFNOSUPPORT) => {
                format!("this machine has no such addresses (IPv6 off?); {flag} chooses another")
            }
            _ => format!("{flag} chooses another"),
        },
    };
    format!("cannot listen on {address}: {error}: {remedy}")
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn wildcards_of_both_families_share_a_port() {
        let v4 = tcp("0.0.0.0:0".parse().unwrap()).unwrap();
        let port = v4.local_addr().unwrap().port();
        let v6 = tcp(SocketAddr::new("::".parse().unwrap(), port)).unwrap();
        TcpStream::connect(("::1", port)).unwrap();
        drop(v4);
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "[::] takes no IPv4");
        drop(v6);
    }

    #[test]
    fn each_refusal_has_its_own_remedy() {
        let taken = tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        for (address, remedy) in [
            (taken.local_addr().unwrap().to_string(), "ss -ltnp"),
            ("192.0.2.1:7400".to_owned(), "no interface here has it"),
        ] {
            let address = address.parse().unwrap();
            let line = explain(&tcp(address).unwrap_err(), address, "--listen");
            assert!(line.contains(remedy) && line.contains("--listen") && !line.contains('\n'), "{line}");
        }
        let denied = explain(&io::Error::from_raw_os_error(13), "0.0.0.0:80".parse().unwrap(), "--listen");
        assert!(denied.contains("CAP_NET_BIND_SERVICE") && !denied.contains("ss -ltnp"), "{denied}");
    }
}
