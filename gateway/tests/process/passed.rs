//! Listening sockets that a service manager passes (sd_listen_fds(3)).

use std::{
    net::TcpListener,
    os::fd::{AsFd, AsRawFd},
    process::{Command, Stdio},
};

use roost_protocol::{Reason, edge::FrameType};

use crate::support::{Client, Gateway, command, output};

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
fn passed(sockets: &[&TcpListener], arguments: &[&str]) -> Command {
    let gateway = command(arguments);
    let mut wrapped = Command::new("python3");
    wrapped.args(["-c", PASS, &sockets.len().to_string()]);
    for socket in sockets {
        rustix::io::fcntl_setfd(socket.as_fd(), rustix::io::FdFlags::empty()).unwrap();
        wrapped.arg(socket.as_raw_fd().to_string());
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
fn passed_sockets_stand_for_the_configured_ones_in_order() {
    let sockets = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let addresses = sockets.each_ref().map(|socket| socket.local_addr().unwrap());
    let mut gateway = Gateway::spawn(passed(&[&sockets[0], &sockets[1]], &["--listen", "[::1]:0"]));
    let line = gateway.wait_for_line("  clients    ");
    assert!(line.ends_with(&format!("{}, {}", addresses[0], addresses[1])), "{line}");
    for address in addresses {
        Client::connect(address).hello("a");
    }
    gateway.stop();
    let (status, text) = output(passed(&[&sockets[0]], &["--listen", "[::1]:0"]));
    assert!(!status.success(), "{text}");
    let line = text.lines().last().unwrap();
    assert!(line.contains("1 listening sockets were passed") && line.contains("names 2"), "{line}");
}
