"""Clients that break the rules. Each kind runs in a process of its own, for a bounded time and with
bounded work, and expects to be refused:

    python3 -m roost.soak.hostile KIND HOST PORT SECONDS SEED FRAME_BYTES_MAX

They share the machine with the load generator, so each limits its own pace: what is tried here is
what the gateway does to others on their account, not how fast a core can be filled.
"""

import contextlib
import random
import selectors
import socket
import struct
import sys
import time

MESSAGE, PING, PONG = b"\x03", b"\x04", b"\x05"


def hello(key):
    payload = struct.pack(">BBH", 1, 0, len(key)) + key + b"\0\0"
    return b"\x01" + len(payload).to_bytes(3, "big") + payload


def frame(kind, payload):
    return kind + len(payload).to_bytes(3, "big") + payload


class Crowd:
    """Connections of one kind, none of which ever blocks the others."""

    def __init__(self, host, port, seconds, seed, frame_bytes_max):
        self.address = (host, port)
        self.until = time.monotonic() + seconds
        self.rng = random.Random(seed)
        self.frame_bytes_max = frame_bytes_max
        self.selector = selectors.DefaultSelector()
        self.connected = self.ended = 0

    def connect(self, first=b"", receive_bytes=None):
        """A connection that has sent `first`, or None if it is refused."""
        sock = socket.socket()
        if receive_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.settimeout(2)
        try:
            sock.connect(self.address)
            sock.sendall(first)
        except OSError:
            sock.close()
            return None
        sock.setblocking(False)
        self.connected += 1
        return sock

    def crowd(self, count, first=lambda index: b"", receive_bytes=None):
        made = (self.connect(first(index), receive_bytes) for index in range(count))
        return [sock for sock in made if sock]

    def key(self, index):
        return hello(f"hostile-{self.rng.randrange(1 << 30)}-{index}".encode())

    def write(self, sock, data):
        """What the socket takes of it; None once the connection has ended."""
        try:
            return sock.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self.ended += 1
            sock.close()
            return None

    def read(self, sock, most=1 << 16):
        """What the socket has; None once the connection has ended."""
        try:
            data = sock.recv(most)
        except BlockingIOError:
            return b""
        except OSError:
            data = b""
        if not data:
            self.ended += 1
            sock.close()
            return None
        return data

    def reset(self, sock):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        self.ended += 1

    def running(self):
        return time.monotonic() < self.until


def last_byte(crowd):
    """Large frames but for their last byte, from many at once; then all the last bytes together."""
    size = crowd.frame_bytes_max
    while crowd.running():
        socks = crowd.crowd(64, crowd.key)
        rest = {sock: frame(MESSAGE, bytes(size))[:-1] for sock in socks}
        stuck = 0
        while rest and stuck < 100 and crowd.running():
            stuck += 1
            for sock, data in list(rest.items()):
                sent = crowd.write(sock, data[:1 << 18])
                if sent is None:
                    rest.pop(sock)
                    socks.remove(sock)
                elif sent:
                    stuck = 0
                    rest[sock] = data[sent:]
                    if not rest[sock]:
                        rest.pop(sock)
            time.sleep(0.01)
        for sock in socks:
            crowd.write(sock, b"\0")
        time.sleep(1)
        for sock in socks:
            crowd.reset(sock)


def pongs(crowd):
    """Sockets that are kept full of the smallest frames, which nobody asked for."""
    flood = frame(PONG, b"") * 4096
    socks = crowd.crowd(80, crowd.key)
    while crowd.running():
        socks = [sock for sock in socks if crowd.write(sock, flood) is not None]
        socks += crowd.crowd(min(80 - len(socks), 4), crowd.key)
        time.sleep(0.02)


def pings(crowd):
    """PINGs by the hundred thousand, whose PONGs are read late."""
    flood = frame(PING, b"") * 16384
    socks = crowd.crowd(30, crowd.key, 65_536)
    behind = dict.fromkeys(socks, 0)
    while crowd.running():
        for sock in list(behind):
            if behind[sock] < 800_000:
                sent = crowd.write(sock, flood)
                behind[sock] += sent or 0
            data = b"" if sent is None else crowd.read(sock, 1 << 14)
            if sent is None or data is None:
                behind.pop(sock)
            else:
                behind[sock] -= len(data)
        for sock in crowd.crowd(min(30 - len(behind), 2), crowd.key, 65_536):
            behind[sock] = 0
        time.sleep(0.02)


def silent(crowd):
    """Connections that never say HELLO."""
    socks = crowd.crowd(400)
    while crowd.running():
        time.sleep(0.2)
        socks = [sock for sock in socks if crowd.read(sock) is not None]
        socks += crowd.crowd(min(400 - len(socks), 20))


def before_hello(crowd):
    """A MESSAGE of the greatest size where a HELLO is due, and HELLOs that are too long."""
    size = crowd.frame_bytes_max
    bodies = [frame(MESSAGE, bytes(size)), b"\x01" + size.to_bytes(3, "big") + bytes(size)]
    while crowd.running():
        socks = crowd.crowd(40)
        for index, sock in enumerate(socks):
            crowd.write(sock, bodies[index % 2][:-1])
        time.sleep(0.5)
        for sock in socks:
            crowd.reset(sock)


def garbage(crowd):
    """Bytes at random, before and after HELLO, and connections reset in the middle of a frame."""
    while crowd.running():
        socks = crowd.crowd(20, lambda index: crowd.key(index) if index % 2 else b"")
        for sock in socks:
            data = crowd.rng.randbytes(crowd.rng.randrange(2, 3_000))
            if crowd.rng.random() < 0.3:
                data = frame(MESSAGE, data)[:crowd.rng.randrange(1, len(data))]
            crowd.write(sock, data)
        time.sleep(0.2)
        for sock in socks:
            if crowd.rng.random() < 0.5:
                crowd.reset(sock)
            else:
                sock.close()


def deaf(crowd):
    """Clients that send and never read what comes back."""
    message = frame(MESSAGE, bytes(4_000)) * 8
    socks = crowd.crowd(20, crowd.key, 4_096)
    while crowd.running():
        socks = [sock for sock in socks if crowd.write(sock, message) is not None]
        socks += crowd.crowd(min(20 - len(socks), 1), crowd.key, 4_096)
        time.sleep(0.05)


def slow(crowd):
    """Clients that read a little at a time, as a bad radio link does."""
    message = frame(MESSAGE, bytes(2_000))
    socks = crowd.crowd(20, crowd.key, 8_192)
    while crowd.running():
        for sock in list(socks):
            if crowd.write(sock, message) is None or crowd.read(sock, 1_000) is None:
                socks.remove(sock)
        socks += crowd.crowd(min(20 - len(socks), 1), crowd.key, 8_192)
        time.sleep(0.1)


def churn(crowd):
    """Clients that say HELLO and are gone."""
    while crowd.running():
        for sock in crowd.crowd(20, crowd.key):
            crowd.reset(sock)
        time.sleep(0.1)


def dribble(crowd):
    """Frames that come a byte at a time."""
    data = {sock: frame(MESSAGE, bytes(500)) for sock in crowd.crowd(50, crowd.key)}
    while crowd.running():
        for sock, rest in list(data.items()):
            if crowd.write(sock, rest[:1]) is None or crowd.read(sock) is None:
                data.pop(sock)
            else:
                data[sock] = rest[1:] or frame(MESSAGE, bytes(500))
        time.sleep(0.2)


KINDS = {run.__name__: run for run in (
    last_byte, pongs, pings, silent, before_hello, garbage, deaf, slow, churn, dribble,
)}


def main():
    kind, host, port, seconds, seed, frame_bytes_max = sys.argv[1:]
    crowd = Crowd(host, int(port), float(seconds), int(seed), int(frame_bytes_max))
    KINDS[kind](crowd)
    print(f"{kind}: {crowd.connected} connected, {crowd.ended} ended")


if __name__ == "__main__":
    main()
