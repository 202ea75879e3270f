//! The binary's other scenarios and its files, against the same small server.
#![allow(unreachable_pub, dead_code, reason = "support is shared by all tests")]

mod support;

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use support::{Fault, Server};

fn loadgen() -> Command {
    Command::new(env!("CARGO_BIN_EXE_roost-loadgen"))
}

/// Runs a scenario with 40 clients; exit code and JSON.
fn run(server: &Server, dir: &Path, scenario: &str, flags: &[&str]) -> (i32, Value) {
    let json = dir.join("result.json");
    let Output { status, stderr, .. } = loadgen()
        .args([scenario, "--target", &server.address().to_string(), "--connections", "40"])
        .args(["--duration", "1", "--heartbeat-s", "2", "--json", json.to_str().unwrap()])
        .args(flags)
        .output()
        .unwrap();
    let text =
        std::fs::read_to_string(&json).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&stderr)));
    (status.code().unwrap(), serde_json::from_str(&text).unwrap())
}

#[test]
fn idle_checks_every_client_at_half_and_at_the_end() {
    let (server, dir) = (Server::start(Fault::None), tempfile::tempdir().unwrap());
    let (code, json) = run(&server, dir.path(), "idle", &["--warmup", "10"]);
    assert_eq!(code, 0, "{json:#}");
    assert_eq!(json["final_check"], serde_json::json!({ "clients": 40, "answered": 40 }));
    // Ten in the warm-up, twenty at half, forty at the end.
    assert_eq!((&json["messages_sent"], server.handled()), (&70.into(), 70));
}

#[test]
fn a_storm_brings_all_back() {
    let (server, dir) = (Server::start(Fault::None), tempfile::tempdir().unwrap());
    let (code, json) = run(&server, dir.path(), "storm", &[]);
    assert_eq!(code, 0, "{json:#}");
    assert_eq!((&json["opened"], &json["connections_held_min"]), (&80.into(), &40.into()));
    assert_eq!(json["extra"]["storm"]["sessions_opened"], 40);
}

#[test]
fn a_refusal_without_retry_after_fails_a_storm_and_one_with_it_is_waited_for() {
    for (retry_after_ms, expected) in [(0, 1), (200, 0)] {
        let (server, dir) = (Server::start(Fault::Refuse(60, retry_after_ms)), tempfile::tempdir().unwrap());
        let (code, json) = run(&server, dir.path(), "storm", &[]);
        assert_eq!((code, &json["refused"]["full"]), (expected, &1.into()), "{json:#}");
        assert_eq!(json["opened"], 80, "{json:#}");
        let storm = &json["extra"]["storm"];
        let told = u64::from(retry_after_ms > 0);
        assert_eq!(storm["since_listening"]["told_when_to_come_back"], told, "{json:#}");
        // It may not come back before the time that it was told.
        let all_back_s = storm["all_connected_s"].as_f64().unwrap();
        assert!(all_back_s >= f64::from(retry_after_ms) / 1e3, "{json:#}");
    }
}

#[test]
fn churn_brings_sessions_back_at_its_rate() {
    let (server, dir) = (Server::start(Fault::None), tempfile::tempdir().unwrap());
    let (code, json) = run(&server, dir.path(), "churn", &["--churn-rate", "20", "--duration", "2"]);
    assert_eq!(code, 0, "{json:#}");
    let returned = json["extra"]["sessions_returned"].as_u64().unwrap();
    assert!(returned >= 39, "{json:#}");
    assert_eq!(json["opened"], 40 + returned);
}

#[test]
fn slow_readers_get_everything_in_the_end_and_the_others_notice_nothing() {
    let (server, dir) = (Server::start(Fault::None), tempfile::tempdir().unwrap());
    let flags = ["--slow-share", "0.25", "--slow-rate", "500", "--rate", "100"];
    let (code, json) = run(&server, dir.path(), "slow", &flags);
    assert_eq!(code, 0, "{json:#}");
    assert_eq!(json["extra"]["slow_clients"], 10);
    assert_eq!((&json["messages_sent"], &json["messages_received"]), (&600.into(), &600.into()));
}

#[test]
fn reports_are_written_and_logs_are_merged() {
    let (server, dir) = (Server::start(Fault::None), tempfile::tempdir().unwrap());
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (html, a, b, all, merged) = (path("r.html"), path("a"), path("b"), path("all.json"), path("all"));
    for hlog in [&a, &b] {
        let (code, json) =
            run(&server, dir.path(), "echo", &["--rate", "100", "--html", &html, "--hlog", hlog]);
        assert_eq!((code, &json["latency_us"]["count"]), (0, &100.into()), "{json:#}");
    }
    let page = std::fs::read_to_string(&html).unwrap();
    assert!(page.contains("class Plot") && !page.contains("@RESULT@") && !page.contains("@PLOT@"));
    for logs in [&[&a, &b][..], &[&merged]] {
        let status = loadgen().arg("merge").args(logs).args(["--json", &all, "--hlog", &merged]).status();
        assert!(status.unwrap().success());
        let json: Value = serde_json::from_str(&std::fs::read_to_string(&all).unwrap()).unwrap();
        assert_eq!(json["latency_us"]["corrected"]["count"], 200, "{json:#}");
        assert_eq!(json["latency_us"]["send_lag"]["count"], 200, "{json:#}");
    }
}

#[test]
fn an_interruption_ends_with_a_report_of_what_was_found() {
    let (server, dir) = (Server::start(Fault::None), tempfile::tempdir().unwrap());
    let json = dir.path().join("result.json");
    let mut child = loadgen()
        .args(["echo", "--target", &server.address().to_string(), "--connections", "40", "--rate", "100"])
        .args(["--duration", "300", "--json", json.to_str().unwrap()])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("hold")), "progress shows the hold");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    // The rest is read, so that nobody waits for room in the pipe.
    lines.for_each(drop);
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let json: Value = serde_json::from_str(&std::fs::read_to_string(&json).unwrap()).unwrap();
    assert_eq!((&json["interrupted"], &json["connections_held"]), (&true.into(), &40.into()), "{json:#}");
    assert_eq!(json["lost"], 0, "{json:#}");
}

#[test]
fn a_run_ends_with_a_report_before_memory_does() {
    let (server, dir) = (Server::start(Fault::None), tempfile::tempdir().unwrap());
    // No machine has this much: the floor is reached at once.
    let floor = ["--memory-floor-mib", "1000000000", "--duration", "300"];
    let (code, json) = run(&server, dir.path(), "idle", &[&floor[..], &["--force"]].concat());
    assert_eq!((code, &json["interrupted"]), (1, &false.into()), "{json:#}");
    assert!(json["ended"].as_str().unwrap().contains("before memory ran out"), "{json:#}");
    assert_eq!(json["failures"].as_array().unwrap().last(), Some(&json["ended"]));
    assert!(
        json["memory"]["free_least_bytes"].as_u64().unwrap()
            < json["memory"]["floor_bytes"].as_u64().unwrap()
    );
    // And with a floor that it can keep, it runs to its end.
    let (code, json) = run(&server, dir.path(), "idle", &["--memory-floor-mib", "1"]);
    assert_eq!((code, &json["ended"]), (0, &"as planned".into()), "{json:#}");
}

#[test]
fn bare_connections_are_accepted_and_held() {
    let mut server =
        loadgen().args(["bare-accept", "--connections", "40"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    let address = first.split_ascii_whitespace().nth(2).unwrap();
    let output = loadgen()
        .args(["idle", "--bare", "--target", address, "--connections", "40", "--duration", "0.5"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(lines.any(|line| line.unwrap() == "accepted 40"));
    kill_process(Pid::from_child(&server), Signal::TERM).unwrap();
    assert!(server.wait().unwrap().success());
}

#[test]
fn what_cannot_be_run_is_refused_in_one_line() {
    for (flags, cause) in [
        (&["--connections", "100000", "--source", "127.0.0.1"][..], "ip_local_port_range"),
        (&["--payload", "15"], "--payload"),
        (&["--active", "2000"], "--active"),
        (&["--source", "::1"], "family"),
    ] {
        let output = loadgen().args(["echo", "--target", "127.0.0.1:1"]).args(flags).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        let last = text.lines().last().unwrap();
        assert!(last.starts_with("roost-loadgen: ") && last.contains(cause), "{text}");
    }
}
