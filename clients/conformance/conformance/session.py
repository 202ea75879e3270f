"""A gateway's side of link sessions, for playing a gateway against a worker."""

import os
import time

from . import edge, link
from .net import Conn, Failure

# Silence that tells that nothing comes, and how long something may take on a slow machine.
SHORT, LONG = 0.4, 15.0


class Link:
    """One TCP connection to the worker, from LINK_HELLO on."""

    def __init__(self, gateway, conn):
        self.gateway, self.conn = gateway, conn
        self.welcome = None

    def expect(self, number, code, timeout=LONG):
        """The next frame of this type; PINGs are answered, and what else comes is kept for the session."""
        until = time.monotonic() + timeout
        while (left := until - time.monotonic()) > 0:
            frame = self.frame(left)
            if frame is None:
                break
            if frame.type == code:
                return frame
            if frame.type == link.LINK_REFUSE:
                raise Failure(number, f"LINK_REFUSE {frame.aux} where {link.NAMES[code]} is due")
        raise Failure(number, f"no {link.NAMES[code]} came ({self.conn.ended or 'silence'})")

    def frame(self, timeout):
        """The next frame, which the session has counted; PINGs are answered."""
        frame = self.conn.receive(timeout)
        if frame is not None:
            if frame.type == link.PING:
                self.conn.send(link.frame(link.PONG, frame.payload))
            if self.welcome is not None:
                self.gateway.note(self, frame)
        return frame

    def drain(self, timeout=SHORT):
        """All frames that come until there is silence for this long."""
        frames = []
        while (frame := self.frame(timeout)) is not None:
            frames.append(frame)
        return frames


class Gateway:
    """A gateway shard without clients: one session with the worker, which survives `cut`."""

    def __init__(self, report, address, secret=None, **hello):
        self.report, self.address, self.secret = report, address, secret
        self.fields = {"gateway": os.urandom(16), **hello}
        self.forget()

    def forget(self):
        """A session that begins anew."""
        self.sent = []  # frames sent, whole, since the session began
        self.got = []  # the worker's sequenced frames, by position
        self.acked_by_worker = 0
        self.worker = link.NONE
        self.base = 0  # the position from which the worker sends on the present TCP connection
        self.link = None

    def dial(self):
        return Link(self, Conn.dial(self.address, link.split))

    def say_hello(self, received=None, expected=None, **fields):
        """LINK_HELLO on a new TCP connection; the answer is not awaited."""
        new = self.dial()
        new.position = len(self.got) if received is None else received
        new.hello = link.hello(**{**self.fields, "expected_worker": self.worker if expected is None else expected,
                                  "received_position": new.position, **fields})
        new.conn.send(link.frame(link.LINK_HELLO, new.hello))
        return new

    def read_welcome(self, new):
        frame = new.conn.receive(LONG)
        if frame is None or frame.type != link.LINK_WELCOME:
            raise Failure("L-27", f"LINK_HELLO is answered by {frame and link.NAMES.get(frame.type)}")
        try:
            new.fields = link.parse_welcome(frame.payload)
        except edge.Malformed as error:
            raise Failure("L-27", str(error)) from None
        new.proven = frame.payload[:52]
        return new.fields

    def give_proof(self, new, value=None):
        if value is None and self.secret:
            value = link.proof(self.secret, b"gateway", new.hello, new.proven)
        new.conn.send(link.proof_frame(value) + link.frame(link.PING))

    def go_up(self, new):
        """The first frame behind the proof; then what was not handled is sent again."""
        first = new.conn.receive(LONG)
        stated = new.fields["received_position"]
        ok = first is not None and first.type == link.ACK and first.payload == stated.to_bytes(8, "big")
        self.report.need("L-14", ok, "the first frame behind LINK_PROOF is an ACK of what LINK_WELCOME stated"
                         if ok else f"behind LINK_PROOF comes {first}")
        resumed = bool(new.fields["flags"])
        if not resumed:
            self.forget()
        self.worker, self.link, new.welcome = new.fields["worker"], new, new.fields
        self.acked_by_worker = stated
        self.base = len(self.got) if not resumed else new.position
        self.next = self.base
        if resumed:
            for frame in self.sent[stated:]:
                new.conn.send(frame)
        return new

    def connect(self, received=None, expected=None, **fields):
        """A whole handshake. Returns the link."""
        new = self.say_hello(received, expected, **fields)
        self.read_welcome(new)
        self.give_proof(new)
        return self.go_up(new)

    def note(self, on, frame):
        """Counts a frame of the worker, and holds it against what holds for every frame."""
        check = self.report.check
        if frame.type == link.ACK:
            position = int.from_bytes(frame.payload, "big") if len(frame.payload) == 8 else -1
            check("L-64", self.acked_by_worker <= position <= len(self.sent),
                  f"ACK {position} of {self.acked_by_worker} to {len(self.sent)}")
            self.acked_by_worker = position
            return
        check("L-3", frame.type in (link.PING, link.PONG, link.DRAINING, link.ACCEPT, link.REJECT, link.DATA,
                                    link.CLOSE, link.MULTICAST, link.BROADCAST, link.MOVED, link.RELAY),
              f"a worker sends {link.NAMES.get(frame.type, frame.type)}")
        if frame.type < 16:
            return
        check("L-6", not frame.flags & link.RESENT, f"flags {frame.flags:#x}")
        if self.next < len(self.got):
            check("L-81", frame.raw == self.got[self.next].raw,
                  f"position {self.next + 1} is what it was before the break")
        else:
            self.got.append(frame)
        self.next += 1

    def send(self, *frames):
        """Sequenced frames, in order."""
        for frame in frames:
            self.sent.append(frame)
            self.link.conn.send(frame)

    def ack(self, position=None):
        self.link.conn.send(link.ack(len(self.got) if position is None else position))

    def accepted(self, connection, key=b"k"):
        """Opens a connection; the session reference."""
        self.send(link.open_(connection, key))
        frame = self.link.expect("L-85", link.ACCEPT)
        ok = frame.connection == connection and (len(frame.payload) in (8, 16) or len(frame.payload) >= 19)
        self.report.need("L-94", ok, f"ACCEPT of {len(frame.payload)} bytes for {frame.connection:#x}")
        return int.from_bytes(frame.payload[:8], "big")

    def echoed(self, connection, text, number="L-86"):
        """Sends a message and awaits its echo."""
        self.send(link.data(connection, text))
        frame = self.link.expect(number, link.DATA)
        self.report.need(number, frame.payload == link.message(text) and frame.connection == connection,
                         f"{text[:20]!r} comes back as {frame.payload[:24]!r} on {frame.connection:#x}")

    def await_ack(self, number, position=None, timeout=LONG):
        """Waits until the worker has acknowledged so much."""
        position = len(self.sent) if position is None else position
        until = time.monotonic() + timeout
        while self.acked_by_worker < position and time.monotonic() < until and not self.link.conn.ended:
            self.link.frame(max(until - time.monotonic(), 0.01))
        self.report.need(number, self.acked_by_worker >= position,
                         f"ACK {self.acked_by_worker} of {position} within {timeout} s")

    def cut(self, reset=False):
        self.link.conn.close()

    def end(self):
        if self.link:
            self.link.conn.close()
