"""Client and worker of this library with a real gateway between them."""

import asyncio
import os
import random
import re
import subprocess
import tempfile
import time
import unittest

from roosting import edge, worker
from roosting.worker import codec as link

from .programs import gateway_binary

TIMEOUT_S = 60
BINARY = gateway_binary()


class Gateway:
    """A gateway on ports of the kernel's choice."""

    def __init__(self, workers, *flags):
        self.log = tempfile.NamedTemporaryFile("w+")
        names = [flag for name, address in workers.items() for flag in ("--worker", f"{name}={address}")]
        self.process = subprocess.Popen(
            [BINARY, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--shards", "2", *names, *flags],
            stdout=self.log, stderr=self.log)
        until = time.monotonic() + TIMEOUT_S
        while not (found := re.search(r"clients +([0-9.]+:\d+)", self.text())):
            if self.process.poll() is not None or time.monotonic() > until:
                self.stop()
                raise AssertionError(f"the gateway did not start:\n{self.text()}")
            time.sleep(0.05)
        self.address = found[1]

    def text(self):
        with open(self.log.name, encoding="utf-8") as file:
            return file.read()

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.log.close()


class Cuts:
    """A TCP proxy in front of a worker that cuts connections after a random number of bytes."""

    def __init__(self, port, rng):
        self.port, self.rng, self.count, self.is_gentle = port, rng, 0, False

    async def __aenter__(self):
        self.server = await asyncio.start_server(self.carry, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_):
        self.server.close()

    async def carry(self, reader, writer):
        try:
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            writer.transport.abort()
            return
        left = [self.rng.randrange(1, 20_000)]

        async def one_way(source, sink):
            while data := await source.read(1000):
                if not self.is_gentle:
                    left[0] -= len(data)
                if left[0] < 0:
                    self.count += 1
                    sink.write(data[:self.rng.randrange(len(data) + 1)])
                    break
                sink.write(data)
        tasks = [asyncio.create_task(one_way(reader, to_writer)), asyncio.create_task(one_way(to_reader, writer))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            pass
        for task in tasks:
            task.cancel()
        for each in (writer, to_writer):
            each.close()


class Echo(worker.Handler):
    def __init__(self):
        self.openings, self.messages = [], []

    def on_open(self, client, opening):
        self.openings.append((client, opening))
        super().on_open(client, opening)

    def on_message(self, client, message):
        self.messages.append(message)
        client.send(message.payload)


@unittest.skipUnless(BINARY, "no gateway is built: cargo build -p roost-gateway")
class WithGatewayTest(unittest.IsolatedAsyncioTestCase):
    async def worker(self, handler, **options):
        """A worker on this loop; gives it and its port."""
        one = worker.Worker(handler, log=lambda text: None, **options)
        listening = asyncio.Event()
        task = asyncio.create_task(one.run("127.0.0.1:0", lambda _: listening.set(), signals=False))

        async def stop():
            task.cancel()
            await asyncio.wait({task})
        self.addAsyncCleanup(stop)
        await asyncio.wait_for(listening.wait(), TIMEOUT_S)
        return one, int(one.addresses[0].rpartition(":")[2]), task

    def gateway(self, workers, *flags):
        gateway = Gateway(workers, *flags)
        self.addCleanup(gateway.stop)
        return gateway

    async def linked(self, gateway, workers):
        """Waits until all are linked: a client that comes before moves to its owner later."""
        until = asyncio.get_running_loop().time() + TIMEOUT_S
        while gateway.text().count("link up") < 2 * workers:
            self.assertLess(asyncio.get_running_loop().time(), until, gateway.text())
            await asyncio.sleep(0.02)

    def connect(self, gateway, **options):
        client = edge.connect(gateway.address, **options)
        self.addAsyncCleanup(client.close, 1)
        return client

    async def event(self, client, kind):
        async def step():
            async for event in client:
                if isinstance(event, kind):
                    return event
        return await asyncio.wait_for(step(), TIMEOUT_S)

    async def echo(self, client, first, last):
        """Sends numbers, and gives the replies until the last has come."""
        for number in range(first, last):
            await client.send(b"%d" % number)
        replies = []
        while not replies or replies[-1] != last - 1:
            replies.append(int((await self.event(client, edge.Message)).payload))
        return replies

    async def test_a_session(self):
        handler = Echo()
        _, port, _ = await self.worker(handler)
        gateway = self.gateway({"w": f"127.0.0.1:{port}"}, "--set", "idle_timeout_ms=200000",
                               "--set", "messages_per_s_max=5000")
        client = self.connect(gateway, key="alice", token="t")
        opened = await self.event(client, edge.Open)
        self.assertEqual((opened.session, opened.idle_timeout_ms, opened.messages_per_s_max),
                         (link.routing_hash(b"alice"), 200_000, 5_000))
        self.assertEqual(await self.echo(client, 0, 1000), list(range(1000)))
        self.assertTrue(await client.close())
        (each, opening), = handler.openings
        self.assertEqual((opening.moved, opening.key, opening.token, each.framing), (False, b"alice", b"t", "edge"))
        self.assertEqual(opening.peer[0], "127.0.0.1")

    async def test_what_a_worker_says_reaches_the_client(self):
        class Refuses(worker.Handler):
            def on_open(self, client, opening):
                if opening.token == b"good":
                    client.accept()
                else:
                    client.reject(retry_after_ms=50, code=4003, text="wer da?")

            def on_message(self, client, message):
                client.close(code=4999, text="genug")

        _, port, _ = await self.worker(Refuses())
        gateway = self.gateway({"w": f"127.0.0.1:{port}"})
        tokens = iter((b"bad", b"good", b"good"))
        client = self.connect(gateway, token=lambda: next(tokens))
        lost = await self.event(client, edge.Lost)
        self.assertEqual(lost, edge.Lost("worker_rejected", 0.05, 4003, "wer da?"))
        await self.event(client, edge.Open)
        await client.send(b"x")
        lost = await self.event(client, edge.Lost)
        self.assertEqual((lost.reason, lost.code, lost.text), ("worker_closed", 4999, "genug"))

    async def test_links_that_break_at_any_byte(self):
        seed = int(os.environ.get("SEED", "1"))
        _, port, _ = await self.worker(Echo())
        async with Cuts(port, random.Random(seed)) as proxy:
            gateway = self.gateway({"w": proxy.address}, "--set", "link_redial_max_ms=50")
            clients = [self.connect(gateway, key=b"%d" % number) for number in range(4)]
            for client in clients:
                await self.event(client, edge.Open)
            for part in range(10):
                found = await asyncio.gather(*(self.echo(client, 300 * part, 300 * part + 300) for client in clients))
                self.assertEqual(found, [list(range(300 * part, 300 * part + 300))] * 4, f"SEED={seed}")
            self.assertGreater(proxy.count, 10, "it cuts")
            proxy.is_gentle = True
            for client in clients:
                self.assertTrue(await client.close())

    async def test_a_worker_that_drains_hands_its_clients_over(self):
        handlers = [Echo(), Echo()]
        workers = [await self.worker(handler) for handler in handlers]
        gateway = self.gateway({str(n): f"127.0.0.1:{port}" for n, (_, port, _) in enumerate(workers)})
        await self.linked(gateway, len(workers))
        client = self.connect(gateway, key=b"k")
        await self.event(client, edge.Open)
        self.assertEqual(await self.echo(client, 0, 50), list(range(50)))
        has = max((0, 1), key=lambda index: len(handlers[index].messages))
        replies = asyncio.create_task(self.echo(client, 50, 2000))
        await asyncio.sleep(0.02)
        one, _, task = workers[has]
        one.drain()
        self.assertEqual(await replies, list(range(50, 2000)))
        await asyncio.wait_for(task, TIMEOUT_S)
        _, opening = handlers[1 - has].openings[-1]
        self.assertEqual((opening.moved, opening.session), (True, link.routing_hash(b"k")))
        self.assertFalse(any(message.resent for handler in handlers for message in handler.messages))
        self.assertEqual(await self.echo(client, 2000, 2010), list(range(2000, 2010)))
        self.assertTrue(await client.close())

    async def test_a_worker_that_dies_loses_no_message(self):
        handlers = [Echo(), Echo()]
        workers = [await self.worker(handler) for handler in handlers]
        gateway = self.gateway({str(n): f"127.0.0.1:{port}" for n, (_, port, _) in enumerate(workers)},
                               "--set", "link_failover_ms=1000")
        await self.linked(gateway, len(workers))
        client = self.connect(gateway, key=b"k")
        await self.event(client, edge.Open)
        replies = asyncio.create_task(self.echo(client, 0, 2000))
        # The connection may have moved already: to a worker that came up after the other.
        until = asyncio.get_running_loop().time() + TIMEOUT_S
        while not any(len(handler.messages) >= 100 for handler in handlers):
            self.assertLess(asyncio.get_running_loop().time(), until, "no worker hears 100 messages")
            await asyncio.sleep(0.001)
        has = max((0, 1), key=lambda index: len(handlers[index].messages))
        _, _, task = workers[has]
        task.cancel()  # its sockets close, and nobody listens
        found = await replies
        # A message may have been answered before the worker died, and again by the other.
        self.assertEqual(sorted(set(found)), list(range(2000)))
        # It may have handled all of them before it died: the other one has to serve the next.
        await self.echo(client, 2000, 2010)
        self.assertTrue(handlers[1 - has].openings[-1][1].moved)

    async def test_workers_speak_with_each_other(self):
        class Asks(Echo):
            def __init__(self):
                super().__init__()
                self.relayed = []

            def on_message(self, client, message):
                self.asker = client
                self.worker.relay(message.payload, b"who serves this?")

            def on_relay(self, relay):
                self.relayed.append(relay.payload)
                if relay.is_answer:
                    self.asker.send(relay.payload)
                elif relay.payload == b"who serves this?":
                    relay.answer(b"I do")

        handlers = [Asks(), Asks()]
        workers = [await self.worker(handler) for handler in handlers]
        gateway = self.gateway({str(n): f"127.0.0.1:{port}" for n, (_, port, _) in enumerate(workers)})
        await self.linked(gateway, len(workers))
        client = self.connect(gateway, key=b"k")
        await self.event(client, edge.Open)
        has = 0 if handlers[0].openings else 1
        foreign = next(b"key-%d" % n for n in range(1000) if link.owner(b"key-%d" % n, ["0", "1"]) != str(has))
        await client.send(foreign)
        self.assertEqual((await self.event(client, edge.Message)).payload, b"I do")
        self.assertEqual(handlers[1 - has].relayed, [b"who serves this?"])
        workers[has][0].relay_to_all(b"everybody")
        while handlers[1 - has].relayed[-1] != b"everybody":
            await asyncio.sleep(0.01)
        self.assertEqual(handlers[has].relayed, [b"I do"])


if __name__ == "__main__":
    unittest.main()
