//! `roost-gateway check` says what a start would meet, all of it at once; and what it promises is kept.

use std::{
    fs::{self, Permissions},
    net::TcpListener,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    process::Command,
};

use crate::support::{Client, Gateway, command, get, output, wait};

const PROGRAM: &str = env!("CARGO_BIN_EXE_roost-gateway");

/// `check` with ports of the kernel's choice and these further arguments.
fn check(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = command(&[]);
    command.arg("check").args(arguments);
    let (status, text) = output(command);
    (status.code(), text)
}

/// The program below a limit of its own.
fn limited(limit: &str, arguments: &[&str]) -> Command {
    let plain = command(arguments);
    let mut command = Command::new("prlimit");
    command.arg(limit).arg(PROGRAM).args(plain.get_args());
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.stdin(std::process::Stdio::null());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    command
}

#[test]
fn all_faults_are_said_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (secret, token, file) = (path("secret"), path("token"), path("file"));
    fs::write(&secret, "123456789abcdef\n").unwrap();
    fs::write(&token, "short").unwrap();
    fs::write(&file, "not a socket").unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken_address = taken.local_addr().unwrap().to_string();
    let (code, text) = check(&[
        "--link-secret-file",
        &secret,
        "--admin-token-file",
        &token,
        "--handover-socket",
        "/nonexistent/roost/handover",
        "--listen",
        "192.0.2.1:7400",
        "--admin-listen",
        &taken_address,
        "--worker",
        "a=worker.invalid:7500",
    ]);
    assert_eq!(code, Some(1), "{text}");
    for part in [
        &format!("fault: link_secret_file {secret}: the secret has 15 bytes, 16 are the least"),
        &format!("fault: admin_token_file {token}: a token has at least 16"),
        "fault: handover_socket: the directory /nonexistent/roost cannot be used",
        "fault: listen: cannot listen on 192.0.2.1:7400",
        &format!("fault: admin_listen: cannot listen on {taken_address}"),
        "warning: workers: the name of `a=worker.invalid:7500` cannot be looked up",
        "not ok: 5 faults above",
    ] {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
    assert!(!text.contains("123456789abcdef"), "a secret is not shown: {text}");
    let (code, text) = check(&["--handover-socket", &file]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("something that is no socket has this path"), "{text}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "not a socket");
    // What is wrong in the configuration does not hide the rest.
    let (code, text) = check(&["--set", "per_ip_max=many", "--link-secret-file", &secret]);
    assert_eq!(code, Some(2), "{text}");
    for part in ["`many` is no whole number", "fault: link_secret_file", "not ok: 1 in the configuration"] {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
}

#[test]
fn what_a_running_gateway_holds_is_no_fault_and_what_another_program_holds_is() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("handover").to_str().unwrap().to_owned();
    let running = Gateway::start(&["--handover-socket", &socket]);
    wait("the hand-over socket", || fs::metadata(&socket).ok());
    let (clients, admin) = (running.clients.to_string(), running.admin.to_string());
    let reload = ["--listen", &clients, "--admin-listen", &admin, "--handover-socket", &socket];
    let (code, text) = check(&reload);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(
        text.matches(&format!("a running gateway has it, process {}", running.pid())).count(),
        3,
        "{text}"
    );
    running.stop();
    let _holder = TcpListener::bind(&clients).unwrap();
    fs::remove_file(&socket).ok();
    let _listener = UnixListener::bind(&socket).unwrap();
    let (code, text) = check(&reload);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("fault: listen: cannot listen on") && text.contains("and is no gateway"), "{text}");
}

#[test]
fn a_secret_that_others_may_read_draws_a_warning_from_check_and_start() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "0123456789abcdef").unwrap();
    let path = file.path().to_str().unwrap();
    let mode = |mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    for flag in ["--link-secret-file", "--admin-token-file"] {
        mode(0o644);
        let (code, text) = check(&[flag, path]);
        assert!(code == Some(0) && text.contains("everybody on this machine may read it"), "{text}");
        let mut gateway = Gateway::start(&[flag, path]);
        gateway.wait_for_line("everybody on this machine may read it");
        gateway.stop();
        mode(0o666);
        let (code, text) = check(&[flag, path]);
        assert!(code == Some(1) && text.contains("everybody may change it"), "{text}");
        let (status, text) = output(command(&[flag, path]));
        assert!(!status.success() && text.contains("everybody may change it"), "{text}");
        mode(0o600);
        let (code, text) = check(&[flag, path]);
        assert!(code == Some(0) && !text.contains("may read it"), "{text}");
    }
}

/// On kernels where each client takes a descriptor: all that are promised fit, and a gateway that is
/// full still has its links and answers whoever asks for its health.
#[test]
fn a_full_gateway_has_descriptors_for_links_and_health() {
    let arguments = ["--features-max", "base", "--shards", "4", "--set", "connections_max=auto"];
    let mut gateway = Gateway::spawn(limited("--nofile=256:256", &arguments));
    let line = gateway.wait_for_line("  capacity   ");
    let promised: usize = line.split_whitespace().nth(1).unwrap().replace(',', "").parse().unwrap();
    assert!((40..200).contains(&promised), "{line}");
    let _held: Vec<Client> = (0..promised).map(|i| gateway.welcome(&format!("user-{i}"))).collect();
    // They wait in the backlog, and take each number that becomes free.
    let _waiting: Vec<Client> = (0..20).map(|_| gateway.connect()).collect();
    for _ in 0..3 {
        get(gateway.admin, "/healthz");
    }
    assert_eq!(gateway.metric("roost_links_up", &[]), 4);
}

/// Where rings count against RLIMIT_MEMLOCK, `check` knows it, and a start is refused with a line.
#[test]
fn locked_memory_is_found_by_trying() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let as_nobody = |arguments: &[&str]| {
        let mut command = Command::new("prlimit");
        command.args(["--memlock=65536:65536", "setpriv", "--reuid", "64037", "--regid", "64037"]);
        command.args(["--clear-groups", "--bounding-set=-all", PROGRAM]).args(arguments);
        command.current_dir("/");
        command
    };
    let settings = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--shards", "3"];
    let (status, text) =
        output(as_nobody(&[&["check", "--connections-max", "2000"], &settings[..]].concat()));
    if status.success() {
        // This kernel charges no rings, or the limit is another's.
        return;
    }
    if !text.contains("RLIMIT_MEMLOCK") {
        // Such a user may not even reach the program.
        assert!(text.contains("ermission denied"), "{text}");
        return;
    }
    assert!(text.contains("RLIMIT_MEMLOCK = 64 KiB, which leaves room for"), "{text}");
    let (status, text) = output(as_nobody(&[&["--connections-max", "2000"], &settings[..]].concat()));
    assert!(!status.success() && text.contains("RLIMIT_MEMLOCK") && text.contains("ulimit -l"), "{text}");
}

#[test]
fn wildcards_of_both_families_go_together_on_both_sides() {
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (clients, admin) = (free(), free());
    let mut both = Command::new(PROGRAM);
    both.args(["--shards", "1", "--connections-max", "100"]);
    both.args(["--listen", &format!("0.0.0.0:{clients}"), "--listen", &format!("[::]:{clients}")]);
    both.args(["--admin-listen", &format!("0.0.0.0:{admin}"), "--admin-listen", &format!("[::]:{admin}")]);
    both.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let gateway = Gateway::spawn(both);
    for host in ["127.0.0.1", "[::1]"] {
        Client::connect(format!("{host}:{clients}").parse().unwrap()).hello("a");
        get(format!("{host}:{admin}").parse().unwrap(), "/healthz");
    }
    gateway.stop();
}

#[test]
fn an_empty_variable_does_not_undo_what_the_file_says() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "workers = [\"w=unix:/run/worker.sock\"]\n").unwrap();
    let mut command = command(&["--config", file.path().to_str().unwrap()]);
    command.env("ROOST_WORKERS", "");
    let (status, text) = output(command);
    assert_eq!(status.code(), Some(2), "{text}");
    assert!(text.contains("environment ROOST_WORKERS: empty: unset it, or write []"), "{text}");
}
