"""Plays a gateway against the client: what it sends, what it says, and how it comes back."""

import asyncio
import socket
import subprocess
import sys
import unittest

from roosting import edge
from roosting.edge import codec

from .played import TIMEOUT_S, EdgeGateway
from .programs import ROOT


class Soon:
    """Randomness by which pauses are short, and a list begins at its head."""

    def random(self):
        return 0.01

    def randrange(self, stop):
        return 0


class ClientTest(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.gateway = await EdgeGateway().__aenter__()
        self.addAsyncCleanup(self.gateway.__aexit__)

    def connect(self, *others, **options):
        client = edge.connect([self.gateway.address, *others], rng=options.pop("rng", Soon()), **options)
        self.addAsyncCleanup(client.close, 0.1)
        return client

    async def event(self, client, kind=None):
        """The next event, of this kind; others that are no messages are passed over."""
        while True:
            event = await asyncio.wait_for(client.__anext__(), TIMEOUT_S)
            if kind is None or isinstance(event, kind):
                return event
            self.assertNotIsInstance(event, edge.Message)

    async def opened(self, client, **welcome):
        peer = await self.gateway.accept()
        hello = await peer.welcome(**welcome)
        return peer, hello

    async def test_a_session(self):
        client = self.connect(key="alice", token=b"t")
        peer, hello = await self.opened(client, heartbeat_interval_ms=60_000, idle_timeout_ms=150_000,
                                        messages_per_s_max=9, session=5)
        self.assertEqual(hello, {"type": "HELLO", "key": b"alice", "token": b"t"})
        self.assertEqual(await self.event(client), edge.Connecting(self.gateway.address, 1))
        self.assertEqual(await self.event(client), edge.Open(
            self.gateway.address, session=5, resumed=False, heartbeat_interval_ms=60_000, idle_timeout_ms=150_000,
            frame_bytes_max=65536, messages_per_s_max=9))
        await client.send("hello".encode())
        self.assertEqual(await peer.next(), {"type": "MESSAGE", "payload": b"hello"})
        peer.send("PING", payload=b"12")
        peer.send("MESSAGE", payload=b"ok")
        self.assertEqual(await peer.next(), {"type": "PONG", "payload": b"12"})
        self.assertEqual(await self.event(client), edge.Message(b"ok"))

        closing = asyncio.create_task(client.close())
        self.assertEqual(await peer.next(), {"type": "CLOSE", "code": None})
        peer.send("MESSAGE", payload=b"last")
        await asyncio.sleep(0.1)
        self.assertFalse(closing.done(), "it reads until FIN")
        peer.writer.close()
        self.assertTrue(await closing)
        self.assertEqual([event async for event in client], [edge.Message(b"last"), edge.Ended("closed")])
        with self.assertRaises(edge.Closed):
            await client.send(b"late")

    async def test_bytes_one_by_one(self):  # E-2
        client = self.connect()
        peer, _ = await self.opened(client)
        for byte in codec.encode({"type": "MESSAGE", "payload": b"slow"}):
            peer.writer.write(bytes([byte]))
            await asyncio.sleep(0)
        self.assertEqual((await self.event(client, edge.Message)).payload, b"slow")

    async def test_messages_wait_for_a_session_and_leave_in_order(self):  # E-24
        client = self.connect()
        for number in range(100):
            await client.send(b"%d" % number)
        peer, _ = await self.opened(client)
        for number in range(100):
            self.assertEqual((await peer.next())["payload"], b"%d" % number)

    async def test_heartbeat(self):  # E-38
        client = self.connect()
        peer, _ = await self.opened(client, heartbeat_interval_ms=100, idle_timeout_ms=250)
        began = asyncio.get_running_loop().time()
        for _ in range(5):
            self.assertEqual(await peer.next(), {"type": "PING", "payload": b""})
            peer.send("PONG", payload=b"")
        self.assertGreater(asyncio.get_running_loop().time() - began, 0.3)

    async def test_a_silent_gateway_is_left(self):  # E-45
        client = self.connect()
        await self.opened(client, heartbeat_interval_ms=100)
        lost = await self.event(client, edge.Lost)
        self.assertEqual(lost.reason, "silent")
        await self.gateway.accept()

    async def test_it_comes_back_and_says_whether_the_session_is_the_same(self):
        client = self.connect()
        for session, resumed in ((1, False), (1, True), (2, False)):
            peer, _ = await self.opened(client, session=session)
            self.assertEqual((await self.event(client, edge.Open)).resumed, resumed)
            peer.writer.close()
            lost = await self.event(client, edge.Lost)
            self.assertEqual(lost.reason, "eof")

    async def test_retry_after_is_obeyed(self):  # E-84
        client, loop = self.connect(), asyncio.get_running_loop()
        peer, _ = await self.opened(client)
        peer.goaway("drain", retry_after_ms=700)
        began = loop.time()
        lost = await self.event(client, edge.Lost)
        self.assertEqual((lost.reason, lost.retry_in_s), ("drain", 0.7))
        await self.gateway.accept()
        self.assertGreaterEqual(loop.time() - began, 0.69)

    async def test_goaway_may_be_the_first_frame(self):  # E-27
        client = self.connect()
        peer = await self.gateway.accept()
        peer.goaway("per_ip_limit", retry_after_ms=10)
        self.assertEqual((await self.event(client, edge.Lost)).reason, "per_ip_limit")

    async def test_an_alternative_once_and_then_the_list(self):  # E-86
        async with EdgeGateway() as other:
            client = self.connect()
            peer, _ = await self.opened(client)
            peer.goaway("drain", retry_after_ms=1, alternative=other.address.encode())
            (await other.accept()).goaway("full", retry_after_ms=1)
            await self.opened(client)
            addresses = []
            while len(addresses) < 3:
                addresses.append((await self.event(client, edge.Connecting)).address)
            self.assertEqual(addresses, [self.gateway.address, other.address, self.gateway.address])

    async def test_an_alternative_that_is_none_is_passed_over(self):
        client = self.connect()
        peer, _ = await self.opened(client)
        peer.goaway("drain", retry_after_ms=1, alternative=b"\xff no address")
        await self.opened(client)

    async def test_the_next_address_is_tried(self):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            nobody = f"127.0.0.1:{unused.getsockname()[1]}"
            client = edge.connect([nobody, self.gateway.address], rng=Soon())
            self.addAsyncCleanup(client.close, 0.1)
            self.assertEqual((await self.event(client, edge.Lost)).reason, "unreachable")
            await self.opened(client)

    async def test_reasons_without_a_way_back_end_it(self):  # E-87
        for reason in ("version", "malformed", "proxy_header", "oversize"):
            client = self.connect()
            peer, _ = await self.opened(client)
            peer.goaway(reason)
            self.assertEqual((await self.event(client, edge.Ended)).reason, reason)
            with self.assertRaises(StopAsyncIteration):
                await client.__anext__()

    async def test_the_application_decides_about_its_workers_words(self):
        asked = []

        def comes_back(lost):
            asked.append((lost.reason, lost.code, lost.text))
            return lost.code != 4001

        client = self.connect(comes_back=comes_back)
        peer, _ = await self.opened(client)
        peer.goaway("worker_closed", retry_after_ms=1, code=4000, text="later")
        peer, _ = await self.opened(client)
        peer.goaway("worker_rejected", code=4001, text="bad token")
        ended = await self.event(client, edge.Ended)
        self.assertEqual(ended, edge.Ended("worker_rejected", 4001, "bad token"))
        self.assertEqual(asked, [("worker_closed", 4000, "later"), ("worker_rejected", 4001, "bad token")])

    async def test_a_token_is_asked_for_at_each_attempt(self):
        tokens = iter((b"one", "two", None))

        async def token():
            value = next(tokens)
            if value is None:
                raise OSError("the token service is down")
            return value

        client = self.connect(token=token)
        for expected in (b"one", b"two"):
            peer, hello = await self.opened(client)
            self.assertEqual(hello["token"], expected)
            peer.goaway("drain", retry_after_ms=1)
        reasons = []
        while "token" not in reasons:
            reasons.append((await self.event(client, edge.Lost)).reason)

    async def test_no_welcome_in_time(self):  # E-26
        client = self.connect(open_timeout_s=0.2)
        await self.gateway.accept()
        self.assertEqual((await self.event(client, edge.Lost)).reason, "timeout")

    async def test_a_full_queue_waits_or_says_so(self):
        client = self.connect(queue_messages_max=3)
        for _ in range(3):
            client.send_nowait(b"x")
        with self.assertRaises(edge.Full):
            client.send_nowait(b"x")
        waiting = asyncio.create_task(client.send(b"y"))
        await asyncio.sleep(0.05)
        self.assertFalse(waiting.done())
        with self.assertRaises(edge.Full):
            client.send_nowait(b"z")
        peer, _ = await self.opened(client)
        await asyncio.wait_for(waiting, TIMEOUT_S)
        self.assertEqual([(await peer.next())["payload"] for _ in range(4)], [b"x", b"x", b"x", b"y"])

    async def test_a_gateway_that_takes_nothing_bounds_what_is_taken(self):
        client = self.connect(queue_bytes_max=100_000)
        peer, _ = await self.opened(client)
        await self.event(client, edge.Open)
        peer.reader._transport.pause_reading()
        taken = 0
        with self.assertRaises(edge.Full):
            for _ in range(10_000):
                client.send_nowait(bytes(10_000))
                taken += 1
        # What the kernel's buffers of both ends hold, the transport's 64 KiB, and the queue.
        self.assertLess(taken * 10_000, 20_000_000)
        peer.reader._transport.resume_reading()
        for _ in range(taken):
            self.assertEqual(len((await peer.next())["payload"]), 10_000)

    async def test_messages_that_nobody_takes_hold_the_gateway_back(self):
        client = self.connect(receive_bytes_max=100_000)
        peer, _ = await self.opened(client, heartbeat_interval_ms=100)
        await self.event(client, edge.Open)
        sent = 0
        try:
            while sent < 20_000:  # 200 MB
                peer.send("MESSAGE", payload=bytes(10_000))
                sent += 1
                await asyncio.wait_for(peer.writer.drain(), 1)
        except asyncio.TimeoutError:
            pass
        self.assertLess(sent, 20_000)
        await asyncio.sleep(0.5)  # five heartbeats: not reading is not silence
        for _ in range(sent):
            self.assertEqual(len((await self.event(client, edge.Message)).payload), 10_000)

    async def test_messages_over_the_limit(self):  # E-25
        client = self.connect()
        client.send_nowait(bytes(65))
        client.send_nowait(bytes(64))
        peer, _ = await self.opened(client, frame_bytes_max=64)
        self.assertEqual((await self.event(client, edge.Unsent)).payload, bytes(65))
        self.assertEqual((await peer.next())["payload"], bytes(64))
        with self.assertRaises(edge.TooLong):
            await client.send(bytes(65))

    async def test_the_rate_of_welcome_is_kept(self):
        client, loop = self.connect(), asyncio.get_running_loop()
        for _ in range(30):
            client.send_nowait(b"x")
        began = loop.time()
        peer, _ = await self.opened(client, messages_per_s_max=20)
        for _ in range(30):
            await peer.next()
        # Half a second's worth at once, the other 20 one by one.
        self.assertGreater(loop.time() - began, 0.95)

    async def test_close_sends_what_is_queued_first(self):  # E-80
        client = self.connect()
        peer, _ = await self.opened(client, messages_per_s_max=20)
        await self.event(client, edge.Open)
        for _ in range(15):
            client.send_nowait(b"x")
        closing = asyncio.create_task(client.close())
        kinds = [(await peer.next())["type"] for _ in range(16)]
        self.assertEqual(kinds, ["MESSAGE"] * 15 + ["CLOSE"])
        peer.writer.close()
        self.assertTrue(await closing)

    async def test_close_without_a_session_or_without_a_fin(self):
        client = self.connect()
        await self.gateway.accept()
        self.assertFalse(await client.close(timeout_s=0.2))
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            client = edge.connect(f"127.0.0.1:{unused.getsockname()[1]}")
            self.assertEqual((await self.event(client, edge.Lost)).reason, "unreachable")
            self.assertFalse(await client.close())
            self.assertEqual([event async for event in client], [edge.Ended("closed")])

    async def test_broken_frames_lose_the_connection_only(self):  # E-29
        client = self.connect()
        for data, error in ((b"\x83", "reserved_bits"), (b"\x09", "unknown_type"), (b"\x03\x01\x00\x01", "oversize"),
                            (b"\x07\0\0\0", "unexpected_frame")):
            peer, _ = await self.opened(client)
            peer.writer.write(data)
            lost = await self.event(client, edge.Lost)
            self.assertEqual((lost.reason, lost.text), ("protocol", error))

    async def test_last_words_are_read_when_writing_fails(self):  # E-28
        """GOAWAY, then RST, while the client writes before its loop has looked (SPEC.md 1.2)."""
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            client = edge.connect(f"127.0.0.1:{listener.getsockname()[1]}", rng=Soon())
            self.addAsyncCleanup(client.close, 0.1)
            peer, _ = await loop.sock_accept(listener)
            await loop.sock_recv(peer, 100)
            peer.send(codec.encode({"type": "WELCOME", "heartbeat_interval_ms": 0, "idle_timeout_ms": 0, "session": 1,
                                    "frame_bytes_max": 65536, "messages_per_s_max": 0}))
            await self.event(client, edge.Open)
            client.send_nowait(b"unread")  # turns the close into a reset
            await asyncio.sleep(0.05)
            peer.send(codec.encode({"type": "GOAWAY", "reason": "memory_budget", "retry_after_ms": 3, "code": 0,
                                    "alternative": b"", "text": ""}))
            peer.close()
            for _ in range(3):
                client.send_nowait(b"x")
            lost = await self.event(client, edge.Lost)
            self.assertEqual((lost.reason, lost.retry_in_s), ("memory_budget", 0.003))

    async def test_events_that_nobody_takes_are_bounded(self):
        client = self.connect()
        for _ in range(60):
            peer = await self.gateway.accept()
            peer.goaway("drain", retry_after_ms=1)
        self.assertLessEqual(len(client._events), 64)
        client.send_nowait(b"it still works")
        peer, _ = await self.opened(client)
        self.assertEqual((await peer.next())["payload"], b"it still works")

    async def test_what_cannot_be_an_address_or_a_key(self):
        for addresses, key in (([], b""), (["nowhere"], b""), (["a:1"], bytes(257))):
            with self.assertRaises(ValueError):
                edge.connect(addresses, key=key)


class ProgramTest(unittest.IsolatedAsyncioTestCase):
    """`python3 -m roosting.client`."""

    async def asyncSetUp(self):
        self.gateway = await EdgeGateway().__aenter__()
        self.addAsyncCleanup(self.gateway.__aexit__)

    async def start(self, *arguments, timeout="20"):
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-B", "-m", "roosting.client", self.gateway.address, "--timeout", timeout, *arguments,
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        return await self.gateway.accept()

    async def finish(self, code, stdout="", stderr=""):
        out, err = await asyncio.wait_for(self.process.communicate(), TIMEOUT_S)
        self.assertEqual((self.process.returncode, out.decode()), (code, stdout), err)
        self.assertIn(stderr, err.decode())

    async def test_messages_and_replies(self):
        peer = await self.start("--key", "k", "--token", "t", "--send", "a", "--count", "2", "--check-echo")
        hello = await peer.welcome()
        self.assertEqual(hello, {"type": "HELLO", "key": b"k", "token": b"t"})
        for _ in range(2):
            self.assertEqual(await peer.next(), {"type": "MESSAGE", "payload": b"a"})
            peer.send("MESSAGE", payload=b"a")
        self.assertEqual(await peer.next(), {"type": "CLOSE", "code": None})
        peer.writer.close()
        await self.finish(0, "a\na\n")

    async def test_refusals(self):
        peer = await self.start()
        peer.goaway("drain", retry_after_ms=1500)
        await self.finish(1, stderr="drain, come back after 1.500 s")
        peer = await self.start()
        await peer.welcome()
        peer.goaway("worker_closed", code=4001, text="go away")
        await self.finish(1, stderr="worker_closed (4001): go away")

    async def test_missing_and_wrong_replies(self):
        peer = await self.start(timeout="1")
        await peer.welcome()
        await self.finish(1, stderr="no MESSAGE within 1.0 s")
        peer = await self.start("--check-echo", "--send", "a")
        await peer.welcome()
        await peer.next()
        peer.send("MESSAGE", payload=b"b")
        await asyncio.sleep(0.3)
        peer.writer.close()
        await self.finish(1, "b\n", stderr="not what was sent")

    async def test_events(self):
        peer = await self.start("--events")
        await peer.welcome(session=3)
        self.process.stdin.write(b"from stdin\n")
        self.assertEqual(await peer.next(), {"type": "MESSAGE", "payload": b"from stdin"})
        peer.goaway("drain", retry_after_ms=1)
        peer = await self.gateway.accept()
        await peer.welcome(session=3)
        self.process.stdin.close()
        self.assertEqual((await peer.next())["type"], "CLOSE")
        peer.writer.close()
        out, _ = await asyncio.wait_for(self.process.communicate(), TIMEOUT_S)
        self.assertEqual(self.process.returncode, 0)
        kinds = [line.split('"')[3] for line in out.decode().splitlines()]
        self.assertEqual(kinds, ["connecting", "open", "lost", "connecting", "open", "ended"])


if __name__ == "__main__":
    unittest.main()
