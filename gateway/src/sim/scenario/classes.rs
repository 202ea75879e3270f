//! Classes of runs: each makes some seeds hard in one way.

use super::{Chaos, CoreConfig, Faults, Habits, Manners, Rng};
use crate::core::listener::Cipher;

/// What the classes of runs change besides configuration, faults and habits.
pub(super) struct Drawn {
    pub(super) seed: u64,
    pub(super) comfortable: bool,
    pub(super) calm_at_us: u64,
    /// One-way delay, at most.
    pub(super) latency_max_us: u64,
    /// Sizes of link buffers towards workers, where a class decides them.
    pub(super) link_down: Option<(u64, u64)>,
}

impl Drawn {
    /// A stream of random numbers for one class.
    const fn stream(&self, rotation: u32, salt: u64) -> Rng {
        Rng::new(self.seed.rotate_left(rotation) ^ salt)
    }

    /// More clients that speak at once than there are receive buffers.
    pub(super) fn crowd(&mut self, config: &mut CoreConfig, faults: &mut Faults) {
        config.slots_max = 4 * CoreConfig::RX_BLOCKS + 64;
        (faults.completion_late, faults.completion_delay_us, faults.reap_max) = (1_000, 20_000, 256);
        self.calm_at_us = self.calm_at_us.min(1_000_000);
    }

    /// Few control frames are allowed.
    pub(super) fn limits(&self, config: &mut CoreConfig) {
        let mut rng = self.stream(12, !0);
        if !self.comfortable && rng.chance(200) {
            config.control_frames_per_s_max = rng.log_range(1, 20) as u32;
        }
    }

    /// Link queues share next to nothing: whatever is admitted by a sum that ought to hold, or taken
    /// from slack, shows.
    pub(super) fn tight_queues(&self, config: &mut CoreConfig) {
        let mut rng = self.stream(48, !0);
        if rng.chance(400) {
            config.link_shared_percent = rng.pick(&[0, 0, 1, 10]);
            config.link_tx_block_bytes = rng.log_range(512, 4_096) as u32;
        }
    }

    /// Clients of some listeners pass a cipher. Gives these listeners.
    pub(super) fn ciphers(&self, config: &mut CoreConfig) -> Vec<u16> {
        let mut rng = self.stream(33, 0x5ea1);
        let mut ciphered = Vec::new();
        if rng.chance(250) {
            for (index, listener) in (0..).zip(&mut config.listeners) {
                if rng.chance(700) {
                    listener.cipher = Cipher::Xor;
                    ciphered.push(index);
                }
            }
        }
        ciphered
    }

    /// A slow machine: a turn takes time, and each op that it submits takes more. Deadlines pass
    /// within a turn, and what arrives meanwhile comes all at once.
    pub(super) fn slow_turns(&self, turn_us_max: u64, faults: &mut Faults) {
        let mut rng = self.stream(8, 0x7a5e);
        if rng.chance(300) {
            faults.turn_us = rng.log_range(5, turn_us_max);
            faults.op_us = rng.log_range(1, turn_us_max.div_ceil(20));
        }
    }

    /// Workers that never answer, refuse proofs, have two names.
    pub(super) fn odd_workers(&self, config: &mut CoreConfig, chaos: &mut Chaos) {
        chaos.mutes = self.stream(24, !0).pick(&[0, 0, 50, 300]);
        let mut rng = self.stream(17, 0x5eed);
        if rng.chance(250) {
            chaos.oddities = rng.log_range(20, 300) as u32;
            config.link_hold_ms = (rng.log_range(20, 500) as u32, rng.log_range(500, 20_000) as u32);
        }
    }

    /// Incomplete frames of several clients do not fit the pool, and some hold more than others.
    pub(super) fn hoarders(&self, config: &mut CoreConfig, manners: &mut Manners) {
        let mut rng = self.stream(56, !0);
        if !self.comfortable && rng.chance(150) {
            config.frame_bytes_max = rng.log_range(4_096, 8_192) as u32;
            config.spill_bytes_total = rng.log_range(6_144, 24_576);
            manners.frame_bytes_max = config.frame_bytes_max;
            manners.message_bytes_max = config.frame_bytes_max;
        }
    }

    /// Workers let connections go, and die before they have acknowledged what they had handled.
    pub(super) fn leavers(&mut self, chaos: &mut Chaos, habits: &mut [Habits], manners: &mut Manners) {
        if self.stream(40, !0).chance(200) {
            (chaos.drains, chaos.kills, chaos.cuts) = (500, 500, 0);
            chaos.pace_us = (1_000, 100_000);
            habits.iter_mut().for_each(|habits| habits.acknowledges = 20);
            manners.think_us = (50, 20_000);
            self.calm_at_us = self.calm_at_us.max(5_000_000);
        }
    }

    /// Workers give connections other routing hashes than their keys have, ask all others, answer whoever
    /// asks, and have words for clients that they send away.
    pub(super) fn talkers(&self, habits: &mut [Habits]) {
        let mut rng = self.stream(5, 0x7a1c);
        if rng.chance(300) {
            for habits in habits {
                habits.relays = habits.relays.max(200);
                (habits.relays_all, habits.answers) = (rng.pick(&[0, 500]), rng.pick(&[200, 900]));
                (habits.rekeys, habits.words) = (rng.pick(&[0, 100, 800]), rng.pick(&[0, 500]));
            }
        }
    }

    /// Workers are stopped (SIGSTOP) until they are given up, and with more to read than their sockets
    /// take: the kernel still sends what the session retains.
    pub(super) fn stopped_workers(
        &mut self,
        config: &mut CoreConfig,
        chaos: &mut Chaos,
        manners: &mut Manners,
    ) {
        let mut rng = self.stream(32, !0);
        if !rng.chance(100) {
            return;
        }
        config.link_failover_ms = rng.log_range(200, 1_000) as u32;
        // No probe may find the link dead before that.
        config.link_keepalive_ms = 0;
        manners.think_us = (50, 20_000);
        self.calm_at_us = self.calm_at_us.max(5_000_000);
        // And nothing else may break it first.
        *chaos = Chaos { pauses: 500, absence_us: (1_500_000, 5_000_000), ..Chaos::none(chaos.pace_us) };
        // Nor may a single frame take so long, 64 bytes a round trip, that its worker is given up
        // meanwhile, again and again.
        self.latency_max_us = 300;
        self.link_down = Some((64, rng.log_range(65, 512)));
    }
}

/// How long a turn may take, in microseconds, so that links are up for long: a worker's answer still has a
/// hundred turns, and some for each part of the longest frame, of which its socket takes `least_bytes` at once.
pub(super) fn turn_us_max(config: &CoreConfig, least_bytes: u64) -> u64 {
    let answer_ms = match config.link_keepalive_ms {
        0 => config.link_failover_ms,
        keepalive_ms => config.link_failover_ms.min(keepalive_ms),
    };
    let parts = u64::from(config.frame_bytes_max) / least_bytes;
    (u64::from(answer_ms) * 1_000 / (100 + 4 * parts)).max(5)
}

/// Hardly a receive buffer for all, and each held for as long as its completion is late.
pub(super) fn starve(rng: &mut Rng, config: &mut CoreConfig, faults: &mut Faults) {
    config.rx_blocks = rng.log_range(1, 4) as u32;
    faults.completion_late = faults.completion_late.max(300);
    faults.completion_delay_us = faults.completion_delay_us.max(rng.log_range(500, 20_000));
    faults.shutdown_delay_us = faults.shutdown_delay_us.max(20_000);
}
