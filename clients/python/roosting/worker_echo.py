"""An echo worker for roost gateways, written from protocol/SPEC.md; Python 3, standard library only.

    python3 -m roosting.worker_echo --listen 127.0.0.1:7500

Any number of gateways and shards may link up; each gets back what its clients send. Links are
resumed after a break with nothing lost and nothing twice. SIGTERM drains: gateways move the
connections to other workers first. An own application replaces the class Echo.
"""

import argparse
import collections
import ipaddress
import os
import selectors
import signal
import socket
import sys
import time

from .worker import codec as link

WINDOW_BYTES = 4 * 1024 * 1024  # what gateways are granted
HANDSHAKE_S, KEEPALIVE_S, DRAIN_S = 10, 10, 10
SESSION_FAILOVERS = 6  # a session is kept for so many times its gateway's link_failover_ms
READ_BYTES = 256 * 1024


class Echo:
    """The application: what the worker does with its clients."""

    def on_open(self, session, frame):
        # The reference must mean the same to every worker: bits of the key's hash do.
        session.accept(frame["connection"], frame["routing_hash"])

    def on_reopen(self, session, frame):
        pass  # An echo has no state to fetch by frame["session"].

    def on_message(self, session, frame):
        # An application that must not act twice looks for link.FLAG_RESENT in frame["flags"].
        session.send_message(frame["connection"], frame["message"])

    def on_close(self, session, connection, reason):
        pass

    def on_relay(self, session, frame):
        pass


class Session:
    """A link session: what survives breaks of the TCP connection (SPEC.md 3.3 to 3.5)."""

    def __init__(self, app):
        self.app = app
        self.handled = 0  # the gateway's sequenced frames handled
        self.acked = 0  # own sequenced frames that the gateway has acknowledged
        self.kept = collections.deque()  # own frames behind those, sent or not
        self.sent = 0  # own frames sent on any TCP connection
        # (handled, queued): frames handled, and how many own frames were queued by then. They
        # tell when an ACK may go out, and from where a resume can go on. The first one is
        # settled: the gateway has all that belongs to it.
        self.marks = collections.deque([(0, 0)])
        self.connections = {}  # id: is it open?
        self.link = None  # the TCP connection, if there is one
        self.detached_at = None
        self.session_s = 0  # how long it is kept without a TCP connection

    # What the application may call:

    def accept(self, connection, reference, routing_hash=None):
        """With a routing hash the connection belongs to that from now on: it may move at once."""
        self.connections[connection] = True
        self.push({"type": "ACCEPT", "connection": connection, "session": reference,
                   "routing_hash": routing_hash})

    def reject(self, connection, reason=0, retry_after_ms=0, code=0, text=""):
        self.push({"type": "REJECT", "connection": connection, "aux": reason,
                   "retry_after_ms": retry_after_ms, "code": code, "text": text})

    def send_message(self, connection, message):
        self.push({"type": "DATA", "connection": connection, "message": message})

    def close(self, connection, reason=0, retry_after_ms=0, code=0, text=""):
        self.push({"type": "CLOSE", "connection": connection, "aux": reason,
                   "retry_after_ms": retry_after_ms, "code": code, "text": text})

    def relay(self, routing_hash, payload):
        """To the worker that serves the hash."""
        self.push({"type": "RELAY", "routing_hash": routing_hash, "payload": payload})

    def relay_back(self, origin, payload):
        """To the session that sent a RELAY: its frame["connection"]."""
        self.push({"type": "RELAY", "connection": origin, "flags": link.FLAG_DIRECT, "routing_hash": 0,
                   "payload": payload})

    def relay_all(self, payload):
        """To all other workers of this gateway shard."""
        self.push({"type": "RELAY", "flags": link.FLAG_ALL, "routing_hash": 0, "payload": payload})

    # What happens to it:

    def push(self, frame):
        """Queues a sequenced frame. It is kept until it is acknowledged."""
        self.kept.append(link.encode_frame({"flags": 0, "aux": 0, "connection": 0, **frame}))

    def queued(self):
        return self.acked + len(self.kept)

    def handle(self, frame):
        """Acts on a sequenced frame of the gateway."""
        kind, connection = frame["type"], frame["connection"]
        if kind == "OPEN":
            self.connections[connection] = False
            self.app.on_open(self, frame)
        elif kind == "REOPEN":
            self.connections[connection] = True
            self.app.on_reopen(self, frame)
        elif kind == "DATA":
            if self.connections.get(connection):
                self.app.on_message(self, frame)
        elif kind == "CLOSED":
            if self.connections.pop(connection, None) is not None:
                self.app.on_close(self, connection, frame["aux"])
            if frame["aux"] == link.REASON_MOVED:
                self.push({"type": "MOVED", "connection": connection})
        elif kind == "RELAY":
            self.app.on_relay(self, frame)
        else:
            raise link.LinkError(f"{kind} from a gateway")
        self.handled += 1

    def mark(self):
        """All that was handled may be acknowledged once what is queued now has been sent."""
        if self.marks[-1][0] != self.handled:
            self.marks.append((self.handled, self.queued()))

    def on_ack(self, position):
        """The gateway has handled that many of our frames."""
        if not self.acked <= position <= self.queued():
            raise link.LinkError("an ACK out of range")
        while self.acked < position:
            self.kept.popleft()
            self.acked += 1
        while len(self.marks) > 1 and self.marks[1][1] <= self.acked:
            self.marks.popleft()

    def resume_position(self, received):
        """What LINK_WELCOME states if the gateway has received so many of our frames; None if the
        session cannot go on from there."""
        if not self.acked <= received <= self.sent:
            return None
        return max(handled for handled, queued in self.marks if queued <= received)

    def end(self):
        """The session is over, and all its connections with it."""
        for connection in self.connections:
            self.app.on_close(self, connection, link.REASON_MOVED)
        self.connections.clear()


class Link:
    """One TCP connection of a gateway shard."""

    def __init__(self, worker, sock):
        self.worker, self.socket = worker, sock
        self.received, self.to_send = bytearray(), bytearray()
        self.expects = "LINK_HELLO"  # None once the handshake is done
        self.session = None
        self.frame_bytes_max = 0
        self.began_at = self.heard_at = time.monotonic()
        self.pinged = False

    # --- bytes in ---

    def on_readable(self):
        data = self.socket.recv(READ_BYTES)
        if not data:
            raise ConnectionError("the gateway closed the connection")
        self.heard_at, self.pinged = time.monotonic(), False
        self.received += data
        done = 0
        while True:
            limit = link.payload_bytes_max(self.frame_bytes_max) if not self.expects else link.HANDSHAKE_BYTES_MAX
            whole = link.split(memoryview(self.received)[done:], limit)
            if whole is None:
                break
            done += link.HEADER_BYTES + len(whole[1])
            self.on_frame(*whole)
        del self.received[:done]
        if self.session:
            self.session.mark()
        self.flush()

    def on_frame(self, header, payload):
        if self.expects:
            if header["type"] == "LINK_REFUSE":
                raise ConnectionError(f"refused: {link.REFUSALS.get(header['aux'], 'malformed')}")
            try:
                if header["type"] != self.expects:
                    raise link.LinkError("malformed")
                self.handshake(link.decode_frame(header, payload, 0), payload)
            except link.LinkError as error:
                self.refuse(1 if error.args[0] == "version" else 4)
            return
        frame = link.decode_frame(header, payload, self.frame_bytes_max)
        if link.is_sequenced(frame["type"]):
            self.position_in += 1
            # Frames below were handled on an earlier TCP connection: see resume_position.
            if self.position_in > self.session.handled:
                self.session.handle(frame)
        elif frame["type"] == "ACK":
            if frame["position"] > self.position_out:
                raise link.LinkError("an ACK of what was not sent")
            self.session.on_ack(frame["position"])
        elif frame["type"] == "PING":
            self.to_send += link.encode("PONG", frame["payload"])
        elif frame["type"] != "PONG":
            raise link.LinkError(f"{frame['type']} from a gateway")

    # --- handshake (SPEC.md 3.2, 3.3) ---

    def handshake(self, frame, payload):
        if frame["type"] == "LINK_HELLO":
            if frame["window_bytes"] < frame["frame_bytes_max"] + 32:
                raise link.LinkError("malformed")
            self.hello, self.hello_payload = frame, payload
            self.stated = self.worker.resume_position(frame)
            welcome = {
                "resumed": self.stated is not None, "window_bytes": WINDOW_BYTES,
                "worker": self.worker.instance, "nonce": os.urandom(16),
                "received_position": self.stated or 0, "capabilities": 0,
            }
            self.proven = link.encode_welcome_proven(welcome)
            secret, proof = self.worker.secret, None
            if secret is not None:
                proof = link.prove(secret, "worker", payload, self.proven)
            self.to_send += link.encode("LINK_WELCOME", self.proven + link.encode_proof(proof))
            self.expects = "LINK_PROOF"
        else:
            secret, proof = self.worker.secret, frame["proof"]
            if secret is not None:
                if proof is None:
                    self.refuse(2)
                if not link.verify(secret, "gateway", self.hello_payload, self.proven, proof):
                    self.refuse(3)
            self.attach()

    def attach(self):
        """The gateway has proved itself: this TCP connection carries the session from now on."""
        session = self.worker.take_session(self)
        received = self.hello["received_position"] if self.stated is not None else 0
        session.on_ack(received)
        self.session, session.link, session.detached_at = session, self, None
        session.session_s = max(SESSION_FAILOVERS * self.hello["link_failover_ms"] / 1000, 1)
        self.expects = None
        self.frame_bytes_max = self.hello["frame_bytes_max"]
        self.window_bytes = self.hello["window_bytes"]
        self.position_in = self.announced = self.stated or 0  # of the gateway's frames
        self.position_out = received  # of our frames; those behind are sent again
        self.outstanding_bytes = 0
        self.sent_sizes = collections.deque()  # of the frames sent here, not acknowledged
        self.acked = received
        # It tells the gateway that LINK_PROOF was accepted: the link is up.
        self.to_send += link.encode("ACK", self.announced.to_bytes(8, "big"))
        if self.worker.draining:
            self.to_send += link.encode("DRAINING")

    def refuse(self, code):
        try:
            self.socket.send(link.encode("LINK_REFUSE", aux=code))
        except OSError:
            pass
        raise ConnectionError(f"handshake refused: {link.REFUSALS[code]}")

    # --- bytes out ---

    def flush(self):
        """Sends what may be sent: our frames within the gateway's window, then the ACK for what
        they answer."""
        session = self.session
        if session:
            while self.acked < session.acked:
                self.outstanding_bytes -= self.sent_sizes.popleft()
                self.acked += 1
            while self.position_out < session.queued():
                data = session.kept[self.position_out - session.acked]
                if self.outstanding_bytes and self.outstanding_bytes + len(data) > self.window_bytes:
                    break
                self.to_send += data
                self.sent_sizes.append(len(data))
                self.outstanding_bytes += len(data)
                self.position_out += 1
            session.sent = max(session.sent, self.position_out)
            ready = [handled for handled, queued in session.marks
                     if queued <= self.position_out and handled <= self.position_in]
            if ready and ready[-1] > self.announced:
                self.announced = ready[-1]
                self.to_send += link.encode("ACK", self.announced.to_bytes(8, "big"))
        try:
            while self.to_send:
                del self.to_send[:self.socket.send(self.to_send)]
        except BlockingIOError:
            pass
        self.worker.watch(self)

    def tick(self, now):
        silent_s = now - self.heard_at
        if self.expects and now - self.began_at > HANDSHAKE_S:
            raise ConnectionError("the handshake takes too long")
        if silent_s > 2 * KEEPALIVE_S:
            raise ConnectionError("the gateway is silent")
        if silent_s > KEEPALIVE_S and not self.expects and not self.pinged:
            self.pinged = True
            self.to_send += link.encode("PING")
            self.flush()


class Worker:
    """Listens, and keeps the sessions."""

    def __init__(self, app, secret):
        self.app, self.secret = app, secret
        self.instance = os.urandom(16)
        self.sessions = {}  # by (gateway instance, shard)
        self.links = set()
        self.selector = selectors.DefaultSelector()
        self.drain_requested = self.draining = False
        self.drain_until = None

    def resume_position(self, hello):
        """From where the session that LINK_HELLO names can go on; None if it cannot."""
        session = self.sessions.get((hello["gateway"], hello["shard"]))
        if session is None or hello["expected_worker"] != self.instance:
            return None
        return session.resume_position(hello["received_position"])

    def take_session(self, new_link):
        """The session for a link whose handshake is done; an older link of it is closed."""
        hello = new_link.hello
        peer = (hello["gateway"], hello["shard"])
        session = self.sessions.get(peer)
        if new_link.stated is not None and self.resume_position(hello) is None:
            raise ConnectionError("the session changed during the handshake")
        if session and session.link:
            self.drop(session.link, "another connection carries the session now")
        if new_link.stated is None:
            if session:
                session.end()
            session = self.sessions[peer] = Session(self.app)
        what = "resumed" if new_link.stated is not None else "new session"
        log(f"shard {hello['shard']} of gateway {hello['gateway'].hex()[:8]}: {what}")
        return session

    def run(self, listener):
        listener.setblocking(False)
        self.selector.register(listener, selectors.EVENT_READ)
        while not self.may_leave():
            if self.drain_requested and not self.draining:
                self.drain()
            for key, events in self.selector.select(timeout=0.2 if self.draining else 1):
                if key.data is None:
                    self.accept(listener)
                elif key.data in self.links:
                    self.attempt(key.data, key.data.on_readable if events & selectors.EVENT_READ
                                 else key.data.flush)
            now = time.monotonic()
            for each in list(self.links):
                self.attempt(each, each.tick, now)
            for peer, session in list(self.sessions.items()):
                if session.detached_at and now - session.detached_at > session.session_s:
                    session.end()
                    del self.sessions[peer]

    def accept(self, listener):
        try:
            sock, _ = listener.accept()
        except OSError:
            return
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        new_link = Link(self, sock)
        self.links.add(new_link)
        self.selector.register(sock, selectors.EVENT_READ, new_link)

    def watch(self, each):
        """Waits for room to send only while something is to be sent."""
        if each in self.links:
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if each.to_send else 0)
            self.selector.modify(each.socket, events, each)

    def attempt(self, each, what, *args):
        """Whatever goes wrong with a link ends this TCP connection, and nothing else."""
        try:
            if each in self.links:
                what(*args)
        except BlockingIOError:
            pass
        except (link.LinkError, OSError) as error:
            self.drop(each, error)

    def drop(self, each, why):
        self.links.discard(each)
        self.selector.unregister(each.socket)
        each.socket.close()
        session = each.session
        if session and session.link is each:
            session.link, session.detached_at = None, time.monotonic()
        log(f"link closed: {why}")

    def drain(self):
        """Asks the gateways to move all connections away, and leaves when they have."""
        self.draining, self.drain_until = True, time.monotonic() + DRAIN_S
        for each in list(self.links):
            if each.session:
                each.to_send += link.encode("DRAINING")
                self.attempt(each, each.flush)

    def request_drain(self, *_):
        # Called by a signal, so in the midst of anything: the loop does the rest.
        self.drain_requested = True

    def may_leave(self):
        if not self.draining:
            return False
        busy = any(session.connections or session.kept or session.marks[-1][0] > session.link.announced
                   for session in self.sessions.values() if session.link)
        return not busy or time.monotonic() > self.drain_until


def log(text):
    print(f"worker: {text}", file=sys.stderr, flush=True)


def listen(address, secret):
    """A listening socket on HOST:PORT or unix:PATH."""
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(address.removeprefix("unix:"))
        sock.listen()
        return sock
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    if secret is None and not ipaddress.ip_address(host).is_loopback:
        sys.exit(f"worker: {host} is not a loopback address, so links need a secret: give --secret-file")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, int(port)), family=family)


def read_secret(path):
    """The secret in a file, by the rules of gateway and reference worker."""
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            secret = file.read().rstrip(b"\r\n")
    except OSError as error:
        sys.exit(f"worker: {path} cannot be read: {error.strerror}")
    if mode & 0o002:
        sys.exit(f"worker: {path}: everybody may change it (mode {mode:04o}): chmod 600 {path}")
    if len(secret) < 16:
        sys.exit(f"worker: {path}: the secret has {len(secret)} bytes, 16 are the least")
    if mode & 0o066:
        print(f"worker: {path}: others may read it (mode {mode:04o}); chmod 600 {path}", file=sys.stderr)
    return secret


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--listen", required=True, metavar="ADDRESS:PORT",
                        help="or unix:PATH; port 0 lets the system choose")
    parser.add_argument("--secret-file", help="what gateways must know, 16 bytes at least; trailing line ends do not count")
    args = parser.parse_args()
    secret = None
    if args.secret_file:
        secret = read_secret(args.secret_file)
    try:
        listener = listen(args.listen, secret)
    except (OSError, ValueError) as error:
        sys.exit(f"worker: cannot listen on {args.listen}: {error}")
    worker = Worker(Echo(), secret)
    signal.signal(signal.SIGTERM, worker.request_drain)
    name = listener.getsockname()
    print(f"listening on {name if isinstance(name, str) else f'{name[0]}:{name[1]}'}", flush=True)
    try:
        worker.run(listener)
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
