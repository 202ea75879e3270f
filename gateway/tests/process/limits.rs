//! Admission and memory: limits hold, and say what they do.

use std::{
    thread,
    time::{Duration, Instant},
};

use roost_protocol::{Reason, edge::FrameType};

use crate::support::{Client, Gateway, Neighbour, frame, wait};

#[test]
fn a_shard_takes_its_share_and_leaves_the_rest_to_the_others() {
    let gateway = Gateway::start(&["--connections-max", "6", "--shards", "3"]);
    let _held: Vec<Client> = (0..6).map(|i| gateway.welcome(&format!("user-{i}"))).collect();
    for shard in ["shard=\"0\"", "shard=\"1\"", "shard=\"2\""] {
        assert_eq!(gateway.metric("roost_slots_max", &[shard]), 2);
        assert_eq!(gateway.metric("roost_connections", &[shard]), 2);
    }
    gateway.stop();
}

#[test]
fn a_ramp_slows_the_first_rush() {
    let began = Instant::now();
    let gateway = Gateway::start(&["--shards", "1", "--set", "accept_ramp_per_s=10"]);
    let mut clients: Vec<Client> = (0..20).map(|_| gateway.connect()).collect();
    for client in &mut clients {
        client.send_hello("user");
    }
    let welcomes = clients.into_iter().map(|mut client| {
        thread::spawn(move || {
            assert_eq!(client.receive().expect("WELCOME").frame_type, FrameType::Welcome);
            (began.elapsed(), client)
        })
    });
    let welcomes: Vec<_> = welcomes.collect();
    let mut welcomes: Vec<_> = welcomes.into_iter().map(|thread| thread.join().unwrap()).collect();
    welcomes.sort_by_key(|&(at, _)| at);
    // Counted from before the gateway ran: a slow machine only makes them later.
    for (index, (at, _)) in welcomes.iter().enumerate() {
        assert!(*at >= Duration::from_millis(100 * index as u64), "{index} after {at:?}");
    }
    assert_eq!(gateway.metric("roost_closes", &[]), 0, "they waited, nobody was refused");
    gateway.stop();
}

#[test]
fn incomplete_frames_stay_within_their_memory() {
    let total = 1 << 20;
    let setting = format!("spill_bytes_total={total}");
    let gateway = Gateway::start(&["--set", &setting, "--set", "frame_timeout_ms=600000"]);
    let neighbour = Neighbour::start(&gateway);
    // 40 halves of 60,000 bytes are more than twice the memory for them.
    let half = &frame(FrameType::Message, &[1; 65_000])[..60_000];
    let mut clients: Vec<Client> = (0..40)
        .map(|i| {
            let mut client = gateway.welcome(&format!("user-{i}"));
            // It may be told to go before all is sent.
            drop(std::io::Write::write_all(&mut client.stream, half));
            client
        })
        .collect();
    gateway.await_closes(Reason::MemoryBudget, 10);
    wait("the halves to be read", || {
        assert!(gateway.metric("roost_memory_bytes", &["part=\"spill\""]) <= total);
        let closed = gateway.metric("roost_closes", &["reason=\"memory_budget\""]);
        let held = gateway.metric("roost_spills", &[]);
        (closed + held >= 40).then_some(())
    });
    let closed = gateway.metric("roost_closes", &["reason=\"memory_budget\""]);
    wait("their GOAWAYs", || {
        let told: Vec<Reason> = clients.iter_mut().filter_map(Client::goaway_so_far).collect();
        assert!(told.iter().all(|&reason| reason == Reason::MemoryBudget), "{told:?}");
        (told.len() as u64 >= closed).then_some(())
    });
    neighbour.finish();
    gateway.stop();
}

#[test]
fn backlogs_stay_within_their_memory() {
    // One client may hold as much as all together.
    let total = 1 << 20;
    let setting = format!("outbox_bytes_total={total}");
    let arguments = ["--shards", "1", "--set", &setting, "--set", "write_timeout_ms=600000"];
    let gateway = Gateway::start(&arguments);
    let neighbour = Neighbour::start(&gateway);
    // Each asks for echoes and reads none, until the gateway has had enough of somebody.
    let greedy: Vec<_> = (0..8)
        .map(|i| {
            let mut client = gateway.welcome(&format!("user-{i}"));
            client.stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
            thread::spawn(move || {
                let message = frame(FrameType::Message, &[1; 60_000]);
                let until = Instant::now() + crate::support::PATIENCE;
                let mut sent: u64 = 0;
                while sent < 64 << 20 && Instant::now() < until {
                    match std::io::Write::write(&mut client.stream, &message[sent as usize % message.len()..])
                    {
                        Ok(count) => sent += count as u64,
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                        Err(_) => return true,
                    }
                }
                false
            })
        })
        .collect();
    wait("all of them to be cut off", || {
        assert!(gateway.metric("roost_memory_bytes", &["part=\"outbox\""]) <= total);
        let cut = ["reason=\"slow_consumer\"", "reason=\"memory_budget\""]
            .map(|reason| gateway.metric("roost_closes", &[reason]));
        (cut.iter().sum::<u64>() >= 8).then_some(())
    });
    for client in greedy {
        assert!(client.join().unwrap(), "it could send for ever");
    }
    neighbour.finish();
    gateway.stop();
}
