"""The Python library in clients/python, for programs that speak the protocols."""

import sys

from roost import ROOT

sys.path.append(str(ROOT / "clients/python"))

from roosting import edge, worker
from roosting.edge import codec as edge_codec
from roosting.worker import codec as link_codec

__all__ = ["edge", "edge_codec", "link_codec", "worker"]
