//! What a set of runs has reached: states, transitions, close reasons, faults.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use roost_protocol::Reason;

use crate::core::{
    connection::lifecycle::TRANSITIONS,
    link::{self, LinkState},
    record::{State, bit, flag},
    shard::inspect::{LinkView, SlotView},
    stats::Stat,
};

/// What has been reached.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    /// Runs.
    pub runs: u64,
    /// Turns of the shard loop.
    pub turns: u64,
    /// Virtual time, in microseconds.
    pub virtual_us: u64,
    /// Messages of clients handled, and of those, marked re-sent.
    pub handled: (u64, u64),
    /// Messages delivered to clients.
    pub delivered: u64,
    /// States of connections.
    pub states: BTreeSet<u8>,
    /// Transitions of connections between two looks at the end of a turn.
    pub transitions: BTreeMap<(u8, u8), u64>,
    /// How often a connection came into one of [`SITUATIONS`], or a link into one of
    /// [`LINK_SITUATIONS`].
    pub situations: BTreeMap<&'static str, u64>,
    /// Transitions of links.
    pub link_transitions: BTreeMap<(u8, u8), u64>,
    /// Closes by reason.
    pub reasons: BTreeMap<u8, u64>,
    /// Faults of the kernel and deeds of chaos.
    pub faults: BTreeMap<&'static str, u64>,
    /// Selected counters of the shard, by name.
    pub stats: BTreeMap<String, u64>,
}

impl Coverage {
    /// Adds another set of runs.
    pub fn merge(&mut self, other: &Self) {
        self.runs += other.runs;
        self.turns += other.turns;
        self.virtual_us += other.virtual_us;
        self.handled.0 += other.handled.0;
        self.handled.1 += other.handled.1;
        self.delivered += other.delivered;
        self.states.extend(&other.states);
        add(&mut self.transitions, &other.transitions);
        add(&mut self.situations, &other.situations);
        add(&mut self.link_transitions, &other.link_transitions);
        add(&mut self.reasons, &other.reasons);
        add(&mut self.faults, &other.faults);
        add(&mut self.stats, &other.stats);
    }

    /// What was reached of what there is, in a few lines.
    pub fn summary(&self) -> String {
        let states = State::ALL.iter().filter(|&&state| self.states.contains(&(state as u8))).count();
        let seen = |&(from, to): &(State, State)| self.transitions.contains_key(&(from as u8, to as u8));
        let steps = transitions().filter(seen).count();
        let seen = |&(from, to): &(LinkState, LinkState)| {
            self.link_transitions.contains_key(&(from as u8, to as u8))
        };
        let link_steps = link_transitions().filter(seen).count();
        let situations = situation_names().filter(|name| self.situations.contains_key(name)).count();
        let reachable = || Reason::ALL.iter().filter(|reason| !UNREACHABLE.contains(reason));
        let reasons = reachable().filter(|reason| self.reasons.contains_key(&reason.code())).count();
        let (distinct, faults) = (self.faults.len(), self.faults.values().sum::<u64>());
        format!(
            "reached: {states} of {} states, {steps} of {} transitions, {link_steps} of {} link \
             transitions, {situations} of {} situations, {reasons} of {} close reasons\ninjected: {distinct} distinct faults, {faults} in all",
            State::ALL.len(),
            transitions().count(),
            link_transitions().count(),
            situation_names().count(),
            reachable().count(),
        )
    }

    /// What should have been reached and was not; empty when nothing is missing.
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for state in State::ALL {
            if !self.states.contains(&(state as u8)) {
                missing.push(format!("state {state:?}"));
            }
        }
        for (from, to) in transitions() {
            if !self.transitions.contains_key(&(from as u8, to as u8)) {
                missing.push(format!("transition {from:?} -> {to:?}"));
            }
        }
        for (from, to) in link_transitions() {
            if !self.link_transitions.contains_key(&(from as u8, to as u8)) {
                missing.push(format!("link transition {from:?} -> {to:?}"));
            }
        }
        for name in situation_names() {
            if !self.situations.contains_key(name) {
                missing.push(format!("situation: {name}"));
            }
        }
        for stat in COUNTERS {
            if self.stats.get(&format!("{stat:?}")).is_none_or(|&count| count == 0) {
                missing.push(format!("counter {stat:?}"));
            }
        }
        for &reason in Reason::ALL {
            if !UNREACHABLE.contains(&reason) && !self.reasons.contains_key(&reason.code()) {
                missing.push(format!("close reason {reason}"));
            }
        }
        missing
    }
}

/// Two steps that connections take in one turn, and that must be seen besides [`TRANSITIONS`]: looks
/// are taken at the ends of turns.
pub const SHORTCUTS: [[State; 3]; 2] = [
    [State::Accepting, State::Handshaking, State::Draining],
    [State::Closing, State::Free, State::Accepting],
];

/// What must be seen of connections: every step of their table, and [`SHORTCUTS`].
fn transitions() -> impl Iterator<Item = (State, State)> {
    let steps = TRANSITIONS.iter().map(|step| (step.from, step.to));
    steps.chain(SHORTCUTS.iter().map(|&[from, _, to]| (from, to)))
}

/// A step of links that simulated workers do not cause: they break the protocol only once a link is up.
/// `core::tests::handshake` takes it.
const UNCAUSED: (LinkState, LinkState) = (LinkState::Proving, LinkState::Refusing);

/// What must be seen of links: every step of their table but [`UNCAUSED`].
fn link_transitions() -> impl Iterator<Item = (LinkState, LinkState)> {
    link::TRANSITIONS.iter().map(|step| (step.from, step.to)).filter(|&step| step != UNCAUSED)
}

/// What a connection's state alone does not tell, and where it takes several things at once to go
/// wrong. Each must be seen at the end of a turn.
pub const SITUATIONS: [Situation<SlotView>; 9] = [
    ("no buffer, before HELLO", |view| starves(view) && view.state == State::Handshaking),
    ("no buffer, open", |view| starves(view) && view.state == State::Open),
    ("no buffer, sent away", |view| starves(view) && view.state == State::Draining),
    ("no buffer, being shut", |view| starves(view) && view.ops & bit::SHUTDOWN != 0),
    ("blocked, before HELLO", |view| blocked(view) && view.state == State::Handshaking),
    ("blocked, open", |view| blocked(view) && view.state == State::Open),
    ("blocked, moving", |view| blocked(view) && view.flags & flag::MOVING != 0),
    ("half a record, open", |view| view.kept_bytes > 0 && view.state == State::Open),
    ("unread, to be sent to", |view| blocked(view) && view.outbox_bytes > 0),
];

/// The same for links.
pub const LINK_SITUATIONS: [Situation<LinkView>; 1] = [("given up, being sent to", |view| {
    view.state == LinkState::Closing && view.session.is_some() && view.is_gone && view.is_sending
})];

/// Its name, and whether a connection, or a link, is in it.
pub type Situation<View> = (&'static str, fn(&View) -> bool);

fn situation_names() -> impl Iterator<Item = &'static str> {
    SITUATIONS.iter().map(|(name, _)| *name).chain(LINK_SITUATIONS.iter().map(|(name, _)| *name))
}

const fn starves(view: &SlotView) -> bool {
    view.flags & flag::RX_WAIT != 0
}

const fn blocked(view: &SlotView) -> bool {
    view.flags & flag::BLOCKED != 0
}

/// What must have happened at least once.
pub const COUNTERS: [Stat; 14] = [
    Stat::AcceptErrors,
    Stat::Blocked,
    Stat::ConnectionsMoved,
    Stat::ConnectionsRekeyed,
    Stat::FanoutDeliveries,
    Stat::FramesResent,
    Stat::LinkErrors,
    Stat::LinkFailovers,
    Stat::LinkFramesStale,
    Stat::LinkResumes,
    Stat::PerIpUntracked,
    Stat::RelaysDropped,
    Stat::RelaysOriginGone,
    Stat::RxPoolWaits,
];

/// Reasons that a lone shard never closes for: a move closes no client, nothing refuses for the
/// ramp (it waits), and an internal failure is a panic.
pub const UNREACHABLE: [Reason; 3] = [Reason::Moved, Reason::AcceptRamp, Reason::Internal];

fn add<K: Ord + Clone>(to: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
    for (key, count) in from {
        *to.entry(key.clone()).or_default() += count;
    }
}

fn name(state: u8) -> String {
    State::ALL.get(usize::from(state)).map_or_else(|| state.to_string(), |state| format!("{state:?}"))
}

fn link_name(state: u8) -> String {
    LinkState::ALL
        .iter()
        .find(|known| **known as u8 == state)
        .map_or_else(|| state.to_string(), |state| format!("{state:?}"))
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hours = self.virtual_us as f64 / 3.6e9;
        writeln!(f, "{} runs, {} turns, {hours:.1} h of virtual time", self.runs, self.turns)?;
        let (handled, resent) = self.handled;
        writeln!(f, "{handled} messages handled ({resent} re-sent), {} delivered", self.delivered)?;
        writeln!(f, "transitions:")?;
        for (&(from, to), count) in &self.transitions {
            writeln!(f, "  {:<12} -> {:<12} {count:>9}", name(from), name(to))?;
        }
        writeln!(f, "situations:")?;
        for (name, count) in &self.situations {
            writeln!(f, "  {name:<28} {count:>9}")?;
        }
        writeln!(f, "link transitions:")?;
        for (&(from, to), count) in &self.link_transitions {
            writeln!(f, "  {:<12} -> {:<12} {count:>9}", link_name(from), link_name(to))?;
        }
        writeln!(f, "close reasons:")?;
        for (&code, count) in &self.reasons {
            let label = Reason::from_code(code).map_or("?", Reason::label);
            writeln!(f, "  {label:<28} {count:>9}")?;
        }
        writeln!(f, "faults and troubles:")?;
        for (fault, count) in &self.faults {
            writeln!(f, "  {fault:<28} {count:>9}")?;
        }
        writeln!(f, "counters:")?;
        for (stat, count) in &self.stats {
            writeln!(f, "  {stat:<28} {count:>9}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::SHORTCUTS;

    #[test]
    fn a_shortcut_is_made_of_steps() {
        for [from, by, to] in SHORTCUTS {
            assert!(from.may_become(by) && by.may_become(to) && !from.may_become(to), "{from:?} -> {to:?}");
        }
    }
}
