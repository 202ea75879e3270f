//! The core's events as lines of the log. Single connections are never told of above debug.

use std::io;

use super::Dials;
use crate::{
    core::{
        ShardCore,
        event::{Event, LinkDownCause, LinkStep},
    },
    op::errno,
};

pub(super) fn write(core: &ShardCore, dials: &Dials, event: Event) {
    match event {
        Event::LinkUp { worker, resumed } => {
            let address = dials.shown(worker);
            tracing::info!(
                worker = core.worker_name(worker),
                shard = core.shard(),
                address,
                resumed,
                "link up"
            );
        }
        Event::LinkDown { worker, cause, was_up: true, .. } => {
            said(core, dials, worker, cause, "link down", None);
        }
        Event::LinkDown { worker, cause, failures, .. } => {
            said(core, dials, worker, cause, "link does not come up", Some(failures));
        }
        Event::LinkOverrun { worker } => tracing::error!(
            worker = core.worker_name(worker),
            shard = core.shard(),
            "worker acknowledges too little: what waits for it takes the most of the links' memory"
        ),
        Event::Failover { worker, connections } => {
            tracing::warn!(
                worker = core.worker_name(worker),
                shard = core.shard(),
                connections,
                "worker given up"
            );
        }
        Event::NoLink { workers } => {
            tracing::error!(
                workers,
                "workers without a link: all links have a worker, or one that is leaving"
            );
        }
        Event::HeldDown { worker, times, pause_ms } => tracing::warn!(
            worker = core.worker_name(worker),
            shard = core.shard(),
            times,
            pause_ms,
            "worker held down: its sessions are given up one after the other"
        ),
        Event::Draining { worker, draining } => {
            tracing::info!(worker = core.worker_name(worker), draining, "worker drains, or does no longer");
        }
        Event::Closed { connection, reason } => {
            tracing::debug!(connection = format_args!("{:016x}", connection.to_bits()), %reason, "closed");
        }
    }
}

/// A link's connection is gone, or did not come up.
fn said(
    core: &ShardCore,
    dials: &Dials,
    worker: u8,
    cause: LinkDownCause,
    what: &str,
    failures: Option<u32>,
) {
    let address = dials.shown(worker);
    let (worker, shard, text) = (core.worker_name(worker), core.shard(), cause_text(core, cause));
    match cause {
        LinkDownCause::Left | LinkDownCause::Removed | LinkDownCause::Moved => {
            tracing::info!(worker, shard, address, cause = text, failures, "{what}");
        }
        LinkDownCause::Protocol(_)
        | LinkDownCause::RefusedByWorker(_)
        | LinkDownCause::RefusedByGateway(_) => {
            tracing::error!(worker, shard, address, cause = text, failures, "{what}");
        }
        _ => tracing::warn!(worker, shard, address, cause = text, failures, "{what}"),
    }
}

fn cause_text(core: &ShardCore, cause: LinkDownCause) -> String {
    match cause {
        LinkDownCause::Dial { errno: errno::ELOOP } => {
            "it was connected to itself: nobody listens at that port of this host".into()
        }
        LinkDownCause::Dial { errno } => {
            format!("it cannot be dialled: {}", io::Error::from_raw_os_error(errno))
        }
        LinkDownCause::Late(LinkStep::Connect) => "nothing accepts the connection in time".into(),
        LinkDownCause::Late(LinkStep::Welcome) => "the worker does not answer LINK_HELLO in time".into(),
        LinkDownCause::Late(LinkStep::FirstFrame) => {
            "the worker says nothing after LINK_PROOF in time".into()
        }
        LinkDownCause::Eof => "the worker closed the connection".into(),
        LinkDownCause::Left => "the worker left after draining".into(),
        LinkDownCause::Io { errno } => {
            format!("the connection broke: {}", io::Error::from_raw_os_error(errno))
        }
        LinkDownCause::Silent(silent_ms) => format!("nothing came from the worker for {silent_ms} ms"),
        LinkDownCause::Protocol(error) => format!("link error: {error}"),
        LinkDownCause::RefusedByWorker(refusal) => format!("the worker refuses the handshake: {refusal}"),
        LinkDownCause::RefusedByGateway(refusal) => format!("the gateway refuses the handshake: {refusal}"),
        LinkDownCause::SameWorker { other } => format!(
            "the worker {} leads to the same process and has its link: name it once",
            core.worker_name(other)
        ),
        LinkDownCause::WrongResume => "the worker resumes a session that this gateway does not have".into(),
        LinkDownCause::HeldDown => "the worker is given up again and again".into(),
        LinkDownCause::Poisoned => "the worker made the same error twice at the same place".into(),
        LinkDownCause::MovesOverdue => "the worker lives, and does not answer CLOSED(moved)".into(),
        LinkDownCause::Removed => "the configuration does not name the worker any more".into(),
        LinkDownCause::Moved => "the configuration has another address for the worker".into(),
    }
}
