//! Sockets come and go: accept, connect, close, cancel.

use super::{Dial, EBADF, Endpoint, Event, InFlight, Phase, World, sock_of};
use crate::{
    op::{LinkAddress, Op, Sock, Token, errno},
    sim::net::ConnId,
};

impl World {
    /// Hands clients of the backlogs to armed accepts.
    pub(super) fn serve_accepts(&mut self) {
        for listener in 0..self.backlogs.len() {
            loop {
                let armed: Vec<(u64, u32)> = self
                    .ops
                    .iter()
                    .filter_map(|(&serial, op)| match op.op {
                        Op::Accept { slot, listener: on, .. } if usize::from(on) == listener => {
                            (op.phase == Phase::Armed).then_some((serial, slot))
                        }
                        _ => None,
                    })
                    .collect();
                if armed.is_empty() || self.backlogs[listener].is_empty() {
                    break;
                }
                let (serial, slot) = armed[self.rng.index(armed.len())];
                if self.roll(self.faults.accept_error, "accept error") {
                    let error = self.rng.pick(&[
                        errno::ENFILE,
                        errno::EMFILE,
                        errno::ENOMEM,
                        errno::ENOBUFS,
                        errno::ECONNABORTED,
                        errno::EINTR,
                    ]);
                    // A client that aborted is gone; a failure may come after it was taken.
                    if self.roll(self.faults.accept_drops, "accept drop") {
                        let dropped = self.backlogs[listener].pop_front().expect("not empty");
                        self.net.release(dropped);
                    }
                    self.end(serial, -error);
                    continue;
                }
                let conn = self.backlogs[listener].pop_front().expect("not empty");
                self.install(slot, conn);
                self.end(serial, 0);
            }
        }
    }

    /// The shard has closed its listeners: whoever waits in a backlog is cut off, and whoever comes is
    /// refused.
    pub(in crate::sim) fn close_listeners(&mut self) {
        if self.ops.values().any(|op| matches!(op.op, Op::Accept { .. })) {
            self.violation("invariant join-before-close: a listener is closed under an accept".to_owned());
        }
        self.listening = false;
        for conn in std::mem::take(&mut self.backlogs).into_iter().flatten() {
            self.net.release(conn);
            self.refused.insert(conn);
        }
    }

    /// How many clients a backlog holds; when others look, too, some of them may be gone by the time
    /// that an accept comes, or more have come.
    pub(super) fn count_waiting(&mut self, listener: u16) -> i32 {
        let Some(backlog) = self.backlogs.get(usize::from(listener)) else { return -errno::EOPNOTSUPP };
        let waiting = backlog.len() as u64;
        let other = self.roll(self.faults.backlog_shared, "shared backlog");
        let seen = if other { self.rng.range(0, 2 * waiting + 4) } else { waiting };
        if self.faults.backlog_unknown { -errno::EOPNOTSUPP } else { seen as i32 }
    }

    fn install(&mut self, slot: u32, conn: ConnId) {
        self.peers[slot as usize] = self.net.addr(conn);
        if let Some(old) = self.slots[slot as usize].replace(conn) {
            // Linux replaces the file without a word.
            self.violation(format!("invariant free-slot-clean: accept into the occupied slot {slot}"));
            self.drop_file(old, slot / self.slots_per_ring);
        }
    }

    pub(super) fn start_connect(&mut self, serial: u64, link: u16) {
        if self.links.contains_key(&link) {
            self.violation(format!("invariant op-bits: link {link} connects while it has a socket"));
        }
        if self.roll(self.faults.connect_error, "connect error") {
            let error = self.rng.pick(&[errno::ECONNREFUSED, errno::ETIMEDOUT, errno::ENOMEM, errno::EMFILE]);
            self.end(serial, -error);
            return;
        }
        let delay = match self.endpoint(link).map(|endpoint| endpoint.dial) {
            Some(Dial::BlackHole) => 120_000_000,
            _ => 2 * self.rng.range(self.latency_us.0, self.latency_us.1),
        };
        self.schedule(self.net.now_us + delay, Event::Finish(serial));
    }

    fn endpoint(&mut self, link: u16) -> Option<&mut Endpoint> {
        let address = self.link_addresses.get(&link)?;
        self.endpoints.iter_mut().find(|endpoint| is_same_worker(&endpoint.address, address))
    }

    pub(super) fn finish_connect(&mut self, serial: u64, link: u16) {
        match self.endpoint(link).map(|endpoint| (endpoint.dial, endpoint.owner)) {
            Some((Dial::Accept, owner)) => {
                let buffers = self.draw_buffers(self.link_buffers);
                let conn = self.net.open(owner, None, buffers, self.latency_us);
                self.links.insert(link, conn);
                self.endpoint(link).expect("just found").accepted.push_back(conn);
                self.schedule(self.net.now_us, Event::Actor(owner));
                self.end(serial, 0);
            }
            Some((Dial::BlackHole, _)) => self.end(serial, -errno::ETIMEDOUT),
            Some((Dial::Refuse, _)) => self.end(serial, -errno::ECONNREFUSED),
            None if self.link_addresses.contains_key(&link) => self.end(serial, -errno::ECONNREFUSED),
            None => self.end(serial, -errno::EDESTADDRREQ),
        }
    }

    pub(super) fn close(&mut self, serial: u64, sock: Sock) {
        let (conn, ring) = match sock {
            Sock::Client(slot) => (self.slots[slot as usize].take(), slot / self.slots_per_ring),
            Sock::Link(link) => (self.links.remove(&link), 0),
        };
        match conn {
            Some(conn) => {
                self.drop_file(conn, ring);
                self.end(serial, 0);
            }
            None => self.end(serial, -EBADF),
        }
    }

    /// The descriptor is gone; the socket follows when no request holds the file any more.
    fn drop_file(&mut self, conn: ConnId, ring: u32) {
        let ordered = self.faults.ordered_release;
        let per_ring = self.slots_per_ring;
        let holds = |op: &InFlight| {
            let same_ring = match sock_of(op.op) {
                Some(Sock::Client(slot)) => slot / per_ring == ring && !matches!(op.op, Op::Accept { .. }),
                _ => false,
            };
            let closes = matches!(op.op, Op::Close { .. } | Op::Cancel { .. });
            op.phase == Phase::Armed && !closes && (op.conn == Some(conn) || ordered && same_ring)
        };
        let holders: Vec<u64> =
            self.ops.iter().filter(|(_, op)| holds(op)).map(|(&serial, _)| serial).collect();
        self.unreleased.push((conn, holders));
        self.release_unheld();
    }

    pub(super) fn release_unheld(&mut self) {
        let mut index = 0;
        while index < self.unreleased.len() {
            let ops = &self.ops;
            let armed = |serial: &u64| ops.get(serial).is_some_and(|op| op.phase == Phase::Armed);
            if self.unreleased[index].1.iter().any(armed) {
                index += 1;
            } else {
                let (conn, _) = self.unreleased.remove(index);
                self.net.release(conn);
            }
        }
    }

    pub(super) fn cancel(&mut self, serial: u64, sock: Sock, target: Token) {
        let found = self
            .ops
            .iter()
            .find(|(_, op)| op.token == target && op.phase == Phase::Armed && sock_of(op.op) == Some(sock));
        let Some((&victim, op)) = found else { return self.end(serial, -errno::ENOENT) };
        // A shutdown runs in a kernel worker and cannot be stopped any more.
        let running = matches!(op.op, Op::Shutdown { .. });
        if running || self.roll(self.faults.cancel_loses, "cancel loses") {
            if !running {
                // It ends soon by itself, and may still succeed until then.
                let delay = self.rng.range(0, self.faults.completion_delay_us);
                self.schedule(self.net.now_us + delay, Event::Finish(victim));
            }
            self.end(serial, -errno::EALREADY);
        } else if self.rng.chance(500) {
            self.end(victim, -errno::ECANCELED);
            self.end(serial, 0);
        } else {
            self.end(serial, 0);
            self.end(victim, -errno::ECANCELED);
        }
    }
}

/// Whether both addresses lead to one worker: a host may have several.
fn is_same_worker(one: &LinkAddress, other: &LinkAddress) -> bool {
    match (one, other) {
        (LinkAddress::Tcp(one), LinkAddress::Tcp(other)) => one.port() == other.port(),
        _ => one == other,
    }
}
