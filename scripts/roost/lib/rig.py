"""What scripts/faults and scripts/soak are made of: processes of their own, and lines with a verdict."""

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

from roost.clients import link_codec
from roost.lib import gateway as lib, hlog
from roost.lib.machine import free_port
from roost.lib.verdict import Verdict

PATIENCE_S = 90


class Failed(Exception):
    """A case cannot go on; args[0] says why."""


def wait(what, ready, within_s=PATIENCE_S, every_s=0.05):
    """Waits until `ready` returns something true, and returns that."""
    until = time.monotonic() + within_s
    while True:
        value = ready()
        if value:
            return value
        if time.monotonic() > until:
            raise Failed(f"waited {within_s:.0f} s in vain: {what}")
        time.sleep(every_s)


def fetch(url):
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read().decode()


def netstat():
    """The kernel's TcpExt counters in this network namespace."""
    names, values = [line.split()[1:] for line in Path("/proc/net/netstat").read_text(encoding="ascii").splitlines()
                     if line.startswith("TcpExt:")]
    return dict(zip(names, map(int, values)))


class Gateway(lib.Gateway):
    """A gateway whose figures can be asked for."""

    @property
    def pid(self):
        return self.process.pid

    def value(self, name, **labels):
        """The sum over all series of a name with these labels; 0 without any."""
        series = self.metrics().get(name, [])
        return int(sum(v for own, v in series if labels.items() <= own.items()))

    def by_worker(self, name):
        found = {}
        for labels, value in self.metrics().get(name, []):
            found[labels["worker"]] = found.get(labels["worker"], 0) + int(value)
        return found

    def open(self):
        return self.value("roost_connections_by_state", state="open")

    def closes(self):
        """How many connections were closed for each reason that occurred."""
        found = {}
        for labels, value in self.metrics().get("roost_closes_total", []):
            if value:
                found[labels["reason"]] = found.get(labels["reason"], 0) + int(value)
        return found

    def kill(self):
        self.process.kill()
        self.process.wait()


@dataclasses.dataclass
class At:
    """A worker that is reached at another address than its own."""

    name: str
    address: str


class Worker:
    """A reference worker on a Unix socket, which can be killed and started again there."""

    def __init__(self, rig, name, flags=(), listen=None):
        self.rig, self.name, self.flags = rig, name, list(flags)
        self.address = listen or f"unix:{rig.directory}/{name}.sock"
        self.stats_port = free_port()
        self.process = None
        self.start()

    def start(self):
        command = [self.rig.binaries["roost-router"], "--listen", self.address,
                   "--metrics", f"127.0.0.1:{self.stats_port}", *self.flags]
        self.process = self.rig.spawn(command, f"worker-{self.name}.log")
        wait(f"worker {self.name} to listen", self.stats)

    def stats(self):
        """Its figures; None while it does not answer."""
        with contextlib.suppress(OSError):
            return json.loads(fetch(f"http://127.0.0.1:{self.stats_port}/stats"))

    def kill(self):
        self.process.kill()
        self.process.wait()

    def signal(self, number):
        self.process.send_signal(number)


class Load:
    """A load generator that runs beside the case."""

    def __init__(self, rig, scenario, target, name="load", inside=None, **flags):
        """`inside`: in the network namespace of the process with this id."""
        self.rig, self.name = rig, name
        self.json, self.hlog = rig.directory / f"{name}.json", rig.directory / f"{name}.hlog"
        command = [rig.binaries["roost-loadgen"], scenario, "--target", target, "--json", self.json,
                   "--hlog", self.hlog, "--warmup", "0"]
        for flag, value in flags.items():
            flag = f"--{flag.replace('_', '-')}"
            command += [flag] if value is True else [flag, value]
        if inside:
            command = ["nsenter", "--target", inside, "--net", *command]
        self.process = rig.spawn(command, f"{name}.log")

    def running(self):
        return self.process.poll() is None

    def finish(self, within_s):
        """Waits for its end; its result."""
        try:
            self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name} does not end") from None
        if not self.json.exists():
            raise Failed(f"{self.name} wrote no result:\n{self.rig.log(f'{self.name}.log')[-2000:]}")
        return json.loads(self.json.read_text(encoding="utf-8"))

    def end(self, within_s=PATIENCE_S):
        """Has it send nothing more, wait for what is on its way, and end; its result."""
        # Its clients may all be in before it has noticed and begun the hold.
        holding = re.compile(r"^ *\d+ s +hold ", re.M)
        wait(f"{self.name} to hold",
             lambda: not self.running() or holding.search(self.rig.log(f"{self.name}.log").replace("\r", "\n")))
        if not self.running():
            raise Failed(f"{self.name} has ended early:\n{self.rig.log(f'{self.name}.log')[-2000:]}")
        self.process.send_signal(signal.SIGINT)
        return self.finish(within_s)

    def latency(self, start, end, whole=False):
        """Corrected latency of the replies between two moments (time.time()), in microseconds."""
        return hlog.Span(hlog.read(self.hlog), start, end, whole)


class Rig(Verdict):
    """One case's processes, folder and verdict. What it started ends with it."""

    def __init__(self, case, binaries, small):
        super().__init__()
        self.case, self.binaries, self.small = case, binaries, small
        self.figures = {}
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        self.directory = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="roost-faults-")))
        return self

    def __exit__(self, *_):
        self.stack.close()

    def size(self, small, full):
        return small if self.small else full

    def figure(self, name, value):
        """A number for the report that has no limit."""
        self.figures[name] = value
        print(f"    {name}: {value}", flush=True)

    # --- processes ---

    def spawn(self, command, log, stdin=subprocess.DEVNULL):
        out = self.stack.enter_context(open(self.directory / log, "ab"))
        process = subprocess.Popen(
            [str(part) for part in command], stdin=stdin, stdout=out, stderr=subprocess.STDOUT
        )
        self.stack.callback(stop, process)
        return process

    def worker(self, name, *flags, listen=None):
        return Worker(self, name, flags, listen)

    def gateway(self, workers=(), listen="127.0.0.1:0", **settings):
        flags = [part for worker in workers for part in ("--worker", f"{worker.name}={worker.address}")]
        for key, value in settings.items():
            flags += ["--set", f"{key}={value}"]
        started = Gateway(self.binaries["roost-gateway"], flags, listen)
        os.symlink(started.log.name, self.directory / f"gateway-{started.pid}.log")
        self.stack.push(started)
        self.stack.callback(started.process.kill)
        wait("every shard to have its links", lambda: started.value("roost_links_up") == 2 * max(len(workers), 1))
        return started

    def load(self, scenario, gateway, host="127.0.0.1", **flags):
        return Load(self, scenario, f"{host}:{gateway.clients}", **flags)

    def log(self, name):
        return (self.directory / name).read_text(encoding="utf-8", errors="replace")


def stop(process):
    """Ends a process of ours, stopped or not."""
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(3)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def key_of(worker, names):
    """A routing key that this worker serves."""
    numbers = range(10_000)
    return next(f"key-{n}" for n in numbers if link_codec.owner(f"key-{n}".encode(), names) == worker)


def clean(rig, result, failover=False, who="clients"):
    """What every load must have had: nobody cut off, nothing lost, nothing twice. It may have been
    ended by Load.end, since how long a case takes depends on the machine."""
    rig.equal(f"{who} held throughout", result["connections_held_min"], result["connections_requested"])
    rig.equal(f"{who} cut off", sum(result["disconnected"].values()), 0)
    rig.at_least(f"messages of {who} sent", result["messages_sent"], 1)
    rig.replies(result, f"of {who} ")
    rig.equal(f"protocol errors of {who}", result["protocol_errors"], 0)
    beats = result["heartbeats"]
    # Load.end closes clients whose PONG may still be on its way.
    rig.equal(f"heartbeats of {who} answered, or cut off by the end of the load",
              [beats["answered"], beats["cut_off"]], [beats["sent"] - beats["cut_off"], beats["cut_off"]])
    if not failover:
        rig.equal(f"messages of {who} duplicated after failover", result["duplicated_after_failover"], 0)
