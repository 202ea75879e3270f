"""The worker without I/O: cuts at any byte by seeds, handlers that take their time, windows, queues, presence."""

import contextvars
import os
import random
import types
import unittest

from roosting import worker
from roosting.worker import codec as link
from roosting.worker.core import Core
from roosting.worker.link import Link, Refused

from .played import Shard

SEEDS = range(int(os.environ.get("SEED", 0)), int(os.environ.get("SEED", 0)) + int(os.environ.get("SEEDS", 40)))


class Shell:
    """What the core asks for, by hand: a clock that stands, async handlers that go on when told."""

    def __init__(self):
        self.time, self.lines, self.running, self.dropped = 100.0, [], [], []

    def now(self):
        return self.time

    def random_bytes(self, count):
        return os.urandom(count)

    def log(self, text):
        self.lines.append(text)

    def wake(self):
        pass  # tests flush when they want

    def drop(self, dropped, why):
        self.dropped.append(dropped)

    def spawn(self, awaitable, done):
        self.running.append((contextvars.copy_context(), awaitable, done))

    def step(self, rng):
        """One of the async handlers goes on by one step."""
        at = rng.randrange(len(self.running))
        context, awaitable, done = self.running[at]
        try:
            context.run(awaitable.send, None)
        except StopIteration:
            del self.running[at]
            context.run(done, None)
        except Exception as error:
            del self.running[at]
            context.run(done, error)


@types.coroutine
def pause():
    yield


class Wire:
    """A shard of a gateway, and the worker's end of its TCP connections."""

    def __init__(self, core, **shard):
        self.core, self.shard, self.link = core, Shard(**shard), None

    def connect(self):
        """A new TCP connection; the worker may still have the old one."""
        self.shard.begin()
        self.link = Link(self.core, self.core._shell.now())
        while not self.shard.is_up:
            self.to_worker()
            self.to_gateway()

    def to_worker(self, count=None):
        """Delivers so many bytes, or all."""
        data, self.shard.out = self.shard.out[:count], self.shard.out[count:] if count is not None else b""
        self.link.receive(data, self.core._shell.now())

    def to_gateway(self, count=None):
        self.core.flush()
        data = bytes(self.link.out[:count])
        del self.link.out[:len(data)]
        self.shard.receive(data)

    def cut(self):
        """TCP breaks, and the worker notices."""
        session = self.link.session
        if session and session.link is self.link:
            self.core.on_detached(session)
        self.link = None

    def settle(self):
        """Both sides read all there is, and acknowledge it."""
        for _ in range(20):
            self.shard.acknowledge()
            self.to_worker()
            self.to_gateway()


class Echo(worker.Handler):
    def on_message(self, client, message):
        client.send(message.payload)


class CoreTest(unittest.TestCase):
    def core(self, handler, secret=None, pending_bytes_max=1 << 20, window_bytes=1 << 20):
        self.shell = Shell()
        return Core(handler, secret, os.urandom(16), self.shell, window_bytes, pending_bytes_max)

    def wire(self, core, **shard):
        wire = Wire(core, **shard)
        wire.connect()
        return wire

    # --- nothing lost, nothing twice (SPEC.md 3.3 to 3.5) ---

    def cuts(self, handler, seed, shards=1, window_bytes=70_000):
        """Messages over links that break at any byte; each must be answered once, in order per connection."""
        rng = random.Random(seed)
        core = self.core(handler, window_bytes=400_000)
        wires = [self.wire(core, shard=number, instance=b"g" * 16, window_bytes=window_bytes)
                 for number in range(shards)]
        sent = {}
        for wire in wires:
            for connection in range(3):
                wire.shard.open(connection, key=b"%d" % connection)
                sent[wire, connection] = 0
        for wire in wires if shards > 1 else ():
            wire.settle()
        for _ in range(400):
            wire = rng.choice(wires)
            action = rng.random()
            if action < 0.45:
                connection = rng.randrange(3)
                wire.shard.data(connection, b"%d " % sent[wire, connection] + bytes(rng.choice((0, 10, 500, 20_000))))
                sent[wire, connection] += 1
            elif action < 0.6:
                wire.to_worker(rng.randrange(len(wire.shard.out) + 1))
            elif action < 0.75:
                wire.to_gateway(rng.randrange(len(wire.link.out) + 1))
            elif action < 0.85 and self.shell.running:
                self.shell.step(rng)
            elif action < 0.92:
                wire.shard.acknowledge()
            elif action < 0.97:
                if rng.random() < 0.5:
                    wire.cut()  # else the worker still has the old one
                wire.connect()
                self.assertTrue(wire.shard.was_resumed, f"seed {seed}")
        for _ in range(10_000):
            for wire in wires:
                wire.settle()
            if not self.shell.running and not any(wire.shard.kept for wire in wires):
                break
            while self.shell.running:
                self.shell.step(rng)
        for wire in wires:
            self.assertEqual(wire.shard.kept, [], f"seed {seed}: everything is acknowledged")
        return wires, sent

    def check_replies(self, wires, sent, seed):
        for wire in wires:
            for connection in range(3):
                frames = [frame for frame in wire.shard.frames if frame["connection"] == connection]
                self.assertEqual([frame["type"] for frame in frames], ["ACCEPT"] + ["DATA"] * (len(frames) - 1),
                                 f"seed {seed}: {self.shell.lines[-1]}")
                numbers = [int(frame["message"].split(b" ")[0]) for frame in frames[1:]]
                self.assertEqual(numbers, list(range(sent[wire, connection])), f"seed {seed}")

    def test_cuts_lose_nothing_and_repeat_nothing(self):  # L-79 to L-83
        for seed in SEEDS:
            self.check_replies(*self.cuts(Echo(), seed), seed)

    def test_cuts_while_async_handlers_take_their_time(self):  # L-62, L-79
        class Slow(worker.Handler):
            async def on_open(self, client, opening):
                await pause()
                client.accept()

            async def on_message(self, client, message):
                await pause()
                client.send(message.payload)
                await pause()

        for seed in SEEDS:
            self.check_replies(*self.cuts(Slow(), seed), seed)

    def test_cuts_while_handlers_send_over_other_links(self):  # L-69, L-79
        """Each message goes to the connection of the same id on the other shard, which acknowledges when it will."""
        class Across(worker.Handler):
            def __init__(self):
                self.clients = {}

            def on_open(self, client, opening):
                self.clients.setdefault(client.id, []).append(client)
                client.accept()

            def on_message(self, client, message):
                for other in self.clients[client.id]:
                    if other is not client:
                        other.send(message.payload)

        for seed in SEEDS:
            wires, sent = self.cuts(Across(), seed, shards=2, window_bytes=1 << 20)
            for wire, other in (wires, wires[::-1]):
                for connection in range(3):
                    numbers = [int(frame["message"].split(b" ")[0]) for frame in wire.shard.frames
                               if frame["connection"] == connection and frame["type"] == "DATA"]
                    self.assertEqual(numbers, list(range(sent[other, connection])), f"seed {seed}")

    def test_an_ack_waits_for_what_went_over_other_links(self):  # L-69
        class Across(Echo):
            def on_message(self, client, message):
                for other in self.all:
                    other.send(message.payload)

        handler = Across()
        core = self.core(handler)
        one, two = self.wire(core, shard=0), self.wire(core, shard=1)
        two.shard.open(9)
        two.settle()
        handler.all = list(core.directory.find(link.routing_hash(b"k")))
        one.shard.open(1)
        one.settle()
        one.shard.data(1, b"for two")
        one.settle()
        self.assertEqual(len(one.shard.kept), 1, "the other gateway has not acknowledged")
        two.settle()
        self.assertEqual(two.shard.frames[-1]["message"], b"for two")
        one.settle()
        self.assertEqual(one.shard.kept, [])
        # A link that is down is not waited for.
        one.shard.data(1, b"more")
        one.to_worker()
        core.flush()
        two.cut()
        one.settle()
        self.assertEqual(one.shard.kept, [])

    def test_an_ack_waits_for_an_async_handler_and_others_go_on(self):  # L-62
        class Slow(Echo):
            async def on_message(self, client, message):
                if message.payload == b"slow":
                    await pause()
                client.send(message.payload)

        core = self.core(Slow())
        wire = self.wire(core)
        for connection in (1, 2):
            wire.shard.open(connection)
        wire.settle()
        for connection, message in ((1, b"slow"), (1, b"behind it"), (2, b"beside it")):
            wire.shard.data(connection, message)
        wire.settle()
        self.assertEqual(len(self.shell.running), 2)
        rng = types.SimpleNamespace(randrange=lambda count: count - 1)
        self.shell.step(rng)
        wire.settle()
        self.assertEqual([frame["message"] for frame in wire.shard.frames[2:]], [b"beside it"])
        self.assertEqual(len(wire.shard.kept), 3)
        while self.shell.running:
            self.shell.step(rng)
        wire.settle()
        self.assertEqual([frame["message"] for frame in wire.shard.frames[3:]], [b"slow", b"behind it"])
        self.assertEqual(wire.shard.kept, [])

    def test_resume_states_only_what_the_gateway_has_the_replies_of(self):  # L-79
        wire = self.wire(self.core(Echo()))
        wire.shard.open(1)
        wire.settle()
        wire.shard.data(1, b"a")
        wire.to_worker()
        wire.core.flush()
        wire.link.out.clear()  # the reply and the ACK are lost
        wire.cut()
        wire.connect()
        self.assertEqual(wire.link.stated, 1, "OPEN, and not the message")
        wire.settle()
        self.assertEqual([frame["message"] for frame in wire.shard.frames[1:]], [b"a"])

    def test_marks_do_not_grow_while_nothing_is_answered(self):
        class Quiet(worker.Handler):
            pass

        wire = self.wire(self.core(Quiet()))
        wire.shard.open(1)
        for number in range(1000):
            wire.shard.data(1, b"%d" % number)
            wire.to_worker()
            wire.to_gateway()
        self.assertLess(len(wire.link.session.marks), 4)

    # --- bounds ---

    def test_a_full_queue_holds_frames_and_refuses_sends_from_elsewhere(self):  # L-71, L-77
        core = self.core(Echo(), pending_bytes_max=50_000)
        wire = self.wire(core, window_bytes=66_000)
        wire.shard.open(1)
        wire.settle()
        for number in range(40):
            wire.shard.data(1, b"%02d" % number + bytes(9_998))
        wire.to_worker()
        session = wire.link.session
        core.flush()
        self.assertGreater(len(session.held), 20)
        self.assertLess(session.unsent_bytes + session.in_flight_bytes, 66_000 + 50_000 + 11_000)
        (client,) = core.directory.find(link.routing_hash(b"k"))
        with self.assertRaises(worker.Full):
            client.send(b"x")
        self.assertEqual((core.multicast([client], b"x", False), core.broadcast(b"x", False, False)), (0, 0))
        for _ in range(30):
            wire.settle()
        numbers = [int(frame["message"][:2]) for frame in wire.shard.frames[1:]]
        self.assertEqual(numbers, list(range(40)))
        client.send(b"there is room again")

    def test_pings_are_answered_while_frames_are_held(self):  # L-74, L-115
        core = self.core(Echo(), pending_bytes_max=1000)
        wire = self.wire(core, window_bytes=66_000)
        wire.shard.open(1)
        wire.settle()
        for _ in range(20):
            wire.shard.data(1, bytes(10_000))
        wire.shard.send("PING", payload=b"12345678")
        wire.to_worker()
        wire.to_gateway()
        self.assertGreater(len(wire.link.session.held), 0)
        self.assertEqual([frame["payload"] for frame in wire.shard.others if frame["type"] == "PONG"], [b"12345678"])

    def test_a_gateway_that_exceeds_the_window_is_refused(self):  # L-71
        core = self.core(Echo(), pending_bytes_max=1000, window_bytes=100_000)
        wire = self.wire(core, window_bytes=66_000)
        wire.shard.open(1)
        wire.settle()
        for _ in range(60):
            wire.shard.data(1, bytes(10_000))
        with self.assertRaises(link.LinkError):
            wire.to_worker()

    # --- connections ---

    def test_a_connections_life(self):  # L-110, L-112, L-146, L-148
        told = []

        class Told(worker.Handler):
            def on_open(self, client, opening):
                told.append(("open", opening.moved, opening.session, opening.key, opening.token, opening.peer,
                             client.framing, client.listener, opening.meta))
                if opening.moved:
                    return
                if opening.token == b"no":
                    client.reject("full", 1500, 4001, "nicht jetzt")
                else:
                    client.accept(77)

            def on_close(self, client, reason):
                told.append(("close", client.id, client.session, reason, client.state))

            def on_presence(self, routing_hash, is_here):
                told.append(("here" if is_here else "gone", routing_hash))

        core = self.core(Told())
        wire = self.wire(core)
        shard, key_hash = wire.shard, link.routing_hash(b"k")
        shard.open(1, token=b"t", peer=("192.0.2.1", 9), framing=1, meta=b"path: /\r\n", aux=3)
        shard.open(2, token=b"no")
        shard.send("CLOSED", 1, aux=2)
        shard.send("CLOSED", 2, aux=20)
        shard.send("REOPEN", 3, link.FLAG_RESENT, routing_hash=key_hash, session=5, framing=0)
        shard.send("CLOSED", 3, aux=link.REASON_MOVED)
        shard.send("CLOSED", 12345, aux=link.REASON_MOVED)
        shard.send("CLOSED", 12345, aux=2)
        wire.settle()
        self.assertEqual(told, [
            ("open", False, 0, b"k", b"t", ("192.0.2.1", 9), "websocket", 3, b"path: /\r\n"), ("here", key_hash),
            ("open", False, 0, b"k", b"no", None, "edge", 0, b""),
            ("gone", key_hash), ("close", 1, 77, "client_eof", "gone"),
            ("here", key_hash), ("open", True, 5, b"", b"", None, "edge", 0, b""),
            ("gone", key_hash), ("close", 3, 5, "moved", "gone"),
        ])
        accept, reject, moved, unknown = shard.frames
        self.assertEqual((accept["type"], accept["session"], accept["routing_hash"]), ("ACCEPT", 77, None))
        self.assertEqual((reject["type"], reject["aux"], reject["retry_after_ms"], reject["code"], reject["text"]),
                         ("REJECT", 16, 1500, 4001, "nicht jetzt"))
        self.assertEqual([(frame["type"], frame["connection"]) for frame in (moved, unknown)],
                         [("MOVED", 3), ("MOVED", 12345)])
        self.assertEqual((wire.link.session.clients, len(core.directory.find(key_hash))), ({}, 0))

    def test_data_of_unknown_and_unaccepted_connections_is_dropped(self):  # L-61, L-109
        class Later(Echo):
            def on_open(self, client, opening):
                pass

        wire = self.wire(self.core(Later()))
        wire.shard.open(1)
        wire.shard.data(1, b"too early")
        wire.shard.data(2, b"nobody")
        wire.settle()
        self.assertEqual((wire.shard.frames, wire.shard.kept), ([], []))

    def test_a_key_may_change_at_accept(self):  # L-97
        class Rekey(Echo):
            def on_open(self, client, opening):
                client.accept(1, routing_hash=link.routing_hash(b"room 7"), subprotocol="chat.v2")

        core = self.core(Rekey())
        wire = self.wire(core)
        wire.shard.open(1)
        wire.settle()
        self.assertEqual((wire.shard.frames[0]["routing_hash"], wire.shard.frames[0]["subprotocol"]),
                         (link.routing_hash(b"room 7"), "chat.v2"))
        self.assertEqual(len(core.directory.find(link.routing_hash(b"room 7"))), 1)
        self.assertEqual(core.directory.find(link.routing_hash(b"k")), [])

    def test_what_nobody_may_state(self):  # L-105
        core = self.core(Echo())
        wire = self.wire(core)
        wire.shard.open(1)
        wire.settle()
        (client,) = core.directory.find(link.routing_hash(b"k"))
        for reason, code, text in (("moved", 0, ""), ("slow_consumer", 0, ""), (None, 3999, ""), (None, 5000, ""),
                                   (None, 0, "x" * 118)):
            with self.assertRaises(ValueError):
                client.close(reason, 0, code, text)
        with self.assertRaises(worker.TooLong):
            client.send(bytes(65537))
        client.close(None, 5, 4999, "x" * 117)
        with self.assertRaises(worker.Closed):
            client.send(b"late")
        wire.settle()
        self.assertEqual([frame["type"] for frame in wire.shard.frames], ["ACCEPT", "CLOSE"])

    def test_a_handler_that_raises_costs_its_client_only(self):
        class Faulty(Echo):
            def on_open(self, client, opening):
                if opening.key == b"bad":
                    raise KeyError("on_open")
                client.accept()

            def on_message(self, client, message):
                if message.payload == b"bad":
                    raise KeyError("on_message")
                super().on_message(client, message)

        wire = self.wire(self.core(Faulty()))
        wire.shard.open(1, key=b"bad")
        wire.shard.open(2)
        wire.shard.open(3)
        wire.shard.data(2, b"bad")
        wire.shard.data(3, b"good")
        wire.settle()
        self.assertEqual([(frame["type"], frame["connection"], frame["aux"]) for frame in wire.shard.frames],
                         [("REJECT", 1, 28), ("ACCEPT", 2, 0), ("ACCEPT", 3, 0), ("CLOSE", 2, 28), ("DATA", 3, 0)])
        self.assertEqual(wire.shard.kept, [])
        self.assertEqual(sum("KeyError" in line for line in self.shell.lines), 2)

    def test_text_and_resent_are_told(self):
        told = []

        class Told(Echo):
            def on_message(self, client, message):
                told.append((message.resent, message.text))
                client.send(message.payload, message.text)

        wire = self.wire(self.core(Told()))
        wire.shard.open(1)
        for flags in (0, link.FLAG_RESENT, link.FLAG_TEXT):
            wire.shard.data(1, b"x", flags)
        wire.settle()
        self.assertEqual(told, [(False, False), (True, False), (False, True)])
        self.assertEqual([frame["flags"] for frame in wire.shard.frames[1:]], [0, 0, link.FLAG_TEXT])

    # --- fan-out and relay (SPEC.md 3.10) ---

    def test_fan_out(self):  # L-161, L-163
        core = self.core(Echo())
        wires = [self.wire(core, shard=number) for number in range(2)]
        for wire in wires:
            for connection in (1, 2):
                wire.shard.open(connection)
            wire.settle()
        clients = core.directory.find(link.routing_hash(b"k"))
        self.assertEqual(core.multicast([*clients[1:], clients[1]], b"many", True), 3)
        self.assertEqual(core.broadcast(b"all", True, False), 2)
        for wire in wires:
            wire.settle()
        (multicast, broadcast), second = [wire.shard.frames[2:] for wire in wires]
        self.assertEqual((multicast["ids"], multicast["message"], multicast["flags"]), ([2], b"many", link.FLAG_TEXT))
        self.assertEqual((broadcast["message"], broadcast["flags"]), (b"all", link.FLAG_ALL))
        self.assertEqual(second[0]["ids"], [1, 2])

    def test_multicast_to_more_than_a_frame_holds(self):
        core = self.core(Echo())
        wire = self.wire(core, window_bytes=4 << 20)
        for connection in range(20_000):
            wire.shard.open(connection)
        wire.settle()
        self.assertEqual(core.multicast(core.directory.find(link.routing_hash(b"k")), bytes(1000), False), 20_000)
        wire.settle()
        frames = [frame for frame in wire.shard.frames if frame["type"] == "MULTICAST"]
        self.assertGreater(len(frames), 1)
        self.assertEqual([each for frame in frames for each in frame["ids"]], list(range(20_000)))

    def test_relay_and_its_answer(self):  # L-165 to L-169
        class Relays(Echo):
            def on_message(self, client, message):
                core.relay(9, b"question", False)
                core.relay(0, b"everybody", True)

            def on_relay(self, relay):
                told.append((relay.routing_hash, relay.payload, relay.resent, relay.is_answer))
                if not relay.is_answer:
                    relay.answer(b"answer")

        told = []
        core = self.core(Relays())
        wire = self.wire(core)
        wire.shard.open(1)
        wire.shard.data(1, b"go")
        wire.shard.send("RELAY", 0xabcdef, link.FLAG_RESENT, routing_hash=9, payload=b"question")
        wire.shard.send("RELAY", 0x123456, link.FLAG_DIRECT, routing_hash=9, payload=b"answer")
        wire.settle()
        self.assertEqual(told, [(9, b"question", True, False), (9, b"answer", False, True)])
        self.assertEqual(
            [(frame["connection"], frame["flags"], frame["payload"]) for frame in wire.shard.frames[1:]],
            [(0, 0, b"question"), (0, link.FLAG_ALL, b"everybody"), (0xabcdef, link.FLAG_DIRECT, b"answer")])

    def test_a_relay_needs_a_gateway(self):
        core = self.core(Echo())
        with self.assertRaises(worker.Closed):
            core.relay(1, b"", False)
        wire = self.wire(core)
        with self.assertRaises(worker.TooLong):
            core.relay(1, bytes(200_000), False)
        core.relay(1, b"x", False)
        wire.settle()
        self.assertEqual(len(wire.shard.frames), 1)

    # --- sessions come and go ---

    def test_a_new_session_ends_the_old_connections_behind_what_is_handled(self):  # L-53
        told = []

        class Slow(Echo):
            async def on_message(self, client, message):
                await pause()
                told.append("message")

            def on_close(self, client, reason):
                told.append(reason)

        core = self.core(Slow())
        wire = self.wire(core)
        wire.shard.open(1)
        wire.settle()
        wire.shard.data(1, b"x")
        wire.to_worker()
        (client,) = core.directory.find(link.routing_hash(b"k"))
        wire.cut()
        wire.shard.new_session()
        wire.connect()
        self.assertFalse(wire.shard.was_resumed)
        while self.shell.running:
            self.shell.step(random.Random(1))
        self.assertEqual(told, ["message", "moved"])
        with self.assertRaises(worker.Closed):
            client.send(b"x")
        wire.settle()
        self.assertEqual(wire.shard.frames, [], "no MOVED in the new session")

    def test_positions_out_of_range_begin_a_new_session(self):  # L-48
        wire = self.wire(self.core(Echo()))
        wire.shard.open(1)
        wire.settle()
        wire.cut()
        wire.shard.received += 5
        wire.connect()
        self.assertFalse(wire.shard.was_resumed)

    def test_a_session_whose_gateway_stays_away_ends_after_several_failovers(self):  # L-58
        closed = []

        class Told(Echo):
            def on_close(self, client, reason):
                closed.append(reason)

        core = self.core(Told())
        wire = self.wire(core, link_failover_ms=20_000)
        wire.shard.open(1)
        wire.settle()
        wire.cut()
        core.expire(self.shell.time + 119)
        self.assertEqual(closed, [])
        core.expire(self.shell.time + 121)
        self.assertEqual((closed, core.sessions), (["moved"], {}))

    def test_drain(self):  # L-158, L-160
        core = self.core(Echo())
        wire = self.wire(core)
        wire.shard.open(1)
        wire.settle()
        core.drain()
        wire.to_gateway()
        self.assertEqual([frame["type"] for frame in wire.shard.others], ["DRAINING"])
        self.assertFalse(core.has_drained())
        wire.cut()
        self.assertTrue(core.has_drained(), "who is away is not waited for")
        wire.connect()
        self.assertEqual([frame["type"] for frame in wire.shard.others], ["DRAINING"], "on every TCP connection")
        wire.shard.send("CLOSED", 1, aux=link.REASON_MOVED)
        wire.to_worker()
        wire.to_gateway()
        self.assertFalse(core.has_drained(), "MOVED is not acknowledged")
        wire.settle()
        self.assertTrue(core.has_drained())

    # --- handshake and time ---

    def test_the_secret(self):  # L-39 to L-45
        core = self.core(Echo(), secret=b"a secret of the tests")
        self.wire(core, secret=b"a secret of the tests")
        for secret, code in ((None, 2), (b"another secret!!", 3)):
            shard = Shard(secret)
            shard.begin()
            peer = Link(core, 100.0)
            peer.receive(shard.out, 100.0)
            shard.out = b""
            if secret:  # it must not verify what the worker proves
                shard.secret, proof = None, link.prove(secret, "gateway", b"", b"")
                shard.receive(bytes(peer.out))
                shard.out = link.encode("LINK_PROOF", link.encode_proof(proof))
            else:
                shard.receive(bytes(peer.out))
            peer.out.clear()
            with self.assertRaises(Refused):
                peer.receive(shard.out, 100.0)
            self.assertEqual(bytes(peer.out), link.encode("LINK_REFUSE", aux=code))
        self.assertEqual(len(core.sessions), 1, "who proves nothing changes nothing")

    def test_an_older_link_is_dropped_when_a_newer_one_resumes(self):  # L-47
        core = self.core(Echo())
        wire = self.wire(core)
        older = wire.link
        wire.connect()
        self.assertTrue(wire.shard.was_resumed)
        self.assertEqual(self.shell.dropped, [older])

    def test_of_two_that_mean_to_resume_only_one_may(self):  # L-54
        core = self.core(Echo())
        wire = self.wire(core)
        one, two = Shard(instance=wire.shard.instance), Shard(instance=wire.shard.instance)
        links = []
        for shard in (one, two):
            shard.worker = core.instance
            shard.begin()
            links.append(Link(core, 100.0))
            links[-1].receive(shard.out, 100.0)
            shard.out = b""
            shard.receive(bytes(links[-1].out))
            self.assertTrue(shard.was_resumed)
        links[1].receive(two.out, 100.0)
        with self.assertRaises(link.LinkError):
            links[0].receive(one.out, 100.0)
        self.assertIs(core.sessions[wire.shard.instance, 0].link, links[1])

    def test_silence(self):  # L-117
        core = self.core(Echo())
        wire = self.wire(core, link_keepalive_ms=2_000)
        wire.link.tick(101.9)
        self.assertEqual(bytes(wire.link.out), b"")
        wire.link.tick(102.1)
        self.assertEqual(bytes(wire.link.out), link.encode("PING"))
        wire.link.tick(103.9)
        with self.assertRaises(link.LinkError):
            wire.link.tick(104.1)

    def test_a_handshake_that_takes_too_long(self):  # L-16
        peer = Link(self.core(Echo()), 100.0)
        peer.tick(109.0)
        with self.assertRaises(link.LinkError):
            peer.tick(110.1)


if __name__ == "__main__":
    unittest.main()
