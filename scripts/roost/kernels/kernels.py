"""Which kernels, and where their images come from."""

import lzma
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from roost.kernels.packages import CacheLock, Unavailable, World, cache_dir, unpack

# Debian's cloud images: small, and with the configuration that cloud machines really run.
SUITES = [
    "bullseye", "bullseye-security",  # 5.10
    "bookworm", "bookworm-security",  # 6.1
    "trixie", "trixie-security",  # 6.12
    "bookworm-backports", "trixie-backports",  # newer ones
]
DEFAULT = ["5.10-oldest", "5.10", "6.1", "6.12", "newest"]
PATTERN = r"^linux-image-[0-9].*-cloud-amd64$"
MODULES = ["tun"]  # the rest of what the tests need is built into these images


@dataclass
class Kernel:
    """One kernel, unpacked and ready to boot."""

    version: str  # the Debian package's, such as 5.10.218-1
    release: str  # what uname -r says
    image: Path
    modules: list  # uncompressed .ko files


def version_key(version):
    """Orders package versions: upstream numbers, then the Debian revision."""
    upstream, _, revision = version.partition("-")
    numbers = lambda text: tuple(int(n) for n in re.findall(r"\d+", text))
    return numbers(upstream), numbers(revision.partition("~")[0]), "~" not in revision


def choose(selector, stanzas):
    """The stanza that a selector names: `5.10` the newest 5.10, `5.10-oldest`, `5.10.218`, `newest`."""
    prefix, _, end = selector.partition("-")
    if prefix == "newest":
        prefix, end = "", ""
    if end not in ("", "oldest"):
        raise Unavailable(f"{selector}: say a version such as 5.10, 5.10-oldest, or newest")
    matching = [
        s for s in stanzas
        if not prefix or s["Version"] == prefix or re.match(re.escape(prefix) + r"[.~-]", s["Version"])
    ]
    if not matching:
        raise Unavailable(f"no cloud image of Linux {selector} in {', '.join(SUITES)}")
    pick = min if end == "oldest" else max
    return pick(matching, key=lambda s: version_key(s["Version"]))


def fetch(selectors):
    """Resolves and fetches; returns ([(selector, Kernel)], [(selector, why not)])."""
    have, missing = [], []
    with CacheLock():
        try:
            world = World("kernels", SUITES)
            world.update()
            stanzas = world.stanzas(PATTERN)
        except Unavailable as why:
            return [], [(selector, str(why)) for selector in selectors]
        for selector in selectors:
            try:
                kernel = prepare(world, choose(selector, stanzas))
            except (Unavailable, subprocess.CalledProcessError) as why:
                missing.append((selector, str(why)))
                continue
            if kernel.version not in [k.version for _, k in have]:
                have.append((selector, kernel))
    return have, missing


def prepare(world, stanza):
    package, version = stanza["Package"], stanza["Version"]
    release = package[len("linux-image-"):]
    home = cache_dir() / "kernels" / version
    if not (home / "complete").exists():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        with tempfile.TemporaryDirectory(dir=cache_dir()) as scratch:
            extract(world, stanza, release, Path(scratch), home)
        (home / "complete").touch()
    return Kernel(version, release, home / "vmlinuz", sorted(home.glob("*.ko")))


def extract(world, stanza, release, scratch, home):
    """Takes the image and the modules out of the package, or out of those it is split into."""
    names = [stanza["Package"]]
    names += re.findall(rf"linux-(?:binary|modules)-{re.escape(release)}(?= )", stanza.get("Depends", ""))
    for name in names:
        deb = world.download(name, stanza["Version"])
        unpack(deb, scratch)
        deb.unlink()
    images = [p for p in scratch.rglob("vmlinuz*") if p.is_file()]
    if not images:
        raise Unavailable(f"{', '.join(names)} hold no kernel image")
    shutil.copyfile(images[0], home / "vmlinuz")
    for module in MODULES:
        for path in scratch.rglob(f"{module}.ko*"):
            data = path.read_bytes()
            if path.suffix == ".xz":
                data = lzma.decompress(data)
            elif path.suffix == ".zst":
                data = subprocess.run(["zstd", "-dc"], input=data, capture_output=True, check=True).stdout
            (home / f"{module}.ko").write_bytes(data)
