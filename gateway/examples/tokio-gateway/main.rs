//! The gateway that one would write first on tokio, for comparison: one thread, a task for each
//! client, channels to the tasks of one multiplexed link. It speaks both protocols of
//! `protocol/SPEC.md` with the reference worker.
//!
//! ```text
//! roost-router --listen 127.0.0.1:7500 &
//! cargo run --release -p roost-gateway --example tokio-gateway -- 127.0.0.1:7600 127.0.0.1:7500
//! ```
//!
//! It is meant to be fast: no buffer is held for an idle client, a read takes all frames that have
//! come, the link is written in batches, and replies to one client that came together leave
//! together. It does less than the real one, which can only help it: no timeouts, limits or
//! metrics, and when the link breaks it ends, since it keeps nothing for a resume.

#![forbid(unsafe_code)]

mod client;
mod link;
mod slots;

use std::{cell::RefCell, net::SocketAddr, rc::Rc};

use anyhow::Context as _;
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::mpsc,
    task::{LocalSet, spawn_local},
};

use crate::slots::Slots;

/// The longest MESSAGE payload, as in the real gateway's default.
const FRAME_BYTES_MAX: u32 = roost_protocol::edge::FRAME_BYTES_MAX_DEFAULT;
/// Messages from clients that wait for the link, at most.
const TO_LINK_MAX: usize = 16_384;
/// Connections that wait for accept.
const BACKLOG: u32 = 65_535;

/// What client tasks share. One thread, so no locks.
struct Shared {
    slots: Rc<RefCell<Slots>>,
    /// Read into by whoever reads, and empty between two awaits: idle clients hold no buffer.
    read_buffer: RefCell<Box<[u8]>>,
    to_link: mpsc::Sender<link::ToLink>,
}

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let mut address = |what: &str| -> anyhow::Result<SocketAddr> {
        args.next()
            .with_context(|| format!("usage: tokio-gateway LISTEN WORKER; {what} is missing"))?
            .parse()
            .context(what.to_owned())
    };
    let (listen, worker) = (address("LISTEN")?, address("WORKER")?);
    raise_descriptor_limit()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, serve(listen, worker))
}

async fn serve(listen: SocketAddr, worker: SocketAddr) -> anyhow::Result<()> {
    let slots = Rc::new(RefCell::new(Slots::default()));
    let (to_link, from_clients) = mpsc::channel(TO_LINK_MAX);
    let stream = TcpStream::connect(worker).await.with_context(|| format!("worker {worker}"))?;
    stream.set_nodelay(true)?;
    let link = link::start(stream, from_clients, Rc::clone(&slots)).await?;

    let socket = if listen.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    // Several processes share the port where one may not have descriptors enough.
    socket.set_reuseport(true)?;
    socket.bind(listen)?;
    let listener = socket.listen(BACKLOG)?;
    eprintln!("clients {}", listener.local_addr()?);
    let shared = Rc::new(Shared { slots, read_buffer: RefCell::new(vec![0; 64 * 1024].into()), to_link });
    let accept = async {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => drop(spawn_local(client::run(stream, peer, Rc::clone(&shared)))),
                // Out of descriptors: those who wait in the backlog get their turn when others leave.
                Err(error) => {
                    eprintln!("accept: {error}");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    };
    tokio::select! {
        ended = link => ended,
        () = accept => unreachable!("accepts for ever"),
    }
}

fn raise_descriptor_limit() -> anyhow::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?)
}
