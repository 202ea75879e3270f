//! Listening sockets that a service manager passes (sd_listen_fds(3)).

use std::{
    net::{TcpListener, TcpStream, UdpSocket},
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixStream,
    },
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use roost_protocol::{Reason, edge::FrameType};

use crate::support::{Client, Gateway, Received, command, output};

/// Puts descriptors where LISTEN_FDS says they are, and becomes the gateway.
const PASS: &str = r#"
import fcntl, os, sys
count = int(sys.argv[1])
# Out of the way first: some may stand where others go.
fds = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 100) for fd in sys.argv[2:2 + count]]
for index, fd in enumerate(fds):
    os.dup2(fd, 3 + index)
    os.close(fd)
os.environ.update(LISTEN_FDS=str(count), LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2 + count], sys.argv[2 + count:])
"#;

/// The gateway's command, with these sockets passed to it.
fn passed(sockets: &[&dyn AsFd], arguments: &[&str]) -> Command {
    let gateway = command(arguments);
    let mut wrapped = Command::new("python3");
    wrapped.args(["-c", PASS, &sockets.len().to_string()]);
    for socket in sockets {
        rustix::io::fcntl_setfd(socket.as_fd(), rustix::io::FdFlags::empty()).unwrap();
        wrapped.arg(socket.as_fd().as_raw_fd().to_string());
    }
    wrapped.arg(gateway.get_program()).args(gateway.get_args());
    wrapped.envs(gateway.get_envs().filter_map(|(name, value)| Some((name, value?))));
    wrapped.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    wrapped
}

#[test]
fn the_queue_of_a_passed_socket_outlives_gateways() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    // Before any gateway runs, while one runs, between two, and with the next.
    let mut early = Client::connect(address);
    early.send_hello("early");
    let gateway = Gateway::spawn(passed(&[&socket], &[]));
    assert_eq!(gateway.clients, address, "not the configured one");
    assert_eq!(early.receive().unwrap().frame_type, FrameType::Welcome);
    gateway.welcome("later").echo(b"hello");
    gateway.stop();
    early.expect_goaway(Reason::Drain);
    let mut between = Client::connect(address);
    between.send_hello("between");
    let next = Gateway::spawn(passed(&[&socket], &[]));
    assert_eq!(between.receive().unwrap().frame_type, FrameType::Welcome);
    between.echo(b"still queued");
    next.stop();
}

#[test]
fn passed_sockets_are_known_by_their_addresses_in_any_order() {
    let sockets = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [plain, proxy] = sockets.each_ref().map(|socket| socket.local_addr().unwrap());
    let listen = format!("{plain},proxy:{proxy}");
    let mut gateway = passed(&[&sockets[1], &sockets[0]], &["--set", "proxy_trusted=127.0.0.0/8"]);
    gateway.args(["--set", &format!("listen={listen}")]);
    let mut gateway = Gateway::spawn(gateway);
    let line = gateway.wait_for_line("  clients    ");
    assert!(line.ends_with(&format!("{plain}, {proxy}")), "{line}");
    Client::connect(plain).hello("a");
    let mut behind = Client::connect(proxy);
    behind.send(b"PROXY TCP4 192.0.2.9 192.0.2.1 5 6\r\n");
    behind.hello("b");
    // Who says so at the other one is not believed.
    let mut liar = Client::connect(plain);
    liar.send(b"PROXY TCP4 192.0.2.9 192.0.2.1 5 6\r\n");
    assert!(matches!(liar.receive(), Ok(Received { frame_type: FrameType::Goaway, .. }) | Err(_)));
    gateway.stop();
}

/// The start fails with one line that says `parts`.
fn refused(sockets: &[&dyn AsFd], arguments: &[&str], parts: &[&str]) {
    let (status, text) = output(passed(sockets, arguments));
    assert!(!status.success(), "{text}");
    let line = text.lines().last().unwrap();
    for part in parts {
        assert!(line.contains(part), "`{part}` is missing in: {text}");
    }
}

#[test]
fn passed_sockets_other_than_listen_names_are_refused() {
    let sockets = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let address = sockets[0].local_addr().unwrap().to_string();
    refused(&[&sockets[0]], &["--listen", "[::1]:0"], &["listen names [::1]:0", &address, "ListenStream="]);
    refused(&[&sockets[0], &sockets[1]], &[], &["`listen` does not name it"]);
    refused(&[&sockets[0]], &["--set", "listen=127.0.0.1:9"], &["listen names 127.0.0.1:9", &address]);
}

#[test]
fn a_passed_socket_that_does_not_listen_is_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    refused(&[&accepted], &[], &["descriptor 3 has the address", "does not listen", "Accept=no"]);
    let datagram = UdpSocket::bind("127.0.0.1:0").unwrap();
    refused(&[&datagram], &[], &["descriptor 3 is no TCP socket"]);
    let (one, _other) = UnixStream::pair().unwrap();
    refused(&[&listener, &one], &[], &["descriptor 4 is no TCP socket"]);
    drop(connected);
}

#[test]
fn while_a_gateway_with_a_passed_socket_drains_newcomers_are_told() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let arguments =
        ["--drain-ms", "600000", "--set", "drain_rate_per_s=1", "--set", "drain_to=b.example:7400"];
    let mut gateway = Gateway::spawn(passed(&[&socket], &arguments));
    let mut residents: Vec<_> = (0..8).map(|i| gateway.welcome(&format!("user-{i}"))).collect();
    gateway.signal(15);
    gateway.wait_for_line("draining");
    // The manager keeps the queue, so nobody may be left in it until the last resident has been told.
    for _ in 0..3 {
        let mut newcomer = Client::connect(gateway.clients);
        newcomer.send_hello("newcomer");
        let (retry_after_ms, to) = newcomer.expect_advice(Reason::Drain);
        assert!((1000..=5000).contains(&retry_after_ms) && to == "b.example:7400", "{retry_after_ms} {to}");
        thread::sleep(Duration::from_millis(300));
    }
    gateway.signal(15);
    for resident in &mut residents {
        resident.expect_advice(Reason::Drain);
    }
    assert!(gateway.wait_exit().success());
    // Whoever comes now waits for the next one.
    let mut between = Client::connect(socket.local_addr().unwrap());
    between.send_hello("between");
    let next = Gateway::spawn(passed(&[&socket], &[]));
    assert_eq!(between.receive().unwrap().frame_type, FrameType::Welcome);
    next.stop();
}
