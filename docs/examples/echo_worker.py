#!/usr/bin/env python3
"""A worker of 15 lines that sends every message back, in capitals.

    docs/examples/echo_worker.py & cargo run --release -- --worker 127.0.0.1:7500
"""

import asyncio
import pathlib
import sys

# An installed library needs no such line: pip install clients/python
sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "clients/python"))
from roosting import worker


class Echo(worker.Handler):
    def on_open(self, client, opening):
        if not opening.moved:  # a moved client is open already
            client.accept(session=client.routing_hash)

    def on_message(self, client, message):
        client.send(message.payload.upper())


if __name__ == "__main__":
    asyncio.run(worker.Worker(Echo()).run("127.0.0.1:7500"))
