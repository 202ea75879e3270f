"""Many clients on one gateway process, from the flags to the verdict."""

import argparse
import contextlib
import dataclasses
import os
import pathlib
import signal
import sys
import tempfile

from roost import ROOT
from roost.hold import judge, kernel, processes
from roost.lib.verdict import read

# The heartbeat interval up to a million clients and beyond, in seconds.
HEARTBEAT_S, HEARTBEAT_LONG_S = 60, 300


@dataclasses.dataclass
class Size:
    """What a program takes where no flag says otherwise."""

    name: str
    connections: int
    connect_rate: int
    rate: int
    duration_s: int | None
    # The kernel is tuned, and everything runs in a network namespace of its own.
    tunes: bool
    # A bare server and a stopped worker are tried as well.
    floor: bool


HOLD = Size("hold", 100_000, connect_rate=5_000, rate=100, duration_s=620, tunes=False, floor=True)
MILLION = Size("million", 1_000_000, connect_rate=10_000, rate=10_000, duration_s=None, tunes=True, floor=False)


def main(size, about):
    options = parse(size, about)
    try:
        verdict = run(options, size)
    except (kernel.Refused, KeyboardInterrupt) as why:
        why = why.args[0] if why.args else "interrupted before any client came"
        print(f"scripts/{size.name}: {why}", file=sys.stderr)
        return 2
    options.report("txt").write_text("\n".join(verdict.lines) + "\n")
    print(f"reports: {options.out}")
    return 1 if verdict.failed else 0


def run(options, size):
    wants_root = size.tunes or options.transport == "tun" or not options.no_tune
    if wants_root and os.geteuid() != 0:
        raise kernel.Refused("run as root: it sets sysctls, reads the slab, and makes network namespaces")
    kernel.arithmetic(options)
    if not options.bin_dir:
        packages = ("-p", "roost-gateway", "-p", "roost-router", "-p", "roost-loadgen")
        kernel.run(["cargo", "build", "--release", "-q", *packages])
        options.bin_dir = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"), "release")
    options.out.mkdir(parents=True, exist_ok=True)
    for number in kernel.ENDINGS:
        signal.signal(number, interrupted)
    ooms = kernel.oom_kills()
    with kernel.tuned(options), contextlib.ExitStack() as stack:
        if size.tunes and options.transport == "socket":
            stack.enter_context(kernel.namespace())
        run = stack.enter_context(processes.Processes(options))
        run.load()
        if options.floor and not run.is_interrupted:
            run.ask_a_stopped_worker()
            run.hold_on_a_bare_server()
    return judge.judge(options, read(options.report("json")), kernel.oom_kills() - ooms)


def interrupted(*_):
    raise KeyboardInterrupt


def parse(size, about):
    parser = argparse.ArgumentParser(
        prog=f"scripts/{size.name}", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    number = lambda text: int(text.replace(",", "").replace("_", ""))
    add("--connections", type=number, default=size.connections, metavar="N", help="[%(default)s]")
    add("--transport", choices=("socket", "tun"), default="socket", help="what the clients are")
    add("--storm", action="store_true", help="kill the gateway under all clients and start it anew")
    add("--keep-listener", action="store_true", help="with --storm: hold the listening socket as systemd would, and pass it to each gateway")
    add("--rate", type=number, default=size.rate, help="messages per second while all are held [%(default)s]")
    add("--duration", type=number, default=size.duration_s, metavar="S",
        help=f"hold [{size.duration_s or 'a heartbeat interval and 10 s'}]")
    add("--heartbeat", type=number, metavar="S", help="[60, beyond a million clients 300]")
    add("--connect-rate", type=number, metavar="PER_S", help=f"[{size.connect_rate}, by tun 25000]")
    add("--check-rate", type=number, metavar="PER_S", help="when every client sends one [20000, by tun 40000]")
    add("--threads", type=number, default=1, help="load threads [%(default)s]")
    add("--shards", type=number, default=2, help="of the gateway [%(default)s]")
    add("--memory-floor-mib", type=number, default=1_792, help="the run ends before less is left [%(default)s]")
    add("--floor", action=argparse.BooleanOptionalAction, default=size.floor,
        help="also hold as many clients on a server that arms nothing, and ask while the worker is stopped")
    add("--yes", action="store_true", help="tune the kernel without asking")
    add("--no-tune", action="store_true", default=not size.tunes, help="leave the kernel as it is")
    add("--bin-dir", type=pathlib.Path, metavar="DIR", help="take the three binaries from here instead of building them")
    add("--out", type=pathlib.Path, metavar="DIR", help="[a new temporary folder]")
    options = parser.parse_args()
    if options.storm and options.transport == "tun":
        parser.error("--storm restarts the gateway, which lives in the generator's namespace with tun: use socket")
    if options.keep_listener and not options.storm:
        parser.error("--keep-listener goes with --storm")
    if options.storm or options.transport == "tun":
        # Both need a worker and a gateway that are this program's own, and live to the end.
        options.floor = False
    n = options.connections
    options.heartbeat = options.heartbeat or (HEARTBEAT_S if n <= 1_000_000 else HEARTBEAT_LONG_S)
    options.duration = options.duration or options.heartbeat + 10
    options.connect_rate = options.connect_rate or (25_000 if options.transport == "tun" else size.connect_rate)
    options.check_rate = options.check_rate or (40_000 if options.transport == "tun" else 20_000)
    options.out = (options.out or pathlib.Path(tempfile.mkdtemp(prefix=f"roost-{size.name}-"))).resolve()
    what = "storm" if options.storm else size.name if size is HOLD else options.transport
    options.name = f"{what}{'-kept' if options.keep_listener else ''}-{short(n)}"
    options.report = lambda kind, name=options.name: options.out / f"{name}.{kind}"
    options.bare = f"bare-{short(n)}"
    return options


def short(n):
    """A number for a file's name."""
    for size, letter in ((1_000_000, "m"), (1_000, "k")):
        if n % size == 0:
            return f"{n // size}{letter}"
    return str(n)
