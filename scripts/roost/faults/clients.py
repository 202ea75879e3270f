"""Faults of clients, and the gateway's own death."""

import os
import re
import statistics
import subprocess
import sys
import time

from roost.lib import machine, programs, rig as parts
from roost.lib.rig import wait

NEAR, FAR = "10.99.0.1", "10.99.0.2"
SPOOFED = "198.18.0.0/15"  # RFC 2544: nobody's


def kill_gateway(rig):
    """kill -9 the gateway and start it again: its clients come back, all at once, and the workers
    serve them again."""
    clients, rate = rig.size(500, 20_000), rig.size(500, 2_000)
    a, b = rig.worker("a"), rig.worker("b")
    listen = f"127.0.0.1:{machine.free_port()}"
    settings = {"listen": listen, "connections_max": clients + 100}
    first = rig.gateway([a, b], **settings)
    asked, pid = rig.directory / "asked", rig.directory / "pid"
    # The generator has this run when all are connected; the rest is done here.
    command = f": > {asked}; while [ -e {asked} -a ! -s {pid} ]; do sleep 0.02; done; cat {pid}"
    load = rig.load("storm", first, connections=clients, rate=rate, active=clients, duration=rig.size(3, 20),
                    heartbeat_s=rig.size(3, 60), grace_s=60, storm_limit_s=120, restart_command=command)
    wait("all clients", asked.exists)
    rig.equal("clients before", first.open(), clients)
    first.kill()
    # At once: the kernel has not yet ended the dead one's rings, nor its listener.
    second = rig.gateway([a, b], **settings)
    part = pid.with_suffix(".part")
    part.write_text(f"{second.pid}\n", encoding="ascii")
    part.rename(pid)
    wait("all clients to be back", lambda: second.open() == clients)
    served = second.by_worker("roost_link_connections")
    result = load.finish(600)
    rig.equal("what the generator objects to", result["failures"], [])
    rig.equal("clients held from then on", result["connections_held_min"], clients)
    rig.line("both workers serve clients", served, "> 0", min(served.values()) > 0)
    for key in ("lost", "duplicated", "reordered", "misdelivered", "corrupted", "protocol_errors"):
        rig.equal(key.replace("_", " "), result[key], 0)
    storm = result["extra"]["storm"]
    rig.figure("listening again after (s)", round(storm["listening_again_s"], 2))
    rig.figure("all back after (s)", round(storm["all_connected_s"], 2))
    rig.figure("connections per second since", round(storm["connections_per_s_since_listening"]))


def vanish(rig):
    """Clients vanish without FIN or RST: their packets are dropped. Their slots are free within
    the idle timeout, others can have them, and those who stayed notice nothing."""
    clients, staying = rig.size(200, 10_000), rig.size(20, 500)
    idle_ms, beat_ms = rig.size(4_000, 20_000), rig.size(1_500, 8_000)
    address = f"0.0.0.0:{machine.free_port()}"
    a = rig.worker("a")
    gateway = rig.gateway([a], listen=address, idle_timeout_ms=idle_ms, heartbeat_interval_ms=beat_ms,
                          connections_max=clients + staying)
    far = other_side(rig)
    beats = {"heartbeat_s": beat_ms / 1000, "duration": 3_600, "grace_s": 60}
    stay = rig.load("echo", gateway, name="staying", connections=staying, rate=rig.size(50, 1_000),
                    first_user=clients, **beats)
    gone = rig.load("echo", gateway, name="vanishing", connections=clients, rate=rig.size(100, 1_000),
                    host=NEAR, inside=far, connect_rate=5_000, **beats)
    wait("all clients", lambda: gateway.open() == clients + staying)
    time.sleep(rig.size(0.5, 10))
    before = gateway.closes()
    inside(far, "ip", "link", "set", "far", "down")
    cut_at = time.time()
    gone.process.kill()
    wait("the slots to be free", lambda: gateway.value("roost_connections") == staying, within_s=idle_ms / 1000 + 60)
    took_s = time.time() - cut_at
    # Either wait, idle_timeout_ms and then linger_ms (1 s) for the GOAWAY, is counted in ticks of a
    # second and noticed by a sweep that comes round once a second; and one second to find out here.
    rig.at_most("slots free after (s)", round(took_s, 1), idle_ms / 1000 + 1 + rig.size(60, 2 * 2))
    closes = {reason: count - before.get(reason, 0) for reason, count in gateway.closes().items()}
    rig.line("closed as", closes, f"{clients}, for silence",
              sum(closes.values()) == clients and not closes.keys() - {"idle_timeout", "client_vanished"})
    again = rig.load("echo", gateway, name="others", connections=clients, rate=rig.size(100, 1_000),
                     first_user=clients + staying, **beats)
    wait("others in their slots", lambda: gateway.open() == clients + staying)
    parts.clean(rig, again.end(), who="others in their slots")
    parts.clean(rig, stay.end(), who="clients that stayed")


def other_side(rig):
    """A network namespace joined to this one by a pair of devices; the pid of a process in it."""
    holder = rig.spawn(["unshare", "--net", "sleep", "3600"], "other-side.log")
    own = os.readlink("/proc/self/ns/net")
    wait("the other namespace", lambda: os.readlink(f"/proc/{holder.pid}/ns/net") != own)
    for command in (
        f"ip link add near type veth peer name far netns {holder.pid}",
        f"ip addr add {NEAR}/24 dev near", "ip link set near up",
    ):
        subprocess.run(command.split(), check=True)
    for command in (f"ip addr add {FAR}/24 dev far", "ip link set far up", "ip link set lo up"):
        inside(holder.pid, *command.split())
    return holder.pid


def inside(pid, *command):
    subprocess.run(["nsenter", "--target", str(pid), "--net", *command], check=True)


def own_bytes(gateway):
    """Memory that is the gateway's alone: pages of its program count more when another gateway ends."""
    return machine.memory_bytes(gateway.pid, "Anonymous")


def half_open(rig):
    """A flood of connections that never say HELLO, more than there are slots: each slot is free
    again after the handshake timeout, memory stays bounded, and clients still get in."""
    flood, slots, clients = rig.size(900, 15_000), rig.size(400, 10_000), rig.size(50, 1_000)
    handshake_ms = rig.size(2_000, 5_000)
    a = rig.worker("a")
    gateway = rig.gateway([a], handshake_timeout_ms=handshake_ms, connections_max=slots)
    before_bytes = own_bytes(gateway)
    own = flooding(rig, gateway.clients, flood)
    wait("the slots to be taken", lambda: gateway.value("roost_connections") >= slots)
    begin = time.time()
    load = rig.load("echo", gateway, connections=clients, rate=clients, duration=3_600, heartbeat_s=rig.size(3, 60),
                    grace_s=rig.size(120, 60))
    peak = 0

    def all_in():
        nonlocal peak
        peak = max(peak, own_bytes(gateway))
        return gateway.open() == clients

    wait("the clients to get in", all_in, within_s=120)
    got_in_s = time.time() - begin
    # They stand in the backlog behind the flood, which is served in order: a turn of all slots
    # for each time it fills them, and one for those that came in between.
    turns = -(-flood // slots) + 1
    rig.at_most("clients in after (s)", round(got_in_s, 1), turns * (handshake_ms / 1000 + 3) + rig.size(60, 5))
    wait("the flood to be told to go", lambda: gateway.closes().get("handshake_timeout", 0) >= flood)
    wait("its slots to be free", lambda: gateway.value("roost_connections") == clients)
    rig.equal("connections closed, by reason", gateway.closes(), {"handshake_timeout": flood})
    rig.at_most("memory grown at most by (KiB)", (peak - before_bytes) // 1024,
                (slots * 64 + 8 * 2**20) // 1024)
    parts.clean(rig, load.end())
    rig.figure("accepts that failed", gateway.value("roost_accept_errors_total"))
    own.stdin.close()


FLOOD = """
import socket, sys
target, count = ("127.0.0.1", int(sys.argv[1])), int(sys.argv[2])
held = []
for number in range(count):
    one = socket.socket()
    # A port is free again on each address of 127.0.0.0/8.
    one.bind((f"127.1.{number // 5000}.{number % 5000 // 250 + 1}", 0))
    one.connect(target)
    held.append(one)
print("flooded", flush=True)
sys.stdin.read()
"""


def flooding(rig, port, count):
    """A process with so many connections that say nothing. It holds them to the end."""
    return rig.spawn([sys.executable, "-c", FLOOD, port, count], "flood.log", stdin=subprocess.PIPE)


def syn_flood(rig):
    """SYNs from addresses that never answer, faster than the kernel's queue forgets them: they do
    not reach the gateway, and clients still get in."""
    clients, seconds, per_s = rig.size(50, 1_000), rig.size(2, 10), rig.size(3_000, 20_000)
    gateway = rig.gateway([rig.worker("a")], listen=f"0.0.0.0:{machine.free_port()}", connections_max=clients + 100)
    far = other_side(rig)
    subprocess.run(f"ip route add {SPOOFED} via {FAR}".split(), check=True)
    before, before_bytes = parts.netstat(), own_bytes(gateway)
    flood = rig.spawn(["nsenter", "--target", far, "--net",
                       *programs.module("faults.syns", NEAR, gateway.clients, per_s)], "syns.log")
    wait("the queue to overflow", lambda: grown(before, "TCPReqQFullDoCookies", "TCPReqQFullDrop") > 0)
    at_bytes = own_bytes(gateway)
    load = rig.load("echo", gateway, connections=clients, rate=clients, duration=3_600, heartbeat_s=rig.size(3, 60))
    wait("the clients to get in", lambda: gateway.open() == clients)
    time.sleep(seconds)
    held = gateway.value("roost_connections")
    rig.line("the flood went on meanwhile", flood.poll() is None, "= True", flood.poll() is None)
    result = load.end()
    flood.terminate()
    rig.equal("connections that the gateway has", held, clients)
    rig.at_most("memory grown by before there were clients (KiB)", (at_bytes - before_bytes) // 1024, 256)
    parts.clean(rig, result)
    rig.equal("connects that failed", result["connect_failed"], 0)
    rig.figure("SYNs answered with a cookie, or dropped", grown(before, "TCPReqQFullDoCookies", "TCPReqQFullDrop"))
    rig.figure("from connect to WELCOME p50, p99 (us)", [result["open_latency_us"][key] for key in ("p50", "p99")])


def grown(before, *names):
    now = parts.netstat()
    return sum(now[name] - before[name] for name in names)


def stop_reading(rig):
    """A client stops reading while it is sent 1 GiB over the link that its neighbours use too. It is
    closed as a slow consumer; memory stays as it is when all are quiet, and so does the neighbours'
    latency, by turns with a reader and with nobody that is sent anything much."""
    size_bytes, per_s = rig.size(24, 1024) << 20, rig.size(24, 64) << 20
    clients, rate, rounds, turn_s = rig.size(40, 2_000), rig.size(100, 2_000), rig.size(1, 8), rig.size(1, 5)
    # So slow that two processors have room for the pouring itself: what it costs is not the question.
    turn_per_s = 8 << 20
    a = rig.worker("a", "--handler", "route")
    gateway = rig.gateway([a], connections_max=clients + 100)
    load = rig.load("route", gateway, connections=clients, rate=rate, duration=3_600, heartbeat_s=rig.size(3, 60),
                    grace_s=60, gateway_pid=gateway.pid)
    wait("all neighbours", lambda: gateway.open() == clients)
    time.sleep(1)
    before_bytes = own_bytes(gateway)
    said, peak = pour(rig, gateway, "stops", size_bytes, per_s, looks=True)
    refused = re.search(r"refused after ([0-9.]+)", said)
    rig.at_most("closed as slow_consumer, and its worker told, after (s)",
                refused and float(refused[1]), rig.size(80, 25))
    # One outbox; what comes on the links of both shards (4 blocks of 256 KiB each), which is touched
    # in a hurry or not at all, so a reader is no measure of it; and the pages around them.
    rig.at_most("memory beyond that of quiet neighbours (KiB)",
                (peak - before_bytes) // 1024, 1024 + 2 * 4 * 256 + 1024)
    rig.figure("memory before and at most (MiB)", [round(each / 2**20, 1) for each in (before_bytes, peak)])
    spans = {"is quiet": [], "reads": [], "stops": []}
    for number in range(rounds):
        # Each is first, second and last in turn.
        for name in [*spans][number % 3:] + [*spans][:number % 3]:
            time.sleep(rig.size(0.2, 0.5))
            begin = time.time()
            if name == "is quiet":
                time.sleep(turn_s)
            else:
                pour(rig, gateway, name, turn_per_s * turn_s, turn_per_s)
            spans[name].append((begin, time.time()))
    rig.equal("closed for another reason",
              sorted(gateway.closes().keys() - {"slow_consumer", "client_closed", "client_eof", "client_reset"}), [])
    parts.clean(rig, load.end(), who="neighbours")
    p99 = {name: [load.latency(*span).percentile(99) for span in each] for name, each in spans.items()}
    for name, each in p99.items():
        rig.figure(f"neighbours' p99 while it {name} (us)", each)
    if not rig.small:
        median = {name: statistics.median(each) for name, each in p99.items()}
        for name, limit in (("is quiet", 1.5), ("reads", 1.2)):
            rig.at_most(f"their median while it stops, of that while it {name}",
                        round(median["stops"] / median[name], 2), limit)


def pour(rig, gateway, how, size_bytes, per_s, looks=False):
    """Has a client sent so much while it reads or stops reading. What the pourer said, and with
    `looks` the most memory that the gateway had: it keeps what it has touched, so to look seldom is
    enough. Where latency is asked for nobody looks, since to look is a delay."""
    before = gateway.value("roost_closes_total", reason="slow_consumer")
    log = f"pour-{time.monotonic_ns()}.log"
    process = rig.spawn(programs.module("faults.pour", gateway.clients, how, size_bytes, per_s), log)
    peak, until = 0, time.monotonic() + 600
    while process.poll() is None:
        if time.monotonic() > until:
            raise parts.Failed("pouring takes too long")
        time.sleep(rig.size(0.1, 0.5))
        if looks:
            peak = max(peak, own_bytes(gateway))
    said = rig.log(log)
    rig.line(f"poured while it {how}", said.strip().splitlines()[-1:], f"{size_bytes} bytes",
             process.returncode == 0 and f"sent {size_bytes}" in said)
    rig.equal(f"slow consumers closed while it {how}",
              gateway.value("roost_closes_total", reason="slow_consumer") - before, 0 if how == "reads" else 1)
    return said, peak
