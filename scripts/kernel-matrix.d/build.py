"""Builds what runs in the guest: statically linked test programs and the three binaries."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

TARGET = "x86_64-unknown-linux-gnu"
# Test programs of these names need a real kernel and nothing else.
PATTERNS = ["ring_*", "real_*"]
PACKAGES = ["roost-gateway", "roost-router", "roost-loadgen"]


class BuildFailed(Exception):
    """Cargo said no; its messages have been printed."""


@dataclass
class Programs:
    """Executables by name."""

    tests: dict
    binaries: dict


def programs(repository, only_tests=None):
    names = only_tests if only_tests is not None else test_names(repository)
    tests = {}
    if names:
        wanted = [word for name in names for word in ("--test", name)]
        for artifact in cargo(repository, "test", "--no-run", "-p", "roost-gateway", *wanted):
            if artifact["target"]["kind"] == ["test"]:
                tests[artifact["target"]["name"]] = Path(artifact["executable"])
    binaries = {}
    selected = [word for package in PACKAGES for word in ("-p", package)]
    for artifact in cargo(repository, "build", "--bins", *selected):
        binaries[artifact["target"]["name"]] = Path(artifact["executable"])
    return Programs(tests, binaries)


def test_names(repository):
    found = []
    for pattern in PATTERNS:
        for path in (repository / "gateway/tests").glob(pattern):
            if path.suffix == ".rs" or (path / "main.rs").exists():
                found.append(path.stem)
    return sorted(found)


def cargo(repository, *words):
    """Runs cargo for the static target; returns the artifacts that are executables."""
    environment = dict(os.environ)
    environment["RUSTFLAGS"] = "-C target-feature=+crt-static -C strip=debuginfo"
    done = subprocess.run(
        ["cargo", *words, "--target", TARGET, "--message-format=json-render-diagnostics"],
        cwd=repository, env=environment, stdout=subprocess.PIPE, text=True,
    )
    if done.returncode != 0:
        raise BuildFailed(f"cargo {' '.join(words)} failed")
    messages = (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))
    return [m for m in messages if m.get("reason") == "compiler-artifact" and m.get("executable")]
