"""qemu and busybox: the machine's own qemu where there is one, else copies in the cache."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from roost.kernels.packages import CacheLock, Unavailable, World, cache_dir, unpack

QEMU = "qemu-system-x86_64"


@dataclass
class Tools:
    """What runs on the host (qemu) and what goes into the guest (busybox)."""

    qemu: list  # command prefix
    environment: dict
    busybox: Path

    def qemu_version(self):
        done = subprocess.run([*self.qemu, "--version"], env=self.environment, capture_output=True, text=True)
        return done.stdout.splitlines()[0] if done.returncode == 0 and done.stdout else None


def fetch():
    with CacheLock():
        home = cache_dir() / "tools"
        tools = at(home)
        if tools.busybox.exists() and tools.qemu_version():
            return tools
        shutil.rmtree(home, ignore_errors=True)
        suite = host_suite()
        # Unpacked, not installed: installing qemu-system-x86 from one suite would remove a
        # qemu-utils that came from another.
        world = World("tools", [suite, f"{suite}-security"])
        world.update()
        for deb in world.download_with_dependencies(["busybox-static"]):
            unpack(deb, home)
        if not shutil.which(QEMU):
            for deb in world.download_with_dependencies(["qemu-system-x86"]):
                unpack(deb, home)
                deb.unlink()
        tools = at(home)
        if not tools.qemu_version():
            raise Unavailable(f"{QEMU} does not start")
        return tools


def at(home):
    busybox = next((p for p in (home / "bin/busybox", home / "usr/bin/busybox") if p.exists()), home / "bin/busybox")
    environment = dict(os.environ)
    if shutil.which(QEMU):
        return Tools([QEMU], environment, busybox)
    libraries = [home / "usr/lib/x86_64-linux-gnu", home / "lib/x86_64-linux-gnu"]
    environment["LD_LIBRARY_PATH"] = ":".join(map(str, libraries))
    environment["QEMU_MODULE_DIR"] = str(libraries[0] / "qemu")
    firmware = [word for part in ("qemu", "seabios") for word in ("-L", str(home / "usr/share" / part))]
    return Tools([str(home / "usr/bin" / QEMU), *firmware], environment, busybox)


def host_suite():
    """This machine's Debian release, such as bookworm."""
    fields = {}
    for line in Path("/etc/os-release").read_text().splitlines():
        key, _, value = line.partition("=")
        fields[key] = value.strip('"')
    if fields.get("ID") != "debian" or not fields.get("VERSION_CODENAME"):
        raise Unavailable(f"this is not Debian: install {QEMU} and run again in a Debian container")
    return fields["VERSION_CODENAME"]
