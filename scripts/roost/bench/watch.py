"""What a run costs: one core's busy time, and CPU time and memory of processes, sampled."""

import contextlib
import os
import subprocess
import threading
import time

from roost.lib.machine import memory_bytes

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
EVERY_S = 0.1
# Reading smaps_rollup walks all pages of a process: seldom.
PSS_EVERY_S = 0.5
RELEASE_S = 180
# What a machine with nothing to do opens and closes by itself; its count is not exact either.
RELEASE_SLACK = 500
# How long a kernel keeps a connection in TIME-WAIT (TCP_TIMEWAIT_LEN, not adjustable).
TIME_WAIT_S = 60


def core_busy_s(core):
    """Busy time of a core since some moment: what was not idle or iowait, so interrupts and kernel
    threads too. Those two the kernel counts by the clock, whatever the core is busy with by whom a tick
    meets, which is nobody where work comes and goes between ticks."""
    with open("/proc/stat") as file:
        for line in file:
            name, *fields = line.split()
            if name == f"cpu{core}":
                idle, iowait = map(int, fields[3:5])
                return time.monotonic() - (idle + iowait) * TICK_S
    raise SystemExit(f"scripts/bench: no core {core}")


def cpu_s(pids):
    """User and system time of processes that live."""
    user = system = 0
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
            user, system = user + int(fields[11]) * TICK_S, system + int(fields[12]) * TICK_S
    return user, system


def pss_bytes(pids):
    """Their memory in user space; pages that are shared count in parts."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += memory_bytes(pid)
    return total


def open_files():
    """Open files of the whole machine, sockets and direct descriptors included (proc(5), file-nr)."""
    with open("/proc/sys/fs/file-nr") as file:
        return int(file.read().split()[0])


def await_few(count, within_s):
    """Waits until `count()` is hardly anything. Returns what it still is after so long; 0: that little."""
    until = time.time() + within_s
    while (left := count()) > RELEASE_SLACK:
        if time.time() > until:
            return left
        time.sleep(EVERY_S)
    return 0


def await_release(files):
    """Waits until about so few files are open. A kernel closes a million sockets long after the process
    that had them is gone, and whoever runs meanwhile pays for it. Returns how many there still are when
    it has waited long enough; 0: none."""
    return await_few(lambda: open_files() - files, RELEASE_S)


def time_waits():
    """Connections of this network namespace in TIME-WAIT."""
    with open("/proc/net/sockstat") as file:
        for line in file:
            name, *fields = line.split()
            if name == "TCP:":
                return int(fields[fields.index("tw") + 1])
    return 0


def await_time_waits():
    """Waits until hardly any connection is in TIME-WAIT. Each one's timer, a minute after its end, runs
    on the core that ended it, in the middle of whatever is measured there then. Those of loopback are
    ended at once where that is allowed (ss(8), -K). Returns as `await_release` does."""
    if time_waits() > RELEASE_SLACK:
        with contextlib.suppress(OSError):
            subprocess.run(["ss", "-K", "state", "time-wait", "src", "127.0.0.0/8"], stdin=subprocess.DEVNULL,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    return await_few(time_waits, TIME_WAIT_S + 5)


class Watch(threading.Thread):
    """Samples until it is stopped: (Unix time, busy time of the core, user and system time, PSS)."""

    def __init__(self, core, pids):
        super().__init__(daemon=True)
        self.core, self.pids = core, pids
        self.samples = []
        self.stopped = threading.Event()

    def run(self):
        pss, pss_due = None, 0
        while True:
            now = time.time()
            if now >= pss_due:
                pss, pss_due = pss_bytes(self.pids), now + PSS_EVERY_S
            self.samples.append((time.time(), core_busy_s(self.core), *cpu_s(self.pids), pss))
            if self.stopped.wait(EVERY_S):
                return

    def stop(self):
        self.stopped.set()
        self.join()

    def at(self, when):
        """Busy, user and system time at a moment, between the samples around it."""
        before = max((s for s in self.samples if s[0] <= when), default=self.samples[0])
        after = min((s for s in self.samples if s[0] > when), default=self.samples[-1])
        part = (when - before[0]) / (after[0] - before[0]) if after[0] > before[0] else 0
        return [b + (a - b) * min(max(part, 0), 1) for b, a in zip(before[1:4], after[1:4])]

    def between(self, start, end):
        """Busy, user and system time from one moment to another."""
        return [after - before for before, after in zip(self.at(start), self.at(end))]

    def pss_at(self, when):
        """The last PSS read by then."""
        return max((s for s in self.samples if s[0] <= when), default=self.samples[0])[4]
