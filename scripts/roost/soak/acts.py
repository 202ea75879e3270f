"""What is done to the gateway while it serves. Each troupe is a thread that draws its acts from a
seed of its own, so that a seed gives the same acts in each, whatever the others take."""

import contextlib
import http.client
import random
import signal
import socket
import subprocess
import threading
import time
import traceback
from pathlib import Path

from roost.lib import programs, rig as parts
from roost.soak import hostile
from roost.soak.world import FAILOVER_MS


class Troupe(threading.Thread):
    """Does one act after the other until it is told to end; an act in progress is finished."""

    pause_s = (0.5, 3.0)

    def __init__(self, stage, seed):
        super().__init__(daemon=True, name=type(self).__name__)
        self.stage, self.rng = stage, random.Random(f"{seed}-{type(self).__name__}")
        self.ended = threading.Event()
        self.failures = []

    def acts(self):
        """Methods, each with its weight."""
        raise NotImplementedError

    def run(self):
        acts, weights = zip(*self.acts())
        while not self.ended.wait(self.rng.uniform(*self.pause_s)):
            act = self.rng.choices(acts, weights)[0]
            began = time.time()
            try:
                act()
            except Exception:  # whatever goes wrong with an act is told at the end
                self.failures.append(f"{act.__name__}: {traceback.format_exc(limit=4)}")
                self.ended.wait(1)
            self.stage.calendar.add(act.__name__, began)

    def fail(self, text):
        self.failures.append(text)


class Workers(Troupe):
    """Kills, stops and drains workers, one at a time. Its spans are those in which a worker's clients
    may wait: `trouble-a` is a's."""

    pause_s = (2.0, 8.0)

    def acts(self):
        return [(self.kill_worker, 3), (self.kill_worker_for_long, 2), (self.stop_worker, 2), (self.drain_worker, 1)]

    @contextlib.contextmanager
    def trouble(self):
        worker = self.rng.choice(self.stage.workers)
        began = time.time()
        yield worker
        parts.wait(f"{worker.name} to have its links", lambda: self.links_up(worker))
        parts.wait("the shares of before", self.settled)
        # What was held back meanwhile comes in a burst.
        self.ended.wait(2)
        self.stage.calendar.add(f"trouble-{worker.name}", began)

    def by_worker(self, name):
        """A gauge by worker; nothing when the gateway gave this request's place to another: slow HTTP
        clients take all there are at times."""
        try:
            return self.stage.gateway.by_worker(name)
        except (http.client.HTTPException, OSError):
            return {}

    def links_up(self, worker):
        return self.by_worker("roost_link_up").get(worker.name, 0) == 2

    def settled(self):
        served = self.by_worker("roost_link_connections")
        return all(served.get(name, 0) >= count for name, count in self.stage.shares.items())

    def kill_worker(self):
        with self.trouble() as worker:
            worker.kill()
            worker.start()

    def kill_worker_for_long(self):
        with self.trouble() as worker:
            worker.kill()
            self.ended.wait(FAILOVER_MS / 1000 + self.rng.uniform(0.5, 3))
            worker.start()

    def stop_worker(self):
        with self.trouble() as worker:
            worker.signal(signal.SIGSTOP)
            self.ended.wait(self.rng.uniform(0.2, 2 * FAILOVER_MS / 1000))
            worker.signal(signal.SIGCONT)

    def drain_worker(self):
        with self.trouble() as worker:
            worker.signal(signal.SIGTERM)
            worker.process.wait(60)
            worker.start()


class Reloads(Troupe):
    """Changes the configuration: workers come and go, limits change, and some of it is wrong."""

    pause_s = (2.0, 6.0)

    def acts(self):
        return [(self.add_and_remove_worker, 3), (self.change_limits, 3), (self.break_configuration, 1)]

    def reload(self, workers, **values):
        self.stage.gateway.write_config(workers, **values)
        self.stage.gateway.process.send_signal(signal.SIGHUP)

    def add_and_remove_worker(self):
        """A name that was never there before, for a worker that is."""
        gateway, third = self.stage.gateway, self.stage.third
        name = f"{third.name}-{self.rng.randrange(1 << 30)}"
        self.reload({**self.stage.addresses, name: third.address})
        parts.wait(f"{name} to have its links", lambda: gateway.by_worker("roost_link_up").get(name) == 2)
        self.ended.wait(self.rng.uniform(0.5, 3))
        self.reload(self.stage.addresses)
        parts.wait(f"{name} to be left", lambda: not gateway.by_worker("roost_link_connections").get(name))

    def change_limits(self):
        self.reload(self.stage.addresses, handshake_timeout_ms=self.rng.randrange(8_000, 12_000),
                    log_level=self.rng.choice(["debug", "debug", "info", "trace"]))

    def break_configuration(self):
        path = self.stage.gateway.config
        good = path.read_text(encoding="utf-8")
        path.write_text(good + self.rng.choice(["nonsense = 1\n", "workers = [\n", "\0", "shards = 0\n"]),
                        encoding="utf-8")
        self.stage.gateway.process.send_signal(signal.SIGHUP)
        self.ended.wait(1)
        path.write_text(good, encoding="utf-8")


class Handovers(Troupe):
    """Successors that fail, and strangers at the hand-over socket: the gateway goes on serving."""

    pause_s = (3.0, 10.0)

    def acts(self):
        return [(self.bad_token, 2), (self.taken_admin_address, 2), (self.no_worker, 1), (self.killed_successor, 2),
                (self.stranger, 2)]

    def successor(self, *flags):
        path = Path(self.stage.directory, "successor.log")
        log = open(path, "wb")
        self.stage.stack.enter_context(log)
        process = subprocess.Popen(["nice", "-n", "10", *self.stage.gateway.command(*flags)], stdout=log, stderr=log,
                                   stdin=subprocess.DEVNULL)
        self.stage.stack.callback(parts.stop, process)
        return process, path

    def must_fail(self, *flags, within_s=60):
        process, path = self.successor(*flags)
        code = process.wait(within_s)
        if code <= 0:
            self.fail(f"a successor with {flags} ended with {code}: {path.read_text(errors='replace')[-500:]}")
        self.serves()

    def serves(self):
        took_s = self.stage.gateway.greets()
        if took_s is None:
            self.fail("a new client was not greeted after a hand-over that failed")

    def bad_token(self):
        self.must_fail("--admin-token-file", "/nonexistent/token")

    def taken_admin_address(self):
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            self.must_fail("--admin-listen", "127.0.0.1:%d" % other.getsockname()[1])

    def no_worker(self):
        self.must_fail("--worker", f"nobody=unix:{self.stage.directory}/nobody.sock")

    def killed_successor(self):
        process, _ = self.successor("--worker", f"nobody=unix:{self.stage.directory}/nobody.sock")
        self.ended.wait(self.rng.uniform(0, 0.4))
        process.kill()
        process.wait()
        self.serves()

    def stranger(self):
        count = self.rng.randrange(1, 20)
        with contextlib.ExitStack() as stack:
            for _ in range(count):
                sock = stack.enter_context(socket.socket(socket.AF_UNIX))
                sock.settimeout(1)
                with contextlib.suppress(OSError):
                    sock.connect(str(self.stage.gateway.handover))
                    sock.sendall(self.rng.choice([b"", b"ready\n", b"\0", self.rng.randbytes(100)]))
            self.ended.wait(self.rng.uniform(0.1, 3))
            self.serves()


class Crowds(Troupe):
    """Clients that break the rules, one or two kinds at a time."""

    pause_s = (0.1, 1.0)

    def acts(self):
        return [(self.crowd, 1)]

    def crowd(self):
        kinds = self.rng.sample(sorted(hostile.KINDS), self.rng.choice([1, 1, 2]))
        seconds, stage = self.rng.uniform(3, 8), self.stage
        running = []
        for kind in kinds:
            command = ["nice", "-n", "15", *programs.module(
                "soak.hostile", kind, "127.0.0.1", str(stage.gateway.clients), str(seconds),
                str(self.rng.randrange(1 << 30)), str(stage.frame_bytes_max))]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            stage.stack.callback(parts.stop, process)
            running.append((kind, process, time.time()))
        for kind, process, began in running:
            try:
                _, said = process.communicate(timeout=seconds + 60)
            except subprocess.TimeoutExpired:
                process.kill()
                said = "it does not end"
            if process.returncode:
                self.fail(f"{kind}: {said[-500:]}")
            stage.calendar.add(f"hostile {kind}", began)


class Watchers(Troupe):
    """Scrapes, health checks beside slow HTTP clients, and a log reader that stalls."""

    pause_s = (0.2, 1.5)

    def acts(self):
        return [(self.scrape, 6), (self.slow_heads, 2), (self.stalled_log_reader, 2)]

    def scrape(self):
        for path in ("metrics", "readyz", "api/connections", "healthz"):
            self.stage.gateway.get(path, 30)

    def slow_heads(self):
        """More slow clients than there are places: health is answered all the same."""
        with contextlib.ExitStack() as stack:
            for _ in range(130):
                sock = stack.enter_context(socket.socket())
                sock.settimeout(2)
                with contextlib.suppress(OSError):
                    sock.connect(("127.0.0.1", self.stage.gateway.admin))
                    sock.sendall(b"GET /metrics HTTP/1.1\r\n")
            for _ in range(3):
                began = time.monotonic()
                status = None
                with contextlib.suppress(OSError):
                    status = self.stage.gateway.get("healthz", 5)
                took_s = time.monotonic() - began
                if status != 200:
                    self.fail(f"/healthz said {status} after {took_s:.1f} s beside 130 slow clients")
                self.stage.health_s.append(took_s)

    def stalled_log_reader(self):
        reads = self.stage.gateway.reader.reads
        reads.clear()
        self.ended.wait(self.rng.uniform(1, 6))
        reads.set()


TROUPES = (Workers, Reloads, Handovers, Crowds, Watchers)
