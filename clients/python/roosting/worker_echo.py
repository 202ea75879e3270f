"""A program: a worker that sends every message back.

    python3 -m roosting.worker_echo --listen 127.0.0.1:7500

Any number of gateways and shards may link up. SIGTERM drains: gateways move the connections to other workers first.
"""

import argparse
import asyncio
import sys

from . import worker


class Echo(worker.Handler):
    """`on_open` accepts everybody, as it stands in Handler."""

    def on_message(self, client, message):
        client.send(message.payload, message.text)


def main():
    parser = argparse.ArgumentParser(prog="roosting.worker_echo", description=__doc__.split("\n")[0])
    parser.add_argument("--listen", required=True, action="append", metavar="ADDRESS:PORT",
                        help="or unix:PATH; port 0 lets the system choose; repeatable")
    parser.add_argument("--secret-file", help="what gateways must know: 16 bytes at least, without trailing line ends")
    options = parser.parse_args()
    try:
        secret = worker.read_secret(options.secret_file) if options.secret_file else None
        echo = worker.Worker(Echo(), secret=secret)
        asyncio.run(echo.run(options.listen, on_listening=say_where))
    except (worker.BadSecret, OSError, ValueError) as error:
        sys.exit(f"worker: {error}")


def say_where(addresses):
    for address in addresses:
        print(f"listening on {address}", flush=True)


if __name__ == "__main__":
    main()
