//! Up to where the gateway's frames may be acknowledged.

use std::collections::VecDeque;

use crate::id::LinkId;

/// A position in the gateway's stream of sequenced frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Frames since the session began.
    pub frames: u64,
    /// Their bytes, headers included.
    pub bytes: u64,
}

/// The gateway of another session must have acknowledged what was queued there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Barrier {
    /// The other session.
    pub(crate) link: LinkId,
    /// The frames it must have acknowledged.
    pub(crate) position: u64,
}

/// Handled positions in order, each with what must happen before it may be acknowledged.
///
/// Kept until the gateway has acknowledged the replies too: should TCP break before, the position
/// that counts is the one whose replies the gateway has.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    /// The last position whose replies the gateway has acknowledged.
    settled: Position,
    marks: VecDeque<Mark>,
    /// How many marks, from the front, have been acknowledged on this TCP connection.
    announced: usize,
}

#[derive(Debug)]
struct Mark {
    handled: Position,
    /// Own frames that were queued when `handled` was reached.
    queued: u64,
    barriers: Vec<Barrier>,
}

impl Marks {
    /// Everything up to `handled` is handled; the replies end at `queued`.
    pub(crate) fn push(&mut self, handled: Position, queued: u64, barriers: Vec<Barrier>) {
        let Some(last) = self.marks.back_mut() else {
            if handled != self.settled {
                self.marks.push_back(Mark { handled, queued, barriers });
            }
            return;
        };
        debug_assert!(last.handled.frames <= handled.frames && last.queued <= queued);
        if last.handled == handled {
            last.barriers.extend(barriers);
            return;
        }
        if last.queued == queued && last.barriers.is_empty() && barriers.is_empty() {
            last.handled = handled;
            self.announced = self.announced.min(self.marks.len() - 1);
            return;
        }
        self.marks.push_back(Mark { handled, queued, barriers });
    }

    /// The position to acknowledge once `sent` own frames have been written, of which the gateway
    /// has sent no more than `received` on this TCP connection; none if that is no news.
    pub(crate) fn advance(
        &mut self,
        sent: u64,
        received: u64,
        passed: impl Fn(Barrier) -> bool,
    ) -> Option<Position> {
        let before = self.announced;
        while let Some(mark) = self.marks.get_mut(self.announced) {
            if mark.queued > sent || mark.handled.frames > received {
                break;
            }
            mark.barriers.retain(|&barrier| !passed(barrier));
            if !mark.barriers.is_empty() {
                break;
            }
            self.announced += 1;
        }
        (self.announced > before).then(|| self.marks[self.announced - 1].handled)
    }

    /// The gateway has acknowledged `acked` own frames.
    pub(crate) fn peer_acked(&mut self, acked: u64) {
        // What has not been announced yet must stay until it is.
        while self.announced > 0 && self.marks[0].queued <= acked {
            self.settled = self.marks.pop_front().expect("there is a first").handled;
            self.announced -= 1;
        }
    }

    /// The last position whose replies are all among the first `received` own frames.
    pub(crate) fn settled(&self, received: u64) -> Position {
        self.marks
            .iter()
            .take_while(|mark| mark.queued <= received && mark.barriers.is_empty())
            .last()
            .map_or(self.settled, |mark| mark.handled)
    }

    /// A new TCP connection begins, on which the peer states `acked` and was told `stated`.
    pub(crate) fn resume(&mut self, acked: u64, stated: Position) {
        self.announced = self.marks.iter().take_while(|mark| mark.handled.frames <= stated.frames).count();
        self.peer_acked(acked);
    }
}
