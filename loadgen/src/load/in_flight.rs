//! Messages in flight: when each was meant to be sent and when it was.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use crate::payload::mix;

/// Times of the messages whose replies are awaited.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    times: HashMap<u64, Times, BuildHasherDefault<MixHasher>>,
}

/// When a message left, in nanoseconds of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) intended_ns: u64,
    pub(super) sent_ns: u64,
}

impl InFlight {
    pub(super) fn insert(&mut self, sender: u32, sequence: u32, times: Times) {
        self.times.insert(key(sender, sequence), times);
    }

    pub(super) fn remove(&mut self, sender: u32, sequence: u32) -> Option<Times> {
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
    fn what_is_inserted_is_removed_once() {
        let mut in_flight = InFlight::default();
        let times = Times { intended_ns: 1, sent_ns: 2 };
        in_flight.insert(7, 9, times);
        assert_eq!(in_flight.remove(9, 7), None);
        assert_eq!(in_flight.remove(7, 9), Some(times));
        assert_eq!(in_flight.remove(7, 9), None);
    }
}
