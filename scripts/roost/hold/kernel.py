"""What a large run needs of the machine: memory, the tuned kernel, a namespace. Each is taken back."""

import contextlib
import ctypes
import os
import pathlib
import signal
import subprocess
import sys

from roost import ROOT

MIB = 1 << 20
# The kernel's part of one end of an idle connection, parked on a poll (docs/operations.md).
KERNEL_BYTES = 4_160
# What the gateway promises, and what worker and generator were measured to take (docs/results).
GATEWAY_BYTES, WORKER_BYTES = 64, 13
GENERATOR_BYTES = {"socket": 41, "tun": 42}
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Refused(Exception):
    """It cannot be run here; args[0] says why."""


def run(command):
    try:
        subprocess.run(command, cwd=ROOT, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Refused(error) from None


def free_bytes():
    """MemFree and page cache. MemAvailable would count the inodes of live sockets as well."""
    kib = {}
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
        name, value = line.split(":")
        kib[name] = int(value.split()[0])
    return 1024 * (kib["MemFree"] + max(0, kib["Cached"] + kib["Buffers"] - kib["Shmem"]))


def arithmetic(options):
    """Whether the memory suffices, shown as it is reckoned."""
    ends = 2 if options.transport == "socket" else 1
    user = GATEWAY_BYTES + WORKER_BYTES + GENERATOR_BYTES[options.transport]
    each = ends * KERNEL_BYTES + user
    free, floor = free_bytes(), options.memory_floor_mib * MIB
    most = max(0, free - floor) // each
    print(f"memory: {free // MIB:,} MiB free or page cache - {floor // MIB:,} MiB kept = {(free - floor) // MIB:,} MiB")
    print(
        f"        {ends} x {KERNEL_BYTES:,} bytes in the kernel + {user} in gateway, worker and generator "
        f"= {each:,} bytes a client"
    )
    print(f"        at most {most:,} clients; {options.connections:,} wanted", flush=True)
    if options.connections > most:
        other = "; --transport tun needs half" if ends == 2 else ""
        raise Refused(f"{options.connections:,} clients are more than the {most:,} that the memory allows{other}")


TUNE = str(ROOT / "kernel-tuning" / "tune")
# There from the first setting that `tune apply` changes until `tune revert`.
TUNED = pathlib.Path("/var/lib/roost/kernel-tuning.json")


@contextlib.contextmanager
def tuned(options):
    """The profile, where something is left to do; taken back unless it was there before."""
    was_tuned = TUNED.exists()
    try:
        if not options.no_tune:
            tune(options, was_tuned)
        yield
    finally:
        for number in ENDINGS:
            signal.signal(number, signal.SIG_IGN)
        if TUNED.exists() and not was_tuned:
            run([TUNE, "revert"])


def tune(options, was_tuned):
    command = [TUNE, "--connections", str(options.connections)]
    if options.transport == "socket":
        command.append("--generator")
    if was_tuned:
        print("the kernel is tuned already, and stays so")
    elif not options.yes:
        subprocess.run([*command, "check"])
        if not sys.stdin.isatty():
            raise Refused("the kernel would be tuned: say --yes, or --no-tune")
        if input("apply this for the time of the run? [y/N] ").strip().lower() not in ("y", "yes"):
            raise Refused("not tuned: see --no-tune")
    run([*command, "apply"])


# Settings of a namespace, which it does not inherit.
OF_NAMESPACE = ("net.core.somaxconn", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_notsent_lowat")
CLONE_NEWNET = 0x40000000


@contextlib.contextmanager
def namespace():
    """A network namespace for everything that is started in it: it gets a table of established
    connections of the size that was tuned, which the machine's own gets at boot only."""
    files = [pathlib.Path("/proc/sys", name.replace(".", "/")) for name in OF_NAMESPACE]
    values = [file.read_text() for file in files]
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise Refused(f"no network namespace: {os.strerror(ctypes.get_errno())}")
    try:
        run(["ip", "link", "set", "lo", "up"])
        for file, value in zip(files, values):
            file.write_text(value)
        yield
    finally:
        libc.setns(home, CLONE_NEWNET)
        os.close(home)


def oom_kills():
    for line in pathlib.Path("/proc/vmstat").read_text().splitlines():
        if line.startswith("oom_kill "):
            return int(line.split()[1])
    return 0
