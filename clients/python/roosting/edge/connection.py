"""One TCP connection of a client: carries bytes, clock and timers to the session without I/O."""

import asyncio
import dataclasses
import os

from . import codec
from .session import Silent

READ_BYTES = 65536


@dataclasses.dataclass(slots=True)
class Outcome:
    """How an attempt ended."""

    reason: str
    text: str = ""
    code: int = 0
    retry_after_ms: int = 0
    alternative: str = ""
    open_for_s: float = 0.0
    is_clean: bool = False  # FIN came after CLOSE


class Connection(asyncio.Protocol):
    """Tells its owner: `on_connected(self)`, `on_frame(kind, what)` for what the session says, `on_writable()`;
    and asks it: `is_full()`."""

    def __init__(self, owner, make_session):
        self.loop = asyncio.get_running_loop()
        self.ended = self.loop.create_future()  # an Outcome, once TCP is gone
        self.session = None
        self.is_paused = False  # TCP takes nothing
        self._owner, self._make_session = owner, make_session
        self._outcome = self._timer = self._opened_at = None
        self._reads = True

    # --- what asyncio calls ---

    def connection_made(self, transport):
        self.transport = transport
        self._socket = transport.get_extra_info("socket")
        self.session = self._make_session(self.loop.time())
        self._owner.on_connected(self)
        self.flush()

    def data_received(self, data):
        now = self.loop.time()
        try:
            for kind, what in self.session.receive(data, now):
                if kind == "WELCOME":
                    self._opened_at = now
                elif kind == "GOAWAY":
                    self._on_goaway(what)
                self._owner.on_frame(kind, what)
        except codec.FrameError as error:
            self.end("protocol", error.args[0])
        if self._reads and self._owner.is_full():
            self._reads = False
            self.transport.pause_reading()
        self.flush()
        self._arm()

    def eof_received(self):
        # There is no half-open state (SPEC.md 1.6): asyncio closes our side.
        self._outcome = self._outcome or self._at_eof()

    def connection_lost(self, error):
        if self._timer:
            self._timer.cancel()
        if error is not None and self._outcome is None:
            self._read_last_words()
        if self._outcome is None:
            self._outcome = Outcome("reset", str(error)) if error else self._at_eof()
        if self._opened_at is not None:
            self._outcome.open_for_s = self.loop.time() - self._opened_at
        if not self.ended.done():
            self.ended.set_result(self._outcome)

    def pause_writing(self):
        self.is_paused = True

    def resume_writing(self):
        self.is_paused = False
        self.flush()
        self._owner.on_writable()

    # --- what the owner calls ---

    def flush(self):
        """Hands what the session wrote to TCP. What TCP does not take now waits, bounded."""
        if self.session.out and not self.is_paused and not self.transport.is_closing():
            data = bytes(self.session.out)
            self.session.out.clear()
            self.transport.write(data)

    def read_again(self):
        """The owner has room again."""
        if not self._reads:
            self._reads = True
            # What came meanwhile was not read: that is no silence of the gateway.
            self.session.heard(self.loop.time())
            self.transport.resume_reading()

    def end(self, reason, text=""):
        """Closes for a reason of our own, unless it has ended already."""
        self._outcome = self._outcome or Outcome(reason, text)
        self.transport.abort()

    # --- below: details ---

    def _at_eof(self):
        return Outcome("closed", is_clean=True) if self.session.is_closing else Outcome("eof")

    def _on_goaway(self, frame):
        alternative = frame["alternative"].decode(errors="replace")
        self._outcome = Outcome(frame["reason"], frame["text"], frame["code"], frame["retry_after_ms"], alternative)
        self.transport.close()

    def _read_last_words(self):
        """Writing failed: what the gateway said before it closed is likely still there (SPEC.md 1.2).

        asyncio reads nothing more, but the socket is open until this returns. TLS cannot be read so.
        """
        if self.transport.get_extra_info("sslcontext"):
            return
        try:
            while self._outcome is None and (data := os.read(self._socket.fileno(), READ_BYTES)):
                for kind, what in self.session.receive(data, self.loop.time()):
                    if kind == "GOAWAY":
                        self._on_goaway(what)
                    self._owner.on_frame(kind, what)
        except (OSError, codec.FrameError):
            pass

    def _arm(self):
        """Sets the timer for the heartbeat. One that is there may fire early, and is set again."""
        due_at = self.session.tick_at()
        if due_at is not None and self._timer is None and not self.transport.is_closing():
            self._timer = self.loop.call_at(due_at, self._tick)

    def _tick(self):
        # asyncio reads what has come before it runs timers: a process that was stopped first hears, then judges.
        self._timer, now = None, self.loop.time()
        if not self._reads:
            self.session.heard(now)
        try:
            self.session.tick(now)
        except Silent as silent:
            self.end(silent.args[0])
            return
        self.flush()
        self._arm()
