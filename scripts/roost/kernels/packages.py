"""Debian packages without touching the machine's own package state, and without root.

A `World` is a private apt: its own sources, lists and archives in the cache directory, the
machine's keyring for verification, the machine's mirror. Packages are downloaded and unpacked
there; nothing is installed.
"""

import fcntl
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
LISTS_FRESH_S = 24 * 3600


class Unavailable(Exception):
    """Something needed cannot be had on this machine; the text says what and what to do."""


def cache_dir():
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "roost-kernels"


class CacheLock:
    """One process at a time may change the cache."""

    def __enter__(self):
        cache_dir().mkdir(parents=True, exist_ok=True)
        self._file = open(cache_dir() / "lock", "w")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_):
        self._file.close()


def mirror():
    """The Debian mirror this machine's own apt uses (ROOST_DEBIAN_MIRROR overrides it)."""
    given = os.environ.get("ROOST_DEBIAN_MIRROR")
    if given:
        return given.rstrip("/")
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise Unavailable("no apt-get and dpkg-deb here: run on a Debian machine or in a Debian container")
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"],
        capture_output=True, text=True,
    ).stdout.split()
    for uri in listed:
        if uri.rstrip("/").endswith("/debian"):
            return uri.rstrip("/")
    raise Unavailable(
        "apt's sources name no Debian mirror: set ROOST_DEBIAN_MIRROR to the URL of one, ending in /debian"
    )


class World:
    """A private apt with the given suites ("bookworm", "bookworm-security", ...)."""

    def __init__(self, name, suites):
        if not KEYRING.exists():
            raise Unavailable(f"{KEYRING} is missing: install debian-archive-keyring")
        self.root = cache_dir() / "apt" / name
        for part in ("lists/partial", "archives/partial"):
            (self.root / part).mkdir(parents=True, exist_ok=True)
        base = mirror()
        sources = "".join(
            f"deb [signed-by={KEYRING}] {base}{'-security' if s.endswith('-security') else ''} {s} main\n"
            for s in suites
        )
        listing = self.root / "sources.list"
        if not listing.exists() or listing.read_text() != sources:
            listing.write_text(sources)
            (self.root / "updated").unlink(missing_ok=True)
        # apt locks the directory of the status file, so an unprivileged user needs a copy.
        shutil.copyfile("/var/lib/dpkg/status", self.root / "status")

    def _options(self):
        options = {
            "Dir::Etc::sourcelist": self.root / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::State": self.root,
            "Dir::State::lists": self.root / "lists",
            "Dir::State::status": self.root / "status",
            "Dir::Cache": self.root,
            "Dir::Cache::archives": self.root / "archives",
            "Acquire::Languages": "none",
            # Metadata for software centres, where a machine's own configuration asks for it.
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
            "Acquire::Retries": "3",
            "APT::Architecture": "amd64",
            # The archives lie under a home directory that the _apt user cannot enter.
            "APT::Sandbox::User": "root",
        }
        return [word for key, value in options.items() for word in ("-o", f"{key}={value}")]

    def _run(self, program, *words, **how):
        return subprocess.run(
            [program, *self._options(), *words], capture_output=True, text=True,
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}, **how,
        )

    def update(self):
        """Refreshes the package lists when they are older than a day."""
        stamp = self.root / "updated"
        if stamp.exists() and time.time() - stamp.stat().st_mtime < LISTS_FRESH_S:
            return
        done = self._run("apt-get", "update", "-o", "APT::Update::Error-Mode=any")
        if done.returncode == 0:
            stamp.touch()
            return
        if not any((self.root / "lists").glob("*_Packages*")):
            raise Unavailable(f"apt-get update failed: {last_line(done.stderr)}")
        print(f"kernel-matrix: package lists not refreshed, using older ones: {last_line(done.stderr)}", flush=True)

    def stanzas(self, pattern):
        """All known versions of the packages whose name matches, as dicts of their fields."""
        found = self._run("apt-cache", "search", "--names-only", pattern).stdout
        names = sorted({line.split(" ", 1)[0] for line in found.splitlines()})
        if not names:
            return []
        shown = self._run("apt-cache", "show", *names).stdout
        result = []
        for text in shown.split("\n\n"):
            fields = dict(re.findall(r"^([A-Z][A-Za-z0-9-]*): (.*)$", text, re.M))
            if fields.get("Package") in names:
                result.append(fields)
        return result

    def download(self, package, version):
        """Downloads one package, verified by apt; returns the .deb."""
        into = self.root / "archives"
        done = self._run("apt-get", "download", f"{package}={version}", cwd=into)
        deb = into / f"{package}_{version.replace(':', '%3a')}_amd64.deb"
        if done.returncode != 0 or not deb.exists():
            raise Unavailable(f"{package} {version} cannot be downloaded: {last_line(done.stderr)}")
        return deb

    def download_with_dependencies(self, packages):
        """Downloads packages and what they need beyond the machine's installed ones."""
        for old in (self.root / "archives").glob("*.deb"):
            old.unlink()
        done = self._run(
            "apt-get", "install", "--yes", "--download-only", "--reinstall", "--no-install-recommends", *packages
        )
        if done.returncode != 0:
            raise Unavailable(f"{', '.join(packages)} cannot be downloaded: {last_line(done.stderr)}")
        return sorted((self.root / "archives").glob("*.deb"))


def unpack(deb, directory):
    directory.mkdir(parents=True, exist_ok=True)
    subprocess.run(["dpkg-deb", "-x", str(deb), str(directory)], check=True)


def last_line(text):
    lines = [line for line in text.strip().splitlines() if line.strip()]
    # apt names its mirror in errors; which host it was is the machine's business, not the log's.
    return re.sub(r"https?://\S+", "(mirror)", lines[-1]) if lines else "no reason given"
