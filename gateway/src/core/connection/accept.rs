//! Clients come in: one-shot accepts into slots of our choice, never more than free slots.

use std::net::SocketAddr;

use roost_protocol::Reason;

use super::{Connections, Upstream, kind, lifecycle::State, record::flag, rounds::Rounds};
use crate::{
    core::{
        context::Context,
        index::Slot,
        limits::{Admission, Ramp},
        stats::Stat,
    },
    op::{Io, Op, Peer, Sock, Token, errno},
};

/// How long accepting pauses when the system is out of descriptors or memory.
const PAUSE_MS: u64 = 200;

/// What is armed where.
#[derive(Debug)]
pub(super) struct Accepting {
    /// Per listener. An armed accept has a slot in state Accepting: it or its cancel is in the kernel.
    rounds: Vec<Rounds>,
    /// Where the last accept was armed.
    last_listener: u16,
    /// The ring that accepts now.
    ring: u32,
    slots_started: u32,
    wants_slots: bool,
    /// No accept is armed before this time.
    paused_until_ms: u64,
    ramp: Ramp,
    /// The ramp holds accepting back until then.
    ramp_until_ms: u64,
    /// Accepting has not begun.
    held: bool,
    /// Accepting has ended for good.
    stopped: bool,
}

impl Accepting {
    pub(super) fn new(listeners: usize, ramp_per_s: u32, at_start: bool) -> Self {
        Self {
            rounds: vec![Rounds::default(); listeners],
            last_listener: 0,
            ring: 0,
            slots_started: 0,
            wants_slots: false,
            paused_until_ms: 0,
            ramp: Ramp::new(ramp_per_s),
            ramp_until_ms: 0,
            held: !at_start,
            stopped: false,
        }
    }

    fn set_ramp(&mut self, per_s: u32) {
        if per_s != self.ramp.per_s() {
            self.ramp = Ramp::new(per_s);
            self.ramp_until_ms = 0;
        }
    }

    /// Whether no accept may be armed, and no listener looked at: the driver may have closed them.
    fn is_closed(&self) -> bool {
        self.held || self.stopped
    }

    /// Accepts in the kernel.
    fn armed_total(&self) -> u32 {
        self.rounds.iter().map(Rounds::armed).sum()
    }

    /// The listener with the fewest accepts of those that want more, the next in turn among equals.
    fn neediest(&self) -> Option<u16> {
        if let [rounds] = &self.rounds[..] {
            return (rounds.due() > 0).then_some(0);
        }
        let listeners = self.rounds.len();
        let in_turn = |i: &usize| (i + listeners - 1 - usize::from(self.last_listener)) % listeners;
        let wants = |i: &usize| self.rounds[*i].due() > 0;
        let listener = (0..listeners).filter(wants).min_by_key(|i| (self.rounds[*i].armed(), in_turn(i)))?;
        Some(listener as u16)
    }

    /// Listeners whose queues are being looked at.
    fn looks(&self) -> u32 {
        self.rounds.iter().filter(|rounds| rounds.is_looking()).count() as u32
    }

    /// Leaves clients in the backlog for a while.
    fn pause(&mut self, now_ms: u64) {
        self.paused_until_ms = now_ms + PAUSE_MS;
    }

    /// When accepting goes on, if it is paused or rests between two rounds.
    pub(super) fn resumes_at_ms(&self, now_ms: u64) -> Option<u64> {
        let pause_ms = self.paused_until_ms.max(self.ramp_until_ms);
        let at_ms = match pause_ms > now_ms {
            true => Some(pause_ms),
            false => self.rounds.iter().filter_map(Rounds::rests_until_ms).min(),
        };
        at_ms.filter(|&at_ms| at_ms > now_ms && !self.is_closed())
    }
}

impl Connections {
    /// Arms the accepts that are wanted now, in slots of one ring after the other.
    pub(crate) fn fill_accepts(&mut self, io: &mut impl Io, ctx: &Context) {
        if self.accepting.is_closed() {
            return;
        }
        for (listener, rounds) in (0..).zip(&mut self.accepting.rounds) {
            if !ctx.cfg.counts_waiting || rounds.is_blind() {
                rounds.begin(ctx.now_ms, None, ctx.cfg.accepts_max);
            } else if rounds.may_look(ctx.now_ms) {
                rounds.look();
                io.submit(count_token(listener), Op::CountWaiting { listener });
            }
        }
        self.arm_accepts(io, ctx);
    }

    /// So many clients wait on a listener: a round begins.
    pub(super) fn on_waiting_counted(&mut self, ctx: &Context, listener: u32, result: i32) {
        // Other shards see the same queue; whatever one of them leaves is there in the next round.
        let share = |waiting: u32| waiting.div_ceil(u32::from(ctx.cfg.shards));
        let waiting = u32::try_from(result).ok().map(share);
        self.accepting.rounds[listener as usize].begin(ctx.now_ms, waiting, ctx.cfg.accepts_max);
    }

    /// The looks at listeners' queues that are under way.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn counts_in_kernel(&self) -> impl Iterator<Item = Token> {
        let looks = (0..).zip(&self.accepting.rounds).filter(|(_, rounds)| rounds.is_looking());
        looks.map(|(listener, _)| count_token(listener))
    }

    /// Arms one more accept per listener; each looks at the queue first.
    pub(crate) fn look_again(&mut self, io: &mut impl Io, ctx: &Context) {
        self.accepting.rounds.iter_mut().for_each(Rounds::look_again);
        self.arm_accepts(io, ctx);
    }

    /// Arms what is due.
    fn arm_accepts(&mut self, io: &mut impl Io, ctx: &Context) {
        if self.accepting.is_closed() || ctx.now_ms < self.accepting.paused_until_ms {
            return;
        }
        // The listener with the fewest first: none starves while another's accepts take the slots.
        let mut next = self.accepting.neediest();
        if next.is_none() {
            return;
        }
        let looks = self.accepting.looks();
        while let Some(listener) = next {
            // Nor while it is not yet known how many wait there: a slot is kept for each such listener.
            if looks > 0 && self.accepting.slots_started - self.table.live() <= looks {
                return;
            }
            let Some(ring) = self.accepting_ring() else { return };
            // The ramp spares workers, and whoever comes in a drain is only told to go.
            if !self.drain.has_begun() && !self.accepting.ramp.take(ctx.now_ms) {
                self.accepting.ramp_until_ms = self.accepting.ramp.next_ms();
                return;
            }
            let slot = self.table.alloc(ring).expect("the ring has a free slot");
            self.set_state(ctx, slot, State::Accepting);
            self.table.cold_mut(slot).set_listener(listener);
            let expected = self.accepting.rounds[usize::from(listener)].arm();
            self.accepting.last_listener = listener;
            let op = Op::Accept { slot: slot.get(), listener, expected };
            self.submit(io, slot, kind::ACCEPT, op);
            next = self.accepting.neediest();
        }
    }

    /// The ring whose slots are taken now, if there is a free one.
    fn accepting_ring(&mut self) -> Option<u32> {
        let accepting = &mut self.accepting;
        let rings_started = self.table.ring_of(accepting.slots_started - 1) + 1;
        if self.table.free_in(accepting.ring) == 0 {
            // Lowest first, so that the table stays dense and late rings are not started early.
            match (0..rings_started).find(|&ring| self.table.free_in(ring) > 0) {
                Some(ring) => accepting.ring = ring,
                None => {
                    accepting.wants_slots = true;
                    return None;
                }
            }
        }
        accepting.wants_slots = false;
        Some(accepting.ring)
    }

    pub(super) fn on_accept(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        up: &mut impl Upstream,
        slot: Slot,
        (result, peer): (i32, Peer),
    ) {
        let listener = self.table.cold(slot).listener();
        if result < 0 {
            match -result {
                errno::ECANCELED => {}
                errno::ECONNABORTED | errno::EAGAIN | errno::EINTR => {}
                _ => {
                    // Out of descriptors or memory: the backlog keeps the clients meanwhile.
                    ctx.stats.inc(Stat::AcceptErrors);
                    self.accepting.pause(ctx.now_ms);
                }
            }
            if self.hot(slot).ops() == 0 {
                self.release_accept(slot);
            }
            return;
        }
        self.accepting.rounds[usize::from(listener)].ended();
        ctx.stats.inc(Stat::Accepts);
        ctx.stats.inc(Stat::Connections);
        self.set_state(ctx, slot, State::Handshaking);
        self.hear_first(ctx, slot);
        let peer = peer.address();
        if let Some(peer) = peer {
            self.table.keep_peer(slot, peer);
        }
        if ctx.cfg.cap.as_ref().is_some_and(|cap| !cap.take()) {
            return self.refuse(io, ctx, up, slot, Reason::Full);
        }
        if self.drain.has_begun() {
            // Whoever comes now, or was let in by an accept that was being cancelled, must be told.
            return self.refuse(io, ctx, up, slot, Reason::Drain);
        }
        if ctx.cfg.listeners[usize::from(listener)].proxy {
            if !trusts_proxy(ctx, peer) {
                return self.refuse(io, ctx, up, slot, Reason::ProxyHeader);
            }
            self.set_flag(slot, flag::PROXY);
        } else if !self.admit_address(io, ctx, up, slot) {
            return;
        }
        // Most clients send HELLO at once: a receive now saves the poll.
        self.read(io, ctx, up, slot);
    }

    /// Counts the connection for its address. Returns false if that closed it.
    pub(super) fn admit_address(
        &mut self,
        io: &mut impl Io,
        ctx: &mut Context,
        up: &mut impl Upstream,
        slot: Slot,
    ) -> bool {
        let Some(per_ip) = ctx.cfg.per_ip.clone() else { return true };
        let Some(peer) = self.table.peer(slot) else { return true };
        match per_ip.admit(peer.ip()) {
            Admission::Counted(cell) => self.table.cold_mut(slot).set_ip_cell(cell),
            Admission::Untracked => ctx.stats.inc(Stat::PerIpUntracked),
            Admission::Exempt => {}
            Admission::Refused => {
                self.refuse(io, ctx, up, slot, Reason::PerIpLimit);
                return false;
            }
        }
        true
    }

    /// An accept, and its cancel if there was one, has ended without a client.
    pub(super) fn release_accept(&mut self, slot: Slot) {
        let listener = self.table.cold(slot).listener();
        self.accepting.rounds[usize::from(listener)].ended();
        self.table.free(slot);
    }
    /// Says how many slots the driver has started; see [`Self::wants_slots`].
    pub(crate) fn set_slots_started(&mut self, ctx: &Context, slots_started: u32) {
        self.accepting.slots_started = slots_started;
        ctx.stats.set(Stat::SlotsStarted, u64::from(slots_started));
    }

    /// Whether all started slots are in use and more may be started.
    pub(crate) fn wants_slots(&self, ctx: &Context) -> bool {
        let pauses = self.accepting.resumes_at_ms(ctx.now_ms).is_some();
        self.accepting.wants_slots && !pauses && self.accepting.slots_started < self.table.slots()
    }

    /// More slots could not be started; it is tried again after a pause.
    pub(crate) fn on_slots_refused(&mut self, ctx: &Context) {
        ctx.stats.inc(Stat::AcceptErrors);
        self.accepting.pause(ctx.now_ms);
    }

    /// Begins to accept, where that was held back.
    pub(crate) fn start_accepting(&mut self) {
        self.accepting.held = false;
    }

    /// Stops accepting for good, and cancels the accepts in the kernel.
    pub(crate) fn stop_accepting(&mut self, io: &mut impl Io) {
        if std::mem::replace(&mut self.accepting.stopped, true) {
            return;
        }
        self.accepting.wants_slots = false;
        for slot in Slot::range(0, self.table.high_water()) {
            if self.hot(slot).state() == State::Accepting {
                // A cancel that loses leaves its bit until it completes; `join` ignores it then.
                let target = self.token(kind::ACCEPT, slot);
                let op = Op::Cancel { sock: Sock::Client(slot.get()), target };
                self.submit(io, slot, kind::CANCEL, op);
            }
        }
    }

    /// Accepts that are still in the kernel: when 0, the listeners can be closed or handed over.
    pub(crate) fn accepts_armed(&self) -> u32 {
        self.accepting.armed_total()
    }

    /// Connections that are not free, armed accepts not counted.
    pub(crate) fn count(&self) -> u32 {
        self.table.live() - self.accepting.armed_total()
    }

    /// Takes another ramp over.
    pub(crate) fn set_accept_ramp(&mut self, per_s: u32) {
        self.accepting.set_ramp(per_s);
    }
}

/// The token of a look at a listener's queue: there is one at a time.
const fn count_token(listener: u16) -> Token {
    Token::new(kind::COUNT_WAITING, listener as u32, 0)
}

/// Whether whoever comes from there is believed to speak for others.
fn trusts_proxy(ctx: &Context, peer: Option<SocketAddr>) -> bool {
    peer.is_some_and(|peer| {
        let ip = peer.ip().to_canonical();
        ctx.cfg.proxy_trusted.iter().any(|net| net.contains(&ip))
    })
}
