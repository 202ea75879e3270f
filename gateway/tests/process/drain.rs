//! While a gateway drains nobody is left in a queue that nobody serves, and its address is free.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use roost_protocol::Reason;

use crate::support::{Client, Gateway, get, wait};

const SIGHUP: i32 = 1;
const SIGTERM: i32 = 15;
const SIGSTOP: i32 = 19;
const SIGCONT: i32 = 18;

/// A gateway with clients, of whom one is told after the other, and too slowly to wait for.
fn draining(arguments: &[&str]) -> (Gateway, Vec<Client>) {
    let slowly = ["--drain-ms", "600000", "--set", "drain_rate_per_s=1"];
    let gateway = Gateway::start(&[&slowly[..], arguments].concat());
    let residents = (0..8).map(|i| gateway.welcome(&format!("user-{i}"))).collect();
    (gateway, residents)
}

fn await_refusal(address: SocketAddr) {
    let began = Instant::now();
    wait("the kernel to refuse connects", || {
        TcpStream::connect(address)
            .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
            .then_some(())
    });
    assert!(began.elapsed() < Duration::from_secs(30), "long before the drain is over");
}

#[test]
fn the_address_of_a_gateway_that_drains_is_free() {
    let (mut gateway, mut residents) = draining(&[]);
    let address = gateway.clients;
    gateway.signal(SIGTERM);
    await_refusal(address);
    // Another process can have it, and the ones that are here are served until they are told.
    let other = Gateway::start(&["--set", &format!("listen={address}")]);
    other.welcome("elsewhere").echo(b"served");
    residents.last_mut().unwrap().echo(b"still served");
    other.stop();
    assert!(get(gateway.admin, "/readyz").contains("draining"));
    gateway.signal(SIGTERM);
    for resident in &mut residents {
        resident.expect_goaway(Reason::Drain);
    }
    assert!(gateway.wait_exit().success());
}

#[test]
fn those_who_wait_already_when_a_drain_begins_are_told() {
    let arguments = ["--set", "accept_ramp_per_s=1", "--set", "drain_to=b.example:7400", "--shards", "1"];
    let mut gateway = Gateway::start(&[&arguments[..], &["--drain-ms", "2000"]].concat());
    // The ramp keeps most of them in the queue.
    let mut waiting: Vec<_> = (0..40).map(|_| gateway.connect()).collect();
    waiting.iter_mut().for_each(|client| client.send_hello("waiting"));
    gateway.signal(SIGTERM);
    let told = waiting.iter_mut().map(|client| {
        loop {
            // Whoever had been let in before has its WELCOME first.
            let received = client.receive().expect("an answer");
            if received.frame_type == roost_protocol::edge::FrameType::Goaway {
                let goaway = roost_protocol::edge::Goaway::decode(&received.payload).unwrap();
                assert_eq!((goaway.reason, goaway.alternative), (Reason::Drain, &b"b.example:7400"[..]));
                assert!((1000..=5000).contains(&goaway.retry_after_ms));
                break 1;
            }
        }
    });
    assert_eq!(told.sum::<u32>(), 40);
    assert!(gateway.wait_exit().success());
}

#[test]
fn a_signal_during_the_start_is_survived_or_ends_it_in_order() {
    for (signal, survives) in [(SIGHUP, true), (SIGTERM, false)] {
        // The start waits for its address.
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = format!("listen={}", taken.local_addr().unwrap());
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let mut gateway = Gateway::spawn_unready(&["--set", &listen, "--config", path]);
        gateway.wait_for_line("waiting for it to be let go");
        std::fs::write(path, "messages_per_s_max = 5\n").unwrap();
        gateway.signal(signal);
        if survives {
            drop(taken);
            gateway.await_ready();
            gateway.welcome("a").echo(b"served");
            gateway.wait_for_line("messages_per_s_max 0 -> 5");
            gateway.stop();
        } else {
            assert!(gateway.wait_exit().success(), "{:?}", gateway.log());
            assert!(gateway.log().iter().any(|line| line.contains("ended by a signal before it served")));
        }
    }
}

#[test]
fn a_drain_hears_sighup_and_survives_a_pause() {
    let (mut gateway, mut residents) = draining(&[]);
    gateway.signal(SIGTERM);
    gateway.wait_for_line("draining");
    gateway.signal(SIGHUP);
    gateway.wait_for_line("SIGHUP: nothing changes: this gateway is draining");
    gateway.signal(SIGSTOP);
    gateway.signal(SIGCONT);
    residents.last_mut().unwrap().echo(b"still served");
    gateway.signal(SIGTERM);
    assert!(gateway.wait_exit().success());
}
