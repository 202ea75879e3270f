"""What the programs in scripts/ are made of. scripts/README.md has a table of the programs.

* lib:      what several programs use: our binaries, a gateway, the machine, verdicts.
* clients:  the Python library in clients/python.
* bench:    scripts/bench.
* faults:   the cases of scripts/faults.
* kernels:  scripts/kernel-matrix.
* hold:     scripts/hold and scripts/million.
* soak:     the troubles of scripts/soak.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The repository."""
