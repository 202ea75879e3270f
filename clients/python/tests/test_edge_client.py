"""Plays a gateway against the client: what it sends, and how it fails."""

import pathlib
import socket
import subprocess
import sys
import unittest

from roosting.edge import codec as edge

HERE = pathlib.Path(__file__).resolve().parent
CLIENT = [sys.executable, "-m", "roosting.client"]
TIMEOUT_S = 30


class Gateway:
    """The gateway's end of one connection."""

    def __init__(self, listener):
        self.socket, _ = listener.accept()
        self.socket.settimeout(TIMEOUT_S)
        self.decoder, self.frames = edge.Decoder(), []

    def next(self):
        """The client's next frame; None after its FIN."""
        while not self.frames:
            data = self.socket.recv(65536)
            if not data:
                return None
            self.frames += [edge.decode_payload(*whole) for whole in self.decoder.feed(data)]
        return self.frames.pop(0)

    def send(self, kind, **fields):
        self.socket.sendall(edge.encode({"type": kind, **fields}))

    def welcome(self, heartbeat_interval_ms=0, frame_bytes_max=65536):
        self.send("WELCOME", heartbeat_interval_ms=heartbeat_interval_ms, idle_timeout_ms=0,
                  frame_bytes_max=frame_bytes_max, messages_per_s_max=0, session=1)


class ClientTest(unittest.TestCase):
    def setUp(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(TIMEOUT_S)
        self.addCleanup(self.listener.close)

    def start(self, *arguments, timeout="20"):
        port = str(self.listener.getsockname()[1])
        self.process = subprocess.Popen(
            [*CLIENT, "127.0.0.1", port, "--timeout", timeout, *arguments], cwd=HERE.parent,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        gateway = Gateway(self.listener)
        self.addCleanup(gateway.socket.close)
        return gateway

    def finish(self, code, stdout="", stderr=""):
        out, err = self.process.communicate(timeout=TIMEOUT_S)
        self.assertEqual((self.process.returncode, out), (code, stdout), err)
        self.assertIn(stderr, err)

    def test_session(self):
        gateway = self.start("--key", "k", "--token", "t", "--send", "a", "--count", "2", "--check-echo")
        self.assertEqual(gateway.next(), {"type": "HELLO", "key": b"k", "token": b"t"})
        gateway.send("PONG", payload=b"")  # may come at any time
        gateway.welcome()
        for _ in range(2):
            self.assertEqual(gateway.next(), {"type": "MESSAGE", "payload": b"a"})
            gateway.send("PING", payload=b"12")
            gateway.send("MESSAGE", payload=b"a")
            self.assertEqual(gateway.next(), {"type": "PONG", "payload": b"12"})
        self.assertEqual(gateway.next(), {"type": "CLOSE", "code": None})
        with self.assertRaises(subprocess.TimeoutExpired, msg="it waits for the FIN"):
            self.process.wait(0.3)
        gateway.socket.close()
        self.finish(0, "a\na\n")

    def test_heartbeat_and_frames_byte_by_byte(self):
        gateway = self.start("--hold", "1", "--send", "x")
        gateway.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        gateway.next()
        gateway.welcome(heartbeat_interval_ms=200)
        pings = 0
        while (frame := gateway.next())["type"] == "PING":
            pings += 1
            gateway.send("PONG", payload=frame["payload"])
        self.assertGreaterEqual(pings, 3)
        for byte in edge.encode(frame):
            gateway.socket.sendall(bytes([byte]))
        while gateway.next()["type"] != "CLOSE":
            pass
        gateway.socket.close()
        self.finish(0, "x\n")

    def test_silent_gateway(self):
        gateway = self.start("--hold", "20")
        gateway.next()
        gateway.welcome(heartbeat_interval_ms=100)
        self.finish(1, stderr="silent")

    def test_goaway(self):
        for greeted in (False, True):
            with self.subTest(greeted=greeted):
                gateway = self.start()
                if greeted:
                    gateway.next()
                    gateway.welcome()
                gateway.send("GOAWAY", reason="drain", retry_after_ms=1500, code=4001,
                             alternative=b"other:7400", text="see you")
                self.finish(1, stderr="GOAWAY: drain (4001: see you), come back after 1500 ms, at other:7400")

    def test_end_without_a_reason(self):
        gateway = self.start()
        gateway.next()
        gateway.socket.close()
        self.finish(1, stderr="without a reason")

    def test_missing_reply(self):
        gateway = self.start(timeout="0.5")
        gateway.next()
        gateway.welcome()
        gateway.next()
        self.finish(1, stderr="no MESSAGE within 0.5 s")

    def test_wrong_reply(self):
        gateway = self.start("--check-echo", "--send", "a")
        gateway.next()
        gateway.welcome()
        gateway.next()
        gateway.send("MESSAGE", payload=b"b")
        self.finish(1, "b\n", stderr="not what was sent")

    def test_broken_frames(self):
        for data, error in ((b"\x83", "reserved_bits"), (b"\x09", "unknown_type"),
                            (b"\x03\x01\x00\x01", "oversize"), (b"\x07\0\0\0", "CLOSE")):
            with self.subTest(error):
                gateway = self.start()
                gateway.next()
                gateway.socket.sendall(data)
                self.finish(1, stderr=error)

    def test_message_over_the_limit_is_not_sent(self):
        gateway = self.start("--send", "x" * 65)
        gateway.next()
        gateway.welcome(frame_bytes_max=64)
        self.finish(1, stderr="limit")

    def test_nobody_listens(self):
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            run = subprocess.run([*CLIENT, "127.0.0.1", str(unused.getsockname()[1])], cwd=HERE.parent,
                                 capture_output=True, text=True, timeout=TIMEOUT_S)
        self.assertEqual(run.returncode, 1)
        self.assertIn("refused", run.stderr)


if __name__ == "__main__":
    unittest.main()
