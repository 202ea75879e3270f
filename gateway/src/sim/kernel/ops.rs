//! What an op does, from its submission to its end.

use super::{EBADF, Event, InFlight, Phase, World, result_of, sock_of};
use crate::{
    op::{Block, Interest, Op, Sock, Token, errno, poll_bits},
    sim::{memory::Memory, net::ConnId},
};

impl World {
    /// Checks an op as it is submitted; it is executed by [`Self::execute`].
    pub(in crate::sim) fn submit(&mut self, token: Token, op: Op) -> u64 {
        if let Some(twin) = self.ops.values().find(|other| other.token == token) {
            let what = format!("invariant op-bits: {op:?} has the token of {:?}, in flight", twin.op);
            self.violation(what);
        }
        self.check_rules(op);
        self.note(|| format!("submit {token:?} {op:?}"));
        if let Op::Recv { sock: Sock::Client(slot), .. } = op {
            self.client_receives.push(slot);
        }
        self.op_serial += 1;
        self.ops.insert(self.op_serial, InFlight { token, op, conn: None, phase: Phase::Armed });
        self.op_serial
    }

    fn check_rules(&mut self, op: Op) {
        let Some(sock) = sock_of(op) else { return };
        let mut broken = None;
        for other in self.ops.values().filter(|other| sock_of(other.op) == Some(sock)) {
            match (op, other.op) {
                (Op::Close { .. }, held) => {
                    broken = Some(format!("invariant join-before-close: {op:?} while {held:?} is in flight"));
                }
                (_, Op::Close { .. }) => {
                    broken = Some(format!("invariant join-before-close: {op:?} while a close is in flight"));
                }
                (Op::Accept { .. }, held) | (held, Op::Accept { .. }) => {
                    broken = Some(format!("invariant op-bits: {op:?} while {held:?} is in flight"));
                }
                (Op::Send { .. }, Op::Send { .. }) => {
                    broken = Some(format!("invariant one-send-in-flight: a second send on {sock:?}"));
                }
                (Op::Recv { .. }, Op::Recv { .. })
                | (Op::Connect { .. }, Op::Connect { .. })
                | (Op::Shutdown { .. }, Op::Shutdown { .. }) => {
                    broken = Some(format!("invariant op-bits: {op:?} twice in flight"));
                }
                (Op::Poll { interest: a, .. }, Op::Poll { interest: b, .. }) if a == b => {
                    broken = Some(format!("invariant op-bits: {op:?} twice in flight"));
                }
                _ => {}
            }
        }
        if let Some(broken) = broken {
            self.violation(broken);
        }
    }

    pub(super) fn is_armed(&self, serial: u64) -> bool {
        self.ops.get(&serial).is_some_and(|op| op.phase == Phase::Armed)
    }

    /// Executes an op for the first time.
    pub(in crate::sim) fn execute(&mut self, memory: &mut Memory, serial: u64) {
        let InFlight { op, token: _, .. } = self.ops[&serial];
        let conn = sock_of(op).and_then(|sock| self.conn_of(sock));
        self.ops.get_mut(&serial).expect("just read").conn = conn;
        match op {
            Op::Accept { .. } => self.serve_accepts(),
            Op::CountWaiting { listener } => {
                let result = self.count_waiting(listener);
                self.end(serial, result);
            }
            Op::Poll { .. } => self.arm_poll(serial),
            Op::Recv { wait, .. } | Op::Send { wait, .. } => {
                if let Some(error) = self.roll_transfer_error(wait) {
                    self.end(serial, error);
                } else {
                    self.try_transfer(memory, serial, wait);
                }
            }
            Op::Connect { link } => self.start_connect(serial, link),
            Op::Shutdown { .. } => {
                let delay = self.rng.range(0, self.faults.shutdown_delay_us);
                self.schedule(self.net.now_us + delay, Event::Finish(serial));
            }
            Op::Close { sock } => self.close(serial, sock),
            Op::Cancel { sock, target } => self.cancel(serial, sock, target),
        }
    }

    fn conn_of(&self, sock: Sock) -> Option<ConnId> {
        match sock {
            Sock::Client(slot) => self.slots[slot as usize],
            Sock::Link(link) => self.links.get(&link).copied(),
        }
    }

    /// An armed op ends; its completion becomes visible now or later.
    pub(super) fn end(&mut self, serial: u64, result: i32) {
        let op = self.ops.get_mut(&serial).expect("an op ends once");
        assert_eq!(op.phase, Phase::Armed, "an op ends once");
        op.phase = Phase::Ended(result);
        let late = self.roll(self.faults.completion_late, "late completion");
        let delay = if late { self.rng.range(0, self.faults.completion_delay_us) } else { 0 };
        self.schedule(self.net.now_us + delay, Event::Post(serial));
        self.release_unheld();
    }

    fn roll_transfer_error(&mut self, wait: bool) -> Option<i32> {
        if self.roll(self.faults.no_memory, "no memory") {
            return Some(-self.rng.pick(&[errno::ENOMEM, errno::ENOBUFS, errno::EINTR]));
        }
        if !wait && self.roll(self.faults.spurious_again, "spurious EAGAIN") {
            return Some(-errno::EAGAIN);
        }
        None
    }

    /// A receive or send: as much as goes now, else it stays armed if it may wait.
    fn try_transfer(&mut self, memory: &mut Memory, serial: u64, wait: bool) {
        let InFlight { op, conn, .. } = self.ops[&serial];
        let Some(conn) = conn else { return self.end(serial, -EBADF) };
        let result = match op {
            Op::Recv { block, offset, len, .. } => self.receive(memory, conn, (block, offset, len)),
            Op::Send { block, offset, len, .. } => self.transmit(memory, conn, (block, offset, len)),
            other => unreachable!("{other:?} moves no bytes"),
        };
        if !(wait && result == -errno::EAGAIN) {
            self.end(serial, result);
        }
    }

    fn receive(&mut self, memory: &mut Memory, conn: ConnId, (block, offset, len): (Block, u32, u32)) -> i32 {
        let short = self.roll(self.faults.short_recv, "short receive");
        let max = if short { self.rng.range(1, u64::from(len.max(1))) } else { u64::from(len) };
        match self.net.recv(conn, max as usize) {
            Ok(bytes) => {
                memory.received(block, offset, &bytes);
                result_of(bytes.len())
            }
            Err(error) => error,
        }
    }

    fn transmit(
        &mut self,
        memory: &mut Memory,
        conn: ConnId,
        (block, offset, len): (Block, u32, u32),
    ) -> i32 {
        match self.net.room(conn) {
            Ok(room) => {
                let mut take = (len as usize).min(room);
                if take > 1 && self.roll(self.faults.short_send, "short send") {
                    take = self.rng.range(1, take as u64) as usize;
                }
                let bytes = memory.sending(block, offset, take as u32).to_vec();
                self.net.send(conn, bytes);
                result_of(take)
            }
            Err(error) => error,
        }
    }

    fn arm_poll(&mut self, serial: u64) {
        if self.ops[&serial].conn.is_none() {
            self.end(serial, -EBADF);
        } else if self.roll(self.faults.poll_error, "poll error") {
            self.end(serial, -errno::ENOMEM);
        } else {
            self.try_poll(serial);
            if self.is_armed(serial) && self.rng.chance(self.faults.poll_spurious) {
                let delay = self.rng.log_range(1, 10_000_000);
                self.schedule(self.net.now_us + delay, Event::Spurious(serial));
            }
        }
    }

    fn try_poll(&mut self, serial: u64) {
        let InFlight { op: Op::Poll { interest, .. }, conn: Some(conn), .. } = self.ops[&serial] else {
            unreachable!("only polls on sockets are tried")
        };
        let wanted = match interest {
            Interest::Readable => poll_bits::IN | poll_bits::RDHUP,
            Interest::Writable => poll_bits::OUT,
            Interest::Ended => poll_bits::RDHUP,
        };
        let bits = self.net.poll(conn) & (wanted | poll_bits::ERR | poll_bits::HUP);
        if bits != 0 {
            self.end(serial, bits);
        }
    }

    /// Something changed on a connection: ops that waited for it may go on.
    pub(super) fn retry_armed(&mut self, memory: &mut Memory, conn: ConnId) {
        let mut waiting: Vec<u64> = self
            .ops
            .iter()
            .filter(|(_, op)| op.conn == Some(conn) && op.phase == Phase::Armed)
            .map(|(&serial, _)| serial)
            .collect();
        // A poll and a send woken by the same event run in any order.
        if self.rng.chance(self.faults.reorder) {
            waiting.reverse();
        }
        for serial in waiting {
            match self.ops[&serial].op {
                Op::Poll { .. } => self.try_poll(serial),
                Op::Recv { .. } | Op::Send { .. } => self.try_transfer(memory, serial, true),
                _ => {}
            }
        }
    }

    pub(super) fn finish(&mut self, serial: u64) {
        if !self.is_armed(serial) {
            return;
        }
        match (self.ops[&serial].op, self.ops[&serial].conn) {
            (Op::Shutdown { .. }, Some(conn)) => {
                let result = self.net.shutdown(conn);
                self.end(serial, result);
            }
            (Op::Shutdown { .. }, None) => self.end(serial, -EBADF),
            (Op::Connect { link }, _) => self.finish_connect(serial, link),
            // A cancel that came too late for a target that then never became ready.
            _ => self.end(serial, -errno::ECANCELED),
        }
    }
}
