"""Builds what runs in the guest: statically linked test programs and the three binaries."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

TARGET = "x86_64-unknown-linux-gnu"
# Test programs of these names need a real kernel and nothing else.
PATTERNS = ["ring_*", "real_*"]
PACKAGES = ["roost-ring", "roost-gateway", "roost-router", "roost-loadgen"]


class BuildFailed(Exception):
    """Cargo said no; its messages have been printed."""


@dataclass
class Programs:
    """Executables by name."""

    tests: dict
    binaries: dict


def programs(repository):
    """Builds all in one go, so that dependencies are compiled for one set of features only."""
    selected = [word for package in PACKAGES for word in ("-p", package)]
    selected += [word for name in test_names(repository) for word in ("--test", name)]
    made = Programs({}, {})
    for artifact in cargo(repository, "build", "--bins", *selected):
        kind, name = artifact["target"]["kind"], artifact["target"]["name"]
        path = Path(artifact["executable"])
        if kind == ["test"]:
            made.tests[name] = path
        elif kind == ["bin"] and not artifact["profile"]["test"]:
            made.binaries[name] = path
    return made


def test_names(repository):
    found = []
    for pattern in PATTERNS:
        for path in (repository / "ring/tests").glob(pattern):
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
