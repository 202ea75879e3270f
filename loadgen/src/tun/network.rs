//! The network of all shares: namespace, devices, and what was started inside.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    path::PathBuf,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;

use super::{
    Device, Namespace, Spawned, TunArgs, TunTransport,
    address::{Subnet, device_address},
    loss::Loss,
    stats,
    tcp::TcpConfig,
};
use crate::transport::{Network, Share, Transport};

/// How long the servers may take until one listens on the target address.
const LISTEN_PATIENCE: Duration = Duration::from_secs(30);

/// What a network is made from.
#[derive(Clone, Debug)]
pub struct TunConfig {
    /// Where the clients connect to: an address in the namespace.
    pub target: SocketAddrV4,
    /// Clients of all shares.
    pub clients: u32,
    /// Shares, each with a thread and a device.
    pub threads: u32,
    /// From it come sequence numbers and drops.
    pub seed: u64,
    /// The flags.
    pub args: TunArgs,
}

/// User-space clients of one namespace.
///
/// Dropping it ends what was started, leads the thread that made it out of the namespace, and
/// puts back the settings that were changed; a panic of an aborting build and a killed process
/// end at least the processes, and a panic puts back the settings too.
#[derive(Debug)]
pub struct TunNetwork {
    config: TunConfig,
    /// Each is handed out once.
    devices: Mutex<Vec<Option<Device>>>,
    // The order counts: processes end before the way back is taken.
    spawned: Mutex<Vec<Spawned>>,
    namespace: Namespace,
}

impl TunNetwork {
    /// Makes or enters the namespace, with the calling thread, makes the devices, starts the
    /// commands and waits until the target listens. Call it before the load threads and
    /// whatever else has to reach the servers are started: threads inherit the namespace.
    ///
    /// # Errors
    /// One line that names the cause and its remedy. What was begun is undone.
    pub fn new(config: TunConfig) -> anyhow::Result<Self> {
        check(&config)?;
        let args = &config.args;
        let namespace = match &args.netns {
            Some(name_or_pid) => Namespace::attach(name_or_pid)?,
            None => Namespace::create(config.clients)?,
        };
        let devices = (0..config.threads)
            .map(|thread| Device::new(device_address(second_byte(&config, thread))).map(Some))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let target = *config.target.ip();
        if namespace.is_own() && !device_addresses(&config).any(|address| address == target) {
            namespace.add_address(target)?;
        }
        let mut spawned = Vec::new();
        for (number, command) in args.spawn.iter().enumerate() {
            let log = args.spawn_log_dir.as_ref().map(|dir| log_path(dir, number));
            spawned.push(Spawned::start(command, log.as_deref())?);
        }
        let network = Self { config, devices: Mutex::new(devices), spawned: Mutex::new(spawned), namespace };
        network.wait_until_listening()?;
        Ok(network)
    }

    /// What was set up, or should be otherwise; one line each.
    pub fn notes(&self) -> &[String] {
        self.namespace.notes()
    }

    /// The commands that were started and their process ids, in order.
    pub fn processes(&self) -> Vec<(String, u32)> {
        self.spawned().iter().map(|one| (one.command().to_owned(), one.pid())).collect()
    }

    fn spawned(&self) -> std::sync::MutexGuard<'_, Vec<Spawned>> {
        self.spawned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Only commands of our own are waited for: in a foreign namespace, or without commands,
    /// the caller knows when it listens.
    fn wait_until_listening(&self) -> anyhow::Result<()> {
        if self.config.args.spawn.is_empty() {
            return Ok(());
        }
        let target = self.config.target;
        let end = Instant::now() + LISTEN_PATIENCE;
        while !stats::is_listening(target)? {
            for one in self.spawned().iter_mut() {
                if let Some(status) = one.ended()? {
                    anyhow::bail!(
                        "{:?} has ended before anyone listened on {target}: {status}",
                        one.command()
                    );
                }
            }
            anyhow::ensure!(
                Instant::now() < end,
                "nobody listens on {target} in the namespace after {} s: have the gateway listen there \
                 or on 0.0.0.0",
                LISTEN_PATIENCE.as_secs()
            );
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Network for TunNetwork {
    fn open(&self, share: Share) -> anyhow::Result<Box<dyn Transport>> {
        let device = self
            .devices
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_mut(share.thread as usize)
            .and_then(Option::take)
            .with_context(|| format!("load thread {} has no TUN device, or not any more", share.thread))?;
        let args = &self.config.args;
        let subnet = Subnet::new(second_byte(&self.config, share.thread), share.clients, args.tun_ports)?;
        let seed = self.config.seed.wrapping_add(u64::from(share.thread) << 32);
        let tcp =
            TcpConfig { clients: share.clients, sequence_seed: seed, receive_window_bytes: args.tun_window };
        let loss = Loss::new(args.drop_percent, seed);
        Ok(Box::new(TunTransport::new(device, subnet, self.config.target.into(), loss, tcp)))
    }

    fn description(&self) -> String {
        let args = &self.config.args;
        let per_share = self.config.clients.div_ceil(self.config.threads);
        let addresses = per_share.div_ceil(u32::from(args.tun_ports)) * self.config.threads;
        let (devices, plural) = (self.config.threads, if self.config.threads == 1 { "" } else { "s" });
        let loss = if args.drop_percent > 0.0 {
            format!(
                "; {}% of all packets are dropped on purpose, in both directions, by the generator where it \
                 reads from and writes to the device",
                args.drop_percent
            )
        } else {
            String::new()
        };
        format!(
            "user-space TCP over {devices} TUN device{plural} in a network namespace of this machine, {addresses} \
             source addresses: the clients have no kernel sockets, the server's sockets are the kernel's. \
             Clients do handshake, retransmission with back-off, fast retransmit, slow start, flow control \
             with window probes, FIN and RST; they do not do window scaling (at most {} bytes in flight to a \
             client), SACK, timestamps, keep-alives, delayed acknowledgements, or reassembly (what arrives out \
             of order is dropped and sent again by the server); no network card and no distance is between \
             them and the server, whose kernel handles their packets on the generator's CPU time{loss}",
            args.tun_window
        )
    }
}

fn check(config: &TunConfig) -> anyhow::Result<()> {
    let TunConfig { target, clients, threads, args, .. } = config;
    anyhow::ensure!(*threads >= 1 && *clients >= 1, "at least one client and one load thread");
    anyhow::ensure!(
        !target.ip().is_loopback() && !target.ip().is_unspecified(),
        "clients on a TUN device cannot reach {}: give --target {}:{} and have the gateway listen there or \
         on 0.0.0.0",
        target.ip(),
        device_address(args.tun_subnet),
        target.port()
    );
    anyhow::ensure!(
        u32::from(args.tun_subnet) + threads <= 256,
        "--tun-subnet {}: {threads} load threads need as many subnets up to 10.255.0.0/16",
        args.tun_subnet
    );
    anyhow::ensure!(args.tun_window > 0, "--tun-window 0: nothing could ever arrive");
    anyhow::ensure!(
        (0.0..=100.0).contains(&args.drop_percent),
        "--drop-percent {}: 0 to 100",
        args.drop_percent
    );
    Subnet::new(args.tun_subnet, clients.div_ceil(*threads), args.tun_ports)?;
    Ok(())
}

fn second_byte(config: &TunConfig, thread: u32) -> u8 {
    u8::try_from(u32::from(config.args.tun_subnet) + thread).expect("checked when the network was made")
}

fn device_addresses(config: &TunConfig) -> impl Iterator<Item = Ipv4Addr> {
    (0..config.threads).map(|thread| device_address(second_byte(config, thread)))
}

fn log_path(dir: &std::path::Path, number: usize) -> PathBuf {
    dir.join(format!("spawn-{}.log", number + 1))
}
