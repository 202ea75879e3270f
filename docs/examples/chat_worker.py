#!/usr/bin/env python3
"""A chat: the key of a client is its room, and all who are in a room hear what is said there.

    docs/examples/chat_worker.py [--listen ADDRESS] [--secret-file FILE]

Clients of one key come to one worker, so that a room needs nothing that workers share. The token is the
speaker's name; the session reference carries it over to another worker, should this one die.
"""

import argparse
import asyncio
import pathlib
import sys

sys.path.append(str(pathlib.Path(__file__).resolve().parents[2] / "clients/python"))
from roosting import worker


class Chat(worker.Handler):
    def on_open(self, client, opening):
        if opening.moved:
            client.data = name_of(opening.session)
            return
        name = opening.token.decode(errors="replace")
        if not 0 < len(opening.token) <= 8:
            client.reject(code=4000, text="a name has 1 to 8 bytes")
            return
        client.data = name
        client.accept(session=reference_of(opening.token))
        self.say(client.routing_hash, f"{name} is here")

    def on_message(self, client, message):
        text = message.payload.decode(errors="replace")
        self.say(client.routing_hash, f"{client.data}: {text}")

    def on_close(self, client, reason):
        if reason != "moved" and client.data:
            self.say(client.routing_hash, f"{client.data} has left")

    def say(self, room, text):
        self.worker.multicast(self.worker.clients_of_hash(room), text.encode(), text=True)


def reference_of(name):
    """Eight bytes that mean the same to every worker: here the name itself."""
    return int.from_bytes(name.ljust(8, b"\0"), "big")


def name_of(reference):
    return reference.to_bytes(8, "big").rstrip(b"\0").decode(errors="replace")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--listen", default="127.0.0.1:7500")
    parser.add_argument("--secret-file")
    options = parser.parse_args()
    secret = worker.read_secret(options.secret_file) if options.secret_file else None
    chat = worker.Worker(Chat(), secret=secret)
    asyncio.run(chat.run(options.listen, on_listening=lambda addresses: print("listening on", *addresses, flush=True)))


if __name__ == "__main__":
    main()
