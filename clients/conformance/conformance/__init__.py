"""The conformance program: independent of the project's own codecs on purpose.

`edge` and `link` are the two codecs, `net` has sockets and child processes, `report` the verdicts. `client`, `worker` and
`gateway` are the three modes, one scenario a function. `untested` says why numbers have no scenario.
"""
