//! Refusals: each says in one line what is wrong and what to do about it.

use std::{fs, io};

/// Why there is no driver. No variant has a `source`: the kernel's reply is part of its own line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel or a policy refuses io_uring as such.
    #[error("io_uring is not available: {cause}; {remedy} ({reply})")]
    Refused {
        /// What refuses it.
        cause: &'static str,
        /// What to do.
        remedy: &'static str,
        /// What io_uring_setup(2) said.
        reply: io::Error,
    },
    /// io_uring is there, but lacks something that every tier needs.
    #[error(
        "this kernel's io_uring lacks {feature}, which is needed to {why}: \
         run Linux 5.10.162 or newer (or a 5.15 or newer series)"
    )]
    Missing {
        /// The missing feature, by its name in the kernel's headers.
        feature: &'static str,
        /// What it is for.
        why: &'static str,
    },
    /// `--features-max none`.
    #[error("io_uring is masked by --features-max none: choose base, deferred or direct")]
    Masked,
    /// The table of direct descriptors is larger than the limit on open files.
    #[error(
        "a ring's table of {slots} slots exceeds RLIMIT_NOFILE ({nofile}): raise the soft limit \
         (ulimit -n) or lower --ring-slots-max"
    )]
    FileTable {
        /// Slots of one ring.
        slots: u32,
        /// The soft limit.
        nofile: u64,
    },
    /// A system call of the set-up failed for another reason.
    #[error("cannot {action}: {reply}{}", hint(reply))]
    System {
        /// What was attempted.
        action: &'static str,
        /// What the kernel said.
        reply: io::Error,
    },
}

impl Error {
    /// Explains why a ring could not be made: what io_uring_setup(2) or another call of the set-up
    /// replied, and what `kernel.io_uring_disabled` says now.
    pub fn refused(reply: io::Error) -> Self {
        let sysctl = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
        explain(reply, sysctl.as_deref().map(str::trim))
    }

    /// Whether the kernel had no memory, or none that this user may lock.
    pub(super) fn is_out_of_memory(&self) -> bool {
        let (Self::Refused { reply, .. } | Self::System { reply, .. }) = self else { return false };
        reply.raw_os_error() == Some(libc::ENOMEM)
    }

    /// For use in `map_err`.
    pub(super) fn system<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> Self {
        move |error| Self::System { action, reply: error.into() }
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Refused { reply, .. } | Error::System { reply, .. } => reply.kind(),
            Error::FileTable { .. } => io::ErrorKind::QuotaExceeded,
            Error::Missing { .. } | Error::Masked => io::ErrorKind::Unsupported,
        };
        io::Error::new(kind, error)
    }
}

/// What io_uring_setup(2) meant, given the text of `kernel.io_uring_disabled` (kernel.org,
/// admin-guide/sysctl/kernel; absent before 6.6 except where backported).
fn explain(reply: io::Error, disabled: Option<&str>) -> Error {
    let (cause, remedy) = match (reply.raw_os_error(), disabled) {
        (Some(libc::EPERM), Some("2")) => (
            "kernel.io_uring_disabled is 2",
            "set it to 0 with sysctl, or to 1 and run in the group kernel.io_uring_group names",
        ),
        (Some(libc::EPERM), Some("1")) => (
            "kernel.io_uring_disabled is 1 and this process is neither privileged nor in \
             kernel.io_uring_group",
            "join that group, or set the sysctl to 0",
        ),
        (Some(libc::EPERM | libc::EACCES), _) => (
            "a seccomp filter or security module refuses it, as container engines do by default",
            "allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp \
             profile",
        ),
        (Some(libc::ENOSYS), _) => (
            "the kernel was built without io_uring, or a seccomp filter hides it",
            "run Linux 5.10.162 or newer with CONFIG_IO_URING, or allow io_uring in the seccomp profile",
        ),
        (Some(libc::ENOMEM), _) => (
            "no memory for a ring (many kernels count rings of unprivileged users against RLIMIT_MEMLOCK, all \
             processes of a user together)",
            "raise the memlock limit (ulimit -l, LimitMEMLOCK=infinity, docker's --ulimit memlock=-1) or free \
             memory",
        ),
        (Some(libc::EMFILE | libc::ENFILE), _) => {
            ("no file descriptor is left for a ring", "raise RLIMIT_NOFILE (ulimit -n) or fs.file-max")
        }
        _ => ("io_uring_setup failed", "check the kernel's version and limits"),
    };
    Error::Refused { cause, remedy, reply }
}

/// The remedy for limits that any step of the set-up can run into.
fn hint(reply: &io::Error) -> &'static str {
    match reply.raw_os_error() {
        Some(libc::EMFILE) => "; raise RLIMIT_NOFILE (ulimit -n)",
        Some(libc::ENFILE) => "; raise fs.file-max",
        Some(libc::ENOMEM) => "; free memory, or raise the memory or memlock limit",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(errno: i32, disabled: Option<&str>) -> String {
        explain(io::Error::from_raw_os_error(errno), disabled).to_string()
    }

    /// Whoever prints an error with its causes would print the kernel's reply twice.
    #[test]
    fn the_reply_of_the_kernel_is_said_once() {
        let reply = || io::Error::from_raw_os_error(libc::EPERM);
        for error in [explain(reply(), None), Error::system("try")(reply())] {
            let line = format!("{:#}", anyhow::Error::new(error));
            assert_eq!(line.matches("os error 1").count(), 1, "{line}");
        }
    }

    #[test]
    fn every_refusal_is_one_line_with_its_own_cause_and_a_remedy() {
        let cases = [
            (libc::EPERM, Some("2"), "io_uring_disabled is 2"),
            (libc::EPERM, Some("1"), "io_uring_group"),
            (libc::EPERM, Some("0"), "seccomp"),
            (libc::EPERM, None, "seccomp"),
            (libc::ENOSYS, None, "CONFIG_IO_URING"),
            (libc::ENOMEM, None, "memlock"),
            (libc::EMFILE, None, "RLIMIT_NOFILE"),
        ];
        for (errno, disabled, needle) in cases {
            let line = line(errno, disabled);
            assert!(line.contains(needle), "{line}");
            assert!(!line.contains('\n') && !line.contains("  "), "{line}");
        }
    }
}
