"""Where things are."""

import os
import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[1]
REPOSITORY = ROOT.parents[1]
VECTORS = REPOSITORY / "protocol" / "vectors"


def gateway_binary():
    """The gateway that cargo has built, or that ROOST_GATEWAY_BIN names; None if there is none."""
    named = os.environ.get("ROOST_GATEWAY_BIN")
    if named:
        return pathlib.Path(named)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    built = [path for profile in ("debug", "release") if (path := target / profile / "roost-gateway").exists()]
    return max(built, key=lambda path: path.stat().st_mtime, default=None)
