//! The side that is succeeded: it serves on while callers say what they want, at their pace.

use std::{
    collections::VecDeque,
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::net::UnixListener,
    },
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{ALIVE, GO, Lines, NO, Offer, READY, RELEASED, Request, TRIAL, VERSION, socket};

/// How long a caller may take to say what it wants.
const REQUEST_WITHIN: Duration = Duration::from_secs(2);
/// Callers that have said nothing yet; of more the oldest go.
const CALLERS_MAX: usize = 32;
/// Callers that are let in per look.
const CALLERS_PER_LOOK: usize = 256;
/// The longest time that a successor is given to become ready.
const READY_WITHIN_MAX: Duration = Duration::from_secs(3600);
/// How long a successor has to say that it has lived through its trial.
const ALIVE_WITHIN: Duration = Duration::from_secs(10);

/// The socket at which successors call.
#[derive(Debug)]
pub(in crate::run) struct HandoverServer {
    socket: UnixListener,
    callers: VecDeque<Caller>,
}

/// Somebody who has connected.
#[derive(Debug)]
struct Caller {
    lines: Lines,
    until: Instant,
}

/// A process that has asked for the sockets.
#[derive(Debug)]
pub(in crate::run) struct Successor {
    lines: Lines,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It has asked; nothing was given yet.
    Asked { ready_within: Duration },
    /// It has the sockets and becomes ready.
    Starting { until: Instant },
    /// It serves, beside this process.
    Trial { since: Instant, alive: bool },
}

/// How far a successor is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::run) enum Progress {
    /// Nothing to do yet.
    Waits,
    /// It has become ready, and serves from now on.
    Serves,
    /// It has served for long enough.
    Lives,
    /// It is no successor any more.
    Failed(String),
}

impl HandoverServer {
    /// Listens at `path`.
    ///
    /// # Errors
    /// Something stands there that is no socket, or a process serves there, or it cannot be made.
    pub(in crate::run) fn bind(path: &Path) -> Result<Self> {
        socket::listen_at(path).map(Self::new)
    }

    pub(super) fn new(socket: UnixListener) -> Self {
        Self { socket, callers: VecDeque::new() }
    }

    /// For the successor.
    pub(in crate::run) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Those who have said by now that they want to succeed. Whoever is mute, or of another user, or
    /// says something else, is nobody's business but its own.
    pub(in crate::run) fn successors(&mut self) -> Vec<Successor> {
        let now = Instant::now();
        for _ in 0..CALLERS_PER_LOOK {
            let Ok((stream, _)) = self.socket.accept() else { break };
            if !socket::is_trusted(&stream).unwrap_or(false) {
                tracing::warn!("a process of another user calls at handover_socket; it gets nothing");
                continue;
            }
            if let Ok(lines) = Lines::new(stream, false) {
                self.callers.push_back(Caller { lines, until: now + REQUEST_WITHIN });
            }
        }
        let mut successors = Vec::new();
        for mut caller in std::mem::take(&mut self.callers) {
            match caller.request() {
                Ok(Some(request)) if request.version == VERSION => {
                    let ready_within = Duration::from_millis(request.ready_within_ms).min(READY_WITHIN_MAX);
                    successors.push(Successor { lines: caller.lines, stage: Stage::Asked { ready_within } });
                }
                Ok(Some(request)) => {
                    let version = request.version;
                    say_no(&caller.lines, &format!("it hands over by version {VERSION}, not {version}"));
                }
                Ok(None) if now < caller.until => self.callers.push_back(caller),
                Ok(None) | Err(_) => {}
            }
        }
        let too_many = self.callers.len().saturating_sub(CALLERS_MAX);
        self.callers.drain(..too_many);
        successors
    }
}

impl Caller {
    fn request(&mut self) -> io::Result<Option<Request>> {
        let Some(line) = self.lines.next()? else { return Ok(None) };
        let request = serde_json::from_str(&line);
        request.map(Some).map_err(|_| {
            tracing::warn!("a process calls at handover_socket and is no gateway; it gets nothing");
            io::Error::other("no request")
        })
    }
}

fn say_no(lines: &Lines, reason: &str) {
    // Whoever does not listen has missed it.
    drop(lines.send(&format!("{NO} {reason}"), &[]));
}

impl Successor {
    /// Gives it the sockets.
    pub(in crate::run) fn offer(&mut self, offer: &Offer, sockets: &[BorrowedFd<'_>]) -> Result<()> {
        let Stage::Asked { ready_within } = self.stage else { unreachable!("offered once") };
        let offer = Offer { version: VERSION, ..offer.clone() };
        self.lines.send(&serde_json::to_string(&offer)?, sockets)?;
        self.stage = Stage::Starting { until: Instant::now() + ready_within };
        Ok(())
    }

    /// Looks what it has done.
    pub(in crate::run) fn progress(&mut self) -> Progress {
        let line = match self.lines.next() {
            Ok(line) => line,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Progress::Failed(self.ended().to_owned());
            }
            Err(error) => return Progress::Failed(format!("it cannot be heard: {error}")),
        };
        match (self.stage, line.as_deref()) {
            (Stage::Starting { .. }, Some(READY)) => {
                if self.lines.send(GO, &[]).is_err() {
                    return Progress::Failed(self.ended().to_owned());
                }
                self.stage = Stage::Trial { since: Instant::now(), alive: false };
                Progress::Serves
            }
            (Stage::Trial { since, .. }, Some(ALIVE)) => {
                self.stage = Stage::Trial { since, alive: true };
                Progress::Waits
            }
            (_, Some(line)) => {
                // Its own words could be long.
                let line: String = line.chars().take(40).collect();
                Progress::Failed(format!("it said {line:?}"))
            }
            (Stage::Starting { until }, None) if Instant::now() >= until => {
                self.refuse("it was not ready in time");
                Progress::Failed("it was not ready in time".to_owned())
            }
            (Stage::Trial { since, alive: true }, None) if since.elapsed() >= TRIAL => Progress::Lives,
            (Stage::Trial { since, alive: false }, None) if since.elapsed() >= TRIAL + ALIVE_WITHIN => {
                self.refuse("no sign of life within its first seconds");
                Progress::Failed("it gave no sign of life within its first seconds".to_owned())
            }
            _ => Progress::Waits,
        }
    }

    fn ended(&self) -> &'static str {
        match self.stage {
            Stage::Trial { .. } => "it ended right after it was ready",
            _ => "it ended before it was ready",
        }
    }

    /// Whether it serves, or may from now on.
    pub(in crate::run) fn serves(&self) -> bool {
        matches!(self.stage, Stage::Trial { .. })
    }

    /// Says that it must not go on.
    pub(in crate::run) fn refuse(&self, reason: &str) {
        say_no(&self.lines, reason);
    }

    /// Says that all sockets are its own from now on.
    pub(in crate::run) fn release(self) {
        drop(self.lines.send(RELEASED, &[]));
    }
}
