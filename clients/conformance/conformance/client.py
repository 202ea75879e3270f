"""The mode `client`: plays a gateway against a client.

The command starts a client that connects to {host} and {port}, sends {message} as its one MESSAGE or several, awaits
their echo, sends CLOSE and ends. The idle command starts one that only stays connected.
"""

import selectors
import threading
import time

from . import edge
from .net import Child, Conn, Failure, listener
from .report import judges

FROM_CLIENT = (edge.HELLO, edge.MESSAGE, edge.PING, edge.PONG, edge.CLOSE)


class Stage:
    """A listening gateway, and the client started towards it."""

    def __init__(self, command, log, message="hello conformance"):
        self.sock = listener()
        host, port = self.sock.getsockname()[:2]
        self.message = message.encode()
        self.child = Child(command, {"host": host, "port": port, "message": message}, log)

    def accept(self, timeout=20):
        self.sock.settimeout(timeout)
        try:
            return Conn(self.sock.accept()[0], edge.split)
        except TimeoutError:
            return None

    def open(self, report, **welcome):
        """Accepts, reads HELLO, sends WELCOME."""
        conn = self.accept()
        if conn is None:
            raise Failure("E-8", "the client does not connect")
        read_hello(report, conn)
        conn.send(edge.welcome(**welcome))
        return conn

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.stop()
        self.sock.close()


def read_hello(report, conn):
    frame = conn.receive(20)
    if frame is None or frame[0] != edge.HELLO:
        raise Failure("E-8", f"the first frame is {frame}")
    try:
        edge.parse_hello(frame[1])
    except edge.Malformed as error:
        raise Failure("E-8", str(error)) from None
    report.check("E-8", True, "HELLO is the first frame, and has its layout")


def next_of(report, conn, code, number, timeout=20):
    """The next frame of this type; PINGs are answered, PONGs passed over."""
    until = time.monotonic() + timeout
    while (left := until - time.monotonic()) > 0:
        frame = conn.receive(left)
        if frame is None:
            break
        report.check("E-4", frame[0] in FROM_CLIENT, f"the client sends type {frame[0]}")
        if frame[0] == code:
            return frame[1]
        if frame[0] == edge.PING:
            conn.send(edge.frame(edge.PONG, frame[1]))
        elif frame[0] != edge.PONG:
            raise Failure(number, f"{edge.NAMES.get(frame[0])} comes where {edge.NAMES[code]} is due")
    raise Failure(number, f"no {edge.NAMES[code]} comes ({conn.ended or 'silence'})")


@judges("E-24", "E-8", "E-80", "E-22", "E-14")
def session(report, run):
    """WELCOME comes late; messages are echoed; CLOSE, then the client reads until FIN."""
    with Stage(run.command, run.log) as stage:
        conn = stage.accept()
        if conn is None:
            raise Failure("E-8", "the client does not connect")
        read_hello(report, conn)
        early = conn.receive(0.7)
        report.need("E-24", early is None or early[0] in (edge.PING, edge.PONG),
                    f"before WELCOME comes {early and edge.NAMES.get(early[0])}")
        conn.send(edge.welcome())
        while True:
            frame = conn.receive(20)
            if frame is None:
                raise Failure("E-80", f"the client ends by {conn.ended or 'silence'}, without CLOSE")
            code, payload = frame
            if code == edge.MESSAGE:
                report.check("E-23", True, "MESSAGE comes after WELCOME")
                conn.send(edge.frame(edge.MESSAGE, payload))
            elif code == edge.CLOSE:
                report.check("E-22", len(payload) <= 1, f"CLOSE of {len(payload)} bytes")
                break
            else:
                report.check("E-23", code in (edge.PING, edge.PONG), f"{edge.NAMES.get(code)} comes in a session")
        time.sleep(0.3)
        report.check("E-75", conn.receive(0.3) is None, "nothing follows CLOSE")
        report.check("E-80", not conn.ended, "the client reads on until our FIN")
        conn.send(edge.frame(edge.MESSAGE, b"late"))
        conn.half_close()
        report.check("E-80", stage.child.ended(15) is not None, "the client ends after our FIN")


@judges("E-17", "E-18")
def pings(report, run):
    with Stage(run.command, run.log) as stage:
        conn = stage.accept()
        if conn is None:
            raise Failure("E-17", "the client does not connect")
        read_hello(report, conn)
        for payload in (b"", b"a", b"12345678"):
            conn.send(edge.frame(edge.PING, payload))
            got = next_of(report, conn, edge.PONG, "E-17", 15)
            report.check("E-17", got == payload, f"PING {payload!r} is answered by {got!r}")
        conn.send(edge.frame(edge.PONG) + edge.frame(edge.PONG, b"unasked") + edge.welcome())
        report.check("E-18", next_of(report, conn, edge.MESSAGE, "E-18") is not None, "an unasked PONG is taken")


@judges("E-2")
def pieces(report, run):
    """Every byte by itself."""
    with Stage(run.command, run.log) as stage:
        conn = stage.accept()
        read_hello(report, conn)
        conn.send_bytewise(edge.frame(edge.PING, b"bytewise") + edge.welcome())
        report.check("E-2", next_of(report, conn, edge.PONG, "E-2") == b"bytewise", "PING in pieces is answered")
        payload = next_of(report, conn, edge.MESSAGE, "E-2")
        report.check("E-2", payload is not None, "WELCOME in pieces is taken")
        conn.send_bytewise(edge.goaway(22))
        report.check("E-2", conn.ends(15), "GOAWAY in pieces is obeyed")


@judges("E-25")
def short_messages(report, run):
    with Stage(run.command, run.log, "x" * 200) as stage:
        conn = stage.open(report, frame_max=64)
        while (frame := conn.receive(1.5)) is not None:
            report.check("E-25", len(frame[1]) <= 64, f"a frame of {len(frame[1])} bytes where 64 are allowed")
        report.check("E-25", True, "no MESSAGE over frame_bytes_max")


@judges("E-27", "E-20", "E-75", "E-19")
def goaways(report, run):
    cases = [("E-27", edge.goaway(16, 60_000), "GOAWAY before HELLO is read"),
             ("E-20", edge.goaway(200, 60_000), "an unknown reason"),
             ("E-19", edge.goaway(21, 60_000, 4001, b"", "bye \u00e4".encode()), "a close code and a text")]
    for number, sent, what in cases:
        with Stage(run.command, run.log) as stage:
            conn = stage.accept()
            if number != "E-27":
                read_hello(report, conn)
                conn.send(edge.welcome())
            conn.send(sent)
            report.check(number, conn.ends(8), f"{what}: the client ends the connection")
            again = stage.accept(1)
            report.check("E-84", again is None, "with retry_after_ms of a minute it does not come back within a second")


@judges("E-84", "E-86")
def returns(report, run):
    """Only of a client that comes back by itself can these be said."""
    with Stage(run.command, run.log) as stage, listener() as other:
        conn = stage.accept()
        read_hello(report, conn)
        started = time.monotonic()
        conn.send(edge.goaway(22, 800, alternative="{}:{}".format(*other.getsockname()[:2]).encode()))
        with selectors.DefaultSelector() as selector:
            for sock in (stage.sock, other):
                selector.register(sock, selectors.EVENT_READ, sock)
            ready = selector.select(4)
        if ready:
            waited = time.monotonic() - started
            report.check("E-84", waited >= 0.8, f"it comes back after {waited:.2f} s of 0.80")
            report.check("E-86", ready[0][0].data is other, "it goes to the alternative")


@judges("E-29", "E-14")
def errors(report, run):
    """The gateway errs: the client closes."""
    welcome = edge.welcome()
    cases = [("E-29", b"\x83\0\0\0", "a reserved bit"), ("E-29", b"\x09\0\0\0", "type 9"),
             ("E-29", b"\0\0\0\0", "type 0"), ("E-29", edge.hello(), "HELLO by a gateway"),
             ("E-29", edge.frame(edge.MESSAGE, b"x"), "MESSAGE before WELCOME"),
             ("E-29", edge.frame(edge.PING, bytes(9)), "PING of 9 bytes"),
             ("E-14", edge.welcome(version=2), "WELCOME of version 2"),
             ("E-14", edge.frame(edge.WELCOME, welcome[4:-1]), "WELCOME of 25 bytes"),
             ("E-14", edge.frame(edge.WELCOME, b"\x01\x01" + welcome[6:]), "WELCOME with flags"),
             ("E-29", welcome + welcome, "a second WELCOME"),
             ("E-29", edge.welcome(frame_max=64) + b"\x03\0\0\x41" + bytes(65), "MESSAGE over frame_bytes_max"),
             ("E-19", welcome + edge.goaway(22, code=3999), "GOAWAY with close code 3999"),
             ("E-29", welcome + edge.frame(edge.GOAWAY, b"\x16\x01" + bytes(10)), "GOAWAY whose zero is not")]
    for number, sent, what in cases:
        with Stage(run.command, run.log) as stage:
            conn = stage.accept()
            read_hello(report, conn)
            conn.send(sent)
            report.check(number, conn.ends(15), f"{what}: the client closes")


@judges("E-76")
def no_goaway(report, run):
    for reset in (False, True):
        with Stage(run.command, run.log) as stage:
            conn = stage.open(report)
            if reset:
                conn.sock.setsockopt(1, 13, b"\1\0\0\0\0\0\0\0")
                conn.close()
            else:
                conn.half_close()
            report.check("E-76", stage.child.ended(15) is not None or (conn.ended or conn.ends(1)),
                         "the client takes RST" if reset else "the client takes FIN without GOAWAY")


@judges("E-38", "E-45", "E-44")
def heartbeats(report, run):
    if not run.idle_command:
        return
    with Stage(run.idle_command, run.log) as stage:
        conn = stage.open(report, heartbeat_ms=1_000, idle_ms=3_000)
        until, heard, longest = time.monotonic() + 4, time.monotonic(), 0.0
        while time.monotonic() < until:
            frame = conn.receive(until - time.monotonic())
            now = time.monotonic()
            longest, heard = max(longest, now - heard), now
            if frame and frame[0] == edge.PING:
                conn.send(edge.frame(edge.PONG, frame[1]))
            if conn.ended:
                break
        report.check("E-38", longest <= 2.5 and not conn.ended, f"silent for {longest:.2f} s where 1.00 is allowed")
        started = time.monotonic()
        ended = conn.ends(20)
        report.check("E-45", ended, f"without answers it closes after {time.monotonic() - started:.1f} s" if ended
                     else "it stays where nothing answers its PINGs")


SCENARIOS = (session, pings, pieces, short_messages, goaways, returns, errors, no_goaway, heartbeats)


class Run:
    def __init__(self, command, idle_command, log):
        self.command, self.idle_command, self.log = command, idle_command, log


def play(report, command, idle_command=None, log=None):
    """All scenarios at once, each with a client of its own: they mostly wait."""
    run = Run(command, idle_command, log)
    threads = [threading.Thread(target=report.run, args=(scenario, run)) for scenario in SCENARIOS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
