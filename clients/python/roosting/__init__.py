"""Clients and workers of a roost gateway, written from protocol/SPEC.md; standard library only.

* edge:        the client's side: edge protocol 1 (SPEC.md, part 1).
* worker:      the worker's side: routing and link protocol 1 (SPEC.md, parts 2 and 3).
* client:      a program: sends messages and prints the replies.
* worker_echo: a program: a worker that sends every message back.
"""
