//! The sockets where clients connect: one per address, shared by all shards.
//!
//! A socket that comes from elsewhere, a service manager or a predecessor, is known by its address:
//! neither promises an order. It must be what `listen` names, or the start ends with a line.

use std::{
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use listenfd::ListenFd;
use roost_router::listen as net;
use rustix::net::{SocketType, getsockname, listen, sockopt};
use socket2::SockRef;

use super::{caught::CaughtSignals, handover::OfferedListener};
use crate::config::{Config, ListenerSpec};

/// How long an address may stay in use. The rings of a process that was killed end a moment after
/// it (20 ms with 500 clients, 5.3 s with a million), and with them the accepts that hold its
/// listener.
const LET_GO: Duration = Duration::from_secs(10);
const LET_GO_PAUSE: Duration = Duration::from_millis(10);

/// A socket where clients connect, from [`Listening::start`] on.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) socket: OwnedFd,
    /// As bound: the kernel has chosen where the port was 0.
    pub(super) address: SocketAddr,
    pub(super) offered: OfferedListener,
}

/// The sockets in the order of `listen`: a predecessor's, the service manager's, or our own, where
/// nobody can connect before [`Listening::start`]. Those that a predecessor has and `listen` does not
/// name stay with it.
pub(super) fn open(
    config: &Config,
    inherited: Option<Vec<(OwnedFd, OfferedListener)>>,
    signals: &mut CaughtSignals,
) -> Result<Vec<Listening>> {
    let mut passed = passed_by_manager()?;
    let found = match inherited {
        Some(inherited) => {
            let inherited: Vec<_> = inherited
                .into_iter()
                .map(|(socket, offered)| {
                    Listening::new(socket, offered, "the running gateway sent a socket that")
                })
                .collect::<Result<_>>()?;
            from_predecessor(&config.listen, inherited)?
        }
        None if passed.is_empty() => config.listen.iter().map(|_| None).collect(),
        None => from_manager(&config.listen, std::mem::take(&mut passed))?.into_iter().map(Some).collect(),
    };
    let mut listening = Vec::new();
    for (spec, found) in config.listen.iter().zip(found) {
        // Of what a predecessor has a manager passes further copies; what is new it alone has.
        let at = passed.iter().position(|passed| passed.address == spec.address);
        let offered = OfferedListener { proxy: spec.proxy, kept_by_manager: true };
        let found = found.or_else(|| Some(Listening { offered, ..passed.remove(at?) }));
        listening.push(match found {
            Some(found) => {
                // With O_NONBLOCK an accept on a ring would fail instead of waiting.
                let made = rustix::io::ioctl_fionbio(&found.socket, false).map_err(io::Error::from);
                made.and_then(|()| set_inherited(&found.socket, config))
                    .with_context(|| format!("the socket of {} is of no use", found.address))?;
                found
            }
            None => bind_when_free(spec, config, signals)?,
        });
    }
    Ok(listening)
}

impl Listening {
    fn new(socket: OwnedFd, offered: OfferedListener, whose: &str) -> Result<Self> {
        if sockopt::socket_type(&socket).ok() != Some(SocketType::STREAM) {
            bail!("{whose} is no TCP socket");
        }
        let name = getsockname(&socket).context("a listening socket without an address")?;
        let Ok(address) = SocketAddr::try_from(name) else { bail!("{whose} is no TCP socket") };
        if !sockopt::socket_acceptconn(&socket)? {
            bail!(
                "{whose} has the address {address} and does not listen: pass listening sockets (a .socket unit \
                 with Accept=no)"
            );
        }
        Ok(Self { socket, address, offered })
    }

    /// Lets clients connect, where they cannot yet. A start that is refused before has kept nobody waiting.
    ///
    /// # Errors
    /// Somebody else listens on its address since: two sockets can be bound to it for as long as neither
    /// listens.
    pub(super) fn start(&self, config: &Config) -> Result<()> {
        if sockopt::socket_acceptconn(&self.socket)? {
            return Ok(());
        }
        let backlog = i32::try_from(config.listen_backlog).unwrap_or(i32::MAX);
        let started = listen(&self.socket, backlog).map_err(io::Error::from);
        started.map_err(|error| anyhow!(net::explain(&error, self.address, "--listen")))
    }
}

/// Which of `sockets` each address of `listen` means. An address with port 0 means any port.
fn assign(listen: &[ListenerSpec], sockets: Vec<Listening>) -> (Vec<Option<Listening>>, Vec<Listening>) {
    let mut left = sockets;
    let mut found: Vec<Option<Listening>> = listen.iter().map(|_| None).collect();
    for any_port in [false, true] {
        for (spec, found) in listen.iter().zip(&mut found) {
            if found.is_some() || (spec.address.port() == 0) != any_port {
                continue;
            }
            let means = |socket: &Listening| {
                let address = socket.address;
                address.ip() == spec.address.ip() && (any_port || address.port() == spec.address.port())
            };
            // Of several without a port the one with the same flag.
            let same = |socket: &Listening| means(socket) && socket.offered.proxy == spec.proxy;
            let at = left.iter().position(same).or_else(|| left.iter().position(means));
            *found = at.map(|at| left.remove(at));
        }
    }
    (found, left)
}

fn from_predecessor(listen: &[ListenerSpec], sockets: Vec<Listening>) -> Result<Vec<Option<Listening>>> {
    let (found, left) = assign(listen, sockets);
    for (spec, found) in listen.iter().zip(&found) {
        if let Some(found) = found
            && found.offered.proxy != spec.proxy
        {
            // Both accept for a moment, from one queue: whoever is in it would be misread by one.
            bail!(
                "listen: {} expects {} PROXY header, but the running gateway {} one there: change that with \
                 another port, or by a restart",
                found.address,
                if spec.proxy { "a" } else { "no" },
                if spec.proxy { "expects no" } else { "expects" },
            );
        }
    }
    for left in left {
        tracing::info!(address = %left.address, "not in `listen` any more: it ends with the running gateway");
    }
    Ok(found)
}

fn from_manager(listen: &[ListenerSpec], sockets: Vec<Listening>) -> Result<Vec<Listening>> {
    let passed = sockets.iter().map(|socket| socket.address.to_string()).collect::<Vec<_>>().join(", ");
    let free = listen.iter().filter(|spec| spec.address.port() == 0);
    if free.clone().any(|spec| spec.proxy) && free.clone().any(|spec| !spec.proxy) {
        bail!(
            "listen: name the ports: which of the passed sockets ({passed}) expects PROXY headers is not told"
        );
    }
    let (found, left) = assign(listen, sockets);
    if let Some((spec, _)) = listen.iter().zip(&found).find(|(_, found)| found.is_none()) {
        bail!(
            "listen names {}, but the sockets passed to this process are {passed}: ListenStream= and `listen` must \
             name the same addresses",
            spec.address
        );
    }
    if let [left, ..] = &left[..] {
        bail!(
            "a socket with the address {} was passed to this process, but `listen` does not name it: \
             ListenStream= and `listen` must name the same addresses",
            left.address
        );
    }
    let flagged = listen.iter().zip(found.into_iter().flatten());
    Ok(flagged
        .map(|(spec, found)| {
            let offered = OfferedListener { proxy: spec.proxy, kept_by_manager: true };
            Listening { offered, ..found }
        })
        .collect())
}

/// Sets what accepted sockets inherit.
fn set_inherited(listener: &OwnedFd, config: &Config) -> io::Result<()> {
    sockopt::set_tcp_nodelay(listener, true)?;
    SockRef::from(listener).set_tcp_notsent_lowat(config.notsent_lowat_bytes)
}

/// Sockets passed by LISTEN_FDS (sd_listen_fds(3)).
fn passed_by_manager() -> Result<Vec<Listening>> {
    let mut passed = ListenFd::from_env();
    let count = passed.len();
    let take = |index| {
        let whose = format!("LISTEN_FDS: descriptor {}", 3 + index);
        let socket = passed.take_tcp_listener(index).ok().flatten();
        let socket = socket.with_context(|| format!("{whose} is no TCP socket"))?;
        Listening::new(socket.into(), OfferedListener { proxy: false, kept_by_manager: true }, &whose)
    };
    (0..count).map(take).collect()
}

/// Waits for a predecessor's listener to end, if there is one.
fn bind_when_free(spec: &ListenerSpec, config: &Config, signals: &mut CaughtSignals) -> Result<Listening> {
    let until = Instant::now() + LET_GO;
    let mut said = false;
    loop {
        match bind_one(spec, config) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                if !said {
                    said = true;
                    tracing::info!("{} is in use; waiting for it to be let go", spec.address);
                }
                signals.go_on()?;
                thread::sleep(LET_GO_PAUSE);
            }
            Err(error) => bail!("{}", net::explain(&error, spec.address, "--listen")),
            Ok(listening) => return Ok(listening),
        }
    }
}

fn bind_one(spec: &ListenerSpec, config: &Config) -> io::Result<Listening> {
    let socket = net::bound(spec.address)?;
    set_inherited(&socket, config)?;
    let address = SocketAddr::try_from(getsockname(&socket)?)?;
    Ok(Listening { socket, address, offered: OfferedListener { proxy: spec.proxy, kept_by_manager: false } })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use rustix::net::{AddressFamily, SocketFlags, socket_with};

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

    fn signals() -> CaughtSignals {
        CaughtSignals::catch().unwrap()
    }

    const PLAIN: OfferedListener = OfferedListener { proxy: false, kept_by_manager: false };
    const PROXY: OfferedListener = OfferedListener { proxy: true, kept_by_manager: false };

    fn bound(host: &str, offered: OfferedListener) -> Listening {
        let socket = TcpListener::bind((host, 0)).unwrap();
        Listening::new(socket.into(), offered, "it").unwrap()
    }

    fn spec(socket: &Listening, proxy: bool) -> ListenerSpec {
        ListenerSpec { address: socket.address, proxy }
    }

    fn any_port(host: &str, proxy: bool) -> ListenerSpec {
        ListenerSpec { address: SocketAddr::new(host.parse().unwrap(), 0), proxy }
    }

    #[test]
    fn clients_inherit_what_is_set_on_listeners() {
        assert_eq!(Config::default().notsent_lowat_bytes, 131_072);
        for bytes in [131_072, 16_384, 0] {
            let listening = open(&config(bytes), None, &mut signals()).unwrap();
            let [listener] = <[Listening; 1]>::try_from(listening).unwrap();
            let early = TcpStream::connect(listener.address).unwrap_err();
            assert_eq!(early.kind(), io::ErrorKind::ConnectionRefused);
            listener.start(&Config::default()).unwrap();
            assert_eq!(accepted(listener.socket), (true, bytes));
        }
    }

    #[test]
    fn of_two_that_start_at_one_address_the_later_is_refused_with_a_line() {
        let config = Config::default();
        let open = |port| bind_one(&ListenerSpec::local(port), &config).unwrap();
        let one = open(0);
        let two = open(one.address.port());
        two.start(&config).unwrap();
        two.start(&config).unwrap();
        let line = one.start(&config).unwrap_err().to_string();
        assert!(line.starts_with("cannot listen on") && line.contains("ss -ltnp"), "{line}");
    }

    #[test]
    fn an_inherited_listener_gets_the_same_and_waits_in_accept() {
        let passed = TcpListener::bind("127.0.0.1:0").unwrap();
        passed.set_nonblocking(true).unwrap();
        let opened = open(&config(65_536), Some(vec![(passed.into(), PLAIN)]), &mut signals()).unwrap();
        let [listener] = <[Listening; 1]>::try_from(opened).unwrap();
        let flags = rustix::fs::fcntl_getfl(&listener.socket).unwrap();
        assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK));
        assert_eq!(accepted(listener.socket), (true, 65_536));
    }

    #[test]
    fn what_does_not_listen_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let unbound =
            socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
        for socket in [OwnedFd::from(connected), unbound] {
            let error = Listening::new(socket, PLAIN, "descriptor 3").unwrap_err().to_string();
            assert!(
                error.contains("descriptor 3 has the address") && error.contains("does not listen"),
                "{error}"
            );
        }
        let datagram = UdpSocket::bind("127.0.0.1:0").unwrap().into();
        let local = std::os::unix::net::UnixDatagram::unbound().unwrap().into();
        let stream = std::os::unix::net::UnixStream::pair().unwrap().0.into();
        for socket in [datagram, local, stream] {
            let error = Listening::new(socket, PLAIN, "descriptor 3").unwrap_err().to_string();
            assert_eq!(error, "descriptor 3 is no TCP socket");
        }
    }

    #[test]
    fn sockets_of_a_manager_are_known_by_their_address_in_any_order() {
        let (one, two) = (bound("127.0.0.1", PLAIN), bound("127.0.0.1", PLAIN));
        let listen = [spec(&one, false), spec(&two, true)];
        let found = from_manager(&listen, vec![two, one]).unwrap();
        for (spec, found) in listen.iter().zip(found) {
            assert_eq!((found.address, found.offered.proxy), (spec.address, spec.proxy));
            assert!(found.offered.kept_by_manager);
        }
    }

    #[test]
    fn a_socket_too_many_too_few_or_of_another_family_is_refused() {
        let pair = || vec![bound("127.0.0.1", PLAIN), bound("127.0.0.1", PLAIN)];
        let error = from_manager(&[any_port("127.0.0.1", false)], pair()).unwrap_err().to_string();
        assert!(error.contains("`listen` does not name it"), "{error}");
        let three = [(); 3].map(|()| any_port("127.0.0.1", false));
        let error = from_manager(&three, pair()).unwrap_err().to_string();
        assert!(error.contains("must name the same addresses"), "{error}");
        let error = from_manager(&[any_port("::1", false)], pair()).unwrap_err().to_string();
        assert!(error.starts_with("listen names [::1]:0"), "{error}");
        let either = [any_port("127.0.0.1", false), any_port("127.0.0.1", true)];
        let error = from_manager(&either, pair()).unwrap_err().to_string();
        assert!(error.contains("name the ports"), "{error}");
    }

    #[test]
    fn a_changed_listen_takes_what_it_names_and_binds_what_is_new() {
        let (kept, dropped) = (bound("127.0.0.1", PLAIN), bound("127.0.0.1", PLAIN));
        let new = { bound("127.0.0.1", PLAIN).address };
        let listen = vec![ListenerSpec { address: new, proxy: false }, spec(&kept, false)];
        let (kept_address, dropped_address) = (kept.address, dropped.address);
        let inherited = [dropped, kept].map(|socket| (socket.socket, socket.offered)).into();
        let config = Config { listen, ..Config::default() };
        let opened = open(&config, Some(inherited), &mut signals()).unwrap();
        assert_eq!(opened.iter().map(|socket| socket.address).collect::<Vec<_>>(), [new, kept_address]);
        // Nobody has the other one any more: here the predecessor is gone, too.
        TcpListener::bind(dropped_address).unwrap();
    }

    #[test]
    fn another_proxy_flag_than_the_predecessors_is_refused() {
        for (offered, proxy) in [(PLAIN, true), (PROXY, false)] {
            let socket = bound("127.0.0.1", offered);
            let error = from_predecessor(&[spec(&socket, proxy)], vec![socket]).unwrap_err().to_string();
            assert!(error.contains("PROXY header, but the running gateway expects"), "{error}");
        }
        let (plain, proxy) = (bound("127.0.0.1", PLAIN), bound("127.0.0.1", PROXY));
        let address = proxy.address;
        let listen = [any_port("127.0.0.1", true), spec(&plain, false)];
        let found = from_predecessor(&listen, vec![plain, proxy]).unwrap();
        assert_eq!(found[0].as_ref().unwrap().address, address);
    }

    #[test]
    fn a_predecessor_lets_go_a_moment_after_its_end() {
        let config = Config::default();
        let old = TcpListener::bind("127.0.0.1:0").unwrap();
        let spec = ListenerSpec { address: old.local_addr().unwrap(), proxy: false };
        assert_eq!(bind_one(&spec, &config).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let ends = thread::spawn(move || {
            thread::sleep(Duration::from_millis(200));
            drop(old);
        });
        let new = bind_when_free(&spec, &config, &mut signals()).unwrap();
        assert_eq!(new.address, spec.address);
        ends.join().unwrap();
    }
}
