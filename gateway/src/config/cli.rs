//! The flags. The important keys have one; `--set KEY=VALUE` reaches the rest.

use std::{net::SocketAddr, path::PathBuf, str::FromStr};

use clap::{Args, Parser, Subcommand};
use serde::Serialize;
use toml::Value;

use super::value::{EmbeddedHandler, FullPolicy, ListenerSpec, LogLevel, NoWorkerPolicy, WorkerSpec};

/// The command line of `roost-gateway`.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "roost-gateway",
    version,
    about = "Holds many idle TCP clients on io_uring and forwards their frames to a few workers",
    long_about = "Holds many idle TCP clients on io_uring and forwards their frames to a few workers.\n\n\
        Without arguments: listens on 127.0.0.1:7400, runs an echo worker inside, and serves metrics and \
        a page on 127.0.0.1:7401.\n\n\
        Settings come from the file, then the environment (ROOST_ and the key in upper case, such as \
        ROOST_IDLE_TIMEOUT_MS), then flags; the later wins. roost.example.toml describes every key.",
    args_conflicts_with_subcommands = false,
    subcommand_negates_reqs = true
)]
pub struct Cli {
    /// What to do; without one: run the gateway.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The settings.
    #[command(flatten)]
    pub options: Options,
}

/// What to do instead of running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Print the effective configuration, the kernel features found, what this machine can hold
    /// and what limits it; exit non-zero when the configured capacity cannot be reached.
    Check,
}

/// Settings given as flags; each overrides the key of the same name.
#[derive(Args, Clone, Debug, Default)]
pub struct Options {
    /// The configuration file (TOML)
    #[arg(long, value_name = "FILE", env = "ROOST_CONFIG", global = true)]
    pub config: Option<PathBuf>,
    /// Where clients connect: `[proxy:]ADDR:PORT`; repeatable
    #[arg(long, value_name = "ADDR:PORT", global = true)]
    pub listen: Vec<ListenerSpec>,
    /// A worker: [NAME=]HOST:PORT or [NAME=]unix:PATH; repeatable; none: one runs inside
    #[arg(long = "worker", value_name = "WORKER", global = true)]
    pub workers: Vec<WorkerSpec>,
    /// What the worker inside does: echo, sink, route or fanout
    #[arg(long, value_name = "HANDLER", global = true)]
    pub embedded_handler: Option<EmbeddedHandler>,
    /// Threads that own connections
    #[arg(long, value_name = "N", value_parser = whole::<u16>, global = true)]
    pub shards: Option<u16>,
    /// Connections held at once
    #[arg(long, value_name = "N", value_parser = whole::<u32>, global = true)]
    pub connections_max: Option<u32>,
    /// Slots of one ring
    #[arg(long, value_name = "N", value_parser = whole::<u32>, global = true)]
    pub ring_slots_max: Option<u32>,
    /// The best kernel feature tier to use
    #[arg(long, value_name = "TIER", global = true)]
    pub features_max: Option<String>,
    /// Where metrics, health and the page are served; repeatable
    #[arg(long, value_name = "ADDR:PORT", global = true)]
    pub admin_listen: Vec<SocketAddr>,
    /// File with the token for /api/
    #[arg(long, value_name = "FILE", global = true)]
    pub admin_token_file: Option<PathBuf>,
    /// File with the secret shared with the workers
    #[arg(long, value_name = "FILE", global = true)]
    pub link_secret_file: Option<PathBuf>,
    /// Absence after which a worker's connections go elsewhere
    #[arg(long, value_name = "MS", value_parser = whole::<u32>, global = true)]
    pub link_failover_ms: Option<u32>,
    /// Heartbeat interval asked of clients; 0: none
    #[arg(long, value_name = "MS", value_parser = whole::<u32>, global = true)]
    pub heartbeat_interval_ms: Option<u32>,
    /// Silence after which a client is closed; 0: never
    #[arg(long, value_name = "MS", value_parser = whole::<u32>, global = true)]
    pub idle_timeout_ms: Option<u32>,
    /// Clients while no worker is up: wait or refuse
    #[arg(long, value_name = "POLICY", global = true)]
    pub no_worker: Option<NoWorkerPolicy>,
    /// Clients beyond the maximum: backlog or refuse
    #[arg(long, value_name = "POLICY", global = true)]
    pub full: Option<FullPolicy>,
    /// Over how long clients are sent away at SIGTERM
    #[arg(long, value_name = "MS", value_parser = whole::<u32>, global = true)]
    pub drain_ms: Option<u32>,
    /// Unix socket over which a successor takes the listeners
    #[arg(long, value_name = "PATH", global = true)]
    pub handover_socket: Option<PathBuf>,
    /// error, warn, info, debug or trace
    #[arg(long, value_name = "LEVEL", global = true)]
    pub log_level: Option<LogLevel>,
    /// Any other key of the file, as in --set per_ip_max=100; repeatable
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_and_value, global = true)]
    pub set: Vec<(String, String)>,
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err("write KEY=VALUE, as in per_ip_max=100".to_owned()),
    }
}

/// A whole number, whose digits may be parted by underscores as in TOML.
fn whole<T: FromStr>(text: &str) -> Result<T, String> {
    let parted = !text.starts_with('_') && !text.ends_with('_') && !text.contains("__");
    let digits: String = text.chars().filter(|&character| character != '_').collect();
    if !parted || digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("no whole number: write digits only, as in 1000000 or 1_000_000".to_owned());
    }
    digits.parse().map_err(|_| "out of range".to_owned())
}

impl Options {
    /// The keys that have a flag of their own, with the values given; `--set` is not among them.
    pub(super) fn given(&self) -> Vec<(&'static str, Value)> {
        let mut given = Vec::new();
        list(&mut given, "listen", &self.listen);
        list(&mut given, "workers", &self.workers);
        one(&mut given, "embedded_handler", self.embedded_handler.as_ref());
        one(&mut given, "shards", self.shards.as_ref());
        one(&mut given, "connections_max", self.connections_max.as_ref());
        one(&mut given, "ring_slots_max", self.ring_slots_max.as_ref());
        one(&mut given, "features_max", self.features_max.as_ref());
        list(&mut given, "admin_listen", &self.admin_listen);
        one(&mut given, "admin_token_file", self.admin_token_file.as_ref());
        one(&mut given, "link_secret_file", self.link_secret_file.as_ref());
        one(&mut given, "link_failover_ms", self.link_failover_ms.as_ref());
        one(&mut given, "heartbeat_interval_ms", self.heartbeat_interval_ms.as_ref());
        one(&mut given, "idle_timeout_ms", self.idle_timeout_ms.as_ref());
        one(&mut given, "no_worker", self.no_worker.as_ref());
        one(&mut given, "full", self.full.as_ref());
        one(&mut given, "drain_ms", self.drain_ms.as_ref());
        one(&mut given, "handover_socket", self.handover_socket.as_ref());
        one(&mut given, "log_level", self.log_level.as_ref());
        given
    }
}

fn one<T: Serialize>(given: &mut Vec<(&'static str, Value)>, key: &'static str, value: Option<&T>) {
    if let Some(value) = value {
        given.push((key, Value::try_from(value).expect("flags are plain values")));
    }
}

fn list<T: Serialize>(given: &mut Vec<(&'static str, Value)>, key: &'static str, values: &[T]) {
    if !values.is_empty() {
        one(given, key, Some(&values));
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::{Cli, Command};
    use crate::config::keys;

    #[test]
    fn the_command_line_is_well_formed_and_flags_are_keys() {
        Cli::command().debug_assert();
        for argument in Cli::command().get_arguments() {
            let id = argument.get_id().as_str();
            if ["config", "set", "help", "version"].contains(&id) {
                continue;
            }
            assert!(keys::key(id).is_some(), "--{id} is no key of the file");
        }
    }

    #[test]
    fn numbers_are_digits_parted_by_underscores() {
        let parse = |text: &str| Cli::try_parse_from(["roost-gateway", "--connections-max", text]);
        for (text, number) in [("7", 7), ("1_000_000", 1_000_000)] {
            assert_eq!(parse(text).unwrap().options.connections_max, Some(number));
        }
        for text in ["1M", "+7", "1__0", "_1", "1_", "_", "", "1.5", "0x10", "30s"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains("1_000_000") || text.is_empty(), "{text}: {error}");
        }
        assert!(parse("4294967296").unwrap_err().to_string().contains("out of range"));
        let error = Cli::try_parse_from(["roost-gateway", "--drain-ms", "30s"]).unwrap_err().to_string();
        assert!(error.contains("30s") && error.contains("digits only"), "{error}");
    }

    #[test]
    fn settings_may_stand_on_either_side_of_the_subcommand() {
        for line in [
            ["roost-gateway", "check", "--connections-max", "7"],
            ["roost-gateway", "--connections-max", "7", "check"],
        ] {
            let cli = Cli::try_parse_from(line).unwrap();
            assert_eq!(cli.command, Some(Command::Check));
            assert_eq!(cli.options.connections_max, Some(7));
        }
    }
}
