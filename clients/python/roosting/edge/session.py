"""One session of a client on one TCP connection (SPEC.md 1.1 to 1.4); no I/O, no clock, no randomness.

Bytes go in by `receive`; bytes to write gather in `out`. Times are seconds of any clock that does
not go back.
"""

from . import codec
from .rate import Rate

# PONGs that wait for a gateway which takes nothing: beyond that PINGs stay unanswered.
CONTROL_BYTES_MAX = 4096


class Silent(Exception):
    """The gateway is taken for dead; args[0] is a local reason."""


class Session:
    """HELLO, messages both ways, heartbeat, CLOSE."""

    def __init__(self, key, token, now, first_beat):
        """`first_beat`, from 0 to 1: after which part of the interval the first heartbeat comes, so that
        clients that came together do not beat together."""
        self.out = bytearray()
        self.welcome = None  # WELCOME's frame, once it has come
        self.goaway = None  # GOAWAY's frame, once it has come
        self._decoder = codec.Decoder()
        self._first_beat = first_beat
        self._rate = None
        self._interval_s = self._idle_timeout_s = 0.0
        self._spoke_at = self._heard_at = now
        self._pinged_at = None  # when the last PING went out, if nothing has been heard since
        self.is_closing = False
        self._put({"type": "HELLO", "key": key, "token": token}, now)

    # --- what comes ---

    def receive(self, data, now):
        """Takes bytes as they came; yields ("WELCOME", frame), ("MESSAGE", payload) and ("GOAWAY", frame).

        Raises FrameError where the gateway breaks the protocol.
        """
        self.heard(now)
        if self.goaway:  # nothing counts behind it
            return
        for kind, payload in self._decoder.feed(data):
            frame = codec.decode_payload(kind, payload)
            if kind == "PING":
                if len(self.out) < CONTROL_BYTES_MAX and not self.is_closing:
                    self._put({"type": "PONG", "payload": payload}, now)
            elif kind == "MESSAGE" and self.welcome:
                yield kind, payload
            elif kind == "WELCOME" and not self.welcome:
                self._opened(frame, now)
                yield kind, frame
            elif kind == "GOAWAY":
                self.goaway = frame
                yield kind, frame
                return
            elif kind != "PONG":
                raise codec.FrameError("unexpected_frame")

    def heard(self, now):
        """The gateway lives; also said when it could not be heard for a reason of our own."""
        self._heard_at, self._pinged_at = now, None

    def _opened(self, frame, now):
        self.welcome = frame
        # Its limit holds from the very next frame on.
        self._decoder.frame_bytes_max = frame["frame_bytes_max"]
        self._rate = Rate(frame["messages_per_s_max"], now)
        self._idle_timeout_s = frame["idle_timeout_ms"] / 1000
        self._interval_s = frame["heartbeat_interval_ms"] / 1000
        if self._idle_timeout_s:
            self._interval_s = min(self._interval_s, self._idle_timeout_s / 2)
        self._spoke_at = now - self._first_beat * self._interval_s

    # --- what goes ---

    def send(self, payload, now):
        """Writes a message; False: the rate does not allow it yet (`send_wait_s` says how long).

        The caller sees to it that the session is open and the payload within `frame_bytes_max`.
        """
        if not self._rate.take(now):
            return False
        self._put({"type": "MESSAGE", "payload": payload}, now)
        return True

    def send_wait_s(self):
        return self._rate.wait_s()

    def close(self, now):
        """Writes CLOSE; nothing may follow."""
        if not self.is_closing:
            self._put({"type": "CLOSE", "code": None}, now)
            self.is_closing = True

    def _put(self, frame, now):
        self.out += codec.encode(frame)
        self._spoke_at = now

    # --- the heartbeat ---

    def tick(self, now):
        """Writes a PING if one is due. Raises Silent if the gateway is dead."""
        if not self._interval_s or self.is_closing:
            return
        if self._idle_timeout_s and now - max(self._spoke_at, self._heard_at) > self._idle_timeout_s:
            # Only a process that was stopped says nothing for so long, and the gateway has closed.
            raise Silent("stopped")
        if self._pinged_at is not None and now - self._pinged_at >= self._interval_s:
            raise Silent("silent")
        # Who only sends, and hears nothing, asks, too: TCP alone notices a dead gateway after minutes.
        unheard = self._pinged_at is None and now - self._heard_at >= self._interval_s
        if unheard or now - self._spoke_at >= self._interval_s:
            self._put({"type": "PING", "payload": b""}, now)
            self._pinged_at = now if self._pinged_at is None else self._pinged_at

    def tick_at(self):
        """When `tick` has something to do; None: never."""
        if not self._interval_s or self.is_closing:
            return None
        waits_since = self._heard_at if self._pinged_at is None else self._pinged_at
        return min(self._spoke_at, waits_since) + self._interval_s
