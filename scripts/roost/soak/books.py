"""What must hold at the end of a soak."""

import time

from roost.lib import rig as parts

LATENCY_FACTOR_MAX, LATENCY_US_MIN = 3, 2_000
# Why a client that broke the rules, or only came and went, may have been closed.
INNOCENT_REASONS = ("drain", "no_worker", "internal", "moved", "worker_rejected", "worker_closed")


def close(stage, troupes, stopped_because):
    """Ends the loads and says, line by line, what holds."""
    gateway, options = stage.gateway, stage.options
    stage.line("the gateway and its clients were there to the end", stopped_because or "yes", "yes", not stopped_because)
    if gateway.process.poll() is not None:
        return
    settled(stage)
    reasons = gateway.closes()
    for name in sorted(stage.loads):
        account(stage, name, stage.loads[name].end(180))
    conservation(stage)
    stage.figure("closes by reason", reasons)
    for reason in INNOCENT_REASONS:
        stage.equal(f"connections closed for {reason}", reasons.get(reason, 0), 0)
    if stage.loads.keys() >= {"load-a", "load-b"}:
        latency(stage)
    memory(stage)
    if stage.health_s:
        stage.at_most("slowest /healthz beside slow HTTP clients (s)", max(stage.health_s), 2)
    stage.figure("what was done", dict(sorted(stage.calendar.counts().items())))
    for troupe in troupes:
        stage.equal(f"{troupe.name}: acts that went wrong", troupe.failures[:3], [])
    stage.figure("messages per second aimed at", options.rate)


def settled(stage):
    """Troubles are over: everybody is where it was, and the hostile are gone."""
    stage.gateway.reader.reads.set()
    parts.wait("only the innocent to be left", lambda: stage.gateway.open() == stage.options.clients, within_s=120)
    parts.wait("the links", lambda: stage.gateway.value("roost_links_up") == 4)
    time.sleep(1)


def account(stage, name, result):
    """No innocent client was closed, none of its messages lost."""
    stage.equal(f"{name}: clients held throughout", result["connections_held_min"], result["connections_requested"])
    stage.equal(f"{name}: clients cut off", sum(result["disconnected"].values()), 0)
    stage.at_least(f"{name}: messages sent", result["messages_sent"], 1)
    for key in ("lost", "duplicated", "reordered", "misdelivered", "corrupted", "protocol_errors"):
        # Where workers route, a message to a user that a dead worker served is told to its sender.
        stage.equal(f"{name}: {key.replace('_', ' ')}", result[key], 0)
    beats = result["heartbeats"]
    stage.equal(f"{name}: heartbeats answered", beats["answered"], beats["sent"])
    scheduled = result["scheduled"]
    stage.at_least(f"{name}: share of the rate that the generator kept", scheduled["sent"] / scheduled["planned"], 0.99)
    stage.figure(f"{name}: duplicated after failover, marked re-sent", result["duplicated_after_failover"])
    if undeliverable := result["extra"].get("undeliverable"):
        stage.figure(f"{name}: undeliverable, told to the sender", undeliverable)


def conservation(stage):
    """accepted - closed = live, when everybody has left and before."""
    gateway = stage.gateway

    def balance():
        accepted, live = gateway.value("roost_accepts_total"), gateway.value("roost_connections")
        return accepted - sum(gateway.closes().values()) - live

    try:
        parts.wait("accepted - closed = live", lambda: balance() == 0, within_s=30)
    except parts.Failed:
        pass
    stage.equal("accepted - closed - live", balance(), 0)
    for name in ("roost_outbox_bytes", "roost_spill_bytes"):
        stage.equal(f"{name} at the end", gateway.value(name), 0)


def latency(stage):
    """The 99th percentile of clients whose worker is alive, beside that of the quiet part."""
    quiet = stage.calendar.spans("quiet")[0]
    troubled = stage.calendar.spans("troubled")[0]
    found = {}
    for name in "ab":
        load = stage.loads[f"load-{name}"]
        before = load.latency(*quiet, whole=True)
        during = merge([load.latency(*span, whole=True)
                        for span in without(troubled, stage.calendar.spans(f"trouble-{name}"))])
        found[name] = (before.percentile(99), percentile(during, 99), sum(count for _, count in during))
        stage.figure(f"clients of {name}: p99 quiet, troubled (us), replies", found[name])
    if stage.small:
        return
    for name, (before, during, _) in found.items():
        limit = max(LATENCY_FACTOR_MAX * before, LATENCY_US_MIN)
        stage.at_most(f"clients of {name}: p99 while {name} is alive (us)", during, limit)


def without(span, holes):
    """What is left of a span of time."""
    left, at = [], span[0]
    for began, ended in sorted(holes):
        if began > at:
            left.append((at, min(began, span[1])))
        at = max(at, ended)
    if at < span[1]:
        left.append((at, span[1]))
    return left


def merge(spans):
    merged = {}
    for span in spans:
        for value, count in span.counts:
            merged[value] = merged.get(value, 0) + count
    return sorted(merged.items())


def percentile(counts, percent):
    wanted, seen = sum(count for _, count in counts) * percent / 100, 0
    for value, count in counts:
        seen += count
        if seen >= wanted:
            return value
    return None


def memory(stage):
    """What docs/operations.md says that it can come to have: records, pools, and its start."""
    pools = stage.gateway.pools_bytes()
    slots = stage.gateway.values["connections_max"]
    bound = stage.memory_at_start + slots * 64 + pools
    stage.at_most("most memory that the gateway had (MiB)", stage.sampler.peak / 2**20, bound / 2**20)
