//! Clients that break the protocol, or keep it in hostile ways.

use std::io::{ErrorKind, Write};

use roost_protocol::{
    Reason,
    edge::{FrameType, Goaway},
};

use crate::support::{Client, DEBUG, End, Gateway, Neighbour, frame};

/// Runs `attack` beside a neighbour; the reason must be on the wire, in its counter and in the log.
fn refused(reason: Reason, arguments: &[&str], attack: impl FnOnce(&Gateway) -> Client) {
    beside_a_neighbour(arguments, |gateway| {
        let retry_after_ms = attack(gateway).expect_goaway(reason);
        let expected = if reason.invites_back() { 1_000..=5_000 } else { 0..=0 };
        assert!(expected.contains(&retry_after_ms), "{reason}: {retry_after_ms}");
        told(gateway, reason, 1);
    });
}

/// Runs `attack` while the traffic of another client goes on, every reply of it checked.
fn beside_a_neighbour(arguments: &[&str], attack: impl FnOnce(&Gateway)) {
    let gateway = Gateway::start(&[&DEBUG, arguments].concat());
    let neighbour = Neighbour::start(&gateway);
    attack(&gateway);
    neighbour.finish();
    gateway.stop();
}

/// So many closes for this reason are counted and logged.
fn told(gateway: &Gateway, reason: Reason, count: usize) {
    gateway.await_closes(reason, count as u64);
    gateway.await_logged_closes(reason, count);
}

#[test]
fn an_oversize_length_is_refused() {
    refused(Reason::Oversize, &[], |gateway| {
        let mut client = gateway.welcome("a");
        client.send(&[3, 1, 0, 1]);
        client
    });
}

#[test]
fn an_unknown_type_is_refused() {
    refused(Reason::UnknownType, &[], |gateway| {
        let mut client = gateway.welcome("a");
        client.send(&[0x1e, 0, 0, 0]);
        client
    });
}

#[test]
fn reserved_bits_are_refused() {
    refused(Reason::ReservedBits, &[], |gateway| {
        let mut client = gateway.welcome("a");
        client.send(&[0x83, 0, 0, 0]);
        client
    });
}

#[test]
fn garbage_is_refused_at_its_first_byte() {
    refused(Reason::ReservedBits, &[], |gateway| {
        let mut client = gateway.connect();
        client.send(b"\xffGET / HTTP/1.1\r\nHost: example\r\n\r\n");
        client
    });
}

#[test]
fn a_wrong_version_is_refused() {
    refused(Reason::Version, &[], |gateway| {
        let mut client = gateway.connect();
        client.send(&frame(FrameType::Hello, &[9, 0, 0, 0, 0, 0]));
        client
    });
}

#[test]
fn a_malformed_hello_is_refused() {
    refused(Reason::Malformed, &[], |gateway| {
        let mut client = gateway.connect();
        client.send(&frame(FrameType::Hello, &[1, 0, 0, 9, 0, 0]));
        client
    });
}

#[test]
fn a_message_before_hello_is_refused() {
    refused(Reason::UnexpectedFrame, &[], |gateway| {
        let mut client = gateway.connect();
        client.send(&frame(FrameType::Message, b"early"));
        client
    });
}

#[test]
fn silence_instead_of_hello_times_out() {
    refused(Reason::HandshakeTimeout, &["--set", "handshake_timeout_ms=1000"], Gateway::connect);
}

#[test]
fn half_a_header_and_silence_times_out() {
    refused(Reason::FrameTimeout, &["--set", "frame_timeout_ms=1000"], |gateway| {
        let mut client = gateway.welcome("a");
        client.send(&[3, 0]);
        client
    });
}

#[test]
fn an_idle_client_times_out() {
    let settings = ["--set", "heartbeat_interval_ms=500", "--set", "idle_timeout_ms=2000"];
    refused(Reason::IdleTimeout, &settings, |gateway| gateway.welcome("a"));
}

#[test]
fn a_flood_of_messages_is_cut_by_its_limit() {
    // The limit holds for the neighbour too: it is one that only stays.
    let gateway = Gateway::start(&[&DEBUG[..], &["--set", "messages_per_s_max=50"]].concat());
    let mut bystander = gateway.welcome("bystander");
    let mut client = gateway.welcome("a");
    let message = frame(FrameType::Message, b"x");
    for _ in 0..500 {
        client.send(&message);
    }
    let end = loop {
        match client.receive() {
            Ok(received) if received.frame_type == FrameType::Message => {}
            other => break other,
        }
    };
    let goaway = end.expect("GOAWAY");
    assert_eq!(goaway.frame_type, FrameType::Goaway);
    let goaway = Goaway::decode(&goaway.payload).unwrap();
    assert_eq!(goaway.reason, Reason::RateLimited);
    assert!((1_000..=5_000).contains(&goaway.retry_after_ms), "{goaway:?}");
    told(&gateway, Reason::RateLimited, 1);
    bystander.echo(b"not I");
    gateway.stop();
}

#[test]
fn a_million_single_bytes_are_delivered() {
    let gateway = Gateway::start(&[]);
    let neighbour = Neighbour::start(&gateway);
    let mut client = gateway.welcome("a");
    let reader = client.stream.try_clone().unwrap();
    let (messages, payload_bytes) = (10_000u32, 96);
    let echoes = std::thread::spawn(move || {
        let mut reader = Client::from_stream(reader);
        for index in 0..messages {
            let received = reader.receive().expect("an echo");
            assert_eq!(received.payload, payload(index, payload_bytes));
        }
    });
    for index in 0..messages {
        for byte in frame(FrameType::Message, &payload(index, payload_bytes)) {
            client.send(&[byte]);
        }
    }
    echoes.join().expect("every message comes back");
    assert_eq!(gateway.metric("roost_spills", &[]), 0, "no half frame is left");
    neighbour.finish();
    gateway.stop();
}

fn payload(index: u32, bytes: usize) -> Vec<u8> {
    index.to_be_bytes().into_iter().cycle().take(bytes).collect()
}

#[test]
fn a_reset_in_mid_frame_is_cleaned_up() {
    beside_a_neighbour(&[], |gateway| {
        for _ in 0..20 {
            let mut client = gateway.welcome("a");
            client.send(&frame(FrameType::Message, &[7; 5000])[..2500]);
            client.reset();
        }
        told(gateway, Reason::ClientReset, 20);
        crate::support::wait("the half frames to go", || {
            (gateway.metric("roost_spills", &[]) == 0).then_some(())
        });
    });
}

#[test]
fn a_half_close_ends_the_session() {
    beside_a_neighbour(&[], |gateway| {
        let mut client = gateway.welcome("a");
        client.echo(b"before");
        client.shut();
        assert_eq!(client.receive(), Err(End::Fin));
        told(gateway, Reason::ClientEof, 1);
    });
}

#[test]
fn a_close_is_answered_by_the_end() {
    beside_a_neighbour(&[], |gateway| {
        let mut client = gateway.welcome("a");
        client.send(&frame(FrameType::Close, &[]));
        assert_eq!(client.receive(), Err(End::Fin));
        told(gateway, Reason::ClientClosed, 1);
    });
}

#[test]
fn a_client_that_never_reads_is_cut_off() {
    let settings = ["--set", "outbox_bytes_max=131072", "--set", "write_timeout_ms=5000"];
    let gateway = Gateway::start(&[&DEBUG[..], &settings].concat());
    let neighbour = Neighbour::start(&gateway);
    let mut client = gateway.welcome("a");
    client.stream.set_write_timeout(Some(crate::support::PATIENCE)).unwrap();
    let message = frame(FrameType::Message, &[1; 60_000]);
    // It asks for echoes and reads none: its own sends end when the gateway has had enough.
    let mut sent: u64 = 0;
    loop {
        match client.stream.write_all(&message) {
            Ok(()) => sent += message.len() as u64,
            Err(error) => {
                assert!(
                    matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
                    "{error}"
                );
                break;
            }
        }
        assert!(sent < 1 << 30, "it was never cut off");
    }
    told(&gateway, Reason::SlowConsumer, 1);
    crate::support::wait("its backlog to go", || {
        (gateway.metric("roost_outbox_bytes", &[]) < 131_072).then_some(())
    });
    neighbour.finish();
    gateway.stop();
}

#[test]
fn beyond_the_last_slot_clients_wait_in_the_backlog() {
    let gateway = Gateway::start(&["--connections-max", "4"]);
    let mut held: Vec<Client> = (0..4).map(|i| gateway.welcome(&format!("user-{i}"))).collect();
    let mut waiting = gateway.connect();
    waiting.send_hello("late");
    for client in &mut held {
        client.echo(b"still here");
    }
    assert_eq!(gateway.metric("roost_connections", &[]), 4);
    drop(held.pop());
    assert_eq!(waiting.receive().expect("WELCOME").frame_type, FrameType::Welcome);
    gateway.stop();
}

#[test]
fn beyond_the_last_connection_clients_are_told_when_to_return() {
    let gateway = Gateway::start(&[&DEBUG[..], &["--connections-max", "4", "--full", "refuse"]].concat());
    // Shards take clients as they come, so one may be full before the other.
    let mut clients: Vec<Client> = (0..12).map(|_| gateway.connect()).collect();
    for client in &mut clients {
        client.send_hello("user");
    }
    let mut welcome = Vec::new();
    for mut client in clients {
        match client.receive().expect("an answer").frame_type {
            FrameType::Welcome => welcome.push(client),
            FrameType::Goaway => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(welcome.len(), 4);
    told(&gateway, Reason::Full, 8);
    for client in &mut welcome {
        client.echo(b"still here");
    }
    gateway.stop();
}

#[test]
fn an_address_with_too_many_connections_is_told_so() {
    let settings = ["--set", "per_ip_max=2", "--set", "per_ip_loopback=true"];
    let gateway = Gateway::start(&[&DEBUG[..], &settings].concat());
    let first = gateway.welcome("a");
    let mut second = gateway.welcome("b");
    let mut third = gateway.connect();
    assert!(third.expect_goaway(Reason::PerIpLimit) >= 1000);
    told(&gateway, Reason::PerIpLimit, 1);
    second.echo(b"still here");
    drop(first);
    gateway.await_closes(Reason::ClientEof, 1);
    gateway.welcome("c").echo(b"there is room again");
    gateway.stop();
}
