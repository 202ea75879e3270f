"""Faults of workers and links: killed, stopped, cut off."""

import signal
import statistics
import time

from roost.faults import proxy
from roost.lib import machine, rig as parts
from roost.lib.rig import wait


def kill_worker(rig):
    """kill -9 a worker under load, over and over: restarted late for the odd ones, at once for the
    even ones. Clients stay, nothing is lost, nothing comes twice but what was marked re-sent."""
    clients, rate, kills = rig.size(400, 50_000), rig.size(800, 20_000), rig.size(4, 10)
    failover_ms, away_s, settle_s = rig.size(1_500, 10_000), rig.size(0.5, 5.0), rig.size(0.7, 3.0)
    a, b = rig.worker("a"), rig.worker("b")
    gateway = rig.gateway([a, b], link_failover_ms=failover_ms, connections_max=clients + 1_000)
    load = rig.load(
        "echo", gateway, connections=clients, rate=rate, duration=3_600, connect_rate=rig.size(2_000, 5_000),
        heartbeat_s=rig.size(3, 60), failover=True, grace_s=60, gateway_pid=gateway.pid,
    )
    wait("all clients", lambda: gateway.open() == clients)
    shares = gateway.by_worker("roost_link_connections")
    rig.line("both workers have clients", shares, "> 0", min(shares.values()) > 0)
    time.sleep(settle_s)
    killed, full_service, rebalanced = [], [], []
    for number in range(1, kills + 1):
        late = number % 2 == 1
        killed.append(time.time())
        a.kill()
        if late:
            time.sleep(failover_ms / 1000 + away_s)
            wait("all clients to be at the other worker",
                 lambda: gateway.by_worker("roost_link_connections")["b"] == clients)
        a.start()
        back = time.time()
        wait("the shares of before", lambda: gateway.by_worker("roost_link_connections") == shares
             and gateway.by_worker("roost_link_up") == {"a": 2, "b": 2})
        rebalanced.append(time.time() - back)
        time.sleep(settle_s)
    ended = time.time()
    counted = {name: gateway.value(f"roost_link_{name}_total")
               for name in ("failovers", "frames_resent", "frames_stale", "breaks", "sessions")}
    closes = gateway.closes()
    result = load.end()
    for begin, end in zip(killed, killed[1:] + [ended]):
        worst = load.latency(begin, end).max()
        full_service.append(None if worst is None else worst / 1e6)
    parts.clean(rig, result, failover=True)
    everything = load.latency(0, time.time())
    rig.equal("replies and p99 by the interval log", [everything.count, everything.percentile(99)],
              [result["latency_us"]["count"], result["latency_us"]["p99"]])
    rig.equal("sessions given up, one a kill and shard", counted["failovers"], 2 * kills)
    rig.at_most("messages duplicated after failover, of those marked re-sent",
                result["duplicated_after_failover"], counted["frames_resent"])
    rig.equal("connections closed while the load ran, by reason", closes, {})
    rig.figure("messages", result["messages_sent"])
    rig.figure("frames re-sent", counted["frames_resent"])
    rig.figure("duplicated after failover", result["duplicated_after_failover"])
    for name, each in (("late", full_service[0::2]), ("at once", full_service[1::2])):
        rig.figure(f"full service after a kill, restarted {name}: p50, max (s)",
                   [round(statistics.median(each), 3), round(max(each), 3)])
    limit_s = failover_ms / 1000 + rig.size(60, 5)
    rig.line("full service after every kill (s)", round(max(full_service), 3), f"<= {limit_s}",
              max(full_service) <= limit_s)
    rig.figure("rebalanced after a restart: p50, max (s)",
               [round(statistics.median(rebalanced), 3), round(max(rebalanced), 3)])
    rig.figure("latency p50, p99 over all (us)", [result["latency_us"]["p50"], result["latency_us"]["p99"]])
    rig.figure("generator limited", result["generator_limited"])


def stop_worker(rig):
    """SIGSTOP of one worker, over and over, first for shorter and then for longer than the failover
    time. Its clients wait, or move and come back; the other worker's clients notice nothing."""
    clients, rate = rig.size(60, 5_000), rig.size(120, 2_000)
    failover_ms, settle_s = rig.size(6_000, 10_000), rig.size(0.5, 3.0)
    a, b = rig.worker("a"), rig.worker("b")
    gateway = rig.gateway([a, b], link_failover_ms=failover_ms, connections_max=2 * clients + 100)
    flags = {"connections": clients, "rate": rate, "duration": 3_600, "heartbeat_s": rig.size(3, 60), "grace_s": 60}
    stopped = rig.load("echo", gateway, name="load-a", key=parts.key_of("a", "ab"), failover=True, **flags)
    other = rig.load("echo", gateway, name="load-b", key=parts.key_of("b", "ab"), first_user=clients, **flags)
    shares = {"a": clients, "b": clients}

    def settled():
        return gateway.by_worker("roost_link_connections") == shares and gateway.value("roost_links_up") == 4

    def given_up():
        return gateway.value("roost_link_failovers_total")

    wait("all clients, each load at its worker", settled)
    # So long its clients wait in the longer stop, whatever the clocks make of the failover time.
    longest_s = failover_ms / 1000 - 0.7
    before, during, catching_up, moved_s, shards = {}, {}, {}, [], 2
    for name, span_s, rounds in (
        ("shorter", failover_ms / 1000 / rig.size(4, 2), rig.size(1, 5)), ("longer", longest_s, rig.size(1, 3)),
    ):
        for number in range(1, rounds + 1):
            time.sleep(settle_s + span_s)
            begin = time.time()
            a.signal(signal.SIGSTOP)
            # Not a question to the gateway meanwhile: on a machine of few processors, to answer it
            # and to read the answer twenty times a second is the delay that would be measured.
            time.sleep(span_s)
            end = time.time()
            before.setdefault(name, []).append((begin - span_s, begin))
            during.setdefault(name, []).append((begin, end))
            if name == "longer":
                wait("its sessions to be given up", lambda: given_up() == shards * number)
                wait("its clients to be at the other worker",
                     lambda: gateway.by_worker("roost_link_connections") == {"a": 0, "b": 2 * clients})
                moved_s.append(round(time.time() - begin, 2))
                time.sleep(settle_s)
            else:
                rig.equal(f"sessions given up by shorter stop {number}", given_up(), 0)
            a.signal(signal.SIGCONT)
            wait(f"the shares of before, after {name} stop {number}", settled)
            catching_up.setdefault(name, []).append((end, time.time() + settle_s))
    time.sleep(settle_s)
    resent = gateway.value("roost_link_frames_resent_total")
    stale = gateway.value("roost_link_frames_stale_total")
    result = stopped.end()
    parts.clean(rig, result, failover=True, who="the stopped worker's clients")
    rig.at_most("messages duplicated after failover, of those marked re-sent",
                result["duplicated_after_failover"], resent)
    parts.clean(rig, other.end(), who="the other worker's clients")
    rig.equal("sessions given up, one a longer stop and shard", given_up(), shards * len(moved_s))
    rig.figure("moved to the other worker after (s)", moved_s)
    rig.figure("frames of the stopped worker dropped as stale", stale)
    for name, spans in during.items():
        # One p99 a stop: a moment in which the machine had other things to do spoils just one.
        calm, alone = ([other.latency(*span, whole=True) for span in each] for each in (before[name], spans))
        p99 = [[span.percentile(99) for span in each] for each in (calm, alone)]
        rig.figure(f"replies to the other's clients per {name} stop", min(span.count for span in alone))
        for what, each in zip(("before", "during"), p99):
            rig.figure(f"the other's p99 {what} each {name} stop (us)", each)
        # What was held up comes all at once, to this worker or to the one that goes on.
        rig.figure(f"its max when what a {name} stop held up is served (us)",
                   max(other.latency(*span).max() for span in catching_up[name]))
        if not rig.small:
            median_before, median_during = map(statistics.median, p99)
            rig.at_most(f"median p99 of {name} stops, of that before them",
                        round(median_during / median_before, 2), 1.5)


def cut_link(rig):
    """The TCP connections of links are reset in the midst of a frame, in either direction, over
    and over; then they go dead without an end. Sessions go on: nothing lost, nothing twice."""
    clients, rate, cuts = rig.size(60, 5_000), rig.size(300, 2_000), rig.size(6, 40)
    a = rig.worker("a", listen=f"127.0.0.1:{machine.free_port()}")
    with proxy.Proxy(a.address) as between:
        gateway = rig.gateway([parts.At("a", between.address)], connections_max=clients + 100,
                              link_keepalive_ms=1_000, link_failover_ms=600_000)
        load = rig.load("echo", gateway, connections=clients, rate=rate, payload=900, duration=3_600,
                        heartbeat_s=rig.size(3, 60), grace_s=60)
        wait("all clients", lambda: gateway.open() == clients)
        for number in range(cuts):
            before = delivered(gateway)
            between.cut(to_worker=number % 2 == 0)
            wait("a link to be cut", lambda: between.cuts > number)
            wait("the links to be up again", lambda: gateway.value("roost_links_up") == 2)
            wait("replies", lambda: delivered(gateway) > before + rate // 10)
        breaks = gateway.value("roost_link_breaks_total")
        between.freeze()
        wait("the dead links to be noticed", lambda: gateway.value("roost_link_breaks_total") >= breaks + 2)
        wait("others in their place", lambda: gateway.value("roost_links_up") == 2)
        counted = {name: gateway.value(f"roost_link_{name}_total")
                   for name in ("breaks", "resumes", "sessions", "failovers", "protocol_errors")}
        parts.clean(rig, load.end())
    rig.equal("links cut in the midst of a frame", between.cuts, cuts)
    rig.at_least("links broken, as the gateway counts", counted["breaks"], cuts + 2)
    rig.at_least("links resumed", counted["resumes"], cuts + 2)
    rig.equal("sessions begun, one a shard", counted["sessions"], 2)
    rig.equal("sessions given up", counted["failovers"], 0)
    rig.equal("violations of the link protocol", counted["protocol_errors"], 0)
    rig.figure("bytes of a frame passed before a cut", between.passed)


def delivered(gateway):
    return gateway.value("roost_messages_delivered_total")
