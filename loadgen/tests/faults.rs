//! The binary against a server that misbehaves: every fault is counted as what it is, and only a
//! clean run exits with 0.
#![allow(unreachable_pub, reason = "support is shared by all tests")]

mod support;

use std::process::{Command, Output};

use serde_json::Value;
use support::{Fault, Server};

/// Runs `echo` with few clients; exit code and JSON.
fn echo(server: &Server, flags: &[&str]) -> (i32, Value) {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("result.json");
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_roost-loadgen"))
        .args(["echo", "--target", &server.address().to_string(), "--connections", "20", "--rate", "400"])
        .args([
            "--duration",
            "0.5",
            "--heartbeat-s",
            "2",
            "--grace-s",
            "1.5",
            "--json",
            json.to_str().unwrap(),
        ])
        .args(flags)
        .output()
        .unwrap();
    let text = std::fs::read_to_string(&json).unwrap_or_else(|error| {
        panic!("{error}\n{}\n{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr))
    });
    (status.code().unwrap(), serde_json::from_str(&text).unwrap())
}

/// Runs against a fault and expects this count under this key, nothing else wrong, and exit 1.
fn expect(fault: Fault, key: &str, others: &[&str]) {
    let server = Server::start(fault);
    let (code, json) = echo(&server, &[]);
    assert_eq!(code, 1, "{json:#}");
    assert_eq!(json.pointer(key).unwrap(), 1, "{key}: {json:#}");
    for clean in ["/lost", "/duplicated", "/reordered", "/misdelivered", "/corrupted"] {
        let expected = u64::from(clean == key || others.contains(&clean));
        assert_eq!(json.pointer(clean).unwrap(), expected, "{clean}: {json:#}");
    }
}

#[test]
fn a_clean_run_exits_with_0_and_counts_what_the_server_counts() {
    let server = Server::start(Fault::None);
    let (code, json) = echo(&server, &[]);
    assert_eq!(code, 0, "{json:#}");
    assert_eq!(json["messages_sent"], 200);
    assert_eq!(json["messages_received"], 200);
    assert_eq!(server.handled(), 200);
    assert_eq!(json["connections_held_min"], 20);
    assert!(json["heartbeats"]["sent"].as_u64().unwrap() >= 20, "{json:#}");
    assert_eq!(json["heartbeats"]["sent"], json["heartbeats"]["answered"]);
    assert_eq!(json["latency_us"]["count"], 200);
    // Nobody said which processes to look at: null, not 0.
    assert!(json["gateway"]["user_bytes_per_connection"].is_null());
    assert!(json["gateway"]["open_fds"].is_null());
    assert!(json["worker"]["messages_handled"].is_null());
}

#[test]
fn plain_descriptors_and_several_rings_and_threads_do_as_well() {
    let server = Server::start(Fault::None);
    for flags in [
        &["--plain-descriptors"][..],
        &["--ring-slots-max", "3"],
        &["--threads", "3", "--ring-slots-max", "4"],
        &["--plain-descriptors", "--ring-slots-max", "3", "--threads", "2"],
    ] {
        let (code, json) = echo(&server, flags);
        assert_eq!(code, 0, "{flags:?}: {json:#}");
        assert_eq!(json["messages_received"], 200, "{flags:?}");
    }
}

#[test]
fn large_messages_come_back_whole() {
    let server = Server::start(Fault::None);
    let (code, json) = echo(&server, &["--payload", "60000", "--rate", "40"]);
    assert_eq!(code, 0, "{json:#}");
    assert_eq!(json["messages_received"], 20);
}

#[test]
fn a_lost_reply_is_lost() {
    expect(Fault::Lose(50), "/lost", &[]);
}

#[test]
fn a_second_reply_is_a_duplicate() {
    expect(Fault::Duplicate(50), "/duplicated", &[]);
}

#[test]
fn duplicates_are_tolerated_after_an_announced_failover_only() {
    let server = Server::start(Fault::Duplicate(50));
    let (code, json) = echo(&server, &["--failover"]);
    assert_eq!(code, 0, "{json:#}");
    assert_eq!((&json["duplicated"], &json["duplicated_after_failover"]), (&0.into(), &1.into()));
}

#[test]
fn a_late_reply_is_reordered() {
    expect(Fault::Reorder(50), "/reordered", &[]);
}

#[test]
fn a_reply_to_a_stranger_is_misdelivered_and_missing() {
    expect(Fault::Misdeliver(50), "/misdelivered", &["/lost"]);
}

#[test]
fn a_flipped_bit_is_corrupted_and_missing() {
    expect(Fault::Corrupt(50), "/corrupted", &["/lost"]);
}

#[test]
fn a_dropped_connection_is_disconnected_and_the_hold_is_broken() {
    expect(Fault::Drop(50), "/disconnected/peer_fin", &[]);
    let server = Server::start(Fault::Drop(50));
    let (_, json) = echo(&server, &[]);
    assert_eq!(json["connections_held_min"], 19, "{json:#}");
    assert_eq!(json["cut_off"], 1);
}

#[test]
fn an_unanswered_heartbeat_fails_the_run() {
    let server = Server::start(Fault::IgnorePing(5));
    let (code, json) = echo(&server, &[]);
    assert_eq!(code, 1);
    let beats = &json["heartbeats"];
    assert_eq!(beats["sent"].as_u64().unwrap(), beats["answered"].as_u64().unwrap() + 1, "{json:#}");
}

#[test]
fn a_refused_client_is_counted_by_reason() {
    expect(Fault::Refuse(7, 0), "/refused/full", &[]);
    let server = Server::start(Fault::Refuse(7, 100));
    let (code, json) = echo(&server, &[]);
    assert_eq!((code, &json["refused_without_retry_after"]), (1, &0.into()));
}

#[test]
fn garbage_is_a_protocol_error() {
    expect(Fault::Garbage(50), "/protocol_errors", &[]);
}

#[test]
fn a_pause_shows_in_the_corrected_latency_alone() {
    let server = Server::start(Fault::Pause(200, 1000));
    let flags =
        ["--connections", "4", "--window", "1", "--rate", "200", "--duration", "3", "--heartbeat-s", "60"];
    let (code, json) = echo(&server, &flags);
    assert_eq!(code, 0, "{json:#}");
    // A third of the messages fell due in the pause. The four clients that waited for a reply sent
    // theirs after it; only from the times when they were due can that be seen.
    let p90 = |key: &str| json[key]["p90"].as_u64().unwrap();
    assert!(p90("latency_us") > 400_000, "{json:#}");
    assert!(p90("latency_uncorrected_us") < 200_000, "{json:#}");
    assert!(json["latency_uncorrected_us"]["max"].as_u64().unwrap() > 900_000, "{json:#}");
    assert_eq!(json["messages_received"], 600);
}

#[test]
fn without_a_window_every_message_leaves_when_it_is_due() {
    let server = Server::start(Fault::Pause(200, 1000));
    let (code, json) =
        echo(&server, &["--connections", "4", "--rate", "200", "--duration", "3", "--heartbeat-s", "60"]);
    assert_eq!(code, 0, "{json:#}");
    for key in ["latency_us", "latency_uncorrected_us"] {
        assert!(json[key]["p90"].as_u64().unwrap() > 400_000, "{key} {json:#}");
    }
}

#[test]
fn a_closed_loop_sends_again_with_every_reply_and_no_sooner() {
    let server = Server::start(Fault::Pause(200, 1000));
    let (code, json) = echo(
        &server,
        &["--connections", "4", "--closed", "--window", "2", "--duration", "3", "--warmup", "0"],
    );
    assert_eq!(code, 0, "{json:#}");
    let sent = json["messages_sent"].as_u64().unwrap();
    // Far more than the eight that begin it, and none beyond the window in the server's pause.
    assert!(sent > 400, "{json:#}");
    assert_eq!(json["messages_received"], sent);
    assert_eq!(json["scheduled"]["sent"], json["scheduled"]["planned"]);
    assert_eq!(json["latency_us"]["count"], sent);
    // The generator could have done more: it slept through the pause.
    assert_eq!(json["generator_limited"], false, "{json:#}");
}

#[test]
fn a_generator_that_waits_for_its_core_is_the_limit_as_is_one_that_has_it() {
    // Server and generator inherit this thread's one core, and the server takes most of it.
    let mut one = rustix::thread::CpuSet::new();
    let all = rustix::thread::sched_getaffinity(None).unwrap();
    let core = (0..rustix::thread::CpuSet::MAX_CPU).find(|&core| all.is_set(core)).unwrap();
    one.set(core);
    rustix::thread::sched_setaffinity(None, &one).unwrap();
    let server = Server::start(Fault::None);
    let flags = ["--closed", "--window", "32", "--duration", "2", "--warmup", "0"];
    let (code, json) = echo(&server, &flags);
    assert_eq!(code, 0, "{json:#}");
    let share = |key: &str| json["generator"][key].as_f64().unwrap();
    let wanted = share("busiest_thread_wanted_share");
    assert!(wanted > 1.5 * share("busiest_thread_cpu_share"), "{json:#}");
    assert_eq!(json["generator_limited"], wanted > 0.9, "{json:#}");
}

#[test]
fn nobody_there_is_a_failed_connect_with_its_cause() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("result.json");
    let status = Command::new(env!("CARGO_BIN_EXE_roost-loadgen"))
        .args([
            "echo",
            "--target",
            &free.to_string(),
            "--connections",
            "3",
            "--rate",
            "0",
            "--duration",
            "0.1",
        ])
        .args(["--json", json.to_str().unwrap()])
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1));
    let json: Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!(json["connect_failed"], 3);
    assert!(json["connect_failed_by_error"].as_object().unwrap().keys().all(|key| key.contains("refused")));
}
