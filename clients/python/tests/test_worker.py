"""Plays a gateway against the echo worker: handshake, echo, breaks at any byte, resume, failover, moves."""

import json
import os
import pathlib
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

from roosting.worker import codec as link

from .played import HELLO
from .programs import ROOT, VECTORS

WORKER = [sys.executable, "-B", "-m", "roosting.worker_echo"]
SECRET = b"a secret for the tests"
CONNECTION = 7 << 32 | 1
TIMEOUT_S = 30


class Gateway:
    """One gateway shard's side of a link. What a break must not lose is in here."""

    def __init__(self, port, secret=SECRET, shard=0, window_bytes=1 << 20):
        self.port, self.secret, self.shard, self.window_bytes = port, secret, shard, window_bytes
        self.instance = os.urandom(16)
        self.new_session()

    def new_session(self):
        self.worker = link.NO_INSTANCE
        self.received = 0  # the worker's sequenced frames handled
        self.kept, self.acked = [], 0  # own sequenced frames not acknowledged, and how many were
        self.frames = []  # what came, in order

    def dial(self, **changes):
        """A new TCP connection with its handshake. Gives LINK_WELCOME, or what came instead."""
        previous, self.buffer = getattr(self, "socket", None), b""
        self.socket = socket.create_connection(("127.0.0.1", self.port), TIMEOUT_S)
        hello = link.encode_frame({
            **HELLO, "shard": self.shard, "gateway": self.instance, "nonce": os.urandom(16),
            "expected_worker": self.worker, "received_position": self.received,
            "window_bytes": self.window_bytes, **changes})
        self.socket.sendall(hello)
        welcome, payload = self.read_frame()
        if welcome["type"] != "LINK_WELCOME":
            return welcome
        covered = hello[link.HEADER_BYTES:], payload[:link.WELCOME_PROVEN_BYTES]
        proof = None
        if self.secret is not None:
            if welcome["proof"]:
                assert link.verify(SECRET, "worker", *covered, welcome["proof"])
            proof = link.prove(self.secret, "gateway", *covered)
        self.socket.sendall(link.encode("LINK_PROOF", link.encode_proof(proof)))
        if welcome["resumed"]:
            assert welcome["worker"] == self.worker
            self.on_ack(welcome["received_position"])
        else:
            self.new_session()
        if previous:
            previous.close()  # at the latest now
        self.worker = welcome["worker"]
        for frame in self.kept:
            self.socket.sendall(frame)
        return welcome

    def send(self, kind, payload=b"", connection=CONNECTION, **header):
        frame = link.encode(kind, payload, connection, **header)
        if link.is_sequenced(kind):
            self.kept.append(frame)
        self.socket.sendall(frame)

    def open(self, connection=CONNECTION, key=b"k"):
        payload = link.routing_hash(key).to_bytes(8, "big") + bytes(2) + link.counted(key) + bytes(4)
        self.send("OPEN", payload, connection, aux=0)

    def on_ack(self, position):
        assert self.acked <= position <= self.acked + len(self.kept), "the ACK is in range"
        del self.kept[:position - self.acked]
        self.acked = position

    def read_frame(self):
        while True:
            whole = link.split(self.buffer, link.payload_bytes_max(65536))
            if whole:
                self.buffer = self.buffer[link.HEADER_BYTES + len(whole[1]):]
                return link.decode_frame(*whole, 65536), whole[1]
            data = self.socket.recv(65536)
            if not data:
                raise ConnectionError("the worker closed the connection")
            self.buffer += data

    def next(self):
        """The next frame but ACKs, which are taken in."""
        while True:
            frame, _ = self.read_frame()
            if frame["type"] == "ACK":
                self.on_ack(frame["position"])
                continue
            if link.is_sequenced(frame["type"]):
                self.received += 1
            return frame

    def settle(self):
        """Reads until the worker has acknowledged everything."""
        while self.kept:
            frame, _ = self.read_frame()
            if frame["type"] == "ACK":
                self.on_ack(frame["position"])
            elif link.is_sequenced(frame["type"]):
                self.received += 1
                self.frames.append(frame)

    def acknowledge(self):
        self.socket.sendall(link.encode("ACK", self.received.to_bytes(8, "big")))


class SecretTest(unittest.TestCase):
    """A secret is as long, and as secret, as the reference worker wants it."""

    def refused(self, content, mode=0o600):
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory) / "secret"
            path.write_bytes(content)
            path.chmod(mode)
            ended = subprocess.run(
                [*WORKER, "--listen", "127.0.0.1:0", "--secret-file", path], cwd=ROOT,
                capture_output=True, text=True, timeout=30)
        self.assertNotEqual(ended.returncode, 0)
        return ended.stderr

    def test_15_bytes_are_too_few(self):
        self.assertIn("has 15 bytes, 16 are the least", self.refused(b"123456789abcdef\r\n"))

    def test_a_file_that_everybody_may_change_is_refused(self):
        self.assertIn("everybody may change it", self.refused(SECRET, 0o666))


class WorkerTest(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        secret = pathlib.Path(directory.name) / "secret"
        secret.write_bytes(SECRET + b"\n")
        self.process = subprocess.Popen(
            [*WORKER, "--listen", "127.0.0.1:0", "--secret-file", secret], cwd=ROOT,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.addCleanup(self.stop)
        self.port = int(self.process.stdout.readline().rpartition(":")[2])

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def linked(self, **how):
        gateway = Gateway(self.port, **how)
        self.addCleanup(lambda: gateway.socket.close())
        self.assertFalse(gateway.dial()["resumed"])
        return gateway

    def expect(self, gateway, kind, **fields):
        frame = gateway.next()
        self.assertEqual({"type": kind, **fields}, {name: frame[name] for name in ("type", *fields)})

    def test_echo_and_ack(self):
        gateway = self.linked()
        gateway.open(key=b"user-7")
        self.expect(gateway, "ACCEPT", connection=CONNECTION, session=link.routing_hash(b"user-7"))
        gateway.send("DATA", link.message(b"hello"))
        self.expect(gateway, "DATA", connection=CONNECTION, message=b"hello")
        gateway.send("PING", b"12345678", 0)
        self.expect(gateway, "PONG", payload=b"12345678")
        gateway.settle()
        self.assertEqual(gateway.acked, 2)

    def test_bytes_one_by_one(self):  # E-2
        gateway = self.linked()
        gateway.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        gateway.open()
        gateway.next()
        for byte in link.encode("DATA", link.message(b"slow"), CONNECTION):
            gateway.socket.sendall(bytes([byte]))
        self.expect(gateway, "DATA", message=b"slow")

    def test_handshake_refusals(self):  # L-31, L-39 to L-42
        for changes, secret, code in (
            ({"frame_bytes_max": 1 << 24}, SECRET, 4),
            ({"shard": 4}, SECRET, 4),
            ({"gateway": link.NO_INSTANCE}, SECRET, 4),
            ({"window_bytes": 100}, SECRET, 4),
            ({}, b"another secret", 3),
            ({}, None, 2),
        ):
            with self.subTest(code=code, **changes):
                gateway = Gateway(self.port, secret)
                frame = gateway.dial(**changes)
                if frame["type"] == "LINK_WELCOME":
                    frame, _ = gateway.read_frame()
                self.assertEqual((frame["type"], frame["aux"]), ("LINK_REFUSE", code))
                with self.assertRaises(ConnectionError):
                    gateway.read_frame()
                gateway.socket.close()

    def test_wrong_version_and_garbage(self):  # L-12, L-35
        for data, answer in (
            (link.encode("LINK_HELLO", b"\x02" + bytes(91)), 1),
            # As an earlier draft had it: 72 bytes.
            (link.encode("LINK_HELLO", struct.pack(">BBHHH16s16s16sQII", 1, 0, 0, 1, 0, b"g" * 16,
                                                   b"n" * 16, bytes(16), 0, 1 << 20, 65536)), 4),
            (link.encode("LINK_PROOF", b"\x00"), 4),
            (b"GET / HTTP/1.1\r\n\r\n", 4),
        ):
            with self.subTest(data=data[:8]), socket.create_connection(("127.0.0.1", self.port), TIMEOUT_S) as peer:
                peer.sendall(data)
                received = peer.recv(100)
                self.assertEqual(received, link.encode("LINK_REFUSE", aux=answer))

    def test_refused_handshake_leaves_the_session_alone(self):  # L-45
        gateway = self.linked()
        gateway.open()
        gateway.next()
        thief = Gateway(self.port, secret=b"wrong")
        thief.instance = gateway.instance
        thief.dial()
        frame, _ = thief.read_frame()
        self.assertEqual(frame["aux"], 3)
        thief.socket.close()
        gateway.send("DATA", link.message(b"still here"))
        self.expect(gateway, "DATA", message=b"still here")

    def test_breaks_lose_nothing_and_repeat_nothing(self):  # L-79 to L-83
        """Cuts the TCP connection again and again, at any byte and in either direction."""
        rng = random.Random(int(os.environ.get("SEED", "1")))
        gateway = self.linked()
        gateway.open()
        gateway.settle()
        sent = 0
        for _ in range(60):
            for _ in range(rng.randrange(1, 30)):
                gateway.send("DATA", link.message(b"%d" % sent + bytes(rng.randrange(200))))
                sent += 1
            if rng.random() < 0.3:
                gateway.acknowledge()
            if rng.random() < 0.5:
                # A part of one more frame; it comes whole after the resume.
                frame = link.encode("DATA", link.message(b"%d" % sent), CONNECTION)
                gateway.kept.append(frame)
                gateway.socket.sendall(frame[:rng.randrange(len(frame))])
                sent += 1
            for _ in range(rng.randrange(20)):
                # Read some replies or none; ACKs among them are taken in, or not.
                gateway.socket.settimeout(0.001)
                try:
                    gateway.frames.append(gateway.next())
                except TimeoutError:
                    break
            gateway.socket.settimeout(TIMEOUT_S)
            if rng.random() < 0.5:
                gateway.socket.close()  # else the worker still has the old one
            self.assertTrue(gateway.dial()["resumed"])
        gateway.settle()
        while len(gateway.frames) < 1 + sent:
            gateway.frames.append(gateway.next())
        kinds = [frame["type"] for frame in gateway.frames]
        self.assertEqual(kinds, ["ACCEPT"] + ["DATA"] * sent)
        numbers = [int(frame["message"].rstrip(b"\0")) for frame in gateway.frames[1:]]
        self.assertEqual(numbers, list(range(sent)))

    def test_resume_states_only_what_the_gateway_has_the_replies_of(self):  # L-79
        gateway = self.linked()
        gateway.open()
        gateway.settle()
        gateway.send("DATA", link.message(b"a"))
        gateway.settle()  # ACCEPT and one DATA received
        position = gateway.received
        gateway.send("DATA", link.message(b"b"))
        while gateway.read_frame()[0]["type"] != "ACK":
            pass  # read, but not taken in: as if the break had come before them
        gateway.socket.close()
        welcome = gateway.dial()
        self.assertEqual((welcome["resumed"], welcome["received_position"]), (True, position))
        self.expect(gateway, "DATA", message=b"b")
        gateway.settle()
        self.assertEqual(gateway.received, 3)

    def test_window_holds_replies_back_until_acknowledged(self):  # L-71, L-74
        window_bytes = 65536 + 32
        gateway = self.linked(window_bytes=window_bytes)
        gateway.open()
        gateway.settle()
        gateway.acknowledge()
        for _ in range(10):
            gateway.send("DATA", link.message(bytes(20_000)))
        for _ in range(3):
            self.expect(gateway, "DATA", message=bytes(20_000))
        # PONG overtakes what the window holds back.
        gateway.send("PING", b"", 0)
        self.expect(gateway, "PONG")
        self.assertGreaterEqual(len(gateway.kept), 7, "what is not answered is not acknowledged")
        for _ in range(7):
            gateway.acknowledge()
            self.expect(gateway, "DATA", message=bytes(20_000))
        gateway.settle()

    def test_new_session_and_reopen(self):  # L-52, L-146
        gateway = self.linked()
        gateway.open()
        gateway.settle()
        gateway.socket.close()
        gateway.worker = link.NO_INSTANCE  # as after a failover
        self.assertFalse(gateway.dial()["resumed"])
        gateway.send("DATA", link.message(b"nobody"))  # not known any more: dropped
        gateway.send("REOPEN", bytes(8) + (9).to_bytes(8, "big") + b"\0", CONNECTION + 1)
        gateway.send("DATA", link.message(b"again"), CONNECTION + 1, flags=link.FLAG_RESENT)
        self.expect(gateway, "DATA", connection=CONNECTION + 1, message=b"again")
        gateway.settle()
        self.assertEqual(gateway.acked, 3)

    def test_a_session_is_kept_for_as_long_as_its_gateway_needs(self):  # L-58
        gateway = Gateway(self.port)
        self.addCleanup(lambda: gateway.socket.close())
        gateway.dial(link_failover_ms=10)
        gateway.open()
        gateway.settle()
        gateway.socket.close()
        # Six times 10 ms, and a second at least.
        time.sleep(3)
        self.assertFalse(gateway.dial()["resumed"])

    def test_unknown_positions_are_not_resumed(self):  # L-48
        gateway = self.linked()
        gateway.open()
        gateway.settle()
        gateway.socket.close()
        gateway.received += 5
        self.assertFalse(gateway.dial()["resumed"])

    def test_moved(self):  # L-148
        gateway = self.linked()
        gateway.open()
        gateway.send("DATA", link.message(b"last"))
        gateway.send("CLOSED", aux=link.REASON_MOVED)
        self.expect(gateway, "ACCEPT")
        self.expect(gateway, "DATA", message=b"last")
        self.expect(gateway, "MOVED", connection=CONNECTION)
        gateway.send("CLOSED", connection=12345, aux=link.REASON_MOVED)
        self.expect(gateway, "MOVED", connection=12345)

    def test_links_of_two_shards_and_two_gateways(self):  # L-9, L-46
        gateways = [self.linked(), self.linked(shard=1), self.linked()]
        gateways[1].instance = gateways[0].instance
        gateways[1].socket.close()
        gateways[1].new_session()
        gateways[1].dial()
        for number, gateway in enumerate(gateways):
            gateway.open()
            self.expect(gateway, "ACCEPT", connection=CONNECTION)
            gateway.send("DATA", link.message(b"%d" % number))
        for number, gateway in enumerate(gateways):
            self.expect(gateway, "DATA", message=b"%d" % number)

    def test_protocol_errors_close_the_link(self):  # L-121 to L-126
        for frame in (link.encode("ACCEPT", bytes(8), CONNECTION), link.encode("LINK_HELLO", bytes(92)),
                      link.encode("ACK", (99).to_bytes(8, "big")), link.encode("DATA", b"\x04\0\0\0", 1)):
            with self.subTest(frame=frame[:5]):
                gateway = self.linked()
                gateway.socket.sendall(frame)
                with self.assertRaises(ConnectionError):
                    gateway.next()

    def test_every_bad_vector_closes_the_link(self):
        vectors = json.loads((VECTORS / "link.json").read_text(encoding="utf-8"))
        for vector in vectors["bad"]:
            limit = vector.get("frame_bytes_max", 65536)
            with self.subTest(name=vector["name"]):
                gateway = Gateway(self.port)
                gateway.dial(frame_bytes_max=limit)
                gateway.socket.sendall(bytes.fromhex(vector["bytes"]))
                with self.assertRaises(ConnectionError):
                    while True:
                        gateway.read_frame()
                gateway.socket.close()

    def test_an_ack_comes_right_behind_the_handshake(self):  # L-14
        gateway = self.linked()
        frame, _ = gateway.read_frame()
        self.assertEqual((frame["type"], frame["position"]), ("ACK", 0))

    def test_drain(self):  # L-158, L-160
        gateway = self.linked()
        gateway.open()
        gateway.settle()
        gateway.acknowledge()
        self.process.send_signal(signal.SIGTERM)
        self.expect(gateway, "DRAINING")
        gateway.send("DATA", link.message(b"on my way"))
        gateway.send("CLOSED", aux=link.REASON_MOVED)
        self.expect(gateway, "DATA", message=b"on my way")
        self.expect(gateway, "MOVED")
        self.assertIsNone(self.process.poll(), "it waits for the acknowledgement")
        gateway.settle()
        gateway.acknowledge()
        self.assertEqual(self.process.wait(TIMEOUT_S), 0)


class UnixTest(unittest.TestCase):
    def test_a_unix_socket_and_a_port_at_once(self):
        with tempfile.TemporaryDirectory() as directory:
            path = f"{directory}/worker"
            process = subprocess.Popen([*WORKER, "--listen", f"unix:{path}", "--listen", "127.0.0.1:0"], cwd=ROOT,
                                       stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            try:
                self.assertEqual(process.stdout.readline(), f"listening on {path}\n")
                port = int(process.stdout.readline().rpartition(":")[2])
                for family, address in ((socket.AF_UNIX, path), (socket.AF_INET, ("127.0.0.1", port))):
                    with socket.socket(family) as peer:
                        peer.connect(address)
                        peer.settimeout(TIMEOUT_S)
                        peer.sendall(link.encode("LINK_PROOF", b"\x00"))
                        self.assertEqual(peer.recv(100), link.encode("LINK_REFUSE", aux=4))
            finally:
                process.kill()
                process.wait()
                process.stdout.close()


class StartTest(unittest.TestCase):
    def test_refuses_to_listen_beyond_loopback_without_a_secret(self):  # L-44
        run = subprocess.run([*WORKER, "--listen", "0.0.0.0:0"], cwd=ROOT,
                             capture_output=True, text=True, timeout=TIMEOUT_S)
        self.assertNotEqual(run.returncode, 0)
        self.assertIn("--secret-file", run.stderr)


if __name__ == "__main__":
    unittest.main()
