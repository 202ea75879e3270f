"""What scripts/soak is made of.

* world:   the processes: gateway, workers, load generators, and a log reader that stalls.
* acts:    what is done to them, drawn from a seed.
* hostile: clients that break the rules, each kind in a process of its own.
* books:   what must hold at the end.
"""
