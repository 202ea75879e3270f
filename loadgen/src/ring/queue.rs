//! One ring: push, enter, reap.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use io_uring::{IoUring, squeue, types};
use rustix::event::{EventfdFlags, eventfd};

use super::{Features, memory::Addresses};

/// One io_uring with its eventfd and the addresses that its queued entries point to.
pub(super) struct Queue {
    ring: IoUring,
    /// Signalled by the kernel when the ring has something to reap or to run.
    wake: OwnedFd,
    /// Sockaddrs of entries that the kernel has not consumed yet.
    addresses: Addresses,
    /// `io_uring_enter` calls.
    pub(super) enters: u64,
}

impl Queue {
    /// Entries of the submission queue.
    pub(super) const SQ_ENTRIES: u32 = 512;
    /// Entries of the completion queue where deferred work runs in slices of ours.
    const CQ_ENTRIES: u32 = 4096;

    /// Sets up a ring for `slots` slots. Call it on the thread that will use it.
    pub(super) fn new(features: &Features, slots: u32) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        // Without deferred task work every parked client may complete at once behind our back.
        let cq_entries = if features.defer_taskrun {
            Self::CQ_ENTRIES
        } else {
            (2 * slots).next_power_of_two().clamp(Self::CQ_ENTRIES, 65_536)
        };
        builder.setup_cqsize(cq_entries).dontfork();
        if features.defer_taskrun {
            builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
        }
        let ring = builder.build(Self::SQ_ENTRIES)?;
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        ring.submitter().register_eventfd(wake.as_raw_fd())?;
        Ok(Self { ring, wake, addresses: Addresses::new(Self::SQ_ENTRIES as usize), enters: 0 })
    }

    /// Makes a table of `slots` empty direct descriptors.
    pub(super) fn register_slots(&self, slots: u32) -> io::Result<()> {
        self.ring.submitter().register_files_sparse(slots)
    }

    /// Puts these descriptors into the table from its front.
    pub(super) fn register_files(&self, fds: &[i32]) -> io::Result<()> {
        self.ring.submitter().register_files(fds)
    }

    /// What the ring signals.
    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Free entries of the submission queue.
    pub(super) fn room(&mut self) -> usize {
        let queue = self.ring.submission();
        queue.capacity() - queue.len()
    }

    /// True when entries wait to be submitted.
    pub(super) fn has_queued(&mut self) -> bool {
        !self.ring.submission().is_empty()
    }

    /// A stable place for a sockaddr until the entry that points to it is consumed; none when
    /// the places are used up, then submit first.
    pub(super) fn address(&mut self, address: std::net::SocketAddr) -> Option<(*const libc::sockaddr, u32)> {
        self.addresses.keep(address)
    }

    /// Queues an entry. Panics without [`Self::room`].
    ///
    /// # Safety
    /// Whatever memory the entry points to must stay valid and, for receives, unused until its
    /// completion has been reaped (sockaddrs and option values: until it has been submitted).
    pub(super) unsafe fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: the caller vouches for the entry's memory.
        unsafe { self.ring.submission().push(entry) }.expect("caller made room");
    }

    /// Submits what is queued, runs deferred work, waits for one completion up to `wait`.
    /// Ending early because of a signal is no error.
    pub(super) fn enter(&mut self, wait: Duration) -> io::Result<()> {
        self.enters += 1;
        let result = if wait.is_zero() {
            self.ring.submit()
        } else {
            let timeout = types::Timespec::from(wait);
            self.ring.submitter().submit_with_args(1, &types::SubmitArgs::new().timespec(&timeout))
        };
        match result {
            Ok(_) => {}
            Err(error) => match error.raw_os_error() {
                // ETIME: nothing happened. EINTR: a signal. EAGAIN and EBUSY: reap first.
                Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY) => {}
                _ => return Err(error),
            },
        }
        if self.ring.submission().is_empty() {
            self.addresses.clear();
        }
        Ok(())
    }

    /// True when there is something to reap or to run, without a system call.
    pub(super) fn is_ready(&mut self) -> bool {
        let completions = !self.ring.completion().is_empty();
        let queue = self.ring.submission();
        completions || queue.taskrun() || queue.cq_overflow()
    }

    /// True when [`Self::enter`] would find something to do without waiting.
    ///
    /// It may right after one: the kernel works off what it deferred in slices of 20. It does not
    /// signal what is left.
    pub(super) fn has_work(&mut self) -> bool {
        self.has_queued() || self.is_ready()
    }

    /// User-space bytes of the queues and the addresses.
    pub(super) fn user_bytes(&self) -> u64 {
        let params = self.ring.params();
        u64::from(params.sq_entries()) * (64 + 4)
            + u64::from(params.cq_entries()) * 16
            + self.addresses.bytes()
    }

    /// Calls `on_completion(user_data, result)` for what has completed.
    pub(super) fn reap(&mut self, mut on_completion: impl FnMut(u64, i32)) {
        for entry in self.ring.completion() {
            on_completion(entry.user_data(), entry.result());
        }
    }
}
