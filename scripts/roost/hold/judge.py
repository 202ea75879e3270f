"""The verdict on a large run: which promises hold."""

import math

from roost.hold.kernel import MIB
from roost.lib.verdict import Verdict, read

USER_BYTES_MAX = 64
# A ring more is a descriptor and an eventfd more.
SLOTS_PER_RING = 16_384
# What a parked poll and its slot add in the kernel to a pair of sockets, and a part of the pair: allocators differ.
KERNEL_BYTES_BEYOND_MAX = 263 + 0.05 * 4_150


def judge(options, report, ooms):
    n, verdict = options.connections, Verdict()
    print()
    verdict.say(f"{n:,} clients: {report.get('generator', {}).get('clients_are', 'no report')}")
    machine = report.get("machine", {})
    verdict.say(", ".join(f"{key} {value}" for key, value in machine.items()))
    verdict.line("the run ended", "", report.get("ended"), report.get("ended") == "as planned")
    verdict.equal("clients held throughout", report.get("connections_held_min"), n)
    gateway, kernel = report.get("gateway", {}), report.get("kernel", {})
    verdict.equal("clients held, as the gateway counts", gateway.get("connections_by_its_own_count"), n)
    sockets = (kernel.get("sockstat_at_all") or {}).get("tcp_inuse", 0)
    ends = 2 if options.transport == "socket" else 1
    verdict.line("TCP sockets in use, as the kernel counts", sockets, f">= {ends * n}", sockets >= ends * n)
    beats = report.get("heartbeats", {})
    due = beats.get("due", 0)
    verdict.line("heartbeats due", due, f">= {n}", due >= n)
    verdict.equal("heartbeats sent", beats.get("sent"), due)
    if options.storm:
        # The kill cuts some off; every other one is answered.
        verdict.note("heartbeats cut off by the kill", beats.get("cut_off"))
    verdict.equal("heartbeats answered", beats.get("answered"), due - (beats.get("cut_off", 0) if options.storm else 0))
    verdict.equal("clients with one answered before figures were taken", beats.get("clients_answered_before_figures"), n)
    verdict.replies(report)
    sent, planned = (report.get("scheduled", {}).get(key) for key in ("sent", "planned"))
    verdict.line("messages sent of those scheduled", f"{sent}/{planned}", "all", bool(planned) and sent == planned)
    check = report.get("final_check") or {}
    verdict.equal("clients that got a message back at the end", check.get("answered"), n)
    if not options.storm:
        verdict.handled(report)
        verdict.at_most("user bytes per connection", gateway.get("user_bytes_per_connection"), USER_BYTES_MAX)
    else:
        judge_storm(options, verdict, report)
    if options.floor:
        judge_floor(options, verdict, report)
    verdict.equal("processes killed for want of memory", ooms, 0)
    for failure in report.get("failures", ["no report"]):
        verdict.line(f"the generator says: {failure}", "", "", False)
    figures(verdict, report)
    return verdict


def judge_floor(options, verdict, report):
    gateway, bare = report.get("gateway", {}), read(options.report("json", options.bare))
    stopped = read(options.report("json", "stopped"))
    kernel, floor = (each.get("kernel_bytes_per_connection") for each in (gateway, bare.get("gateway", {})))
    beyond = None if None in (kernel, floor) else kernel - floor
    verdict.at_most("kernel bytes per pair beyond a bare server's", beyond, KERNEL_BYTES_BEYOND_MAX)
    rings = math.ceil(options.connections / SLOTS_PER_RING)
    verdict.at_most("descriptors of the gateway", gateway.get("open_fds"), 32 + 2 * rings)
    came = stopped.get("messages_received")
    verdict.line("replies while the worker was stopped", came, "= 0", came in (0, None) and bool(stopped))


def judge_storm(options, verdict, report):
    storm = report.get("extra", {}).get("storm", {})
    verdict.equal("clients that came back", storm.get("sessions_opened"), options.connections)
    since = storm.get("since_listening", {})
    verdict.equal("connects that failed since it listens again", since.get("connect_failed"), 0)
    verdict.equal("refused without retry-after since it listens again", since.get("refused_without_retry_after"), 0)
    verdict.note("refused since, and back at the time that they were told", since.get("told_when_to_come_back"))
    if options.keep_listener:
        verdict.equal("connects that failed in the whole run", report.get("connect_failed"), 0)
        verdict.equal("refused in the whole run", sum(report.get("refused", {"no report": 1}).values()), 0)
    for key in ("listening_again_s", "old_ended_s", "back_when_old_ended", "all_connected_s", "connections_per_s_since_listening"):
        value = storm.get(key)
        verdict.note(f"storm: {key}", value if value is None else round(value, 2))
    for key in ("gateway_pss_peak_bytes", "machine_memory_peak_bytes"):
        verdict.note(f"storm: {key}", storm.get(key))
    verdict.note("storm: before it listened again", storm.get("before_listening"))
    verdict.note("storm: since", storm.get("since_listening"))


def figures(verdict, report):
    """What has no limit to keep."""
    rounded = lambda value: value if value is None else round(value, 1)
    gateway, kernel, generator = (report.get(key, {}) for key in ("gateway", "kernel", "generator"))
    for kind in ("latency_us", "latency_uncorrected_us", "send_lag_us"):
        p = report.get(kind) or {}
        verdict.note(f"{kind} p50 / p99 / p99.9 / max", " / ".join(str(p.get(k)) for k in ("p50", "p99", "p999", "max")))
    late_us = report.get("heartbeats", {}).get("late_us_max")
    verdict.note("the latest heartbeat was sent late by, us", late_us)
    verdict.note("the generator was the limit", generator.get("limited_because") or "no")
    for what, value in (
        ("kernel bytes per connection, server side", gateway.get("kernel_bytes_per_connection")),
        ("gateway CPU s per million messages and heartbeats", gateway.get("cpu_s_per_million_exchanges")),
        ("worker bytes per connection", report.get("worker", {}).get("user_bytes_per_connection")),
        ("generator: bytes per client", generator.get("user_bytes_per_client")),
        ("generator: CPU us per connection", generator.get("cpu_us_per_connection")),
        ("generator: CPU us per message or heartbeat", generator.get("cpu_us_per_exchange")),
    ):
        verdict.note(what, rounded(value))
    verdict.note("gateway descriptors", gateway.get("open_fds"))
    least = report.get("memory", {}).get("free_least_bytes")
    verdict.note("least memory free or page cache, MiB", least and least // MIB)
    for growth in kernel.get("slab", []):
        if growth["counted"] and abs(growth["bytes"]) >= 1:
            verdict.note(f"slab bytes per connection: {growth['cache']}", rounded(growth["bytes"]))
