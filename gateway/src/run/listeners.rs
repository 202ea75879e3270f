//! The sockets where clients connect: one per address, shared by all shards.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
};

use anyhow::{Context, Result, bail};
use listenfd::ListenFd;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind as bind_socket, ipproto, listen, socket_with, sockopt,
};

use crate::config::{Config, ListenerSpec};

/// The listening sockets: a predecessor's, the service manager's, or our own.
pub(super) fn open(config: &Config, inherited: Option<Vec<OwnedFd>>) -> Result<Vec<OwnedFd>> {
    let passed = match inherited {
        Some(listeners) => listeners,
        None => passed_by_manager()?,
    };
    if passed.is_empty() {
        return bind(config);
    }
    if passed.len() != config.listen.len() {
        bail!(
            "{} listening sockets were passed to this process, but `listen` names {}: name as many, in the \
             same order",
            passed.len(),
            config.listen.len()
        );
    }
    for listener in &passed {
        // With O_NONBLOCK an accept on a ring would fail instead of waiting.
        rustix::io::ioctl_fionbio(listener, false).context("a passed listening socket is of no use")?;
    }
    Ok(passed)
}

/// Sockets passed by LISTEN_FDS (sd_listen_fds(3)).
fn passed_by_manager() -> Result<Vec<OwnedFd>> {
    let mut passed = ListenFd::from_env();
    let count = passed.len();
    let take = |index| match passed.take_tcp_listener(index) {
        Ok(listener) => Ok(OwnedFd::from(listener.context("a socket was passed twice")?)),
        Err(error) => Err(error).context("LISTEN_FDS names something that is no TCP listener"),
    };
    (0..count).map(take).collect()
}

/// Binds and listens on every configured address.
fn bind(config: &Config) -> Result<Vec<OwnedFd>> {
    let backlog = i32::try_from(config.listen_backlog).unwrap_or(i32::MAX);
    config
        .listen
        .iter()
        .map(|spec| bind_one(spec, backlog).with_context(|| diagnosis(spec.address)))
        .collect()
}

fn bind_one(spec: &ListenerSpec, backlog: i32) -> io::Result<OwnedFd> {
    let family = match spec.address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if spec.address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    // Accepted sockets inherit these.
    sockopt::set_tcp_nodelay(&socket, true)?;
    bind_socket(&socket, &spec.address)?;
    listen(&socket, backlog)?;
    Ok(socket)
}

fn diagnosis(address: SocketAddr) -> String {
    format!(
        "cannot listen on {address} (in use? `ss -ltnp 'sport = :{}'` shows by whom; --listen chooses another)",
        address.port()
    )
}

/// The addresses as bound: the kernel has chosen where the port was 0.
pub(super) fn addresses(listeners: &[OwnedFd]) -> Result<Vec<SocketAddr>> {
    let address = |listener: &OwnedFd| Ok(TcpListener::from(listener.try_clone()?).local_addr()?);
    listeners.iter().map(address).collect()
}
