"""Our programs: builds them, and says where they are, wherever cargo puts them."""

import re
import subprocess
import sys

from roost import ROOT

NAMES = ("roost-gateway", "roost-router", "roost-loadgen")
SOURCES = ("gateway", "loadgen", "protocol", "ring", "router", "Cargo.lock")


def build(release=False, examples=()):
    """The paths of the three programs, and of examples of the gateway's, by name."""
    # Debug builds are those that the Rust tests use, so that nothing is built twice.
    which = ["--release", *(f"--package={name}" for name in NAMES)] if release else ["--workspace", "--all-features"]
    targets = ["--bins", *(f"--example={name}" for name in examples)]
    command = ["cargo", "build", "--quiet", "--message-format", "json", *which, *targets]
    out = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {name: path for path, name in re.findall(r'"executable":"([^"]+/([a-z-]+))"', out)}


def module(name, *words):
    """A command that runs a module of this package by itself, in whatever namespace it is started."""
    return ["env", f"PYTHONPATH={ROOT / 'scripts'}", sys.executable, "-B", "-m", f"roost.{name}", *words]


def commit(*scripts):
    """Which commit the programs and these paths are of, `-dirty` if they have changed since: a result
    in docs/ does not make its own commit a dirty one. Empty outside of git."""
    def git(*words):
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()

    changed = git("status", "--porcelain", "--", *SOURCES, *scripts)
    return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if changed else "")
