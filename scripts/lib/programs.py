"""Our programs: builds them, and says where they are, wherever cargo puts them."""

import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
NAMES = ("roost-gateway", "roost-router", "roost-loadgen")


def build(release=False, examples=()):
    """The paths of the three programs, and of examples of the gateway's, by name."""
    # Debug builds are those that the Rust tests use, so that nothing is built twice.
    which = ["--release", *(f"--package={name}" for name in NAMES)] if release else ["--workspace", "--all-features"]
    targets = ["--bins", *(f"--example={name}" for name in examples)]
    command = ["cargo", "build", "--quiet", "--message-format", "json", *which, *targets]
    out = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return {name: path for path, name in re.findall(r'"executable":"([^"]+/([a-z-]+))"', out)}
