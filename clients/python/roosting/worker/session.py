"""What of a link outlives its TCP connections (SPEC.md 3.3 to 3.5); no I/O, no clock.

Positions count sequenced frames per direction, from the session's first. Of the gateway's frames the
handling of `begun` has begun and of the first `done` it is complete: only these are acknowledged.
"""

import collections

from . import codec


class Work:
    """A frame of the gateway that is being handled."""

    __slots__ = ("session", "position", "frame_bytes", "left", "is_running", "sent")

    def __init__(self, session, position, frame_bytes):
        self.session, self.position, self.frame_bytes = session, position, frame_bytes
        self.left = 1  # what it still waits for: its handler, and acknowledgements of other links
        self.is_running = True  # its handler, that is
        self.sent = None  # other sessions that it sent to: the position there


class Lane:
    """What must be handled in order: the frames of a connection (`Client` is one, too), or the RELAYs of a link."""

    __slots__ = ("busy", "waiting")

    def __init__(self):
        self.busy = False  # an async handler runs
        self.waiting = None  # the frames behind it


class Session:
    """Counts, and keeps what has to be sent again."""

    def __init__(self, gateway, shard):
        self.gateway, self.shard = gateway, shard
        self.hello = {}  # the gateway's latest LINK_HELLO
        self.clients = {}  # by connection id
        self.relays = Lane()
        self.link = None  # the TCP connection, if there is one
        self.attachments = 0  # TCP connections that have carried it
        self.detached_at = None
        self.has_ended = False

        self.begun = self.done = 0
        self.working_bytes = 0  # of frames begun and not complete
        self._working = collections.deque()  # those frames, in order
        self.held, self.held_bytes = collections.deque(), 0  # received on this TCP connection and not begun

        self.acked = 0  # own frames that the gateway has acknowledged
        # Own frames behind those are kept: sent on this TCP connection, or not yet.
        self._in_flight, self.in_flight_bytes = collections.deque(), 0
        self._unsent, self.unsent_bytes = collections.deque(), 0
        self.sent = 0  # own frames sent on any TCP connection
        # (done, queued): how many frames were handled, and how many own frames were queued by then. They tell
        # when an ACK may go out, and from where a resume can go on. The first one is settled: the gateway has
        # all that belongs to it.
        self.marks = collections.deque([(0, 0)])
        self._waiting = collections.deque()  # (own position, work of another session): until it is acknowledged

    @property
    def frame_bytes_max(self):
        return self.hello["frame_bytes_max"]

    # --- handling ---

    def begin(self, frame_bytes):
        """The next frame is about to be handled; `finish` must follow."""
        self.begun += 1
        work = Work(self, self.begun, frame_bytes)
        self._working.append(work)
        self.working_bytes += frame_bytes
        return work

    def finish(self, work):
        """One of the things that a frame waits for has happened."""
        work.left -= 1
        if work.left == 0 and work.sent:
            self._await_others(work)
        while self._working and self._working[0].left == 0:
            ready = self._working.popleft()
            self.done = ready.position
            self.working_bytes -= ready.frame_bytes

    def _await_others(self, work):
        """What was sent over other links counts once their gateways have it (SPEC.md 3.4)."""
        sent, work.sent = work.sent, None
        for other, position in sent.items():
            if other.link is not None and other.acked < position:
                work.left += 1
                other._waiting.append((position, work))

    def _settle(self, position):
        """Others need not wait any more for own frames up to here. Returns the sessions that are affected."""
        affected = set()
        while self._waiting and self._waiting[0][0] <= position:
            work = self._waiting.popleft()[1]
            work.session.finish(work)
            affected.add(work.session)
        return affected

    def mark(self):
        """All that is done may be acknowledged once what is queued now has been sent."""
        done, queued = self.marks[-1]
        if done == self.done:
            return
        if queued == self.queued():
            self.marks.pop()  # one mark for each number of own frames is enough
        self.marks.append((self.done, self.queued()))

    def resume_position(self, received):
        """What LINK_WELCOME states if the gateway has received so many of our frames; None if the session cannot
        go on from there."""
        if not self.acked <= received <= self.sent:
            return None
        return max(done for done, queued in self.marks if queued <= received)

    # --- sending ---

    def push(self, frame):
        """Queues a whole sequenced frame. It is kept until it is acknowledged."""
        self._unsent.append(frame)
        self.unsent_bytes += len(frame)

    def next_to_send(self, window_bytes):
        """The next frame that the gateway's window allows, which counts as sent; None if there is none."""
        if not self._unsent:
            return None
        frame_bytes = len(self._unsent[0])
        if self._in_flight and self.in_flight_bytes + frame_bytes > window_bytes:
            return None
        frame = self._unsent.popleft()
        self.unsent_bytes -= frame_bytes
        self._in_flight.append(frame)
        self.in_flight_bytes += frame_bytes
        self.sent = max(self.sent, self.position_out())
        return frame

    def position_out(self):
        """Own frames that need not be sent on this TCP connection any more."""
        return self.acked + len(self._in_flight)

    def queued(self):
        """Own frames queued since the session began."""
        return self.acked + len(self._in_flight) + len(self._unsent)

    def on_ack(self, position):
        """The gateway has handled that many of our frames. Returns the sessions that may acknowledge more now."""
        if not self.acked <= position <= self.position_out():
            raise codec.LinkError("an ACK out of range")
        while self.acked < position:
            self.in_flight_bytes -= len(self._in_flight.popleft())
            self.acked += 1
        while len(self.marks) > 1 and self.marks[1][1] <= self.acked:
            self.marks.popleft()
        return self._settle(self.acked)

    # --- its TCP connection ---

    def attach(self, link, hello, received):
        """A TCP connection carries the session; its gateway has `received` of our frames. Returns as `on_ack`."""
        self.link, self.hello, self.detached_at = link, hello, None
        self.attachments += 1
        for _ in range(received - self.acked):
            frame = self._unsent.popleft()
            self.unsent_bytes -= len(frame)
            self._in_flight.append(frame)
            self.in_flight_bytes += len(frame)
        return self.on_ack(received)

    def detach(self, now):
        """TCP has gone. Own frames that were not acknowledged are sent again; frames that were not begun come
        again. Returns the sessions that are affected."""
        self.link, self.detached_at = None, now
        self._unsent.extendleft(reversed(self._in_flight))
        self.unsent_bytes += self.in_flight_bytes
        self._in_flight.clear()
        self.in_flight_bytes = 0
        self.held.clear()
        self.held_bytes = 0
        return self._settle(self.queued())

    def end(self):
        """The session is over: what was kept goes to nobody. Returns the sessions that are affected."""
        self.has_ended = True
        self._in_flight.clear()
        self._unsent.clear()
        self.in_flight_bytes = self.unsent_bytes = 0
        self.held.clear()
        self.held_bytes = 0
        return self._settle(float("inf"))

    def is_settled(self):
        """Whether the gateway has all that there is, and knows that we have all of its."""
        return (not self.clients and self.queued() == self.acked and not self._working and not self.held
                and self.link is not None and self.done == self.link.announced)
