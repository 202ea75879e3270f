//! Where a connection is in its life, and what it may become.

use bytemuck::Zeroable;

use crate::core::transitions::{Transition, step};

/// The state of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Zeroable)]
#[repr(u8)]
pub enum State {
    /// No socket; on a free list.
    Free = 0,
    /// An accept into this slot is in the kernel.
    Accepting = 1,
    /// Accepted; no complete HELLO yet.
    Handshaking = 2,
    /// OPEN is queued; the worker has not answered.
    Opening = 3,
    /// The session is open.
    Open = 4,
    /// What is queued is being flushed, then the sending side is shut and input discarded.
    Draining = 5,
    /// Armed ops are cancelled and joined, then the socket is closed.
    Closing = 6,
}

/// Every step that a connection may take. `docs/architecture.md` draws them.
pub const TRANSITIONS: [Transition<State>; 13] = [
    step(State::Free, State::Accepting, "an accept is submitted"),
    step(State::Accepting, State::Free, "it ends without a client"),
    step(State::Accepting, State::Handshaking, "a client comes"),
    step(State::Handshaking, State::Opening, "HELLO"),
    step(State::Handshaking, State::Draining, "GOAWAY or CLOSE"),
    step(State::Handshaking, State::Closing, "FIN or an error"),
    step(State::Opening, State::Open, "ACCEPT"),
    step(State::Opening, State::Draining, "GOAWAY or CLOSE"),
    step(State::Opening, State::Closing, "FIN or an error"),
    step(State::Open, State::Draining, "GOAWAY or CLOSE"),
    step(State::Open, State::Closing, "FIN or an error"),
    step(State::Draining, State::Closing, "flushed and shut, FIN, an error or too late"),
    step(State::Closing, State::Free, "all ops have ended, the socket is closed"),
];

impl State {
    /// Every state.
    pub const ALL: [State; 7] = [
        Self::Free,
        Self::Accepting,
        Self::Handshaking,
        Self::Opening,
        Self::Open,
        Self::Draining,
        Self::Closing,
    ];

    /// Whether [`TRANSITIONS`] has this step.
    #[inline]
    pub const fn may_become(self, next: Self) -> bool {
        NEXT[self as usize] & 1 << next as u8 != 0
    }
}

/// What may follow each state, a bit each: [`TRANSITIONS`] for every step of every connection to look at.
const NEXT: [u8; State::ALL.len()] = {
    let mut next = [0; State::ALL.len()];
    let mut at = 0;
    while at < TRANSITIONS.len() {
        next[TRANSITIONS[at].from as usize] |= 1 << TRANSITIONS[at].to as u8;
        at += 1;
    }
    next
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::transitions::allows;

    #[test]
    fn a_state_may_become_what_the_table_says() {
        for from in State::ALL {
            for to in State::ALL {
                assert_eq!(from.may_become(to), allows(&TRANSITIONS, from, to), "{from:?} to {to:?}");
            }
        }
    }
}
