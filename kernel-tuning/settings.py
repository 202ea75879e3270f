"""The settings that matter for N idle connections: what each should be, why, and what it risks.

Everything is computed from the number of connections and the memory. Nothing is lowered that may
stay larger, except where `at_most` says so. README.md has the measurements, and the well-known
settings that are left out because they do nothing.
"""

from dataclasses import dataclass
from typing import Callable, Optional

# Kernel and user memory of an idle connection in bytes (gateway/src/preflight/cost.rs).
CONNECTION_BYTES = 4_160 + 64
PAGE_BYTES = 4_096
# Files that are no connections: the rest of the system.
FILES_ELSE = 100_000
# What the gateway asks of listen(2) by default (listen_backlog).
LISTEN_BACKLOG = 65_535
# Buckets the kernel gives to a table at most (tcp_child_ehash_entries, ip-sysctl.rst).
HASH_BUCKETS_MAX = 1 << 24


@dataclass(frozen=True)
class Target:
    """What the machine is to hold."""

    connections: int
    memory_bytes: int
    # Clients take file descriptors: kernels up to 6.12.
    plain: bool = False
    # A load generator on the same machine has the other end of each connection.
    generator: bool = False

    @property
    def sockets(self):
        return self.connections * (2 if self.generator else 1)

    def shortage(self):
        """Why the memory does not suffice, as a line; None if it does."""
        need = self.sockets * CONNECTION_BYTES
        # The kernel, the page cache and data in flight need some, too.
        have = self.memory_bytes - max(self.memory_bytes // 12, 128 << 20)
        if need <= have:
            return None
        return (
            f"{self.sockets:,} sockets x {CONNECTION_BYTES:,} bytes = {need / 2**30:.1f} GiB, but of "
            f"{self.memory_bytes / 2**30:.1f} GiB only {have / 2**30:.1f} can be used: at most "
            f"{have // CONNECTION_BYTES:,} sockets"
        )


@dataclass(frozen=True)
class Setting:
    """One sysctl."""

    name: str
    # From the target to the numbers wanted; None: it does not matter for this target.
    wanted: Callable[[Target], Optional[tuple]]
    why: str
    risk: str
    # How the numbers of now are judged: "at_least", "at_most" or "equal".
    rule: str = "at_least"

    def merge(self, now, target):
        """The value to write over `now`, as text; None if it may stay."""
        wanted = self.wanted(target)
        if wanted is None:
            return None
        have = tuple(int(word) for word in now.split())
        if len(have) != len(wanted):
            raise ValueError(f"{self.name} has {len(have)} numbers, not {len(wanted)}")
        pick = {"at_least": max, "at_most": min, "equal": lambda _, new: new}[self.rule]
        merged = tuple(pick(old, new) for old, new in zip(have, wanted))
        return None if merged == have else " ".join(map(str, merged))


def power_of_two(number):
    """The next power of two."""
    return 1 << max(0, number - 1).bit_length()


def hash_buckets(target):
    return (min(power_of_two(target.sockets), HASH_BUCKETS_MAX),)


def tcp_mem(target):
    # One page of data for every socket at once, as a broadcast causes, but never more than half
    # of what the idle sockets leave.
    left = max(0, target.memory_bytes - target.sockets * CONNECTION_BYTES) // PAGE_BYTES
    most = min(target.sockets * 3 // 2, left // 2)
    return (most // 2, most * 2 // 3, most)


SETTINGS = [
    Setting(
        "fs.file-max",
        lambda target: (target.sockets + FILES_ELSE,),
        "every connection holds an open file, also as a direct descriptor; beyond it accept fails with ENFILE",
        "a leak of files is noticed later",
    ),
    Setting(
        "fs.nr_open",
        lambda target: (target.connections + FILES_ELSE,) if target.plain else None,
        "the most that LimitNOFILE can be; clients take descriptors on kernels up to 6.12",
        "a process may grow its table, 8 bytes for each descriptor",
    ),
    Setting(
        "net.core.somaxconn",
        lambda target: (min(LISTEN_BACKLOG, max(4_096, power_of_two(target.connections // 16))),),
        "caps the backlog of listen(2) silently; a connect that finds it full waits a second or more",
        "each waiting connection takes 2.9 KB before it is accepted",
    ),
    Setting(
        "net.ipv4.tcp_mem",
        tcp_mem,
        "pages for data in all sockets; a message to everybody takes a page each, beyond the middle "
        "number buffers shrink, beyond the last sends fail",
        "data in flight may take up to the last number from everything else",
    ),
    Setting(
        "net.ipv4.tcp_child_ehash_entries",
        hash_buckets,
        "buckets of established connections in network namespaces made from now on, containers among "
        "them; with too few every packet walks a long chain",
        "8 bytes of unswappable memory per bucket in every new namespace",
    ),
    Setting(
        "net.netfilter.nf_conntrack_max",
        lambda target: (target.sockets * 5 // 4,),
        "where a firewall rule tracks connections, further ones are dropped; exempting the port "
        "(notrack) is better still",
        "each tracked connection takes 256 bytes (6.18) and what extensions add",
    ),
    Setting(
        "net.ipv4.ip_local_port_range",
        lambda target: (1_024, 65_535) if target.generator else None,
        "ports per source address of a load generator on this machine",
        "a service on a high port may find it taken; reserve it in ip_local_reserved_ports",
        rule="equal",
    ),
    Setting(
        "kernel.io_uring_disabled",
        lambda target: (1,),
        "2 refuses io_uring to all; 1 leaves it to root and to the group that kernel.io_uring_group "
        "names, so put the gateway's group there; 0 leaves it to everybody",
        "io_uring is a large interface: prefer 1 and a group to 0",
        rule="at_most",
    ),
    Setting(
        "vm.overcommit_memory",
        lambda target: (1,),
        "2 refuses the tables that the gateway reserves and fills only as clients come",
        "none: 0 and 1 may stay",
        rule="at_most",
    ),
]
