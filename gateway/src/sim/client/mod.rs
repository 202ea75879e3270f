//! Clients: well-behaved, slow, hostile and unlucky ones. Each is one connection.
//!
//! * here: a client's life.
//! * `profile`: what it is like.
//! * `hear`: what it reads, and whether it may.
//! * `act`: what it does.
//! * `sealed`: what it has between its frames and its socket.

mod act;
mod hear;
mod profile;
mod sealed;

use std::net::SocketAddr;

pub use profile::{Ended, Manners, Profile};
use roost_protocol::{Reason, edge::Decoder};
use sealed::Sealed;

use crate::sim::{kernel::World, ledger::Ledger, net::ConnId, rng::Rng};

/// One client.
#[derive(Debug)]
pub struct Client {
    /// Its number, which is its routing key and its session reference.
    pub id: u32,
    /// What it is like.
    pub profile: Profile,
    /// How it ended; none while it lasts.
    pub ended: Option<Ended>,
    /// WELCOME has come.
    pub welcomed: bool,
    /// Where it connects.
    pub listener: u16,
    manners: Manners,
    addr: Option<SocketAddr>,
    rng: Rng,
    actor: u32,
    conn: Option<ConnId>,
    starts_at_us: u64,
    /// Bytes to write.
    out: Vec<u8>,
    /// Its listener has a cipher.
    sealed: Option<Sealed>,
    decoder: Decoder,
    /// Messages it wants to send in all.
    messages: u32,
    /// Messages put into `out` so far.
    sent: u32,
    goaway: Option<Reason>,
    /// What GOAWAY must say after what it did.
    expected: Option<Reason>,
    /// When it does what it came for: reset, close, break.
    acts_at_us: u64,
    acted: bool,
    pings: Vec<[u8; 8]>,
    /// PINGs put into `out` so far.
    pinged: u32,
    next_ping_us: u64,
    gone_at_us: Option<u64>,
}

impl Client {
    /// A client that connects at `starts_at_us`.
    pub fn new(
        id: u32,
        actor: u32,
        profile: Profile,
        (listener, addr): (u16, Option<SocketAddr>),
        manners: Manners,
        starts_at_us: u64,
        mut rng: Rng,
    ) -> Self {
        let messages = match profile {
            Profile::Idle | Profile::Silent | Profile::Mute => 0,
            _ => rng.log_range(0, 40) as u32,
        };
        let sealed = manners.ciphered.contains(&listener).then(|| Sealed::new(u64::from(id)));
        let acts_at_us = starts_at_us + rng.log_range(1, 5_000_000);
        Self {
            id,
            profile,
            ended: None,
            welcomed: false,
            listener,
            decoder: Decoder::new(manners.frame_bytes_max),
            manners,
            addr,
            rng,
            actor,
            conn: None,
            starts_at_us,
            out: Vec::new(),
            sealed,
            messages,
            sent: 0,
            goaway: None,
            expected: None,
            acts_at_us,
            acted: false,
            pings: Vec::new(),
            pinged: 0,
            next_ping_us: 0,
            gone_at_us: None,
        }
    }

    /// The first time it acts.
    pub fn starts_at_us(&self) -> u64 {
        self.starts_at_us
    }

    /// Whether everything it sent was answered.
    pub fn is_answered(&self, ledger: &Ledger) -> bool {
        let written = self.sealed.as_ref().is_none_or(Sealed::is_written);
        written && self.out.is_empty() && ledger.answered_end(self.id) == self.sent
    }

    /// Whether it is ending the connection itself.
    pub fn left(&self) -> bool {
        self.acted
    }

    /// Its turn. `calm`: the run is winding down, so it finishes what it can and leaves.
    pub fn wake(&mut self, world: &mut World, ledger: &mut Ledger, calm: bool) {
        if self.ended.is_some() || world.now_us() < self.starts_at_us {
            return;
        }
        let Some(conn) = self.conn else { return self.connect(world) };
        if self.reads() || calm {
            self.read(world, ledger, conn);
        }
        if self.ended.is_none() && self.goaway.is_none() {
            self.act(world, ledger, conn, calm);
        }
        if self.ended.is_none() {
            self.write(world, conn);
        }
        if self.ended.is_none() && self.goaway.is_some() {
            // Told to go: it goes, whether the gateway's FIN comes or not.
            let gone_at_us = *self.gone_at_us.get_or_insert(world.now_us() + self.manners.patience_us);
            if world.now_us() >= gone_at_us {
                world.net.peer_close(conn);
                self.ended = self.goaway.map(Ended::Goaway);
            }
        }
    }

    /// The timer's turn: like any other, and the next one is arranged.
    pub fn tick(&mut self, world: &mut World, ledger: &mut Ledger, calm: bool, timer: u32) {
        self.wake(world, ledger, calm);
        if self.ended.is_none() {
            let pause = self.rng.log_range(self.manners.think_us.0, self.manners.think_us.1);
            world.wake_actor_at(world.now_us() + pause, timer);
        }
    }

    /// It has had enough: the run is over.
    pub fn give_up(&mut self, world: &mut World) {
        if let Some(conn) = self.conn {
            world.net.peer_close(conn);
        }
        self.ended.get_or_insert(Ended::Itself);
    }

    /// In words, for reports.
    pub fn describe(&self, ledger: &Ledger) -> String {
        format!(
            "client {} ({:?}) on {:?}: welcomed {}, sent {}/{}, answered {}, {} bytes to write, goaway {:?}",
            self.id,
            self.profile,
            self.conn,
            self.welcomed,
            self.sent,
            self.messages,
            ledger.answered_end(self.id),
            self.out.len(),
            self.goaway,
        )
    }

    fn reads(&mut self) -> bool {
        match self.profile {
            Profile::NeverReads => false,
            Profile::SlowReader => self.rng.chance(100),
            _ => true,
        }
    }
}
