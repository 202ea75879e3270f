"""The test's own worker: accepts, echoes, resumes. `--break NUMBER` breaks one requirement.

    python3 -m conformance.test_worker HOST:PORT [--break L-14]
"""

import os
import signal
import socket
import struct
import sys
import threading
import time

from . import edge, link
from .net import listener

BROKEN = sys.argv[sys.argv.index("--break") + 1] if "--break" in sys.argv else ""
INSTANCE, SESSIONS, LOCK, DRAINING = os.urandom(16), {}, threading.RLock(), []
FROM_GATEWAY = (link.ACK, link.PING, link.PONG, link.OPEN, link.DATA, link.CLOSED, link.REOPEN, link.RELAY)


class Bad(Exception):
    """The gateway errs."""


class Session:
    """As the pseudo-code of SPEC.md 3.4 has it."""

    def __init__(self):
        self.handled, self.kept, self.acked, self.sent, self.sent_ever = 0, [], 0, 0, 0
        self.marks, self.open, self.conn, self.epoch = [(0, 0)], {}, None, 0

    def position(self, received):
        if BROKEN == "L-79":
            return self.handled
        return [handled for handled, queued in self.marks if queued <= received][-1]


class Connection:
    """One TCP connection of a gateway."""

    def __init__(self, sock):
        self.sock, self.buffer, self.session = sock, b"", None

    def read(self, limit):
        while True:
            if len(self.buffer) >= 16:
                length, code, flags = struct.unpack(">IBB", self.buffer[:6])
                allowed = link.RESENT if code in (16, 19, 20, 24, 26) else 0
                allowed |= {19: link.TEXT, 26: link.ALL | link.DIRECT}.get(code, 0)
                both = link.ALL | link.DIRECT
                if code not in link.NAMES or flags & ~allowed or flags & both == both or length > limit:
                    raise Bad("header")
                if (found := link.split(self.buffer)) is not None:
                    frame, self.buffer = found
                    return frame
            data = self.sock.recv(1 << 16)
            if not data:
                raise Bad("end")
            self.buffer += data

    def refuse(self, code):
        self.sock.sendall(link.frame(link.LINK_REFUSE, aux=code))
        raise Bad("refused")

    def handshake(self):
        try:
            frame = self.read(256)
        except Bad as error:
            self.refuse(4) if error.args[0] == "header" else self.sock.close()
            raise
        if frame.type != link.LINK_HELLO:
            self.refuse(4)
        if frame.payload[:1] != b"\x01":
            self.refuse(1)
        if BROKEN == "L-35" and len(frame.payload) == 72:
            raise Bad("no refusal")
        try:
            hello = link.parse_hello(frame.payload)
        except edge.Malformed:
            self.refuse(4)
        shard, maximum = hello["shard"], hello["frame_bytes_max"]
        if (hello["flags"] or hello["zero"] or not shard < hello["shards"] <= 256 or hello["gateway"] == link.NONE
                or maximum >= 1 << 24 or hello["window_bytes"] < maximum + 32):
            self.refuse(4)
        with LOCK:
            key = (hello["gateway"], shard)
            session = SESSIONS.get(key)
            resumes = hello["expected_worker"] == INSTANCE and session is not None and (
                session.acked <= hello["received_position"] <= session.sent_ever)
            stated = session.position(hello["received_position"]) if resumes else 0
            epoch = session.epoch if session else 0
            if BROKEN == "L-45" and not resumes:
                SESSIONS.pop(key, None)
        self.sock.sendall(link.frame(link.LINK_WELCOME, link.welcome(
            flags=int(resumes), worker=INSTANCE, received_position=stated) + b"\0"))
        proof = self.read(256)
        if proof.type != link.LINK_PROOF or not (len(proof.payload) in (1, 33) and proof.payload[0] == len(proof.payload) - 1):
            self.refuse(4)
        with LOCK:
            if resumes and (SESSIONS.get(key) is not session or session.epoch != epoch):
                raise Bad("raced")
            if not resumes:
                if session and session.conn:
                    session.conn.shut()
                session = SESSIONS[key] = Session()
            self.take_up(session, hello, stated, resumes)

    def take_up(self, session, hello, stated, resumes):
        if session.conn:
            session.conn.shut()
        self.session, self.maximum, self.window = session, hello["frame_bytes_max"], hello["window_bytes"]
        session.conn, session.epoch = self, session.epoch + 1
        self.received = self.acknowledged = stated
        if resumes:
            position = hello["received_position"]
            del session.kept[:position - session.acked]
            session.acked = session.sent = position
        if BROKEN != "L-14":
            self.sock.sendall(link.ack(stated))
        if DRAINING:
            self.sock.sendall(link.frame(link.DRAINING))
        self.flush()

    def shut(self):
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def flush(self):
        session = self.session
        while session.sent < session.acked + len(session.kept):
            at = session.sent - session.acked
            outstanding = sum(map(len, session.kept[:at]))
            frame = session.kept[at]
            if outstanding and outstanding + len(frame) > self.window and BROKEN != "L-71":
                break
            self.sock.sendall(frame)
            session.sent += 1
            session.sent_ever = max(session.sent, session.sent_ever)
        due = [handled for handled, queued in session.marks
               if handled > self.acknowledged and queued <= session.sent and handled <= self.received]
        if due:
            self.acknowledged = due[-1]
            self.sock.sendall(link.ack(due[-1]))

    def run(self):
        try:
            self.handshake()
            while True:
                frame = self.read(4 + self.maximum + 65_536)
                with LOCK:
                    if self.session.conn is not self:
                        return
                    self.take(frame)
        except (Bad, OSError):
            pass
        finally:
            self.end()

    def end(self):
        try:
            self.sock.shutdown(socket.SHUT_WR)
            self.sock.settimeout(0.3)
            while self.session is None and self.sock.recv(4096):
                pass
        except OSError:
            pass
        with LOCK:
            if self.session and self.session.conn is self:
                self.session.conn = None
        self.sock.close()

    def take(self, frame):
        session = self.session
        if frame.type not in FROM_GATEWAY:
            raise Bad("type")
        if frame.type == link.PING:
            if len(frame.payload) > 8 and BROKEN != "L-122":
                raise Bad("PING")
            self.sock.sendall(link.frame(link.PONG, b"" if BROKEN == "L-115" else frame.payload))
        elif frame.type == link.PONG and len(frame.payload) > 8:
            raise Bad("PONG")
        elif frame.type == link.ACK:
            position = int.from_bytes(frame.payload, "big")
            if len(frame.payload) != 8 or not session.acked <= position <= session.sent:
                raise Bad("ACK")
            del session.kept[:position - session.acked]
            session.acked = position
            while len(session.marks) > 1 and session.marks[1][1] <= position and session.marks[1][0] <= self.acknowledged:
                session.marks.pop(0)
        elif frame.type >= 16:
            self.received += 1
            if self.received > session.handled or BROKEN == "L-82":
                if BROKEN == "L-68" and frame.type == link.OPEN:
                    self.sock.sendall(link.ack(self.received))
                    self.acknowledged = self.received
                try:
                    self.handle(frame)
                except Bad:
                    self.received -= 1
                    raise
                session.handled = max(session.handled, self.received)
                session.marks.append((session.handled, session.acked + len(session.kept)))
        self.flush()

    def handle(self, frame):
        opened, kept = self.session.open, self.session.kept
        if frame.type == link.OPEN:
            try:
                link.parse_open(frame.payload)
            except edge.Malformed:
                raise Bad("OPEN") from None
            opened[frame.connection] = True
            kept.append(link.frame(link.ACCEPT, bytes(8), frame.connection))
        elif frame.type == link.REOPEN:
            if len(frame.payload) != 17 or frame.payload[16] > 3:
                raise Bad("REOPEN")
            opened[frame.connection] = True
        elif frame.type == link.DATA:
            length = int.from_bytes(frame.payload[1:4], "big")
            if frame.payload[:1] != b"\3" or len(frame.payload) != 4 + length or length > self.maximum:
                raise Bad("DATA")
            if frame.connection in opened:
                kept.append(link.frame(link.DATA, frame.payload, frame.connection))
        elif frame.type == link.CLOSED:
            if frame.payload:
                raise Bad("CLOSED")
            known = opened.pop(frame.connection, None)
            if frame.aux == 25 and not (known and BROKEN == "L-148"):
                kept.append(link.frame(link.MOVED, b"", frame.connection))
        elif len(frame.payload) < 8:
            raise Bad("RELAY")


def drain(*_):
    """Says that it drains, and leaves when no connection is left and all is acknowledged."""
    with LOCK:
        DRAINING.append(True)
        for session in SESSIONS.values():
            if session.conn:
                session.conn.sock.sendall(link.frame(link.DRAINING))

    def leave():
        while any(session.conn and (session.open or session.kept) for session in SESSIONS.values()):
            time.sleep(0.05)
        os._exit(0)

    threading.Thread(target=leave, daemon=True).start()


def main():
    signal.signal(signal.SIGTERM, drain)
    sock = listener(sys.argv[1])
    while True:
        conn = sock.accept()[0]
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=Connection(conn).run, daemon=True).start()


if __name__ == "__main__":
    main()
