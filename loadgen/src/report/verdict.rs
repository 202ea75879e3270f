//! Whether a run was clean, and whether the generator was its limit.

use super::result::RunResult;
use crate::{found::Found, plan::Plan};

/// A send lag above this at the 99th percentile means that the generator was late, in
/// microseconds.
const SEND_LAG_P99_MAX_US: u64 = 1_000;
/// A load thread busier than this share of a core has nothing left to be on time with.
const CPU_SHARE_MAX: f64 = 0.9;
/// In a closed loop a load thread that ran, or waited for its core, for this share of the time was
/// the limit, or shares its core with what was.
const WANTED_SHARE_MAX: f64 = 0.9;
/// Of the scheduled messages, this share must have been sent.
const SENT_SHARE_MIN: f64 = 0.99;

/// Fills in the verdicts.
pub fn judge(result: &mut RunResult, plan: &Plan, found: &Found) {
    result.generator.limited_because = limited_because(result, plan);
    result.generator_limited = result.generator.limited_because.is_some();
    let mut failures = if plan.scenario.expects_closes() { Vec::new() } else { held(result) };
    failures.extend(sent(result, plan));
    failures.extend(delivered(result));
    failures.extend(found.broken_rules.iter().cloned());
    failures.extend(found.stopped.map(|stopped| stopped.to_string()));
    result.failures = failures;
}

fn limited_because(result: &RunResult, plan: &Plan) -> Option<String> {
    if plan.closed {
        let wanted =
            result.generator.busiest_thread_wanted_share.filter(|&share| share > WANTED_SHARE_MAX)?;
        return Some(format!(
            "a load thread ran or waited for a core {:.0}% of the time: add --threads, cores or machines",
            wanted * 100.0
        ));
    }
    let lag = result.send_lag_us.filter(|lag| lag.p99 > SEND_LAG_P99_MAX_US).map(|lag| {
        format!("1% of the messages left {} us late or later (limit {SEND_LAG_P99_MAX_US} us)", lag.p99)
    });
    let cpu = result.generator.busiest_thread_cpu_share.filter(|&share| share > CPU_SHARE_MAX).map(|share| {
        format!("a load thread used {:.0}% of a core: add --threads or machines", share * 100.0)
    });
    let all: Vec<_> = [lag, cpu].into_iter().flatten().collect();
    (!all.is_empty()).then(|| all.join("; "))
}

fn held(result: &RunResult) -> Vec<String> {
    let mut failures = Vec::new();
    let requested = result.connections_requested;
    match result.connections_held_min {
        Some(held) if held == requested => {}
        Some(held) => failures.push(format!("connections_held_min is {held} of {requested}")),
        None => failures.push("the hold was not reached".to_owned()),
    }
    if let Some(check) = result.final_check
        && (check.answered != check.clients || check.clients != requested)
    {
        failures
            .push(format!("final check: {} of {requested} clients got their message back", check.answered));
    }
    failures
}

fn sent(result: &RunResult, plan: &Plan) -> Option<String> {
    let owed = plan.messages();
    let sent = result.scheduled.sent;
    ((sent as f64) < owed as f64 * SENT_SHARE_MIN)
        .then(|| format!("{sent} of {owed} scheduled messages were sent, less than 99%"))
}

fn delivered(result: &RunResult) -> Vec<String> {
    let heartbeats = &result.heartbeats;
    let unanswered = heartbeats.sent.saturating_sub(heartbeats.answered + heartbeats.cut_off);
    let mut failures = Vec::new();
    if unanswered > 0 {
        failures.push(format!("{unanswered} heartbeats went unanswered"));
    }
    if heartbeats.due != heartbeats.sent {
        failures.push(format!("{} of {} heartbeats due were sent", heartbeats.sent, heartbeats.due));
    }
    for (count, what) in [
        (result.lost, "lost"),
        (result.duplicated, "duplicated"),
        (result.reordered, "reordered"),
        (result.misdelivered, "misdelivered"),
        (result.corrupted, "corrupted"),
    ] {
        if count > 0 {
            failures.push(format!("{count} messages {what}"));
        }
    }
    if let Some(error) = &result.first_protocol_error {
        failures.push(format!("{} protocol errors, first at {error}", result.protocol_errors));
    }
    failures
}
