//! One ring: set-up, submission, waiting, reaping.

use std::{
    collections::VecDeque,
    io,
    sync::atomic::{Ordering, fence},
    thread,
    time::Duration,
};

use io_uring::{
    EnterFlags, IoUring, cqueue, squeue,
    types::{SubmitArgs, Timespec},
};

use super::{error::Error, features::Features, trial};

/// Sizes of a ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// Submission queue entries; more ops than that cost another system call, nothing else.
    pub(super) sq_entries: u32,
    /// Completion queue entries. The kernel keeps what does not fit (IORING_FEAT_NODROP).
    pub(super) cq_entries: u32,
    /// Direct descriptors; 0 for no table.
    pub(super) files: u32,
}

/// A ring that is closed gives its memory back a moment later: how long that may take.
const GIVES_BACK_WITHIN: Duration = Duration::from_millis(400);
pub(super) const PAUSE: Duration = Duration::from_millis(20);

/// One io_uring and what is queued for it.
pub(super) struct Ring {
    uring: IoUring,
    /// Entries that found the submission queue full and the kernel unwilling. Empty but for
    /// moments of memory pressure or of a completion queue that overflowed.
    backlog: VecDeque<Waiting>,
    /// NO_IOWAIT where there is (6.15): a gateway that waits for clients is idle, and should not
    /// show as waiting for a disk.
    wait_flags: EnterFlags,
    counts: Counts,
}

/// What a ring has seen; only grows.
#[derive(Clone, Copy, Default)]
pub(super) struct Counts {
    /// Calls of io_uring_enter(2).
    pub(super) enters: u64,
    /// Times that entries found the submission queue full.
    pub(super) full: u64,
    /// Submits before which completions waited in the kernel for room in the completion queue.
    pub(super) overflows: u64,
}

/// An entry that waits for the submission queue.
struct Waiting {
    entry: squeue::Entry,
    /// How many entries, itself and those behind it, have to reach the kernel in one call.
    together: usize,
}

impl Ring {
    /// Sets up a ring. With deferred work it belongs to the calling thread from now on.
    pub(super) fn start(features: &Features, sizes: Sizes) -> Result<Self, Error> {
        let mut builder = if features.deferred() { trial::deferred_builder() } else { IoUring::builder() };
        // A forked child must not share the queues.
        builder.setup_clamp().setup_cqsize(sizes.cq_entries.max(sizes.sq_entries)).dontfork();
        let uring = builder.build(sizes.sq_entries).map_err(Error::refused)?;
        if sizes.files > 0 {
            uring.submitter().register_files_sparse(sizes.files).map_err(|reply| {
                match (reply.raw_os_error(), nofile()) {
                    (Some(libc::EMFILE), Some(nofile)) if u64::from(sizes.files) > nofile => {
                        Error::FileTable { slots: sizes.files, nofile }
                    }
                    _ => Error::System { action: "register a table of direct descriptors", reply },
                }
            })?;
        }
        let wait_flags = match uring.params().is_feature_no_iowait() {
            true => EnterFlags::NO_IOWAIT,
            false => EnterFlags::empty(),
        };
        Ok(Self { uring, backlog: VecDeque::new(), wait_flags, counts: Counts::default() })
    }

    /// As [`Self::start`]; for want of memory again and again for a moment, in which rings that have been
    /// closed may give theirs back.
    pub(super) fn start_patiently(features: &Features, sizes: Sizes) -> Result<Self, Error> {
        let mut left = GIVES_BACK_WITHIN;
        loop {
            match Self::start(features, sizes) {
                Err(error) if error.is_out_of_memory() && !left.is_zero() => {
                    thread::sleep(PAUSE);
                    left = left.saturating_sub(PAUSE);
                }
                result => return result,
            }
        }
    }

    /// Has the kernel signal `eventfd` when this ring has something to reap.
    pub(super) fn register_eventfd(&self, eventfd: i32) -> Result<(), Error> {
        self.uring
            .submitter()
            .register_eventfd(eventfd)
            .map_err(Error::system("register an eventfd with a ring"))
    }

    /// Whether completions signal the registered eventfd.
    ///
    /// After switching it on look with [`Self::has_more`]: what came before signalled nobody.
    pub(super) fn set_signals(&mut self, on: bool) {
        let queue = self.uring.completion();
        if on {
            queue.enable_eventfd();
            // The kernel notes deferred work, then looks at the switch; we switch, then look for
            // work. With a full barrier between, one of the two sees the other.
            fence(Ordering::SeqCst);
        } else {
            queue.disable_eventfd();
        }
    }

    /// Queues an entry; submits first if the queue is full.
    ///
    /// # Safety
    /// Memory that the entry refers to stays valid, and unaliased as the op requires, until its
    /// completion has been reaped.
    // Inlined, an entry is written where it belongs instead of being copied there.
    #[inline(always)]
    pub(super) unsafe fn push(&mut self, entry: squeue::Entry) {
        if !self.backlog.is_empty() || self.uring.submission().is_full() {
            self.make_room();
        }
        // SAFETY: passed on to the caller.
        if !self.backlog.is_empty() || unsafe { self.uring.submission().push(&entry) }.is_err() {
            self.backlog.push_back(Waiting { entry, together: 1 });
        }
    }

    /// Queues entries of which each is linked to the next (IOSQE_IO_LINK), at most as many as the
    /// submission queue has. A chain ends with the call that submits it, so they stay together.
    ///
    /// # Safety
    /// As [`Self::push`], for each.
    pub(super) unsafe fn push_linked(&mut self, entries: &[squeue::Entry]) {
        if !self.backlog.is_empty() || self.room() < entries.len() {
            self.make_room();
        }
        // SAFETY: passed on to the caller.
        if self.backlog.is_empty() && unsafe { self.uring.submission().push_multiple(entries) }.is_ok() {
            return;
        }
        let together = (1..=entries.len()).rev();
        let waiting = entries.iter().cloned().zip(together);
        self.backlog.extend(waiting.map(|(entry, together)| Waiting { entry, together }));
    }

    /// Entries that the submission queue has room for.
    fn room(&mut self) -> usize {
        let queue = self.uring.submission();
        queue.capacity() - queue.len()
    }

    #[cold]
    fn make_room(&mut self) {
        self.counts.full += 1;
        // Errors show again, and are dealt with, when the turn submits.
        let _ = self.submit();
    }

    /// Submits what is queued and has the kernel run what it deferred. No system call if there is
    /// neither.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        loop {
            self.refill();
            let queue = self.uring.submission();
            let queued = queue.len();
            if queued == 0 && !queue.taskrun() && !queue.cq_overflow() {
                return Ok(());
            }
            self.counts.overflows += u64::from(queue.cq_overflow());
            drop(queue);
            self.counts.enters += 1;
            let submitted = tolerate(self.uring.submit())?;
            // Without SUBMIT_ALL the kernel stops behind an entry that fails: go on after it.
            // No progress is left for the next turn, which reaps first.
            if submitted == 0 || self.unsubmitted() == 0 {
                return Ok(());
            }
        }
    }

    /// Like [`Self::submit`], and waits until there are so many completions, at most for `timeout`.
    /// False if the time ran out; there may be fewer then.
    pub(super) fn wait(&mut self, completions: usize, timeout: Duration) -> io::Result<bool> {
        self.refill();
        if !self.backlog.is_empty() {
            return self.submit().map(|()| true);
        }
        self.counts.enters += 1;
        let timeout = Timespec::from(timeout);
        let args = SubmitArgs::new().timespec(&timeout);
        match self.uring.submitter().submit_with_args_and_flags(completions, &args, self.wait_flags) {
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => Ok(false),
            result => tolerate(result).map(|_| true),
        }
    }

    /// Takes up to `room` completions and returns how many there were.
    pub(super) fn reap(&mut self, room: usize, mut take: impl FnMut(&cqueue::Entry)) -> usize {
        let mut reaped = 0;
        for entry in self.uring.completion().take(room) {
            take(&entry);
            reaped += 1;
        }
        reaped
    }

    /// Whether [`Self::reap`] would find something now.
    pub(super) fn has_completions(&mut self) -> bool {
        !self.uring.completion().is_empty()
    }

    /// Whether [`Self::reap`] would find something now, or after [`Self::submit`].
    pub(super) fn has_more(&mut self) -> bool {
        if self.has_completions() {
            return true;
        }
        let queue = self.uring.submission();
        queue.taskrun() || queue.cq_overflow()
    }

    /// Entries that the kernel has not taken yet.
    pub(super) fn unsubmitted(&mut self) -> usize {
        self.uring.submission().len() + self.backlog.len()
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Bytes that are shared with the kernel.
    pub(super) fn queue_bytes(&self) -> u64 {
        // An entry of each queue, and the index of one (io_uring(7)).
        let params = self.uring.params();
        u64::from(params.sq_entries()) * (64 + 4) + u64::from(params.cq_entries()) * 16
    }

    fn refill(&mut self) {
        if self.backlog.is_empty() {
            return;
        }
        let mut queue = self.uring.submission();
        while let Some(Waiting { entry, together }) = self.backlog.front() {
            let has_room = queue.capacity() - queue.len() >= *together;
            // SAFETY: whoever called `push` with this entry promised it.
            if !has_room || unsafe { queue.push(entry) }.is_err() {
                break;
            }
            self.backlog.pop_front();
        }
    }
}

/// Results of io_uring_enter(2) that pass by themselves count as no progress: a signal, no memory
/// for requests right now, a completion queue to be reaped first.
fn tolerate(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(error)
            if matches!(
                error.raw_os_error(),
                Some(libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ENOMEM)
            ) =>
        {
            Ok(0)
        }
        result => result,
    }
}

/// The soft limit on open files, if there is one.
pub(super) fn nofile() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}
