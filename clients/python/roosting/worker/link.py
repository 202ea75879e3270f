"""One TCP connection of a gateway shard: frames, handshake, window (SPEC.md 3.1 to 3.4, 3.7); no I/O, no clock.

Bytes go in by `receive`; bytes to write gather in `out`. Times are seconds of any clock that does not
go back. LinkError says that the connection must be closed, Refused with what `out` holds by then.
"""

from . import codec

HANDSHAKE_S, KEEPALIVE_S = 10.0, 10.0
# PONGs that wait for a gateway which takes nothing: who asks more is not served.
CONTROL_BYTES_MAX = 1 << 20
FROM_GATEWAY = frozenset(("OPEN", "REOPEN", "DATA", "CLOSED", "RELAY"))


class Refused(codec.LinkError):
    """The handshake is refused, and LINK_REFUSE says so."""


class Link:
    """Gives each sequenced frame to the core once, and sends what the session keeps within the window."""

    def __init__(self, core, now):
        self.out = bytearray()
        self.session = None  # once the handshake is done
        self.announced = 0  # the last ACK sent
        self._core, self._received = core, bytearray()
        self._expects = "LINK_HELLO"  # None once the handshake is done
        self._began_at = self._heard_at = now
        self._was_pinged = False
        self._keepalive_s = KEEPALIVE_S

    # --- bytes in ---

    def receive(self, data, now):
        """Takes bytes as they came."""
        self._heard_at, self._was_pinged = now, False
        self._received += data
        at = 0
        try:
            while whole := self._split(at):
                at += codec.HEADER_BYTES + len(whole[1])
                self._on_frame(*whole)
        finally:
            del self._received[:at]

    def _split(self, at):
        limit = codec.HANDSHAKE_BYTES_MAX if self._expects else codec.payload_bytes_max(self.session.frame_bytes_max)
        try:
            with memoryview(self._received) as view, view[at:] as rest:
                return codec.split(rest, limit)
        except codec.LinkError:
            if self._expects:
                self._refuse(4)
            raise

    def _on_frame(self, header, payload):
        if self._expects:
            self._on_handshake(header, payload)
            return
        session = self.session
        frame = codec.decode_frame(header, payload, session.frame_bytes_max)
        kind = frame["type"]
        if codec.is_sequenced(kind):
            if kind not in FROM_GATEWAY:
                raise codec.LinkError(f"{kind} from a gateway")
            self._position_in += 1
            # Frames below were begun on an earlier TCP connection: see Session.resume_position. They only count.
            self._core.touch(session)
            if self._position_in > session.begun + len(session.held):
                self._core.on_frame(session, frame, codec.HEADER_BYTES + len(payload))
        elif kind == "ACK":
            self._core.on_acked(session, session.on_ack(frame["position"]))
        elif kind == "PING":
            if len(self.out) > self._window_bytes + CONTROL_BYTES_MAX:
                raise codec.LinkError("the gateway takes nothing")
            self.out += codec.encode("PONG", frame["payload"])
        elif kind != "PONG":
            raise codec.LinkError(f"{kind} from a gateway")

    # --- handshake (SPEC.md 3.2, 3.3) ---

    def _on_handshake(self, header, payload):
        if header["type"] == "LINK_REFUSE":
            raise codec.LinkError(f"the gateway refuses: {codec.REFUSALS.get(header['aux'], codec.REFUSALS[4])}")
        try:
            if header["type"] != self._expects:
                raise codec.LinkError("malformed")
            frame = codec.decode_frame(header, payload, 0)
            if self._expects == "LINK_HELLO":
                self._on_hello(frame, payload)
            else:
                self._on_proof(frame)
        except Refused:
            raise
        except codec.LinkError as error:
            self._refuse(1 if error.args[0] == "version" else 4)

    def _on_hello(self, frame, payload):
        if frame["window_bytes"] < frame["frame_bytes_max"] + 32:
            raise codec.LinkError("malformed")
        self.hello, self._hello_payload = frame, payload
        self.stated, self.attachments = self._core.resume_position(frame), self._core.attachments(frame)
        self._proven = codec.encode_welcome_proven({
            "resumed": self.stated is not None, "window_bytes": self._core.window_bytes,
            "worker": self._core.instance, "nonce": self._core.random_bytes(16),
            "received_position": self.stated or 0, "capabilities": 0,
        })
        secret, proof = self._core.secret, None
        if secret is not None:
            proof = codec.prove(secret, "worker", payload, self._proven)
        self.out += codec.encode("LINK_WELCOME", self._proven + codec.encode_proof(proof))
        self._expects = "LINK_PROOF"

    def _on_proof(self, frame):
        secret, proof = self._core.secret, frame["proof"]
        if secret is not None:
            if proof is None:
                self._refuse(2)
            if not codec.verify(secret, "gateway", self._hello_payload, self._proven, proof):
                self._refuse(3)
        self._attach()

    def _attach(self):
        """The gateway has proved itself: this TCP connection carries the session from now on."""
        hello, stated = self.hello, self.stated
        session = self._core.take_session(self)
        received = hello["received_position"] if stated is not None else 0
        self.session, self._expects = session, None
        self._window_bytes = hello["window_bytes"]
        if hello["link_keepalive_ms"]:
            self._keepalive_s = hello["link_keepalive_ms"] / 1000
        self._position_in = self.announced = stated or 0  # of the gateway's frames
        self._core.on_acked(session, session.attach(self, hello, received))
        # It tells the gateway that LINK_PROOF was accepted: the link is up.
        self.out += codec.encode("ACK", self.announced.to_bytes(8, "big"))
        if self._core.is_draining:
            self.say_draining()

    def _refuse(self, code):
        self.out += codec.encode("LINK_REFUSE", aux=code)
        raise Refused(f"handshake refused: {codec.REFUSALS[code]}")

    # --- bytes out ---

    def say_draining(self):
        self.out += codec.encode("DRAINING")

    def flush(self):
        """Writes what may be sent: own frames within the gateway's window, then the ACK for what they answer."""
        session = self.session
        while frame := session.next_to_send(self._window_bytes):
            self.out += frame
        position_out = session.position_out()
        for done, queued in reversed(session.marks):
            if done <= self.announced:
                break
            if queued <= position_out and done <= self._position_in:
                self.announced = done
                self.out += codec.encode("ACK", done.to_bytes(8, "big"))
                break

    # --- time ---

    def tick(self, now):
        """To be called now and then, after what has come was received."""
        silent_s = now - self._heard_at
        if self._expects:
            if now - self._began_at > HANDSHAKE_S:
                raise codec.LinkError(f"the handshake takes too long: no {self._expects}")
        elif silent_s > 2 * self._keepalive_s:
            raise codec.LinkError("the gateway is silent")
        elif silent_s > self._keepalive_s and not self._was_pinged:
            self._was_pinged = True
            self.out += codec.encode("PING")
