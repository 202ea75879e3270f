"""What this machine is, and what it has free."""

import contextlib
import os
import pathlib
import platform
import random
import re
import socket


def describe():
    """Which machine this is, for reports."""
    def line(path, pattern):
        with contextlib.suppress(OSError):
            found = re.search(pattern, pathlib.Path(path).read_text(encoding="utf-8"), re.M)
            return found and found[1].strip()

    memory = line("/proc/meminfo", r"^MemTotal: +(\d+)")
    return {
        "kernel": platform.release(), "architecture": platform.machine(), "cores": os.cpu_count(),
        "cpu": line("/proc/cpuinfo", r"^model name\s*:(.*)"), "memory_mib": memory and int(memory) // 1024,
    }


def free_port():
    """A port that nobody has, and if possible none that the kernel gives to clients: one that
    connects to it while nobody listens would have itself at the other end, and keep the port."""
    range_file = pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range")
    lowest = int(range_file.read_text(encoding="ascii").split()[0])
    # Tuned for many clients, the kernel gives them all that need no privilege.
    ports = range(max(lowest // 2, 1_024), lowest) if lowest > 2_048 else range(1_024, 65_536)
    for _ in range(1_000):
        port = random.choice(ports)
        if is_free(port):
            return port
    raise OSError("no port is free")


def is_free(port):
    """Whether one could listen there."""
    with socket.socket() as one, contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(("0.0.0.0", port))
        one.listen()
        return True
    return False


def memory_bytes(pid, kind="Pss"):
    """What a process has of the memory; shared pages count in parts in its Pss (proc(5),
    smaps_rollup)."""
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return int(re.search(rf"^{kind}: +(\d+)", text, re.M)[1]) * 1024
