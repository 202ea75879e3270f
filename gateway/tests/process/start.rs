//! Starts that cannot work: one line with cause and remedy, and a non-zero exit.

use std::{
    net::{SocketAddr, TcpListener},
    process::Command,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
    time::Duration,
};

use socket2::{Domain, Socket, Type};

use crate::support::{Gateway, command, get, output};

/// The last line that it printed, which must say `parts`; it must have failed.
fn refusal(command: Command, parts: &[&str]) -> String {
    let (status, text) = output(command);
    assert!(!status.success(), "it should have failed: {text}");
    let line = text.lines().last().unwrap_or_default().to_owned();
    for part in parts {
        assert!(line.contains(part), "`{part}` is missing in: {text}");
    }
    line
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut gateway = Command::new(env!("CARGO_BIN_EXE_roost-gateway"));
    gateway.args(["--listen", &address, "--admin-listen", "127.0.0.1:0"]);
    refusal(gateway, &["cannot listen on", &address, "in use"]);
}

/// Clients of a process that then ends would have been lost, and a balancer misled.
#[test]
fn a_start_that_is_refused_was_never_reachable() {
    // An address that no other test uses: none takes these ports meanwhile.
    let free = || TcpListener::bind("127.0.0.3:0").unwrap().local_addr().unwrap().to_string();
    let (clients, admin) = (free(), free());
    let over = AtomicBool::new(false);
    let knock = |address: &str| {
        let to: SocketAddr = address.parse().unwrap();
        let mut reached = 0;
        while !over.load(SeqCst) {
            // From another address: a socket of the same one could meet itself at a port without a listener.
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).unwrap();
            reached += u32::from(socket.connect(&to.into()).is_ok());
            thread::sleep(Duration::from_millis(1));
        }
        reached
    };
    thread::scope(|scope| {
        let knocking = [&clients, &admin].map(|address| scope.spawn(|| knock(address)));
        let started: Vec<_> = (0..3)
            .map(|_| {
                // The socket for successors is the last that is made: shards and links are there by then.
                let mut gateway = Command::new(env!("CARGO_BIN_EXE_roost-gateway"));
                gateway.args(["--listen", &clients, "--admin-listen", &admin, "--shards", "2"]);
                gateway.args([
                    "--connections-max",
                    "100",
                    "--handover-socket",
                    "/nonexistent/roost/handover",
                ]);
                output(gateway)
            })
            .collect();
        // A panic before this would leave the threads knocking for ever.
        over.store(true, SeqCst);
        let reached = knocking.map(|knocking| knocking.join().unwrap());
        assert_eq!(reached, [0, 0], "connections to a gateway that never served");
        for (status, text) in started {
            // The thread that logs may say something after the last words.
            let said = text.lines().any(|line| line.contains("/nonexistent/roost"));
            assert!(!status.success() && said, "{text}");
        }
    });
}

#[test]
fn a_masked_kernel_is_refused() {
    refusal(command(&["--features-max", "none"]), &["io_uring"]);
}

#[test]
fn the_banner_names_the_ports_that_the_kernel_chose() {
    let mut gateway = Gateway::start(&[]);
    let line = gateway.wait_for_line("  page       http://");
    assert!(line.contains(&format!("http://{}/", gateway.admin)), "{line}");
    assert_ne!(gateway.admin.port(), 0);
    assert!(get(gateway.admin, "/").starts_with("<!doctype html>"), "the page is there");
    gateway.stop();
}

#[test]
fn a_bad_flag_and_a_bad_file_are_named() {
    let (status, text) = output(command(&["--set", "no_such_key=1"]));
    assert!(!status.success() && text.contains("no_such_key"), "{text}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "connections_max = 10\nidle_timeout_ms = \"soon\"\n").unwrap();
    let path = file.path().to_str().unwrap();
    let (status, text) = output(command(&["--config", path]));
    assert!(!status.success() && text.contains(path) && text.contains('2'), "{text}");
}

#[test]
fn a_worker_elsewhere_needs_a_secret() {
    let (status, text) = output(command(&["--worker", "192.0.2.1:7500"]));
    assert!(!status.success() && text.contains("link_secret_file"), "{text}");
}

/// Denies io_uring_setup(2) to what it executes, as a container engine's seccomp profile does.
const DENY_IO_URING: &str = r#"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def op(code, jt, jf, k): return struct.pack("HBBI", code, jt, jf, k)
IO_URING_SETUP, ERRNO_EPERM, ALLOW = 425, 0x00050001, 0x7fff0000
program = op(0x20, 0, 0, 0) + op(0x15, 0, 1, IO_URING_SETUP) + op(0x06, 0, 0, ERRNO_EPERM) + op(0x06, 0, 0, ALLOW)
buffer = ctypes.create_string_buffer(program)
class Fprog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
fprog = Fprog(len(program) // 8, ctypes.cast(buffer, ctypes.c_void_p))
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
assert libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(fprog), 0, 0) == 0, ctypes.get_errno()
os.execv(sys.argv[1], sys.argv[1:])
"#;

#[test]
fn io_uring_denied_by_seccomp_is_explained() {
    let mut denied = Command::new("python3");
    denied.args(["-c", DENY_IO_URING, env!("CARGO_BIN_EXE_roost-gateway")]);
    denied.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    refusal(denied, &["io_uring", "seccomp"]);
}

#[test]
fn check_prints_what_would_run() {
    let mut check = Command::new(env!("CARGO_BIN_EXE_roost-gateway"));
    let ports = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    check.args(["check", "--connections-max", "100"]).args(ports);
    let (status, text) = output(check);
    assert!(status.success() && text.contains("100 connections can be held"), "{text}");
    let mut check = Command::new(env!("CARGO_BIN_EXE_roost-gateway"));
    check
        .args(["check", "--connections-max", "16777216", "--set", "memory_bytes_max=1073741824"])
        .args(ports);
    let (status, text) = output(check);
    assert!(!status.success() && text.contains("not ok"), "{text}");
}
