"""The gateways that are compared, and what stands behind them."""

import contextlib
import math
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from roost import ROOT
from roost.lib.machine import free_port

HERE = pathlib.Path(__file__).resolve().parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
# Descriptors that a process keeps for other things than clients.
SPARE = 300


def descriptors():
    import resource
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return 1 << 20 if hard == resource.RLIM_INFINITY else min(hard, 1 << 20)


def processes_for(clients, each):
    """Processes that it takes for the clients at `each` descriptors a client. With several, the
    kernel spreads clients by a hash, so they get room for an uneven share."""
    room = (descriptors() - SPARE) // each
    return 1 if clients <= room else math.ceil(clients / (room * 0.93))


def children(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]
    return []


class Peer:
    """One gateway, started for a number of clients on a core; `load_cores` has the backend."""

    name = None
    # What it is, for the report.
    what = None
    # Whether it can send one message to many by itself, and to some of them as a worker says.
    fans_out = has_worker = False
    # Its core is busy whatever it has to do.
    never_sleeps = False
    measures = ("echo", "latency", "accept", "idle", "broadcast", "multicast", "neighbours")
    binary = None
    # Variables for the gateway, where a variant of it has some.
    environment = {}

    def __init__(self, core, load_cores, clients, handler):
        self.core, self.load_cores, self.clients, self.handler = core, load_cores, clients, handler
        self.port = free_port()
        self.directory = None
        self.started = []
        self.processes = 1

    @classmethod
    def missing(cls):
        """Why it cannot be run, or None."""
        return None if cls.binary is None or shutil.which(cls.binary) else f"{cls.binary} is not installed"

    def __enter__(self):
        try:
            self.directory = pathlib.Path(tempfile.mkdtemp(prefix="roost-bench-"))
            self.start()
            self.wait_for(self.port)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in reversed(self.started):
            if process.poll() is None:
                process.terminate()
        for process in reversed(self.started):
            try:
                process.wait(3)
            except subprocess.TimeoutExpired:
                # A drain that would wait for clients, or a proxy that would.
                process.kill()
                process.wait()
        if self.directory:
            shutil.rmtree(self.directory, ignore_errors=True)

    def spawn(self, command, cores, **environment):
        log = open(self.directory / f"{len(self.started)}.log", "w")

        def before():
            os.sched_setaffinity(0, cores)
            # Not the terminal's: this script ends what it started.
            signal.signal(signal.SIGINT, signal.SIG_IGN)

        process = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            preexec_fn=before, env={**os.environ, **{key: str(value) for key, value in environment.items()}},
        )
        self.started.append(process)
        return process

    def wait_for(self, port, within_s=20):
        until = time.monotonic() + within_s
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            for process in self.started:
                if process.poll() is not None or time.monotonic() > until:
                    logs = "\n".join(path.read_text() for path in sorted(self.directory.glob("*.log")))
                    raise SystemExit(f"scripts/bench: {self.name} did not start: {process.args}\n{logs}")
            time.sleep(0.05)

    def pids(self):
        """The gateway's processes, without what stands behind it."""
        own = [process.pid for process in self.started if process in self.gateways]
        return own + [child for pid in own for child in children(pid)]

    def worker(self):
        port = free_port()
        self.spawn([TARGET / "roost-router", "--listen", f"127.0.0.1:{port}", "--handler", self.handler],
                   self.load_cores)
        self.wait_for(port)
        return port

    def echo_backend(self):
        port = free_port()
        count = processes_for(self.clients, 1)
        self.spawn([TARGET / "epoll_echo", port, "--processes", count], self.load_cores)
        self.wait_for(port)
        return port


class Roost(Peer):
    name, what, fans_out, has_worker = "roost", "one shard, one link to the reference worker", True, True
    flags = ()

    def start(self):
        worker = self.worker()
        self.gateways = [self.spawn(
            [TARGET / "roost-gateway", "--shards", 1, "--listen", f"127.0.0.1:{self.port}",
             "--admin-listen", f"127.0.0.1:{free_port()}", "--worker", f"127.0.0.1:{worker}",
             "--connections-max", self.clients + 2000, *self.flags], {self.core}, **self.environment)]


class Bank(Roost):
    """The clients on as many rings as a million of them would take, the least slots a ring permitting."""

    name, what = "bank", "roost, its clients spread over up to 62 rings, as for a million slots"
    measures = ("echo", "latency")

    def start(self):
        self.flags = ("--ring-slots-max", max(64, math.ceil(self.clients / 62)))
        super().start()


class Busy(Roost):
    """Looks for events for a while before it sleeps."""

    name, what = "busy", "roost with busy_poll_us_max = 200"
    measures = ("latency",)
    environment = {"ROOST_BUSY_POLL_US_MAX": 200}


class Tokio(Peer):
    name, what, fans_out, has_worker = "tokio", "gateway/examples/tokio-gateway, same worker and link protocol", True, True

    def start(self):
        worker = self.worker()
        self.processes = processes_for(self.clients, 1)
        self.gateways = [self.spawn(
            [TARGET / "examples" / "tokio-gateway", f"127.0.0.1:{self.port}", f"127.0.0.1:{worker}"],
            {self.core}) for _ in range(self.processes)]


class HaProxy(Peer):
    name, what, binary = "haproxy", "TCP mode, a backend connection for each client", "haproxy"

    def start(self):
        backend = self.echo_backend()
        self.processes = processes_for(self.clients, 2)
        self.gateways = [self.spawn(
            ["haproxy", "-db", "-f", HERE / "haproxy.cfg"], {self.core}, PORT=self.port, BACKEND=backend,
            CLIENTS=(descriptors() - SPARE) // 2, SOURCE=f"127.0.1.{1 + number}", **self.environment)
            for number in range(self.processes)]


class BusyHaProxy(HaProxy):
    """Never sleeps."""

    name, what = "haproxy-busy", "haproxy with its busy-polling"
    measures = ("latency",)
    environment = {"BUSY": "1"}
    never_sleeps = True


class Nginx(Peer):
    name, what, binary = "nginx", "stream, a backend connection for each client", "nginx"

    @classmethod
    def missing(cls):
        if not os.path.exists("/usr/lib/nginx/modules/ngx_stream_module.so"):
            return "nginx with its stream module is not installed"
        return super().missing()

    def start(self):
        backend = self.echo_backend()
        self.processes = processes_for(self.clients, 2)
        text = (HERE / "nginx.conf").read_text()
        for key, value in (("PORT", self.port), ("BACKEND", backend), ("WORKERS", self.processes),
                           ("DESCRIPTORS", descriptors()), ("DIRECTORY", self.directory)):
            text = text.replace(f"@{key}@", str(value))
        configuration = self.directory / "nginx.conf"
        configuration.write_text(text)
        self.gateways = [self.spawn(["nginx", "-c", configuration, "-p", self.directory], {self.core})]


class Epoll(Peer):
    name, what, fans_out = "epoll", "a plain echo without backend: what the kernel charges; no peer", True

    def start(self):
        self.processes = processes_for(self.clients, 1)
        flags = ["--fanout"] if self.handler == "fanout" else []
        self.gateways = [self.spawn(
            [TARGET / "epoll_echo", self.port, "--processes", self.processes, *flags], {self.core})]


ALL = [Roost, Bank, Busy, Tokio, HaProxy, BusyHaProxy, Nginx, Epoll]


def install(names):
    """Builds ours and asks the system's package manager for the others. Returns what is left."""
    print("building", flush=True)
    subprocess.run(["cargo", "build", "--release", "--quiet", "-p", "roost-gateway", "-p", "roost-router",
                    "-p", "roost-loadgen", "--bins", "--examples"], cwd=ROOT, check=True)
    subprocess.run([os.environ.get("CC", "cc"), "-O2", "-Wall", "-o", TARGET / "epoll_echo",
                    ROOT / "scripts/peers/epoll_echo.c"], check=True)
    wanted = [peer for peer in ALL if peer.name in names]
    packages = {"haproxy": ["haproxy"], "nginx": ["nginx-light", "libnginx-mod-stream"]}
    absent = [package for peer in wanted if peer.missing() for package in packages[peer.binary]]
    if absent and os.geteuid() == 0 and shutil.which("apt-get"):
        # Their services need not start for this.
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *absent], check=False,
                       env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"})
    return [peer for peer in wanted if not peer.missing()], {
        peer.name: peer.missing() for peer in wanted if peer.missing()}
