"""The client and the worker that docs/examples documents, for programs that speak the protocols."""

import sys

from roost import ROOT

sys.path.append(str(ROOT / "docs/examples"))

import edge_client
import edge_codec
import link_codec
import worker

__all__ = ["edge_client", "edge_codec", "link_codec", "worker"]
