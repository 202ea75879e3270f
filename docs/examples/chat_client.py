#!/usr/bin/env python3
"""A client of chat_worker.py: what is typed is said, what others say is printed.

    docs/examples/chat_client.py 127.0.0.1:7400 --room kitchen --name ada
"""

import argparse
import asyncio
import pathlib
import sys
import threading

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "clients/python"))
from roosting import edge


def type_in(client, loop):
    """A thread: a terminal blocks."""
    try:
        for line in sys.stdin:
            asyncio.run_coroutine_threadsafe(client.send(line.rstrip("\n").encode()), loop).result()
        asyncio.run_coroutine_threadsafe(client.close(), loop).result()
    except (edge.Closed, RuntimeError):
        pass


async def chat(options):
    client = edge.connect(options.address, key=options.room, token=options.name)
    threading.Thread(target=type_in, args=(client, asyncio.get_running_loop()), daemon=True).start()
    async for event in client:
        if isinstance(event, edge.Message):
            print(event.payload.decode(errors="replace"), flush=True)
        elif isinstance(event, edge.Lost):
            print(f"-- {event.reason} {event.text}: back in {event.retry_in_s:.1f} s", file=sys.stderr)
        elif isinstance(event, edge.Ended) and event.reason != "closed":
            sys.exit(f"-- {event.reason} {event.text}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("address", nargs="+", metavar="HOST:PORT")
    parser.add_argument("--room", default="lobby")
    parser.add_argument("--name", required=True, help="1 to 8 bytes")
    asyncio.run(chat(parser.parse_args()))
