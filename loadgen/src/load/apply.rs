//! How a load thread applies commands.

use std::time::Duration;

use super::{
    Checking, Churning, Command, Connecting, Connects, Departure, Lane, Leaving, Load, Sending, Slow,
};
use crate::schedule::{Heartbeat, Pacer};

impl Load {
    pub(super) fn on_command(&mut self, command: Command, now_ns: u64) {
        match command {
            Command::Connect(Connects { clients, per_second, in_flight_max }) => {
                let next = self.connects.next;
                let steps = u64::from(clients.saturating_sub(next));
                self.connects =
                    Connecting { pacer: Pacer::new(now_ns, per_second, steps), next, in_flight_max };
            }
            Command::Hold(holding) => {
                self.holding = holding;
                if holding {
                    self.live.open_min = self.live.open;
                }
            }
            Command::Traffic(spec) => {
                let messages = if spec.active == 0 { 0 } else { spec.messages };
                let sending = Sending { pacer: Pacer::new(spec.start_ns, spec.per_second, messages), spec };
                match spec.lane {
                    Lane::Main => {
                        self.tally.scheduled += messages;
                        self.traffic = sending;
                    }
                    Lane::Slow => self.slow_traffic = sending,
                }
            }
            Command::StopTraffic => {
                // What was never due was never owed.
                self.tally.scheduled -= self.traffic.pacer.remaining();
                self.traffic.pacer = Pacer::idle();
                self.slow_traffic.pacer = Pacer::idle();
                self.tally.scheduled -= self.live.held_back;
                self.live.held_back = 0;
                self.waiting.clear();
                self.check.pacer = Pacer::idle();
            }
            Command::Check { per_second, payload_bytes } => {
                // Nobody else has ever connected.
                let steps = u64::from(self.connects.next);
                self.check = Checking { pacer: Pacer::new(now_ns, per_second, steps), payload_bytes };
            }
            Command::Leave { keep, per_second, how } => {
                let steps = u64::from(self.connects.next.saturating_sub(keep));
                self.leave = Leaving { pacer: Pacer::new(now_ns, per_second, steps), next: keep, how };
                if how != Departure::ResetAndReturn {
                    self.connects.next = keep;
                }
            }
            Command::Reconnect { policy, in_flight_max } => {
                self.reconnect = policy;
                self.retrying_max = in_flight_max;
            }
            Command::SlowResume => {
                self.slow = Slow { reads_now: true, reading: Duration::ZERO, ..self.slow };
                self.set_reading(0..self.slow.clients, true);
            }
            Command::Churn { per_second } => {
                self.churn = Churning { pacer: Pacer::new(now_ns, per_second, u64::MAX) };
            }
            Command::Slow(slow) => {
                self.set_reading(0..self.slow.clients, true);
                self.slow = Slow { reads_now: false, ..slow };
                self.set_reading(0..slow.clients, false);
                self.slow_toggle_ns = now_ns + slow.pausing.as_nanos() as u64;
            }
            Command::StopHeartbeat => self.heartbeat = Heartbeat::new(0, 0),
            Command::CountAsLost => self.counts_as_lost = true,
            Command::Finish => self.finished = true,
        }
    }
}
