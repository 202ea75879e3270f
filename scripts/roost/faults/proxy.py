"""A proxy for links, which resets them in the midst of a frame, or goes dead, when asked to."""

import contextlib
import selectors
import socket
import struct
import threading

HEADER_BYTES = 16
READ_BYTES = 65_536
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST


class Way:
    """One direction of a connection. Knows where frames end."""

    def __init__(self, source, sink, to_worker, number):
        self.source, self.sink, self.to_worker, self.number = source, sink, to_worker, number
        self.header, self.left = b"", 0  # of the frame under way

    def take(self, data):
        """Takes note of bytes that come by; a place among them that is in the midst of a frame,
        None if there is none."""
        at, place = 0, None
        while at < len(data):
            if not self.left:
                part = data[at:at + HEADER_BYTES - len(self.header)]
                self.header += part
                at += len(part)
                if len(self.header) == HEADER_BYTES:
                    self.left, self.header = int.from_bytes(self.header[:4], "big"), b""
                continue
            step = min(self.left, len(data) - at)
            if place is None and self.left > 1:
                place = at + (min(step, self.left - 1) + 1) // 2
            self.left -= step
            at += step
        return place


class Proxy:
    """Passes connections on to `address` (HOST:PORT), on a thread of its own."""

    def __init__(self, address):
        host, _, port = address.rpartition(":")
        self.target = host, int(port)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.accepted, self.cuts, self.passed = 0, 0, []
        self.wanted, self.frozen = None, 0
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.running = True
        self.thread = threading.Thread(target=self.run)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.running = False
        self.thread.join()
        for key in list(self.selector.get_map().values()):
            key.fileobj.close()
        self.selector.close()

    def cut(self, to_worker):
        """Cuts the next connection that has a frame in this direction, within that frame."""
        self.wanted = to_worker

    def freeze(self):
        """Passes nothing on any more on the connections that there are; they stay open."""
        self.frozen = self.accepted

    def run(self):
        while self.running:
            for key, _ in self.selector.select(0.1):
                if key.data is None:
                    self.accept()
                elif key.fileobj.fileno() >= 0:
                    self.move(key.data)

    def accept(self):
        near, _ = self.listener.accept()
        try:
            far = socket.create_connection(self.target)
        except OSError:
            near.close()
            return
        for one in (near, far):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.accepted += 1
        for source, sink, to_worker in ((near, far, True), (far, near, False)):
            way = Way(source, sink, to_worker, self.accepted)
            self.selector.register(source, selectors.EVENT_READ, way)

    def move(self, way):
        try:
            data = way.source.recv(READ_BYTES)
            at = way.take(data)
            at = at if self.wanted is way.to_worker else None
            # Blocking: the two ends read whatever happens, so this ends.
            if way.number > self.frozen:
                way.sink.sendall(data if at is None else data[:at])
        except OSError:
            data, at = b"", None
        if at is not None:
            self.wanted = None
            self.passed.append(at)
            self.close(way, reset=True)
            self.cuts += 1
        elif not data:
            self.close(way, reset=False)

    def close(self, way, reset):
        for one in (way.source, way.sink):
            with contextlib.suppress(KeyError, ValueError):
                self.selector.unregister(one)
            with contextlib.suppress(OSError):
                if reset:
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            one.close()
