//! The processes under test, started inside the namespace.

use std::{
    fs::File,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process_group};

use super::sys::die_with_parent;

/// How long a process may take to end after SIGTERM, and then after SIGKILL: with millions of
/// sockets to close, the kernel needs its time.
const TERM_PATIENCE: Duration = Duration::from_secs(30);
const KILL_PATIENCE: Duration = Duration::from_secs(120);

/// A process that ends when this is dropped, or when the thread that started it does.
#[derive(Debug)]
pub struct Spawned {
    command: String,
    child: Child,
}

impl Spawned {
    /// Starts a command, which is split into words as a shell would (no shell runs: the process
    /// id is the command's own). Its output goes to `log`, else to our standard error.
    ///
    /// It leads a process group of its own: Ctrl-C on the terminal is for us alone, so that
    /// the report can be finished before the gateway goes.
    pub(super) fn start(command: &str, log: Option<&Path>) -> anyhow::Result<Self> {
        let output = || -> anyhow::Result<Stdio> {
            Ok(match log {
                None => Stdio::from(std::io::stderr()),
                Some(path) => File::options()
                    .create(true)
                    .append(true)
                    .open(path)
                    .with_context(|| format!("log file {}", path.display()))?
                    .into(),
            })
        };
        let words = shlex::split(command).filter(|words| !words.is_empty());
        let words = words.with_context(|| format!("--spawn {command:?}: empty, or a quote is not closed"))?;
        let mut process = Command::new(&words[0]);
        process.args(&words[1..]).stdin(Stdio::null()).stdout(output()?).stderr(output()?).process_group(0);
        die_with_parent(&mut process);
        let child = process.spawn().with_context(|| format!("starting {command:?}"))?;
        Ok(Self { command: command.to_owned(), child })
    }

    /// What was started.
    pub fn command(&self) -> &str {
        &self.command
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// If the kernel knows of no such child.
    pub fn ended(&mut self) -> anyhow::Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    fn signal(&self, signal: Signal) {
        // It leads its group, and has not been waited for: the number is still its own.
        let _ = kill_process_group(Pid::from_child(&self.child), signal);
    }

    fn wait_for(&mut self, patience: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + patience;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < end => thread::sleep(Duration::from_millis(20)),
                _ => return None,
            }
        }
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        self.signal(Signal::TERM);
        if self.wait_for(TERM_PATIENCE).is_some() {
            return;
        }
        eprintln!("{:?} has not ended {} s after SIGTERM: killing it", self.command, TERM_PATIENCE.as_secs());
        self.signal(Signal::KILL);
        match self.wait_for(KILL_PATIENCE) {
            Some(status) if status.signal().is_some() => {}
            Some(status) => eprintln!("{:?}: {status}", self.command),
            None => eprintln!("{:?} (process {}) does not end", self.command, self.pid()),
        }
    }
}
