"""Sockets with deadlines, and child processes that end with the program."""

import shlex
import signal
import socket
import subprocess
import time


class Failure(Exception):
    """A requirement does not hold: args are its number and what was seen."""


class Conn:
    """One TCP connection. `split` cuts the first frame off a buffer; none if it is not whole."""

    def __init__(self, sock, split):
        self.sock, self.split, self.buffer = sock, split, b""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.ended = None  # "FIN" or "RST" once the peer has ended

    @classmethod
    def dial(cls, address, split, timeout=5):
        return cls(socket.create_connection(address, timeout), split)

    def send(self, data):
        """Returns whether the peer was there to take it."""
        try:
            self.sock.settimeout(5)
            self.sock.sendall(data)
            return True
        except OSError:
            return False

    def send_bytewise(self, data):
        for at in range(len(data)):
            self.send(data[at:at + 1])
            if at % 7 == 0:
                time.sleep(0.001)

    def receive(self, timeout):
        """What `split` finds first, without the rest; none at the end of the stream or of the time."""
        until = time.monotonic() + timeout
        while True:
            found = self.split(self.buffer)
            if found is not None:
                self.buffer = found[-1]
                return found[:-1] if len(found) > 2 else found[0]
            left = until - time.monotonic()
            if self.ended or left <= 0:
                return None
            self.sock.settimeout(left)
            try:
                data = self.sock.recv(1 << 18)
            except TimeoutError:
                return None
            except OSError:
                self.ended = "RST"
                return None
            if not data:
                self.ended = "FIN"
            self.buffer += data

    def ends(self, timeout):
        """Whether the peer ends the connection in time; what it says until then is thrown away."""
        until = time.monotonic() + timeout
        while not self.ended and time.monotonic() < until:
            self.receive(max(until - time.monotonic(), 0.001))
        return bool(self.ended)

    def half_close(self):
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self):
        self.sock.close()


def listener(address="127.0.0.1:0", listens=True):
    """A bound socket; one that does not listen refuses who dials."""
    host, _, port = address.rpartition(":")
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((host, int(port)))
    if listens:
        sock.listen(64)
    return sock


def text_of(sock):
    return "%s:%d" % sock.getsockname()[:2]


def free_address():
    with listener() as sock:
        return text_of(sock)


def pair(text):
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


class Child:
    """A process that the program has started, and ends by its id."""

    def __init__(self, template, places, log=None):
        words = [word.format(**places) for word in shlex.split(template)]
        out = open(log, "ab") if log else subprocess.DEVNULL
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def ended(self, timeout):
        """The exit code, or none if it still runs."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def stop(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def wait_for(address, timeout=20):
    """Waits until somebody listens there. Returns whether somebody does."""
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        try:
            socket.create_connection(pair(address), 1).close()
            return True
        except OSError:
            time.sleep(0.05)
    return False
