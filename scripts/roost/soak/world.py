"""The processes of a soak, and what can be asked of them."""

import contextlib
import os
import re
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from roost.clients import edge_codec
from roost.lib import machine, rig as parts

FAILOVER_MS = 3_000
CONFIG = """\
listen = ["{listen}"]
admin_listen = ["{admin}"]
handover_socket = "{handover}"
shards = 2
connections_max = {connections_max}
workers = [{workers}]
link_failover_ms = {failover_ms}
link_window_bytes = 1048576
frame_bytes_max = {frame_bytes_max}
outbox_bytes_total = 33554432
spill_bytes_total = 16777216
handshake_timeout_ms = {handshake_timeout_ms}
handover_worker_wait_ms = 2000
log_level = "{log_level}"
"""


class LogReader(threading.Thread):
    """Reads the gateway's log from a pipe, except while it is told to stall."""

    def __init__(self, pipe, path):
        super().__init__(daemon=True)
        self.pipe, self.reads = pipe, threading.Event()
        self.file = open(path, "wb")
        self.reads.set()
        self.start()

    def run(self):
        while data := os.read(self.pipe, 1 << 16):
            self.reads.wait()
            self.file.write(data)
            self.file.flush()


class Gateway(parts.Gateway):
    """A gateway with a configuration file that is rewritten, and a log that somebody reads."""

    def __init__(self, binary, directory, workers, connections_max, frame_bytes_max):
        self.binary = binary
        self.directory = tempfile.TemporaryDirectory(prefix="roost-soak-")
        self.clients, self.admin = machine.free_port(), machine.free_port()
        self.config = Path(directory, "roost.toml")
        self.handover = Path(directory, "handover.sock")
        self.values = {
            "listen": f"127.0.0.1:{self.clients}", "admin": f"127.0.0.1:{self.admin}",
            "handover": self.handover, "connections_max": connections_max, "failover_ms": FAILOVER_MS,
            "frame_bytes_max": frame_bytes_max, "handshake_timeout_ms": 10_000, "log_level": "debug",
        }
        self.write_config(workers)
        self.checked = subprocess.run([binary, "check", "--config", self.config], capture_output=True, text=True,
                                      check=False)
        self.log = open(Path(directory, "gateway.log"), "ab")
        reading, writing = os.pipe()
        self.process = subprocess.Popen(self.command(), stdout=self.log, stderr=writing, stdin=subprocess.DEVNULL)
        os.close(writing)
        self.reader = LogReader(reading, Path(directory, "gateway-stderr.log"))
        parts.wait("the gateway to listen", self.answers)

    def command(self, *flags):
        return [str(part) for part in (self.binary, "--config", self.config, *flags)]

    def write_config(self, workers, **values):
        """Writes the file whole or not at all."""
        self.values.update(values)
        named = ", ".join(f'"{name}={address}"' for name, address in workers.items())
        part = self.config.with_suffix(".part")
        part.write_text(CONFIG.format(workers=named, **self.values), encoding="utf-8")
        part.rename(self.config)

    def answers(self):
        if self.process.poll() is not None:
            raise parts.Failed(f"the gateway has ended with {self.process.returncode}")
        with contextlib.suppress(OSError):
            return self.get("healthz") == 200
        return False

    def get(self, path, timeout_s=5):
        """The status of a page."""
        try:
            with urllib.request.urlopen(self.url(path), timeout=timeout_s) as answer:
                answer.read()
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    def pools_bytes(self):
        """The most that its pools can come to hold, as `check` says."""
        found = re.search(r"([\d,]+) MiB for pools", self.checked.stdout)
        return int(found[1].replace(",", "")) << 20 if found else None

    def greets(self, within_s=10):
        """How long a new client waits for its WELCOME, in seconds; None if it gets none."""
        began = time.monotonic()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.clients), within_s) as sock:
            sock.settimeout(within_s)
            sock.sendall(edge_codec.encode({"type": "HELLO", "key": b"probe", "token": b""}))
            if sock.recv(64)[:1] == b"\x02":
                return time.monotonic() - began
        return None

    def stop(self):
        self.reader.reads.set()
        super().stop()


class Sampler(threading.Thread):
    """The most memory that a process has had."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.peak, self.ended = pid, 0, threading.Event()
        self.start()

    def run(self):
        while not self.ended.wait(2):
            with contextlib.suppress(OSError):
                self.peak = max(self.peak, machine.memory_bytes(self.pid))


class Calendar:
    """When what was under way, so that latencies can be told apart afterwards."""

    def __init__(self):
        self.lock, self.entries = threading.Lock(), []

    def add(self, what, began, ended=None):
        with self.lock:
            self.entries.append((what, began, ended or time.time()))

    def spans(self, what):
        return [(began, ended) for name, began, ended in self.entries if name == what]

    def counts(self):
        found = {}
        for name, _, _ in self.entries:
            found[name] = found.get(name, 0) + 1
        return found
