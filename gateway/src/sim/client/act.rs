//! What a client does: connect, speak, misbehave, leave.

use roost_protocol::{
    Reason,
    edge::{self, FrameType, Hello},
};

use super::{Client, Ended, Profile};
use crate::sim::{
    kernel::World,
    ledger::{Ledger, UP_BYTES, encode_up},
    net::ConnId,
};

impl Client {
    pub(super) fn connect(&mut self, world: &mut World) {
        self.conn = world.connect(self.listener, self.actor, self.addr);
        if self.conn.is_none() {
            if !world.is_listening() {
                self.ended = Some(Ended::Refused);
            }
            return;
        }
        self.next_ping_us = world.now_us() + self.manners.ping_us;
        if self.manners.proxy_listener == Some(self.listener) {
            let host = self.rng.below(4);
            if self.profile == Profile::Noise {
                self.out.extend(b"PROXY TCP4 nonsense\r\n");
            } else {
                self.out.extend(format!("PROXY TCP4 198.51.100.{host} 192.0.2.1 999 7000\r\n").bytes());
            }
        }
        let proxy_bytes = self.out.len();
        if self.profile != Profile::Mute {
            let token = vec![b't'; self.rng.log_range(0, 300) as usize];
            let mut key = self.id.to_be_bytes().to_vec();
            key.extend(vec![b'k'; self.rng.index(20)]);
            Hello { key: &key, token: &token }.encode(&mut self.out);
        }
        if self.profile == Profile::Breaker && self.rng.chance(300) {
            let (hello, expected): (&[u8], Reason) = if self.rng.chance(500) {
                (&[1, 0, 0, 6, 99, 0, 0, 0, 0, 0], Reason::Version)
            } else {
                (&[1, 0, 0, 3, 1, 0, 9], Reason::Malformed)
            };
            self.out.truncate(proxy_bytes);
            self.out.extend(hello);
            (self.expected, self.acted) = (Some(expected), true);
        }
        if self.profile == Profile::Noise {
            let mut noise = vec![0; self.rng.log_range(1, 2_000) as usize];
            self.rng.fill(&mut noise);
            if self.rng.chance(500) {
                self.out = noise;
            } else {
                self.out.extend(noise);
            }
        }
        if let Some(sealed) = &mut self.sealed {
            // Some noise is no record either.
            let noise = self.profile == Profile::Noise && self.id % 2 == 1;
            sealed.clear_bytes = if noise { self.out.len() } else { proxy_bytes.min(self.out.len()) };
            sealed.cuts = self.profile == Profile::HalfFrame && self.id % 2 == 1;
        }
        if self.profile == Profile::HalfFrame && self.rng.chance(400) {
            let len = self.rng.index(self.out.len());
            self.out.truncate(len);
            self.acted = true;
        }
    }

    pub(super) fn act(&mut self, world: &mut World, ledger: &Ledger, conn: ConnId, calm: bool) {
        let now_us = world.now_us();
        let due = now_us >= self.acts_at_us && !self.acted;
        match self.profile {
            Profile::Resetter if due || calm => {
                world.net.peer_reset(conn);
                self.ended = Some(Ended::Itself);
                return;
            }
            Profile::Vanisher if due || calm => {
                let after_us = self.rng.log_range(1, 3_000_000);
                world.net.peer_vanish(conn, after_us);
                self.ended = Some(Ended::Itself);
                return;
            }
            Profile::HalfCloser if due => {
                self.acted = true;
                world.net.peer_shutdown(conn);
            }
            Profile::Closer if due => {
                self.acted = true;
                self.close_frame();
            }
            Profile::Breaker if due && (self.welcomed || self.rng.chance(300)) => {
                self.acted = true;
                self.break_protocol();
            }
            Profile::HalfFrame if due => {
                self.acted = true;
                let start = self.out.len();
                self.message();
                let keep = start + self.rng.range(1, (self.out.len() - start - 1) as u64) as usize;
                self.out.truncate(keep);
                self.sent -= 1;
            }
            _ => {}
        }
        if calm {
            self.wind_down(world, ledger, conn);
        }
        if self.ended.is_none() && !self.acted {
            self.speak(world, calm);
        }
    }

    /// Messages and pings, as the temper has it.
    fn speak(&mut self, world: &World, calm: bool) {
        let now_us = world.now_us();
        let eager = self.welcomed || self.rng.chance(50);
        if !eager || self.profile == Profile::Mute {
            return;
        }
        if self.sent < self.messages && self.out.len() < 4_096 {
            let count = match self.profile {
                Profile::Burst | Profile::NeverReads => self.messages - self.sent,
                _ => u32::from(self.rng.chance(500) || calm),
            };
            for _ in 0..count {
                self.message();
            }
        }
        let pings = !matches!(self.profile, Profile::Silent) && now_us >= self.next_ping_us;
        if pings && self.welcomed && self.out.is_empty() {
            self.next_ping_us = now_us + self.manners.ping_us;
            let payload = self.rng.draw().to_be_bytes();
            self.pings.push(payload);
            self.pinged += 1;
            edge::encode_frame(FrameType::Ping, &payload, &mut self.out);
        }
    }

    /// Leaves once nothing is owed to it, or when it was never going to leave by itself.
    fn wind_down(&mut self, world: &mut World, ledger: &Ledger, conn: ConnId) {
        let patient = self.profile.is_well_behaved();
        let done = self.welcomed && self.sent == self.messages && self.is_answered(ledger);
        if patient && !done {
            return;
        }
        let gone_at_us = *self.gone_at_us.get_or_insert(world.now_us() + self.manners.patience_us);
        if patient && !self.acted {
            self.acted = true;
            match self.rng.below(3) {
                0 => self.close_frame(),
                1 => world.net.peer_shutdown(conn),
                _ => {
                    world.net.peer_close(conn);
                    self.ended = Some(Ended::Itself);
                }
            }
        } else if world.now_us() >= gone_at_us {
            world.net.peer_close(conn);
            self.ended = Some(Ended::Itself);
        }
    }

    fn message(&mut self) {
        let longest = u64::from(self.manners.message_bytes_max.max(UP_BYTES as u32));
        let len = self.rng.log_range(UP_BYTES as u64, longest) as usize;
        let payload = encode_up(self.id, self.sent, len);
        self.sent += 1;
        edge::encode_frame(FrameType::Message, &payload, &mut self.out);
    }

    fn close_frame(&mut self) {
        edge::encode_frame(FrameType::Close, &[0], &mut self.out);
    }

    fn break_protocol(&mut self) {
        let (bytes, expected): (Vec<u8>, Reason) = match self.rng.below(5) {
            0 => (vec![0x1e, 0, 0, 0], Reason::UnknownType),
            1 => (vec![0x83, 0, 0, 1, 0], Reason::ReservedBits),
            2 => (vec![3, 0xff, 0xff, 0xff], Reason::Oversize),
            3 if self.welcomed => (vec![6, 0, 0, 0], Reason::UnexpectedFrame),
            _ => (vec![2, 0, 0, 0], Reason::UnexpectedFrame),
        };
        self.out.extend(bytes);
        self.expected = Some(expected);
    }

    pub(super) fn write(&mut self, world: &mut World, conn: ConnId) {
        let crumbs = self.profile == Profile::Crumbs;
        let max = if crumbs { self.rng.log_range(1, 64) as usize } else { usize::MAX };
        let out = match &mut self.sealed {
            Some(sealed) => sealed.seal(&mut self.out),
            None => &mut self.out,
        };
        let offered = &out[..out.len().min(max)];
        if offered.is_empty() {
            return;
        }
        if let Some(written) = world.net.peer_write(conn, offered) {
            out.drain(..written);
        }
    }
}
