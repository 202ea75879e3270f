//! Flags of this transport.

use std::path::PathBuf;

use clap::Args;

/// How the namespace is come by, and what its clients are like.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "TUN transport")]
pub struct TunArgs {
    /// Start this command in the namespace and end it after the run; may be repeated. Start the
    /// workers first, then the gateway.
    #[arg(long, value_name = "CMD")]
    pub spawn: Vec<String>,
    /// Write the output of the commands to DIR/spawn-N.log instead of standard error.
    #[arg(long, value_name = "DIR", requires = "spawn")]
    pub spawn_log_dir: Option<PathBuf>,
    /// Use this network namespace (a name of `ip netns`, or the id of a process in it) and
    /// change nothing in it, instead of making one.
    #[arg(long, value_name = "NAME|PID")]
    pub netns: Option<String>,
    /// The clients of load thread T get source addresses in 10.(X+T).0.0/16.
    #[arg(long, value_name = "X", default_value_t = 100)]
    pub tun_subnet: u8,
    /// Clients per source address.
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    pub tun_ports: u16,
    /// Receive window of each client in bytes; what a client that does not read holds in user
    /// memory, at most.
    #[arg(long, value_name = "BYTES", default_value_t = u16::MAX)]
    pub tun_window: u16,
    /// Drop this share of the packets, in both directions, in percent.
    #[arg(long, value_name = "P", default_value_t = 0.0)]
    pub drop_percent: f64,
}
