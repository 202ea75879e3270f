//! The sockets where clients connect: one per address, shared by all shards.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use listenfd::ListenFd;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind as bind_socket, ipproto, listen, socket_with, sockopt,
};
use socket2::SockRef;

use crate::config::{Config, ListenerSpec};

/// How long an address may stay in use. The rings of a process that was killed end a moment after
/// it (20 ms with 500 clients, 5.3 s with a million), and with them the accepts that hold its
/// listener.
const LET_GO: Duration = Duration::from_secs(10);
const LET_GO_PAUSE: Duration = Duration::from_millis(10);

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
        let made = rustix::io::ioctl_fionbio(listener, false).map_err(io::Error::from);
        made.and_then(|()| set_inherited(listener, config))
            .context("a passed listening socket is of no use")?;
    }
    Ok(passed)
}

/// Sets what accepted sockets inherit.
fn set_inherited(listener: &OwnedFd, config: &Config) -> io::Result<()> {
    sockopt::set_tcp_nodelay(listener, true)?;
    SockRef::from(listener).set_tcp_notsent_lowat(config.notsent_lowat_bytes)
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
        .map(|spec| bind_when_free(spec, backlog, config).with_context(|| diagnosis(spec.address)))
        .collect()
}

/// Waits for a predecessor's listener to end, if there is one.
fn bind_when_free(spec: &ListenerSpec, backlog: i32, config: &Config) -> io::Result<OwnedFd> {
    let until = Instant::now() + LET_GO;
    let mut said = false;
    loop {
        match bind_one(spec, backlog, config) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                if !said {
                    said = true;
                    tracing::info!("{} is in use; waiting for it to be let go", spec.address);
                }
                thread::sleep(LET_GO_PAUSE);
            }
            result => return result,
        }
    }
}

fn bind_one(spec: &ListenerSpec, backlog: i32, config: &Config) -> io::Result<OwnedFd> {
    let family = match spec.address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if spec.address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    set_inherited(&socket, config)?;
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

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// What a client's socket has: nodelay and the limit on unsent bytes.
    fn accepted(listener: OwnedFd) -> (bool, u32) {
        let listener = TcpListener::from(listener);
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (client, _) = listener.accept().unwrap();
        let client = SockRef::from(&client);
        (client.tcp_nodelay().unwrap(), client.tcp_notsent_lowat().unwrap())
    }

    fn config(notsent_lowat_bytes: u32) -> Config {
        Config { listen: vec![ListenerSpec::local(0)], notsent_lowat_bytes, ..Config::default() }
    }

    #[test]
    fn clients_inherit_what_is_set_on_listeners() {
        assert_eq!(Config::default().notsent_lowat_bytes, 131_072);
        for bytes in [131_072, 16_384, 0] {
            let [listener] = <[OwnedFd; 1]>::try_from(open(&config(bytes), None).unwrap()).unwrap();
            assert_eq!(accepted(listener), (true, bytes));
        }
    }

    #[test]
    fn a_passed_listener_gets_the_same_and_waits_in_accept() {
        let passed = TcpListener::bind("127.0.0.1:0").unwrap();
        passed.set_nonblocking(true).unwrap();
        let opened = open(&config(65_536), Some(vec![passed.into()])).unwrap();
        let [listener] = <[OwnedFd; 1]>::try_from(opened).unwrap();
        let flags = rustix::fs::fcntl_getfl(&listener).unwrap();
        assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK));
        assert_eq!(accepted(listener), (true, 65_536));
    }

    #[test]
    fn a_passed_listener_too_many_is_refused() {
        let passed = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap().into()).into();
        let error = open(&config(0), Some(passed)).unwrap_err();
        assert!(error.to_string().contains("2 listening sockets were passed"), "{error}");
    }

    #[test]
    fn a_predecessor_lets_go_a_moment_after_its_end() {
        let config = Config::default();
        let old = TcpListener::bind("127.0.0.1:0").unwrap();
        let spec = ListenerSpec { address: old.local_addr().unwrap(), proxy: false };
        assert_eq!(bind_one(&spec, 16, &config).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let ends = thread::spawn(move || {
            thread::sleep(Duration::from_millis(200));
            drop(old);
        });
        let new = bind_when_free(&spec, 16, &config).unwrap();
        assert_eq!(addresses(&[new]).unwrap(), [spec.address]);
        ends.join().unwrap();
    }
}
