//! Ops whose memory the kernel is using.
//!
//! A poll, close, shutdown or cancel refers to no memory, so its token travels as `user_data` and
//! costs nothing while a million of them are parked. An op with memory behind it gets a record
//! here instead, and `user_data` names the record: its completion must find the block or cell
//! that it releases.

use crate::op::{Block, Token};

/// `user_data` of records: this kind in the top byte, the index below.
const RECORD_KIND: u8 = Token::DRIVER_KIND;
/// `user_data` of the steps before a record's op, that are linked to it.
pub(super) const STEP_KIND: u8 = Token::DRIVER_KIND + 4;

/// What an op in the kernel holds on to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// A block, of a receive or send.
    Block(Block),
    /// A cell of [`super::accept::Accepts`], and the slot that the client goes to.
    Accept { cell: u32, slot: u32 },
    /// The target address of a link.
    ConnectLink(u16),
    /// A cell of [`super::addresses::Connects`], and what the step said that failed before, or 0.
    Connect { cell: u32, failed: i32 },
}

/// One op in the kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    pub(super) token: Token,
    /// The ring that runs it.
    pub(super) ring: u32,
    pub(super) held: Held,
}

/// The records; grows to the largest number of such ops there ever was at once, and then no op
/// allocates.
#[derive(Default)]
pub(super) struct InFlight {
    records: Vec<Option<Record>>,
    free: Vec<u32>,
    /// The token kinds that ever had a record, one bit each, so that cancelling a poll need not
    /// look for one.
    kinds: [u64; 4],
}

impl InFlight {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Notes an op and returns its `user_data`.
    #[inline(always)]
    pub(super) fn insert(&mut self, record: Record) -> u64 {
        let (word, bit) = kind_bit(record.token);
        self.kinds[word] |= bit;
        let index = self.free.pop().unwrap_or_else(|| {
            let index = u32::try_from(self.records.len()).expect("fewer ops than memory has bytes");
            self.records.push(None);
            index
        });
        self.records[index as usize] = Some(record);
        user_data(index)
    }

    /// Takes the record that a completion is for. Panics if there is none.
    #[inline]
    pub(super) fn remove(&mut self, user_data: u64) -> Record {
        let token = Token::from_bits(user_data);
        assert_eq!(token.kind(), RECORD_KIND, "{token:?} is nobody's");
        let index = token.generation();
        let record = self.records[index as usize].take().expect("one completion per op");
        self.free.push(index);
        record
    }

    /// A step that is linked to a record's op has completed. The steps after a failure are cancelled,
    /// and the first failure is the cause.
    pub(super) fn note_step(&mut self, user_data: u64, result: i32) {
        let index = Token::from_bits(user_data).generation() as usize;
        let record = self.records.get_mut(index).and_then(Option::as_mut);
        if let Some(Record { held: Held::Connect { failed, .. }, .. }) = record
            && *failed == 0
            && result < 0
        {
            *failed = result;
        }
    }

    /// The `user_data` under which the op of this token runs.
    ///
    /// Looks through the records only if an op of that kind ever had one: polls, which are
    /// cancelled in bulk, never do as long as their kind is their own.
    pub(super) fn user_data_of(&self, token: Token) -> u64 {
        let (word, bit) = kind_bit(token);
        if self.kinds[word] & bit == 0 {
            return token.to_bits();
        }
        let is_target = |record: &Option<Record>| record.is_some_and(|record| record.token == token);
        match self.records.iter().position(is_target) {
            Some(index) => user_data(index as u32),
            None => token.to_bits(),
        }
    }

    /// Ring and `user_data` of every op.
    pub(super) fn all(&self) -> impl Iterator<Item = (u32, u64)> {
        let entry = |(index, record): (usize, &Option<Record>)| {
            record.as_ref().map(|record| (record.ring, user_data(index as u32)))
        };
        self.records.iter().enumerate().filter_map(entry)
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        self.free.len() == self.records.len()
    }
}

/// Where the bit of a token's kind is.
fn kind_bit(token: Token) -> (usize, u64) {
    (usize::from(token.kind() >> 6), 1 << (token.kind() & 63))
}

/// The `user_data` for a step that is linked to the op with this one.
pub(super) fn step_of(user_data: u64) -> u64 {
    Token::new(STEP_KIND, 0, Token::from_bits(user_data).generation()).to_bits()
}

fn user_data(index: u32) -> u64 {
    Token::new(RECORD_KIND, 0, index).to_bits()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8) -> Record {
        Record { token: Token::new(kind, 7, 1), ring: 3, held: Held::ConnectLink(9) }
    }

    #[test]
    fn a_completion_finds_its_record_once() {
        let mut in_flight = InFlight::new();
        let user_data = in_flight.insert(record(1));
        assert!(!in_flight.is_empty());
        assert_eq!(in_flight.remove(user_data).held, Held::ConnectLink(9));
        assert!(in_flight.is_empty());
        assert_eq!(in_flight.insert(record(1)), user_data, "records are used again");
    }

    #[test]
    fn the_first_step_that_fails_is_the_cause() {
        let mut in_flight = InFlight::new();
        let held = Held::Connect { cell: 5, failed: 0 };
        let user_data = in_flight.insert(Record { held, ..record(1) });
        let step = step_of(user_data);
        for result in [0, -libc::EADDRINUSE, -libc::ECANCELED] {
            in_flight.note_step(step, result);
        }
        assert_eq!(in_flight.remove(user_data).held, Held::Connect { cell: 5, failed: -libc::EADDRINUSE });
        // Nobody is left to tell.
        in_flight.note_step(step, -libc::ECANCELED);
    }

    #[test]
    fn a_token_is_found_under_whichever_user_data_it_runs() {
        let mut in_flight = InFlight::new();
        in_flight.insert(record(1));
        let user_data = in_flight.insert(record(2));
        assert_eq!(in_flight.user_data_of(Token::new(2, 7, 1)), user_data);
        // Same kind, another op: a poll that shares its kind with receives.
        assert_eq!(in_flight.user_data_of(Token::new(2, 8, 1)), Token::new(2, 8, 1).to_bits());
        assert_eq!(in_flight.user_data_of(Token::new(3, 7, 1)), Token::new(3, 7, 1).to_bits());
    }
}
