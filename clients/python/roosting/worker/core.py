"""The worker without I/O: sessions, connections, and the calls of the application's handler.

The shell gives it what an application of this kind has not: `now()`, `random_bytes(n)`, `spawn(awaitable, done)`
for async handlers, `wake()` to ask for a `flush` soon, and `log(text)`.
"""

import collections
import contextvars
import inspect
import traceback

from . import codec
from .clients import GONE, OPEN, OPENING, REJECTED, Client, Directory, Message, Opening, Relay
from .session import Session
from ..edge.codec import REASONS
from ..errors import Closed, Full, TooLong

# A session is kept for so many times its gateway's link_failover_ms (SPEC.md 3.3).
SESSION_FAILOVERS, SESSION_MIN_S = 6, 1.0
SESSIONS_MAX = 4096

# The frame whose handler runs; an async handler and what it starts keep it.
_current = contextvars.ContextVar("the frame that is being handled", default=None)


class Core:
    """All sessions of one worker."""

    def __init__(self, handler, secret, instance, shell, window_bytes, pending_bytes_max):
        self.handler, self.secret, self.instance = handler, secret, instance
        self.window_bytes, self.pending_bytes_max = window_bytes, pending_bytes_max
        self.is_draining = False
        self.sessions = {}  # by (gateway instance, shard)
        self.directory = Directory()
        self._shell = shell
        self._dirty = set()  # sessions that may have something to write or to acknowledge

    def random_bytes(self, count):
        return self._shell.random_bytes(count)

    # --- links come and go (SPEC.md 3.3) ---

    def resume_position(self, hello):
        """From where the session that LINK_HELLO names can go on; None if it cannot."""
        session = self.sessions.get((hello["gateway"], hello["shard"]))
        if session is None or hello["expected_worker"] != self.instance:
            return None
        return session.resume_position(hello["received_position"])

    def attachments(self, hello):
        """How many TCP connections have carried the session that LINK_HELLO names; 0 if there is none."""
        session = self.sessions.get((hello["gateway"], hello["shard"]))
        return session.attachments if session else 0

    def take_session(self, link):
        """The session for a link whose handshake is done; an older link of it is closed."""
        hello = link.hello
        peer = (hello["gateway"], hello["shard"])
        session = self.sessions.get(peer)
        has_changed = self.resume_position(hello) is None or self.attachments(hello) != link.attachments
        if link.stated is not None and has_changed:
            raise codec.LinkError("the session changed during the handshake")
        if session and session.link:
            older = session.link
            self.on_detached(session)
            self._shell.drop(older, "another connection carries the session now")
        if link.stated is None:
            if session:
                self._end(session)
            elif len(self.sessions) >= SESSIONS_MAX:
                raise codec.LinkError(f"{SESSIONS_MAX} sessions are the most")
            session = self.sessions[peer] = Session(*peer)
        what = "resumed" if link.stated is not None else "new session"
        self._shell.log(f"shard {hello['shard']} of gateway {hello['gateway'].hex()[:8]}: {what}")
        self.touch(session)
        return session

    def on_detached(self, session):
        """The session's TCP connection has gone."""
        self.on_acked(session, session.detach(self._shell.now()))

    def on_acked(self, session, affected):
        """The gateway has more of our frames: there is room, and others may acknowledge."""
        self.touch(session)
        for other in affected:
            self.touch(other)

    def expire(self, now):
        """Ends the sessions whose gateways have stayed away for too long."""
        for peer, session in list(self.sessions.items()):
            keep_s = max(SESSION_FAILOVERS * session.hello["link_failover_ms"] / 1000, SESSION_MIN_S)
            if session.link is None and now - session.detached_at > keep_s:
                self._end(session)
                del self.sessions[peer]

    def _end(self, session):
        """All connections of the session end, as if they had moved, each behind what is being handled for it."""
        for other in session.end():
            self.touch(other)
        for connection in list(session.clients):
            frame = {"type": "CLOSED", "connection": connection, "aux": codec.REASON_MOVED, "flags": 0}
            self._begin(session, frame, 0)

    def drain(self):
        """Asks the gateways to move all connections away."""
        self.is_draining = True
        for session in self.sessions.values():
            if session.link:
                session.link.say_draining()
                self.touch(session)

    def has_drained(self):
        """Whether every gateway that is there has all that it needs. One that is away is not waited for."""
        return all(session.is_settled() for session in self.sessions.values() if session.link)

    # --- a gateway's frames ---

    def on_frame(self, session, frame, frame_bytes):
        """A sequenced frame that has not come before."""
        if session.held or self.is_full(session):
            session.held.append((frame, frame_bytes))
            session.held_bytes += frame_bytes
            limit_bytes = self.window_bytes + codec.payload_bytes_max(session.frame_bytes_max)
            if session.held_bytes + session.working_bytes > limit_bytes:
                raise codec.LinkError("the gateway exceeds the window")
        else:
            self._begin(session, frame, frame_bytes)

    def is_full(self, session):
        return session.unsent_bytes > self.pending_bytes_max

    def _begin(self, session, frame, frame_bytes):
        work = session.begin(frame_bytes)
        lane = session.relays if frame["type"] == "RELAY" else session.clients.get(frame["connection"])
        if lane is not None and lane.busy:
            if lane.waiting is None:
                lane.waiting = collections.deque()
            lane.waiting.append((work, frame))
        else:
            self._handle(work, frame, lane)

    def _handle(self, work, frame, lane):
        session, client = work.session, lane if isinstance(lane, Client) else None
        token = _current.set(work)
        try:
            if frame["type"] in ("OPEN", "REOPEN"):
                lane = client = self._arrive(session, frame, client)
            result = self._call(session, frame, client)
            if inspect.isawaitable(result):
                lane.busy = True
                self._shell.spawn(result, lambda error: self._on_async_done(work, frame, lane, error))
            else:
                self._done(work, frame, client, None)
        except Exception as error:  # the application's
            self._done(work, frame, client, error)
        finally:
            _current.reset(token)

    def _on_async_done(self, work, frame, lane, error):
        self._done(work, frame, lane if isinstance(lane, Client) else None, error)
        lane.busy = False
        while lane.waiting and not lane.busy:
            self._handle(*lane.waiting.popleft(), lane)

    def _done(self, work, frame, client, error):
        """The handler has returned."""
        if error is not None:
            self._on_error(frame, client, error)
        if frame["type"] == "CLOSED" and frame["aux"] == codec.REASON_MOVED and not work.session.has_ended:
            self.push(work.session, "MOVED", frame["connection"])
        work.is_running = False
        work.session.finish(work)
        self.touch(work.session)

    def _on_error(self, frame, client, error):
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        self._shell.log(f"the handler of {frame['type']} failed:\n{text}")
        if client is not None and client.state == OPENING:
            client.reject("internal")
        elif client is not None:
            client.close("internal")

    def _arrive(self, session, frame, older):
        """A new connection; one with this id cannot be there, and is replaced if it is."""
        if older is not None:
            self._leave(session, older)
        client = session.clients[frame["connection"]] = Client(self, session, frame)
        if frame["type"] == "REOPEN":
            client.state = OPEN
            self.on_present(client)
        return client

    def _leave(self, session, client):
        if client.state == OPEN:
            self.on_absent(client)
        client.state = GONE
        if session.clients.get(client.id) is client:
            del session.clients[client.id]

    def _call(self, session, frame, client):
        """Calls the handler; what it returns may be awaitable."""
        kind, flags = frame["type"], frame["flags"]
        resent = bool(flags & codec.FLAG_RESENT)
        if kind == "DATA":
            if client is not None and client.state == OPEN:
                message = Message(frame["message"], resent, bool(flags & codec.FLAG_TEXT))
                return self.handler.on_message(client, message)
        elif kind in ("OPEN", "REOPEN"):
            moved = kind == "REOPEN"
            opening = Opening(
                moved, frame["session"] if moved else 0, frame.get("key", b""), frame.get("token", b""),
                frame.get("peer"), frame.get("meta", b""), resent)
            return self.handler.on_open(client, opening)
        elif kind == "CLOSED":
            if client is not None:
                was_rejected = client.state == REJECTED
                self._leave(session, client)
                if not was_rejected:
                    return self.handler.on_close(client, REASONS.get(frame["aux"], "internal"))
        elif kind == "RELAY":
            return self.handler.on_relay(Relay(self, session, frame))
        return None

    # --- sending ---

    def admit(self, session):
        """Raises Full unless the session's queue takes more. For the link whose frame is being handled it does: that
        link's frames wait while its queue is full."""
        if session.has_ended:
            raise Closed("the gateway has gone")
        work = _current.get()
        if (work is None or not work.is_running or work.session is not session) and self.is_full(session):
            raise Full("the link's queue is full")

    def push(self, session, kind, connection=0, aux=0, flags=0, /, **fields):
        """Queues a sequenced frame with these fields of its payload, of which one may be called as a parameter."""
        if session.has_ended:
            return
        session.push(codec.encode_frame({"type": kind, "connection": connection, "aux": aux, "flags": flags, **fields}))
        work = _current.get()
        if work is not None and work.is_running and work.session is not session:
            work.sent = work.sent or {}
            work.sent[session] = session.queued()
        self.touch(session)

    def multicast(self, clients, payload, text):
        """Returns for how many clients it was queued: the open ones, whose gateway takes it and has room."""
        by_session = {}
        for client in dict.fromkeys(clients):
            if client.state == OPEN:
                by_session.setdefault(client._link, []).append(client.id)
        queued = 0
        for session, ids in by_session.items():
            if not self._takes(session, payload):
                continue
            room_bytes = codec.payload_bytes_max(session.frame_bytes_max) - 4 - len(codec.message(payload))
            per_frame = room_bytes // 8
            for at in range(0, len(ids), per_frame):
                self.push(session, "MULTICAST", 0, 0, codec.FLAG_TEXT if text else 0, ids=ids[at:at + per_frame],
                          message=payload)
            queued += len(ids)
        return queued

    def broadcast(self, payload, all_workers, text):
        """Returns over how many links it was queued."""
        flags = (codec.FLAG_ALL if all_workers else 0) | (codec.FLAG_TEXT if text else 0)
        queued = 0
        for session in self.sessions.values():
            if self._takes(session, payload):
                self.push(session, "BROADCAST", 0, 0, flags, message=payload)
                queued += 1
        return queued

    def _takes(self, session, payload):
        try:
            self.admit(session)
        except (Full, Closed):
            return False
        return len(payload) <= session.frame_bytes_max

    def relay(self, routing_hash, payload, to_all):
        """By way of the gateway whose frame is being handled, else of the first that is there."""
        work = _current.get()
        session = work.session if work is not None and not work.session.has_ended else None
        if session is None:
            session = next((each for each in self.sessions.values() if each.link), None)
        if session is None:
            raise Closed("no gateway is there")
        self.send_relay(session, routing_hash, payload, codec.FLAG_ALL if to_all else 0, 0)

    def send_relay(self, session, routing_hash, payload, flags, origin):
        if 8 + len(payload) > codec.payload_bytes_max(session.frame_bytes_max):
            raise TooLong("the payload exceeds what a link takes")
        self.admit(session)
        self.push(session, "RELAY", origin, 0, flags, routing_hash=routing_hash, payload=payload)

    # --- presence ---

    def on_present(self, client):
        if self.directory.add(client):
            self._tell_presence(client.routing_hash, True)

    def on_absent(self, client):
        if self.directory.remove(client):
            self._tell_presence(client.routing_hash, False)

    def _tell_presence(self, routing_hash, is_here):
        try:
            self.handler.on_presence(routing_hash, is_here)
        except Exception:
            self._shell.log(f"on_presence failed:\n{traceback.format_exc()}")

    # --- writing ---

    def touch(self, session):
        """The session may have something to write or to acknowledge."""
        self._dirty.add(session)
        self._shell.wake()

    def flush(self):
        """Handles what was held, marks what is done, and writes it to the links. Returns the links to be carried."""
        links = []
        while self._dirty:
            session = self._dirty.pop()
            if session.link:
                session.link.flush()
            while session.held and not self.is_full(session):
                frame, frame_bytes = session.held.popleft()
                session.held_bytes -= frame_bytes
                self._begin(session, frame, frame_bytes)
                session.link.flush()
            session.mark()
            if session.link:
                session.link.flush()
                links.append(session.link)
            self._dirty.discard(session)
        return links
