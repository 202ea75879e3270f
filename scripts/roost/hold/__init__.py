"""The parts of scripts/hold and scripts/million, which are one program at two sizes.

* run:       the flags and the order of a run.
* kernel:    memory, the tuned kernel, a network namespace.
* processes: worker, gateway and generator.
* judge:     which promises hold.
"""
