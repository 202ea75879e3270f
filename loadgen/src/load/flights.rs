//! Messages under way: when each was meant to be sent and when it was.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use crate::payload::mix;

/// Times of the messages whose replies are awaited.
#[derive(Debug, Default)]
pub(super) struct Flights {
    times: HashMap<u64, Times, BuildHasherDefault<MixHasher>>,
}

/// When a message left, in nanoseconds of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) intended_ns: u64,
    pub(super) sent_ns: u64,
}

impl Flights {
    pub(super) fn start(&mut self, sender: u32, sequence: u32, times: Times) {
        self.times.insert(key(sender, sequence), times);
    }

    pub(super) fn land(&mut self, sender: u32, sequence: u32) -> Option<Times> {
        self.times.remove(&key(sender, sequence))
    }

    /// Heap bytes held.
    pub(super) fn bytes(&self) -> u64 {
        (self.times.capacity() * size_of::<(u64, Times)>()) as u64
    }
}

const fn key(sender: u32, sequence: u32) -> u64 {
    (sender as u64) << 32 | sequence as u64
}

/// One multiplication chain instead of SipHash: the keys are our own.
#[derive(Debug, Default)]
pub(super) struct MixHasher(u64);

impl Hasher for MixHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = mix(word);
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = mix(self.0 ^ u64::from(byte));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_starts_lands_once() {
        let mut flights = Flights::default();
        let times = Times { intended_ns: 1, sent_ns: 2 };
        flights.start(7, 9, times);
        assert_eq!(flights.land(9, 7), None);
        assert_eq!(flights.land(7, 9), Some(times));
        assert_eq!(flights.land(7, 9), None);
    }
}
