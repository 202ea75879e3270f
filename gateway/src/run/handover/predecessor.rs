//! The side that succeeds: it asks a running gateway for its sockets.

use std::{
    io,
    net::TcpListener,
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::{
    ALIVE, GO, HandoverServer, Lines, NO, Offer, OfferedListener, READY, RELEASED, Request, VERSION, socket,
};
use crate::{preflight::GivenBack, run::caught::CaughtSignals};

/// How long a running gateway may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// What a start takes at most, besides the wait for a worker.
const START_WITHIN: Duration = Duration::from_secs(30);
/// How often an answer is looked for.
const LOOK: Duration = Duration::from_millis(5);

/// A running gateway that is to be succeeded.
#[derive(Debug)]
pub(in crate::run) struct Predecessor {
    lines: Lines,
}

/// What it has given.
#[derive(Debug)]
pub(in crate::run) struct Inheritance {
    /// The sockets where clients connect, and what goes with each.
    pub(in crate::run) listeners: Vec<(OwnedFd, OfferedListener)>,
    /// Those of the admin side.
    pub(in crate::run) admin: Vec<TcpListener>,
    /// The one at which it was called.
    pub(in crate::run) server: HandoverServer,
    /// What becomes free when it has drained.
    pub(in crate::run) gives_back: GivenBack,
}

/// What a predecessor has said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::run) enum Said {
    /// Nothing yet.
    Nothing,
    /// This process may serve.
    Go,
    /// It does not accept any more, or is gone: everything is this process's alone.
    Released,
    /// It goes on, for this reason.
    No(String),
}

/// Asks the gateway at `path` for its sockets; none if nobody serves there. `worker_wait` is how long
/// this process will wait for a worker.
///
/// # Errors
/// Somebody serves there who is no gateway of this user, or does not answer.
pub(in crate::run) fn call(
    path: &Path,
    worker_wait: Duration,
    signals: &mut CaughtSignals,
) -> Result<Option<(Predecessor, Inheritance)>> {
    let until = Instant::now() + ANSWER_WITHIN;
    let context = || format!("handover_socket {}", path.display());
    loop {
        if !socket::inspect(path)? {
            return Ok(None);
        }
        match socket::dial(path) {
            Ok(stream) => {
                if let Some(answer) = ask(stream, worker_wait, until, signals).with_context(context)? {
                    return Ok(Some(answer));
                }
            }
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => return Ok(None),
                io::ErrorKind::WouldBlock => {}
                _ => return Err(error).with_context(context),
            },
        }
        if Instant::now() >= until {
            bail!(
                "handover_socket {}: who serves there has not answered within {ANSWER_WITHIN:?}; end that \
                 process, or start without handover_socket",
                path.display()
            );
        }
        signals.go_on()?;
        thread::sleep(LOOK);
    }
}

/// None if the other side has ended without an answer: it may be ending, or have been too busy.
fn ask(
    stream: UnixStream,
    worker_wait: Duration,
    until: Instant,
    signals: &mut CaughtSignals,
) -> Result<Option<(Predecessor, Inheritance)>> {
    if !socket::is_trusted(&stream)? {
        bail!("who serves there runs as another user; it gets nothing from this process, and gives nothing");
    }
    let mut lines = Lines::new(stream, true)?;
    let ready_within_ms = (worker_wait + START_WITHIN).as_millis() as u64;
    let request = Request { version: VERSION, ready_within_ms };
    if lines.send(&serde_json::to_string(&request)?, &[]).is_err() {
        return Ok(None);
    }
    while Instant::now() < until {
        match lines.next() {
            Ok(Some(line)) => return accept(lines, &line).map(Some),
            Ok(None) => {}
            Err(error)
                if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error).context("who serves there is no gateway"),
        }
        signals.go_on()?;
        thread::sleep(LOOK);
    }
    Ok(None)
}

fn accept(mut lines: Lines, line: &str) -> Result<(Predecessor, Inheritance)> {
    if let Some(reason) = line.strip_prefix(NO) {
        bail!("the running gateway goes on: {}", reason.trim());
    }
    let offer: Offer =
        serde_json::from_str(line).context("who serves there is no gateway that hands over")?;
    if offer.version != VERSION {
        bail!("the running gateway hands over by version {} of this exchange, not {VERSION}", offer.version);
    }
    let mut sockets = std::mem::take(&mut lines.sockets).into_iter();
    if sockets.len() != offer.listeners.len() + offer.admin_listeners + 1 {
        bail!("the running gateway sent {} sockets, not those that it names", sockets.len());
    }
    let listeners = sockets.by_ref().take(offer.listeners.len()).zip(offer.listeners).collect();
    let admin = sockets.by_ref().take(offer.admin_listeners).map(TcpListener::from).collect();
    let server = HandoverServer::new(UnixListener::from(sockets.next().expect("one is left")));
    let inheritance = Inheritance { listeners, admin, server, gives_back: offer.gives_back };
    Ok((Predecessor { lines }, inheritance))
}

impl Predecessor {
    /// Says that everything that can fail is done.
    pub(in crate::run) fn ready(&mut self) {
        // One that is gone is noticed by what it says next.
        drop(self.lines.send(READY, &[]));
    }

    /// Says that this process has served for [`super::TRIAL`].
    pub(in crate::run) fn alive(&mut self) {
        drop(self.lines.send(ALIVE, &[]));
    }

    /// What it has said since the last call.
    pub(in crate::run) fn said(&mut self) -> Said {
        match self.lines.next() {
            Ok(None) => Said::Nothing,
            Ok(Some(line)) if line == GO => Said::Go,
            Ok(Some(line)) if line == RELEASED => Said::Released,
            Ok(Some(line)) => Said::No(line.strip_prefix(NO).unwrap_or(&line).trim().to_owned()),
            Err(_) => Said::Released,
        }
    }
}
