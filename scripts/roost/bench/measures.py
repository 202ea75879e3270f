"""The measures: what is run, and which figures are taken from it."""

import json
import subprocess
import tempfile

from roost.bench import peers, watch

# After the first second of a closed loop, in which its messages begin.
SKIP_S = 1.5
# More than this of the core is somebody else's: no figure can be had then.
DISTURBED = 0.1
# A peer whose core was this busy was the limit itself.
SATURATED = 0.95
# Accepts that took so many times as long as planned had a generator that was behind, unless the peer was.
LATE = 1.1
# What each of its phases may take beyond that: it looks every 50 ms whether all have connected.
PHASE_SLACK_S = 0.1
# Messages of a fan-out that a figure is taken from, at least.
FANOUTS_MIN = 4


class Failed(Exception):
    """A run that gives no figures, and why."""


class Run:
    """One run of the load generator against one peer, and what was seen meanwhile."""

    def __init__(self, options, kind, clients, flags, scenario="echo", handler="echo"):
        with kind(options.peer_core, options.load_cores, clients, handler) as peer:
            with tempfile.NamedTemporaryFile(suffix=".json") as file:
                command = [peers.TARGET / "roost-loadgen", scenario, "--target", f"127.0.0.1:{peer.port}",
                           "--connections", clients, "--heartbeat-s", 0, "--connect-rate", options.connect_rate,
                           "--json", file.name, *flags]
                looking = watch.Watch(options.peer_core, peer.pids())
                looking.start()
                cores = ",".join(map(str, sorted(options.load_cores)))
                done = subprocess.run(
                    ["taskset", "-c", cores, *map(str, command)], stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT, text=True, timeout=options.run_limit_s, check=False)
                looking.stop()
                try:
                    self.result = json.load(open(file.name))
                except ValueError:
                    raise Failed(done.stdout[-600:]) from None
            if self.result["failures"]:
                raise Failed("; ".join(self.result["failures"]))
            self.watch, self.peer, self.clients = looking, peer, clients
        settle = self.phase("settle")
        # Nobody is connected then: what the core is busy with anyway.
        begin, end = settle["start_s"] + 0.5, settle["end_s"]
        self.idle_busy_share = self.costs(begin, end)[0] / (end - begin)
        if kind.never_sleeps:
            # Its own loop; its CPU says nothing.
            self.idle_busy_share = 0.0
        self.disturbed = self.idle_busy_share > DISTURBED
        if self.disturbed and not options.quick:
            raise Failed(f"something else kept the peer's core {self.idle_busy_share:.0%} busy")

    def phases(self, name):
        found = [phase for phase in self.result["phases"] if phase["name"] == name]
        if not found:
            raise Failed(f"no phase {name}")
        return found

    def phase(self, name, last=False):
        return self.phases(name)[-1 if last else 0]

    def costs(self, begin_s, end_s):
        """Busy time of the core, user and system time of the peer, between two seconds of the run."""
        zero = self.result["started_unix_s"]
        return self.watch.between(zero + begin_s, zero + end_s)

    def own_costs(self, begin_s, end_s):
        """As `costs`, but what the core is busy with anyway is taken off. Where that is too much
        (only --quick goes on then), the peer's own time stands in for the core's."""
        busy, user, system = self.costs(begin_s, end_s)
        own = user + system if self.disturbed else busy - self.idle_busy_share * (end_s - begin_s)
        return own, user, system

    def traffic(self):
        """Figures of the traffic: from one point of the series to another."""
        hold = self.phase("hold")
        points = [point for point in self.result["series"]
                  if hold["start_s"] + SKIP_S <= point["t_s"] <= hold["end_s"]]
        if len(points) < 2:
            raise Failed("the traffic was too short")
        first, last = points[0], points[-1]
        return self.per_message(first["t_s"], last["t_s"], last["received"] - first["received"])

    def per_message(self, begin_s, end_s, messages):
        if messages <= 0:
            raise Failed("no messages")
        took_s = end_s - begin_s
        own, user, system = self.own_costs(begin_s, end_s)
        return {
            "per_s": messages / took_s,
            "cpu_s_per_million": own / messages * 1e6,
            "user_s_per_million": user / messages * 1e6,
            "system_s_per_million": system / messages * 1e6,
            "core_busy_share": self.costs(begin_s, end_s)[0] / took_s,
            "processes": self.peer.processes, "disturbed": self.disturbed,
        }


def echo(options, kind, clients):
    """Closed loop: each client sends again when its reply is there."""
    run = Run(options, kind, clients, ["--closed", "--warmup", 0, "--duration", options.seconds])
    figures = run.traffic()
    figures["saturated"] = figures["core_busy_share"] >= SATURATED and not run.disturbed
    return figures


def at_rate(options, kind, clients, rate, active):
    """Open loop: latency from when messages were due."""
    run = Run(options, kind, clients,
              ["--rate", rate, "--active", active, "--warmup", 0, "--duration", options.seconds])
    latency, lag = run.result["latency_us"], run.result["send_lag_us"]
    return {
        **run.traffic(), "p50_us": latency["p50"], "p99_us": latency["p99"],
        "send_lag_p99_us": lag["p99"], "generator_limited": run.result["generator_limited"],
    }


def broadcast(options, kind, clients):
    """One message in, one to each client out."""
    return fan_out(options, kind, clients, "broadcast", clients)


def multicast(options, kind, clients, receivers):
    """One message in, one to each of some clients out."""
    return fan_out(options, kind, clients, "multicast", receivers, "--receivers", receivers)


def fan_out(options, kind, clients, scenario, receivers, *flags):
    rate = options.deliveries_per_s / receivers
    # At least a few of them, however long that takes.
    seconds = max(options.seconds, FANOUTS_MIN / rate)
    run = Run(options, kind, clients,
              ["--rate", rate, "--payload", 100, "--warmup", 0, "--duration", seconds, *flags],
              scenario, "fanout")
    hold, extra = run.phase("hold"), run.result["extra"]
    # All of them, up to the last delivery: they come in bursts.
    end = max(phase["end_s"] for phase in run.result["phases"] if phase["name"] in ("hold", "drain"))
    figures = run.per_message(hold["start_s"], end, extra["deliveries"])
    cpu_s_per_million = figures["cpu_s_per_million"]
    figures["deliveries_per_cpu_s"] = 1e6 / cpu_s_per_million if cpu_s_per_million else None
    return figures


def accept(options, kind, clients, greet):
    """Connects at a rate that the generator keeps: with HELLO and WELCOME, or bare."""
    flags = ["--connect-rate", options.accept_rate, "--warmup", 0, "--duration", 2]
    run = Run(options, kind, clients, [*flags, "--rate", 0] if greet else [*flags, "--bare"],
              "echo" if greet else "idle")
    # The bare ones connect in two halves. What is in the backlog is accepted a little later, and
    # between two samples time is not told apart.
    connects = run.phases("connect")
    windows = [(phase["start_s"] - 2 * watch.EVERY_S, phase["end_s"] + 1) for phase in connects]
    own, user, system = (sum(parts) for parts in zip(*(run.own_costs(*window) for window in windows)))
    if own <= 0 and not run.disturbed:
        raise Failed("the core was not busy")
    took_s = sum(phase["end_s"] - phase["start_s"] for phase in connects)
    # A generator that falls behind connects in bursts and greets late: then a peer pays for that.
    late = took_s > LATE * clients / options.accept_rate + PHASE_SLACK_S * len(connects)
    if late and own < SATURATED * took_s and not options.quick:
        raise Failed(f"the generator took {took_s:.1f} s, the peer {own:.1f} of them")
    # A disturbed run has clock ticks only, and may be too short for a single one.
    per_cpu_s = clients / own if own > 0 else None
    return {"accepts_per_cpu_s": per_cpu_s, "user_us": user / clients * 1e6, "system_us": system / clients * 1e6,
            "processes": run.peer.processes, "disturbed": run.disturbed}


def idle(options, kind, clients):
    """Memory of a connection: user space by PSS of all its processes, kernel by slab objects."""
    run = Run(options, kind, clients, ["--duration", 2], "idle")
    zero = run.result["started_unix_s"]
    settles = [zero + phase["end_s"] for phase in run.result["phases"] if phase["name"] == "settle"]
    before, half, all_ = (run.watch.pss_at(when) for when in (settles[0], settles[1], settles[-1]))
    return {
        "user_bytes": (all_ - before) / clients, "user_bytes_slope": (all_ - half) / (clients - clients // 2),
        "kernel_bytes": run.result["gateway"]["kernel_bytes_per_connection"], "processes": run.peer.processes,
    }
