"""The bound on the gateway's own memory that docs/operations.md states, on the real process."""

import contextlib
import socket
import time

from roost.clients import edge_codec as edge
from roost.lib import rig as parts
from roost.lib.machine import memory_bytes
from roost.lib.rig import wait

KIB, MIB = 1024, 1024 * 1024


def bound(settings, shards, workers):
    """What the table in docs/operations.md, "How many connections", allows the process beyond what
    it has at the start, from the configuration alone."""
    frame = settings["frame_bytes_max"]
    link = 9 * settings["link_window_bytes"] // 4 + 3 * frame + 4 * max(256 * KIB, 2 * frame)
    return (
        settings["connections_max"] * (64 + 80)
        + settings["outbox_bytes_total"]
        + settings["spill_bytes_total"]
        + shards * (MIB + 64 * frame)
        + shards * workers * link
    )


class Slow:
    """A client that sends messages, which come back, and reads nothing. Its kernel buffers are
    small, so that the backlog is the gateway's."""

    def __init__(self, port, number):
        self.port, self.number = port, number
        self.message = edge.encode({"type": "MESSAGE", "payload": bytes(16 * KIB)})
        self.connect()

    def connect(self):
        self.socket = one = socket.socket()
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * KIB)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
        one.settimeout(60)
        one.connect(("127.0.0.1", self.port))
        self.rest = edge.encode({"type": "HELLO", "key": f"slow-{self.number}".encode(), "token": b""})
        one.setblocking(False)

    def send(self):
        """Sends what it can; comes back if it has been closed."""
        try:
            self.rest = self.rest[self.socket.send(self.rest):] or self.message
        except BlockingIOError:
            pass
        except OSError:
            self.socket.close()
            self.connect()


def unfinished(port, number):
    """A client that sends a header that announces 60 KiB and most of that, never the rest."""
    one = socket.create_connection(("127.0.0.1", port), 60)
    one.sendall(edge.encode({"type": "HELLO", "key": f"part-{number}".encode(), "token": b""}))
    one.settimeout(0.2)
    # When the pool is used up it is not read any more, or closed.
    with contextlib.suppress(OSError):
        one.sendall(bytes([edge.CODES["MESSAGE"]]) + (60 * KIB).to_bytes(3, "big") + bytes(58 * KIB))
    return one


def slow_clients(rig):
    """Clients that do not read, and others that leave their frames unfinished, until both pools
    are used up: the process never has more memory than docs/operations.md allows it."""
    slow, parts_of_frames = rig.size(100, 1_500), rig.size(150, 2_500)
    settings = {
        "connections_max": rig.size(500, 10_000), "frame_bytes_max": 64 * KIB, "outbox_bytes_max": 512 * KIB,
        "outbox_bytes_total": rig.size(8, 128) * MIB, "spill_bytes_total": rig.size(4, 64) * MIB,
        "link_window_bytes": rig.size(1, 4) * MIB, "frame_timeout_ms": 600_000, "write_timeout_ms": 60_000,
    }
    a = rig.worker("a")
    gateway = rig.gateway([a], **settings)
    start = memory_bytes(gateway.pid, "Private_Dirty")
    peaks = {"memory": 0, "backlogs": 0, "incomplete frames": 0}

    def look():
        peaks["memory"] = max(peaks["memory"], memory_bytes(gateway.pid, "Private_Dirty") - start)
        peaks["backlogs"] = max(peaks["backlogs"], gateway.value("roost_outbox_bytes"))
        peaks["incomplete frames"] = max(peaks["incomplete frames"], gateway.value("roost_spill_bytes"))

    def full(name, total):
        look()
        return peaks[name] >= 0.8 * settings[total]

    with contextlib.ExitStack() as stack:
        for number in range(parts_of_frames):
            stack.push(contextlib.closing(unfinished(gateway.clients, number)))
        wait("the pool of incomplete frames to fill", lambda: full("incomplete frames", "spill_bytes_total"))
        clients = [Slow(gateway.clients, number) for number in range(slow)]
        # Some time beyond that, for whatever else may grow.
        until, filled = time.monotonic() + parts.PATIENCE_S, None
        while filled is None or time.monotonic() < filled + rig.size(2, 10):
            for client in clients:
                client.send()
            if filled is None and full("backlogs", "outbox_bytes_total"):
                filled = time.monotonic()
            look()
            if time.monotonic() > until:
                break
        for client in clients:
            client.socket.close()
    for name, total in (("incomplete frames", "spill_bytes_total"), ("backlogs", "outbox_bytes_total")):
        rig.at_least(f"{name} held at most (MiB)", round(peaks[name] / MIB, 1), round(0.8 * settings[total] / MIB, 1))
    allowed = bound(settings, shards=2, workers=1)
    rig.at_most("private memory beyond the start, at most (MiB)",
                round(peaks["memory"] / MIB, 1), round(allowed / MIB, 1))
    closes = gateway.closes()
    rig.line("closed, by reason", closes, "some memory_budget", closes.get("memory_budget", 0) > 0)
    rig.equal("closed for another reason",
              sorted(closes.keys() - {"memory_budget", "slow_consumer", "client_eof", "client_reset"}), [])
    rig.figure("private memory at the start (MiB)", round(start / MIB, 1))
