"""The connections of clients, as an application sees them."""

import dataclasses

from . import codec
from ..edge.codec import REASON_CODES
from ..errors import Closed, TooLong

OPENING, OPEN, REJECTED, CLOSING, GONE = "opening", "open", "rejected", "closing", "gone"
# "-" in SPEC.md's table of close reasons.
NOT_FOR_CLIENTS = frozenset((
    "client_closed", "client_eof", "client_reset", "client_vanished", "slow_consumer", "moved", "write_error"))
FRAMINGS = ("edge", "websocket", "mqtt", "frames")


@dataclasses.dataclass(frozen=True, slots=True)
class Opening:
    """How a connection came here."""

    moved: bool  # another worker had it, or another session: it is open, and only `session` is known of it
    session: int  # the reference that the other worker accepted it with; 0 for a new one
    key: bytes  # of HELLO; empty for a moved one
    token: bytes
    peer: tuple | None  # (address, port) of the client, if it has one
    meta: bytes  # lines `name: value` about the client's request or certificate; empty for plain edge listeners
    resent: bool  # another worker may have seen it before


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """What a client said."""

    payload: bytes
    resent: bool  # another worker, or another session, may have handled it before
    text: bool  # the client marked it as UTF-8 text; never for the edge protocol


class Relay:
    """What a worker said to whoever serves a key, or to all workers."""

    __slots__ = ("routing_hash", "payload", "resent", "is_answer", "_core", "_session", "_origin")

    def __init__(self, core, session, frame):
        self.routing_hash, self.payload = frame["routing_hash"], frame["payload"]
        self.resent = bool(frame["flags"] & codec.FLAG_RESENT)
        self.is_answer = bool(frame["flags"] & codec.FLAG_DIRECT)
        self._core, self._session, self._origin = core, session, frame["connection"]

    def answer(self, payload):
        """Sends a payload back to the worker's session that this came from. Raises Full, Closed, TooLong.

        It is lost when that session is gone.
        """
        self._core.send_relay(self._session, self.routing_hash, payload, codec.FLAG_DIRECT, self._origin)


class Client:
    """One client's connection. Its methods must be called on the worker's thread; see `Handle` for others.

    `data` is the application's own; `busy` and `waiting` are the core's.
    """

    __slots__ = ("id", "key", "routing_hash", "session", "framing", "listener", "state", "data",
                 "_core", "_link", "busy", "waiting")

    def __init__(self, core, link, frame):
        self.id = frame["connection"]
        self.key = frame.get("key")  # None for a moved one: the session reference says who it is
        self.routing_hash = frame["routing_hash"]
        self.session = frame.get("session")  # the reference it was accepted with
        self.framing = FRAMINGS[frame["framing"]]
        self.listener = frame["aux"]  # the gateway's index of it
        self.state = OPENING
        self.data = None
        self._core, self._link = core, link
        self.busy, self.waiting = False, None  # see Lane

    def __repr__(self):
        return f"<Client {self.id:#x} {self.state} key={self.key!r} session={self.session}>"

    @property
    def is_open(self):
        return self.state == OPEN

    @property
    def gateway(self):
        """The gateway's instance: connection ids are unique within it."""
        return self._link.gateway

    @property
    def message_bytes_max(self):
        return self._link.frame_bytes_max

    def accept(self, session=None, routing_hash=None, subprotocol=None):
        """Opens the session of a client that asked for one; messages may follow at once.

        `session`: all that another worker will know of it, so it must mean the same to every worker; the routing
        hash if it is left out. `routing_hash`: the connection belongs to this key from now on (see
        `codec.routing_hash`), and moves if another worker owns it. `subprotocol`: 1 to 64 bytes of an ASCII token,
        for WebSocket. Does nothing if the client has gone or has been answered.
        """
        if self.state != OPENING:
            return
        self.session = self.routing_hash if session is None else session
        if subprotocol is not None and routing_hash is None:
            routing_hash = self.routing_hash  # the layout wants it
        frame = {"session": self.session, "routing_hash": routing_hash, "subprotocol": subprotocol}
        self._core.push(self._link, "ACCEPT", self.id, **frame)
        if routing_hash is not None:
            self.routing_hash = routing_hash
        self.state = OPEN
        self._core.on_present(self)

    def reject(self, reason=None, retry_after_ms=0, code=0, text=""):
        """Refuses a client that asked for a session; `on_close` is not called for it.

        `reason`: the label of a close reason that a client can be told; None is `worker_rejected`. `retry_after_ms`:
        when to come back; 0: no advice. `code`: 0, or 4000 to 4999. `text`: at most 117 bytes of UTF-8. Does nothing
        if the client has gone or has been accepted. Raises ValueError or KeyError for what cannot be told.
        """
        if self.state == OPENING:
            self._end("REJECT", reason, retry_after_ms, code, text)
            self.state = REJECTED

    def send(self, payload, text=False):
        """Sends a message. `text` marks it as UTF-8 text, where the client's framing has such a mark.

        Raises Closed if the connection is not open, TooLong beyond `message_bytes_max`, and Full if too much waits
        for its gateway; a reply to the frame that is being handled, on the same link, is always taken.
        """
        if self.state != OPEN:
            raise Closed(f"the connection is {self.state}")
        if len(payload) > self._link.frame_bytes_max:
            raise TooLong(f"the gateway takes {self._link.frame_bytes_max} bytes")
        self._core.admit(self._link)
        self._core.push(self._link, "DATA", self.id, 0, codec.FLAG_TEXT if text else 0, message=payload)

    def close(self, reason=None, retry_after_ms=0, code=0, text=""):
        """Ends the connection; `on_close` follows when the gateway has done it. Fields as in `reject`, where no
        reason is `worker_closed`. Does nothing unless it is open."""
        if self.state == OPEN:
            self._end("CLOSE", reason, retry_after_ms, code, text)
            self._core.on_absent(self)
            self.state = CLOSING

    def _end(self, kind, reason, retry_after_ms, code, text):
        if reason in NOT_FOR_CLIENTS:
            raise ValueError(f"a client cannot be told {reason}")
        if code and not 4000 <= code <= 4999:
            raise ValueError(f"a close code is 0 or from 4000 to 4999, not {code}")
        if len(text.encode()) > 117:
            raise ValueError("a close text has at most 117 bytes")
        aux = REASON_CODES[reason] if reason else 0
        self._core.push(self._link, kind, self.id, aux, retry_after_ms=retry_after_ms, code=code, text=text)


class Directory:
    """The open connections by routing hash, oldest first."""

    def __init__(self):
        self._by_hash = {}
        self.total = 0

    def add(self, client):
        """True: it is the first one of its key."""
        clients = self._by_hash.setdefault(client.routing_hash, {})
        clients[client] = None
        self.total += 1
        return len(clients) == 1

    def remove(self, client):
        """True: it was the last one of its key."""
        clients = self._by_hash[client.routing_hash]
        del clients[client]
        self.total -= 1
        if not clients:
            del self._by_hash[client.routing_hash]
        return not clients

    def find(self, routing_hash):
        return list(self._by_hash.get(routing_hash, ()))

    def hashes(self):
        return self._by_hash.keys()
