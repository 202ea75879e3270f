"""A client of a roost gateway, written from protocol/SPEC.md; Python 3, standard library only.

    python3 -m roosting.client 127.0.0.1 7400 --key alice --send hello --count 3

sends a message three times and prints the replies. Exits with 1, and says why, if the session is
refused or ends early, or if a reply is missing (or, with --check-echo, is not what was sent).
"""

import argparse
import os
import random
import socket
import sys
import time

from .edge import codec as edge


class Ended(Exception):
    """The session is over; args[0] says why."""


class Client:
    """One session: HELLO, messages both ways, heartbeat, CLOSE."""

    def __init__(self, host, port, timeout_s):
        self.timeout_s = timeout_s
        self.socket = socket.create_connection((host, port), timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.decoder = edge.Decoder()
        self.frames = []  # whole frames that nobody has asked for yet
        self.interval_s = 0  # heartbeat; 0: none
        self.spoke_at = time.monotonic()
        self.pinged_at = None  # when the last PING went out, if nothing has been heard since

    def open(self, key, token):
        """HELLO, then waits for WELCOME."""
        self.send({"type": "HELLO", "key": key, "token": token})
        frame = self.receive("WELCOME", time.monotonic() + self.timeout_s)
        self.interval_s = frame["heartbeat_interval_ms"] / 1000
        # The first heartbeat comes after a random part of the interval, so that clients that
        # came together do not beat together.
        self.spoke_at = time.monotonic() - random.random() * self.interval_s
        return frame

    def send_message(self, payload):
        if len(payload) > self.decoder.frame_bytes_max:
            raise Ended("the message is longer than the gateway's limit")
        self.send({"type": "MESSAGE", "payload": payload})

    def receive_message(self):
        return self.receive("MESSAGE", time.monotonic() + self.timeout_s)["payload"]

    def hold(self, seconds):
        """Stays connected, doing nothing but the heartbeat."""
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            self.step(until - now)

    def close(self):
        """CLOSE, then waits for the gateway's FIN: it has then read everything before CLOSE."""
        self.send({"type": "CLOSE", "code": None})
        deadline = time.monotonic() + self.timeout_s
        while True:
            self.socket.settimeout(max(deadline - time.monotonic(), 0.001))
            if not self.socket.recv(65536):
                break
        self.socket.close()

    # --- below: one frame at a time ---

    def send(self, frame):
        self.socket.settimeout(self.timeout_s)
        try:
            self.socket.sendall(edge.encode(frame))
        except (BrokenPipeError, ConnectionResetError):
            # The gateway has ended the session, and most likely said why.
            self.read_last_words()
        self.spoke_at = time.monotonic()

    def receive(self, wanted, deadline):
        """The next frame of the wanted type. Others that may come are dealt with."""
        while True:
            while self.frames:
                frame = self.frames.pop(0)
                if frame["type"] == wanted:
                    return frame
                raise Ended(f"{frame['type']} came while {wanted} was awaited")
            now = time.monotonic()
            if now >= deadline:
                raise Ended(f"no {wanted} within {self.timeout_s} s")
            self.step(deadline - now)

    def step(self, wait_s):
        """Waits for bytes, at most so long, and keeps the heartbeat meanwhile."""
        if self.interval_s:
            now = time.monotonic()
            if self.pinged_at is not None and now - self.pinged_at > self.interval_s:
                raise Ended("the gateway is silent")
            if now - self.spoke_at >= self.interval_s:
                self.send({"type": "PING", "payload": b""})
                self.pinged_at = self.pinged_at or now
            wait_s = min(wait_s, self.interval_s / 4)
        self.socket.settimeout(max(wait_s, 0.001))
        try:
            data = self.socket.recv(65536)
        except TimeoutError:
            return
        if not data:
            raise Ended("the gateway ended the connection without a reason")
        self.pinged_at = None  # any byte is a sign of life
        self.take(data)

    def take(self, data):
        for kind, payload in self.decoder.feed(data):
            frame = edge.decode_payload(kind, payload)
            if kind == "WELCOME":  # its limit holds from the very next frame on
                self.decoder.frame_bytes_max = frame["frame_bytes_max"]
            if kind == "PING":
                self.send({"type": "PONG", "payload": payload})
            elif kind == "GOAWAY":
                again = f", come back after {frame['retry_after_ms']} ms" if frame["retry_after_ms"] else ""
                where = f", at {frame['alternative'].decode()}" if frame["alternative"] else ""
                words = ": ".join(filter(None, (str(frame["code"] or ""), frame["text"])))
                words = f" ({words})" if words else ""
                raise Ended(f"GOAWAY: {frame['reason']}{words}{again}{where}")
            elif kind in ("MESSAGE", "WELCOME"):
                self.frames.append(frame)
            elif kind != "PONG":
                raise Ended(f"a gateway does not send {kind}")

    def read_last_words(self):
        """Reads what the gateway sent before it closed; there is a GOAWAY as a rule."""
        try:
            while data := self.socket.recv(65536):
                self.take(data)
        except OSError:
            pass
        raise Ended("the gateway closed the connection")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--key", default="", help="routing key: who shares it shares a worker")
    parser.add_argument("--token", default="", help="goes to the worker unread")
    parser.add_argument("--send", metavar="TEXT", default="hello", help="the message")
    parser.add_argument("--count", type=int, default=1, help="how often it is sent")
    parser.add_argument("--check-echo", action="store_true", help="replies must equal messages")
    parser.add_argument("--hold", metavar="SECONDS", type=float, default=0,
                        help="stay connected for so long before the messages")
    parser.add_argument("--timeout", metavar="SECONDS", type=float, default=10)
    args = parser.parse_args()
    message = os.fsencode(args.send)
    try:
        client = Client(args.host, args.port, args.timeout)
        client.open(os.fsencode(args.key), os.fsencode(args.token))
        client.hold(args.hold)
        for _ in range(args.count):
            client.send_message(message)
            reply = client.receive_message()
            print(reply.decode(errors="backslashreplace"))
            if args.check_echo and reply != message:
                raise Ended("the reply is not what was sent")
        client.close()
    except (Ended, edge.FrameError, OSError) as error:
        print(f"client: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
