//! Whoever reads what the gateway says may stop, or the disk be full: clients must not notice, and
//! the process must end when it is told to.

use std::{
    fs::{File, OpenOptions},
    io::Read,
    net::TcpListener,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use roost_protocol::Reason;

use crate::support::{DEBUG, Gateway, command, wait};

const SIGHUP: i32 = 1;
const SIGTERM: i32 = 15;

fn full_disk() -> File {
    OpenOptions::new().write(true).open("/dev/full").unwrap()
}

/// More lines at level debug than a second has: one per connection.
fn storm(gateway: &Gateway) {
    let before = gateway.metric("roost_closes", &[]);
    for _ in 0..300 {
        drop(gateway.connect());
    }
    wait("the closes", || (gateway.metric("roost_closes", &[]) >= before + 300).then_some(()));
}

/// A gateway with ports that are known beforehand: its log cannot be asked for them.
fn start_blind(arguments: &[&str], error: Stdio) -> Gateway {
    let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [clients, admin] = ports.map(|listener| listener.local_addr().unwrap());
    let mut command = Command::new(env!("CARGO_BIN_EXE_roost-gateway"));
    command.args(["--listen", &clients.to_string(), "--admin-listen", &admin.to_string()]).args(arguments);
    command.env("ROOST_SHARDS", "2").env("ROOST_CONNECTIONS_MAX", "4000").env("ROOST_DRAIN_MS", "100");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(error);
    Gateway::spawn_blind(command, clients, admin)
}

#[test]
fn a_log_on_a_full_disk_is_lost_and_nothing_else() {
    let gateway = start_blind(&DEBUG, full_disk().into());
    let mut client = gateway.welcome("a");
    for _ in 0..2 {
        storm(&gateway);
        // The next second has lines again, and what was left out is due to be told.
        thread::sleep(Duration::from_millis(1_200));
        client.echo(b"still served");
    }
    assert!(gateway.metric("roost_log_lines_left_out", &["cause=\"not_written\""]) >= 100);
    assert!(gateway.metric("roost_log_lines_left_out", &["cause=\"over_rate\""]) >= 300);
    gateway.stop();
}

#[test]
fn a_log_whose_reader_is_gone_is_lost_and_nothing_else() {
    let (reader, writer) = std::io::pipe().unwrap();
    let gateway = start_blind(&DEBUG, writer.into());
    drop(reader);
    let mut client = gateway.welcome("a");
    storm(&gateway);
    thread::sleep(Duration::from_millis(1_200));
    storm(&gateway);
    client.echo(b"still served");
    gateway.stop();
}

#[test]
fn a_log_whose_reader_stalls_holds_up_nobody_and_is_told_of_later() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    // As little as a pipe may hold, so that it is full soon.
    rustix::pipe::fcntl_setpipe_size(&writer, 4_096).unwrap();
    let mut gateway = start_blind(&DEBUG, writer.into());
    let mut client = gateway.welcome("a");
    let full = || gateway.metric("roost_log_lines_left_out", &["cause=\"queue_full\""]);
    let until = Instant::now() + Duration::from_secs(120);
    while full() == 0 {
        assert!(Instant::now() < until, "the queue of the log does not fill");
        storm(&gateway);
        client.echo(b"served meanwhile");
        thread::sleep(Duration::from_millis(500));
    }
    // Everything that is read later says how much is missing; until then nobody waits.
    let reads = thread::spawn(move || {
        let mut text = String::new();
        let mut bytes = [0; 4_096];
        while !text.contains("log lines were left out") {
            let count = reader.read(&mut bytes).unwrap();
            assert!(count > 0, "it ended without a word about what is missing: {text}");
            text += &String::from_utf8_lossy(&bytes[..count]);
        }
        (text, reader)
    });
    let (text, _stalls_again) = reads.join().unwrap();
    assert!(text.contains("queue_full="), "{text}");
    storm(&gateway);
    client.echo(b"served");
    gateway.signal(SIGTERM);
    client.expect_goaway(Reason::Drain);
    assert!(gateway.wait_exit().success());
}

#[test]
fn at_info_the_main_thread_does_not_wait_for_a_stalled_reader() {
    let (_stalled, writer) = std::io::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&writer, 4_096).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let write = |limit: u32| std::fs::write(file.path(), format!("messages_per_s_max = {limit}\n")).unwrap();
    write(1_000);
    let mut gateway = start_blind(&["--config", file.path().to_str().unwrap()], writer.into());
    // A line for each change that is seen; a pipe of 4,096 bytes is full after some 50.
    for limit in 1_001..1_100 {
        write(limit);
        gateway.signal(SIGHUP);
        thread::sleep(Duration::from_millis(25));
    }
    let mut client = gateway.welcome("a");
    client.echo(b"served");
    gateway.signal(SIGTERM);
    client.expect_goaway(Reason::Drain);
    assert!(gateway.wait_exit().success());
}

#[test]
fn standard_output_decides_about_check_and_not_about_a_start() {
    let mut check = Command::new(env!("CARGO_BIN_EXE_roost-gateway"));
    check.args(["check", "--connections-max", "100"]).stdout(full_disk());
    let (status, text) = output_of_error(check);
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("cannot be written") && text.lines().count() == 1, "{text}");

    let mut gateway = command(&[]);
    gateway.stdout(full_disk()).stderr(Stdio::null());
    let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [clients, admin] = ports.map(|listener| listener.local_addr().unwrap());
    gateway.args(["--set", &format!("listen={clients}"), "--set", &format!("admin_listen={admin}")]);
    let gateway = Gateway::spawn_blind(gateway, clients, admin);
    gateway.welcome("a").echo(b"served");
    gateway.stop();
}

#[test]
fn a_refused_start_has_its_exit_code_whatever_becomes_of_the_line() {
    let (stalled, writer) = std::io::pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&writer, 4_096).unwrap();
    let mut fill = writer.try_clone().unwrap();
    std::io::Write::write_all(&mut fill, &[b'x'; 4_096]).unwrap();
    for error in [Stdio::from(full_disk()), Stdio::from(writer)] {
        let mut bad = command(&["--set", "no_such_key=1"]);
        bad.stdout(Stdio::null()).stderr(error);
        let mut child = bad.spawn().unwrap();
        let status = wait("the end", || child.try_wait().unwrap());
        assert_eq!(status.code(), Some(2), "{status:?}");
    }
    drop(stalled);
}

fn output_of_error(mut command: Command) -> (std::process::ExitStatus, String) {
    let child = command.stderr(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
}
