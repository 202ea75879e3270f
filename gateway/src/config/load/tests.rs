//! The layers, and what is said when they are wrong.

use std::fs;

use clap::Parser;

use super::{ConfigError, Environment, Loaded, Source, load};
use crate::config::{Auto, Cli, Config, KEYS};

fn loaded(file: &str, variables: &[(&str, &str)], flags: &[&str]) -> Result<Loaded, ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("roost.toml");
    fs::write(&path, file).unwrap();
    let mut line = vec!["roost-gateway", "--config", path.to_str().unwrap()];
    line.extend(flags);
    let environment = Environment::new(variables.iter().map(|&(name, value)| (name.into(), value.into())));
    // The directory's name is random; tests compare what follows it.
    load(&Cli::try_parse_from(line).unwrap().options, &environment).map_err(|error| {
        let prefix = format!("{}/", directory.path().display());
        ConfigError(error.0.iter().map(|line| line.replace(&prefix, "")).collect())
    })
}

fn problems(file: &str, variables: &[(&str, &str)], flags: &[&str]) -> String {
    loaded(file, variables, flags).unwrap_err().to_string()
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let file = "idle_timeout_ms = 130_000\ndrain_ms = 1\nper_ip_max = 5\nshards = 1\n";
    let variables = [("ROOST_DRAIN_MS", "2"), ("ROOST_PER_IP_MAX", "6"), ("ROOST_SHARDS", "auto")];
    let loaded = loaded(file, &variables, &["--set", "per_ip_max=7"]).unwrap();
    let expected = Config { idle_timeout_ms: 130_000, drain_ms: 2, per_ip_max: 7, ..Config::default() };
    assert_eq!(loaded.config, expected);
    assert!(matches!(loaded.source("idle_timeout_ms"), Source::File(_, 1)));
    assert_eq!(*loaded.source("drain_ms"), Source::Variable("ROOST_DRAIN_MS".to_owned()));
    assert_eq!(*loaded.source("per_ip_max"), Source::Flag("--set per_ip_max".to_owned()));
    assert_eq!(*loaded.source("full"), Source::Default);
    assert!(loaded.to_toml().contains("per_ip_max = 7 "));
}

#[test]
fn lists_and_words_need_no_quotes_outside_the_file() {
    let variables = [("ROOST_WORKERS", "a=127.0.0.1:1, unix:/run/w.sock"), ("ROOST_LISTEN", "[::1]:0")];
    let loaded = loaded("", &variables, &["--set", "full=refuse", "--set", "connections_max=9"]).unwrap();
    let shown: Vec<_> = loaded.config.workers.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["a=127.0.0.1:1", "unix:/run/w.sock"]);
    assert_eq!(loaded.config.listen[0].to_string(), "[::1]:0");
    assert_eq!(loaded.config.connections_max, Auto::Value(9));
}

#[test]
fn every_key_can_be_set_to_its_own_default_by_file_environment_and_flag() {
    let defaults = toml::Table::try_from(Config::default()).unwrap();
    for key in KEYS {
        let value = &defaults[key.name];
        let plain = match value {
            // An empty one has to be said.
            toml::Value::String(text) if !text.is_empty() => text.clone(),
            other => other.to_string(),
        };
        let file = format!("{} = {value}", key.name);
        for loaded in [
            loaded(&file, &[], &[]),
            loaded("", &[(&key.variable(), &plain)], &[]),
            loaded("", &[], &["--set", &format!("{}={plain}", key.name)]),
        ] {
            let loaded = loaded.unwrap_or_else(|error| panic!("{}: {error}", key.name));
            assert_eq!(loaded.config, Config::default(), "{}", key.name);
            assert_ne!(*loaded.source(key.name), Source::Default);
        }
    }
}

#[test]
fn every_problem_is_named_with_file_line_and_remedy() {
    let file =
        "\nidle_timeout = 5\ndrain_ms = \"x\"\nper_ip_max = -1\nworkers = [\"nowhere\"]\nfull = \"no\"\n";
    let expected = "\
roost.toml:2: unknown key `idle_timeout`; did you mean `idle_timeout_ms`?
roost.toml:3: drain_ms: `x` is no whole number: write digits only, in milliseconds, as in 30000 for 30 s
roost.toml:4: per_ip_max: -1 is out of range, write 0 to 16777216
roost.toml:5: workers: `nowhere` is no worker: write [NAME=]HOST:PORT or [NAME=]unix:PATH
roost.toml:6: full: `no` is not one of backlog, refuse";
    assert_eq!(problems(file, &[], &[]), expected);
}

#[test]
fn broken_toml_and_missing_files_are_one_line() {
    let broken = problems("drain_ms = 1\nfull = \n", &[], &[]);
    assert!(broken.starts_with("roost.toml:2: ") && broken.lines().count() == 1, "{broken}");
    let twice = problems("drain_ms = 1\n\ndrain_ms = 2\n", &[], &[]);
    assert!(twice.starts_with("roost.toml:3: ") && twice.contains("duplicate"), "{twice}");
    let cli = Cli::try_parse_from(["roost-gateway", "--config", "/nonexistent/roost.toml"]).unwrap();
    let missing = load(&cli.options, &Environment::default()).unwrap_err().to_string();
    assert!(missing.starts_with("/nonexistent/roost.toml: cannot be read: No such file"), "{missing}");
}

#[test]
fn ranges_hold_in_every_layer() {
    let remedy = "16777216 is out of range, write 64 to 16777215";
    let value = "16777216";
    let file = problems("frame_bytes_max = 16777216", &[], &[]);
    assert_eq!(file, format!("roost.toml:1: frame_bytes_max: {remedy}"));
    let variable = problems("", &[("ROOST_FRAME_BYTES_MAX", value)], &[]);
    assert_eq!(variable, format!("environment ROOST_FRAME_BYTES_MAX: {remedy}"));
    let flag = problems("", &[], &["--set", "frame_bytes_max=16777216"]);
    assert_eq!(flag, format!("--set frame_bytes_max: {remedy}"));
    let shards = problems("", &[], &["--shards", "0"]);
    assert_eq!(shards, "--shards: 0 is out of range, write 1 to 256");
}

#[test]
fn contradictions_name_the_key_and_its_place() {
    for (file, start) in [
        ("listen = []", "roost.toml:1: listen: empty"),
        ("idle_timeout_ms = 60000", "roost.toml:1: idle_timeout_ms: 60000 closes clients"),
        ("heartbeat_interval_ms = 0\nidle_timeout_ms = 5", "roost.toml:2: idle_timeout_ms: 5 is less"),
        ("heartbeat_interval_ms = 0", "default: idle_timeout_ms: 150000 closes clients that nobody asks"),
        ("idle_timeout_ms = 60001", "roost.toml:1: idle_timeout_ms: 60001 closes clients that keep to"),
        ("idle_timeout_ms = 119999", "roost.toml:1: idle_timeout_ms: 119999 closes clients that keep to"),
        ("listen = [\"0.0.0.0:7400\", \"127.0.0.1:7400\"]", "roost.toml:1: listen: 127.0.0.1:7400 is taken"),
        ("listen = [\"127.0.0.1:7401\"]", "default: admin_listen: 127.0.0.1:7401 is taken"),
        ("listen = [\"[::]:7400\", \"[::1]:7400\"]", "roost.toml:1: listen: [::1]:7400 is taken"),
        ("retry_after_min_ms = 9000", "roost.toml:1: retry_after_min_ms: 9000 is more"),
        (
            "gather_us_max = 200\nbusy_poll_us_max = 200",
            "roost.toml:2: busy_poll_us_max: gives CPU for latency",
        ),
        ("link_redial_min_ms = 9000", "roost.toml:1: link_redial_min_ms: 9000 is more"),
        ("outbox_bytes_max = 4096", "roost.toml:1: outbox_bytes_max: 4096 holds not even"),
        ("outbox_bytes_max = 536870912", "default: outbox_bytes_total: "),
        ("shards = 129", "default: outbox_bytes_total: 134217728 is 1040448 for each of the 129 shards"),
        (
            "shards = 64\nframe_bytes_max = 4000000\noutbox_bytes_max = 4000008\n\
             outbox_bytes_total = 536870912\nlink_window_bytes = 8000008",
            "default: spill_bytes_total: 134217728 is 2097152 for each of the 64 shards",
        ),
        ("link_window_bytes = 65536", "roost.toml:1: link_window_bytes: 65536 holds less"),
        ("frame_bytes_max = 16000000", "default: outbox_bytes_max: 1048576 holds not even"),
        ("workers = [\"10.0.0.1:5\"]", "roost.toml:1: workers: `10.0.0.1:5` is not on this machine"),
        ("workers = [\"a=unix:/x\", \"a=unix:/y\"]", "roost.toml:1: workers: two are named `a`"),
        ("listen = [\"proxy:0.0.0.0:1\"]", "default: proxy_trusted: PROXY headers need both"),
        ("proxy_trusted = [\"10.0.0.0/8\"]", "roost.toml:1: proxy_trusted: PROXY headers need both"),
        ("features_max = \"fast\"", "roost.toml:1: features_max: \"fast\" is no feature tier"),
        ("connections_max = 1\nshards = 2", "roost.toml:1: connections_max: 1 is less than one"),
    ] {
        let found = problems(file, &[], &[]);
        assert!(found.lines().any(|line| line.starts_with(start)), "{file}: {found}");
    }
    let many: Vec<String> = (0..65).map(|i| format!("\"127.0.0.1:{}\"", 8_000 + i)).collect();
    let found = problems(&format!("listen = [{}]", many.join(",")), &[], &[]);
    assert!(found.contains("roost.toml:1: listen: names 65 addresses, and there can be 64"), "{found}");
    let long = format!("/{}", "x".repeat(107));
    for file in [format!("handover_socket = \"{long}\""), format!("workers = [\"unix:{long}\"]")] {
        let found = problems(&file, &[], &[]);
        assert!(found.contains("at most 107 bytes") && found.lines().count() == 1, "{found}");
    }
}

#[test]
fn what_goes_together_is_taken() {
    for file in [
        "listen = [\"0.0.0.0:7400\", \"[::]:7400\"]\nadmin_listen = [\"0.0.0.0:7401\", \"[::]:7401\"]",
        "listen = [\"127.0.0.1:0\", \"127.0.0.1:0\"]",
        "listen = [\"127.0.0.1:7400\", \"127.0.0.2:7400\"]",
        "heartbeat_interval_ms = 0\nidle_timeout_ms = 0",
        "idle_timeout_ms = 120000",
        "idle_timeout_ms = 0",
    ] {
        if let Err(error) = loaded(file, &[], &[]) {
            panic!("{file}: {error}");
        }
    }
}

#[test]
fn a_value_is_shown_with_the_form_that_it_should_have() {
    for (name, text, expected) in [
        ("connections_max", "1M", "`1M` is no whole number and not `auto`: write digits only, as in 1000000"),
        ("connections_max", "1.5", "`1.5` is no whole number and not `auto`: "),
        ("memory_bytes_max", "2GiB", "in bytes, as in 1048576 for 1 MiB"),
        (
            "drain_ms",
            "30s",
            "`30s` is no whole number: write digits only, in milliseconds, as in 30000 for 30 s",
        ),
        ("gather_us_max", "1ms", "in microseconds, as in 1000 for 1 ms"),
        ("drain_ms", "99999999999999999999", "99999999999999999999 is out of range, write 0 to 86400000"),
        ("per_ip_loopback", "yes", "`yes` is neither true nor false"),
        (
            "proxy_trusted",
            "10.0.0.0/8,10.1/16",
            "`10.1/16` is no network: write ADDRESS/BITS, as in 10.0.0.0/8",
        ),
        ("admin_listen", "localhost:1", "`localhost:1` is no address: write ADDR:PORT"),
    ] {
        let variable = format!("ROOST_{}", name.to_uppercase());
        let found = problems("", &[(&variable, text)], &[]);
        let [line] = found.lines().collect::<Vec<_>>()[..] else { panic!("{found}") };
        assert!(line.starts_with(&format!("environment {variable}: ")) && line.contains(expected), "{line}");
        let found = problems("", &[], &["--set", &format!("{name}={text}")]);
        assert!(found.starts_with(&format!("--set {name}: ")) && found.contains(expected), "{found}");
    }
    let found = problems("connections_max = 1M\n", &[], &[]);
    assert!(found.starts_with("roost.toml:1: `connections_max = 1M`: "), "{found}");
    assert!(found.ends_with("numbers are digits only, texts stand in quotes"), "{found}");
}

#[test]
fn underscores_part_digits_everywhere() {
    let variables = [("ROOST_DRAIN_MS", "2_000")];
    let flags = ["--connections-max", "1_000_000", "--set", "memory_bytes_max=4_000_000_000"];
    let config = loaded("per_ip_max = 1_000", &variables, &flags).unwrap().config;
    assert_eq!((config.drain_ms, config.per_ip_max), (2_000, 1_000));
    assert_eq!(config.connections_max, Auto::Value(1_000_000));
    assert_eq!(config.memory_bytes_max, Auto::Value(4_000_000_000));
}

/// A template that found nothing must neither turn workers into one inside, nor a secret off.
#[test]
fn an_empty_variable_is_refused_whatever_the_key() {
    for key in KEYS {
        for text in ["", " ", ",", " , "] {
            if text.contains(',') && !toml::Table::try_from(Config::default()).unwrap()[key.name].is_array() {
                continue;
            }
            let expected = format!("environment {}: empty: unset it", key.variable());
            let found = problems("", &[(&key.variable(), text)], &[]);
            assert!(found.starts_with(&expected) && found.lines().count() == 1, "{found}");
            let found = problems("", &[], &["--set", &format!("{}={text}", key.name)]);
            assert!(found.starts_with(&format!("--set {}: empty", key.name)), "{found}");
        }
    }
    let file = "workers = [\"unix:/w\"]\nlink_secret_file = \"/s\"";
    let said = [("ROOST_WORKERS", "[]"), ("ROOST_LINK_SECRET_FILE", "\"\"")];
    assert_eq!(loaded(file, &said, &[]).unwrap().config, Config::default());
}

#[test]
fn bad_values_and_contradictions_are_said_in_one_pass() {
    let found = problems(
        "drain_ms = \"x\"\nretry_after_min_ms = 9000\nidle_timeout_ms = \"y\"\nheartbeat_interval_ms = 200000",
        &[("ROOST_PER_IP_MAX", "many")],
        &["--shards", "2", "--connections-max", "1"],
    );
    let starts: Vec<_> = found.lines().map(|line| line.split(' ').next().unwrap()).collect();
    // Nothing is said of idle_timeout_ms against the heartbeat: what it is to be is not known.
    let expected = ["roost.toml:1:", "roost.toml:3:", "environment", "--connections-max:", "roost.toml:2:"];
    assert_eq!(starts, expected, "{found}");
}

#[test]
fn unknown_variables_warn_and_unknown_flags_do_not_pass() {
    let loaded =
        loaded("", &[("ROOST_IDLE_TIMEOUT", "1"), ("ROOST_CONFIG", "x"), ("HOME", "/")], &[]).unwrap();
    assert_eq!(loaded.warnings.len(), 1);
    assert!(loaded.warnings[0].contains("did you mean `idle_timeout_ms`?"), "{:?}", loaded.warnings);
    assert!(Cli::try_parse_from(["roost-gateway", "--idle-timeout", "1"]).is_err());
    assert!(problems("", &[], &["--set", "nonsense=1"]).contains("unknown key `nonsense`"));
}
