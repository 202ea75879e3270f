"""A worker in a thread, pushed into from others."""

import asyncio
import concurrent.futures
import socket
import threading
import time
import unittest

from roosting import worker
from roosting.worker.handle import Handle

from .played import TIMEOUT_S, Shard


class Quiet(worker.Handler):
    """Says nothing by itself."""


class Running:
    """A worker in a thread, and a shard of a gateway linked to it by a blocking socket."""

    def __init__(self, handler=None, **options):
        self.worker = worker.Worker(handler or Quiet(), log=lambda text: None, **options)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        self.thread = threading.Thread(target=lambda: asyncio.run(self.worker.run(self.listener)))
        self.thread.start()
        self.shard = Shard()

    def connect(self):
        self.socket = socket.create_connection(self.address, TIMEOUT_S)
        self.shard.begin()
        self.until(lambda: self.shard.is_up)

    def until(self, condition):
        while not condition():
            self.socket.sendall(self.shard.out)
            self.shard.out = b""
            if condition():
                break
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionError("the worker closed the link")
            self.shard.receive(data)

    def open(self, connection, key=b"k"):
        self.shard.open(connection, key)
        self.until(lambda: self.shard.frames and self.shard.frames[-1]["connection"] == connection)


class HandleTest(unittest.TestCase):
    def run_worker(self, handler=None, **options):
        running = Running(handler, **options)

        def stop():
            running.worker.drain()
            running.thread.join(TIMEOUT_S)
            running.socket.close()
            self.assertFalse(running.thread.is_alive())
        self.addCleanup(stop)
        running.connect()
        return running

    def received(self, running, count):
        running.until(lambda: sum("message" in frame for frame in running.shard.frames) >= count)
        found = [frame for frame in running.shard.frames if "message" in frame]
        running.shard.frames = []
        running.shard.acknowledge()
        return found

    def test_pushes_of_all_kinds(self):
        running = self.run_worker(drain_s=0.2)
        handle = running.worker.handle()
        running.open(1, b"alice")
        running.open(2, b"bob")
        clients = handle.call(lambda: [*running.worker.clients_of("alice"), *running.worker.clients_of("bob")])
        alice, bob = clients.result(TIMEOUT_S)
        handle.send(alice, b"1")
        handle.send_to_key("bob", b"2")
        handle.multicast([alice, bob], b"3")
        handle.broadcast(b"4", all_workers=True)
        handle.send_to_key("nobody", b"5")
        found = self.received(running, 4)
        self.assertEqual([(frame["type"], frame["message"]) for frame in found],
                         [("DATA", b"1"), ("DATA", b"2"), ("MULTICAST", b"3"), ("BROADCAST", b"4")])
        self.assertEqual((found[0]["connection"], found[1]["connection"], found[2]["ids"]), (1, 2, [1, 2]))
        self.assertTrue(handle.call(running.worker.is_present, "bob").result(TIMEOUT_S))
        self.assertFalse(handle.call(running.worker.is_present, "nobody").result(TIMEOUT_S))
        self.assertEqual(handle.call(len, running.worker).result(TIMEOUT_S), 2)
        with self.assertRaises(ZeroDivisionError):
            handle.call(lambda: 1 / 0).result(TIMEOUT_S)

    def test_many_threads_push_in_their_own_order(self):
        running = self.run_worker(drain_s=0.2)
        handle = running.worker.handle()
        running.open(1)

        def push(thread):
            for number in range(200):
                while True:
                    try:
                        handle.send_to_key("k", b"%d %d" % (thread, number))
                        break
                    except worker.Full:
                        time.sleep(0.001)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            pushing = [pool.submit(push, thread) for thread in range(4)]
            found = self.received(running, 800)
            for each in pushing:
                each.result(TIMEOUT_S)
        by_thread = {}
        for frame in found:
            thread, number = map(int, frame["message"].split())
            by_thread.setdefault(thread, []).append(number)
        self.assertEqual(by_thread, {thread: list(range(200)) for thread in range(4)})

    def test_pushes_wait_for_a_gateway_that_takes_less_and_cuts_lose_none_unseen(self):
        running = self.run_worker(drain_s=0.2, pending_bytes_max=100_000, pushes_max=50)
        handle = running.worker.handle()
        running.open(1)
        pushed = 0
        began = time.monotonic()
        with self.assertRaises(worker.Full):
            while time.monotonic() - began < TIMEOUT_S:
                handle.send_to_key("k", b"%06d" % pushed + bytes(20_000))
                pushed += 1
                time.sleep(0.0002)
        # The window, what may be pending, and the queue; no more.
        self.assertLess(pushed, (1 << 20) / 20_000 + 100_000 / 20_000 + 50 + 5)
        numbers = []
        for _ in range(5):
            numbers += [int(frame["message"][:6]) for frame in self.received(running, 10)]
            running.socket.close()
            running.connect()
            self.assertTrue(running.shard.was_resumed)
        # While the gateway is away and its queue full, what would wait for it is dropped, and counted.
        while len(numbers) + handle.dropped < pushed:
            numbers += [int(frame["message"][:6]) for frame in self.received(running, 1)]
        self.assertEqual(numbers, sorted(set(numbers)))
        self.assertEqual(len(numbers) + handle.dropped, pushed)
        self.assertGreaterEqual(len(numbers), 52, "the window at least")

    def test_pushes_to_a_gateway_that_is_away_are_dropped_and_counted_when_its_queue_is_full(self):
        running = self.run_worker(drain_s=0.2, pending_bytes_max=50_000)
        handle = running.worker.handle()
        running.open(1)
        running.socket.close()
        until = time.monotonic() + TIMEOUT_S
        while not handle.dropped and time.monotonic() < until:
            handle.send_to_key("k", bytes(10_000))
            time.sleep(0.01)
        self.assertGreater(handle.dropped, 0)
        running.connect()
        self.assertGreater(len(self.received(running, 4)), 3)

    def test_an_ended_worker_says_so(self):
        running = Running(drain_s=0.2)
        running.connect()
        handle = running.worker.handle()
        running.worker.drain()
        running.thread.join(TIMEOUT_S)
        running.socket.close()
        with self.assertRaises(worker.Closed):
            handle.broadcast(b"late")

    def test_bounds_and_calls_that_never_run(self):
        woken = []
        handle = Handle(None, lambda: woken.append(1), pushes_max=3, push_bytes_max=1000)
        handle.broadcast(bytes(800))
        with self.assertRaises(worker.Full):
            handle.broadcast(bytes(200))
        answer = handle.call(len, "")
        handle.call(len, "")
        with self.assertRaises(worker.Full):
            handle.call(len, "")
        self.assertEqual(woken, [1], "one wake is enough")
        handle.close()
        with self.assertRaises(worker.Closed):
            answer.result(0)
        with self.assertRaises(worker.Closed):
            handle.call(len, "")

    def test_what_is_longer_than_the_queue_goes_alone(self):
        handle = Handle(None, lambda: None, pushes_max=3, push_bytes_max=1000)
        handle.broadcast(bytes(5000))
        with self.assertRaises(worker.Full):
            handle.broadcast(b"")

    def test_room_is_awaited(self):
        class Pours(Quiet):
            async def on_message(self, client, message):
                for number in range(100):
                    await self.worker.room(client)
                    client.send(b"%06d" % number + bytes(20_000))

        running = self.run_worker(Pours(), drain_s=0.2, pending_bytes_max=30_000)
        running.open(1)
        running.shard.data(1, b"go")
        numbers = []
        while len(numbers) < 100:
            numbers += [int(frame["message"][:6]) for frame in self.received(running, 1)]
        self.assertEqual(numbers, list(range(100)))


if __name__ == "__main__":
    unittest.main()
