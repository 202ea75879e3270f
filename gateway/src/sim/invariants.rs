//! The invariants by name. Whatever finds one broken, in the core, the fake kernel, the books or
//! the shadow model, says `invariant NAME: ...`, and a failed run is known by that name.

/// Names and meanings, in the order of `docs/simulation.md`.
pub const INVARIANTS: &[(&str, &str)] = &[
    ("token-live", "a completion's token names a live slot or link and its generation"),
    ("op-bits", "ops in the kernel are exactly those whose bit is set, at most one of a kind"),
    (
        "buffer-in-one-place",
        "a block has one holder or is shared knowingly; nobody touches what the kernel uses",
    ),
    ("one-send-in-flight", "a connection has at most one send in the kernel"),
    ("join-before-close", "a socket is closed only when none of its ops is in the kernel"),
    ("free-slot-clean", "a free slot has no op, no spill, no outbox, no socket; a used one has its socket"),
    ("generation-bumped", "a slot never serves two clients under one generation"),
    ("lifecycle", "connections and links become only what their tables of transitions allow"),
    ("link-clean", "a link goes to another worker only when nothing of the last one is left"),
    ("link-buffer-let-go", "only a client's first send, in the kernel, holds a link's receive buffer"),
    ("outbox-sums", "every outbox has an owner and is on its way; its bytes are those of its segments"),
    ("spill-sums", "every spill has an owner; its bytes are those of its pieces"),
    ("reads-in-one-place", "a connection waits for input in exactly one place: poll, receive, or a list"),
    ("blocked-resumed", "a connection that waits stands on the list from which it will be resumed"),
    (
        "placement",
        "an open connection is with the worker that owns its last routing hash, or on its way there",
    ),
    ("no-orphans", "nothing is queued for a worker whose session is given up"),
    (
        "deadlines",
        "whoever waits for a worker's answer stands where its deadline is looked at, and that holds",
    ),
    ("conservation", "accepted - closed = alive; reasons sum to closed; every gauge counts what there is"),
    ("budget", "connections counted against the cap and against an address are those that are there"),
    ("admission", "what can wait is appended only where there is room; queues keep to what is theirs"),
    ("who-holds-pays", "where memory is used up, the one that is closed is among those that hold the most"),
    ("turns", "who waits for a receive buffer is not overtaken; a client has a bounded share of a turn"),
    ("served-time", "no deadline counts the time in which the process was stopped"),
    ("bounded-work", "the ops of a turn are bounded by what came in and the table's size"),
    ("no-livelock", "the loop waits when there is nothing to do"),
    ("liveness", "once troubles end, everybody is answered and everything is given back"),
    ("credit", "never more unacknowledged than granted; nothing retained without cause"),
    ("exactly-once", "nothing comes twice unless it is marked re-sent"),
    ("at-least-once", "nothing is left out, across breaks, failovers and moves"),
    ("in-order", "messages of one sender arrive in the order in which they were sent"),
    ("fencing", "a worker that was given up is not heard any more"),
    ("relay-origin", "an answer between workers reaches the session that asked, or nobody"),
    ("right-client", "what is for one client reaches no other"),
    ("whole-frames", "a frame arrives whole or not at all, with the bytes that were written"),
    ("goaway-last", "nothing follows GOAWAY"),
    ("close-reason", "a client hears the reason of what it did"),
    ("rate-limit", "nobody is cut off for sending too fast who has not sent that much at all"),
    ("clients-stay", "who gives no cause keeps its connection through all troubles of workers"),
    ("edge-protocol", "clients hear only what the edge protocol allows"),
    ("link-up", "a link is up only with a worker that has accepted LINK_PROOF"),
    ("one-link-per-worker", "no two links of a shard have sessions with one worker process"),
    ("hold-down", "who was given up three times in a row is not dialled before the pause while others serve"),
    ("link-protocol", "workers hear only what the link protocol allows, in an order that it allows"),
];

/// The invariant that a failure's text names, the first if there are several.
pub fn named_in(text: &str) -> Option<&'static str> {
    text.match_indices("invariant ").find_map(|(at, found)| {
        let (name, _) = text[at + found.len()..].split_once(':')?;
        INVARIANTS.iter().map(|&(known, _)| known).find(|&known| known == name)
    })
}

#[cfg(test)]
mod tests {
    use super::{INVARIANTS, named_in};

    #[test]
    fn a_name_is_found_wherever_a_panic_puts_it() {
        assert_eq!(named_in("invariant credit: 7 bytes"), Some("credit"));
        let panic = "assertion `left == right` failed: invariant op-bits: at most one\n left: 1";
        assert_eq!(named_in(panic), Some("op-bits"));
        assert_eq!(named_in("no invariant here: invariant in-order: 3"), Some("in-order"));
        assert_eq!(named_in("attempt to subtract with overflow"), None);
        assert_eq!(named_in("invariant nonsense: x"), None);
    }

    #[test]
    fn names_are_unique() {
        for (index, (name, _)) in INVARIANTS.iter().enumerate() {
            assert!(INVARIANTS[..index].iter().all(|(other, _)| other != name), "{name}");
        }
    }
}
