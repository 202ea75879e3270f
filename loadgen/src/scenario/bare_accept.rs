//! `bare-accept`: accepts and does nothing, so that what remains is what the kernel needs for a
//! connection with nothing armed on it.

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use anyhow::Context;
use roost_ring::{Features, FeaturesMax};

use crate::{
    cli::BareAcceptArgs,
    say,
    socket::{Kind, SocketNetwork, Sockets, SocketsConfig},
};

/// Accepts in the kernel at a time.
const IN_FLIGHT_MAX: u32 = 256;
const BACKLOG: i32 = 65_535;

/// Accepts until it is told to stop.
///
/// # Errors
/// What keeps it from accepting.
pub fn run(args: &BareAcceptArgs, nofile: u64, stop: &Arc<AtomicBool>) -> anyhow::Result<()> {
    let features = Features::detect(FeaturesMax::Direct)?;
    let listener = TcpListener::bind(args.listen).with_context(|| format!("--listen {}", args.listen))?;
    rustix::net::listen(&listener, BACKLOG)?;
    let held = if features.direct() { "direct descriptors" } else { "plain descriptors" };
    say::line(format_args!("listening on {} ({held})", listener.local_addr()?))?;
    let config = SocketsConfig {
        slots: args.connections,
        slots_per_ring: args.ring_slots_max.min(SocketNetwork::ring_slots_for(nofile)),
        target: args.listen,
        listener: Some(listener.into()),
        receive_blocks: 0,
    };
    let mut sockets = Sockets::open(&features, config).context("setting up the first ring")?;
    let (mut begun, mut accepted, mut failed) = (0, 0_u32, 0_u32);
    let mut completions = Vec::new();
    let (mut said, mut said_at) = (0, Instant::now());
    while !stop.load(Relaxed) {
        while begun < args.connections && begun - accepted - failed < IN_FLIGHT_MAX {
            // One ring at a time: whatever connects goes to the slot whose turn it is.
            sockets.accept(begun);
            begun += 1;
        }
        sockets.turn(Duration::from_millis(100), &mut completions)?;
        for completion in completions.drain(..).filter(|completion| completion.kind == Kind::Accept) {
            if completion.result < 0 {
                failed += 1;
                say::note(format_args!("accept: {}", std::io::Error::from_raw_os_error(-completion.result)));
            } else {
                accepted += 1;
            }
        }
        if said != accepted && (accepted == args.connections || said_at.elapsed() > Duration::from_secs(1)) {
            say::line(format_args!("accepted {accepted}"))?;
            (said, said_at) = (accepted, Instant::now());
        }
    }
    Ok(())
}
