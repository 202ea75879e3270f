//! A client and a worker in another language, written from SPEC.md alone, against the gateway.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use crate::support::{Gateway, output};

/// A program of the library in clients/python.
fn program(module: &str) -> Command {
    let mut command = Command::new("python3");
    command.current_dir(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../clients/python"));
    command.args(["-B", "-m", module]);
    command
}

/// Killed when dropped.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn client(gateway: &Gateway, count: u32) {
    let mut client = program("roosting.client");
    client.args([&gateway.clients.to_string(), "--key", "alice", "--send", "hello from Python"]);
    client.args(["--check-echo", "--count", &count.to_string()]);
    let (status, text) = output(client);
    assert!(status.success(), "{text}");
    assert_eq!(text.matches("hello from Python").count(), count as usize, "{text}");
}

#[test]
fn a_python_client_speaks_with_the_gateway() {
    let gateway = Gateway::start(&[]);
    client(&gateway, 20);
    gateway.stop();
}

#[test]
fn a_python_worker_serves_the_gateway() {
    let mut worker = program("roosting.worker_echo");
    worker.args(["--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut worker = Worker(worker.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(worker.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    let address = line.split_whitespace().last().expect("where it listens").to_owned();
    let gateway = Gateway::start(&["--worker", &address]);
    client(&gateway, 20);
    assert_eq!(gateway.metric("roost_messages_forwarded", &[]), 20);
    gateway.stop();
}
