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
use crate::say;

/// How long a process may take to end after SIGTERM. A gateway would drain for longer, but its
/// clients are gone with the devices: there is nobody left to drain for.
const TERM_PATIENCE: Duration = Duration::from_secs(5);
/// And then after SIGKILL: with millions of sockets to close, the kernel needs its time.
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
        let after_s = TERM_PATIENCE.as_secs();
        say::note(format_args!("{:?} is still draining {after_s} s after SIGTERM: killed", self.command));
        self.signal(Signal::KILL);
        match self.wait_for(KILL_PATIENCE) {
            Some(status) if status.signal().is_some() => {}
            Some(status) => say::note(format_args!("{:?}: {status}", self.command)),
            None => {
                say::note(format_args!("{:?} (process {}) does not end", self.command, self.pid()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Its state by /proc, without waiting for it.
    fn is_running(pid: u32) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        !matches!(state, None | Some('Z' | 'X'))
    }

    fn wait_until_gone(pid: u32) {
        let end = Instant::now() + Duration::from_secs(60);
        while is_running(pid) {
            assert!(Instant::now() < end, "process {pid} is still there");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_process_ends_when_it_is_dropped() {
        let spawned = Spawned::start("sleep 600", None).unwrap();
        let pid = spawned.pid();
        assert!(is_running(pid));
        drop(spawned);
        wait_until_gone(pid);
    }

    #[test]
    fn a_process_ends_with_the_thread_that_started_it() {
        let start = || {
            let mut spawned = Spawned::start("sleep 600", None).unwrap();
            let pid = spawned.pid();
            assert!(spawned.ended().unwrap().is_none());
            // As if the generator had been killed: no destructor runs.
            std::mem::forget(spawned);
            pid
        };
        let pid = thread::spawn(start).join().unwrap();
        wait_until_gone(pid);
    }

    #[test]
    fn words_are_split_as_a_shell_would_and_output_goes_to_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("out.log");
        let mut spawned = Spawned::start("sh -c 'echo one  two; echo three >&2'", Some(&log)).unwrap();
        assert!(spawned.wait_for(Duration::from_secs(60)).unwrap().success());
        assert_eq!(fs::read_to_string(&log).unwrap(), "one two\nthree\n");
        assert!(Spawned::start("sh -c 'echo", None).unwrap_err().to_string().contains("quote"));
        assert!(Spawned::start("", None).is_err());
        assert!(Spawned::start("/nonexistent/program", None).is_err());
    }
}
