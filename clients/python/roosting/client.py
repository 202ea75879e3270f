"""A program: a client that sends messages and prints the replies.

    python3 -m roosting.client 127.0.0.1:7400 --key alice --send hello --count 3

ends with 1, and says why, if the session is refused or ends early, or if a reply is missing (or, with
--check-echo, is not what was sent). With --events it comes back instead, prints every event as a line of JSON,
sends each line of its standard input, and closes at that input's end.
"""

import argparse
import asyncio
import dataclasses
import json
import os
import sys
import threading

from . import edge


class Failed(Exception):
    """args[0] says why."""


async def talk(client, options):
    """Sends and awaits one reply after the other."""
    message = os.fsencode(options.send)
    await until_open(client, options.timeout)
    await hold(client, options.hold)
    for _ in range(options.count):
        await client.send(message)
        try:
            reply = await asyncio.wait_for(next_message(client), options.timeout)
        except asyncio.TimeoutError:
            raise Failed(f"no MESSAGE within {options.timeout} s") from None
        print(reply.decode(errors="backslashreplace"))
        if options.check_echo and reply != message:
            raise Failed("the reply is not what was sent")
    if not await client.close(options.timeout):
        raise Failed("the gateway did not confirm CLOSE")


async def until_open(client, timeout_s):
    async def step():
        async for event in client:
            check(event)
            if isinstance(event, edge.Open):
                return
    try:
        await asyncio.wait_for(step(), timeout_s)
    except asyncio.TimeoutError:
        raise Failed(f"no WELCOME within {timeout_s} s") from None


async def hold(client, seconds):
    """Stays connected, doing nothing but the heartbeat."""
    if not seconds:
        return

    async def step():
        async for event in client:
            check(event)
    try:
        await asyncio.wait_for(step(), seconds)
    except asyncio.TimeoutError:
        pass


async def next_message(client):
    async for event in client:
        check(event)
        if isinstance(event, edge.Message):
            return event.payload
    raise Failed("the client has ended")


def check(event):
    """Without --events the first end is the last."""
    if isinstance(event, (edge.Lost, edge.Ended)):
        told = f": {event.text}" if event.text else ""
        code = f" ({event.code})" if event.code else ""
        later = f", come back after {event.retry_in_s:.3f} s" if isinstance(event, edge.Lost) else ""
        raise Failed(f"{event.reason}{code}{told}{later}")
    if isinstance(event, edge.Unsent):
        raise Failed("the message is longer than the gateway's limit")


async def follow(client):
    """Prints events, and sends what comes on standard input."""
    threading.Thread(target=feed, args=(client, asyncio.get_running_loop()), daemon=True).start()
    ended = None
    async for event in client:
        fields = {name: value.decode(errors="backslashreplace") if isinstance(value, bytes) else value
                  for name, value in dataclasses.asdict(event).items()}
        print(json.dumps({"event": type(event).__name__.lower(), **fields}), flush=True)
        ended = event
    if ended.reason != "closed":
        raise Failed(ended.reason)


def feed(client, loop):
    """A thread: standard input blocks, whatever it is."""
    try:
        for line in sys.stdin.buffer:
            try:
                asyncio.run_coroutine_threadsafe(client.send(line.rstrip(b"\n")), loop).result()
            except edge.TooLong as error:
                print(f"client: not sent: {error}", file=sys.stderr)
        asyncio.run_coroutine_threadsafe(client.close(), loop).result()
    except (edge.Closed, RuntimeError):
        pass  # the client, or the loop, has ended


async def run(options):
    async with edge.connect(options.address, key=os.fsencode(options.key), token=os.fsencode(options.token),
                            open_timeout_s=options.timeout) as client:
        await (follow(client) if options.events else talk(client, options))


def main():
    parser = argparse.ArgumentParser(prog="roosting.client", description=__doc__.split("\n")[0])
    parser.add_argument("address", nargs="+", metavar="HOST:PORT")
    parser.add_argument("--key", default="", help="routing key: who shares it shares a worker")
    parser.add_argument("--token", default="", help="goes to the worker unread")
    parser.add_argument("--send", metavar="TEXT", default="hello", help="the message")
    parser.add_argument("--count", type=int, default=1, help="how often it is sent")
    parser.add_argument("--check-echo", action="store_true", help="replies must equal messages")
    parser.add_argument("--hold", metavar="SECONDS", type=float, default=0,
                        help="stay connected for so long before the messages")
    parser.add_argument("--timeout", metavar="SECONDS", type=float, default=10)
    parser.add_argument("--events", action="store_true",
                        help="come back, print events as JSON, send lines of standard input")
    options = parser.parse_args()
    try:
        asyncio.run(run(options))
    except (Failed, ValueError) as error:
        print(f"client: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
