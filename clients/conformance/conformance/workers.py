"""A worker's side of links, for playing workers against a gateway."""

import os
import time

from . import edge, link
from .net import Conn, Failure, listener, text_of


class Worker:
    """One worker process; the gateway dials it. One link at a time, since the gateway has one shard."""

    def __init__(self, report, name, secret=None, listens=True):
        self.report, self.name, self.secret = report, name, secret
        self.sock, self.instance = listener(listens=listens), os.urandom(16)
        self.address = text_of(self.sock)
        self.conn = None
        self.forget()

    def forget(self):
        """A session that begins anew."""
        self.got, self.sent = [], []  # sequenced frames of the gateway; own ones, by position

    def accept(self, timeout=15):
        """The gateway's next dial, up to its LINK_HELLO."""
        self.sock.settimeout(timeout)
        try:
            conn = Conn(self.sock.accept()[0], link.split)
        except TimeoutError:
            raise Failure("L-1", f"worker {self.name} is not dialled") from None
        frame = conn.receive(10)
        if frame is None or frame.type != link.LINK_HELLO:
            raise Failure("L-12", f"the first frame of a dial is {frame}")
        try:
            return conn, frame.payload, link.parse_hello(frame.payload)
        except edge.Malformed as error:
            raise Failure("L-25", str(error)) from None

    def greet(self, conn, hello, position=None, **fields):
        """LINK_WELCOME. Returns the gateway's answer to it."""
        resumed = position is not None
        proven = link.welcome(flags=int(resumed), received_position=position or 0, **{"worker": self.instance, **fields})
        own = link.proof(self.secret, b"worker", hello, proven) if self.secret else b""
        conn.send(link.frame(link.LINK_WELCOME, proven + bytes([len(own)]) + own))
        answer = conn.receive(10)
        if answer is None or answer.type != link.LINK_PROOF:
            raise Failure("L-30", f"LINK_WELCOME is answered by {answer}")
        right = link.proof(self.secret, b"gateway", hello, proven) if self.secret else b""
        self.report.need("L-30", answer.payload == bytes([len(right)]) + right, "LINK_PROOF is right")

    def come_up(self, position=None, timeout=15, **fields):
        """A whole handshake: a new session, or from a position on."""
        conn, payload, hello = self.accept(timeout)
        self.greet(conn, payload, position, **fields)
        if position is None:
            self.forget()
        conn.send(link.ack(position or 0))
        self.conn, self.next = conn, position or 0
        if position is not None:
            for frame in self.sent[hello["received_position"]:]:
                conn.send(frame)
        return hello

    def frame(self, timeout=15):
        """The next frame but ACK, PING and PONG, which are dealt with; sequenced ones are counted and acknowledged."""
        until = time.monotonic() + timeout
        while (left := until - time.monotonic()) > 0:
            frame = self.conn.receive(left)
            if frame is None:
                return None
            if frame.type == link.PING:
                self.conn.send(link.frame(link.PONG, frame.payload))
            elif frame.type == link.ACK:
                position = int.from_bytes(frame.payload, "big")
                self.report.check("L-64", len(frame.payload) == 8 and position <= len(self.sent), f"ACK {position}")
            elif frame.type >= 16:
                self.report.check("L-3", frame.type in (link.OPEN, link.DATA, link.CLOSED, link.REOPEN, link.RELAY),
                                  f"a gateway sends {link.NAMES.get(frame.type)}")
                if self.next < len(self.got):
                    self.report.check("L-81", self.got[self.next].raw == frame.raw, "what comes again is unchanged")
                else:
                    self.got.append(frame)
                self.next += 1
                self.conn.send(link.ack(self.next))
                return frame
        return None

    def expect(self, number, code, timeout=15):
        frame = self.frame(timeout)
        if frame is None or frame.type != code:
            name = link.NAMES.get(frame.type) if frame else self.conn.ended or "silence"
            raise Failure(number, f"worker {self.name} gets {name} where {link.NAMES[code]} is due")
        return frame

    def send(self, frame):
        self.sent.append(frame)
        self.conn.send(frame)


class Client:
    """One client of the gateway."""

    def __init__(self, address, key=b"k", token=b"", hello=True):
        self.conn = Conn.dial(address, edge.split)
        if hello:
            self.conn.send(edge.hello(key, token))

    def expect(self, number, code, timeout=15):
        """The payload of the next frame, which must be of this type; unasked PONGs are passed over."""
        frame = self.conn.receive(timeout)
        while frame and frame[0] == edge.PONG and code != edge.PONG:
            frame = self.conn.receive(timeout)
        if frame is None or frame[0] != code:
            name = edge.NAMES.get(frame[0]) if frame else self.conn.ended or "silence"
            raise Failure(number, f"the client gets {name} where {edge.NAMES[code]} is due")
        return frame[1]

    def goaway(self, report, number, reason, what):
        """GOAWAY with this reason, then FIN."""
        found = edge.parse_goaway(self.expect(number, edge.GOAWAY, 5))
        report.check(number, found["reason"] == reason, f"{what}: reason {found['reason']}, due is {reason}")
        report.check("E-73", self.conn.ends(5), "FIN comes behind GOAWAY")
        self.conn.close()
        return found


def session(report, worker, address, key=b"k", reference=7, extra=b""):
    """A client that is open: (client, connection id)."""
    client = Client(address, key)
    connection = worker.expect("L-89", link.OPEN).connection
    worker.send(link.frame(link.ACCEPT, reference.to_bytes(8, "big") + extra, connection))
    client.fields = edge.parse_welcome(client.expect("L-93", edge.WELCOME))
    report.check("L-93", client.fields["reference"] == reference, "WELCOME has the reference of ACCEPT")
    return client, connection
