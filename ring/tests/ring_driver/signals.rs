//! Whether a ring goes on signalling its eventfd, which decides whether a shard has several rings.

use std::{
    io::{Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use io_uring::{Builder, IoUring, opcode, types};
use roost_ring::{Features, FeaturesMax};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::{figures, rig::skip};

/// More than detection tries.
const ROUNDS: u32 = 8;
/// A signal that comes at all comes before the write that causes it has returned, or an RCU grace
/// period later.
const LIMIT: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

fn deferred() -> Builder {
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun().setup_submit_all();
    builder
}

struct Watched {
    ring: IoUring,
    signal: OwnedFd,
    watched: UnixStream,
    peer: UnixStream,
}

impl Watched {
    fn new(builder: &Builder) -> std::io::Result<Self> {
        let ring = builder.build(8)?;
        let signal = eventfd(0, EventfdFlags::CLOEXEC)?;
        ring.submitter().register_eventfd(signal.as_raw_fd())?;
        let (watched, peer) = UnixStream::pair()?;
        Ok(Self { ring, signal, watched, peer })
    }

    /// In how many of [`ROUNDS`] rounds a byte, which completes a poll, made the ring signal.
    fn signals(&mut self) -> u32 {
        (0..ROUNDS).map(|_| u32::from(self.round())).sum()
    }

    fn round(&mut self) -> bool {
        let park = opcode::PollAdd::new(types::Fd(self.watched.as_raw_fd()), libc::POLLIN as u32).build();
        // SAFETY: the entry refers to no memory, and the descriptor outlives the poll, which is
        // reaped below.
        unsafe { self.ring.submission().push(&park).expect("room") };
        self.ring.submit().expect("submitted");
        self.peer.write_all(&[0]).expect("written");
        let is_signalled = self.is_signalled(&LIMIT);
        self.ring.submit_and_wait(1).expect("a completion");
        assert_eq!(self.ring.completion().count(), 1);
        self.watched.read_exact(&mut [0]).expect("read");
        // Reaping may signal as well, and a signal of the last round must not count in the next.
        while self.is_signalled(&Timespec { tv_sec: 0, tv_nsec: 20_000_000 }) {
            rustix::io::read(&self.signal, &mut [0; 8]).expect("a count");
        }
        is_signalled
    }

    fn is_signalled(&self, limit: &Timespec) -> bool {
        poll(&mut [PollFd::new(&self.signal, PollFlags::IN)], Some(limit)).expect("polled") == 1
    }

    /// Takes the eventfd away and gives it back, as a new registration.
    fn register_anew(&mut self) {
        self.ring.submitter().unregister_eventfd().expect("unregistered");
        self.ring.submitter().register_eventfd(self.signal.as_raw_fd()).expect("registered");
    }
}

/// Observed for longer than detection does, and what a new registration changes: 6.12.118 signals
/// once for each.
#[test]
fn a_shard_has_several_rings_where_rings_go_on_signalling() {
    let kinds =
        [("base", FeaturesMax::Base, IoUring::builder()), ("deferred", FeaturesMax::Deferred, deferred())];
    for (tier, max, builder) in kinds {
        let Ok(mut watched) = Watched::new(&builder) else {
            skip("a_shard_has_several_rings_where_rings_go_on_signalling", "no DEFER_TASKRUN");
            continue;
        };
        let signals = watched.signals();
        watched.register_anew();
        let again = watched.signals();
        figures::figure(format_args!(
            "signals tier={tier} rounds={ROUNDS} signalled={signals} registered_anew_rounds={ROUNDS} \
             registered_anew_signalled={again}"
        ));
        let features = Features::detect(max).expect("io_uring");
        assert_eq!(features.banks(), signals == ROUNDS && again == ROUNDS, "{tier}: {signals}, {again}");
    }
}
