//! The user's command that restarts the gateway, run beside the clients.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, ensure};
use rustix::fs::{MemfdFlags, memfd_create};

/// A command under way.
#[derive(Debug)]
pub struct Restart {
    child: Child,
    /// A file, not a pipe: a gateway that the command leaves behind may keep it open for good.
    output: File,
}

impl Restart {
    /// Runs a command by `sh -c`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn begin(command: &str) -> anyhow::Result<Self> {
        let output = File::from(memfd_create("restart-command", MemfdFlags::CLOEXEC)?);
        let child = Command::new("sh")
            .args(["-c", command])
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .spawn()
            .context("--restart-command")?;
        Ok(Self { child, output })
    }

    /// Once the command has ended: the number in its last line of output, if it is one.
    ///
    /// # Errors
    /// When it has failed.
    pub fn ended(&mut self) -> anyhow::Result<Option<Option<u32>>> {
        let Some(status) = self.child.try_wait()? else { return Ok(None) };
        ensure!(status.success(), "--restart-command failed: {status}");
        let mut text = vec![0; self.output.metadata()?.len() as usize];
        self.output.read_exact_at(&mut text, 0)?;
        let text = String::from_utf8_lossy(&text);
        Ok(Some(text.lines().last().and_then(|line| line.trim().parse().ok())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(command: &str) -> anyhow::Result<Option<u32>> {
        let mut restart = Restart::begin(command)?;
        loop {
            if let Some(pid) = restart.ended()? {
                return Ok(pid);
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    #[test]
    fn the_last_line_tells_the_process() {
        assert_eq!(run("echo restarting; echo 4711").unwrap(), Some(4711));
        assert_eq!(run("echo done").unwrap(), None);
        assert_eq!(run("true").unwrap(), None);
        assert!(run("exit 3").unwrap_err().to_string().contains("--restart-command failed"));
    }

    #[test]
    fn a_child_that_keeps_the_output_open_is_not_waited_for() {
        let pid = run("sleep 600 & echo $!").unwrap().unwrap();
        let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
        // It still runs: waiting for the end of its output would have waited for it.
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
}
