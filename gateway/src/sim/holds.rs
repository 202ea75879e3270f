//! What the simulation knows of workers that are given up again and again: reckoned from outside, in the
//! core's time, which stands still during a turn and in a pause.

use crate::core::{link::LinkState, shard::inspect::LinkView};

/// Times in a row that are followed by a pause.
const TIMES: u32 = 3;

/// One link's past.
#[derive(Clone, Copy, Debug, Default)]
struct Past {
    began_ms: u64,
    times: u32,
    last_ms: u64,
}

/// All links' pasts.
#[derive(Debug, Default)]
pub(super) struct Holds {
    pasts: Vec<Past>,
    /// The links at the end of the last turn.
    before: Vec<LinkView>,
    reloads: bool,
}

impl Holds {
    /// The next turn takes a configuration, which may have other addresses: what failed at the last
    /// ones counts for nothing.
    pub(super) fn reloads(&mut self) {
        self.reloads = true;
    }

    /// Looks at all links at the end of each turn, of one without completions, too: a session may be
    /// given up by a deadline alone. `now_ms` is the core's; `pauses_ms` are the first and the longest.
    pub(super) fn look(&mut self, links: Vec<LinkView>, now_ms: u64, pauses_ms: (u32, u32)) {
        if std::mem::take(&mut self.reloads) {
            self.pasts.clear();
        }
        self.pasts.resize(links.len(), Past::default());
        for (index, view) in links.iter().enumerate() {
            let Some(last) = self.before.get(index) else { continue };
            let past = &mut self.pasts[index];
            if view.removed || last.removed || view.worker_hash != last.worker_hash {
                *past = Past::default();
                continue;
            }
            if last.session != view.session {
                if last.session.is_some() && last.connections > 0 {
                    // What lasted nearly as long as the longest pause may have begun a new count.
                    let lasted_ms = now_ms - past.began_ms;
                    let again = lasted_ms < u64::from(pauses_ms.1 / 2);
                    past.times = if again { past.times + 1 } else { 0 };
                    past.last_ms = now_ms;
                }
                past.began_ms = now_ms;
            }
            let dials = last.state == LinkState::Down && view.state == LinkState::Connecting;
            let serves = |view: &LinkView| view.state == LinkState::Up && view.routable;
            let others_serve = links
                .iter()
                .zip(&self.before)
                .enumerate()
                .any(|(other, (now, then))| other != index && serves(now) && serves(then));
            let early = now_ms < past.last_ms + u64::from(pauses_ms.0 / 2);
            assert!(
                !(dials && others_serve && past.times >= TIMES && early),
                "invariant hold-down: link {index}, given up {} times in a row, is dialled {} ms after \
                 the last time",
                past.times,
                now_ms - past.last_ms
            );
        }
        self.before = links;
    }
}
